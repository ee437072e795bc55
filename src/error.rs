//! The library's one error type: what was wrong, with what, and the way out.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Shorthand for results of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who has to fix an error; the command line turns it into its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller: sizes, options, output paths.
    Usage,
    /// Whoever made an image or another input file.
    Input,
    /// Whoever supplies the weights: they are missing, damaged or of another network.
    Weights,
    /// Whoever runs the machine: disk, network, memory, device.
    Machine,
    /// Whoever runs the other parts of the work, which this one needs.
    Unfinished,
    /// Nobody: the caller cancelled the run.
    Cancelled,
    /// The authors of this library: a bug.
    Internal,
}

/// Everything that can go wrong. Messages start with the path, name both values, and are lower
/// case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option or a combination of options that cannot be served.
    #[error("{0}")]
    Usage(String),
    /// An image or another input file that cannot be used.
    #[error("{}: {reason}", Visible(&path.to_string_lossy()))]
    Input {
        /// The file.
        path: PathBuf,
        /// What was wrong and the way out.
        reason: String,
    },
    /// Several files, each with an error of its own.
    #[error("{}", lines(.0))]
    Several(Vec<Error>),
    /// A checkpoint that cannot be used.
    #[error("{}: {reason}", Visible(&path.to_string_lossy()))]
    Weights {
        /// The file.
        path: PathBuf,
        /// What was wrong and the way out.
        reason: String,
    },
    /// A network whose weights are neither part of this build nor in the cache.
    #[error("{network}: no weights in the cache; fetch the published ones, or give a file")]
    NoWeights {
        /// The network's name.
        network: String,
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
    /// The predictions of one pair of views are not finite; the other pairs do not depend on it.
    #[error("{source}")]
    PairNotFinite {
        /// Indices of the two views.
        pair: [usize; 2],
        /// The first map that is not finite.
        source: Box<Error>,
    },
    /// Something was asked for that needs camera poses, and there are none.
    #[error("{what} needs camera poses: {reason}")]
    NoCameras {
        /// What needs them.
        what: String,
        /// Why there are none.
        reason: String,
    },
    /// The positions of the images do not say where the scene lies on the Earth.
    #[error("not georeferenced: {reason}")]
    NoGeoreference {
        /// What is missing.
        reason: String,
    },
    /// An output would hold nothing, for what the images are of.
    #[error("{what} would have no points: {reason}")]
    NoPoints {
        /// The output.
        what: String,
        /// What is missing.
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
    #[error("{}: {cause}", Visible(&path.to_string_lossy()))]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason. It is part of the message, so it is not a `source` too: chains
        /// print it once.
        cause: io::Error,
    },
    /// The device has too little memory for the least that it can do at a time.
    #[error("out of memory on {device}: {work}; {advice}")]
    OutOfMemory {
        /// The device's name, as `cuda:0`.
        device: String,
        /// What did not fit.
        work: String,
        /// The way out.
        advice: String,
    },
    /// The system gave no thread.
    #[error(
        "out of memory: the system refused a thread ({cause}); use smaller images or raise the memory limit"
    )]
    NoThread {
        /// The system's reason. It is part of the message, so it is not a `source` too: chains
        /// print it once.
        cause: io::Error,
    },
    /// One of several devices reported an error.
    #[error("{device}: {source}")]
    OnDevice {
        /// The device's name, as `cuda:1`.
        device: String,
        /// What it reported.
        source: Box<Error>,
    },
    /// Work that needs the results of other shards, which are not there.
    #[error(
        "{missing} of {shards} shards are missing from the stage {stage}: {names}; run them first"
    )]
    Unfinished {
        /// The stage.
        stage: &'static str,
        /// How many shards.
        missing: usize,
        /// Of how many.
        shards: usize,
        /// Their numbers, or the first of them.
        names: String,
    },
    /// The caller cancelled the run.
    #[error("cancelled")]
    Cancelled,
    /// Candle, the tensor library, or its device reported an error.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A state that this library rules out: a bug in it, whatever the input.
    #[error("internal error: {0}; this is a bug in mast3r, please report it")]
    Internal(String),
}

impl Error {
    /// An [`Error::Input`] for `path`.
    pub fn input(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Input {
            path: path.as_ref().to_path_buf(),
            reason: reason.into(),
        }
    }

    /// An [`Error::Weights`] for `path`.
    pub fn weights(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Weights {
            path: path.as_ref().to_path_buf(),
            reason: reason.into(),
        }
    }

    /// An [`Error::Download`] from `address`.
    pub fn download(address: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Download {
            address: address.into(),
            reason: reason.into(),
        }
    }

    /// An [`Error::Io`] for `path`.
    pub fn io(path: impl AsRef<Path>, cause: io::Error) -> Self {
        Self::Io {
            path: path.as_ref().to_path_buf(),
            cause,
        }
    }

