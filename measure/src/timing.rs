//! Timing one piece of work again and again.

use std::time::{Duration, Instant};

use mast3r::Result;

/// Runs of which a time limit does not deprive a measurement.
const LEAST_RUNS: usize = 3;

/// How much is done for one figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Runs before those that count.
    pub warmup: usize,
    /// Runs that count, at least.
    pub runs: usize,
    /// More runs are made until those that count took so long together.
    pub min_time: Duration,
    /// No more runs are begun once those that count took so long together, but for the first three.
    pub max_time: Duration,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            warmup: 3,
            runs: 10,
            min_time: Duration::ZERO,
            max_time: Duration::MAX,
        }
    }
}

impl Effort {
    /// The wall-clock time of every run that counts, in milliseconds, in order. `before` comes
    /// before each run, and its time counts for nothing; `work` must return when all it asked of a
    /// device is done; `after` is told the times so far.
    ///
    /// # Errors
    /// Those of `before` and `work`.
    pub fn time(
        &self,
        mut before: impl FnMut() -> Result<()>,
        mut work: impl FnMut() -> Result<()>,
        mut after: impl FnMut(&[f64]),
    ) -> Result<Vec<f64>> {
        (0..self.warmup).try_for_each(|_| before().and_then(|()| work()))?;
        let mut times = Vec::with_capacity(self.runs);
        let mut total = Duration::ZERO;
        loop {
            let enough = times.len() >= self.runs.max(1) && total >= self.min_time;
            if enough || (total >= self.max_time && times.len() >= LEAST_RUNS.min(self.runs.max(1)))
            {
                return Ok(times);
            }
            before()?;
            let start = Instant::now();
            work()?;
            let elapsed = start.elapsed();
            total += elapsed;
            times.push(1e3 * elapsed.as_secs_f64());
            after(&times);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(effort: Effort, each: Duration) -> (usize, usize) {
        let mut calls = 0;
        let work = || {
            calls += 1;
            std::thread::sleep(each);
            Ok(())
        };
        let times = effort.time(|| Ok(()), work, |_| {}).unwrap();
        (calls, times.len())
    }

    #[test]
    fn warm_up_runs_do_not_count_and_limits_of_time_hold() {
        let effort = Effort {
            warmup: 2,
            runs: 5,
            ..Effort::default()
        };
        let tick = Duration::from_millis(1);
        assert_eq!(count(effort, Duration::ZERO), (7, 5));
        let (_, longer) = count(
            Effort {
                min_time: 12 * tick,
                ..effort
            },
            tick,
        );
        assert!(longer > 5 && longer <= 12, "{longer}");
        assert_eq!(
            count(
                Effort {
                    max_time: tick,
                    ..effort
                },
                tick
            ),
            (5, 3)
        );
    }
}
