//! Which pixels of two images show the same point: reciprocal nearest neighbours among
//! descriptors.
//!
//! ```text
//! DescriptorMap x 2 ── reciprocal_matches ──▶ Vec<Match>     both directions, weight = smaller confidence
//!                   └─ seed_matches ────────▶ pixel pairs    one direction
//! per decode x 2 ───── merge_decodes ───────▶ Vec<Match>     evidence of a pair, weight = geometric mean
//! ```
//!
//! Where a GPU searched, [`Settled`] seeds take the place of descriptors: [`settled_matches`],
//! [`merge_settled`].

use std::ops::RangeInclusive;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

mod kernel;
mod maps;
mod nearest;
#[cfg(test)]
pub(crate) mod random;
mod reciprocal;

pub use maps::ViewMaps;
pub use reciprocal::{
    Settled, SettledSeed, merge_decodes, merge_settled, nearest_neighbors, reciprocal_matches,
    seed_matches, seeds, settled_matches,
};

/// Most channels a descriptor may have; keeps the integer sums of the search inside 32 bits.
const MOST_CHANNELS: usize = 1024;

/// Squared lengths that a descriptor may have. Unit length is meant; the range leaves room for
/// rounding and for tests, and keeps the bounds of the search clear of overflow.
const USABLE_SQUARES: RangeInclusive<f32> = 1e-6..=1e6;

/// Column and row of a pixel, counted from 0 at the top left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pixel {
    /// Column.
    pub x: u32,
    /// Row.
    pub y: u32,
}

impl Pixel {
    /// Column and row.
    pub fn xy(self) -> [u32; 2] {
        [self.x, self.y]
    }
}

/// Two pixels that show the same point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    /// In the first image.
    pub first: Pixel,
    /// In the second image.
    pub second: Pixel,
    /// How much to trust it, from the two descriptor confidences.
    pub confidence: f32,
}

/// The matches of two views among many.
#[derive(Clone, Debug, PartialEq)]
pub struct PairMatches {
    /// Indices of the first and of the second view.
    pub views: [usize; 2],
    /// Pixels of both that show the same point.
    pub matches: Vec<Match>,
}

/// One view's descriptors, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct DescriptorMap<'a> {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Numbers per descriptor.
    pub channels: usize,
    /// `(height, width, channels)`, row major; unit vectors, though lengths from 0.001 to 1000 are
    /// taken as they are.
    pub descriptors: &'a [f32],
    /// `(height, width)`, row major.
    pub confidence: &'a [f32],
}

/// The pixels of one view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raster {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Raster {
    fn at(&self, index: u32) -> Pixel {
        Pixel {
            x: index % self.width as u32,
            y: index / self.width as u32,
        }
    }

    /// Whether a pixel is `border` pixels or more from the image's border.
    fn is_inside(&self, index: u32, border: u32) -> bool {
        let Pixel { x, y } = self.at(index);
        let within = |value: u32, size: usize| {
            value >= border && u64::from(value) + u64::from(border) < size as u64
        };
        within(x, self.width) && within(y, self.height)
    }
}

/// How matches are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatchOptions {
    /// Distance between the seeds of the grid, in pixels.
    pub subsample: usize,
    /// Most trips from an image to the other and back before a seed that still moves is given up.
    pub rounds: usize,
    /// If given, each seed makes one trip and counts, where it stands, if it comes back less than
    /// this many pixels away.
    pub tolerance: Option<f64>,
    /// Matches nearer to an image's border than this many pixels are dropped.
    pub border: u32,
}

impl Default for MatchOptions {
    fn default() -> Self {
        Self {
            subsample: 8,
            rounds: 10,
            tolerance: None,
            border: 0,
        }
    }
}

impl MatchOptions {
    pub(crate) fn check(&self) -> Result<()> {
        for (name, value) in [("subsample", self.subsample), ("rounds", self.rounds)] {
            if value == 0 {
                return Err(Error::Usage(format!(
                    "matching: {name} must be at least 1, got 0"
                )));
            }
        }
        if let Some(pixels) = self
            .tolerance
            .filter(|pixels| !(pixels.is_finite() && *pixels > 0.0))
        {
            return Err(Error::Usage(format!(
                "matching: tolerance must be a positive number of pixels, got {pixels}"
            )));
        }
        Ok(())
    }
}

impl<'a> DescriptorMap<'a> {
    /// Its pixels.
    pub fn raster(&self) -> Raster {
        Raster {
            width: self.width,
            height: self.height,
        }
    }

    fn pixels(&self) -> usize {
        self.width * self.height
    }

    fn descriptor(&self, pixel: usize) -> &[f32] {
        &self.descriptors[pixel * self.channels..][..self.channels]
    }

