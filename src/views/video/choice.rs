//! Which frames of a video are used: the sharpest of each interval, without those that are blurred
//! or repeat the one before.
//!
//! Both measures are of the luma, downscaled until its long side has 640 pixels:
//!
//! - Sharpness: the mean of `|4 c - l - r - u - d|`, a Laplacian of a pixel and its neighbours.
//!   Blur of a few pixels divides it by several, and what the images show multiplies it by
//!   something else; so a frame counts as blurred only beside others: below 0.4 of the median of
//!   the ten around it, and never two in succession, so that no gap opens.
//! - Motion between two frames: `sum |a - b| / sum |gradient|` of the luma at a quarter of that
//!   size, after both were brought to the same mean and spread. Of a small shift this is the shift
//!   in pixels; here it is given as a share of the long side. Below 0.005 the camera has not moved.

/// Long side of the luma, in pixels.
pub(super) const LONG_SIDE: u32 = 640;
/// How much smaller the luma is that motion is measured on.
const SHRINK: usize = 4;
/// A frame whose sharpness is below this share of that around it is blurred.
const BLURRED: f64 = 0.4;
/// So many frames on either side are around a frame.
const AROUND: usize = 5;
/// A frame that moved by less than this share of its long side repeats the one before.
const STILL: f64 = 0.005;
/// By how much times of frames may be rounded, in seconds: some containers have milliseconds.
const ROUNDING: f64 = 1e-3;

/// Luma of a frame.
#[derive(Clone, Debug)]
pub(super) struct Luma {
    pub width: usize,
    pub levels: Vec<u8>,
}

impl Luma {
    fn sharpness(&self) -> f64 {
        let (mut sum, mut count) = (0_u64, 0_u64);
        let rows: Vec<&[u8]> = self.levels.chunks_exact(self.width.max(1)).collect();
        for three in rows.windows(3) {
            for x in 1..self.width.saturating_sub(1) {
                let at = |row: usize, x: usize| i32::from(three[row][x]);
                let laplacian = 4 * at(1, x) - at(1, x - 1) - at(1, x + 1) - at(0, x) - at(2, x);
                sum += u64::from(laplacian.unsigned_abs());
                count += 1;
            }
        }
        sum as f64 / count.max(1) as f64
    }

    fn thumbnail(&self) -> Thumbnail {
        let width = (self.width / SHRINK).max(1);
        let rows: Vec<&[u8]> = self.levels.chunks_exact(self.width.max(1)).collect();
        let mut levels = Vec::new();
        for band in rows.chunks_exact(SHRINK) {
            for x in 0..width {
                let cells = |row: &&[u8]| {
                    let cell = row.iter().skip(x * SHRINK).take(SHRINK);
                    cell.map(|level| f32::from(*level)).sum::<f32>()
                };
                levels.push(band.iter().map(cells).sum());
            }
        }
        // What exposure changes is no motion.
        let count = levels.len().max(1) as f32;
        let mean = levels.iter().sum::<f32>() / count;
        let spread = levels
            .iter()
            .map(|level| (level - mean).powi(2))
            .sum::<f32>()
            / count;
        let scale = 1.0 / spread.sqrt().max(f32::MIN_POSITIVE);
        levels
            .iter_mut()
            .for_each(|level| *level = (*level - mean) * scale);
        Thumbnail { width, levels }
    }
}

/// Luma with a mean of 0 and a spread of 1.
struct Thumbnail {
    width: usize,
    levels: Vec<f32>,
}

impl Thumbnail {
    /// Motion to another frame, as a share of the long side; 0 between frames without contrast.
    fn motion(&self, other: &Self) -> f64 {
        let height = self.levels.len() / self.width;
        let gradient = |thumbnail: &Self, at: usize| {
            let here = thumbnail.levels[at];
            let step = |to: usize| thumbnail.levels.get(to).map_or(0.0, |level| level - here);
            let right = if (at + 1).is_multiple_of(thumbnail.width) {
                0.0
            } else {
                step(at + 1)
            };
            right.hypot(step(at + thumbnail.width))
        };
        let (mut difference, mut slope) = (0.0, 0.0);
        for at in 0..self.levels.len().min(other.levels.len()) {
            difference += f64::from((self.levels[at] - other.levels[at]).abs());
            slope += 0.5 * f64::from(gradient(self, at) + gradient(other, at));
        }
        if slope > 0.0 {
            difference / slope / self.width.max(height) as f64
        } else {
            0.0
        }
    }
}

