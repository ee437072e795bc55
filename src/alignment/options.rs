//! Checks and queries of the alignment options.

use std::borrow::Cow;

use nalgebra::Vector3;

use super::{AlignOptions, KnownCamera, MOST_TOGETHER, Pair, ViewShape};
use crate::error::{Error, Result};
use crate::scene::FAR_EXTENTS;

/// The mean of points, and how far from it the farthest one is.
pub(super) fn mean_and_spread(points: &[Vector3<f64>]) -> Option<(Vector3<f64>, f64)> {
    let mean = points.iter().sum::<Vector3<f64>>() / points.len() as f64;
    let spread = points
        .iter()
        .map(|point| (point - mean).norm())
        .reduce(f64::max)?;
    Some((mean, spread))
}

/// What images of one camera have in common, held upright or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ImageSize {
    /// Long side, then short side.
    file: [u32; 2],
    resized: [u32; 2],
}

impl ImageSize {
    /// A square image at its file's size.
    #[cfg(test)]
    pub(super) fn square(side: u32) -> Self {
        Self {
            file: [side, side],
            resized: [side, side],
        }
    }

    pub(crate) fn new(view: &ViewShape) -> Self {
        let sorted = |width: u32, height: u32| [width.max(height), width.min(height)];
        let crop = &view.crop;
        Self {
            file: sorted(crop.file_width, crop.file_height),
            resized: sorted(crop.resized_width, crop.resized_height),
        }
    }
}

impl Pair {
    pub(super) fn check(self, views: usize) -> Result<()> {
        let (Self { first, second }, count) = (self, views);
        if first < second && second < count {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "the pair ({first}, {second}) is not of two of {count} views in order"
        )))
    }
}

impl AlignOptions {
    /// Whether a set of so many views is cut into submaps.
    pub(crate) fn solves_in_submaps(&self, views: usize) -> bool {
        views > self.most_together.unwrap_or(MOST_TOGETHER)
    }

    /// The options for a frame whose origin lies near the known poses, where these lie far from the
    /// world's, and that origin.
    ///
    /// So nothing is solved in numbers that are large for where the world's origin is. The origin
    /// has 18 bits: poses near it lose nothing when it is subtracted and added again, and float32
    /// holds it exactly.
    pub(super) fn near_their_poses(&self) -> (Cow<'_, Self>, Vector3<f64>) {
        let poses = || {
            self.known
                .iter()
                .filter_map(|known| known.world_from_camera.as_ref())
        };
        let centres: Vec<Vector3<f64>> = poses().map(|pose| pose.translation.vector).collect();
        let origin = match mean_and_spread(&centres) {
            Some((mean, spread)) if mean.amax() > FAR_EXTENTS * spread => {
                let step = (mean.amax().log2().floor() - 17.0).exp2();
                mean.map(|value| (value / step).round() * step)
            }
            _ => Vector3::zeros(),
        };
        if origin == Vector3::zeros() {
            return (Cow::Borrowed(self), origin);
        }
        let mut local = self.clone();
        for pose in local
            .known
            .iter_mut()
            .filter_map(|known| known.world_from_camera.as_mut())
        {
            pose.translation.vector -= origin;
        }
        (Cow::Owned(local), origin)
    }

    /// The message for a set in which no pair is sound.
    pub(super) fn no_cameras(&self, pairs: usize) -> String {
        let known = if self
            .known
            .iter()
            .any(|known| known.world_from_camera.is_some())
        {
            " and agrees with the poses that are given"
        } else {
            ""
        };
        format!("none of {pairs} image pairs is sound{known}")
    }

    pub(super) fn known(&self, view: usize) -> KnownCamera {
        self.known.get(view).copied().unwrap_or_default()
    }

    pub(super) fn check(&self, views: &[ViewShape]) -> Result<()> {
        if !self.known.is_empty() && self.known.len() != views.len() {
            let (known, views) = (self.known.len(), views.len());
            return Err(Error::Usage(format!(
                "{known} known cameras for {views} views; give one for each, or none"
            )));
        }
        if self.shared_focal && self.separate_cameras {
            return Err(Error::Usage(
                "focal lengths cannot be both shared and separate".into(),
            ));
        }
        if self.shared_focal && self.known.iter().any(|known| known.intrinsics.is_some()) {
            return Err(Error::Usage(
                "focal lengths cannot be both known and shared".into(),
            ));
        }
        let improbable = |focal: f64| !(focal.is_finite() && focal > 0.0);
        if let Some(focal) = self
            .known
            .iter()
            .filter_map(|known| known.probable_focal)
            .find(|focal| improbable(*focal))
        {
            return Err(Error::Usage(format!(
                "a probable focal length of {focal} pixels; give one above 0"
            )));
        }
        let different = views
            .windows(2)
            .find(|two| ImageSize::new(&two[0]) != ImageSize::new(&two[1]));
        match different.filter(|_| self.shared_focal) {
            None => Ok(()),
            Some(two) => Err(Error::Usage(format!(
                "images of different sizes, as {} and {}, cannot share a focal length in pixels",
                two[0].name, two[1].name
            ))),
        }
    }
}
