//! The library's one error type: what was wrong, with what, and the way out.

use std::path::{Path, PathBuf};

/// Shorthand for results of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose turn it is to act; the command line turns it into its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request itself: sizes, options, output paths.
    Usage,
    /// A picture or another input file.
    Input,
    /// A checkpoint: missing, damaged or of another network.
    Weights,
    /// The machine: disk, network, memory, device, or an error of ours.
    Machine,
}

/// Everything that can go wrong. Messages start with the path, name both values, and are lower case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option or a combination of options that cannot be served.
    #[error("{0}")]
    Usage(String),
    /// A picture or another input file that cannot be used.
    #[error("{}: {reason}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What was wrong and the way out.
        reason: String,
    },
    /// A checkpoint that cannot be used.
    #[error("{}: {reason}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What was wrong and the way out.
        reason: String,
    },
    /// The network's output is not finite.
    #[error("{what}: {count} of {total} values are not finite; {hint}")]
    NotFinite {
        /// The output concerned.
        what: String,
        /// How many values are NaN or infinite.
        count: usize,
        /// How many there are in all.
        total: usize,
        /// The probable cause and the way out.
        hint: String,
    },
    /// Two views whose predictions do not determine a relative pose.
    #[error("no relative pose: {reason}")]
    NoPose {
        /// What was missing.
        reason: String,
    },
    /// Views were to be checked against one another and have no cameras.
    #[error(
        "the views cannot be checked against one another without cameras: {reason}; \
         leave out --consistency to keep their points unchecked"
    )]
    NoCameras {
        /// Why there are none.
        reason: String,
    },
    /// Something could not be fetched.
    #[error("{address}: {reason}")]
    Download {
        /// Where it is, without any secret.
        address: String,
        /// What was wrong and the way out.
        reason: String,
    },
    /// Writing or reading failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Candle, the tensor library, or its device reported an error.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// An [`Error::Input`] for `path`.
    pub fn input(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Input { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }

    /// An [`Error::Weights`] for `path`.
    pub fn weights(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Weights { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }

    /// An [`Error::Download`] from `address`.
    pub fn download(address: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Download { address: address.into(), reason: reason.into() }
    }

    /// An [`Error::Io`] for `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// Whose turn it is to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Usage(_) => Fault::Usage,
            Self::Input { .. } | Self::NoPose { .. } | Self::NoCameras { .. } => Fault::Input,
            Self::Weights { .. } | Self::NotFinite { .. } => Fault::Weights,
            Self::Io { .. } | Self::Download { .. } | Self::Tensor(_) => Fault::Machine,
        }
    }
}
