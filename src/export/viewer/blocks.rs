//! Points in blocks: each has a box of its own, and positions are 16-bit fractions of its sides.
//!
//! A block holds at most [`MOST_POINTS`] points. No side of its box is longer than the scene's
//! extent or, farther out, than the distance from the scene's middle to the box. A position is
//! rounded to the nearest of 65536 steps along each axis, so its error is at most 1/131070 of
//! that.

use std::io::{self, Write as _};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use rayon::prelude::*;
use serde_json::{Value, json};

/// Points of a block at most.
pub(super) const MOST_POINTS: usize = 1 << 16;
/// Steps along a side of a block.
pub(super) const STEPS: f64 = 65535.0;
/// The part of the points that may lie outside the scene's extent on each side of an axis.
const OUTSIDE: f64 = 0.02;
/// Points that the extent is determined by, at most.
const SAMPLES: usize = 100_000;
/// Cells along the longest side of a block by which its points' spacing is estimated.
const CELLS: usize = 64;

/// The points of a scene.
pub(super) struct Points {
    pub positions: Vec<[f32; 3]>,
    pub rgb: Vec<[u8; 3]>,
    /// See [`Levels`](super::levels::Levels).
    pub levels: Vec<u8>,
}

/// Points near one another.
#[derive(Debug)]
pub(super) struct Block {
    pub count: usize,
    /// The corner of the box with the smallest coordinates.
    pub low: [f64; 3],
    /// Lengths of its sides.
    pub size: [f64; 3],
    /// Estimated distance between neighbouring points of a surface.
    pub spacing: f64,
    /// See [`encode`].
    pub bytes: Vec<u8>,
}

impl Block {
    /// What the page's description says of it.
    pub fn description(&self) -> Value {
        json!({
            "count": self.count, "low": self.low, "size": self.size, "spacing": self.spacing,
        })
    }
}

/// Where most of the points are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Extent {
    pub low: [f64; 3],
    pub high: [f64; 3],
}

impl Extent {
    /// Of all points but the outermost.
    pub fn of(positions: &[[f32; 3]]) -> Self {
        let step = positions.len().div_ceil(SAMPLES).max(1);
        let mut bounds = [[0.0; 3]; 2];
        for axis in 0..3 {
            let mut values: Vec<f32> = positions
                .iter()
                .step_by(step)
                .map(|position| position[axis])
                .collect();
            values.sort_unstable_by(f32::total_cmp);
            let last = values.len().saturating_sub(1);
            let outside = (OUTSIDE * last as f64) as usize;
            for (bound, at) in bounds.iter_mut().zip([outside, last - outside]) {
                bound[axis] = values.get(at).map_or(0.0, |value| f64::from(*value));
            }
        }
        let [low, high] = bounds;
        Self { low, high }
    }

    pub fn middle(&self) -> [f64; 3] {
        std::array::from_fn(|axis| (self.low[axis] + self.high[axis]) / 2.0)
    }

    /// The longest side.
    pub fn length(&self) -> f64 {
        (0..3)
            .map(|axis| self.high[axis] - self.low[axis])
            .fold(0.0, f64::max)
    }
}

/// All points in blocks; the order depends on nothing but the points.
pub(super) fn blocks(points: &Points, extent: &Extent) -> io::Result<Vec<Block>> {
    let mut indices: Vec<u32> = (0..points.positions.len() as u32).collect();
    let ranges = partition(&mut indices, &points.positions, extent);
    ranges
        .into_par_iter()
        .map(|range| block(points, &indices[range]))
        .collect()
}

/// Reorders `indices` so that every block's are together, and tells where each block's are.
fn partition(
    indices: &mut [u32],
    positions: &[[f32; 3]],
    extent: &Extent,
) -> Vec<std::ops::Range<usize>> {
    let (middle, length) = (extent.middle(), extent.length());
    let mut found = Vec::new();
    // A stack: the part with the smaller coordinates comes first.
    let mut open = Vec::from([(0, indices.len())]);
    while let Some((start, end)) = open.pop() {
        let range = start..end;
        if range.is_empty() {
            continue;
        }
        let own = &mut indices[range.clone()];
        let (low, size) = bounds(own, positions);
        let axis = (1..3).fold(
            0,
            |best, axis| {
                if size[axis] > size[best] { axis } else { best }
            },
        );
        let away = (0..3)
            .map(|axis| (low[axis] - middle[axis]).max(middle[axis] - low[axis] - size[axis]))
            .fold(0.0, f64::max);
        let at = |index: &u32| f64::from(positions[*index as usize][axis]);
        let cut = if size[axis] > length.max(away) {
            // By space: a few points far out must not coarsen the steps of the others.
            let half = low[axis] + size[axis] / 2.0;
            own.sort_unstable_by_key(|index| (at(index) > half, *index));
            own.partition_point(|index| at(index) <= half)
        } else if own.len() > MOST_POINTS {
            // By number, the index breaking ties.
            let half = own.len() / 2;
            own.select_nth_unstable_by(half, |a, b| at(a).total_cmp(&at(b)).then(a.cmp(b)));
            half
        } else {
            found.push(range);
            continue;
        };
        open.push((start + cut, end));
        open.push((start, start + cut));
    }
    found
}

