//! Cases of sampling at given places.

use super::{Expected, F32_ROUNDING, Lie, Random, Source};

/// A map `(batch, height, width, channels)` and the places `(batch, to_height, to_width, 2)` where
/// it is read.
pub struct Case {
    pub name: String,
    pub input: Source,
    pub grid: Source,
    /// The nearest pixel of the edge outside, else zeros.
    pub border: bool,
    pub align_corners: bool,
}

impl Case {
    /// The samples of `input`, its values row major, as PyTorch documents
    /// `grid_sample(mode="bilinear")`; a coordinate that is not a number is outside, or 0 with the
    /// border.
    pub fn expected(&self, input: &[f64]) -> Vec<Expected> {
        let dims = self.input.dims();
        let (height, width, channels) = (dims[1], dims[2], dims[3]);
        let grid = self.grid.view();
        let places: Vec<f64> = grid
            .indices()
            .iter()
            .map(|&index| f64::from(self.grid.values[index]))
            .collect();
        let largest = input.iter().fold(0f64, |most, value| most.max(value.abs()));
        let mut out = Vec::new();
        for (index, place) in places.chunks_exact(2).enumerate() {
            let image = &input[index / (grid.dims[1] * grid.dims[2]) * height * width * channels..];
            let (x, y) = (self.pixel(place[0], width), self.pixel(place[1], height));
            // The place along an axis is three roundings off; what is seen of the map changes there
            // by at most twice its largest value a pixel. Then four products of weights and pixels,
            // and their sum.
            let reach = |pixel: f64, size: usize| pixel.abs().min(size as f64) + 1.;
            let places = 3. * (reach(x, width) + reach(y, height));
            let slack = F32_ROUNDING * largest * (2. * places + 8.);
            for channel in 0..channels {
                let mut value = 0.;
                for row in 0..height {
                    for column in 0..width {
                        // A pixel's weight falls from 1 at its centre to 0 at the next one's.
                        let weight = (1. - (x - column as f64).abs()).max(0.)
                            * (1. - (y - row as f64).abs()).max(0.);
                        if weight > 0. {
                            value += weight * image[(row * width + column) * channels + channel];
                        }
                    }
                }
                out.push(Expected { value, slack });
            }
        }
        out
    }

    /// The pixel coordinate of a place along an axis; far outside if it is not a number.
    fn pixel(&self, place: f64, size: usize) -> f64 {
        let size = size as f64;
        let pixel = if self.align_corners {
            (place + 1.) / 2. * (size - 1.)
        } else {
            ((place + 1.) * size - 1.) / 2.
        };
        match self.border {
            true if pixel.is_nan() => 0.,
            true => pixel.clamp(0., size - 1.),
            false if pixel.is_nan() => f64::NEG_INFINITY,
            false => pixel,
        }
    }
}

/// Kinds of places, `(x, y)` each.
#[derive(Clone, Copy, Debug)]
enum Places {
    /// Over the map and a little beyond.
    Around,
    /// On corners, edges, centres of pixels, and just inside and outside of them.
    Edges,
    /// Infinite, not a number, and far outside.
    Hostile,
}

impl Places {
    fn coordinates(self, size: usize) -> Vec<f32> {
        let pixel = 2. / size as f32;
        match self {
            Self::Around => vec![],
            Self::Edges => vec![
                -1.,
                1.,
                0.,
                -0.,
                1. - pixel / 2.,
                pixel / 2. - 1.,
                1. + pixel / 2.,
                -1. - pixel / 2.,
                1. + pixel,
                -1. - pixel,
                1.0f32.next_up(),
                (-1.0f32).next_down(),
                1.0f32.next_down(),
            ],
            Self::Hostile => {
                vec![
                    f32::NAN,
                    f32::INFINITY,
                    f32::NEG_INFINITY,
                    f32::MAX,
                    f32::MIN,
                    3e9,
                    -3e9,
                    1e5,
                    0.25,
                    1.,
                    -7.5,
                ]
            }
        }
    }
}

/// Channel counts of and off vector widths.
const CHANNELS: [usize; 7] = [1, 2, 3, 5, 17, 128, 256];

/// Both paddings and both conventions: every channel count with every kind of places, every lie in
/// memory, and maps of one row or column.
pub fn cases() -> Vec<Case> {
    let mut random = Random::new(3);
    let mut cases = Vec::new();
    let mut add = |lie: Lie,
                   dims: [usize; 4],
                   kind: Places,
                   [to_height, to_width]: [usize; 2],
                   grid_lie: Lie| {
        for (border, align_corners) in [(false, false), (false, true), (true, false), (true, true)]
        {
            let input = lie.source(dims, 2., &mut random);
            let mut grid = grid_lie.source([dims[0], to_height, to_width, 2], 1.4, &mut random);
            let view = grid.view();
            let (xs, ys) = (kind.coordinates(dims[2]), kind.coordinates(dims[1]));
            for (place, index) in view
                .indices()
                .chunks_exact(2)
                .map(|pair| [pair[0], pair[1]])
                .enumerate()
            {
                if !xs.is_empty() {
                    grid.values[index[0]] = xs[place % xs.len()];
                    grid.values[index[1]] = ys[place / xs.len() % ys.len()];
                }
            }
            let name = format!(
                "{dims:?} {lie:?} at {kind:?} [{to_height}, {to_width}] {grid_lie:?} border={border} \
                 align_corners={align_corners}"
            );
            cases.push(Case {
                name,
                input,
                grid,
                border,
                align_corners,
            });
        }
    };
    for channels in CHANNELS {
        add(
            Lie::Contiguous,
            [2, 5, 7, channels],
            Places::Around,
            [6, 4],
            Lie::Contiguous,
        );
        add(
            Lie::Contiguous,
            [1, 5, 7, channels],
            Places::Edges,
            [13, 13],
            Lie::Contiguous,
        );
        add(
            Lie::Contiguous,
            [1, 4, 3, channels],
            Places::Hostile,
            [11, 11],
            Lie::Contiguous,
        );
        for lie in Lie::ALL {
            add(
                lie,
                [2, 4, 3, channels],
                Places::Around,
                [2, 5],
                Lie::Contiguous,
            );
        }
    }
    for lie in Lie::ALL {
        add(Lie::Contiguous, [2, 4, 3, 5], Places::Around, [2, 5], lie);
    }
    for (size, kind) in [
        ([1, 6], Places::Edges),
        ([4, 1], Places::Edges),
        ([1, 1], Places::Hostile),
    ] {
        add(
            Lie::Contiguous,
            [1, size[0], size[1], 3],
            kind,
            [13, 13],
            Lie::Contiguous,
        );
    }
    add(
        Lie::Contiguous,
        [1, 1, 1, 3],
        Places::Edges,
        [13, 13],
        Lie::Contiguous,
    );
    // Enlarging and shrinking through a grid.
    add(
        Lie::Contiguous,
        [1, 6, 5, 8],
        Places::Around,
        [24, 20],
        Lie::Contiguous,
    );
    add(
        Lie::Contiguous,
        [1, 24, 20, 8],
        Places::Around,
        [3, 1],
        Lie::Contiguous,
    );
    cases
}
