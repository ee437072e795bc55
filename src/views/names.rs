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

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::View;
use super::source::frame_time;

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

/// What an image may be called by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    name: String,
    /// The parts of its whole path, or of its name if it has no file.
    path: Vec<String>,
}

impl Identity {
    /// Of an image that has this name and lies at `path`.
    pub fn new(name: &str, path: &Path) -> Self {
        Self {
            name: name.to_owned(),
            path: parts_of_path(path),
        }
    }

    /// Of a view.
    pub fn of(view: &View) -> Self {
        Self::new(&view.name, &view.path)
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same without the extension of the file.
    #[must_use]
    pub fn without_extension(&self) -> Self {
        let mut path = self.path.clone();
        if let Some(last) = path.last_mut() {
            *last = split(last).0;
        }
        Self {
            name: split(&self.name).0,
            path,
        }
    }

    /// How well `name` fits, if it fits at all: the same name is best, then the one with more equal
    /// parts from the end on, then the one that has no further parts.
    fn rank(&self, name: &str, parts: &[&str]) -> Option<Rank> {
        let equal = parts
            .iter()
            .rev()
            .zip(self.path.iter().rev())
            .take_while(|(a, b)| a == b)
            .count();
        let is_name = self.name == name;
        (equal > 0 || is_name).then_some(Rank {
            is_name,
            equal,
            is_whole: equal == parts.len(),
        })
    }
}

/// Why a list does not say which image is which; all by their indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguity {
    /// An entry fits two images alike.
    Entry {
        /// Which.
        entry: usize,
        /// The first two of them.
        images: [usize; 2],
    },
    /// Two entries fit an image alike.
    Image {
        /// Which.
        image: usize,
        /// The first two of them.
        entries: [usize; 2],
    },
}

