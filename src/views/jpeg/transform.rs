//! The inverse cosine transform: the integers of libjpeg's accurate one, which MASt3R's reference
//! decodes with.
//!
//! Loeffler, Ligtenberg and Moschytz, "Practical fast 1-D DCT algorithms with 11 multiplications"
//! (1989), with constants of 13 fractional bits; two more bits are kept between the passes over
//! columns and rows.

use std::num::Wrapping;

use super::frame::{Block, SIDE};

const CONSTANT_BITS: usize = 13;
const PASS_BITS: usize = 2;

type Lanes = [i32; SIDE];

/// Samples of a block with these coefficients, which `steps` multiplies.
#[inline(always)]
pub(super) fn inverse(block: &Block, steps: &Block) -> [[u8; SIDE]; SIDE] {
    // Of all but the first: the sum of bits of a whole block is quicker than that of the rest.
    if block.iter().fold(0, |all, value| all | value) == block[0] && is_flat(block) {
        let dc = i32::from(block[0].wrapping_mul(steps[0]));
        let level = (dc << PASS_BITS).wrapping_add(1 << (PASS_BITS + 2)) >> (PASS_BITS + 3);
        return [[sample(level); SIDE]; SIDE];
    }
    let mut rows = [[0; SIDE]; SIDE];
    for (y, row) in rows.iter_mut().enumerate() {
        for (x, value) in row.iter_mut().enumerate() {
            *value = i32::from(block[SIDE * y + x].wrapping_mul(steps[SIDE * y + x]));
        }
    }
    let columns = transpose(pass::<{ CONSTANT_BITS - PASS_BITS }>(&rows));
    let columns = pass::<{ CONSTANT_BITS + PASS_BITS + 3 }>(&columns);
    let mut samples = [[0; SIDE]; SIDE];
    for (x, column) in columns.iter().enumerate() {
        for (y, value) in column.iter().enumerate() {
            samples[y][x] = sample(*value);
        }
    }
    samples
}

/// The same of coefficients of 12-bit samples, rounded to 8 bits. One bit is kept between the
/// passes.
#[cold]
#[inline(never)]
pub(super) fn wide(block: &Block, steps: &Block) -> [[u8; SIDE]; SIDE] {
    let mut rows = [[0; SIDE]; SIDE];
    for (values, (coefficients, steps)) in rows
        .iter_mut()
        .zip(block.chunks(SIDE).zip(steps.chunks(SIDE)))
    {
        for (value, (&coefficient, &step)) in values.iter_mut().zip(coefficients.iter().zip(steps))
        {
            // What is larger is not an image's, and would overflow further down.
            *value = (i32::from(coefficient) * i32::from(step as u16)).clamp(-(1 << 15), 1 << 15);
        }
    }
    let columns =
        pass::<{ CONSTANT_BITS + 1 + 3 }>(&transpose(pass::<{ CONSTANT_BITS - 1 }>(&rows)));
    transpose(columns)
        .map(|row| row.map(|level| (level.saturating_add(2048 + 8) >> 4).clamp(0, 255) as u8))
}

/// Whether only the first coefficient is not zero.
#[inline(always)]
fn is_flat(block: &Block) -> bool {
    block[1..].iter().all(|value| *value == 0)
}

/// A level around zero as a sample.
#[inline(always)]
fn sample(level: i32) -> u8 {
    level.saturating_add(128).clamp(0, 255) as u8
}

#[inline(always)]
fn transpose(rows: [Lanes; SIDE]) -> [Lanes; SIDE] {
    let mut columns = [[0; SIDE]; SIDE];
    for (y, row) in rows.iter().enumerate() {
        for (x, value) in row.iter().enumerate() {
            columns[x][y] = *value;
        }
    }
    columns
}

/// One-dimensional transforms of eight lanes at once, rounded to `SHIFT` bits fewer.
#[inline(always)]
fn pass<const SHIFT: usize>(input: &[Lanes; SIDE]) -> [Lanes; SIDE] {
    let mut output = [[0; SIDE]; SIDE];
    // Only the values of damaged files wrap.
    let by = |factor: i32| Wrapping(factor);
    for lane in 0..SIDE {
        let [x0, x1, x2, x3] = [
            input[0][lane],
            input[1][lane],
            input[2][lane],
            input[3][lane],
        ]
        .map(Wrapping);
        let [x4, x5, x6, x7] = [
            input[4][lane],
            input[5][lane],
            input[6][lane],
            input[7][lane],
        ]
        .map(Wrapping);

        let turned = (x2 + x6) * by(4433);
        let even2 = turned + x6 * by(-15137);
        let even3 = turned + x2 * by(6270);
        let even0 = (x0 + x4) << CONSTANT_BITS;
        let even1 = (x0 - x4) << CONSTANT_BITS;
        let sums = [even0 + even3, even1 + even2, even1 - even2, even0 - even3];

        let both = (x7 + x3 + x5 + x1) * by(9633);
        let z1 = (x7 + x1) * by(-7373);
        let z2 = (x5 + x3) * by(-20995);
        let z3 = (x7 + x3) * by(-16069) + both;
        let z4 = (x5 + x1) * by(-3196) + both;
        let odd = [
            x1 * by(12299) + z1 + z4,
            x3 * by(25172) + z2 + z3,
            x5 * by(16819) + z2 + z4,
            x7 * by(2446) + z1 + z3,
        ];

        let round = Wrapping(1 << (SHIFT - 1));
        output[0][lane] = ((sums[0] + odd[0] + round) >> SHIFT).0;
        output[1][lane] = ((sums[1] + odd[1] + round) >> SHIFT).0;
        output[2][lane] = ((sums[2] + odd[2] + round) >> SHIFT).0;
        output[3][lane] = ((sums[3] + odd[3] + round) >> SHIFT).0;
        output[4][lane] = ((sums[3] - odd[3] + round) >> SHIFT).0;
        output[5][lane] = ((sums[2] - odd[2] + round) >> SHIFT).0;
        output[6][lane] = ((sums[1] - odd[1] + round) >> SHIFT).0;
        output[7][lane] = ((sums[0] - odd[0] + round) >> SHIFT).0;
    }
    output
}
