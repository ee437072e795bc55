//! Safetensors files that show their own damage: an end that a power loss cut off or filled with
//! zeros, a changed byte. And digests as people read them.
//!
//! The header's metadata has the CRC-32 of the whole file, taken with zeros for its own digits.
//! Other readers pass over it.

use std::collections::HashMap;
use std::ops::Range;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError};

const KEY: &str = "crc32";
const ZEROS: &[u8; 8] = b"00000000";

/// What a file's checksum tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Integrity {
    /// The content is what was written.
    Intact,
    /// It is not.
    Damaged,
    /// The file has no checksum, so its writer was another program or version.
    Unknown,
}

/// The content of a file of these tensors, with a checksum.
pub(crate) fn serialised<'a>(
    tensors: impl IntoIterator<Item = (&'a str, Dtype, Vec<usize>, &'a [u8])>,
) -> Result<Vec<u8>, SafeTensorError> {
    let mut views = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        views.push((name, TensorView::new(dtype, shape, bytes)?));
    }
    let metadata = HashMap::from([(KEY.to_string(), String::from_utf8_lossy(ZEROS).into_owned())]);
    let mut bytes = safetensors::serialize(views, Some(metadata))?;
    let at = digits(&bytes).ok_or(SafeTensorError::MetadataIncompleteBuffer)?;
    let sum = format!("{:08x}", sum(&bytes, &at));
    bytes[at].copy_from_slice(sum.as_bytes());
    Ok(bytes)
}

/// A digest's bytes as two digits each.
pub(crate) fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares the content of a file with its checksum.
pub(crate) fn integrity(bytes: &[u8]) -> Integrity {
    match digits(bytes) {
        None => Integrity::Unknown,
        Some(at) if bytes[at.clone()] == *format!("{:08x}", sum(bytes, &at)).as_bytes() => {
            Integrity::Intact
        }
        Some(_) => Integrity::Damaged,
    }
}

/// Where the checksum's digits are.
fn digits(bytes: &[u8]) -> Option<Range<usize>> {
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk()?)).ok()?;
    let header = bytes.get(8..)?.get(..length)?;
    let before = format!("\"{KEY}\":\"");
    let start = 8
        + header
            .windows(before.len())
            .position(|window| window == before.as_bytes())?
        + before.len();
    (start + ZEROS.len() <= 8 + length).then(|| start..start + ZEROS.len())
}

fn sum(bytes: &[u8], digits: &Range<usize>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    [&bytes[..digits.start], ZEROS, &bytes[digits.end..]]
        .into_iter()
        .for_each(|part| hasher.update(part));
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    fn file() -> Vec<u8> {
        let values: Vec<u8> = (0..=255).collect();
        serialised([
            ("a", Dtype::U8, vec![16, 16], &values[..]),
            ("b", Dtype::F32, vec![2], &values[..8]),
        ])
        .unwrap()
    }

    #[test]
    fn a_file_with_a_checksum_is_read_by_others() {
        let bytes = file();
        assert_eq!(integrity(&bytes), Integrity::Intact);
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.tensor("a").unwrap().data()[255], 255);
        assert_eq!(tensors.tensor("b").unwrap().shape(), [2]);
    }

    #[test]
    fn every_changed_byte_shows() {
        let whole = file();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert_ne!(integrity(&bytes), Integrity::Intact, "byte {at}");
        }
    }

    #[test]
    fn every_end_that_is_cut_off_or_zero_shows() {
        let whole = file();
        for length in 0..whole.len() {
            assert_ne!(
                integrity(&whole[..length]),
                Integrity::Intact,
                "{length} bytes"
            );
            let mut bytes = whole.clone();
            bytes[length..].fill(0);
            assert!(
                integrity(&bytes) != Integrity::Intact || bytes == whole,
                "zeros from byte {length}"
            );
        }
        assert_eq!(integrity(&[whole, vec![0]].concat()), Integrity::Damaged);
    }

    #[test]
    fn a_file_without_a_checksum_is_not_judged() {
        let bytes = safetensors::serialize(
            [("a", TensorView::new(Dtype::U8, vec![1], &[7]).unwrap())],
            None,
        )
        .unwrap();
        assert_eq!(integrity(&bytes), Integrity::Unknown);
    }
}
