//! The evidence of one pair as a safetensors file, so that it need not be predicted again.
//!
//! `0-1.first.packed` u8 (bytes) is the [packed map](packed_map) of the first view, `0-1.second.packed`
//! of the second, `1-0.*` of the other order. A map that cannot be packed is stored as a folder of two
//! images would have it in its `pairs.safetensors`, and such files are read too: `0-1.first.points` f32
//! (height, width, 3), `0-1.first.confidence` f32 (height, width). `0-1.first` and `0-1.second` i32
//! (matches, 2) are matches as x and y, `0-1.confidence` f32 (matches). A checksum in the header's
//! metadata shows damage.

use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::{Pair, PairEvidence};
use crate::checksum::{self, Integrity};
use crate::error::{Error, Result};
use crate::formats::packed_map;
use crate::geometry::PointMap;
use crate::matching::{Match, Pixel};

/// The four maps of a pair.
const MAPS: [&str; 4] = ["0-1.first", "0-1.second", "1-0.first", "1-0.second"];
const PACKED: &str = "packed";

impl PairEvidence {
    /// The whole content of a file that [`PairEvidence::from_safetensors`] reads. Points and
    /// confidences are rounded as it states: distances by 0.005 % at most, directions by 7e-5 radians,
    /// confidences by 0.07 %.
    ///
    /// # Errors
    /// [`Error::Usage`] for maps whose sizes are not their own.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let maps = self.forward.iter().chain(&self.reverse);
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (name, map) in MAPS.iter().zip(maps) {
            if let Some(packed) = packed_map::pack(map) {
                let shape = vec![packed.len()];
                tensors.push((format!("{name}.{PACKED}"), Dtype::U8, shape, packed));
                continue;
            }
            let size = [map.height, map.width];
            tensors.push((
                format!("{name}.points"),
                Dtype::F32,
                [&size[..], &[3]].concat(),
                floats(map.points.as_flattened()),
            ));
            tensors.push((
                format!("{name}.confidence"),
                Dtype::F32,
                size.to_vec(),
                floats(&map.confidence),
            ));
        }
        let count = self.matches.len();
        let pixels = |of: fn(&Match) -> Pixel| -> Vec<u8> {
            self.matches
                .iter()
                .map(of)
                .flat_map(|pixel| [pixel.x as i32, pixel.y as i32])
                .flat_map(i32::to_le_bytes)
                .collect()
        };
        let confidences: Vec<f32> = self.matches.iter().map(|m| m.confidence).collect();
        tensors.push((
            "0-1.first".into(),
            Dtype::I32,
            vec![count, 2],
            pixels(|m| m.first),
        ));
        tensors.push((
            "0-1.second".into(),
            Dtype::I32,
            vec![count, 2],
            pixels(|m| m.second),
        ));
        tensors.push((
            "0-1.confidence".into(),
            Dtype::F32,
            vec![count],
            floats(&confidences),
        ));
        let refused =
            |error| Error::Internal(format!("the evidence of a pair cannot be stored: {error}"));
        let tensors = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (&name[..], *dtype, shape.clone(), &bytes[..]));
        checksum::serialised(tensors).map_err(refused)
    }

    /// The same evidence as it is read from a file of it.
    #[must_use]
    pub fn rounded(self) -> Self {
        let rounded = |map: PointMap| packed_map::rounded(&map).unwrap_or(map);
        Self {
            forward: self.forward.map(rounded),
            reverse: self.reverse.map(rounded),
            ..self
        }
    }

    /// Reads the evidence of `pair` from a file, whose views have come in the other order if they
    /// are `exchanged` in it.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is missing or damaged or holds something else;
    /// [`Error::Io`].
    pub fn read(pair: Pair, file: &Path, exchanged: bool) -> Result<Self> {
        let bytes = fs::read(file).map_err(|error| Error::unreadable(file, error))?;
        let evidence = Self::from_safetensors(pair, &bytes, file)?;
        Ok(if exchanged {
            evidence.exchanged(pair)
        } else {
            evidence
        })
    }

    /// The evidence of `pair` from the content of `file`, which messages name.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is damaged or holds something else.
    pub fn from_safetensors(pair: Pair, bytes: &[u8], file: &Path) -> Result<Self> {
        let refuse = |reason: String| {
            Error::input(
                file,
                format!("{reason}; delete it, so that it is made anew"),
            )
        };
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|error| refuse(format!("is damaged: {error}")))?;
        if checksum::integrity(bytes) == Integrity::Damaged {
            return Err(refuse(
                "is damaged: its content does not match its checksum".into(),
            ));
        }
        let read = |name: &str, dtype: Dtype| {
            let tensor = tensors
                .tensor(name)
                .map_err(|error| refuse(error.to_string()))?;
            if tensor.dtype() != dtype {
                return Err(refuse(format!(
                    "{name} is stored as {:?} and should be {dtype:?}",
                    tensor.dtype()
                )));
            }
            Ok((
                tensor.shape().to_vec(),
                tensor.data().as_chunks::<4>().0.to_vec(),
            ))
        };
        let values = |bytes: Vec<[u8; 4]>| -> Vec<f32> {
            bytes.into_iter().map(f32::from_le_bytes).collect()
        };
        let map = |name: &str| {
            if let Ok(packed) = tensors.tensor(&format!("{name}.{PACKED}")) {
                return packed_map::unpack(packed.data())
                    .ok_or_else(|| refuse(format!("{name}.{PACKED} is no packed map")));
            }
            let (shape, points) = read(&format!("{name}.points"), Dtype::F32)?;
            let (size, confidence) = read(&format!("{name}.confidence"), Dtype::F32)?;
            let &[height, width, 3] = &shape[..] else {
                return Err(refuse(format!("{name}.points is {shape:?}")));
            };
            if size != [height, width] {
                return Err(refuse(format!(
                    "{name}.confidence is {size:?} beside points of {shape:?}"
                )));
            }
            let points = values(points).as_chunks::<3>().0.to_vec();
            Ok(PointMap {
                width,
                height,
                points: points.into(),
                confidence: values(confidence).into(),
            })
        };
        let [first, second, own_second, own_first] = MAPS;
        let pixels = |name: &str| {
            let (shape, numbers) = read(name, Dtype::I32)?;
            let &[_, 2] = &shape[..] else {
                return Err(refuse(format!("{name} is {shape:?}")));
            };
            let numbers = numbers
                .into_iter()
                .map(u32::from_le_bytes)
                .collect::<Vec<_>>();
            Ok(numbers
                .as_chunks::<2>()
                .0
                .iter()
                .map(|&[x, y]| Pixel { x, y })
                .collect::<Vec<_>>())
        };
        let (firsts, seconds) = (pixels("0-1.first")?, pixels("0-1.second")?);
        let (_, confidences) = read("0-1.confidence", Dtype::F32)?;
        if firsts.len() != seconds.len() || firsts.len() != confidences.len() {
            return Err(refuse("its matches are not equally many".into()));
        }
        let [forward, reverse] = [
            [map(first)?, map(second)?],
            [map(own_second)?, map(own_first)?],
        ];
        let sizes = forward.each_ref().map(|map| [map.width, map.height]);
        if reverse.each_ref().map(|map| [map.width, map.height]) != [sizes[1], sizes[0]] {
            return Err(refuse(
                "its two orders are of images of different sizes".into(),
            ));
        }
        let outside = |pixel: &Pixel, [width, height]: [usize; 2]| {
            pixel.x as usize >= width || pixel.y as usize >= height
        };
        for (pixels, size) in [(&firsts, sizes[0]), (&seconds, sizes[1])] {
            if let Some(Pixel { x, y }) = pixels.iter().find(|pixel| outside(pixel, size)) {
                let [width, height] = size;
                return Err(refuse(format!(
                    "it matches the pixel {x}, {y} of an image of {width}x{height} pixels"
                )));
            }
        }
        let matches = firsts.into_iter().zip(seconds).zip(values(confidences));
        Ok(Self {
            pair,
            forward,
            reverse,
            matches: matches
                .map(|((first, second), confidence)| Match {
                    first,
                    second,
                    confidence,
                })
                .collect(),
        })
    }

    /// The same evidence with its views' roles exchanged, as that of `pair`.
    pub fn exchanged(self, pair: Pair) -> Self {
        let exchanged = |m: Match| Match {
            first: m.second,
            second: m.first,
            ..m
        };
        let mut matches: Vec<Match> = self.matches.into_iter().map(exchanged).collect();
        matches.sort_by_key(|m| (m.first.y, m.first.x, m.second.y, m.second.x));
        Self {
            pair,
            forward: self.reverse,
            reverse: self.forward,
            matches,
        }
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> PairEvidence {
        let map = |width: usize, height: usize, start: f32| PointMap {
            width,
            height,
            points: (0..width * height)
                .map(|at| [start, at as f32, 0.1])
                .collect(),
            confidence: (0..width * height).map(|at| 1.0 + at as f32).collect(),
        };
        let at = |x, y| Pixel { x, y };
        PairEvidence {
            pair: Pair {
                first: 3,
                second: 5,
            },
            forward: [map(3, 2, 0.0), map(2, 4, 1.0)],
            reverse: [map(2, 4, 2.0), map(3, 2, 3.0)],
            matches: vec![
                Match {
                    first: at(0, 0),
                    second: at(1, 3),
                    confidence: 0.5,
                },
                Match {
                    first: at(2, 1),
                    second: at(0, 0),
                    confidence: 2.0,
                },
            ],
        }
    }

    fn same(a: &PairEvidence, b: &PairEvidence) {
        let maps = |evidence: &PairEvidence| -> Vec<_> {
            evidence
                .forward
                .iter()
                .chain(&evidence.reverse)
                .map(|map| (map.width, map.points.clone(), map.confidence.clone()))
                .collect()
        };
        assert_eq!((a.pair, maps(a), &a.matches), (b.pair, maps(b), &b.matches));
    }

    fn read_back(evidence: &PairEvidence) -> PairEvidence {
        let bytes = evidence.to_safetensors().unwrap();
        PairEvidence::from_safetensors(evidence.pair, &bytes, Path::new("pair")).unwrap()
    }

    #[test]
    fn evidence_reads_back_rounded_and_then_as_it_was() {
        let evidence = evidence();
        let rounded = read_back(&evidence);
        same(&evidence.clone().rounded(), &rounded);
        assert_eq!(rounded.matches, evidence.matches);
        let maps = |of: &PairEvidence| [of.forward.clone(), of.reverse.clone()].concat();
        for (found, want) in maps(&rounded).iter().zip(&maps(&evidence)) {
            assert_eq!((found.width, found.height), (want.width, want.height));
            let numbers = |map: &PointMap| [map.points.as_flattened(), &map.confidence].concat();
            for (found, want) in numbers(found).iter().zip(numbers(want)) {
                assert!(
                    (found - want).abs() <= 2e-3 * want.max(1.0),
                    "{found} {want}"
                );
            }
        }
        same(&read_back(&rounded), &rounded);
        let none = PairEvidence {
            matches: vec![],
            ..rounded
        };
        same(&read_back(&none), &none);
    }

    #[test]
    fn a_map_that_cannot_be_packed_is_exact() {
        let mut evidence = read_back(&evidence());
        evidence.forward[1].points[2] = [0.0; 3];
        evidence.reverse[0].confidence[1] = 0.0;
        same(&read_back(&evidence), &evidence);
    }

    #[test]
    fn a_damaged_file_is_named_with_the_way_out() {
        let bytes = evidence().to_safetensors().unwrap();
        let zeroed: Vec<u8> = [&bytes[..bytes.len() - 40], &[0; 40]].concat();
        for bytes in [&bytes[..bytes.len() - 1], &zeroed, &bytes[..4], b""] {
            let error = PairEvidence::from_safetensors(evidence().pair, bytes, Path::new("pair"))
                .unwrap_err();
            let message = error.to_string();
            assert!(
                message.starts_with("pair: is damaged") && message.ends_with("made anew"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_file_that_contradicts_itself_is_named_with_the_way_out() {
        let refusal = |evidence: PairEvidence| {
            let bytes = evidence.to_safetensors().unwrap();
            PairEvidence::from_safetensors(evidence.pair, &bytes, Path::new("pair"))
                .unwrap_err()
                .to_string()
        };
        let mut outside = evidence();
        outside.matches[1].second = Pixel { x: 2, y: 0 };
        let way_out = "delete it, so that it is made anew";
        assert_eq!(
            refusal(outside),
            format!("pair: it matches the pixel 2, 0 of an image of 2x4 pixels; {way_out}")
        );
        let mut other = evidence();
        other.reverse.reverse();
        assert_eq!(
            refusal(other),
            format!("pair: its two orders are of images of different sizes; {way_out}")
        );
    }

    #[test]
    fn exchanged_evidence_is_that_of_the_other_order() {
        let pair = Pair {
            first: 0,
            second: 1,
        };
        let exchanged = evidence().exchanged(pair);
        assert_eq!(
            (
                exchanged.forward[0].points[0][0],
                exchanged.reverse[0].points[0][0]
            ),
            (2.0, 0.0)
        );
        assert_eq!(exchanged.matches[0].first, Pixel { x: 0, y: 0 });
        same(&exchanged.exchanged(evidence().pair), &evidence());
    }
}
