use std::fs;

use super::folder::file_name;
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
    (1..=5)
        .for_each(|number| fs::write(phone.path().join(format!("IMG_{number}.JP2")), JP2).unwrap());
    let message = refusal(&phone);
    assert!(
        message.ends_with(
            "5 JPEG 2000 images (IMG_1.JP2, IMG_2.JP2, IMG_3.JP2 and 2 more); convert them to JPEG or PNG"
        ),
        "{message}"
    );
    let message = refusal(&folder(&["left/0.jpg", "right/0.jpg"]));
    assert!(
        message.contains("folders in it are not searched (") && message.ends_with("): name them"),
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
    let note = |levels: &[u8]| identical(&levels.iter().enumerate().map(view).collect::<Vec<_>>());
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
