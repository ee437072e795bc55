//! A network's weights as one safetensors file of fewer bytes.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;

use candle_core::DType;
use half::bf16;

use super::checkpoint::pytorch_layout;
use super::npy::ElementType;
use super::tensors::{Entry, opening};
use crate::error::{Error, Result};
use crate::files::OutputFile;
use crate::model::checkpoint::{Checkpoint, quantised};

/// How the numbers of a weight file are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// float16.
    F16,
    /// bfloat16.
    Bf16,
    /// Matrices and convolutions as 8-bit integers with a float32 unit for each row; the rest
    /// float32.
    Int8,
    /// Matrices and convolutions as 4-bit integers, 32 of them with one float16 unit; those whose
    /// rows are no whole groups as [`WeightFormat::Int8`], the rest float32.
    Int4,
}

impl FromStr for WeightFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            "int4" => Ok(Self::Int4),
            _ => Err(format!(
                "unknown format {text:?}; expected int8, int4, bf16 or f16"
            )),
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

/// How one tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    F32,
    F16,
    Bf16,
    Int8,
    Int4,
}

impl WeightFormat {
    fn of(self, shape: &[usize]) -> Element {
        match self {
            Self::F16 => Element::F16,
            Self::Bf16 => Element::Bf16,
            Self::Int4 if quantised::has_whole_groups(shape) => Element::Int4,
            Self::Int4 | Self::Int8 if quantised::is_matrix(shape) => Element::Int8,
            _ => Element::F32,
        }
    }
}

/// A stored tensor: of numbers, or of their units.
struct Part {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: usize,
}

impl Element {
    /// What a tensor is stored as: its numbers, then their units where they have them.
    fn parts(self, name: &str, shape: &[usize]) -> Vec<Part> {
        let count: usize = shape.iter().product();
        let part = |name: String, dtype, shape: &[usize], bytes| Part {
            name,
            dtype,
            shape: shape.to_vec(),
            bytes,
        };
        let numbers = |dtype, shape, bytes| part(name.to_string(), dtype, shape, bytes);
        let units = |dtype, shape: &[usize], bytes| {
            part(format!("{name}{}", quantised::UNITS), dtype, shape, bytes)
        };
        match self {
            Self::F32 => vec![numbers("F32", shape, 4 * count)],
            Self::F16 => vec![numbers("F16", shape, 2 * count)],
            Self::Bf16 => vec![numbers("BF16", shape, 2 * count)],
            Self::Int8 => vec![
                numbers("I8", shape, count),
                units("F32", &shape[..1], 4 * shape[0]),
            ],
            Self::Int4 => {
                let mut halved = shape.to_vec();
                halved[1] /= 2;
                let groups = count / quantised::GROUP;
                vec![
                    numbers("U8", &halved, count / 2),
                    units("F16", &[shape[0], groups / shape[0]], 2 * groups),
                ]
            }
        }
    }

    /// Writes the numbers of a tensor of `rows`, then their units.
    fn write(self, values: &[f32], rows: usize, out: &mut dyn Write) -> io::Result<()> {
        let rows = values.chunks((values.len() / rows.max(1)).max(1));
        let mut numbers = Vec::new();
        match self {
            Self::F32 => ElementType::F32.write(values, out),
            Self::F16 => ElementType::F16.write(values, out),
            Self::Bf16 => {
                let halves = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes());
                numbers.extend(halves);
                out.write_all(&numbers)
            }
            Self::Int8 => {
                let units: Vec<f32> = rows.map(|row| quantised::int8(row, &mut numbers)).collect();
                out.write_all(&numbers)?;
                ElementType::F32.write(&units, out)
            }
            Self::Int4 => {
                let mut units = Vec::new();
                rows.for_each(|row| quantised::int4(row, &mut numbers, &mut units));
                out.write_all(&numbers)?;
                let units: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
                out.write_all(&units)
            }
        }
    }
}

