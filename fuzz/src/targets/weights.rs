//! Weight files: safetensors with a `config.json` beside them, PyTorch's archives, and the pickles in these.

use std::path::Path;

use candle_core::{DType, Device};
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::config::Config;

use crate::scratch;

/// A safetensors file, and after it the `config.json` beside it.
pub fn safetensors(data: &[u8]) {
    scratch::write_sections(["safetensors/weights.safetensors", "safetensors/config.json"], data);
    open(&scratch::folder().join("safetensors/weights.safetensors"));
}

/// A whole archive.
pub fn torch(data: &[u8]) {
    open(&scratch::write("torch/weights.pth", data));
}

/// The pickle of an archive with two storages.
pub fn pickle(data: &[u8]) {
    let numbers: Vec<u8> = (0..512u16).flat_map(|number| f32::from(number).to_le_bytes()).collect();
    let archive = zip(&[("x/data.pkl", data), ("x/data/0", &numbers), ("x/data/1", &[0x3C; 64])]);
    open(&scratch::write("torch/weights.pth", &archive));
}

/// Opens a checkpoint and reads all of its tensors.
fn open(path: &Path) {
    // Whichever says more of a file that cannot be used.
    let missing = Checkpoint::missing_encoder(path);
    // Most files do not record the number of heads, and shapes this small do not show it.
    let heads = |config: &mut Config| {
        let decoder = config.two_view.as_mut().map(|two_view| &mut two_view.decoder);
        for stack in [Some(&mut config.encoder.stack), decoder].into_iter().flatten() {
            stack.heads = stack.heads.max(1);
        }
    };
    let Ok(checkpoint) = Checkpoint::open_with(&[path.to_path_buf()], heads) else { return };
    assert_eq!(missing.expect("a checkpoint that opens can be looked at"), None);
    let config = checkpoint.config();
    config.check().expect("a checkpoint that opens was checked");
    for spec in config.tensors() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            if let Ok(tensor) = checkpoint.tensor(&spec.name, dtype, &Device::Cpu) {
                assert_eq!((tensor.dims(), tensor.dtype()), (&spec.shape[..], dtype), "{}", spec.name);
            }
        }
        if let Ok(values) = checkpoint.values(&spec.name, DType::F32) {
            assert!(values.iter().all(|value| value.is_finite()), "{} is not finite", spec.name);
        }
    }
    checkpoint.describe();
    checkpoint.fingerprint();
}

/// A zip archive with these entries, stored.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let sizes = [0, data.len() as u32, data.len() as u32].map(u32::to_le_bytes).concat();
        let header = file.len() as u32;
        file.extend(b"PK\x03\x04\x0a\0\0\0\0\0\0\0\0\0");
        file.extend(&sizes);
        file.extend([name.len() as u16, 0].map(u16::to_le_bytes).concat());
        file.extend(name.as_bytes());
        file.extend(*data);
        directory.extend(b"PK\x01\x02\x0a\0\x0a\0\0\0\0\0\0\0\0\0");
        directory.extend(&sizes);
        directory.extend([name.len() as u16, 0, 0, 0, 0, 0, 0].map(u16::to_le_bytes).concat());
        directory.extend(header.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, size, count) = (file.len() as u32, directory.len() as u32, entries.len() as u16);
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count, count].map(u16::to_le_bytes).concat());
    file.extend([size, start].map(u32::to_le_bytes).concat());
    file.extend([0, 0]);
    file
}
