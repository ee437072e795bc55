//! How images are identified.
//!
//! Every image of a run has a name that no other has. It is the file name where no two images share
//! one; otherwise it is the path below the deepest folder that all images have in common, such as
//! `left/0.jpg`, for every image of the run. So it depends on which images there are, and not on
//! their order or on the folder that the program runs in. Names of files that are written follow
//! from it, with the same sub-folders.
//!
//! Lists (cameras, masks) name images by paths too, which may begin elsewhere: [`assign`] says
//! which image is meant.

mod identity;

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::source::frame_time;
pub use identity::{Ambiguity, Identity, assign, find};

/// The name of an image whose path has no part that could be one.
const UNNAMED: &str = "image";

/// The names of the images `paths`: file names where they differ, otherwise paths below the deepest
/// folder that all images have in common, with `/` between their parts.
///
/// Names that differ only in case count as equal, as they are on some file systems. Where one path
/// is there twice, the later gets a number.
pub fn unique_names<P: AsRef<Path>>(paths: &[P]) -> Vec<String> {
    let paths: Vec<Vec<String>> = paths
        .iter()
        .map(|path| parts_of_path(path.as_ref()))
        .collect();
    let mut seen = HashSet::new();
    let is_unique = paths
        .iter()
        .all(|parts| seen.insert(parts.last().map(|name| name.to_lowercase())));
    let common = match (is_unique, paths.first()) {
        (true, _) | (_, None) => usize::MAX,
        (false, Some(first)) => {
            let shared =
                |parts: &Vec<String>| parts.iter().zip(first).take_while(|(a, b)| a == b).count();
            paths.iter().map(shared).min().unwrap_or(0)
        }
    };
    let name = |parts: &Vec<String>| parts[common.min(parts.len().saturating_sub(1))..].join("/");
    distinct(paths.iter().map(|parts| split(&name(parts))).collect())
}

/// Relative paths of files that can be written for images of these names: without what leads out of
/// a folder, and made distinct by a number before the extension where they are not, `a.png`,
/// `a-2.png`.
///
/// Names that differ only in case count as equal. The first of equal names stays as it is, and no
/// number is given that would collide with another image's own name.
pub fn distinct_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    distinct(names.into_iter().map(|name| split(&inside(name))).collect())
}

/// The same without the extensions.
pub fn distinct_stems<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    distinct(
        names
            .into_iter()
            .map(|name| (split(&inside(name)).0, String::new()))
            .collect(),
    )
}

/// A name with another extension, or with one where it has none.
pub fn with_extension(name: &str, extension: &str) -> String {
    format!("{}.{extension}", split(name).0)
}

/// Why a name from outside cannot be an image's, if it cannot: it must be a relative path that
/// stays in its folder.
pub fn refuse_name(name: &str) -> Option<&'static str> {
    let mut parts = name.split('/');
    if name.chars().any(char::is_control) {
        Some("it has control characters")
    } else if name.contains('\\') {
        Some("it has a backslash")
    } else if parts.clone().any(|part| part == "..") {
        Some("it leads out of its folder by ..")
    } else if name.starts_with('/')
        || Path::new(name).is_absolute()
        || (cfg!(windows) && name.contains(':'))
    {
        Some("it is an absolute path")
    } else if parts.any(|part| part.is_empty() || part == ".") {
        Some("a part of it is empty")
    } else {
        None
    }
}

/// The time that a file is named after: seconds with a decimal point, or a whole number of 16
/// digits or more, which are microseconds (16) or nanoseconds (19). So name the ASL and TUM data
/// sets their images. A frame of a video, such as `walk.mp4@00012.500`, has its own time.
pub fn timestamp(name: &str) -> Option<Duration> {
    if let Some(time) = frame_time(name) {
        return Some(time);
    }
    let name = name.rsplit('/').next().unwrap_or(name);
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let decimal = |text: &str| {
        let (seconds, fraction) = text.split_once('.')?;
        if !is_digits(seconds) || !is_digits(fraction) {
            return None;
        }
        let nanoseconds = format!("{:0<9}", &fraction[..fraction.len().min(9)])
            .parse()
            .ok()?;
        Some(Duration::new(seconds.parse().ok()?, nanoseconds))
    };
    // A name may have an extension or not, and what follows the only point of `1.5` is none.
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let whole = |text: &str| match text.len() {
        16 if is_digits(text) => text.parse().ok().map(Duration::from_micros),
        19 if is_digits(text) => text.parse().ok().map(Duration::from_nanos),
        _ => None,
    };
    decimal(stem)
        .or_else(|| whole(stem))
        .or_else(|| decimal(name))
        .or_else(|| whole(name))
}

