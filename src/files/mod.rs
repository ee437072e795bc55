//! Files and folders that appear under their name only when they are complete.
//!
//! Whatever is written goes through [`OutputFile`] or [`OutputFolder`]; what a program that is ended
//! half-way leaves, [`remove_temporaries`] takes away.

mod destination;
mod folder;
mod output;
mod temporaries;

pub(crate) use destination::refuse;
pub(crate) use folder::OCCUPIED;
pub use folder::{OutputFolder, Placing};
pub use output::OutputFile;
pub(crate) use temporaries::is_temporary;
pub use temporaries::{TemporaryFolder, remove_temporaries, try_remove_temporaries};
