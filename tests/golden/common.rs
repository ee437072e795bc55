//! Where the recordings are and how to read them.

use std::path::{Path, PathBuf};

/// The root of the recordings.
pub fn golden_dir() -> PathBuf {
    std::env::var_os("MAST3R_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), PathBuf::from)
}

/// A whole file, or a panic that names it.
pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
