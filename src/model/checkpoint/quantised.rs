//! Weights as small integers with units: how they are stored, and read back.
//!
//! A tensor's first axis are its rows. As int8 it is a tensor `I8` of the same shape, whose rows
//! have a unit each: `NAME.units`, float32. As int4 it is a tensor `U8` whose second axis is half as
//! long: two numbers a byte, the first in the low bits, 8 larger than they are; each [`GROUP`]
//! neighbours of a row have a unit in `NAME.units`, float16 `(rows, groups)`.

use half::f16;

use super::source::{Format, Stored, row_major};
use crate::nn;
pub(crate) use crate::nn::UNITS;

/// Neighbours with one unit in int4.
pub(crate) const GROUP: usize = 32;

/// Whether a tensor of this shape is worth integers: matrices and convolutions.
pub(crate) fn is_matrix(shape: &[usize]) -> bool {
    matches!(shape.len(), 2 | 4) && shape[0] > 1
}

/// Whether it can be int4: its rows are whole groups and its second axis can be halved.
pub(crate) fn has_whole_groups(shape: &[usize]) -> bool {
    is_matrix(shape)
        && shape[1].is_multiple_of(2)
        && shape[1..].iter().product::<usize>().is_multiple_of(GROUP)
}

/// A row as int8, as products quantise one; returns its unit.
pub(crate) fn int8(row: &[f32], out: &mut Vec<u8>) -> f32 {
    let mut numbers = vec![0; row.len()];
    let (unit, _) = nn::quantise(row, &mut numbers);
    out.extend(numbers.into_iter().map(|number| number as u8));
    unit
}

/// A row as int4, with its units.
pub(crate) fn int4(row: &[f32], out: &mut Vec<u8>, units: &mut Vec<f16>) {
    for group in row.chunks(GROUP) {
        // Numbers reach from -8 to 7: the largest magnitude is -8 of them.
        let largest = group.iter().fold(0f32, |most, &value| {
            if value.abs() > most.abs() {
                value
            } else {
                most
            }
        });
        let unit = f16::from_f32(largest / -8.);
        units.push(unit);
        let unit = unit.to_f32();
        let inverse = if unit == 0. { 0. } else { 1. / unit };
        let number =
            |value: f32| (value * inverse).round_ties_even().clamp(-8., 7.) as i32 as u8 & 15 ^ 8;
        out.extend(
            group
                .chunks(2)
                .map(|pair| number(pair[0]) | number(pair[1]) << 4),
        );
    }
}

/// The units of a tensor that is int8, as a tensor of their own.
pub(super) fn units(stored: &Stored) -> Option<Stored> {
    let Format::Int8 { units } = stored.format else {
        return None;
    };
    let shape = stored.shape[..1].to_vec();
    Some(Stored {
        format: Format::F32,
        big_endian: false,
        strides: row_major(&shape),
        shape,
        start: units,
    })
}

/// Numbers `first` and following of a tensor of integers in the file `bytes`.
pub(super) fn decode(bytes: &[u8], stored: &Stored, first: usize, block: &mut [f32]) {
    let row = stored.shape[1..].iter().product::<usize>().max(1);
    match stored.format {
        Format::Int8 { units } => {
            let numbers = &bytes[stored.start + first..][..block.len()];
            for (index, (value, &number)) in (first..).zip(block.iter_mut().zip(numbers)) {
                let unit = bytes[units + 4 * (index / row)..].first_chunk();
                let unit = unit.map_or(0., |unit| f32::from_le_bytes(*unit));
                *value = f32::from(number as i8) * unit;
            }
        }
        Format::Int4 { units } => {
            // Rows are whole groups.
            for (index, value) in (first..).zip(block) {
                let unit = bytes[units + 2 * (index / GROUP)..].first_chunk();
                let unit = unit.map_or(0., |unit| f16::from_le_bytes(*unit).to_f32());
                let number = bytes[stored.start + index / 2] >> (4 * (index % 2)) & 15;
                *value = (f32::from(number) - 8.) * unit;
            }
        }
        _ => unreachable!("formats of floating point are decoded elsewhere"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 31) as f32).sin() * (1. + (i / 64) as f32))
            .collect()
    }

    fn read(format: Format, shape: &[usize], bytes: &[u8]) -> Vec<f32> {
        let stored = Stored {
            format,
            big_endian: false,
            shape: shape.to_vec(),
            strides: row_major(shape),
            start: 0,
        };
        let mut all = vec![0f32; shape.iter().product()];
        // In blocks that begin inside a row and inside a byte.
        for (index, block) in all.chunks_mut(37).enumerate() {
            decode(bytes, &stored, index * 37, block);
        }
        all
    }

    #[test]
    fn int8_is_within_half_a_unit() {
        let (rows, columns) = (5, 64);
        let values = values(rows * columns);
        let (mut bytes, mut units) = (Vec::new(), Vec::new());
        for row in values.chunks(columns) {
            units.push(int8(row, &mut bytes));
        }
        let at = bytes.len();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        let got = read(Format::Int8 { units: at }, &[rows, columns], &bytes);
        for (i, (got, want)) in got.iter().zip(&values).enumerate() {
            assert!(
                (got - want).abs() <= 0.501 * units[i / columns],
                "{i}: {got}, {want}"
            );
        }
    }

    #[test]
    fn int4_is_within_a_unit_and_exact_for_what_it_can_say() {
        let (rows, columns) = (4, 96);
        let values = values(rows * columns);
        let (mut bytes, mut units) = (Vec::new(), Vec::new());
        for row in values.chunks(columns) {
            int4(row, &mut bytes, &mut units);
        }
        assert_eq!(
            (bytes.len(), units.len()),
            (rows * columns / 2, rows * columns / GROUP)
        );
        let at = bytes.len();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        let got = read(Format::Int4 { units: at }, &[rows, columns], &bytes);
        for (i, (got, want)) in got.iter().zip(&values).enumerate() {
            // The end opposite to the largest magnitude is 7 units away, not 8.
            let unit = units[i / GROUP].to_f32().abs();
            assert!((got - want).abs() <= 1.01 * unit, "{i}: {got}, {want}");
        }
        let exact: Vec<f32> = (0..32).map(|i| (i % 16 - 8) as f32 * 0.25).collect();
        let (mut bytes, mut units) = (Vec::new(), Vec::new());
        int4(&exact, &mut bytes, &mut units);
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        assert_eq!(read(Format::Int4 { units: 16 }, &[1, 32], &bytes), exact);
    }
}
