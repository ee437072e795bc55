//! Networks that predict all views of a scene together.

use std::fmt;

use candle_core::Tensor;

use crate::geometry::Camera;
use crate::views::View;
use crate::{Error, Result};

/// A network that takes all views of a scene at once and predicts a camera and a depth map of each.
///
/// `network::Model::joint` makes a model of one, which reconstructs like any
/// other.
pub trait JointNetwork: fmt::Debug + Send + Sync {
    /// Predicts `views`: one prediction for each, in order.
    ///
    /// # Errors
    /// Of views that the network does not take; of the device.
    fn predict(&self, views: &[View]) -> Result<Vec<ViewPrediction>>;

    /// As [`JointNetwork::predict`], with the camera of each view given, at the view's size. The
    /// predictions have these cameras, and depths in their unit.
    ///
    /// # Errors
    /// [`Error::Usage`] of a network that takes no cameras; else as [`JointNetwork::predict`].
    fn predict_posed(&self, views: &[View], cameras: &[Camera]) -> Result<Vec<ViewPrediction>> {
        let _ = (views, cameras);
        Err(Error::Usage(
            "this network takes no known cameras; leave them out".into(),
        ))
    }

    /// How many views of `size`, width and height, are predicted in so many bytes of memory besides
    /// those of the weights. More are predicted in groups that share views: of views that are alike
    /// by their [descriptors](JointNetwork::descriptor).
    fn most_views(&self, size: [u32; 2], bytes: u64) -> usize {
        let _ = (size, bytes);
        usize::MAX
    }

    /// A vector that points in similar directions for views that show the same, of one length for
    /// all views; by default there is none, and groups follow the order of the views.
    ///
    /// # Errors
    /// As [`JointNetwork::predict`].
    fn descriptor(&self, view: &View) -> Result<Option<Vec<f32>>> {
        let _ = view;
        Ok(None)
    }
}

/// What a joint network predicts of one view.
#[derive(Clone, Debug)]
pub struct ViewPrediction {
    /// Depth along z in the view's own camera, `(height, width)`: in one unit for all views.
    /// Numbers that are not finite or not above 0 stand for unknown depth.
    pub depth: Tensor,
    /// Confidence of the depth, `(height, width)`, 1 at least.
    pub confidence: Tensor,
    /// The camera at the view's size; all cameras are in one world.
    pub camera: Camera,
}
