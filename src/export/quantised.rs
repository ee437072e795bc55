//! A network's weights as one safetensors file of fewer bytes.

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::str::FromStr;

use candle_core::DType;
use half::{bf16, f16};
use serde_json::{Map, json};

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

/// A tensor's bytes, and its units' where it has them.
#[derive(Default)]
struct Encoded {
    numbers: Vec<u8>,
    units: Vec<u8>,
}

impl Element {
    /// Type, shape and bytes as the header has them, then those of the units.
    fn entries(
        self,
        name: &str,
        shape: &[usize],
    ) -> Vec<(String, &'static str, Vec<usize>, usize)> {
        let count: usize = shape.iter().product();
        let plain =
            |dtype, bytes: usize| vec![(name.to_string(), dtype, shape.to_vec(), bytes * count)];
        let units = || format!("{name}{}", quantised::UNITS);
        match self {
            Self::F32 => plain("F32", 4),
            Self::F16 => plain("F16", 2),
            Self::Bf16 => plain("BF16", 2),
            Self::Int8 => {
                let mut entries = plain("I8", 1);
                entries.push((units(), "F32", vec![shape[0]], 4 * shape[0]));
                entries
            }
            Self::Int4 => {
                let mut halved = shape.to_vec();
                halved[1] /= 2;
                let groups = count / quantised::GROUP;
                vec![
                    (name.to_string(), "U8", halved, count / 2),
                    (
                        units(),
                        "F16",
                        vec![shape[0], groups / shape[0]],
                        2 * groups,
                    ),
                ]
            }
        }
    }

    fn encode(self, values: &[f32], rows: usize) -> Encoded {
        let mut encoded = Encoded::default();
        let row = (values.len() / rows.max(1)).max(1);
        match self {
            Self::F32 => encoded
                .numbers
                .extend(values.iter().flat_map(|v| v.to_le_bytes())),
            Self::F16 => {
                let halves = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes());
                encoded.numbers.extend(halves);
            }
            Self::Bf16 => {
                let halves = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes());
                encoded.numbers.extend(halves);
            }
            Self::Int8 => {
                for row in values.chunks(row) {
                    let unit = quantised::int8(row, &mut encoded.numbers);
                    encoded.units.extend(unit.to_le_bytes());
                }
            }
            Self::Int4 => {
                let mut units = Vec::new();
                for row in values.chunks(row) {
                    quantised::int4(row, &mut encoded.numbers, &mut units);
                }
                encoded
                    .units
                    .extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
            }
        }
        encoded
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
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut end = 0;
    for tensor in &tensors {
        for (name, dtype, shape, bytes) in format
            .of(&tensor.shape)
            .entries(&tensor.name, &tensor.shape)
        {
            let entry =
                json!({ "dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes] });
            end += bytes;
            header.insert(name, entry);
        }
    }
    let mut header = serde_json::to_vec(&header).map_err(|error| Error::io(path, error.into()))?;
    // Numbers begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = OutputFile::create(path)?;
    let at = |source| Error::io(path, source);
    out.write_all(&(header.len() as u64).to_le_bytes())
        .map_err(at)?;
    out.write_all(&header).map_err(at)?;
    for tensor in &tensors {
        let element = format.of(&tensor.shape);
        // Rounded by the checkpoint, which refuses what a type cannot hold.
        let dtype = match element {
            Element::F16 => DType::F16,
            Element::Bf16 => DType::BF16,
            _ => DType::F32,
        };
        let values = checkpoint.values(&tensor.name, dtype)?;
        let encoded = element.encode(&values, tensor.shape.first().copied().unwrap_or(1));
        out.write_all(&encoded.numbers).map_err(at)?;
        out.write_all(&encoded.units).map_err(at)?;
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