/// A frame that may be used.
struct Candidate {
    millis: u64,
    interval: u64,
    sharpness: f64,
    thumbnail: Thumbnail,
}

/// Takes frames one by one, and keeps the sharpest of each interval.
pub(super) struct Choice {
    /// Seconds.
    interval: f64,
    candidates: Vec<Candidate>,
    pub seen: usize,
    pub last_seconds: f64,
}

/// The frames to use, by their times.
#[derive(Debug, PartialEq)]
pub(super) struct Chosen {
    pub millis: Vec<u64>,
    pub blurred: usize,
    pub still: usize,
}

impl Choice {
    pub fn new(interval: f64) -> Self {
        Self {
            interval,
            candidates: Vec::new(),
            seen: 0,
            last_seconds: 0.0,
        }
    }

    pub fn add(&mut self, seconds: f64, luma: &Luma) {
        self.seen += 1;
        self.last_seconds = self.last_seconds.max(seconds);
        // What is shown before the start cannot be asked for.
        if seconds < 0.0 {
            return;
        }
        let millis = (seconds * 1000.0).round() as u64;
        let interval = ((seconds + ROUNDING) / self.interval) as u64;
        let sharpness = luma.sharpness();
        match self.candidates.last() {
            // Times of frames increase; two in a millisecond have one name.
            Some(last) if millis <= last.millis => return,
            Some(last) if last.interval == interval => {
                if sharpness <= last.sharpness {
                    return;
                }
                self.candidates.pop();
            }
            _ => {}
        }
        self.candidates.push(Candidate {
            millis,
            interval,
            sharpness,
            thumbnail: luma.thumbnail(),
        });
    }

    /// The frames to use, `most` of them at most; blurred and repeated ones too if `keep_all`.
    pub fn finish(self, most: Option<usize>, keep_all: bool) -> Chosen {
        let mut candidates = self.candidates;
        let (mut blurred, mut still) = (0, 0);
        if !keep_all {
            let sharpness: Vec<f64> = candidates.iter().map(|frame| frame.sharpness).collect();
            let mut was_dropped = false;
            let mut at = 0;
            candidates.retain(|frame| {
                was_dropped = !was_dropped && frame.sharpness < BLURRED * usual(&sharpness, at);
                blurred += usize::from(was_dropped);
                at += 1;
                !was_dropped
            });
            let mut moving: Vec<Candidate> = Vec::with_capacity(candidates.len());
            for frame in candidates {
                let motion = moving
                    .last()
                    .map(|last| last.thumbnail.motion(&frame.thumbnail));
                if motion.is_some_and(|motion| motion < STILL) {
                    still += 1;
                } else {
                    moving.push(frame);
                }
            }
            candidates = moving;
        }
        let millis = candidates.iter().map(|frame| frame.millis).collect();
        Chosen {
            millis: thinned(millis, most.unwrap_or(usize::MAX)),
            blurred,
            still,
        }
    }
}

/// The median sharpness around a frame.
fn usual(sharpness: &[f64], at: usize) -> f64 {
    let around = at.saturating_sub(AROUND)..sharpness.len().min(at + AROUND + 1);
    let mut around: Vec<f64> = sharpness[around].to_vec();
    around.sort_by(f64::total_cmp);
    around[around.len() / 2]
}

