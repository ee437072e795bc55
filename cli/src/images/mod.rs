//! Images from what was typed: files, folders, patterns, and lists of files.

mod folder;
mod order;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use clap::Args;
use mast3r::input::read_text;
use mast3r::views::{self, Content, Pixels, Source, View};
use mast3r::{Error, Result, Visible};

use crate::GlobalArgs;
use crate::videos::VideoArgs;
pub use folder::below_folder;
use folder::in_folder;
use order::sort;

/// What a list's name begins with.
const LIST: char = '@';
/// Files that a message names before it counts the rest.
const MOST_NAMED: usize = 3;

/// Images as they were named.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// Images: JPEG, PNG, WebP, TIFF, BMP, HEIC or AVIF files, videos, folders, 'patterns*.jpg' or
    /// @LIST files
    ///
    /// Videos need ffmpeg and ffprobe on the PATH; their frames are named by their times:
    /// walk.mp4@00012.500. HEIC and AVIF need heif-dec, heif-convert, sips, magick or ffmpeg, and
    /// are decoded by the first of them that can.
    ///
    /// A folder stands for the images directly in it, recognised by extension or content; a pattern
    /// for the files that match it; both in natural order, 9 before 10. @LIST stands for the files
    /// that the text file LIST names, one a line. Files given twice count once. In results an image
    /// has its file name, or, where file names are not unique, its path below the common folder.
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,

    #[command(flatten)]
    videos: VideoArgs,

    /// Use the largest JPEG preview in raw camera files, which are refused otherwise: DNG, CR2, CR3,
    /// NEF, ARW, RAF, ORF, RW2 and others
    #[arg(long)]
    raw_preview: bool,
}

impl ImageArgs {
    /// The image files, with the frames of each video among them in its place.
    pub fn frames(&self, files: Vec<PathBuf>, global: &GlobalArgs) -> Result<Vec<PathBuf>> {
        self.videos.frames(files, global)
    }

    /// The files of images and videos, in order, each once. What folders hold beside images and
    /// files that are given more than once are mentioned.
    pub fn expand(&self, global: &GlobalArgs) -> Result<Vec<PathBuf>> {
        let Expanded { images, notes } = Expanded::new(&self.images, self.raw_preview)?;
        notes.iter().for_each(|note| global.say(note));
        Error::all(images.into_iter().map(|path| self.readable(path)))
    }

    /// The path to read instead of that of a raw file.
    fn readable(&self, path: PathBuf) -> Result<PathBuf> {
        if !path.is_file() || !matches!(views::content(&path), Ok(Content::Raw)) {
            return Ok(path);
        }
        if self.raw_preview {
            return Ok(Source::Preview(path).path());
        }
        let reason = "a raw camera file, which is not developed here; develop it to TIFF or JPEG, or use the JPEG \
                      preview in it: --raw-preview";
        Err(Error::input(path, reason))
    }
}

/// Mentions images that have the same pixels as an earlier one.
pub fn tell_identical(views: &[View], global: &GlobalArgs) {
    if let Some(note) = identical(views) {
        global.say(note);
    }
}

fn identical(views: &[View]) -> Option<String> {
    let mut first: HashMap<&Pixels, &View> = HashMap::new();
    let mut repeated = Vec::new();
    for view in views {
        match first.entry(&view.rgb) {
            Entry::Occupied(earlier) => repeated.push((view, *earlier.get())),
            Entry::Vacant(place) => drop(place.insert(view)),
        }
    }
    let pairs = repeated
        .iter()
        .map(|(view, earlier)| format!("{} (as {})", view.name, earlier.name));
    match (repeated.len(), first.len()) {
        (0, _) => None,
        (_, 1) => Some(format!(
            "all {} images are identical ({}): without a baseline, distances and camera positions mean nothing",
            views.len(),
            named(views.iter().map(|view| view.name.clone()))
        )),
        (1, _) => Some(format!("1 image is identical to another: {}", named(pairs))),
        (count, _) => Some(format!(
            "{count} images are identical to others: {}",
            named(pairs)
        )),
    }
}

/// What arguments stand for.
struct Expanded {
    images: Vec<PathBuf>,
    /// Lines for the user.
    notes: Vec<String>,
}

