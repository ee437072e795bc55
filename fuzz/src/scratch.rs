//! A folder in memory for the files that a target reads, and inputs that stand for several files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What separates the files in one input; text, so that seeds can be read and edited.
const SEPARATOR: &[u8] = b"\n%%%%\n";

/// The folder of this process, in `TMPDIR`.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("mast3r-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        folder
    })
}

/// Writes a file of the folder anew.
pub fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("the temporary folder is writable");
    }
    fs::write(&path, bytes).expect("the temporary folder is writable");
    path
}

/// The `N` files of an input; those that it lacks are `None`, and the last one is the rest.
pub fn sections<const N: usize>(data: &[u8]) -> [Option<&[u8]>; N] {
    let mut rest = Some(data);
    std::array::from_fn(|index| {
        let data = rest.take()?;
        let cut = data
            .windows(SEPARATOR.len())
            .position(|window| window == SEPARATOR);
        match cut.filter(|_| index + 1 < N) {
            Some(at) => {
                rest = Some(&data[at + SEPARATOR.len()..]);
                Some(&data[..at])
            }
            None => Some(data),
        }
    })
}

/// Writes the files `names` of an input, and removes those that it lacks.
pub fn write_sections<const N: usize>(names: [&str; N], data: &[u8]) {
    for (name, bytes) in names.into_iter().zip(sections::<N>(data)) {
        match bytes {
            Some(bytes) => drop(write(name, bytes)),
            None => match fs::remove_file(folder().join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    panic!("{name}: {error}")
                }
                _ => {}
            },
        }
    }
}
