//! Binary record of a fitted pair, a quarter of the size of its point maps.
//!
//! The alignment uses depths and confidences of the four point maps, 64 bytes a pixel. The record has 16
//! bits for each: log depths in equal steps from the least to the largest of a map (error below
//! 0.01 % if the farthest point is less than half a million times as far as the nearest), confidences
//! in float16 (0.05 %). The fitted transforms are float64. A match takes 12 bytes, its weight in
//! float32.

use half::f16;
use nalgebra::{Isometry3, Quaternion, Similarity3, Translation3, UnitQuaternion};

use crate::alignment::Pair;
use crate::alignment::canonical::DepthSample;
use crate::alignment::pair_fit::{PairFit, PosePrior, ViewContribution, WeightedMatch};

/// Code of an unknown depth.
const UNKNOWN: u16 = u16::MAX;
const STEPS: f32 = (UNKNOWN - 1) as f32;

struct Writer(Vec<u8>);

struct Reader<'a>(&'a [u8]);

pub fn encode(fit: &PairFit) -> Vec<u8> {
    let mut to = Writer(Vec::new());
    to.integer(fit.pair.first as u64);
    to.integer(fit.pair.second as u64);
    to.integer(u64::from(fit.is_finite) | u64::from(fit.is_sound) << 1);
    to.numbers(&[fit.inlier_share]);
    match &fit.first_from_second {
        Some(similarity) => {
            to.integer(1);
            to.pose(&similarity.isometry);
            to.numbers(&[similarity.scaling()]);
        }
        None => to.integer(0),
    }
    to.integer(fit.pose_priors.len() as u64);
    for prior in &fit.pose_priors {
        to.integer(prior.base as u64);
        to.integer(prior.seen as u64);
        to.pose(&prior.seen_from_base);
    }
    for maps in &fit.maps {
        match maps.log_focal {
            Some(focal) => {
                to.integer(1);
                to.numbers(&[focal]);
            }
            None => to.integer(0),
        }
        to.map(maps.own.as_ref());
        to.map(maps.across.as_ref());
    }
    to.integer(fit.matches.len() as u64);
    to.integer(fit.widths[0] as u64);
    to.integer(fit.widths[1] as u64);
    for found in &fit.matches {
        for at in found.first.iter().chain(&found.second) {
            to.0.extend((*at as u16).to_le_bytes());
        }
        to.0.extend((found.weight as f32).to_le_bytes());
    }
    to.0
}

/// Decodes a record; `None` if it is truncated.
pub fn decode(bytes: &[u8]) -> Option<PairFit> {
    let mut from = Reader(bytes);
    let pair = Pair {
        first: from.count()?,
        second: from.count()?,
    };
    let flags = from.integer()?;
    let inlier_share = from.number()?;
    let first_from_second = match from.integer()? {
        0 => None,
        _ => Some(Similarity3::from_isometry(from.pose()?, from.number()?)),
    };
    let priors = from.count()?;
    let prior = |from: &mut Reader<'_>| {
        Some(PosePrior {
            base: from.count()?,
            seen: from.count()?,
            seen_from_base: from.pose()?,
        })
    };
    let pose_priors = (0..priors)
        .map(|_| prior(&mut from))
        .collect::<Option<Vec<_>>>()?;
    let view = |from: &mut Reader<'_>| {
        let log_focal = match from.integer()? {
            0 => None,
            _ => Some(from.number()?),
        };
        Some(ViewContribution {
            log_focal,
            own: from.map()?,
            across: from.map()?,
        })
    };
    let maps = [view(&mut from)?, view(&mut from)?];
    let own_depths = maps.each_ref().map(|maps| match &maps.own {
        Some([depths, _]) => DepthSample::of_depths(depths),
        None => DepthSample::default(),
    });
    let count = from.count()?;
    let widths = [from.count()?, from.count()?];
    let found = |from: &mut Reader<'_>| {
        let mut at = || Some(f64::from(u16::from_le_bytes(from.take()?)));
        let (first, second) = ([at()?, at()?], [at()?, at()?]);
        let index = |[x, y]: [f64; 2], width: usize| y as usize * width + x as usize;
        Some(WeightedMatch {
            first,
            second,
            indices: [index(first, widths[0]), index(second, widths[1])],
            weight: f64::from(f32::from_le_bytes(from.take()?)),
        })
    };
    let matches = (0..count)
        .map(|_| found(&mut from))
        .collect::<Option<Vec<_>>>()?;
    Some(PairFit {
        pair,
        matches,
        widths,
        first_from_second,
        is_finite: flags & 1 != 0,
        is_sound: flags & 2 != 0,
        inlier_share,
        pose_priors,
        map_agreement: if flags & 1 != 0 { 1.0 } else { 0.0 },
        own_depths,
        maps,
    })
}