/// Lowest corner and sides of the box around points.
fn bounds(indices: &[u32], positions: &[[f32; 3]]) -> ([f64; 3], [f64; 3]) {
    let (mut low, mut high) = ([f32::INFINITY; 3], [f32::NEG_INFINITY; 3]);
    for index in indices {
        for (axis, value) in positions[*index as usize].into_iter().enumerate() {
            low[axis] = low[axis].min(value);
            high[axis] = high[axis].max(value);
        }
    }
    let low = low.map(f64::from);
    (
        low,
        std::array::from_fn(|axis| f64::from(high[axis]) - low[axis]),
    )
}

fn block(points: &Points, indices: &[u32]) -> io::Result<Block> {
    let (low, size) = bounds(indices, &points.positions);
    let step = |position: [f32; 3], axis: usize| match size[axis] {
        side if side > 0.0 => {
            ((f64::from(position[axis]) - low[axis]) / side * STEPS).round() as u16
        }
        _ => 0,
    };
    // Along a curve that keeps neighbours together: differences are then small, and small
    // differences are what deflate makes short. Equal places stay in the scene's order.
    let mut order: Vec<(u64, u32, [u16; 3])> = indices
        .iter()
        .map(|index| {
            let position = points.positions[*index as usize];
            let steps = [0, 1, 2].map(|axis| step(position, axis));
            (morton(steps), *index, steps)
        })
        .collect();
    order.sort_unstable();
    let spacing = spacing(order.iter().map(|(_, _, steps)| *steps), size);
    Ok(Block {
        count: indices.len(),
        low,
        size,
        spacing,
        bytes: encode(points, &order)?,
    })
}

/// The bits of three numbers in turn.
fn morton(steps: [u16; 3]) -> u64 {
    steps.iter().enumerate().fold(0, |code, (axis, value)| {
        let mut bits = u64::from(*value);
        bits = (bits | bits << 16) & 0x001f_0000_ff00_00ff;
        bits = (bits | bits << 8) & 0x100f_00f0_0f00_f00f;
        bits = (bits | bits << 4) & 0x10c3_0c30_c30c_30c3;
        bits = (bits | bits << 2) & 0x1249_2492_4924_9249;
        code | bits << axis
    })
}

/// Distance between neighbouring points, if they lie evenly on a surface through the cubes that
/// hold any.
fn spacing(steps: impl Iterator<Item = [u16; 3]>, size: [f64; 3]) -> f64 {
    let cell = size.into_iter().fold(0.0, f64::max) / CELLS as f64;
    if cell <= 0.0 {
        return 0.0;
    }
    let mut is_full = vec![false; CELLS * CELLS * CELLS];
    let (mut count, mut full) = (0_usize, 0_usize);
    for steps in steps {
        let along = |axis: usize| {
            ((f64::from(steps[axis]) / STEPS * size[axis] / cell) as usize).min(CELLS - 1)
        };
        let cell = &mut is_full[(along(0) * CELLS + along(1)) * CELLS + along(2)];
        full += usize::from(!*cell);
        *cell = true;
        count += 1;
    }
    cell * (full as f64 / count as f64).sqrt()
}