impl Expanded {
    fn new(arguments: &[PathBuf], raw_preview: bool) -> Result<Self> {
        let (mut images, mut notes) = (Vec::new(), Vec::new());
        let mut seen: HashMap<PathBuf, usize> = HashMap::new();
        for argument in arguments {
            for path in files_of(argument, raw_preview, &mut notes)? {
                let times = seen.entry(place(&path)).or_insert(0);
                *times += 1;
                if *times == 1 {
                    images.push(path);
                }
            }
        }
        let repeated: Vec<&PathBuf> = images
            .iter()
            .filter(|path| seen[&place(path)] > 1)
            .collect();
        match repeated[..] {
            [] => {}
            [path] => notes.push(format!(
                "{} is given {} times and used once",
                shown(path),
                seen[&place(path)]
            )),
            _ => {
                let names = named(repeated.iter().map(|path| shown(path)));
                notes.push(format!(
                    "{} images are given more than once and used once: {names}",
                    repeated.len()
                ));
            }
        }
        Ok(Self { images, notes })
    }
}

/// One path for all spellings of a file. A link is a file of its own.
fn place(path: &Path) -> PathBuf {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let folder = folder
        .canonicalize()
        .unwrap_or_else(|_| folder.to_path_buf());
    folder.join(path.file_name().unwrap_or(path.as_os_str()))
}

/// The files that one argument stands for; one that is neither a folder nor a list nor a pattern
/// stands for itself, whether or not there is such a file.
fn files_of(argument: &Path, raw_preview: bool, notes: &mut Vec<String>) -> Result<Vec<PathBuf>> {
    if argument.is_dir() {
        return in_folder(argument, raw_preview, notes);
    }
    let is_there = argument.exists() || argument.is_symlink();
    match argument.to_str().filter(|_| !is_there) {
        Some(text) if text.starts_with(LIST) => in_list(Path::new(&text[LIST.len_utf8()..])),
        Some(text) if text.contains(['*', '?', '[']) => by_pattern(text),
        _ => Ok(vec![argument.to_path_buf()]),
    }
}

fn shown(path: &Path) -> String {
    Visible(&path.to_string_lossy()).to_string()
}

/// The first of many names, and how many more there are.
pub fn named(names: impl IntoIterator<Item = String>) -> String {
    let names: Vec<String> = names
        .into_iter()
        .map(|name| Visible(&name).to_string())
        .collect();
    let rest = names.len().saturating_sub(MOST_NAMED);
    match rest {
        0 => names.join(", "),
        _ => format!("{} and {rest} more", names[..MOST_NAMED].join(", ")),
    }
}

fn in_list(list: &Path) -> Result<Vec<PathBuf>> {
    let text = read_text(list)?;
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let images: Vec<PathBuf> = lines.map(|line| listed(line, list)).collect();
    if images.is_empty() {
        return Err(Error::input(list, "the list names no images"));
    }
    Ok(images)
}

/// The file that a line of a list names: as seen from here, or else from where the list lies; if
/// there is none, without the quotation marks and with the separators that lists made on Windows
/// have.
fn listed(line: &str, list: &Path) -> PathBuf {
    let folder = list.parent().unwrap_or(Path::new(""));
    let bare = line
        .strip_prefix('"')
        .and_then(|line| line.strip_suffix('"'))
        .unwrap_or(line);
    let spellings = [line.to_owned(), bare.to_owned(), bare.replace('\\', "/")];
    let is_there = |path: &PathBuf| path.exists() || path.is_symlink();
    let places = spellings
        .iter()
        .flat_map(|name| [PathBuf::from(name), folder.join(name)]);
    places
        .into_iter()
        .find(is_there)
        .unwrap_or_else(|| PathBuf::from(line))
}

fn by_pattern(pattern: &str) -> Result<Vec<PathBuf>> {
    let found = glob::glob(pattern).map_err(|error| {
        Error::Usage(format!(
            "{pattern}: no such file, nor a valid pattern: {error}"
        ))
    })?;
    let mut images = Vec::new();
    for path in found {
        let path = path.map_err(|error| {
            let unreadable = error.path().to_path_buf();
            Error::unreadable(unreadable, error.into())
        })?;
        // A link to nothing is for those to name who read it.
        if !path.is_dir() {
            images.push(path);
        }
    }
    if images.is_empty() {
        return Err(Error::input(pattern, "no file matches this pattern"));
    }
    sort(&mut images);
    Ok(images)
}