    /// An [`Error::NotFinite`] for a map that a network predicts of the `whose` view of a pair.
    pub(crate) fn not_finite_map(what: &str, whose: &str, count: usize, total: usize) -> Self {
        Self::NotFinite {
            what: format!("{what} of the {whose} view"),
            count,
            total,
            hint: "try precision f32; if that fails too, the weights do not belong to this network"
                .into(),
        }
    }

    /// The same error with the names of the pair of images that it concerns, if it is an
    /// [`Error::NotFinite`].
    pub(crate) fn of_images(self, [first, second]: [&str; 2]) -> Self {
        match self {
            Self::NotFinite {
                what,
                count,
                total,
                hint,
            } => Self::NotFinite {
                what: format!("{first} and {second}: {what}"),
                count,
                total,
                hint,
            },
            other => other,
        }
    }

    /// An [`Error::NotFinite`] as that of a pair of views, and every other error as it is.
    pub(crate) fn of_pair(self, pair: [usize; 2]) -> Self {
        match self {
            Self::NotFinite { .. } => Self::PairNotFinite {
                pair,
                source: Box::new(self),
            },
            other => other,
        }
    }

    /// An error of the tensor library with the name of the device that it comes from, where there
    /// are several; other errors name what they are about themselves.
    pub(crate) fn on_device(self, device: impl FnOnce() -> String) -> Self {
        match self {
            Self::Tensor(_) => Self::OnDevice {
                device: device(),
                source: Box::new(self),
            },
            other => other,
        }
    }

    /// Why the input file `path` could not be opened or read: it is missing, a link to nothing, a
    /// folder, or forbidden; otherwise what the system said.
    pub fn unreadable(path: impl AsRef<Path>, source: io::Error) -> Self {
        let path = path.as_ref();
        match source.kind() {
            io::ErrorKind::NotFound => match broken_link(path) {
                Some(reason) => Self::input(path, reason),
                None => Self::input(path, "no such file or folder; check the spelling"),
            },
            io::ErrorKind::NotADirectory => Self::input(
                path,
                "no such file: a part of its path is a file and not a folder",
            ),
            io::ErrorKind::IsADirectory => Self::input(path, "it is a folder; name a file"),
            io::ErrorKind::PermissionDenied => {
                Self::input(path, "no permission to read it; change its access rights")
            }
            _ => Self::io(path, source),
        }
    }

    /// What all give, or every error of those that fail.
    ///
    /// # Errors
    /// The only error, or [`Error::Several`].
    pub fn all<T>(results: impl IntoIterator<Item = Result<T>>) -> Result<Vec<T>> {
        let (mut values, mut errors) = (Vec::new(), Vec::new());
        for result in results {
            match result {
                Ok(value) => values.push(value),
                Err(error) => errors.push(error),
            }
        }
        match (errors.pop(), errors.is_empty()) {
            (None, _) => Ok(values),
            (Some(error), true) => Err(error),
            (Some(last), false) => {
                errors.push(last);
                Err(Self::Several(errors))
            }
        }
    }

    /// An [`Error::OutOfMemory`] of the device with this name, in `work`.
    pub fn out_of_memory(device: String, work: String) -> Self {
        Self::OutOfMemory {
            device,
            work,
            advice: "use smaller images, half precision or another device".into(),
        }
    }

    /// The same error for a second place that has to tell of it. Errors of the system and of the
    /// device cannot be copied: their message is kept.
    pub fn repeated(&self) -> Self {
        match self {
            Self::NoCameras { what, reason } => Self::NoCameras {
                what: what.clone(),
                reason: reason.clone(),
            },
            error => Self::Tensor(candle_core::Error::Msg(error.to_string())),
        }
    }

    /// Whether the device's memory did not suffice, so that less at a time may work.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::OutOfMemory { .. } => true,
            // The errors of CUDA and its libraries are known by their names only in builds with
            // CUDA.
            Self::Tensor(error) => names_exhausted_memory(&error.to_string()),
            Self::OnDevice { source, .. } => source.is_out_of_memory(),
            _ => false,
        }
    }

    /// Who has to fix it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Several(errors) => errors.first().map_or(ErrorKind::Machine, Self::kind),
            Self::Usage(_) => ErrorKind::Usage,
            Self::Input { .. }
            | Self::NoPose { .. }
            | Self::NoCameras { .. }
            | Self::NoGeoreference { .. }
            | Self::NoPoints { .. } => ErrorKind::Input,
            Self::Weights { .. } | Self::NoWeights { .. } | Self::NotFinite { .. } => {
                ErrorKind::Weights
            }
            Self::PairNotFinite { source, .. } | Self::OnDevice { source, .. } => source.kind(),
            Self::Io { .. }
            | Self::Download { .. }
            | Self::OutOfMemory { .. }
            | Self::NoThread { .. }
            | Self::Tensor(_) => ErrorKind::Machine,
            Self::Unfinished { .. } => ErrorKind::Unfinished,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Internal(_) => ErrorKind::Internal,
        }
    }
}

/// Errors one a line, the same one once.
fn lines(errors: &[Error]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for error in errors.iter().map(ToString::to_string) {
        if !lines.contains(&error) {
            lines.push(error);
        }
    }
    lines.join("\n")
}

