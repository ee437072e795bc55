//! The images of a folder, and what it holds beside them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mast3r::views::{self, Content};
use mast3r::{Error, Result};

use super::order::{natural_order, sort};
use super::{named, shown};

/// Extensions that make a file of a folder one of its images, whatever it holds: one that is
/// damaged is then named.
const EXTENSIONS: [&str; 7] = ["jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp"];
/// Ends of names of images that are a copy of another one: backups, downloads that go on, a
/// camera's thumbnails.
const COPIES: [&str; 8] = [
    "~",
    "_original",
    ".bak",
    ".orig",
    ".tmp",
    ".part",
    ".crdownload",
    ".thm",
];
/// Files that systems leave in folders of images.
const LITTER: [&str; 2] = ["thumbs.db", "desktop.ini"];

/// The images in a folder, in natural order, with its raw files if these are wanted, but for those
/// that the camera wrote beside an image of the same name. What it holds beside them is added to
/// `notes` in one line.
pub(super) fn in_folder(
    folder: &Path,
    raw_preview: bool,
    notes: &mut Vec<String>,
) -> Result<Vec<PathBuf>> {
    let (mut images, mut raws) = (Vec::new(), Vec::new());
    let mut others = Others::default();
    for path in entries(folder)? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        if path.is_dir() {
            others.folders.push(path);
        } else if !path.exists() {
            others.add("broken link", path);
        } else if is_image_name(&path) {
            images.push(path);
        } else if !LITTER.contains(&&*name) {
            match views::content(&path) {
                Ok(Content::Image) if COPIES.iter().any(|end| name.ends_with(end)) => {
                    others.add("backup or thumbnail", path);
                }
                Ok(Content::Image) => images.push(path),
                Ok(Content::Video) => others.add("video", path),
                Ok(Content::Raw) => raws.push(path),
                Ok(Content::Foreign(kind)) => {
                    others.add(kind.split_once(' ').map_or(kind, |(_, kind)| kind), path)
                }
                Ok(Content::Unknown) => others.add("other file", path),
                Err(_) => others.add("unreadable file", path),
            }
        }
    }
    let is_alone = |raw: &PathBuf| {
        raw_preview
            && !images
                .iter()
                .any(|image: &PathBuf| image.file_stem() == raw.file_stem())
    };
    let (wanted, unwanted): (Vec<_>, Vec<_>) = raws.into_iter().partition(is_alone);
    images.extend(wanted);
    unwanted
        .into_iter()
        .for_each(|raw| others.add("raw camera file", raw));
    if images.is_empty() {
        return Err(Error::input(folder, others.refusal()));
    }
    sort(&mut images);
    if !others.kinds.is_empty() {
        notes.push(format!("{}: not used: {}", shown(folder), others.list()));
    }
    Ok(images)
}

/// What a folder holds that is not an image to read.
#[derive(Default)]
struct Others {
    /// By what they are, in the singular.
    kinds: BTreeMap<String, Vec<PathBuf>>,
    folders: Vec<PathBuf>,
}

impl Others {
    fn add(&mut self, kind: &str, path: PathBuf) {
        self.kinds.entry(kind.to_owned()).or_default().push(path);
    }

    /// `2 GIF images (a.gif, b.gif), 1 video (c.mov)`
    fn list(&self) -> String {
        let kinds = self.kinds.iter().map(|(kind, paths)| {
            let mut paths = paths.clone();
            sort(&mut paths);
            let plural = if paths.len() == 1 { "" } else { "s" };
            let kind = kind.replacen(" or ", &format!("{plural} or "), 1);
            format!(
                "{} {kind}{plural} ({})",
                paths.len(),
                named(paths.iter().map(|path| file_name(path)))
            )
        });
        kinds.collect::<Vec<_>>().join(", ")
    }

    /// Why a folder has no images.
    fn refusal(&self) -> String {
        let mut reason = "no images that can be read are in this folder".to_owned();
        if self.kinds.is_empty() && self.folders.is_empty() {
            return format!("{reason}: it is empty");
        }
        if !self.kinds.is_empty() {
            reason += &format!(": {}", self.list());
        }
        if self.kinds.keys().any(|kind| kind.ends_with("image")) {
            reason += "; convert them to JPEG or PNG";
        }
        if self.kinds.contains_key("raw camera file") {
            reason += "; develop raw files, or use their previews with --raw-preview";
        }
        if self.kinds.contains_key("video") {
            reason += "; name a video itself for its frames";
        }
        if let Some(target) = self
            .kinds
            .get("broken link")
            .and_then(|links| links.iter().min()?.read_link().ok())
        {
            reason += &format!(
                "; fetch the files that links point to, such as {}",
                shown(&target)
            );
            reason += " (git annex get, dvc pull)";
        }
        if !self.folders.is_empty() {
            let names = named(self.folders.iter().map(|path| file_name(path)));
            reason += &format!("; folders in it are not searched ({names}): name them");
        }
        reason
    }
}

/// The images in a folder and in all folders below it, in natural order, with their paths below it,
/// whose separator is `/`.
pub fn below_folder(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut images = Vec::new();
    let mut folders = vec![(folder.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for path in entries(&folder)? {
            let below = format!("{prefix}{}", file_name(&path));
            // A link to a folder may lead back to where it lies.
            if path.is_dir() && !path.is_symlink() {
                folders.push((path, below + "/"));
            } else if is_image_name(&path)
                || (path.is_file() && matches!(views::content(&path), Ok(Content::Image)))
            {
                images.push((path, below));
            }
        }
    }
    images.sort_by(|(_, a), (_, b)| natural_order(a, b));
    Ok(images)
}

/// Files and folders in a folder that are not hidden.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut entries = Vec::new();
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotADirectory => Error::input(folder, "it is a file; name a folder"),
        _ => Error::unreadable(folder, source),
    };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if !file_name(&path).starts_with('.') {
            entries.push(path);
        }
    }
    Ok(entries)
}

fn is_image_name(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    EXTENSIONS
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}