/// Writes every tensor that inference reads to `path` in fewer bytes, one at a time: memory holds
/// only the largest of them. [`Checkpoint::open`] recognises the file by its content, as
/// [`super::write_checkpoint`] says of head counts.
///
/// # Errors
/// [`Error::Weights`] for a tensor that cannot be read or does not fit the format; [`Error::Usage`]
/// and [`Error::Io`] if `path` cannot be written, which is then as it was.
pub fn write_quantised(
    checkpoint: &Checkpoint,
    format: WeightFormat,
    path: impl AsRef<Path>,
) -> Result<()> {
    let path = path.as_ref();
    let tensors = checkpoint.config().tensors();
    let parts: Vec<Part> = tensors
        .iter()
        .flat_map(|tensor| format.of(&tensor.shape).parts(&tensor.name, &tensor.shape))
        .collect();
    let entries = parts.iter().map(|part| Entry {
        name: &part.name,
        dtype: part.dtype,
        shape: &part.shape,
        bytes: part.bytes as u64,
    });
    let opening = opening(entries, &pytorch_layout())?;
    let mut out = OutputFile::create(path)?;
    let at = |source| Error::io(path, source);
    out.write_all(&opening).map_err(at)?;
    for tensor in &tensors {
        let element = format.of(&tensor.shape);
        // Rounded by the checkpoint, which refuses what a type cannot hold.
        let dtype = match element {
            Element::F16 => DType::F16,
            Element::Bf16 => DType::BF16,
            _ => DType::F32,
        };
        let values = checkpoint.values(&tensor.name, dtype)?;
        let rows = tensor.shape.first().copied().unwrap_or(1);
        element.write(&values, rows, &mut out).map_err(at)?;
    }
    out.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::config::Config;
    use crate::model::registry::Network;

    /// Of a network with every kind of layer.
    fn config() -> Config {
        Network::find("tiny").unwrap().config_at(112)
    }

    #[test]
    fn what_is_written_opens_as_the_same_network_close_to_its_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::random(&config(), "3");
        let mut sizes = Vec::new();
        for (format, most) in [
            (WeightFormat::F16, 1e-3),
            (WeightFormat::Bf16, 5e-3),
            (WeightFormat::Int8, 1e-2),
            (WeightFormat::Int4, 0.2),
        ] {
            let path = folder.path().join(format!("{format}.safetensors"));
            write_quantised(&checkpoint, format, &path).unwrap();
            sizes.push(std::fs::metadata(&path).unwrap().len());
            let opened = Checkpoint::open(&[path]).unwrap();
            assert_eq!(opened.config(), &config());
            assert!(
                opened.describe().contains(&format.to_string()),
                "{}",
                opened.describe()
            );
            for tensor in config().tensors() {
                let read = |from: &Checkpoint| -> Vec<f32> {
                    let tensor = from.tensor(&tensor.name, DType::F32, &Device::Cpu).unwrap();
                    tensor.flatten_all().unwrap().to_vec1().unwrap()
                };
                let (got, want) = (read(&opened), read(&checkpoint));
                let norm = |values: &mut dyn Iterator<Item = f32>| {
                    values.map(|v| f64::from(v * v)).sum::<f64>().sqrt()
                };
                let error = norm(&mut got.iter().zip(&want).map(|(a, b)| a - b));
                let size = norm(&mut want.iter().copied());
                assert!(
                    error <= most * size,
                    "{} {format}: {error} of {size}",
                    tensor.name
                );
            }
        }
        assert!(
            sizes[2] * 10 < sizes[0] * 6 && sizes[3] * 10 < sizes[0] * 4,
            "{sizes:?}"
        );
    }

    #[test]
    fn formats_read_back_what_they_print() {
        for text in ["f16", "bf16", "int8", "int4"] {
            assert_eq!(text.parse::<WeightFormat>().unwrap().to_string(), text);
        }
        assert!("int3".parse::<WeightFormat>().is_err());
    }
}
