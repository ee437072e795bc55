//! What a weight file holds, whatever its format: tensors that lie at known places of the file, and
//! settings.

use std::ops::Range;

use super::literal::Settings;
use super::{safetensors, torch};

/// The container of files that `torch.save` wrote, for messages.
pub(super) const TORCH: &str = "PyTorch .pth";

/// How a weight's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Format {
    F16,
    Bf16,
    F32,
    F64,
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
    /// Bytes per number.
    pub(super) const fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
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
        self.start..self.start + (last + 1) * self.format.size()
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

/// Reads the contents of the weight file `bytes`, whose format is told by its first bytes.
pub(super) fn read(bytes: &[u8]) -> Result<Contents, String> {
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        return torch::read(bytes);
    }
    if let Some(reason) = foreign(bytes) {
        return Err(reason);
    }
    if bytes.get(8) == Some(&b'{') {
        return safetensors::read(bytes);
    }
    Err("is neither a safetensors file nor a PyTorch checkpoint (.pth)".to_string())
}

/// What the file is instead of weights, with the way out.
fn foreign(bytes: &[u8]) -> Option<String> {
    /// The number with which PyTorch before 1.6 began its files, as a pickled integer.
    const OLD_TORCH: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    const RESAVE: &str = "load it with PyTorch and save it again with torch.save";
    let head = &bytes[..bytes.len().min(1024)];
    let text = head
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(head)
        .trim_ascii_start();
    let is = |magic: &[u8]| head.starts_with(magic);
    let reason = if text.starts_with(b"version https://git-lfs") {
        "is a git-lfs pointer, not the weights themselves; run `git lfs pull` or download the file again".to_string()
    } else if text.starts_with(b"<") {
        "is an HTML or XML page, not weights; the download was answered by a web page, so download it again".to_string()
    } else if is(b"\x1f\x8b")
        || is(b"BZh")
        || is(b"\xfd7zXZ\0")
        || is(b"\x28\xb5\x2f\xfd")
        || is(b"7z\xbc\xaf")
    {
        "is compressed; unpack it first".to_string()
    } else if head
        .get(2..)
        .is_some_and(|rest| is(b"\x80\x02") && rest.starts_with(OLD_TORCH))
    {
        format!("is in PyTorch's format from before version 1.6; {RESAVE}")
    } else if head.get(257..262) == Some(b"ustar") {
        format!("is a tar archive, perhaps PyTorch's oldest format; unpack it or {RESAVE}")
    } else if head.len() > 1 && head[0] == 0x80 && (2..=5).contains(&head[1]) {
        format!("is a bare pickle, which holds no tensors that can be read in place; {RESAVE}")
    } else if is(b"GGUF") || is(b"\x93NUMPY") || is(b"\x89HDF") {
        "is a GGUF, NumPy or HDF5 file; give the weights as safetensors or as a PyTorch checkpoint (.pth)".to_string()
    } else if text.starts_with(b"{") && bytes.get(8) != Some(&b'{') {
        "is a JSON file, not weights; give the safetensors or .pth file".to_string()
    } else if head.iter().all(|&byte| byte == 0) {
        "begins with zeros only; the download is incomplete".to_string()
    } else {
        return None;
    };
    Some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_weights_are_named() {
        let mut tar = vec![b'a'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (bytes, reason) in [
            (
                &b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"[..],
                "git-lfs pointer",
            ),
            (b"\n<!DOCTYPE html><html>{</html>", "HTML"),
            (b"\x1f\x8b\x08\x00\x00\x00\x00\x00{", "compressed"),
            (
                b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.",
                "before version 1.6",
            ),
            (b"\x80\x04\x95\x00\x00\x00\x00\x00{", "bare pickle"),
            (&tar, "tar archive"),
            (b"GGUF\x03\0\0\0{", "GGUF"),
            (b"{\"enc_depth\": 24}", "JSON"),
            (&[0; 64], "zeros only"),
            (b"hello world", "neither"),
            (b"x", "neither"),
            (b"PK\x03\x04", "incomplete"),
        ] {
            let message = read(bytes).unwrap_err();
            assert!(message.contains(reason), "{reason}: {message}");
        }
    }

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