/// `most` of the values, evenly, the first and the last among them.
fn thinned(values: Vec<u64>, most: usize) -> Vec<u64> {
    if values.len() <= most {
        return values;
    }
    let last = (values.len() - 1) as f64;
    let step = last / (most.max(2) - 1) as f64;
    (0..most)
        .map(|at| values[(at as f64 * step).round() as usize])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pattern that is shifted by some pixels, and blurred over some.
    fn luma(shift: f64, blur: usize) -> Luma {
        pattern(shift, blur, 0.0)
    }

    /// The same with waves of nine pixels, of this height.
    fn pattern(shift: f64, blur: usize, fine: f64) -> Luma {
        let (width, height) = (640, 360);
        let level = |x: f64, y: f64| {
            let wave = (x / 7.0).sin() + (y / 5.0 + x / 31.0).sin() + (x / 2.5).cos() * 0.5;
            128.0 + (40.0 - fine / 2.0) * wave + fine * (0.6 * x + 0.4 * y).cos()
        };
        let pixel = |at: usize| {
            let (x, y) = ((at % width) as f64 + shift, (at / width) as f64);
            let taps = (0..=blur).map(|tap| level(x + tap as f64, y + tap as f64));
            (taps.sum::<f64>() / (blur + 1) as f64) as u8
        };
        Luma {
            width,
            levels: (0..width * height).map(pixel).collect(),
        }
    }

    fn choose(interval: f64, frames: &[(f64, f64, usize)], most: Option<usize>) -> Chosen {
        let mut choice = Choice::new(interval);
        for &(seconds, shift, blur) in frames {
            choice.add(seconds, &luma(shift, blur));
        }
        choice.finish(most, false)
    }

    #[test]
    fn the_sharpest_frame_of_each_interval_is_used() {
        let frames = [
            (0.0, 0.0, 6),
            (0.2, 20.0, 0),
            (0.4, 40.0, 3),
            (0.5, 60.0, 2),
            (0.9, 80.0, 1),
            // A gap, as of a variable frame rate.
            (2.1, 100.0, 0),
        ];
        assert_eq!(
            choose(0.5, &frames, None).millis,
            [200, 900, 2100],
            "by time and not by number"
        );
    }

    #[test]
    fn every_frame_is_used_at_the_rate_of_the_video() {
        // Every fifteenth of a second, in milliseconds.
        let frames: Vec<_> = (0..30)
            .map(|at| ((at as f64 / 0.015).round() / 1000.0, 20.0 * at as f64, 0))
            .collect();
        assert_eq!(choose(1.0 / 15.0, &frames, None).millis.len(), 30);
    }

    #[test]
    fn blurred_frames_are_left_out_but_never_two_in_a_row() {
        let mut choice = Choice::new(1.0);
        for at in 0..12 {
            let blur = if [3, 7, 8].contains(&at) { 9 } else { 0 };
            choice.add(at as f64, &pattern(27.0 * at as f64, blur, 15.0));
        }
        let chosen = choice.finish(None, false);
        assert_eq!(chosen.blurred, 2);
        assert_eq!(
            chosen.millis,
            [0, 1000, 2000, 4000, 5000, 6000, 8000, 9000, 10_000, 11_000]
        );
    }

    #[test]
    fn frames_of_a_camera_that_stands_still_are_left_out() {
        let frames: Vec<_> = [0.0, 0.0, 0.5, 1.0, 30.0, 30.2, 60.0]
            .iter()
            .enumerate()
            .map(|(at, shift)| (at as f64, *shift, 0))
            .collect();
        let chosen = choose(1.0, &frames, None);
        assert_eq!(
            (chosen.still, &chosen.millis[..]),
            (4, &[0, 4000, 6000][..])
        );
    }

    #[test]
    fn motion_is_the_shift_and_exposure_is_none() {
        let [still, moved] = [luma(0.0, 0), luma(4.0, 0)].map(|luma| luma.thumbnail());
        let motion = still.motion(&moved);
        assert!((motion - 4.0 / 640.0).abs() < 0.003, "{motion}");
        let mut dark = luma(0.0, 0);
        dark.levels
            .iter_mut()
            .for_each(|level| *level = 20 + *level / 2);
        assert!(still.motion(&dark.thumbnail()) < 0.001);
        let blank = Luma {
            width: 640,
            levels: vec![7; 640 * 360],
        };
        assert_eq!(blank.thumbnail().motion(&blank.thumbnail()), 0.0);
        assert_eq!(blank.sharpness(), 0.0);
    }

    #[test]
    fn no_more_frames_than_wanted_are_used() {
        let frames: Vec<_> = (0..9).map(|at| (at as f64, 20.0 * at as f64, 0)).collect();
        assert_eq!(
            choose(1.0, &frames, Some(5)).millis,
            [0, 2000, 4000, 6000, 8000]
        );
        assert_eq!(choose(1.0, &frames, Some(1)).millis, [0]);
        assert_eq!(choose(1.0, &frames, Some(90)).millis.len(), 9);
    }
}
