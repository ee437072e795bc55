//! Everything that all pairs say about one view: a depth per pixel and its focal length.
//!
//! Maps of one view come from many decodes, each in its own units. Every map is brought to the
//! units of the view's first one by the median ratio of their depths and then averaged, in
//! logarithms, with weight confidence - 1. Gross errors are kept out: a pixel holds two hypotheses
//! about its depth, a new value joins the one it agrees with, and the one that gathered more weight
//! wins. So the maps pass one by one, and memory does not grow with their number.

use crate::geometry::{PointMap, median, weiszfeld};

/// Depths further apart than this, as a difference of logarithms, speak for different surfaces.
const LARGEST_GAP: f32 = 0.14;
/// Pixels that two maps are compared by, about.
const SAMPLES: usize = 4096;
/// Pixels that a focal length is found by at most; their errors are alike near by, so that more
/// would tell little more.
const FOCAL_SAMPLES: usize = 4096;
/// Focal lengths beyond these, in long sides of the image, are no camera's (170 and 1 degrees
/// wide).
const FOCAL_RANGE: [f64; 2] = [0.04, 60.0];

/// One surface that a pixel may show.
#[derive(Clone, Copy, Debug, Default)]
struct Hypothesis {
    weight: f32,
    /// Weighted sums.
    log_depth: f32,
    confidence: f32,
}

impl Hypothesis {
    fn add(&mut self, log_depth: f32, confidence: f32) {
        let weight = confidence_weight(confidence);
        self.weight += weight;
        self.log_depth += weight * log_depth;
        self.confidence += weight * confidence;
    }

    /// How far `log_depth` is from the mean so far; endless from nothing.
    fn gap(&self, log_depth: f32) -> f32 {
        if self.weight > 0.0 {
            (self.log_depth / self.weight - log_depth).abs()
        } else {
            f32::INFINITY
        }
    }
}

/// A view's depths while its maps pass.
#[derive(Clone, Debug)]
pub(super) struct CanonicalView {
    pub width: usize,
    pub height: usize,
    pixels: Vec<[Hypothesis; 2]>,
    /// Logarithm of the focal length that each of the view's own maps speaks for.
    pub log_focals: Vec<f64>,
    /// Whether a map has been added.
    is_known: bool,
}

/// A view's depths once all maps have passed, in units of its own.
#[derive(Clone, Debug)]
pub(super) struct CanonicalDepth {
    /// NaN where nothing is known.
    pub log_depth: Vec<f32>,
    /// 1 where nothing is known.
    pub confidence: Vec<f32>,
    /// Logarithm of the median depth.
    pub log_median: f64,
}

/// Some depths of a map, kept to be compared with what all maps together say.
#[derive(Clone, Debug, Default)]
pub(super) struct DepthSample(Vec<f32>);

impl DepthSample {
    pub fn new(map: &PointMap) -> Self {
        Self(
            sampled(map.points.len(), SAMPLES)
                .map(|pixel| log_depth(map.points[pixel][2]))
                .collect(),
        )
    }

    /// Of the logarithms of a map's depths.
    pub fn of_depths(log_depths: &[f32]) -> Self {
        Self(
            sampled(log_depths.len(), SAMPLES)
                .map(|pixel| log_depths[pixel])
                .collect(),
        )
    }

    /// Share of the depths that agree with those of the view, in units in which most of them do.
    pub fn agreement(&self, view: &CanonicalDepth) -> f64 {
        let gaps = || {
            let pixels = sampled(view.log_depth.len(), SAMPLES).zip(&self.0);
            pixels
                .map(|(pixel, value)| value - view.log_depth[pixel])
                .filter(|gap| !gap.is_nan())
        };
        let Some(typical) = median(gaps().map(f64::from)) else {
            return 0.0;
        };
        let agreeing = gaps()
            .filter(|gap| (gap - typical as f32).abs() <= LARGEST_GAP)
            .count();
        agreeing as f64 / gaps().count() as f64
    }
}

/// Logarithms of depths; NaN for what is not above zero and finite, or whose confidence is not
/// finite.
pub(super) fn log_depths(depths: impl Iterator<Item = f32>, confidence: &[f32]) -> Vec<f32> {
    let value = |(depth, confidence): (f32, &f32)| {
        if confidence.is_finite() {
            log_depth(depth)
        } else {
            f32::NAN
        }
    };
    depths.zip(confidence).map(value).collect()
}

/// Logarithm of the focal length that a map in its view's own frame speaks for, if it determines
/// one.
pub(super) fn log_focal(own: &PointMap) -> Option<f64> {
    let weight = |index: usize| {
        let confidence = own.confidence[index];
        let usable = own.points[index][2] > 0.0 && confidence.is_finite();
        if usable {
            f64::from(confidence_weight(confidence))
        } else {
            0.0
        }
    };
    let [least, most] = FOCAL_RANGE.map(|sides| sides * own.width.max(own.height) as f64);
    let focal = weiszfeld(own, sampled(own.points.len(), FOCAL_SAMPLES), weight);
    focal
        .filter(|focal| (least..=most).contains(focal))
        .map(f64::ln)
}

impl CanonicalView {
    pub fn new(width: usize, height: usize) -> Self {
        let pixels = vec![Default::default(); width * height];
        Self {
            width,
            height,
            pixels,
            log_focals: Vec::new(),
            is_known: false,
        }
    }

