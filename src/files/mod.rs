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

#[cfg(test)]
mod testing {
    use std::fs;
    use std::path::Path;

    use crate::error::{Error, Result};

    /// The names in a folder, hidden ones too.
    pub fn names_in(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The message of a usage error.
    pub fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
        match result.unwrap_err() {
            Error::Usage(message) => message,
            other => panic!("{other:?} is not about usage"),
        }
    }
}
