//! The header of a safetensors file: 8 bytes of length, then JSON with each tensor's format, shape
//! and place.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::quantised::{GROUP, UNITS};
use super::source::{Contents, Format, Recorded, Stored, count, row_major};

/// The format's own bound.
const MAX_HEADER: u64 = 100_000_000;
const PREFIX: usize = 8;

/// Reads the header of the file `bytes` and checks every tensor's place against the file.
pub(super) fn read(bytes: &[u8]) -> Result<Contents, String> {
    let truncated = || "the file ends inside its header; the download is incomplete".to_string();
    let prefix = bytes.first_chunk::<PREFIX>().ok_or_else(truncated)?;
    let length = u64::from_le_bytes(*prefix);
    if length > MAX_HEADER {
        return Err(format!(
            "its header claims {length} bytes, more than the {MAX_HEADER} that safetensors allows"
        ));
    }
    let start = PREFIX + length as usize;
    let header = bytes.get(PREFIX..start).ok_or_else(truncated)?;
    let header: Header = serde_json::from_slice(header)
        .map_err(|error| format!("its header is damaged: {error}"))?;

    let data = bytes.len() - start;
    let end = header
        .tensors
        .iter()
        .map(|(_, entry)| entry.data_offsets.1)
        .max()
        .unwrap_or(0);
    if end != data {
        return Err(format!(
            "its header speaks of {end} bytes of tensors and {data} follow; the download is incomplete or damaged"
        ));
    }
    let entries: HashMap<&str, &Entry> = header
        .tensors
        .iter()
        .map(|(name, entry)| (name.as_str(), entry))
        .collect();
    let of_units = |name: &str| {
        let tensor = name.strip_suffix(UNITS)?;
        entries.get(tensor).filter(|entry| entry.is_integers())
    };
    let tensors = header
        .tensors
        .iter()
        .filter(|(name, _)| of_units(name).is_none());
    let tensors = tensors.map(|(name, entry)| {
        let stored = match entries.get(format!("{name}{UNITS}").as_str()) {
            Some(units) if entry.is_integers() => entry.place_with(units, start),
            _ => entry.place(start),
        };
        (name.clone(), stored)
    });
    let tensors = tensors.collect();
    let permuted = header
        .metadata
        .get("format")
        .is_some_and(|format| format == "mlx_optimized");
    let container = if permuted {
        "MLX-permuted safetensors"
    } else {
        "safetensors"
    };
    Ok(Contents {
        container,
        permuted,
        tensors,
        recorded: Recorded::default(),
    })
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl Entry {
    /// Where the tensor lies in the file whose data begins at `start` and holds every entry's end.
    fn place(&self, start: usize) -> Result<Stored, String> {
        let format = match self.dtype.as_str() {
            "F16" => Format::F16,
            "BF16" => Format::Bf16,
            "F32" => Format::F32,
            "F64" => Format::F64,
            other => {
                return Err(format!(
                    "is stored as {other}, and F32, F16, BF16 and F64 are read"
                ));
            }
        };
        self.stored(format, self.shape.clone(), start)
    }

    /// Whether numbers of this type come with units.
    fn is_integers(&self) -> bool {
        matches!(self.dtype.as_str(), "I8" | "U8")
    }

    /// [`Entry::place`] of integers, whose `units` are another entry.
    fn place_with(&self, units: &Entry, start: usize) -> Result<Stored, String> {
        let (rows, mut shape) = (self.shape.first().copied().unwrap_or(0), self.shape.clone());
        let at = start + units.data_offsets.0;
        let (format, unit, unit_shape) = if self.dtype == "I8" {
            (Format::Int8 { units: at }, "F32", vec![rows])
        } else {
            if let Some(axis) = shape.get_mut(1) {
                *axis = axis.saturating_mul(2);
            }
            let row = shape.get(1..).and_then(count).unwrap_or(0);
            if rows == 0 || row == 0 || !row.is_multiple_of(GROUP) {
                return Err(format!(
                    "is stored as int4 in rows of {row}, not of whole groups of {GROUP}"
                ));
            }
            (Format::Int4 { units: at }, "F16", vec![rows, row / GROUP])
        };
        let placed = units.place(start);
        if units.dtype != unit || units.shape != unit_shape || placed.is_err() {
            return Err(format!(
                "has units of shape {:?} as {}, and they should be {unit_shape:?} as {unit}",
                units.shape, units.dtype
            ));
        }
        self.stored(format, shape, start)
    }

    fn stored(&self, format: Format, shape: Vec<usize>, start: usize) -> Result<Stored, String> {
        let (begin, end) = self.data_offsets;
        let needed = count(&shape).and_then(|count| format.bytes(count));
        if needed.is_none() || needed != end.checked_sub(begin) {
            return Err(format!(
                "has shape {shape:?} in bytes {begin} to {end}, which do not fit"
            ));
        }
        let strides = row_major(&shape);
        Ok(Stored {
            format,
            big_endian: false,
            shape,
            strides,
            start: start + begin,
        })
    }
}

/// The header as it stands; a name that occurs twice is an error.
struct Header {
    metadata: HashMap<String, String>,
    tensors: Vec<(String, Entry)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Header;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a map from tensor names to tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header {
                    metadata: HashMap::new(),
                    tensors: Vec::new(),
                };
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("it names {name} twice")));
                    }
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(Names)
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::safetensors;
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        read(bytes).map(|_| ()).unwrap_err()
    }

    #[test]
    fn tensors_are_placed_behind_the_header() {
        let bytes = safetensors(
            r#"{"__metadata__":{"format":"mlx_optimized"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                "n":{"dtype":"I64","shape":[1],"data_offsets":[8,16]}}"#,
            &[1; 16],
        );
        let contents = read(&bytes).unwrap();
        assert!(contents.permuted);
        let (name, stored) = &contents.tensors[0];
        assert_eq!(
            (name.as_str(), stored.as_ref().unwrap().span()),
            ("a", bytes.len() - 16..bytes.len() - 8)
        );
        assert!(
            contents.tensors[1]
                .1
                .as_ref()
                .unwrap_err()
                .contains("stored as I64")
        );
    }

    #[test]
    fn hostile_headers_are_refused() {
        let length = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
        assert!(refusal(&length(1 << 63)).contains("claims 9223372036854775808 bytes"));
        assert!(refusal(&length(4 << 30)).contains("claims 4294967296 bytes"));
        assert!(refusal(&length(3)).contains("ends inside its header"));
        assert!(refusal(b"\x02\0\0").contains("ends inside its header"));
        assert!(refusal(&safetensors(&"[".repeat(100_000), b"")).contains("damaged"));
        let one = r#""a":{"dtype":"U8","shape":[],"data_offsets":[0,0]}"#;
        assert!(refusal(&safetensors(&format!("{{{one},{one}}}"), b"")).contains("names a twice"));
        assert!(
            refusal(&safetensors(&format!("{{{one}}}"), b"x"))
                .contains("0 bytes of tensors and 1 follow")
        );
        let negative = r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}}"#;
        assert!(refusal(&safetensors(negative, b"")).contains("damaged"));
    }

    #[test]
    fn integers_need_units_that_fit() {
        let read_first = |tensor: &str, units: &str| {
            let header = format!(
                r#"{{"a":{{{tensor}}},"a.units":{{{units}}},
                    "z":{{"dtype":"U8","shape":[256],"data_offsets":[0,256]}}}}"#
            );
            let contents = read(&safetensors(&header, &[0; 256])).unwrap();
            let mut tensors = contents.tensors.into_iter();
            tensors
                .next()
                .unwrap()
                .1
                .map(|stored| (stored.shape.clone(), stored.span().len()))
        };
        let int8 = r#""dtype":"I8","shape":[2,8],"data_offsets":[0,16]"#;
        let units = r#""dtype":"F32","shape":[2],"data_offsets":[16,24]"#;
        assert_eq!(read_first(int8, units), Ok((vec![2, 8], 16)));
        let int4 = r#""dtype":"U8","shape":[2,16],"data_offsets":[0,32]"#;
        let halves = r#""dtype":"F16","shape":[2,1],"data_offsets":[32,36]"#;
        assert_eq!(read_first(int4, halves), Ok((vec![2, 32], 32)));
        for (tensor, units) in [
            (int8, halves),
            (int4, units),
            (int8, r#""dtype":"F32","shape":[3],"data_offsets":[16,28]"#),
            (int8, r#""dtype":"F32","shape":[2],"data_offsets":[16,20]"#),
            (
                r#""dtype":"U8","shape":[2,8],"data_offsets":[0,16]"#,
                halves,
            ),
            (r#""dtype":"U8","shape":[32],"data_offsets":[0,32]"#, halves),
            (r#""dtype":"I8","shape":[],"data_offsets":[0,1]"#, units),
        ] {
            assert!(read_first(tensor, units).is_err(), "{tensor} {units}");
        }
    }

    #[test]
    fn shapes_that_do_not_fit_their_bytes_are_refused() {
        for (shape, offsets) in [
            ("[3]", "[0,8]"),
            ("[2]", "[8,0]"),
            ("[4294967296,4294967296,4]", "[0,8]"),
            ("[4611686018427387904]", "[0,8]"),
        ] {
            let entry =
                format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}},"#);
            let rest = r#""z":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
            let bytes = safetensors(&format!("{entry}{rest}"), &[0; 8]);
            let contents = read(&bytes).unwrap();
            assert!(
                contents.tensors[0]
                    .1
                    .as_ref()
                    .unwrap_err()
                    .contains("do not fit"),
                "{shape}"
            );
        }
    }
}