impl Writer {
    fn integer(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn numbers(&mut self, values: &[f64]) {
        self.0
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    fn pose(&mut self, pose: &Isometry3<f64>) {
        self.numbers(pose.rotation.coords.as_slice());
        self.numbers(pose.translation.vector.as_slice());
    }

    /// Log depths and confidences.
    fn map(&mut self, map: Option<&[Vec<f32>; 2]>) {
        let Some([depths, confidence]) = map else {
            return self.integer(0);
        };
        self.integer(1);
        self.integer(depths.len() as u64);
        let known = || depths.iter().copied().filter(|depth| depth.is_finite());
        let (least, most) = known().fold(
            (f32::INFINITY, f32::NEG_INFINITY),
            |(least, most), depth| (least.min(depth), most.max(depth)),
        );
        let step = ((most - least) / STEPS).max(f32::MIN_POSITIVE);
        self.0.extend(least.to_le_bytes());
        self.0.extend(step.to_le_bytes());
        let depth = |depth: &f32| match depth.is_finite() {
            true => ((depth - least) / step).round().min(STEPS) as u16,
            false => UNKNOWN,
        };
        self.0
            .extend(depths.iter().flat_map(|value| depth(value).to_le_bytes()));
        let confidence = confidence
            .iter()
            .map(|value| value.min(f32::from(f16::MAX)));
        self.0
            .extend(confidence.flat_map(|value| f16::from_f32(value).to_le_bytes()));
    }
}

impl Reader<'_> {
    fn take<const COUNT: usize>(&mut self) -> Option<[u8; COUNT]> {
        let (taken, rest) = self.0.split_first_chunk::<COUNT>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn integer(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.integer()?).ok()
    }

    fn number(&mut self) -> Option<f64> {
        self.take().map(f64::from_le_bytes)
    }

    fn pose(&mut self) -> Option<Isometry3<f64>> {
        let mut next = || self.number();
        let [x, y, z, w] = [next()?, next()?, next()?, next()?];
        let translation = Translation3::new(next()?, next()?, next()?);
        let rotation = UnitQuaternion::new_unchecked(Quaternion::new(w, x, y, z));
        Some(Isometry3::from_parts(translation, rotation))
    }

    /// `None` for a broken record, `Some(None)` for no map.
    fn map(&mut self) -> Option<Option<[Vec<f32>; 2]>> {
        if self.integer()? == 0 {
            return Some(None);
        }
        let count = self.count()?;
        let least = f32::from_le_bytes(self.take()?);
        let step = f32::from_le_bytes(self.take()?);
        let (depths, rest) = self.0.split_at_checked(count.checked_mul(2)?)?;
        let (confidence, rest) = rest.split_at_checked(count.checked_mul(2)?)?;
        self.0 = rest;
        let depth = |bytes: &[u8; 2]| match u16::from_le_bytes(*bytes) {
            UNKNOWN => f32::NAN,
            steps => least + f32::from(steps) * step,
        };
        let half = |bytes: &[u8; 2]| f32::from(f16::from_le_bytes(*bytes));
        Some(Some([
            depths.as_chunks::<2>().0.iter().map(depth).collect(),
            confidence.as_chunks::<2>().0.iter().map(half).collect(),
        ]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alignment::{AlignOptions, PairEvidence};
    use crate::geometry::PointMap;
    use crate::matching::{Match, Pixel};

    fn map(shift: f32) -> PointMap {
        let (width, height) = (48, 32);
        let point = |index: usize| {
            let [x, y] = [index % width, index / width].map(|at| at as f32 / 40.0);
            let z = 2.0 + (5.0 * x).sin() + y * y;
            [(x - 0.6) * z + shift, (y - 0.4) * z, z]
        };
        PointMap {
            width,
            height,
            points: (0..width * height).map(point).collect(),
            confidence: (0..width * height)
                .map(|at| 1.5 + (at % 7) as f32)
                .collect(),
        }
    }

    fn fit() -> PairFit {
        let pixel = |index: usize, by: usize| Pixel {
            x: (index * by % 48) as u32,
            y: (index % 32) as u32,
        };
        let evidence = PairEvidence {
            pair: Pair {
                first: 2,
                second: 7,
            },
            forward: [map(0.0), map(0.1)],
            reverse: [map(0.0), map(-0.1)],
            matches: (0..90)
                .map(|index| Match {
                    first: pixel(index, 5),
                    second: pixel(index, 5),
                    confidence: 1.0 + index as f32,
                })
                .collect(),
        };
        PairFit::new(&evidence, &AlignOptions::default())
    }

    #[test]
    fn a_pair_reads_back_within_what_is_stated_in_a_quarter_of_the_bytes() {
        let fit = fit();
        let bytes = encode(&fit);
        assert!(
            bytes.len() < 16 * 48 * 32 + 12 * fit.matches.len() + 700,
            "{}",
            bytes.len()
        );
        let found = decode(&bytes).unwrap();
        assert_eq!(
            (found.pair, found.is_sound, found.is_finite),
            (fit.pair, fit.is_sound, true)
        );
        assert_eq!(found.first_from_second, fit.first_from_second);
        assert_eq!(found.inlier_share.to_bits(), fit.inlier_share.to_bits());
        assert_eq!(found.pose_priors.len(), fit.pose_priors.len());
        for (found, fit) in found.matches.iter().zip(&fit.matches) {
            assert_eq!(
                (found.first, found.second, found.indices),
                (fit.first, fit.second, fit.indices)
            );
            assert!((found.weight - fit.weight).abs() < 1e-7);
        }
        for (found, fit) in found.maps.iter().zip(&fit.maps) {
            let both = [(&found.own, &fit.own), (&found.across, &fit.across)];
            for (found, fit) in both {
                let ([found, sure], [fit, known]) =
                    (found.as_ref().unwrap(), fit.as_ref().unwrap());
                assert!(found.iter().zip(fit).all(|(a, b)| (a - b).abs() < 1e-4));
                assert!(
                    sure.iter()
                        .zip(known)
                        .all(|(a, b)| (a / b - 1.0).abs() < 5e-4)
                );
            }
        }
    }

    #[test]
    fn what_is_not_known_stays_so_and_half_a_record_is_none() {
        let mut unknown = fit();
        let own = unknown.maps[0].own.as_mut().unwrap();
        own[0][3] = f32::NAN;
        unknown.maps[1].across = None;
        let bytes = encode(&unknown);
        let found = decode(&bytes).unwrap();
        assert!(found.maps[0].own.as_ref().unwrap()[0][3].is_nan());
        assert!(found.maps[1].across.is_none());
        assert!(decode(&bytes[..bytes.len() - 1]).is_none());
        let nothing = PairFit::not_finite(Pair {
            first: 0,
            second: 1,
        });
        assert!(!decode(&encode(&nothing)).unwrap().is_finite);
    }
}
