//! What a run tells of itself, and how it is cancelled.

use std::ops::ControlFlow;

use crate::{Error, Result};

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The network's weights, if anything is left to be computed.
    Load,
    /// Images to tokens; counts images.
    Encode,
    /// Tokens to points, descriptors and matches; counts pairs.
    Pairs,
    /// All views together to cameras and depths, by a joint network.
    Predict,
    /// All predictions to cameras and depths.
    Align,
    /// The refinement's keypoints; counts images.
    Keypoints,
    /// Matches of these; counts pairs.
    Match,
    /// Bundle adjustment of the refined cameras.
    Refine,
}

impl Stage {
    /// A verb for a display.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load weights",
            Self::Encode => "encode",
            Self::Pairs => "pairs",
            Self::Predict => "predict",
            Self::Align => "align",
            Self::Keypoints => "keypoints",
            Self::Match => "match keypoints",
            Self::Refine => "refine",
        }
    }
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Images.
    pub views: usize,
    /// Pairs of them.
    pub pairs: usize,
    /// Those that have to be computed.
    pub new_pairs: usize,
    /// What these take in the folder that they are kept in, in bytes, about; 0 without one.
    pub disk_bytes: u64,
}

/// An event of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// What there is to do, once it is known and before anything is computed but what it takes to
    /// choose pairs.
    Plan(Plan),
    /// A stage begins, of so many steps; one step if it has no parts.
    Begin(Stage, usize),
    /// A step of it is done.
    Step,
}

/// Is told of every event, from several threads, and decides whether the run goes on: `Break` ends
/// it with [`Error::Cancelled`]. A stage without steps is not cut short.
pub type Watch<'a> = &'a (dyn Fn(Progress) -> ControlFlow<()> + Sync);

/// A [`Watch`] for runs that nobody watches.
pub fn unwatched(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Tells `watch` of an event.
pub(crate) fn tell(watch: Watch<'_>, event: Progress) -> Result<()> {
    match watch(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}
