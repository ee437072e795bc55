//! Forward passes captured as CUDA graphs, for the sizes met last.

use candle_core::{Result, Tensor};

use crate::runtime::Runtime;

/// The forward passes of a network that are worth one launch each. On other devices than CUDA, and
/// for sizes that are met once, they run as they are.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    #[cfg(feature = "cuda")]
    recent: std::sync::Mutex<Vec<cuda::Entry>>,
}

impl Captured {
    /// `pass` of `inputs`, which is called `name` and depends on nothing but its name, its inputs'
    /// values and shapes, `grids` and the network itself.
    pub(crate) fn run(
        &self,
        name: &'static str,
        runtime: &Runtime,
        inputs: &[&Tensor],
        grids: &[[usize; 2]],
        pass: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + Sync,
    ) -> Result<Vec<Tensor>> {
        let as_it_is = || {
            let inputs: Vec<Tensor> = inputs.iter().map(|&input| input.clone()).collect();
            pass(&inputs)
        };
        #[cfg(feature = "cuda")]
        if runtime.device().is_cuda() {
            let attempt = || {
                if cuda::is_wanted(runtime)
                    && let Some(outputs) = self.replayed(name, runtime, inputs, grids, &pass)?
                {
                    return Ok(outputs);
                }
                let _turn = custom_ops::device_turn();
                as_it_is()
            };
            return match attempt() {
                Err(error) if is_out_of_memory(&error) && self.forget(runtime)? => attempt(),
                outputs => outputs,
            };
        }
        let _ = (name, runtime, grids);
        as_it_is()
    }
}

#[cfg(feature = "cuda")]
fn is_out_of_memory(error: &candle_core::Error) -> bool {
    crate::error::names_exhausted_memory(&error.to_string())
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::sync::PoisonError;

    use candle_core::{DType, Result, Tensor};
    use custom_ops::{CapturedWork, Work};

    use super::Captured;
    use crate::runtime::{Optimisation, Runtime};

    /// Graphs and sizes remembered for each network. A graph holds its inputs, its outputs and the
    /// memory between them, which graphs of one device share.
    const MOST: usize = 6;

    /// What makes one pass another.
    #[derive(Clone, Debug, PartialEq)]
    pub(super) struct Key {
        name: &'static str,
        inputs: Vec<(Vec<usize>, DType)>,
        grids: Vec<[usize; 2]>,
    }

    pub(super) struct Entry {
        key: Key,
        state: State,
    }

    enum State {
        /// Once. A graph costs two passes more, which only a third pays back.
        Met,
        Captured(Box<CapturedWork>),
        /// It cannot be captured.
        Refused,
    }

    impl std::fmt::Debug for Entry {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let state = match self.state {
                State::Met => "met",
                State::Captured(_) => "captured",
                State::Refused => "refused",
            };
            write!(f, "{:?}: {state}", self.key)
        }
    }

    pub(super) fn is_wanted(runtime: &Runtime) -> bool {
        let optimisations = runtime.optimisations();
        optimisations.has(Optimisation::CapturedGraphs)
            && optimisations.has(Optimisation::OwnStream)
    }

    impl Captured {
        /// Lets go of all graphs and of their memory; whether there were any.
        pub(super) fn forget(&self, runtime: &Runtime) -> Result<bool> {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            let before = recent.len();
            recent.retain(|entry| !matches!(entry.state, State::Captured(_)));
            if recent.len() == before {
                return Ok(false);
            }
            custom_ops::release_graph_memory(runtime.device())?;
            Ok(true)
        }

        /// The outputs of a graph, if there is one for such inputs, or if there should be.
        pub(super) fn replayed(
            &self,
            name: &'static str,
            runtime: &Runtime,
            inputs: &[&Tensor],
            grids: &[[usize; 2]],
            pass: &Work<'_>,
        ) -> Result<Option<Vec<Tensor>>> {
            let like = |tensor: &&Tensor| (tensor.dims().to_vec(), tensor.dtype());
            let key = Key {
                name,
                inputs: inputs.iter().map(like).collect(),
                grids: grids.to_vec(),
            };
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(index) = recent.iter().position(|entry| entry.key == key) else {
                if recent.len() == MOST {
                    recent.remove(0);
                }
                let state = State::Met;
                recent.push(Entry { key, state });
                return Ok(None);
            };
            let mut entry = recent.remove(index);
            if matches!(entry.state, State::Met) {
                let capture = || CapturedWork::new(runtime.device(), inputs, pass);
                let is_measured = runtime.optimisations().has(Optimisation::MeasuredProducts);
                let captured = if is_measured {
                    custom_ops::measuring_products(capture)
                } else {
                    capture()
                };
                entry.state = match captured {
                    Ok(work) => State::Captured(Box::new(work)),
                    Err(error) => {
                        // Candle's text goes on with a backtrace.
                        let text = error.to_string();
                        let line = text.lines().next().unwrap_or_default();
                        tracing::warn!(
                            "no CUDA graph of the {name} for inputs {:?}, its kernels are launched one by one: {line}",
                            entry.key.inputs
                        );
                        State::Refused
                    }
                };
            }
            let outputs = match &mut entry.state {
                State::Captured(work) => {
                    let _turn = custom_ops::device_turn();
                    let _span = tracing::debug_span!("graph", name).entered();
                    work.replay(inputs).map(Some)
                }
                State::Met | State::Refused => Ok(None),
            };
            recent.push(entry);
            outputs
        }
    }
}
