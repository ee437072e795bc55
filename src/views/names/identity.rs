//! Which image a name in a list, such as one of cameras or masks, means.

use std::collections::HashMap;
use std::path::Path;

use super::super::View;
use super::{parts, parts_of_path, split};

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

#[cfg(test)]
mod tests {
    use super::super::unique_names;
    use super::*;

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
}
