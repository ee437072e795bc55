//! Numbers on their way into a tensor: produced block by block, checked and rounded while they are
//! in the cache.

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use half::slice::{HalfBitsSliceExt as _, HalfFloatSliceExt as _};
use half::vec::HalfBitsVecExt as _;
use half::{bf16, f16};
use rayon::prelude::*;

use super::quantised;
use super::source::{Format, Stored};

/// Numbers handled at a time: 16 KiB, half of a first-level cache.
const BLOCK: usize = 4096;
/// Blocks a thread takes at a time.
const BLOCKS: usize = 16;

/// Numbers that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flaws {
    /// NaN or infinite as stored.
    pub(super) not_finite: usize,
    /// Finite as stored, and beyond the range of the type asked for.
    pub(super) out_of_range: usize,
}

/// Makes a contiguous tensor of `shape`, in the CPU's memory or the device's, out of the numbers
/// that `fill` writes: it is called with the row-major index of the first and a slice for all, from
/// several threads.
pub(super) fn tensor(
    shape: &[usize],
    dtype: DType,
    device: &Device,
    fill: impl Fn(usize, &mut [f32]) + Sync,
) -> candle_core::Result<(Tensor, Flaws)> {
    let count = shape.iter().product();
    match dtype {
        DType::F16 => {
            let (bits, flaws) = collect(count, fill, |block, out: &mut [u16]| {
                out.reinterpret_cast_mut::<f16>()
                    .convert_from_f32_slice(block);
                // What rounds to 65536 or more becomes infinite.
                over(block, 65520_f32.to_bits())
            });
            Ok((
                Tensor::from_vec(bits.reinterpret_into::<f16>(), shape, device)?,
                flaws,
            ))
        }
        DType::BF16 => {
            let (bits, flaws) = collect(count, fill, |block, out: &mut [u16]| {
                for (value, out) in block.iter().zip(out) {
                    // To nearest, ties to even; what is not finite has been counted and is never
                    // used.
                    let bits = value.to_bits();
                    *out = (bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16) as u16;
                }
                over(block, 0x7F7F_8000)
            });
            Ok((
                Tensor::from_vec(bits.reinterpret_into::<bf16>(), shape, device)?,
                flaws,
            ))
        }
        _ => {
            let (values, flaws) = collect(count, fill, |block, out: &mut [f32]| {
                out.copy_from_slice(block);
                0
            });
            Ok((
                Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?,
                flaws,
            ))
        }
    }
}

/// A tensor of `shape` of these bytes as they are.
pub(super) fn bytes(shape: &[usize], device: &Device, bytes: &[u8]) -> candle_core::Result<Tensor> {
    let mut copy = vec![0; bytes.len()];
    let chunk = 4 * BLOCK * BLOCKS;
    copy.par_chunks_mut(chunk)
        .zip(bytes.par_chunks(chunk))
        .for_each(|(copy, bytes)| copy.copy_from_slice(bytes));
    Tensor::from_vec(copy, shape, device)
}

/// Fills a vector from several threads. `encode` turns a block into `T` and counts what overflows.
fn collect<T: Clone + Default + Send>(
    count: usize,
    fill: impl Fn(usize, &mut [f32]) + Sync,
    encode: impl Fn(&[f32], &mut [T]) -> usize + Sync,
) -> (Vec<T>, Flaws) {
    // Zeroed memory comes from the system untouched, so each page is first written by the thread
    // that fills it.
    let mut values = vec![T::default(); count];
    let (not_finite, beyond) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let task = |task: usize, values: &mut [T]| {
        let mut scratch = [0_f32; BLOCK];
        for (i, out) in values.chunks_mut(BLOCK).enumerate() {
            let block = &mut scratch[..out.len()];
            fill((task * BLOCKS + i) * BLOCK, block);
            not_finite.fetch_add(over(block, f32::INFINITY.to_bits()), Ordering::Relaxed);
            // Counted with those that are not finite, where there are any.
            beyond.fetch_add(encode(block, out), Ordering::Relaxed);
        }
    };
    if count <= BLOCK * BLOCKS {
        // Most tensors are biases and norms, for which waking other threads takes longer than the
        // work.
        task(0, &mut values);
    } else {
        values
            .par_chunks_mut(BLOCK * BLOCKS)
            .enumerate()
            .for_each(|(i, values)| task(i, values));
    }
    let not_finite = not_finite.into_inner();
    (
        values,
        Flaws {
            not_finite,
            out_of_range: beyond.into_inner().saturating_sub(not_finite),
        },
    )
}

