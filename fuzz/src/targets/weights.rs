//! Weight files: safetensors with a `config.json` beside them, PyTorch's archives, and the pickles
//! in these.

use std::path::Path;

use candle_core::{DType, Device};
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::config::Config;

use crate::scratch;

/// Archives as the library's own tests make them, and more.
#[allow(dead_code)]
#[path = "../../../src/model/checkpoint/forge.rs"]
mod forge;

/// A safetensors file, and after it the `config.json` beside it.
pub fn safetensors(data: &[u8]) {
    scratch::write_sections(
        ["safetensors/weights.safetensors", "safetensors/config.json"],
        data,
    );
    open(&scratch::folder().join("safetensors/weights.safetensors"));
}

/// A whole archive.
pub fn torch(data: &[u8]) {
    open(&scratch::write("torch/weights.pth", data));
}

/// The pickle of an archive with two storages.
pub fn pickle(data: &[u8]) {
    let numbers: Vec<u8> = (0..512u16)
        .flat_map(|number| f32::from(number).to_le_bytes())
        .collect();
    let archive = forge::zip(&[
        ("x/data.pkl", data),
        ("x/data/0", &numbers),
        ("x/data/1", &[0x3C; 64]),
    ]);
    open(&scratch::write("torch/weights.pth", &archive));
}

/// Opens a checkpoint and reads all of its tensors.
fn open(path: &Path) {
    // Whichever says more of a file that cannot be used.
    let missing = Checkpoint::missing_encoder(path);
    // Most files do not record the number of heads, and shapes this small do not show it.
    let heads = |config: &mut Config| {
        let decoder = config
            .two_view
            .as_mut()
            .map(|two_view| &mut two_view.decoder);
        for stack in [Some(&mut config.encoder.stack), decoder]
            .into_iter()
            .flatten()
        {
            stack.heads = stack.heads.max(1);
        }
    };
    let Ok(checkpoint) = Checkpoint::open_with(&[path.to_path_buf()], heads) else {
        return;
    };
    assert_eq!(
        missing.expect("a checkpoint that opens can be looked at"),
        None
    );
    let config = checkpoint.config();
    config.check().expect("a checkpoint that opens was checked");
    for spec in config.tensors() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            if let Ok(tensor) = checkpoint.tensor(&spec.name, dtype, &Device::Cpu) {
                assert_eq!(
                    (tensor.dims(), tensor.dtype()),
                    (&spec.shape[..], dtype),
                    "{}",
                    spec.name
                );
            }
        }
        if let Ok(values) = checkpoint.values(&spec.name, DType::F32) {
            assert!(
                values.iter().all(|value| value.is_finite()),
                "{} is not finite",
                spec.name
            );
        }
    }
    checkpoint.describe();
    checkpoint.fingerprint();
}
