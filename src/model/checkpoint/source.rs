//! What a weight file holds, whatever its format: tensors that lie at known places of the file, and
//! settings.

use std::collections::HashMap;
use std::ops::Range;

use super::literal::Settings;

/// The container of files that `torch.save` wrote, for messages.
pub(super) const TORCH: &str = "PyTorch .pth";

/// How a weight's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Format {
    F16,
    Bf16,
    F32,
    F64,
    /// Units of rows begin at a byte of the file.
    Int8 {
        units: usize,
    },
    /// Two numbers a byte; units of groups begin at a byte of the file.
    Int4 {
        units: usize,
    },
}

/// One tensor as it lies in a file. Whoever makes one has checked that `span` is inside the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored {
    pub(super) format: Format,
    pub(super) big_endian: bool,
    /// The shape as PyTorch has it.
    pub(super) shape: Vec<usize>,
    /// Distance in elements between neighbors along each axis of `shape`.
    pub(super) strides: Vec<usize>,
    /// The first element's byte in the file.
    pub(super) start: usize,
}

/// Tensors by name; those that cannot be read come with the reason.
pub(super) type Tensors = HashMap<String, Result<Stored, String>>;

/// A weight file's contents.
#[derive(Debug)]
pub(super) struct Contents {
    /// For messages: [`TORCH`] or a kind of safetensors.
    pub(super) container: &'static str,
    /// Whether some weights are permuted as the MLX port's converter does it.
    pub(super) permuted: bool,
    /// The tensors by the names in the file; those that cannot be read come with the reason.
    pub(super) tensors: Vec<(String, Result<Stored, String>)>,
    pub(super) recorded: Recorded,
}

/// What a file or its neighbor records beside tensors.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// The constructor string of a MASt3R network.
    pub(super) constructor: Option<String>,
    /// The constructor's arguments from a `config.json`.
    pub(super) config: Option<Settings>,
    /// The options of a DUNE encoder.
    pub(super) encoder: Option<Settings>,
    /// The name of the encoder that a DuneMASt3R decoder belongs to.
    pub(super) encoder_name: Option<String>,
}

impl Format {
    /// Bytes per number; of int4 half of one, see [`Format::bytes`].
    pub(super) const fn size(self) -> usize {
        match self {
            Self::Int4 { .. } | Self::Int8 { .. } => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// Bytes of `count` numbers.
    pub(super) const fn bytes(self, count: usize) -> Option<usize> {
        match self {
            Self::Int4 { .. } => Some(count.div_ceil(2)),
            _ => count.checked_mul(self.size()),
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Int8 { .. } => "int8",
            Self::Int4 { .. } => "int4",
        }
    }
}

impl Stored {
    /// Number of elements.
    pub(super) fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The bytes of the file from the first element to the last.
    pub(super) fn span(&self) -> Range<usize> {
        if self.count() == 0 {
            return self.start..self.start;
        }
        let last: usize = self
            .shape
            .iter()
            .zip(&self.strides)
            .map(|(&size, &stride)| (size - 1) * stride)
            .sum();
        // Whoever made it has checked that this fits.
        self.start..self.start + self.format.bytes(last + 1).unwrap_or_default()
    }

    /// Whether the elements lie in order without gaps.
    pub(super) fn is_contiguous(&self) -> bool {
        let expected = row_major(&self.shape);
        let axes = self.shape.iter().zip(self.strides.iter().zip(&expected));
        self.count() == 0
            || axes
                .into_iter()
                .all(|(&size, (actual, expected))| size == 1 || actual == expected)
    }
}

/// Strides of a tensor whose elements lie in order; its element count must fit `usize`.
pub(super) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        // Saturation is reached only where another axis is empty, and then no element is ever
        // addressed.
        strides[axis - 1] = usize::saturating_mul(strides[axis], shape[axis]);
    }
    strides
}

/// Number of elements of `shape`, if it fits.
pub(super) fn count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguity_ignores_axes_of_one() {
        let stored = |shape: &[usize], strides: &[usize]| Stored {
            format: Format::F32,
            big_endian: false,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            start: 8,
        };
        assert!(stored(&[2, 3], &[3, 1]).is_contiguous());
        assert!(!stored(&[2, 3], &[1, 2]).is_contiguous());
        assert!(stored(&[1, 3], &[77, 1]).is_contiguous());
        assert_eq!(stored(&[2, 3], &[1, 4]).span(), 8..8 + 4 * 10);
        assert_eq!(stored(&[2, 0], &[1, 4]).span(), 8..8);
    }
}