/// Text from outside as messages show it: characters that cannot be seen, such as a byte order
/// mark, are escaped.
#[derive(Clone, Copy, Debug)]
pub struct Visible<'a>(pub &'a str);

impl fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            // No-break and other odd spaces, soft hyphens, joiners, marks of direction, variation
            // selectors.
            '\u{a0}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{2000}'..='\u{200f}'
            | '\u{2028}'..='\u{202f}'
            | '\u{205f}'..='\u{206f}'
            | '\u{3000}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' => {
                write!(f, "{}", char.escape_unicode())
            }
            _ if char.is_control() => write!(f, "{}", char.escape_default()),
            _ => write!(f, "{char}"),
        })
    }
}

/// Says which part of `path` is a symbolic link to nothing, if one is.
pub(crate) fn broken_link(path: &Path) -> Option<String> {
    let is_broken = |path: &&Path| path.is_symlink() && matches!(path.try_exists(), Ok(false));
    let link = path.ancestors().filter(is_broken).last()?;
    let target = link.read_link().ok()?;
    let what = if link == path {
        "it is".into()
    } else {
        format!("{} is", Visible(&link.to_string_lossy()))
    };
    let target = target.to_string_lossy();
    let way_out = "fetch that file (git annex get, dvc pull) or repair the link";
    Some(format!(
        "{what} a symbolic link to {}, which does not exist; {way_out}",
        Visible(&target)
    ))
}

/// Whether an error of CUDA or of its libraries says that memory did not suffice.
pub(crate) fn names_exhausted_memory(text: &str) -> bool {
    let names = [
        "CUDA_ERROR_OUT_OF_MEMORY",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CURAND_STATUS_ALLOCATION_FAILED",
    ];
    names.iter().any(|name| text.contains(name))
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::io;

    use super::*;

    #[test]
    fn shows_what_cannot_be_seen() {
        let shown = |text: &str| Visible(text).to_string();
        assert_eq!(shown("\u{feff}a.jpg\r"), "\\u{feff}a.jpg\\r");
        assert_eq!(
            shown("a\u{200b}b\u{a0}c\td\0"),
            "a\\u{200b}b\\u{a0}c\\td\\u{0}"
        );
        assert_eq!(shown("Bergsee 1 ü 東 é.jpg"), "Bergsee 1 ü 東 é.jpg");
        let error = Error::input("\u{feff}a.jpg", "no such file");
        assert_eq!(error.to_string(), "\\u{feff}a.jpg: no such file");
    }

    #[cfg(unix)]
    #[test]
    fn names_links_to_nothing() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        symlink("../objects/ab12", at("a.jpg")).unwrap();
        symlink("nowhere", at("photos")).unwrap();
        let missing = |name: &str| {
            let source = std::fs::read(at(name)).unwrap_err();
            Error::unreadable(at(name), source).to_string()
        };
        assert!(missing("a.jpg").contains(
            "a.jpg: it is a symbolic link to ../objects/ab12, which does not exist; fetch"
        ));
        assert!(
            missing("photos/b.jpg")
                .contains("photos is a symbolic link to nowhere, which does not exist")
        );
        assert!(missing("c.jpg").ends_with("c.jpg: no such file or folder; check the spelling"));
        assert!(missing("").ends_with("it is a folder; name a file"));
    }

    #[test]
    fn a_chain_of_causes_states_each_once() {
        let error = Error::io("disk/c.ply", io::Error::other("no space"));
        assert_eq!(error.to_string(), "disk/c.ply: no space");
        assert!(error.source().is_none());
    }

    #[test]
    fn internal_errors_are_not_blamed_on_the_user() {
        let error = Error::Internal("2 decodes were fetched, 1 came".into());
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(
            error
                .to_string()
                .ends_with("this is a bug in mast3r, please report it"),
            "{error}"
        );
    }

    #[test]
    fn an_error_of_one_of_several_devices_names_it() {
        let name = || "cuda:1".to_string();
        let message = r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#;
        let error = Error::Tensor(candle_core::Error::Msg(message.into())).on_device(name);
        assert!(
            error.to_string().starts_with("cuda:1: DriverError"),
            "{error}"
        );
        assert!(error.is_out_of_memory() && error.kind() == ErrorKind::Machine);
        let other = Error::Usage("size".into()).on_device(name);
        assert!(matches!(other, Error::Usage(_)));
    }

    #[test]
    fn a_pair_that_is_not_finite_is_named() {
        let error = Error::not_finite_map("points", "second", 3, 90)
            .of_images(["a.png", "b.png"])
            .of_pair([0, 2]);
        assert!(
            error
                .to_string()
                .starts_with("a.png and b.png: points of the second view: 3 of 90 values"),
            "{error}"
        );
        assert!(
            matches!(error, Error::PairNotFinite { pair: [0, 2], .. })
                && error.kind() == ErrorKind::Weights
        );
        assert!(matches!(
            Error::Usage("size".into()).of_pair([0, 1]),
            Error::Usage(_)
        ));
    }
}
