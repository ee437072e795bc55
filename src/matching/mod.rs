//! Which pixels of two pictures show the same point: reciprocal nearest neighbours among descriptors.
//!
//! ```text
//! DescriptorMap x 2 ── reciprocal_matches ──▶ Vec<Match>     both directions, weight = smaller confidence
//!                   └─ seed_matches ────────▶ pixel pairs    one direction
//! per decode x 2 ───── merge_decodes ───────▶ Vec<Match>     evidence of a pair, weight = geometric mean
//! ```

use crate::error::{Error, Result};

mod kernel;
mod nearest;
mod reciprocal;

pub use reciprocal::{merge_decodes, nearest_neighbors, reciprocal_matches, seed_matches};

/// Most channels a descriptor may have; keeps the integer sums of the search inside 32 bits.
const MOST_CHANNELS: usize = 1024;

/// Column and row of a pixel, counted from 0 at the top left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pixel {
    /// Column.
    pub x: u32,
    /// Row.
    pub y: u32,
}

/// Two pixels that show the same point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    /// In the first picture.
    pub first: Pixel,
    /// In the second picture.
    pub second: Pixel,
    /// How much to trust it, from the two descriptor confidences.
    pub confidence: f32,
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
    /// `(height, width, channels)`, row major; unit vectors by convention, but any finite nonzero vectors will do.
    pub descriptors: &'a [f32],
    /// `(height, width)`, row major.
    pub confidence: &'a [f32],
}

/// How matches are looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatchOptions {
    /// Distance between the seeds of the grid, in pixels.
    pub subsample: usize,
    /// Most trips from a picture to the other and back before a seed that still moves is given up.
    pub rounds: usize,
    /// If given, each seed makes one trip and counts, where it stands, if it comes back within this many pixels.
    pub tolerance: Option<f64>,
    /// Matches nearer to a picture's border than this many pixels are dropped.
    pub border: u32,
}

impl Default for MatchOptions {
    fn default() -> Self {
        Self { subsample: 8, rounds: 10, tolerance: None, border: 0 }
    }
}

impl MatchOptions {
    fn check(&self) -> Result<()> {
        for (name, value) in [("subsample", self.subsample), ("rounds", self.rounds)] {
            if value == 0 {
                return Err(Error::Usage(format!("matching: {name} must be at least 1, got 0")));
            }
        }
        if let Some(pixels) = self.tolerance.filter(|pixels| !pixels.is_finite() || *pixels < 0.0) {
            return Err(Error::Usage(format!("matching: tolerance must be zero or more pixels, got {pixels}")));
        }
        Ok(())
    }
}

impl DescriptorMap<'_> {
    fn pixels(&self) -> usize {
        self.width * self.height
    }

    fn descriptor(&self, pixel: usize) -> &[f32] {
        &self.descriptors[pixel * self.channels..][..self.channels]
    }

    fn at(&self, index: u32) -> Pixel {
        Pixel { x: index % self.width as u32, y: index / self.width as u32 }
    }

    /// Mean descriptor of every eighth column and row; near enough to the true mean for its only use, centring.
    fn mean(&self) -> Vec<f32> {
        let mut sum = vec![0f64; self.channels];
        let mut count = 0.0;
        for y in (0..self.height).step_by(8) {
            for x in (0..self.width).step_by(8) {
                count += 1.0;
                for (sum, &value) in sum.iter_mut().zip(self.descriptor(y * self.width + x)) {
                    *sum += f64::from(value);
                }
            }
        }
        sum.into_iter().map(|sum| (sum / count) as f32).collect()
    }

    /// Rejects maps whose sizes disagree and values that have no nearest neighbour; `whose` names the map.
    fn check(&self, whose: &str) -> Result<()> {
        let sizes = || format!("{whose} map of {}x{} pixels with {} channels", self.width, self.height, self.channels);
        let pixels = self.width.checked_mul(self.height).filter(|&pixels| pixels > 0 && pixels < u32::MAX as usize);
        let Some(pixels) = pixels.filter(|_| (1..=MOST_CHANNELS).contains(&self.channels)) else {
            return Err(Error::Usage(format!("matching: {} cannot be searched", sizes())));
        };
        for (what, got, wanted) in [
            ("descriptor numbers", self.descriptors.len(), pixels.saturating_mul(self.channels)),
            ("confidences", self.confidence.len(), pixels),
        ] {
            if got != wanted {
                return Err(Error::Usage(format!("matching: {} needs {wanted} {what}, got {got}", sizes())));
            }
        }
        let lengthless = self
            .descriptors
            .chunks_exact(self.channels)
            .filter(|descriptor| !nearest::score(descriptor, descriptor).is_normal())
            .count();
        let not_finite = |what: &str, count, hint: &str| Error::NotFinite {
            what: format!("{what} of the {whose} view"),
            count,
            total: pixels,
            hint: hint.to_owned(),
        };
        if lengthless > 0 {
            let hint = "a descriptor must have a finite, nonzero length; is this the right checkpoint, and does the \
                        run in single precision fare better?";
            return Err(not_finite("descriptor directions", lengthless, hint));
        }
        let undefined = self.confidence.iter().filter(|confidence| !confidence.is_finite()).count();
        if undefined > 0 {
            return Err(not_finite("descriptor confidences", undefined, "does the run in single precision fare better?"));
        }
        Ok(())
    }
}
