//! Levenberg-Marquardt: damped steps that are taken only if they help.

use super::equations::Equations;
use super::objective::{Loss, Problem, State};

/// Damping at the start, its bounds, and by how much it falls and rises.
const DAMPING: f64 = 1e-4;
const LEAST_DAMPING: f64 = 1e-9;
const MOST_DAMPING: f64 = 1e6;
const FALL: f64 = 0.1;
const RISE: f64 = 10.0;

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Steps tried at most.
    pub steps: usize,
    /// Stop once a step lowers the cost by less than this share.
    pub least_gain: f64,
}

/// The state of least cost that is reached from `start`, with this loss for matches.
pub(super) fn minimise(problem: &Problem, start: State, loss: Loss, budget: Budget) -> State {
    let mut state = start;
    let mut equations: Equations = problem.equations(&state, loss);
    let mut damping = DAMPING;
    for _ in 0..budget.steps {
        let candidate = problem.step(&equations, &state, damping);
        let candidate = candidate.map(|candidate| {
            let equations = problem.equations(&candidate, loss);
            (candidate, equations)
        });
        match candidate {
            Some((new_state, new)) if new.cost < equations.cost => {
                let gain = (equations.cost - new.cost) / equations.cost;
                tracing::trace!(cost = new.cost, damping, "step");
                (state, equations) = (new_state, new);
                damping = (damping * FALL).max(LEAST_DAMPING);
                if gain < budget.least_gain {
                    break;
                }
            }
            _ => {
                damping *= RISE;
                if damping > MOST_DAMPING {
                    break;
                }
            }
        }
    }
    state
}
