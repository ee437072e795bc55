//! Encoding images one after the other, on one device or several.

use std::ops::Range;

use super::sharing::in_order;
use crate::Result;
use crate::model::{FeatureExtractor, Features};
use crate::views::View;

/// The tokens of one image, row major over the patch grid: `rows x columns x channels` numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedImage {
    /// Which image, counted from 0.
    pub index: usize,
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// Float32.
    pub tokens: Vec<f32>,
}

/// Encodes `count` images, a few at a time, on devices that share them: `extractors` are the same
/// encoder on each. `load` brings those of a range; `take` is given each image's tokens in order,
/// and ends it by returning false. `norm` is that of [`FeatureExtractor::forward`]. Tokens do not
/// depend on how many devices there are. Memory does not grow with the images.
///
/// # Errors
/// The first one, in the images' order, of `load`, of a device or of `take`.
pub fn encode_images(
    extractors: &[FeatureExtractor],
    count: usize,
    norm: bool,
    load: impl Fn(Range<usize>) -> Result<Vec<View>> + Sync,
    mut take: impl FnMut(EncodedImage) -> Result<bool>,
) -> Result<()> {
    let most = FeatureExtractor::BATCH;
    let encode = |extractor: &mut &FeatureExtractor, batch: usize| {
        let first = batch * most;
        let views = load(first..count.min(first + most))?;
        let encoded = (|| {
            let features = extractor.encode(&views, norm)?.into_iter().zip(first..);
            let image = |(features, index): (Features, usize)| {
                Ok(EncodedImage {
                    index,
                    grid: features.grid,
                    tokens: features.map()?.flatten_all()?.to_vec1()?,
                })
            };
            features.map(image).collect::<Result<Vec<_>>>()
        })();
        match encoded {
            Err(error) if extractors.len() > 1 => Err(error.on_device(|| extractor.device_name())),
            encoded => encoded,
        }
    };
    let workers = extractors.iter().collect();
    in_order(workers, count.div_ceil(most), encode, |images| {
        for image in images {
            if !take(image)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}