/// The parts of a path from outside, whose separators are of either kind.
fn parts(path: &str) -> Vec<&str> {
    path.split(['/', '\\'])
        .filter(|part| !part.is_empty() && *part != ".")
        .collect()
}

/// The parts of a path of this system, absolute, without `..` and without characters that break
/// lines or lists.
fn parts_of_path(path: &Path) -> Vec<String> {
    let mut parts = Vec::new();
    for component in std::path::absolute(path)
        .unwrap_or_else(|_| PathBuf::from(path))
        .components()
    {
        match component {
            Component::ParentDir => drop(parts.pop()),
            Component::Prefix(prefix) => parts.push(plain(
                &prefix.as_os_str().to_string_lossy().replace(':', ""),
            )),
            Component::Normal(part) => parts.push(plain(&part.to_string_lossy())),
            Component::RootDir | Component::CurDir => {}
        }
    }
    if parts.is_empty() {
        parts.push(UNNAMED.into());
    }
    parts
}

fn plain(part: &str) -> String {
    part.chars()
        .map(|char| {
            if char.is_control() || char == '\\' {
                '_'
            } else {
                char
            }
        })
        .collect()
}

/// A name as a relative path that does not leave its folder.
fn inside(name: &str) -> String {
    let parts: Vec<String> = parts(name)
        .into_iter()
        .filter(|part| *part != "..")
        .map(plain)
        .collect();
    // On Windows a colon would name a drive or a stream.
    let name = if cfg!(windows) {
        parts.join("/").replace(':', "_")
    } else {
        parts.join("/")
    };
    if name.is_empty() {
        UNNAMED.into()
    } else {
        name
    }
}

/// Stem and extension, the latter with its dot. What follows the dot in the name of a video's frame
/// is a part of its time.
fn split(name: &str) -> (String, String) {
    if frame_time(name).is_some() {
        return (name.into(), String::new());
    }
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].rfind('.') {
        Some(dot) if dot > 0 => (name[..file + dot].into(), name[file + dot..].into()),
        _ => (name.into(), String::new()),
    }
}

