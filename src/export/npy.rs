//! NumPy's array files, version 1.0, and the element types shared with safetensors.

use std::io::{self, Write};

/// How one number is stored, little endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ElementType {
    /// 32-bit floating point.
    #[default]
    F32,
    /// 16-bit floating point; values are rounded to nearest.
    F16,
}

impl ElementType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Writes `values` in this type.
    pub(super) fn write(self, values: &[f32], out: &mut dyn Write) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(CHUNK * self.bytes());
        for chunk in values.chunks(CHUNK) {
            bytes.clear();
            match self {
                Self::F32 => bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes())),
                Self::F16 => bytes.extend(
                    chunk
                        .iter()
                        .flat_map(|&value| half::f16::from_f32(value).to_le_bytes()),
                ),
            }
            out.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Reads values back from what [`write`](Self::write) wrote.
    pub(super) fn parse(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&value| f32::from_le_bytes(value))
                .collect(),
            Self::F16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&value| half::f16::from_le_bytes(value).to_f32())
                .collect(),
        }
    }
}

/// Values converted before they are handed to the writer.
const CHUNK: usize = 1 << 14;

/// Writes `values`, row major, as a float32 array of the given shape.
///
/// # Errors
/// The writer's own; `InvalidInput` if the shape has another number of elements.
pub fn write_npy(shape: &[usize], values: &[f32], out: &mut dyn Write) -> io::Result<()> {
    write_npy_as(ElementType::F32, shape, values, out)
}

/// [`write_npy`] in another element type.
pub(super) fn write_npy_as(
    element: ElementType,
    shape: &[usize],
    values: &[f32],
    out: &mut dyn Write,
) -> io::Result<()> {
    if element_count(shape) != Some(values.len()) {
        let message = format!(
            "{} values do not fill an array of shape {shape:?}",
            values.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    out.write_all(&npy_header(element, shape)?)?;
    element.write(values, out)
}

/// The product of a shape, `None` past `usize`.
pub(super) fn element_count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |product, &extent| product.checked_mul(extent))
}

/// Everything before the values; its length is a multiple of 64, as the format asks.
pub(super) fn npy_header(element: ElementType, shape: &[usize]) -> io::Result<Vec<u8>> {
    let descr = match element {
        ElementType::F32 => "<f4",
        ElementType::F16 => "<f2",
    };
    // A Python tuple: one extent needs a comma after it, and more may have one.
    let extents: String = shape.iter().map(|extent| format!("{extent},")).collect();
    let dictionary =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");

    const PREFIX: usize = 10;
    let padded = (PREFIX + dictionary.len() + 1).next_multiple_of(64) - PREFIX;
    let Ok(length) = u16::try_from(padded) else {
        let message = format!("an array of {} axes does not fit the header", shape.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    };
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(length.to_le_bytes());
    header.extend(format!("{dictionary:<width$}\n", width = padded - 1).bytes());
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_the_one_numpy_writes() {
        let mut out = Vec::new();
        write_npy(&[2, 3], &[0.0; 6], &mut out).unwrap();
        assert_eq!(&out[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(out.len(), 128 + 24);
        assert!(
            out[10..128]
                .starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,3,), } ")
        );
        assert_eq!(out[127], b'\n');
    }

    #[test]
    fn one_axis_and_none_are_tuples() {
        let text = |shape: &[usize]| {
            String::from_utf8_lossy(&npy_header(ElementType::F16, shape).unwrap()).into_owned()
        };
        assert!(text(&[5]).contains("'descr': '<f2', 'fortran_order': False, 'shape': (5,), "));
        assert!(text(&[]).contains("'shape': (), "));
    }

    #[test]
    fn values_that_do_not_fill_the_shape_are_refused() {
        for shape in [&[2, 2][..], &[usize::MAX, 2], &[]] {
            let error = write_npy(shape, &[1.0, 2.0, 3.0], &mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{shape:?}");
        }
    }

    #[test]
    fn half_precision_rounds_to_nearest_and_reads_back() {
        let mut bytes = Vec::new();
        ElementType::F16
            .write(&[1.0, -2.5, 1.0 + 1e-5, f32::NAN], &mut bytes)
            .unwrap();
        let back = ElementType::F16.parse(&bytes);
        assert_eq!(&back[..3], &[1.0, -2.5, 1.0]);
        assert!(back[3].is_nan());
    }
}
