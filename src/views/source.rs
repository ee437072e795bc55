//! Images that are a part of a file, and how paths name them.
//!
//! `walk.mp4@00012.500` is the frame of the video `walk.mp4` at 12.5 seconds, `a.dng@preview` the
//! preview inside the raw file `a.dng`. Such a path is used as that of an image file is, wherever
//! one is; a file that has this very name comes first.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What separates the file from its part.
const SEPARATOR: char = '@';
/// The part of a raw file that is its largest preview.
const PREVIEW: &str = "preview";

/// What a path of an image stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An image file.
    File(PathBuf),
    /// A frame of a video.
    Frame {
        /// The video's file.
        video: PathBuf,
        /// When the frame is shown, from the video's start on, to a millisecond.
        time: Duration,
    },
    /// The largest JPEG preview in a raw camera file.
    Preview(PathBuf),
}

impl Source {
    /// What `path` stands for. Looks at which files there are.
    pub fn of(path: &Path) -> Self {
        let file = || Self::File(path.to_owned());
        if path.symlink_metadata().is_ok() {
            return file();
        }
        let Some((whole, part)) = split(path) else {
            return file();
        };
        match parse_time(&part) {
            _ if !whole.is_file() => file(),
            Some(time) => Self::Frame { video: whole, time },
            None if part == PREVIEW => Self::Preview(whole),
            None => file(),
        }
    }

    /// The file that the image is, or is a part of.
    pub fn file(&self) -> &Path {
        match self {
            Self::File(path) | Self::Frame { video: path, .. } | Self::Preview(path) => path,
        }
    }

    /// The path that stands for it.
    pub fn path(&self) -> PathBuf {
        let part = match self {
            Self::File(path) => return path.clone(),
            Self::Frame { time, .. } => {
                format!("{:05}.{:03}", time.as_secs(), time.subsec_millis())
            }
            Self::Preview(_) => PREVIEW.to_owned(),
        };
        let mut path = OsString::from(self.file());
        path.push(SEPARATOR.to_string());
        path.push(part);
        path.into()
    }
}

/// The time in the name of a frame such as `walk.mp4@00012.500`.
pub(super) fn frame_time(name: &str) -> Option<Duration> {
    parse_time(name.rsplit_once(SEPARATOR)?.1)
}

/// Seconds with exactly three digits after the point.
fn parse_time(part: &str) -> Option<Duration> {
    let (seconds, millis) = part.split_once('.')?;
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(seconds) || !is_digits(millis) || millis.len() != 3 {
        return None;
    }
    let (seconds, millis): (u32, u32) = (seconds.parse().ok()?, millis.parse().ok()?);
    Some(Duration::new(seconds.into(), millis * 1_000_000))
}

/// A path before its last separator, and what follows that.
fn split(path: &Path) -> Option<(PathBuf, String)> {
    #[cfg(unix)]
    {
        // Names of files need not be text.
        use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
        let bytes = path.as_os_str().as_bytes();
        let at = bytes.iter().rposition(|byte| *byte == SEPARATOR as u8)?;
        let part = str::from_utf8(&bytes[at + 1..]).ok()?;
        Some((OsString::from_vec(bytes[..at].to_vec()).into(), part.into()))
    }
    #[cfg(not(unix))]
    {
        let (whole, part) = path.to_str()?.rsplit_once(SEPARATOR)?;
        Some((whole.into(), part.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_frames_and_previews_of_files_that_exist() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["walk.mp4", "a@b.dng", "walk.mp4@00001.000"] {
            std::fs::write(at(name), "").unwrap();
        }
        let frame = Source::Frame {
            video: at("walk.mp4"),
            time: Duration::from_millis(12_500),
        };
        assert_eq!(Source::of(&at("walk.mp4@00012.500")), frame);
        assert_eq!(Source::of(&at("walk.mp4@12.500")), frame);
        assert_eq!(frame.path(), at("walk.mp4@00012.500"));
        let preview = Source::Preview(at("a@b.dng"));
        assert_eq!(Source::of(&at("a@b.dng@preview")), preview);
        assert_eq!(preview.path(), at("a@b.dng@preview"));
        for file in [
            "walk.mp4",
            "a@b.dng",
            // A file of that name, a video that does not exist, times that are none.
            "walk.mp4@00001.000",
            "other.mp4@00001.000",
            "walk.mp4@12.5",
            "walk.mp4@-1.000",
            "walk.mp4@",
        ] {
            assert_eq!(Source::of(&at(file)), Source::File(at(file)), "{file}");
        }
    }

    #[test]
    fn names_of_frames_have_times() {
        assert_eq!(
            frame_time("left/walk.mp4@00012.500"),
            Some(Duration::from_millis(12_500))
        );
        assert_eq!(frame_time("walk.mp4"), None);
        assert_eq!(frame_time("a@b.jpg"), None);
    }
}