    /// Rejects maps whose sizes disagree and values that have no nearest neighbor; `whose` names
    /// the map.
    fn check(&self, whose: &str) -> Result<()> {
        let sizes = || {
            format!(
                "{whose} map of {}x{} pixels with {} channels",
                self.width, self.height, self.channels
            )
        };
        let pixels = self
            .width
            .checked_mul(self.height)
            .filter(|&pixels| pixels > 0 && pixels < u32::MAX as usize);
        let Some(pixels) = pixels.filter(|_| (1..=MOST_CHANNELS).contains(&self.channels)) else {
            return Err(Error::Usage(format!(
                "matching: {} cannot be searched",
                sizes()
            )));
        };
        for (what, got, wanted) in [
            (
                "descriptor numbers",
                self.descriptors.len(),
                pixels.saturating_mul(self.channels),
            ),
            ("confidences", self.confidence.len(), pixels),
        ] {
            if got != wanted {
                return Err(Error::Usage(format!(
                    "matching: {} needs {wanted} {what}, got {got}",
                    sizes()
                )));
            }
        }
        let undefined = self
            .confidence
            .iter()
            .filter(|confidence| !confidence.is_finite())
            .count();
        if undefined > 0 {
            return Err(undefined_confidences(whose, undefined, pixels));
        }
        Ok(())
    }
}

/// For `count` confidences of `total` that are not finite, of the `whose` view.
pub(crate) fn undefined_confidences(whose: &str, count: usize, total: usize) -> Error {
    Error::NotFinite {
        what: format!("descriptor confidences of the {whose} view"),
        count,
        total,
        hint: "try precision f32".to_owned(),
    }
}

/// For `count` descriptors of `total` that have no nearest neighbour, of the `whose` view.
pub(crate) fn unusable_descriptors(whose: &str, count: usize, total: usize) -> Error {
    Error::NotFinite {
        what: format!("descriptor directions of the {whose} view"),
        count,
        total,
        hint:
            "descriptors must have about unit length; try precision f32, and check that this is the right checkpoint"
                .to_owned(),
    }
}

/// A map fit to be searched, and the range of its values.
struct Checked<'a> {
    map: DescriptorMap<'a>,
    /// At least the largest length of a descriptor.
    length: f32,
    /// Near the mean descriptor.
    mean: Vec<f32>,
    /// Largest magnitude of a component less the mean's.
    component: f32,
}

/// The range of some descriptors' values.
struct Range {
    low: Vec<f32>,
    high: Vec<f32>,
    square: f32,
    unusable: usize,
}

impl Range {
    fn none(channels: usize) -> Self {
        Self {
            low: vec![f32::INFINITY; channels],
            high: vec![f32::NEG_INFINITY; channels],
            square: 0.0,
            unusable: 0,
        }
    }

    fn with(mut self, descriptor: &[f32]) -> Self {
        let square = nearest::score(descriptor, descriptor);
        if USABLE_SQUARES.contains(&square) {
            self.square = self.square.max(square);
        } else {
            self.unusable += 1;
        }
        // Comparisons instead of `min` and `max`: one instruction each, and what NaN does to them
        // does not matter.
        for ((low, high), &value) in self.low.iter_mut().zip(&mut self.high).zip(descriptor) {
            *low = if value < *low { value } else { *low };
            *high = if value > *high { value } else { *high };
        }
        self
    }

    fn joined(mut self, other: &Self) -> Self {
        for (mine, theirs) in self.low.iter_mut().zip(&other.low) {
            *mine = mine.min(*theirs);
        }
        for (mine, theirs) in self.high.iter_mut().zip(&other.high) {
            *mine = mine.max(*theirs);
        }
        Self {
            square: self.square.max(other.square),
            unusable: self.unusable + other.unusable,
            ..self
        }
    }
}

impl<'a> Checked<'a> {
    fn new(map: &DescriptorMap<'a>, whose: &str) -> Result<Self> {
        map.check(whose)?;
        let none = || Range::none(map.channels);
        let range = map
            .descriptors
            .par_chunks(map.width * map.channels)
            .map(|row| row.chunks_exact(map.channels).fold(none(), Range::with))
            .reduce(none, |range, other| range.joined(&other));
        if range.unusable > 0 {
            return Err(unusable_descriptors(whose, range.unusable, map.pixels()));
        }
        let mean = sampled_mean(map);
        let component = (range.low.iter().zip(&range.high).zip(&mean))
            .map(|((low, high), mean)| (high - mean).max(mean - low))
            .fold(0.0, f32::max);
        Ok(Self {
            map: *map,
            length: range.square.sqrt() * 1.0001,
            mean,
            component,
        })
    }
}

/// Mean descriptor of every eighth column and row; near enough to the true mean for its only use,
/// centering.
fn sampled_mean(map: &DescriptorMap<'_>) -> Vec<f32> {
    let mut sum = vec![0f64; map.channels];
    let mut count = 0.0;
    for y in (0..map.height).step_by(8) {
        for x in (0..map.width).step_by(8) {
            count += 1.0;
            for (sum, &value) in sum.iter_mut().zip(map.descriptor(y * map.width + x)) {
                *sum += f64::from(value);
            }
        }
    }
    sum.into_iter().map(|sum| (sum / count) as f32).collect()
}