    /// Adds the logarithms of the depths of a map of this view, by pixel, in any units; NaN is left
    /// out.
    ///
    /// Returns the logarithm of the map's numbers over the view's, or `None` if the two have
    /// nothing in common.
    pub fn add_depths(&mut self, values: &[f32], confidence: &[f32]) -> Option<f64> {
        let ratio = self.log_ratio(values)?;
        self.is_known = true;
        for ((pixel, &value), &confidence) in self.pixels.iter_mut().zip(values).zip(confidence) {
            if value.is_nan() {
                continue;
            }
            let log_depth = value - ratio as f32;
            let gaps = [pixel[0].gap(log_depth), pixel[1].gap(log_depth)];
            let nearer = usize::from(gaps[1] < gaps[0]);
            if gaps[nearer] <= LARGEST_GAP {
                pixel[nearer].add(log_depth, confidence);
                continue;
            }
            // A third surface takes the place of the weaker one, if it has more to say.
            let weaker = usize::from(pixel[1].weight < pixel[0].weight);
            if pixel[weaker].weight < confidence_weight(confidence) {
                pixel[weaker] = Hypothesis::default();
                pixel[weaker].add(log_depth, confidence);
            }
        }
        Some(ratio)
    }

    /// What all maps together say; those that passed are forgotten.
    pub fn finish(&mut self) -> CanonicalDepth {
        let pixels = std::mem::take(&mut self.pixels);
        let best = |pixel: &[Hypothesis; 2]| {
            let best = pixel[usize::from(pixel[1].weight > pixel[0].weight)];
            match best.weight > 0.0 {
                true => (best.log_depth / best.weight, best.confidence / best.weight),
                false => (f32::NAN, 1.0),
            }
        };
        let (log_depth, confidence): (Vec<f32>, Vec<f32>) = pixels.iter().map(best).unzip();
        let log_median = median(log_depth.iter().map(|value| f64::from(*value))).unwrap_or(0.0);
        CanonicalDepth {
            log_depth,
            confidence,
            log_median,
        }
    }

    fn log_ratio(&self, values: &[f32]) -> Option<f64> {
        if !self.is_known {
            return values.iter().any(|value| value.is_finite()).then_some(0.0);
        }
        median(sampled(values.len(), SAMPLES).map(|index| {
            let pixel = &self.pixels[index];
            let best = pixel[usize::from(pixel[1].weight > pixel[0].weight)];
            f64::from(values[index]) - f64::from(best.log_depth) / f64::from(best.weight)
        }))
    }
}

/// NaN unless the depth is above zero and finite.
fn log_depth(depth: f32) -> f32 {
    if depth > 0.0 && depth.is_finite() {
        depth.ln()
    } else {
        f32::NAN
    }
}

/// Indices below `count`, `most` of them at most, evenly spread.
pub(super) fn sampled(count: usize, most: usize) -> impl Iterator<Item = usize> + Clone {
    let samples = count.min(most);
    (0..samples).map(move |sample| sample * count / samples)
}

/// How much a pixel of this confidence counts: nothing is known at a confidence of one.
pub(super) fn confidence_weight(confidence: f32) -> f32 {
    (confidence - 0.999).clamp(1e-3, 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(
        view: &mut CanonicalView,
        depths: impl Iterator<Item = f32>,
        confidence: &[f32],
    ) -> Option<f64> {
        view.add_depths(&log_depths(depths, confidence), confidence)
    }

    #[test]
    fn maps_in_different_units_are_averaged_and_gross_errors_left_out() {
        let mut view = CanonicalView::new(8, 8);
        let depth = |index: usize| 2.0 + 0.1 * index as f32;
        let (mut sure, mut unsure) = (vec![9.0; 64], vec![5.0; 64]);
        (sure[7], unsure[9]) = (1.1, 1.2);
        let spoilt = |spoilt: usize, factor: f32| {
            (0..64).map(move |index| {
                factor
                    * if index == spoilt {
                        7.0 * depth(index)
                    } else {
                        depth(index)
                    }
            })
        };
        assert_eq!(add(&mut view, spoilt(7, 1.0), &sure), Some(0.0));
        let ratio = add(&mut view, spoilt(9, 3.0), &unsure).unwrap();
        assert!((ratio - 3f64.ln()).abs() < 1e-6, "{ratio}");
        let found = view.finish();
        for index in 0..64 {
            let gap = found.log_depth[index].exp() / depth(index) - 1.0;
            assert!(gap.abs() < 1e-5, "pixel {index}: {gap}");
        }
        assert!((found.confidence[0] - (8.001 * 9.0 + 4.001 * 5.0) / 12.002).abs() < 1e-4);
        assert_eq!((found.confidence[7], found.confidence[9]), (5.0, 9.0));
    }

    #[test]
    fn pixels_behind_the_camera_stay_unknown() {
        let mut view = CanonicalView::new(2, 2);
        assert_eq!(
            add(
                &mut view,
                [-1.0, f32::NAN, 0.0, -2.0].into_iter(),
                &[9.0; 4]
            ),
            None
        );
        assert!(!view.is_known);
        assert_eq!(
            add(&mut view, [-1.0, f32::NAN, 0.0, 2.0].into_iter(), &[9.0; 4]),
            Some(0.0)
        );
        let found = view.finish();
        assert!(
            found.log_depth[..3].iter().all(|value| value.is_nan())
                && found.confidence[..3] == [1.0; 3]
        );
        assert_eq!(found.log_depth[3], 2f32.ln());
    }
}
