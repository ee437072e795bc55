//! Images from what was typed: files, folders, patterns, and lists of files.

use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use mast3r::input::read_text;
use mast3r::views::{self, Content, Pixels, Source, View};
use mast3r::{Error, Result, Visible};

use crate::GlobalArgs;
use crate::videos::VideoArgs;

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

/// The images in a folder, in natural order, with its raw files if these are wanted, but for those
/// that the camera wrote beside an image of the same name. What it holds beside them is added to
/// `notes` in one line.
fn in_folder(folder: &Path, raw_preview: bool, notes: &mut Vec<String>) -> Result<Vec<PathBuf>> {
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

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
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

fn sort(paths: &mut [PathBuf]) {
    paths.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
}

/// Numbers by their value, everything else by its letters, capital or not.
fn natural_order(a: &str, b: &str) -> Ordering {
    let [mut left, mut right] = [a, b];
    loop {
        let numbers = [number(left), number(right)];
        let order = match numbers {
            [Some(x), Some(y)] => {
                (left, right) = (&left[x.len()..], &right[y.len()..]);
                let [x, y] = [x, y].map(|digits| digits.trim_start_matches('0'));
                x.len().cmp(&y.len()).then(x.cmp(y))
            }
            _ => {
                let [x, y] = [left, right].map(|text| text.chars().next());
                let (Some(x), Some(y)) = (x, y) else {
                    return x.cmp(&y).then(a.cmp(b));
                };
                (left, right) = (&left[x.len_utf8()..], &right[y.len_utf8()..]);
                x.to_lowercase().cmp(y.to_lowercase())
            }
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// The digits that a text begins with.
fn number(text: &str) -> Option<&str> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    /// What an argument in `folder` stands for, as names in it.
    fn names(folder: &tempfile::TempDir, arguments: &[&str]) -> Vec<String> {
        let inside = |name: &&str| match name.strip_prefix(LIST) {
            Some(list) => PathBuf::from(format!("{LIST}{}", folder.path().join(list).display())),
            None => folder.path().join(name),
        };
        let arguments: Vec<PathBuf> = arguments.iter().map(inside).collect();
        let name = |path: PathBuf| {
            path.strip_prefix(folder.path())
                .unwrap()
                .to_string_lossy()
                .into_owned()
        };
        Expanded::new(&arguments, false)
            .unwrap()
            .images
            .into_iter()
            .map(name)
            .collect()
    }

    #[test]
    fn names_are_sorted_as_people_count() {
        let mut names = ["b10", "b9", "B2", "a", "b010", "b9x", "b", "ä"].map(PathBuf::from);
        sort(&mut names);
        let sorted: Vec<&str> = names.iter().map(|name| name.to_str().unwrap()).collect();
        assert_eq!(sorted, ["a", "b", "B2", "b9", "b9x", "b010", "b10", "ä"]);
    }

    /// The lines for the user about a folder, without where it lies.
    fn notes(folder: &tempfile::TempDir, arguments: &[&str]) -> Vec<String> {
        let arguments: Vec<PathBuf> = arguments
            .iter()
            .map(|name| folder.path().join(name))
            .collect();
        let notes = Expanded::new(&arguments, false).unwrap().notes;
        notes
            .iter()
            .map(|note| note.replace(&format!("{}", folder.path().display()), "HERE"))
            .collect()
    }

    const JPEG: &[u8] = &[0xff, 0xd8, 0xff, 0xe0];
    const VIDEO: &[u8] = b"\0\0\0\x18ftypqt  \0\0\0\0";
    const RAW: &[u8] = b"II*\0\x08\0\0\0";
    const JP2: &[u8] = b"\0\0\0\x0cjP  \r\n";
    const HEIC: &[u8] = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";

    #[test]
    fn a_folder_stands_for_its_images() {
        let folder = folder(&[
            "10.jpg",
            "9.JPG",
            "notes.txt",
            ".hidden.png",
            "below/1.png",
            "x.tiff",
            "Thumbs.db",
        ]);
        assert_eq!(names(&folder, &[""]), ["9.JPG", "10.jpg", "x.tiff"]);
        assert_eq!(
            notes(&folder, &[""]),
            ["HERE/: not used: 1 other file (notes.txt)"]
        );
    }

    #[test]
    fn images_of_a_folder_are_recognised_by_content() {
        let folder = folder(&["a.jpg", "z.xmp"]);
        for (name, bytes) in [
            ("b.jfif", JPEG),
            ("c.MPO", JPEG),
            ("d", JPEG),
            ("e.HEIC", HEIC),
            ("f.mov", VIDEO),
            ("g.dng", RAW),
            ("h.gif", b"GIF89a"),
            ("i.jpg~", JPEG),
            ("j.jpg_original", JPEG),
            ("k.THM", JPEG),
        ] {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        assert_eq!(
            names(&folder, &[""]),
            ["a.jpg", "b.jfif", "c.MPO", "d", "e.HEIC"]
        );
        let [note] = &notes(&folder, &[""])[..] else {
            panic!("one line")
        };
        for part in [
            "1 video (f.mov)",
            "1 raw camera file (g.dng)",
            "1 GIF image (h.gif)",
            "3 backups or thumbnails (i.jpg~, j.jpg_original, k.THM)",
            "1 other file (z.xmp)",
        ] {
            assert!(note.contains(part), "{note}");
        }
    }

    #[test]
    fn raw_files_of_a_folder_are_used_where_that_is_wanted() {
        let folder = folder(&["a.jpg"]);
        for name in ["a.dng", "b.NEF", "c.mov"] {
            let bytes = if name == "c.mov" { VIDEO } else { RAW };
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let names = |raw_preview: bool| {
            let expanded = Expanded::new(&[folder.path().into()], raw_preview).unwrap();
            let names = expanded.images.iter().map(|path| file_name(path));
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(false), ["a.jpg"]);
        // The camera wrote the first twice.
        assert_eq!(names(true), ["a.jpg", "b.NEF"]);
        fs::remove_file(folder.path().join("a.jpg")).unwrap();
        let refusal = Expanded::new(&[folder.path().into()], false).err();
        let refusal = refusal.unwrap().to_string();
        assert!(
            refusal.ends_with(
                "2 raw camera files (a.dng, b.NEF), 1 video (c.mov); develop raw files, or use their previews with \
                 --raw-preview; name a video itself for its frames"
            ),
            "{refusal}"
        );
    }

    #[test]
    fn a_folder_without_images_says_what_it_holds() {
        let refusal = |folder: &tempfile::TempDir| {
            Expanded::new(&[folder.path().into()], false)
                .err()
                .unwrap()
                .to_string()
        };
        assert!(
            refusal(&folder(&[]))
                .ends_with("no images that can be read are in this folder: it is empty")
        );
        let phone = folder(&[]);
        (1..=5).for_each(|number| {
            fs::write(phone.path().join(format!("IMG_{number}.JP2")), JP2).unwrap()
        });
        let message = refusal(&phone);
        assert!(
            message.ends_with(
                "5 JPEG 2000 images (IMG_1.JP2, IMG_2.JP2, IMG_3.JP2 and 2 more); convert them to JPEG or PNG"
            ),
            "{message}"
        );
        let message = refusal(&folder(&["left/0.jpg", "right/0.jpg"]));
        assert!(
            message.contains("folders in it are not searched (")
                && message.ends_with("): name them"),
            "{message}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_to_nothing_are_named() {
        let folder = folder(&[]);
        let link = |name: &str| {
            std::os::unix::fs::symlink("../objects/ab12", folder.path().join(name)).unwrap()
        };
        link("a.jpg");
        link("b.jpg");
        let message = Expanded::new(&[folder.path().into()], false)
            .err()
            .unwrap()
            .to_string();
        assert!(
            message.contains(
                "2 broken links (a.jpg, b.jpg); fetch the files that links point to, such as ../objects/ab12"
            ),
            "{message}"
        );
        // By a pattern or by name they are for those to refuse who read them.
        assert_eq!(names(&folder, &["*.jpg"]), ["a.jpg", "b.jpg"]);
        link("c*.jpg");
        assert_eq!(names(&folder, &["c*.jpg"]), ["c*.jpg"]);
        fs::write(folder.path().join("d.png"), "").unwrap();
        assert_eq!(names(&folder, &[""]), ["d.png"]);
        assert_eq!(
            notes(&folder, &[""]),
            ["HERE/: not used: 3 broken links (a.jpg, b.jpg, c*.jpg)"]
        );
    }

    #[test]
    fn a_file_counts_once_however_it_is_named() {
        let folder = folder(&["10.jpg", "9.jpg", "below/1.jpg"]);
        assert_eq!(names(&folder, &["", "10.jpg"]), ["9.jpg", "10.jpg"]);
        assert_eq!(names(&folder, &["10.jpg", ""]), ["10.jpg", "9.jpg"]);
        assert_eq!(
            names(&folder, &["below/../9.jpg", "9.jpg", "./9.jpg"]).len(),
            1
        );
        assert_eq!(
            notes(&folder, &["9.jpg", "9.jpg", "9.jpg"]),
            ["HERE/9.jpg is given 3 times and used once"]
        );
        let two = "2 images are given more than once and used once: HERE/9.jpg, HERE/10.jpg";
        assert_eq!(notes(&folder, &["", "*.jpg"]), [two]);
        assert!(notes(&folder, &[""]).is_empty());
    }

    #[test]
    fn a_pattern_stands_for_the_files_that_match() {
        let folder = folder(&["10.jpg", "9.jpg", "9.png", "below/1.jpg", "star*.jpg"]);
        assert_eq!(names(&folder, &["*.jpg"]), ["9.jpg", "10.jpg", "star*.jpg"]);
        assert_eq!(names(&folder, &["**/?.jpg"]), ["9.jpg", "below/1.jpg"]);
        // A file of that name is meant.
        assert_eq!(names(&folder, &["star*.jpg"]), ["star*.jpg"]);
    }

    #[test]
    fn a_list_stands_for_what_it_names() {
        let folder = folder(&["b.jpg", "a.jpg", "below/c d.jpg"]);
        let list = |bytes: &[u8]| fs::write(folder.path().join("list.txt"), bytes).unwrap();
        list(b"# ours\nb.jpg\n\n  a.jpg \nb.jpg\n");
        assert_eq!(names(&folder, &["@list.txt"]), ["b.jpg", "a.jpg"]);
        // As Notepad and PowerShell write it.
        list(b"\xef\xbb\xbfa.jpg\r\n\"b.jpg\"\r\nbelow\\c d.jpg\r\n");
        assert_eq!(
            names(&folder, &["@list.txt"]),
            ["a.jpg", "b.jpg", "below/c d.jpg"]
        );
        let utf16: Vec<u8> = "\u{feff}a.jpg\r\nb.jpg\r\n"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        list(&utf16);
        assert_eq!(names(&folder, &["@list.txt"]), ["a.jpg", "b.jpg"]);
    }

    #[test]
    fn what_stands_for_nothing_is_refused() {
        let folder = folder(&["notes.txt"]);
        fs::write(folder.path().join("list.txt"), "\n# none\n").unwrap();
        let refusal = |name: PathBuf| Expanded::new(&[name], false).err().unwrap().to_string();
        assert!(
            refusal(folder.path().into())
                .contains("no images that can be read are in this folder: 2 other files (")
        );
        assert!(refusal(folder.path().join("*.jpg")).ends_with("no file matches this pattern"));
        let list = |name: &str| format!("@{}", folder.path().join(name).display()).into();
        assert!(refusal(list("list.txt")).ends_with("the list names no images"));
        assert!(
            refusal(list("missing.txt"))
                .ends_with("missing.txt: no such file or folder; check the spelling")
        );
        // Whether there is such a file is for those to say who read it.
        assert_eq!(
            Expanded::new(&["missing.jpg".into()], false)
                .unwrap()
                .images,
            [PathBuf::from("missing.jpg")]
        );
    }

    #[test]
    fn identical_images_are_mentioned() {
        let view = |(index, level): (usize, &u8)| {
            let rgb = image::RgbImage::from_pixel(4, 2, image::Rgb([*level; 3]));
            View::new(format!("{index}.png"), rgb, views::Crop::whole(4, 2))
        };
        let note =
            |levels: &[u8]| identical(&levels.iter().enumerate().map(view).collect::<Vec<_>>());
        assert_eq!(note(&[1, 2, 3]), None);
        assert_eq!(
            note(&[1, 2, 1]).unwrap(),
            "1 image is identical to another: 2.png (as 0.png)"
        );
        assert_eq!(
            note(&[1, 2, 1, 2]).unwrap(),
            "2 images are identical to others: 2.png (as 0.png), 3.png (as 1.png)"
        );
        assert!(
            note(&[7, 7])
                .unwrap()
                .starts_with("all 2 images are identical (0.png, 1.png): without a baseline")
        );
    }

    #[test]
    fn folders_are_searched_to_the_bottom_where_that_is_meant() {
        let folder = folder(&[
            "b.png",
            "left/10.png",
            "left/9.png",
            "left/notes.txt",
            "right/deep/0.png",
        ]);
        let found = below_folder(folder.path()).unwrap();
        let names: Vec<&str> = found.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(
            names,
            ["b.png", "left/9.png", "left/10.png", "right/deep/0.png"]
        );
        assert!(
            found
                .iter()
                .all(|(path, name)| path == &folder.path().join(name))
        );
    }
}
