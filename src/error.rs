//! The library's one error type: what was wrong, with what, and the way out.

use std::fmt;
use std::io::ErrorKind;
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
    #[error("{}: {reason}", Visible(&path.to_string_lossy()))]
    Input {
        /// The file.
        path: PathBuf,
        /// What was wrong and the way out.
        reason: String,
    },
    /// A checkpoint that cannot be used.
    #[error("{}: {reason}", Visible(&path.to_string_lossy()))]
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
    #[error("{}: {source}", Visible(&path.to_string_lossy()))]
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

    /// Why the input file `path` could not be opened or read: it is missing, a link to nothing, a folder, or forbidden;
    /// otherwise what the system said.
    pub fn unreadable(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        let path = path.as_ref();
        match source.kind() {
            ErrorKind::NotFound => match broken_link(path) {
                Some(reason) => Self::input(path, reason),
                None => Self::input(path, "no such file or folder; check the spelling"),
            },
            ErrorKind::NotADirectory => {
                Self::input(path, "no such file: a part of its path is a file and not a folder")
            }
            ErrorKind::IsADirectory => Self::input(path, "it is a folder; name a file"),
            ErrorKind::PermissionDenied => Self::input(path, "no permission to read it; change its access rights"),
            _ => Self::io(path, source),
        }
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

/// Text from outside as messages show it: characters that cannot be seen, such as a byte order mark, are escaped.
#[derive(Clone, Copy, Debug)]
pub struct Visible<'a>(pub &'a str);

impl fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            // No-break and other odd spaces, soft hyphens, joiners, marks of direction, variation selectors.
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
    let what = if link == path { "it is".into() } else { format!("{} is", Visible(&link.to_string_lossy())) };
    let target = target.to_string_lossy();
    let way_out = "fetch that file (git annex get, dvc pull) or repair the link";
    Some(format!("{what} a symbolic link to {}, which does not exist; {way_out}", Visible(&target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_cannot_be_seen() {
        let shown = |text: &str| Visible(text).to_string();
        assert_eq!(shown("\u{feff}a.jpg\r"), "\\u{feff}a.jpg\\r");
        assert_eq!(shown("a\u{200b}b\u{a0}c\td\0"), "a\\u{200b}b\\u{a0}c\\td\\u{0}");
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
        assert!(
            missing("a.jpg").contains("a.jpg: it is a symbolic link to ../objects/ab12, which does not exist; fetch")
        );
        assert!(missing("photos/b.jpg").contains("photos is a symbolic link to nowhere, which does not exist"));
        assert!(missing("c.jpg").ends_with("c.jpg: no such file or folder; check the spelling"));
        assert!(missing("").ends_with("it is a folder; name a file"));
    }
}
