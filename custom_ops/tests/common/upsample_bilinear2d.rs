//! Cases of bilinear resampling.

use super::{Expected, F32_ROUNDING, Lie, Random, Source};

/// A map `(batch, height, width, channels)` and the size it is brought to.
pub struct Case {
    pub name: String,
    pub input: Source,
    /// Height and width.
    pub to: [usize; 2],
    pub align_corners: bool,
}

impl Case {
    /// The resampled map for `input`, its values row major, as PyTorch documents
    /// `interpolate(mode="bilinear")`.
    pub fn expected(&self, input: &[f64]) -> Vec<Expected> {
        let dims = self.input.dims();
        let (height, width, channels) = (dims[1], dims[2], dims[3]);
        let largest = input.iter().fold(0f64, |most, value| most.max(value.abs()));
        let mut out = Vec::new();
        for image in input.chunks_exact(height * width * channels) {
            let pixel = |row: usize, column: usize, channel: usize| {
                image[(row * width + column) * channels + channel]
            };
            for row in 0..self.to[0] {
                let y = self.place(row, height, self.to[0]);
                let (top, down) = (y.floor() as usize, y.fract());
                let bottom = (top + 1).min(height - 1);
                for column in 0..self.to[1] {
                    let x = self.place(column, width, self.to[1]);
                    let (left, across) = (x.floor() as usize, x.fract());
                    let right = (left + 1).min(width - 1);
                    // The place along an axis is three roundings off, and the map's slope is at
                    // most twice its largest value; then two blends of three roundings each.
                    let places = 3. * (y + 1.) + 3. * (x + 1.);
                    let slack = F32_ROUNDING * largest * (2. * places + 8.);
                    for channel in 0..channels {
                        let value = (1. - down) * (1. - across) * pixel(top, left, channel)
                            + (1. - down) * across * pixel(top, right, channel)
                            + down * (1. - across) * pixel(bottom, left, channel)
                            + down * across * pixel(bottom, right, channel);
                        out.push(Expected { value, slack });
                    }
                }
            }
        }
        out
    }

    fn place(&self, target: usize, from: usize, to: usize) -> f64 {
        let (target, from, to) = (target as f64, from as f64, to as f64);
        let place = match self.align_corners {
            true if to > 1. => target * (from - 1.) / (to - 1.),
            true => 0.,
            false => ((target + 0.5) * from / to - 0.5).max(0.),
        };
        place.min(from - 1.)
    }
}

/// Channel counts of and off vector widths.
const CHANNELS: [usize; 7] = [1, 2, 3, 5, 17, 128, 256];

/// Both conventions: every channel count with every pair of sizes, and with every lie in memory.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(2);
    let mut cases = Vec::new();
    let mut add = |lie: Lie, dims: [usize; 4], to: [usize; 2]| {
        for align_corners in [false, true] {
            let input = lie.source(dims, 2., &mut random);
            let name = format!("{dims:?} {lie:?} to {to:?} align_corners={align_corners}");
            cases.push(Case {
                name,
                input,
                to,
                align_corners,
            });
        }
    };
    let sizes = [
        ([5, 7], [10, 14]),
        ([4, 8], [7, 14]),
        ([1, 9], [2, 18]),
        ([9, 1], [4, 3]),
        ([12, 10], [5, 3]),
        ([6, 5], [6, 5]),
        ([6, 5], [1, 1]),
        ([1, 1], [3, 2]),
        ([3, 4], [8, 2]),
    ];
    for channels in CHANNELS {
        for ([height, width], to) in sizes {
            add(Lie::Contiguous, [2, height, width, channels], to);
        }
        for lie in Lie::ALL {
            add(lie, [2, 4, 3, channels], [7, 6]);
        }
    }
    add(Lie::Contiguous, [1, 24, 32, 256], [48, 64]);
    cases
}
