//! What a list of times comes to.

use serde::{Deserialize, Serialize};

/// A run is an outlier if its modified z-score is beyond this (B. Iglewicz and D. Hoaglin, How to
/// Detect and Handle Outliers, 1993).
const OUTLIER: f64 = 3.5;
/// The median absolute deviation of a normal distribution in units of its standard deviation.
const MAD_OF_NORMAL: f64 = 0.674_489_75;
/// Deviations below this share of the median are the clock's and the scheduler's, not a second
/// population.
const GRAIN: f64 = 0.01;

/// Statistics of a list of times, all in its unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The middle one, or the mean of the two middle ones.
    pub median: f64,
    /// The mean.
    pub mean: f64,
    /// The sample standard deviation; 0 of a single time.
    pub stddev: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// How many there are.
    pub count: usize,
    /// How many of them lie far from the others.
    pub outliers: usize,
}

impl Summary {
    /// Of at least one time; `None` of none.
    pub fn of(times: &[f64]) -> Option<Self> {
        let median = median(times)?;
        let count = times.len();
        let mean = times.iter().sum::<f64>() / count as f64;
        let squares: f64 = times.iter().map(|time| (time - mean).powi(2)).sum();
        let deviations: Vec<f64> = times.iter().map(|time| (time - median).abs()).collect();
        let spread = self::median(&deviations)?.max(GRAIN * median.abs());
        Some(Self {
            median,
            mean,
            stddev: if count > 1 {
                (squares / (count - 1) as f64).sqrt()
            } else {
                0.0
            },
            min: times.iter().copied().fold(f64::INFINITY, f64::min),
            max: times.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            count,
            outliers: deviations
                .iter()
                .filter(|&&far| MAD_OF_NORMAL * far > OUTLIER * spread)
                .count(),
        })
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len().is_multiple_of(2) {
        (sorted[sorted.len() / 2 - 1] + upper) / 2.0
    } else {
        upper
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_that_of_the_textbook() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(
            (
                summary.median,
                summary.mean,
                summary.min,
                summary.max,
                summary.count
            ),
            (2.5, 2.5, 1.0, 4.0, 4)
        );
        assert!((summary.stddev - (5.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(summary.outliers, 0);
        assert_eq!(Summary::of(&[7.0]).unwrap().stddev, 0.0);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn one_slow_run_among_steady_ones_is_an_outlier() {
        let steady = [10.0, 10.1, 9.9, 10.05, 9.95, 10.0];
        assert_eq!(Summary::of(&steady).unwrap().outliers, 0);
        let disturbed = [&steady[..], &[14.0]].concat();
        assert_eq!(Summary::of(&disturbed).unwrap().outliers, 1);
        // Equal to within the clock: no spread at all must not make everything else an outlier.
        assert_eq!(Summary::of(&[10.0, 10.0, 10.0, 10.2]).unwrap().outliers, 0);
    }
}