/// How many values have a magnitude of at least the one with these bits; NaN and infinity count as
/// the largest.
fn over(block: &[f32], limit: u32) -> usize {
    block
        .iter()
        .filter(|value| value.to_bits() & 0x7FFF_FFFF >= limit)
        .count()
}

/// Reads `stored` from the file `bytes`, a block at a time.
pub(super) fn reader<'a>(
    bytes: &'a [u8],
    stored: &'a Stored,
) -> impl Fn(usize, &mut [f32]) + Sync + 'a {
    let size = stored.format.size();
    let contiguous = stored.is_contiguous();
    let (file, bytes) = (bytes, &bytes[stored.span()]);
    move |first, block| {
        if matches!(stored.format, Format::Int8 { .. } | Format::Int4 { .. }) {
            quantised::decode(file, stored, first, block);
        } else if contiguous {
            decode(
                stored,
                &bytes[first * size..(first + block.len()) * size],
                block,
            );
        } else {
            gather(stored, bytes, first, block);
        }
    }
}

/// Decodes numbers that lie in order.
fn decode(stored: &Stored, bytes: &[u8], block: &mut [f32]) {
    match (stored.format, stored.big_endian) {
        (Format::F32, false) => each(bytes, block, f32::from_le_bytes),
        (Format::F32, true) => each(bytes, block, f32::from_be_bytes),
        (Format::F64, false) => each(bytes, block, |bytes| f64::from_le_bytes(bytes) as f32),
        (Format::F64, true) => each(bytes, block, |bytes| f64::from_be_bytes(bytes) as f32),
        (Format::Bf16, false) => each(bytes, block, |bytes| bf16_to_f32(u16::from_le_bytes(bytes))),
        (Format::Bf16, true) => each(bytes, block, |bytes| bf16_to_f32(u16::from_be_bytes(bytes))),
        (Format::F16, big_endian) => {
            let mut bits = [0_u16; BLOCK];
            let bits = &mut bits[..block.len()];
            for (bytes, bits) in bytes.as_chunks::<2>().0.iter().zip(&mut *bits) {
                *bits = if big_endian {
                    u16::from_be_bytes(*bytes)
                } else {
                    u16::from_le_bytes(*bytes)
                };
            }
            bits.reinterpret_cast::<f16>().convert_to_f32_slice(block);
        }
        (Format::Int8 { .. } | Format::Int4 { .. }, _) => {
            unreachable!("integers are decoded with their units")
        }
    }
}

fn each<const N: usize>(bytes: &[u8], block: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    for (bytes, value) in bytes.as_chunks::<N>().0.iter().zip(block) {
        *value = decode(*bytes);
    }
}

fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Decodes numbers that lie anywhere, in the order of their shape.
fn gather(stored: &Stored, bytes: &[u8], first: usize, block: &mut [f32]) {
    let size = stored.format.size();
    let axes = stored.shape.len();
    let mut index = vec![0; axes];
    let (mut rest, mut at) = (first, 0);
    for axis in (0..axes).rev() {
        index[axis] = rest % stored.shape[axis];
        rest /= stored.shape[axis];
        at += index[axis] * stored.strides[axis];
    }
    for value in block {
        decode(
            stored,
            &bytes[at * size..(at + 1) * size],
            std::slice::from_mut(value),
        );
        for axis in (0..axes).rev() {
            index[axis] += 1;
            at += stored.strides[axis];
            if index[axis] < stored.shape[axis] {
                break;
            }
            at -= index[axis] * stored.strides[axis];
            index[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::row_major;
    use super::*;

    fn stored(format: Format, shape: &[usize]) -> Stored {
        Stored {
            format,
            big_endian: false,
            shape: shape.to_vec(),
            strides: row_major(shape),
            start: 0,
        }
    }

    fn read(bytes: &[u8], stored: &Stored, dtype: DType) -> (Vec<f32>, Flaws) {
        let (tensor, flaws) =
            tensor(&stored.shape, dtype, &Device::Cpu, reader(bytes, stored)).unwrap();
        assert_eq!(tensor.dtype(), dtype);
        let values = tensor
            .to_dtype(DType::F32)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        (values, flaws)
    }

    #[test]
    fn every_format_and_byte_order_is_read() {
        let expected = [1.5_f32, -0.25, 3.0];
        let wide: Vec<_> = expected.iter().map(|&value| f64::from(value)).collect();
        let cases = [
            (
                Format::F32,
                expected.map(f32::to_le_bytes).concat(),
                expected.map(f32::to_be_bytes).concat(),
            ),
            (
                Format::F64,
                wide.iter().flat_map(|value| value.to_le_bytes()).collect(),
                wide.iter().flat_map(|value| value.to_be_bytes()).collect(),
            ),
            (
                Format::F16,
                expected
                    .map(|value| f16::from_f32(value).to_le_bytes())
                    .concat(),
                expected
                    .map(|value| f16::from_f32(value).to_be_bytes())
                    .concat(),
            ),
            (
                Format::Bf16,
                expected
                    .map(|value| bf16::from_f32(value).to_le_bytes())
                    .concat(),
                expected
                    .map(|value| bf16::from_f32(value).to_be_bytes())
                    .concat(),
            ),
        ];
        for (format, little, big) in cases {
            let mut stored = stored(format, &[3]);
            for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
                stored.big_endian = false;
                assert_eq!(
                    read(&little, &stored, dtype),
                    (expected.to_vec(), Flaws::default()),
                    "{format:?}"
                );
                stored.big_endian = true;
                assert_eq!(
                    read(&big, &stored, dtype),
                    (expected.to_vec(), Flaws::default()),
                    "{format:?}"
                );
            }
        }
    }

    #[test]
    fn strided_tensors_are_gathered_across_blocks() {
        // a matrix stored column by column, more than one task long
        let (rows, columns) = (301, 677);
        let numbers: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let bytes: Vec<u8> = numbers
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let transposed = Stored {
            strides: vec![1, rows],
            ..stored(Format::F32, &[rows, columns])
        };
        let (values, _) = read(&bytes, &transposed, DType::F32);
        let expected: Vec<f32> = (0..rows * columns)
            .map(|i| (i / columns + i % columns * rows) as f32)
            .collect();
        assert_eq!(values, expected);
        let (values, _) = read(&bytes, &stored(Format::F32, &[rows * columns]), DType::F32);
        assert_eq!(values, numbers);
    }

    #[test]
    fn rounding_agrees_with_the_half_crate() {
        let numbers: Vec<f32> = (0..9000)
            .map(|i| ((i * 7919) as f32).sin() * 10_f32.powi(i % 9 - 5))
            .collect();
        let bytes: Vec<u8> = numbers
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let stored = stored(Format::F32, &[9000]);
        let expected: Vec<_> = numbers
            .iter()
            .map(|&value| bf16::from_f32(value).to_f32())
            .collect();
        assert_eq!(
            read(&bytes, &stored, DType::BF16),
            (expected, Flaws::default())
        );
        let expected: Vec<_> = numbers
            .iter()
            .map(|&value| f16::from_f32(value).to_f32())
            .collect();
        assert_eq!(
            read(&bytes, &stored, DType::F16),
            (expected, Flaws::default())
        );
    }

    #[test]
    fn what_is_not_finite_and_what_overflows_is_counted_apart() {
        let numbers = [
            1.0_f32,
            f32::NAN,
            f32::NEG_INFINITY,
            65519.0,
            -65520.0,
            f32::MAX,
        ];
        let bytes = numbers.map(f32::to_le_bytes).concat();
        let flaws = |dtype| read(&bytes, &stored(Format::F32, &[6]), dtype).1;
        assert_eq!(
            flaws(DType::F32),
            Flaws {
                not_finite: 2,
                out_of_range: 0
            }
        );
        assert_eq!(
            flaws(DType::F16),
            Flaws {
                not_finite: 2,
                out_of_range: 2
            }
        );
        assert_eq!(
            flaws(DType::BF16),
            Flaws {
                not_finite: 2,
                out_of_range: 1
            }
        );
    }

    #[test]
    fn empty_and_scalar_tensors_are_read() {
        assert_eq!(
            read(&[], &stored(Format::F32, &[0, 3]), DType::F32).0,
            Vec::<f32>::new()
        );
        assert_eq!(
            read(
                &2.5_f32.to_le_bytes(),
                &stored(Format::F32, &[]),
                DType::F16
            )
            .0,
            [2.5]
        );
    }
}