/// A block's points as the page reads them: for each of ten bytes of a point those of all points,
/// deflated with zlib's header.
///
/// The bytes are of differences to the point before: x, y, z (zigzag, low byte and high byte
/// each), green, red less green, blue less green, level.
fn encode(points: &Points, order: &[(u64, u32, [u16; 3])]) -> io::Result<Vec<u8>> {
    let count = order.len();
    let mut planes = vec![0; 10 * count];
    let mut last = ([0_u16; 3], [0_u8; 4]);
    for (at, (_, index, steps)) in order.iter().enumerate() {
        let [red, green, blue] = points.rgb[*index as usize];
        let bytes = [
            green,
            red.wrapping_sub(green),
            blue.wrapping_sub(green),
            points.levels[*index as usize],
        ];
        for axis in 0..3 {
            let change = steps[axis].wrapping_sub(last.0[axis]) as i16;
            let [low, high] = (change << 1 ^ change >> 15).to_le_bytes();
            planes[2 * axis * count + at] = low;
            planes[(2 * axis + 1) * count + at] = high;
        }
        for (plane, (value, before)) in (6..).zip(bytes.into_iter().zip(last.1)) {
            planes[plane * count + at] = value.wrapping_sub(before);
        }
        last = (*steps, bytes);
    }
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(7 * count), Compression::default());
    encoder.write_all(&planes)?;
    encoder.finish()
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Read as _;

    use super::*;

    /// Positions, colours and levels of a block, as the page decodes them.
    pub(in crate::export::viewer) fn decode(block: &Block) -> Vec<([f64; 3], [u8; 3], u8)> {
        let mut planes = Vec::new();
        flate2::read::ZlibDecoder::new(&block.bytes[..])
            .read_to_end(&mut planes)
            .unwrap();
        assert_eq!(planes.len(), 10 * block.count);
        let byte = |plane: usize, at: usize| planes[plane * block.count + at];
        let (mut steps, mut bytes) = ([0_u16; 3], [0_u8; 4]);
        (0..block.count)
            .map(|at| {
                for (axis, step) in steps.iter_mut().enumerate() {
                    let code = u16::from_le_bytes([byte(2 * axis, at), byte(2 * axis + 1, at)]);
                    let change = (code >> 1) ^ (code & 1).wrapping_neg();
                    *step = step.wrapping_add(change);
                }
                for (plane, value) in (6..).zip(&mut bytes) {
                    *value = value.wrapping_add(byte(plane, at));
                }
                let [green, red, blue, level] = bytes;
                let position = std::array::from_fn(|axis| {
                    block.low[axis] + f64::from(steps[axis]) / STEPS * block.size[axis]
                });
                let rgb = [red.wrapping_add(green), green, blue.wrapping_add(green)];
                (position, rgb, level)
            })
            .collect()
    }

    fn random(count: usize, position: impl Fn(&mut dyn FnMut() -> f64) -> [f64; 3]) -> Points {
        let mut random = crate::geometry::ransac::SplitMix::new();
        let positions: Vec<[f32; 3]> = (0..count)
            .map(|_| position(&mut || random.uniform()).map(|value| value as f32))
            .collect();
        Points {
            rgb: (0..count)
                .map(|index| [index as u8, (index >> 8) as u8, (index >> 16) as u8])
                .collect(),
            levels: (0..count).map(|index| (index * 7) as u8).collect(),
            positions,
        }
    }

    /// Every point comes back once, with its colour and level, no farther off than promised.
    fn check(points: &Points) -> Vec<Block> {
        let extent = Extent::of(&points.positions);
        let blocks = blocks(points, &extent).unwrap();
        let (middle, length) = (extent.middle(), extent.length());
        let mut seen = vec![false; points.positions.len()];
        for block in &blocks {
            assert!((1..=MOST_POINTS).contains(&block.count));
            for (found, rgb, level) in decode(block) {
                // Colours count the points.
                let index =
                    usize::from(rgb[0]) | usize::from(rgb[1]) << 8 | usize::from(rgb[2]) << 16;
                assert!(!std::mem::replace(&mut seen[index], true));
                assert_eq!(level, points.levels[index]);
                let position = points.positions[index].map(f64::from);
                let away = (0..3)
                    .map(|axis| (position[axis] - middle[axis]).abs())
                    .fold(0.0, f64::max);
                let bound = length.max(away) / (2.0 * STEPS);
                for axis in 0..3 {
                    let error = (found[axis] - position[axis]).abs();
                    assert!(error <= bound * (1.0 + 1e-9), "{error} > {bound}");
                }
            }
        }
        assert!(seen.into_iter().all(|seen| seen));
        blocks
    }

    #[test]
    fn positions_are_within_the_promised_error() {
        let blocks = check(&random(200_000, |random| [random(), 3.0 * random(), 0.1]));
        assert_eq!(blocks.len(), 4);
    }

    #[test]
    fn points_far_out_do_not_coarsen_the_others() {
        // A hundredth of the points lies up to 1e6 times as far away.
        let points = random(50_000, |random| {
            let far = if random() < 0.01 {
                10_f64.powf(6.0 * random())
            } else {
                1.0
            };
            [random() - 0.5, random() - 0.5, random() - 0.5].map(|value| value * far)
        });
        let blocks = check(&points);
        assert!(blocks.len() < 400, "{} blocks", blocks.len());
    }

    #[test]
    fn equal_points_and_single_ones_have_blocks() {
        check(&random(70_000, |_| [1.0, -2.0, 1e30]));
        check(&random(1, |_| [0.0; 3]));
        assert!(check(&random(0, |_| [0.0; 3])).is_empty());
    }

    #[test]
    fn spacing_is_that_of_a_grid() {
        let side = 200;
        let points = Points {
            positions: (0..side * side)
                .map(|index| {
                    [
                        (index % side) as f32 * 0.5,
                        (index / side) as f32 * 0.5,
                        3.0,
                    ]
                })
                .collect(),
            rgb: vec![[0; 3]; side * side],
            levels: vec![0; side * side],
        };
        let blocks = blocks(&points, &Extent::of(&points.positions)).unwrap();
        assert!(
            (blocks[0].spacing - 0.5).abs() < 0.02,
            "{}",
            blocks[0].spacing
        );
    }

    #[test]
    fn codes_interleave_bits() {
        assert_eq!(morton([1, 0, 0]), 1);
        assert_eq!(morton([0, 1, 0]), 2);
        assert_eq!(morton([0, 0, 2]), 32);
        let mut slow = 0;
        let steps = [0xbeef_u16, 0x1234, 0xffff];
        for bit in 0..16 {
            for (axis, value) in steps.iter().enumerate() {
                slow |= u64::from(value >> bit & 1) << (3 * bit + axis);
            }
        }
        assert_eq!(morton(steps), slow);
    }
}
