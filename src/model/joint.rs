//! Networks that predict all views of a scene together.

use std::fmt;

use candle_core::Tensor;

use crate::Result;
use crate::geometry::Camera;
use crate::views::View;

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
