//! Where the recorded outputs are and how they are read.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// The root of the recorded outputs.
pub fn golden_dir() -> PathBuf {
    std::env::var_os("MAST3R_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), PathBuf::from)
}

/// What lies in a folder of the root, sorted; a missing folder is a failure, since it would hide every case in it.
pub fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = golden_dir().join(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable folder").path()).collect();
    paths.sort();
    paths
}

/// A safetensors file in memory.
pub struct Tensors {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Tensors {
    pub fn read(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path, bytes }
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap_or_else(|error| panic!("{}: {error}", self.path.display()))
    }

    /// Shape and values of a tensor, whatever its type, as `f32`.
    pub fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = self.file();
        let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{}: {name}: {error}", self.path.display()));
        let data = tensor.data();
        let words = || data.chunks_exact(4).map(|bytes| <[u8; 4]>::try_from(bytes).expect("four bytes"));
        let values = match tensor.dtype() {
            Dtype::F32 => words().map(f32::from_le_bytes).collect(),
            Dtype::I32 => words().map(|bytes| i32::from_le_bytes(bytes) as f32).collect(),
            Dtype::F16 => {
                data.chunks_exact(2).map(|bytes| half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()).collect()
            }
            Dtype::I8 => data.iter().map(|&byte| f32::from(byte as i8)).collect(),
            other => panic!("{}: {name}: unexpected type {other:?}", self.path.display()),
        };
        (tensor.shape().to_vec(), values)
    }
}
