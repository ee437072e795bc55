//! What is said of a view in one decode of a pair: points and descriptors for each of its pixels.

use super::{DescriptorMap, Match, MatchOptions, merge_decodes};
use crate::error::Result;
use crate::geometry::PointMap;

/// One view's prediction on the host, row major at the size the network saw.
#[derive(Clone, Debug)]
pub struct ViewMaps {
    /// Points in the camera frame of the decode's first view, with their confidence.
    pub points: PointMap,
    /// Numbers per descriptor.
    pub channels: usize,
    /// `(height, width, channels)`; empty where they were left on the device.
    pub descriptors: Vec<f32>,
    /// `(height, width)`; likewise.
    pub descriptor_confidence: Vec<f32>,
}

impl ViewMaps {
    /// The descriptors, borrowed for matching.
    pub fn descriptor_map(&self) -> DescriptorMap<'_> {
        DescriptorMap {
            width: self.points.width,
            height: self.points.height,
            channels: self.channels,
            descriptors: &self.descriptors,
            confidence: &self.descriptor_confidence,
        }
    }

    /// The matches of a pair that was decoded in both orders: `forward` is of its first and second
    /// view, `reverse` of its second and first.
    ///
    /// # Errors
    /// Those of [`merge_decodes`].
    pub fn matches(
        forward: &[Self; 2],
        reverse: &[Self; 2],
        options: &MatchOptions,
    ) -> Result<Vec<Match>> {
        let [own_second, own_first] = reverse.each_ref().map(Self::descriptor_map);
        merge_decodes(
            &[
                forward.each_ref().map(Self::descriptor_map),
                [own_first, own_second],
            ],
            options,
        )
    }
}