impl Ambiguity {
    /// Says what may be what, by names.
    pub fn describe<'a>(
        self,
        entry: impl Fn(usize) -> &'a str,
        image: impl Fn(usize) -> &'a str,
    ) -> String {
        let may_be = |one: &str, [first, second]: [&str; 2]| match first == second {
            true => format!("{first} is listed twice"),
            false => format!("{one} may be {first} or {second}"),
        };
        match self {
            Self::Entry { entry: one, images } => may_be(entry(one), images.map(image)),
            Self::Image {
                image: one,
                entries,
            } => may_be(image(one), entries.map(entry)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_name: bool,
    equal: usize,
    is_whole: bool,
}

/// For each image the index of the entry of a list that means it; `entries` are the list's names,
/// paths of which the beginning may differ.
///
/// An entry means the image that has its name, or else the one whose path has the most parts in
/// common with it from the file name on; of several entries that mean an image the one that fits
/// best counts.
///
/// # Errors
/// [`Ambiguity`] for an entry that may mean several images, or an image that several entries may
/// mean.
pub fn assign(
    entries: &[impl AsRef<str>],
    images: &[Identity],
) -> Result<Vec<Option<usize>>, Ambiguity> {
    let mut by_file: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, image) in images.iter().enumerate() {
        let own = [
            image.path.last().map(String::as_str),
            image.name.rsplit('/').next(),
        ];
        for file in own.into_iter().flatten() {
            let found = by_file.entry(file).or_default();
            if found.last() != Some(&index) {
                found.push(index);
            }
        }
    }
    // Of each image the best rank and the entries that have it; an entry is for the images that it
    // fits best alone.
    let mut best: Vec<Option<(Rank, Vec<usize>)>> = vec![None; images.len()];
    for (at, entry) in entries.iter().enumerate() {
        let entry = entry.as_ref();
        let parts = parts(entry);
        let near = parts
            .last()
            .and_then(|file| by_file.get(file))
            .into_iter()
            .flatten();
        let ranked: Vec<(Rank, usize)> = near
            .filter_map(|&image| Some((images[image].rank(entry, &parts)?, image)))
            .collect();
        let Some(highest) = ranked.iter().map(|(rank, _)| *rank).max() else {
            continue;
        };
        for &(_, image) in ranked.iter().filter(|(rank, _)| *rank == highest) {
            match &mut best[image] {
                Some((rank, found)) if *rank == highest => found.push(at),
                Some((rank, _)) if *rank > highest => {}
                slot => *slot = Some((highest, vec![at])),
            }
        }
    }
    let mut image_of: HashMap<usize, usize> = HashMap::new();
    let mut assigned = vec![None; images.len()];
    for (image, found) in best.iter().enumerate() {
        let Some((_, found)) = found else { continue };
        match found[..] {
            [entry] => match image_of.insert(entry, image) {
                None => assigned[image] = Some(entry),
                Some(other) => {
                    return Err(Ambiguity::Entry {
                        entry,
                        images: [other, image],
                    });
                }
            },
            [one, two, ..] => {
                return Err(Ambiguity::Image {
                    image,
                    entries: [one, two],
                });
            }
            [] => {}
        }
    }
    Ok(assigned)
}

/// The images that a name or the end of a path means: the one that has this name, or else all whose
/// paths end so.
pub fn find(name: &str, images: &[Identity]) -> Vec<usize> {
    let parts = parts(name);
    let fits = |image: &Identity| {
        image
            .rank(name, &parts)
            .filter(|rank| rank.is_name || rank.is_whole)
    };
    let ranked: Vec<(Rank, usize)> = images
        .iter()
        .enumerate()
        .filter_map(|(index, image)| Some((fits(image)?, index)))
        .collect();
    let highest = ranked.iter().map(|(rank, _)| *rank).max();
    // A whole path that is also the end of another one is the shorter.
    let ranked = ranked
        .into_iter()
        .filter(|(rank, _)| Some(*rank) == highest)
        .map(|(_, index)| index);
    ranked.collect()
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

    fn identities(paths: &[&str]) -> Vec<Identity> {
        unique_names(paths)
            .iter()
            .zip(paths)
            .map(|(name, path)| Identity::new(name, Path::new(path)))
            .collect()
    }

    #[test]
    fn a_list_means_images_by_the_ends_of_their_paths() {
        let rig = identities(&["/d/rig/left/0.jpg", "/d/rig/right/0.jpg"]);
        let assigned = |entries: &[&str], images: &[Identity]| assign(entries, images);
        for entries in [
            ["right/0.jpg", "left/0.jpg"],
            ["images/right/0.jpg", "images/left/0.jpg"],
            ["right\\0.jpg", ".\\left\\0.jpg"],
            ["/d/rig/right/0.jpg", "./left/0.jpg"],
        ] {
            assert_eq!(
                assigned(&entries, &rig).unwrap(),
                [Some(1), Some(0)],
                "{entries:?}"
            );
        }
        // Only the left camera is known, or only the left one's images are given.
        assert_eq!(assigned(&["left/0.jpg"], &rig).unwrap(), [Some(0), None]);
        assert_eq!(
            assigned(&["right/0.jpg", "left/0.jpg"], &rig[..1]).unwrap(),
            [Some(1)]
        );
        assert_eq!(
            assigned(&["0.jpg", "left/0.jpg"], &rig).unwrap(),
            [Some(1), Some(0)]
        );
        let alone = identities(&["photos/a.png", "photos/b.png"]);
        assert_eq!(
            assigned(&["b.png", "other/a.png", "c.png", ""], &alone).unwrap(),
            [Some(1), Some(0)]
        );
        // The end of a name is no name.
        assert_eq!(assigned(&["xb.png", ".png"], &alone).unwrap(), [None, None]);
    }

    #[test]
    fn a_list_that_could_mean_several_images_is_refused() {
        let rig = identities(&["/d/rig/left/0.jpg", "/d/rig/right/0.jpg"]);
        let refusal = |entries: &[&str], images: &[Identity]| {
            assign(entries, images)
                .unwrap_err()
                .describe(|at| entries[at], |at| images[at].name())
        };
        assert_eq!(
            refusal(&["0.jpg"], &rig),
            "0.jpg may be left/0.jpg or right/0.jpg"
        );
        assert_eq!(
            refusal(&["top/0.jpg"], &rig),
            "top/0.jpg may be left/0.jpg or right/0.jpg"
        );
        let alone = [Identity::new("a.png", Path::new("a.png"))];
        assert_eq!(
            refusal(&["l/a.png", "r/a.png"], &alone),
            "a.png may be l/a.png or r/a.png"
        );
        assert_eq!(
            refusal(&["a.png", "a.png"], &alone),
            "a.png is listed twice"
        );
    }

    #[test]
    fn a_single_name_means_an_image_or_the_end_of_paths() {
        let images = identities(&[
            "photos/a.jpg",
            "photos/left/c 1.jpg",
            "photos/right/c 1.jpg",
        ]);
        let found = |name: &str| find(name, &images);
        assert_eq!(found("a.jpg"), [0]);
        assert_eq!(found("right\\c 1.jpg"), [2]);
        assert_eq!(found("c 1.jpg"), [1, 2]);
        assert_eq!(found("other/a.jpg"), [0; 0]);
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
