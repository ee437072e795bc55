//! Patch embedding.

use candle_core::{Result, Tensor};

use super::passes::gathered;
use super::{Builder, Linear};

/// A convolution whose stride is its kernel: one linear layer over the pixels of each patch.
#[derive(Clone, Debug)]
pub struct PatchEmbed {
    proj: Linear,
    patch: usize,
}

impl PatchEmbed {
    /// `proj.weight` `(dim, 3, patch, patch)` and `proj.bias` `(dim)`.
    pub fn new(patch: usize, dim: usize, vb: Builder<'_>) -> Result<Self> {
        let vb = vb.pp("proj");
        let weight = vb
            .float32((dim, 3, patch, patch), "weight")?
            .reshape((dim, 3 * patch * patch))?;
        let bias = vb.float32(dim, "bias")?;
        Ok(Self {
            proj: Linear::from_tensors(&weight, Some(&bias), &vb)?,
            patch,
        })
    }

    /// Rows and columns of the patch grid of a `(batch, 3, height, width)` image.
    pub fn grid(&self, images: &Tensor) -> Result<[usize; 2]> {
        let (_, _, height, width) = images.dims4()?;
        if height == 0 || width == 0 || height % self.patch != 0 || width % self.patch != 0 {
            candle_core::bail!(
                "a {width}x{height} image is not a whole number of {0}x{0} patches",
                self.patch
            );
        }
        Ok([height / self.patch, width / self.patch])
    }

    /// `(batch, 3, height, width)` to tokens `(batch, rows * columns, dim)`, row major.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let _span = tracing::debug_span!("patch_embed").entered();
        let [rows, columns] = self.grid(images)?;
        let (batch, p) = (images.dim(0)?, self.patch);
        let patches = images
            .reshape((batch, 3, rows, p, columns, p))?
            .permute((0, 2, 4, 1, 3, 5))?;
        self.proj
            .forward(&gathered(&patches)?.reshape((batch, rows * columns, 3 * p * p))?)
    }
}