fn distinct(names: Vec<(String, String)>) -> Vec<String> {
    let own: HashSet<String> = names
        .iter()
        .map(|(stem, extension)| format!("{stem}{extension}").to_lowercase())
        .collect();
    let mut given = HashSet::new();
    let mut number_from = HashMap::new();
    names
        .into_iter()
        .map(|(stem, extension)| {
            let name = format!("{stem}{extension}");
            if given.insert(name.to_lowercase()) {
                return name;
            }
            let number = number_from.entry(name.to_lowercase()).or_insert(2_usize);
            loop {
                let candidate = format!("{stem}-{number}{extension}");
                *number += 1;
                let key = candidate.to_lowercase();
                if !own.contains(&key) && given.insert(key) {
                    return candidate;
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_file_names_where_these_differ() {
        assert_eq!(
            unique_names(&["photos/a.png", "b.tar.gz", "/x/c"]),
            ["a.png", "b.tar.gz", "c"]
        );
        assert_eq!(unique_names::<&str>(&[]), [""; 0]);
    }

    #[test]
    fn times_of_frames_are_no_extensions() {
        assert_eq!(
            distinct_stems(["walk.mp4@00012.500", "walk.mp4@00012.900", "a.mp4"]),
            ["walk.mp4@00012.500", "walk.mp4@00012.900", "a"]
        );
        assert_eq!(
            with_extension("walk.mp4@00012.500", "png"),
            "walk.mp4@00012.500.png"
        );
        assert_eq!(with_extension("left/a.jpg", "png"), "left/a.png");
        assert_eq!(
            timestamp("left/walk.mp4@00012.500"),
            Some(Duration::from_millis(12_500))
        );
    }

    #[test]
    fn names_are_paths_below_the_common_folder_where_file_names_are_equal() {
        let rig = [
            "rig/left/0.jpg",
            "rig/left/1.jpg",
            "rig/right/0.jpg",
            "rig/top/9.jpg",
        ];
        assert_eq!(
            unique_names(&rig),
            ["left/0.jpg", "left/1.jpg", "right/0.jpg", "top/9.jpg"]
        );
        // In whatever order, and by whatever way they are named.
        let spelled = ["./rig/right/0.jpg", "rig/left/../left/0.jpg"];
        assert_eq!(unique_names(&spelled), ["right/0.jpg", "left/0.jpg"]);
        assert_eq!(
            unique_names(&["0.jpg", "left/0.jpg"]),
            ["0.jpg", "left/0.jpg"]
        );
        assert_eq!(
            unique_names(&["/a/x/0.jpg", "/b/x/0.jpg"]),
            ["a/x/0.jpg", "b/x/0.jpg"]
        );
        assert_eq!(
            unique_names(&["x/a.png", "y/A.png"]),
            ["x/a.png", "y/A.png"]
        );
        // One file twice, and two files that some systems take for one.
        assert_eq!(
            unique_names(&["x/a.png", "x/a.png", "x/a-2.png"]),
            ["a.png", "a-3.png", "a-2.png"]
        );
        assert_eq!(unique_names(&["x/a.png", "x/A.png"]), ["a.png", "A-2.png"]);
    }

    #[test]
    fn files_are_named_distinctly() {
        assert_eq!(
            distinct_names(["a.png", "dir/b.tar.gz", "c"]),
            ["a.png", "dir/b.tar.gz", "c"]
        );
        assert_eq!(
            distinct_stems(["a.png", "dir/b.tar.gz", ".hidden"]),
            ["a", "dir/b.tar", ".hidden"]
        );
        assert_eq!(
            distinct_names(["a.png", "A.png", "a-2.png", "a.png"]),
            ["a.png", "A-3.png", "a-2.png", "a-4.png"]
        );
        assert_eq!(
            distinct_stems(["l/a.png", "l/a.jpg", "r/a.webp"]),
            ["l/a", "l/a-2", "r/a"]
        );
    }

    #[test]
    fn a_file_cannot_leave_its_folder() {
        assert_eq!(
            distinct_stems(["..", "/", "..\\evil", "a\nb"]),
            ["image", "image-2", "evil", "a_b"]
        );
        assert_eq!(
            distinct_names(["/etc/passwd", "a/../../b.png", "./c\0.png"]),
            ["etc/passwd", "a/b.png", "c_.png"]
        );
        for name in [
            "..",
            "../a.png",
            "a/../b.png",
            "/a.png",
            "a\\b.png",
            "a\0.png",
            "a//b.png",
            "./a.png",
            "",
            "a/",
        ] {
            assert!(refuse_name(name).is_some(), "{name:?}");
        }
        for name in ["a.png", "left/0.jpg", "..a/b..", "a b.png"] {
            assert_eq!(refuse_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn times_are_read_from_names() {
        let seconds = |name: &str| {
            timestamp(name).map(|time| format!("{}.{:09}", time.as_secs(), time.subsec_nanos()))
        };
        let time = Some("1403636579.763555584".to_string());
        for name in [
            "1403636579.763555584.png",
            "cam0/1403636579.763555584.png",
            "1403636579763555584.png",
            "1403636579.763555584",
            "1403636579763555584",
        ] {
            assert_eq!(seconds(name), time, "{name}");
        }
        assert_eq!(
            seconds("1305031102.1753.png").as_deref(),
            Some("1305031102.175300000")
        );
        assert_eq!(
            seconds("1403636579763555.jpg").as_deref(),
            Some("1403636579.763555000")
        );
        for name in [
            "000001.png",
            "a.png",
            "1403636579.png",
            "IMG_1403636579.5.png",
            "1.2.3.png",
            ".5.png",
            "20240101120000.jpg",
        ] {
            assert_eq!(seconds(name), None, "{name}");
        }
    }
}
