//! A network's weights as one safetensors file.

use std::path::Path;

use candle_core::DType;

use super::npy::ElementType;
use super::tensors::{SafetensorsWriter, TensorMetadata, TensorSpec};
use crate::error::Result;
use crate::files::OutputFile;
use crate::model::checkpoint::Checkpoint;

/// Writes every tensor that inference reads to `path`, under its canonical name, one at a time:
/// memory holds only the largest of them. float32 values are the checkpoint's, bit for bit.
///
/// [`Checkpoint::open`] reads the file again. Safetensors record no head counts: opening assumes 64
/// channels per head, as every published network has, so for other networks see
/// [`Checkpoint::open_with`].
///
/// # Errors
/// [`Error::Weights`](crate::Error::Weights) for a tensor that cannot be read or does not fit
/// `element`; [`Error::Usage`](crate::Error::Usage) and [`Error::Io`](crate::Error::Io) if `path`
/// cannot be written, which is then as it was.
pub fn write_checkpoint(
    checkpoint: &Checkpoint,
    element: ElementType,
    path: impl AsRef<Path>,
) -> Result<()> {
    let path = path.as_ref();
    let tensors = checkpoint.config().tensors();
    let specs = tensors.iter().map(|tensor| TensorSpec {
        element,
        ..TensorSpec::new(&tensor.name, &tensor.shape)
    });
    let out = OutputFile::create(path)?;
    let mut writer = SafetensorsWriter::new(out, path, specs.collect(), &pytorch_layout())?;
    let dtype = match element {
        ElementType::F32 => DType::F32,
        ElementType::F16 => DType::F16,
    };
    for tensor in &tensors {
        writer.write(&tensor.name, &checkpoint.values(&tensor.name, dtype)?)?;
    }
    writer.commit()?;
    Ok(())
}

/// PyTorch's layout of the weights, in the words that readers of the hub's files look for.
pub(super) fn pytorch_layout() -> TensorMetadata {
    TensorMetadata::from([("format".into(), "pt".into())])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::config::{
        Config, EncoderConfig, EncoderKind, HeadConfig, Stack, TwoViewConfig, hooks,
    };

    fn small() -> Config {
        let stack = |depth| Stack {
            depth,
            dim: 64,
            heads: 1,
            mlp_dim: 96,
        };
        let head = HeadConfig {
            hooks: hooks(4),
            layer_dims: [2, 3, 4, 5],
            features: 4,
            head_channels: 3,
            last: 2,
            descriptor: 4,
            two_confidences: true,
            descriptor_hidden: 6,
            descriptor_confidence_floor: 0.0,
        };
        Config {
            encoder: EncoderConfig {
                kind: EncoderKind::Dune {
                    position_grid: 3,
                    registers: 2,
                },
                patch: 2,
                stack: stack(2),
            },
            two_view: Some(TwoViewConfig {
                decoder: stack(4),
                view_embed: false,
                head,
            }),
        }
    }

    fn bits(checkpoint: &Checkpoint, name: &str, dtype: DType) -> Vec<u32> {
        checkpoint
            .values(name, dtype)
            .unwrap()
            .into_iter()
            .map(f32::to_bits)
            .collect()
    }

    #[test]
    fn what_is_written_opens_as_the_same_network_with_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::random(&small(), "7");
        for (element, dtype) in [
            (ElementType::F32, DType::F32),
            (ElementType::F16, DType::F16),
        ] {
            let path = folder.path().join(format!("{element:?}.safetensors"));
            write_checkpoint(&checkpoint, element, &path).unwrap();
            let opened = Checkpoint::open(&[path]).unwrap();
            assert_eq!(opened.config(), &small());
            for tensor in small().tensors() {
                assert_eq!(
                    bits(&opened, &tensor.name, DType::F32),
                    bits(&checkpoint, &tensor.name, dtype),
                    "{}",
                    tensor.name
                );
            }
        }
    }

    #[test]
    fn weights_beyond_the_type_leave_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let [source, target] =
            ["source.safetensors", "target.safetensors"].map(|name| folder.path().join(name));
        write_checkpoint(
            &Checkpoint::random(&small(), "7"),
            ElementType::F32,
            &source,
        )
        .unwrap();
        let mut bytes = fs::read(&source).unwrap();
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&1e6_f32.to_le_bytes());
        fs::write(&source, bytes).unwrap();
        fs::write(&target, "old").unwrap();

        let checkpoint = Checkpoint::open(std::slice::from_ref(&source)).unwrap();
        let error = write_checkpoint(&checkpoint, ElementType::F16, &target)
            .unwrap_err()
            .to_string();
        assert!(error.contains("beyond the range of f16"), "{error}");
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
