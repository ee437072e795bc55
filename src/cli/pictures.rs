//! Pictures from what was typed: files, folders, patterns, and lists of files.

use std::cmp::Ordering;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mast3r::{Error, Result};

/// Extensions that make a file of a folder one of its pictures.
const EXTENSIONS: [&str; 7] = ["jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp"];
/// What a list's name begins with.
const LIST: char = '@';

/// The picture files that `arguments` stand for, in order.
///
/// A folder stands for the pictures in it, not below it, and a pattern for the files that it fits, both sorted by name as
/// people count: 9 before 10. `@FILE` stands for the files that it names, one a line. A file that these bring up again is
/// taken once.
pub fn expand(arguments: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut pictures = Vec::new();
    for argument in arguments {
        match Argument::of(argument)? {
            Argument::File => pictures.push(argument.clone()),
            Argument::Several(found) => {
                for path in found {
                    if !pictures.contains(&path) {
                        pictures.push(path);
                    }
                }
            }
        }
    }
    Ok(pictures)
}

/// What one argument stands for.
enum Argument {
    /// Itself, whether or not there is such a file.
    File,
    Several(Vec<PathBuf>),
}

impl Argument {
    fn of(argument: &Path) -> Result<Self> {
        if argument.is_dir() {
            return in_folder(argument).map(Self::Several);
        }
        let Some(text) = argument.to_str().filter(|_| !argument.exists()) else { return Ok(Self::File) };
        if let Some(list) = text.strip_prefix(LIST) {
            return in_list(Path::new(list)).map(Self::Several);
        }
        if text.contains(['*', '?', '[']) {
            return by_pattern(text).map(Self::Several);
        }
        Ok(Self::File)
    }
}

/// The pictures in a folder, sorted.
pub fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let io_error = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::input(folder, "no such folder; check the spelling"),
        io::ErrorKind::NotADirectory => Error::input(folder, "it is a file; name a folder"),
        _ => Error::io(folder, source),
    };
    let mut pictures = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
        if is_picture_name(&path) && path.is_file() {
            pictures.push(path);
        }
    }
    if pictures.is_empty() {
        let reason = format!("no pictures are in this folder: no file ends in .{}", EXTENSIONS.join(", ."));
        return Err(Error::input(folder, reason));
    }
    sort(&mut pictures);
    Ok(pictures)
}

/// Whether a file of a folder counts as a picture, by its name.
fn is_picture_name(path: &Path) -> bool {
    let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let extension = path.extension().unwrap_or_default();
    !is_hidden && EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

fn in_list(list: &Path) -> Result<Vec<PathBuf>> {
    let text =
        fs::read_to_string(list).map_err(|source| Error::input(list, format!("the list cannot be read: {source}")))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let folder = list.parent().unwrap_or(Path::new(""));
    // As seen from here, or else from where the list lies.
    let place = |name: &str| {
        let (here, there) = (PathBuf::from(name), folder.join(name));
        if !here.exists() && there.exists() { there } else { here }
    };
    let pictures: Vec<PathBuf> = lines.map(place).collect();
    if pictures.is_empty() {
        return Err(Error::input(list, "the list names no pictures"));
    }
    Ok(pictures)
}

fn by_pattern(pattern: &str) -> Result<Vec<PathBuf>> {
    let found = glob::glob(pattern)
        .map_err(|error| Error::Usage(format!("{pattern}: no such file, nor a pattern: {error}")))?;
    let mut pictures = Vec::new();
    for path in found {
        let path = path.map_err(|error| {
            let unreadable = error.path().to_path_buf();
            Error::io(unreadable, error.into())
        })?;
        if path.is_file() {
            pictures.push(path);
        }
    }
    if pictures.is_empty() {
        return Err(Error::input(pattern, "no file fits this pattern"));
    }
    sort(&mut pictures);
    Ok(pictures)
}

fn sort(pictures: &mut [PathBuf]) {
    pictures.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
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
                let (Some(x), Some(y)) = (x, y) else { return x.cmp(&y).then(a.cmp(b)) };
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
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
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
        let name = |path: PathBuf| path.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned();
        expand(&arguments).unwrap().into_iter().map(name).collect()
    }

    #[test]
    fn names_are_sorted_as_people_count() {
        let mut names = ["b10", "b9", "B2", "a", "b010", "b9x", "b", "ä"].map(PathBuf::from);
        sort(&mut names);
        let sorted: Vec<&str> = names.iter().map(|name| name.to_str().unwrap()).collect();
        assert_eq!(sorted, ["a", "b", "B2", "b9", "b9x", "b010", "b10", "ä"]);
    }

    #[test]
    fn a_folder_is_its_pictures() {
        let folder = folder(&["10.jpg", "9.JPG", "notes.txt", ".hidden.png", "below/1.png", "x.tiff", "Thumbs.db"]);
        assert_eq!(names(&folder, &[""]), ["9.JPG", "10.jpg", "x.tiff"]);
        assert_eq!(names(&folder, &["10.jpg", ""]), ["10.jpg", "9.JPG", "x.tiff"]);
    }

    #[test]
    fn a_pattern_is_the_files_that_it_fits() {
        let folder = folder(&["10.jpg", "9.jpg", "9.png", "below/1.jpg", "star*.jpg"]);
        assert_eq!(names(&folder, &["*.jpg"]), ["9.jpg", "10.jpg", "star*.jpg"]);
        assert_eq!(names(&folder, &["**/?.jpg"]), ["9.jpg", "below/1.jpg"]);
        // A file of that name is meant.
        assert_eq!(names(&folder, &["star*.jpg"]), ["star*.jpg"]);
        assert_eq!(names(&folder, &["9.jpg", "9.jpg"]), ["9.jpg", "9.jpg"]);
    }

    #[test]
    fn a_list_is_what_it_names() {
        let folder = folder(&["b.jpg", "a.jpg"]);
        fs::write(folder.path().join("list.txt"), "# ours\nb.jpg\n\n  a.jpg \nb.jpg\n").unwrap();
        assert_eq!(names(&folder, &["@list.txt"]), ["b.jpg", "a.jpg"]);
    }

    #[test]
    fn what_stands_for_nothing_is_refused() {
        let folder = folder(&["notes.txt"]);
        fs::write(folder.path().join("list.txt"), "\n# none\n").unwrap();
        let refusal = |name: PathBuf| expand(&[name]).unwrap_err().to_string();
        assert!(refusal(folder.path().into()).contains("no pictures are in this folder: no file ends in .jpg"));
        assert!(refusal(folder.path().join("*.jpg")).ends_with("no file fits this pattern"));
        let list = |name: &str| format!("@{}", folder.path().join(name).display()).into();
        assert!(refusal(list("list.txt")).ends_with("the list names no pictures"));
        assert!(refusal(list("missing.txt")).contains("the list cannot be read"));
        // Whether there is such a file is for those to say who read it.
        assert_eq!(expand(&["missing.jpg".into()]).unwrap(), [PathBuf::from("missing.jpg")]);
    }
}
