//! Cases of the ops as plain numbers: inputs, parameters, and the results of a plain loop in f64.
//!
//! Nothing here knows a tensor library, so that a kernel in any language can be run over the same
//! cases.

#![allow(dead_code)] // Each test uses its part.

pub mod grid_sample;
pub mod rope2d;
pub mod upsample_bilinear2d;

/// The largest relative error of rounding to float32, `2^-24`.
pub const F32_ROUNDING: f64 = 1. / (1 << 24) as f64;

/// A result in exact arithmetic and how far float32 arithmetic may be from it, before a last
/// rounding to the dtype of the output.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub value: f64,
    pub slack: f64,
}

/// Numbers from a fixed seed (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `-reach` to `reach`.
    pub fn within(&mut self, reach: f32) -> f32 {
        ((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.) * reach
    }

    pub fn values(&mut self, count: usize, reach: f32) -> Vec<f32> {
        (0..count).map(|_| self.within(reach)).collect()
    }
}

/// One step from a contiguous tensor to a view of it.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Narrow {
        axis: usize,
        start: usize,
        length: usize,
    },
    /// Drops the axis.
    Select {
        axis: usize,
        index: usize,
    },
    Transpose(usize, usize),
    /// Repeats an axis of length 1 without a copy.
    Repeat {
        axis: usize,
        count: usize,
    },
}

/// Where the elements of a view lie; strides and offset in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strided {
    pub dims: Vec<usize>,
    pub strides: Vec<usize>,
    pub offset: usize,
}

impl Strided {
    /// Elements, row major.
    pub fn indices(&self) -> Vec<usize> {
        let mut indices = vec![self.offset];
        for (&dim, &stride) in self.dims.iter().zip(&self.strides) {
            indices = indices
                .iter()
                .flat_map(|&index| (0..dim).map(move |i| index + i * stride))
                .collect();
        }
        indices
    }
}

/// A contiguous tensor and the view of it that an op is given.
#[derive(Clone, Debug)]
pub struct Source {
    /// The whole tensor's shape.
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
    pub steps: Vec<Step>,
}

impl Source {
    /// The view after all steps.
    pub fn view(&self) -> Strided {
        let mut dims = self.shape.clone();
        let mut strides = vec![1; dims.len()];
        for axis in (1..dims.len()).rev() {
            strides[axis - 1] = strides[axis] * dims[axis];
        }
        let mut offset = 0;
        for step in &self.steps {
            match *step {
                Step::Narrow {
                    axis,
                    start,
                    length,
                } => {
                    assert!(start + length <= dims[axis], "{step:?} of {dims:?}");
                    offset += start * strides[axis];
                    dims[axis] = length;
                }
                Step::Select { axis, index } => {
                    assert!(index < dims[axis], "{step:?} of {dims:?}");
                    offset += index * strides[axis];
                    dims.remove(axis);
                    strides.remove(axis);
                }
                Step::Transpose(a, b) => {
                    dims.swap(a, b);
                    strides.swap(a, b);
                }
                Step::Repeat { axis, count } => {
                    assert_eq!(dims[axis], 1, "{step:?} of {dims:?}");
                    (dims[axis], strides[axis]) = (count, 0);
                }
            }
        }
        Strided {
            dims,
            strides,
            offset,
        }
    }

    pub fn dims(&self) -> Vec<usize> {
        self.view().dims
    }
}

/// The ways in which a tensor of four axes lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    Contiguous,
    /// The second of three along a new axis 2, as `k` in a fused projection.
    Third,
    /// Axes 1 and 2 exchanged, as `(batch, heads, tokens, dim)`.
    Exchanged,
    /// A part of larger axes 1 and 2, from an odd offset on.
    Narrowed,
    /// A part of a larger last axis, from an odd offset on.
    NarrowedChannels,
    /// One entry for the whole batch.
    Repeated,
    /// The last axis is not the one whose elements are neighbours: a channels-first map.
    ChannelsFirst,
    /// The last axis is second to last in memory.
    ChannelsBeforeLast,
}

impl Lie {
    pub const ALL: [Self; 8] = [
        Self::Contiguous,
        Self::Third,
        Self::Exchanged,
        Self::Narrowed,
        Self::NarrowedChannels,
        Self::Repeated,
        Self::ChannelsFirst,
        Self::ChannelsBeforeLast,
    ];

    /// Values from `-reach` to `reach` seen as `[a, b, c, d]`.
    pub fn source(self, [a, b, c, d]: [usize; 4], reach: f32, random: &mut Random) -> Source {
        let (shape, steps) = match self {
            Self::Contiguous => (vec![a, b, c, d], vec![]),
            Self::Third => (
                vec![a, b, 3, c, d],
                vec![Step::Select { axis: 2, index: 1 }],
            ),
            Self::Exchanged => (vec![a, c, b, d], vec![Step::Transpose(1, 2)]),
            Self::Narrowed => (
                vec![a, b + 3, c + 2, d],
                vec![
                    Step::Narrow {
                        axis: 1,
                        start: 2,
                        length: b,
                    },
                    Step::Narrow {
                        axis: 2,
                        start: 1,
                        length: c,
                    },
                ],
            ),
            Self::NarrowedChannels => (
                vec![a, b, c, d + 4],
                vec![Step::Narrow {
                    axis: 3,
                    start: 3,
                    length: d,
                }],
            ),
            Self::Repeated => (vec![1, b, c, d], vec![Step::Repeat { axis: 0, count: a }]),
            Self::ChannelsFirst => (
                vec![a, d, b, c],
                vec![Step::Transpose(1, 2), Step::Transpose(2, 3)],
            ),
            Self::ChannelsBeforeLast => (vec![a, b, d, c], vec![Step::Transpose(2, 3)]),
        };
        let values = random.values(shape.iter().product(), reach);
        Source {
            shape,
            values,
            steps,
        }
    }
}
