//! Confidences in at most 256 levels, each with about as many points as the others.

use rayon::prelude::*;

/// Levels at most.
const MOST: usize = 256;

/// The confidences at which levels begin.
///
/// A point's level is the share of points that are less confident, in 256ths, rounded down: equal
/// confidences have equal levels, and a percentage of the most confident points is a level as well.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Levels(Vec<f32>);

impl Levels {
    /// Of these confidences, which are finite.
    pub fn of(confidences: &[f32]) -> Self {
        let mut sorted = confidences.to_vec();
        sorted.par_sort_unstable_by(f32::total_cmp);
        let mut starts = Vec::new();
        for (rank, value) in sorted.iter().enumerate() {
            let is_new = rank == 0 || *value != sorted[rank - 1];
            let level = rank * MOST / sorted.len();
            if is_new && level >= starts.len() {
                starts.resize(level + 1, *value);
            }
        }
        Self(starts)
    }

    /// The smallest confidence of each level or a higher one, ascending.
    pub fn starts(&self) -> &[f32] {
        &self.0
    }

    /// The level of one of the confidences.
    pub fn level(&self, confidence: f32) -> u8 {
        let above = self.0.partition_point(|start| *start <= confidence);
        above.saturating_sub(1) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_count_the_less_confident_points() {
        let confidences: Vec<f32> = (0..1000).map(|index| 1.0 + index as f32).collect();
        let levels = Levels::of(&confidences);
        assert_eq!(levels.starts().len(), MOST);
        for (rank, confidence) in confidences.iter().enumerate() {
            let level = levels.level(*confidence);
            assert_eq!(usize::from(level), rank * MOST / 1000);
            assert!(levels.starts()[usize::from(level)] <= *confidence);
        }
    }

    #[test]
    fn equal_confidences_have_equal_levels() {
        assert_eq!(Levels::of(&[2.0; 7]).starts(), [2.0]);
        let levels = Levels::of(&[3.0, 1.0, 1.0, 1.0]);
        assert_eq!([1.0, 3.0].map(|value| levels.level(value)), [0, 192]);
        assert_eq!(levels.starts().len(), 193);
        assert_eq!(levels.starts()[1], 3.0);
        assert!(Levels::of(&[]).starts().is_empty());
    }
}
