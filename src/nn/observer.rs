//! Watching intermediate results.

use std::fmt::Display;

use candle_core::{Result, Tensor};

/// Receives every named intermediate result of a forward pass, in the order of computation.
///
/// Names are those of the stages in the networks' description: `patch_embed`, `block0`,
/// `dpt.fuse.4`, …
pub struct Observer<'a> {
    receive: Option<Box<Receive<'a>>>,
}

type Receive<'a> = dyn FnMut(&str, &Tensor) -> Result<()> + 'a;

/// An observer that looks at nothing and costs nothing.
pub fn unobserved() -> Observer<'static> {
    Observer { receive: None }
}

impl<'a> Observer<'a> {
    /// Shows every result to `receive`.
    pub fn new(receive: impl FnMut(&str, &Tensor) -> Result<()> + 'a) -> Self {
        Self {
            receive: Some(Box::new(receive)),
        }
    }

    /// Whether anybody looks.
    pub(crate) fn looks(&self) -> bool {
        self.receive.is_some()
    }

    /// Shows a result that is there anyway.
    pub(crate) fn see(&mut self, name: impl Display, value: &Tensor) -> Result<()> {
        self.see_made(name, || Ok(value.clone()))
    }

    /// Shows a result that is made for the purpose, and only if someone looks.
    pub(crate) fn see_made(
        &mut self,
        name: impl Display,
        value: impl FnOnce() -> Result<Tensor>,
    ) -> Result<()> {
        match &mut self.receive {
            Some(receive) => receive(&name.to_string(), &value()?),
            None => Ok(()),
        }
    }

    /// The observer of one view, whose number ends all names.
    pub(crate) fn of_view(&mut self, view: usize) -> Observer<'_> {
        match &mut self.receive {
            Some(receive) => {
                Observer::new(move |name, value| receive(&format!("{name}.{view}"), value))
            }
            None => unobserved(),
        }
    }
}
