//! `cameras.bin` and `images.bin`.

use super::models::{MODELS, inside, unsupported};
use super::{Cameras, Image};

/// What is left of a binary file.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl Bytes<'_> {
    fn take<const COUNT: usize>(&mut self) -> Option<[u8; COUNT]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn f64(&mut self) -> Option<f64> {
        self.take().map(f64::from_le_bytes)
    }

    fn floats<const COUNT: usize>(&mut self) -> Option<[f64; COUNT]> {
        let mut floats = [0.0; COUNT];
        for float in &mut floats {
            *float = self.f64()?;
        }
        Some(floats)
    }

    /// Up to a zero, which is passed over.
    fn name(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let name = String::from_utf8_lossy(&self.0[..end]).into_owned();
        self.0 = &self.0[end + 1..];
        Some(name)
    }

    fn skip(&mut self, bytes: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(bytes).ok()?..)?;
        Some(())
    }
}

/// Adds the cameras to `cameras`; `None` if the file ends too early or has a model of which it is
/// not known how long it is.
pub(super) fn binary_cameras(bytes: &mut Bytes<'_>, cameras: &mut Cameras) -> Option<()> {
    for _ in 0..bytes.u64()? {
        let (id, model) = (bytes.u32()?, bytes.u32()?);
        let Some((name, count, _)) = MODELS.get(model as usize) else {
            cameras.others = Some(unsupported(&format!("number {model}")));
            return None;
        };
        let size = [bytes.u64()? as f64, bytes.u64()? as f64];
        let parameters = (0..*count)
            .map(|_| bytes.f64())
            .collect::<Option<Vec<f64>>>()?;
        cameras.known.insert(id, inside(name, size, &parameters));
    }
    Some(())
}

pub(super) fn binary_images(bytes: &mut Bytes<'_>) -> Option<Vec<Image>> {
    /// A place of two coordinates and the number of its point.
    const OBSERVATION: u64 = 24;
    let count = bytes.u64()?;
    let image = |_| {
        bytes.u32()?;
        let (rotation, translation, camera) = (bytes.floats()?, bytes.floats()?, bytes.u32()?);
        let name = bytes.name()?;
        let observations = bytes.u64()?;
        bytes.skip(observations.checked_mul(OBSERVATION)?)?;
        Some(Image {
            name,
            rotation,
            translation,
            camera,
        })
    };
    (0..count).map(image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_files_are_refused() {
        let whole = [
            &1u64.to_le_bytes()[..],
            &1u32.to_le_bytes(),
            &[0; 56],
            &1u32.to_le_bytes(),
            b"a\0",
            &[0; 8],
        ]
        .concat();
        assert!(binary_images(&mut Bytes(&whole)).is_some());
        assert!(
            (0..whole.len()).all(|length| binary_images(&mut Bytes(&whole[..length])).is_none())
        );
        let huge = [&u64::MAX.to_le_bytes()[..], &[0; 64]].concat();
        assert!(binary_images(&mut Bytes(&huge)).is_none());
        assert!(binary_cameras(&mut Bytes(&huge), &mut Cameras::default()).is_none());
    }
}
