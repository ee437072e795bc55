//! Random sample consensus, deterministic.

/// Seed of all random numbers, so that equal input gives equal output.
const SEED: u64 = 0x6d61_7374_3372;

/// How long a search goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Samples at most.
    pub most_samples: usize,
    /// Samples at least.
    pub least_samples: usize,
    /// Stop once a better sample would have been seen with this probability.
    pub certainty: f64,
}

/// How well a model explains the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Score {
    /// Data within the threshold.
    pub inliers: usize,
    /// Sum of errors cut off at the threshold; the smaller the better.
    pub cost: f64,
}

/// The best model of `propose` over random samples of `N` of `count` data; `None` if no sample
/// gives a model. The sample of each number, from 1 on, is drawn `among` so many of the first data.
pub(crate) fn search<M, const N: usize>(
    count: usize,
    budget: Budget,
    among: impl Fn(usize) -> usize,
    mut propose: impl FnMut([usize; N]) -> Vec<M>,
    mut score: impl FnMut(&M) -> Score,
) -> Option<(M, Score)> {
    if count < N {
        return None;
    }
    let mut random = SplitMix::new();
    let mut best: Option<(M, Score)> = None;
    let mut needed = budget.most_samples;
    let mut drawn = 0;
    while drawn < needed {
        drawn += 1;
        for model in propose(random.distinct(among(drawn).clamp(N, count))) {
            let found = score(&model);
            if best.as_ref().is_none_or(|(_, best)| found.cost < best.cost) {
                best = Some((model, found));
                needed = samples_needed(found.inliers as f64 / count as f64, N, budget);
            }
        }
    }
    best
}

/// How many samples of `size` data are needed to see one without an outlier, where this share of
/// the data are inliers.
fn samples_needed(inlier_share: f64, size: usize, budget: Budget) -> usize {
    let sound_share = inlier_share.powi(size as i32);
    if sound_share <= 0.0 {
        return budget.most_samples;
    }
    // Shares may be so small that 1 less them is 1.
    let samples = (1.0 - budget.certainty).ln() / (-sound_share).ln_1p();
    (samples.ceil() as usize).clamp(budget.least_samples, budget.most_samples)
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct SplitMix(u64);

impl SplitMix {
    /// The same numbers each time.
    pub fn new() -> Self {
        Self(SEED)
    }

    /// In 0 .. 1.
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 * 2f64.powi(-53)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// `N` different indices below `count`, which is `N` at least.
    pub(crate) fn distinct<const N: usize>(&mut self, count: usize) -> [usize; N] {
        let mut chosen = [usize::MAX; N];
        let mut filled = 0;
        while filled < N {
            let index = (self.next() % count as u64) as usize;
            if !chosen[..filled].contains(&index) {
                chosen[filled] = index;
                filled += 1;
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget {
        most_samples: 500,
        least_samples: 5,
        certainty: 0.999,
    };

    #[test]
    fn a_line_is_found_among_mostly_noise() {
        let data: Vec<[f64; 2]> = (0..100)
            .map(|index| {
                let x = f64::from(index);
                [
                    x,
                    if index % 3 == 0 {
                        2.0 * x + 1.0
                    } else {
                        (x * 7.3).sin() * 90.0
                    },
                ]
            })
            .collect();
        let mut samples = 0;
        let (line, score) = search::<_, 2>(
            data.len(),
            BUDGET,
            |_| data.len(),
            |[a, b]| {
                samples += 1;
                let slope = (data[b][1] - data[a][1]) / (data[b][0] - data[a][0]);
                vec![(slope, data[a][1] - slope * data[a][0])]
            },
            |(slope, shift)| {
                let errors = data
                    .iter()
                    .map(|point| (point[1] - slope * point[0] - shift).abs());
                let inliers = errors.clone().filter(|&error| error < 0.5).count();
                Score {
                    inliers,
                    cost: errors.map(|error| error.min(0.5)).sum(),
                }
            },
        )
        .unwrap();
        assert!(
            (line.0 - 2.0).abs() < 1e-9 && (line.1 - 1.0).abs() < 1e-9,
            "{line:?}"
        );
        assert!(score.inliers >= 34);
        assert!(
            samples < 100,
            "the search should have stopped early, not after {samples} samples"
        );
    }

    #[test]
    fn without_inliers_all_samples_are_drawn() {
        let mut samples = 0;
        let propose = |_: [usize; 3]| {
            samples += 1;
            vec![samples]
        };
        let found = search(
            1000,
            BUDGET,
            |_| 1000,
            propose,
            |_| Score {
                inliers: 0,
                cost: 1000.0,
            },
        );
        assert_eq!(
            (found, samples),
            (
                Some((
                    1,
                    Score {
                        inliers: 0,
                        cost: 1000.0
                    }
                )),
                BUDGET.most_samples
            )
        );
    }

    #[test]
    fn fewer_inliers_need_more_samples() {
        let needed = |share: f64| samples_needed(share, 4, BUDGET);
        assert_eq!(
            [1.0, 0.9, 0.5, 1e-3, 1e-9, 1e-90, 0.0].map(needed),
            [5, 7, 108, 500, 500, 500, 500]
        );
    }

    #[test]
    fn too_few_data_give_nothing() {
        let found = search::<(), 3>(
            2,
            BUDGET,
            |_| 2,
            |_| vec![()],
            |()| Score {
                inliers: 0,
                cost: 0.0,
            },
        );
        assert!(found.is_none());
    }
}
