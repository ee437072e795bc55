//! A point map in about a quarter of its bytes: rounded to steps far below what a network knows,
//! then coded without loss.
//!
//! A pixel's point becomes its L1 norm n = |x| + |y| + |z| in steps of 2^-13 of log2 n (largest
//! error 0.0043 %) and its direction, a point of the octahedron of unit L1 norm unfolded to a square
//! [1], in steps of 2^-15 (largest error 7e-5 radians); its confidence is in steps of 2^-9 of log2
//! (0.068 %). Each of the four planes is predicted pixel by pixel from the neighbours to the left
//! and above (the median edge detector of JPEG-LS [2]); residuals, zigzag, are written 16 at a time
//! with as many bits as the largest of them needs.
//!
//! | bytes | content |
//! |---|---|
//! | 4, 4 | width and height, u32, little endian |
//! | then for each plane (norm, two of the direction, confidence), 16 residuals at a time | |
//! | 1 | bits of a residual, 0 to 32 |
//! | 2 x bits | residuals, the first in the lowest bits; zeros for those past the last |
//!
//! [1] Meyer, Süßmuth, Sußner, Stamminger and Greiner, On Floating-Point Normal Vectors, 2010.
//! [2] Weinberger, Seroussi and Sapiro, The LOCO-I Lossless Image Compression Algorithm, 2000.

use rayon::prelude::*;

use crate::geometry::PointMap;

/// Steps of log2 of a norm, of a coordinate of the square, and of log2 of a confidence.
const NORM: f64 = 8192.;
const DIRECTION: f64 = 32768.;
const CONFIDENCE: f64 = 512.;
/// Residuals that share their number of bits.
const BLOCK: usize = 16;
/// Norm, direction and confidence.
const PLANES: usize = 4;

/// The planes of a map, in their steps.
type Planes = [Vec<i32>; PLANES];

/// The code of a map; `None` of one that has points or confidences that are not finite or have no
/// logarithm, or no pixels.
pub(crate) fn pack(map: &PointMap) -> Option<Vec<u8>> {
    let planes = planes(map)?;
    let mut bytes = Vec::with_capacity(8 + PLANES * planes[0].len());
    bytes.extend(u32::try_from(map.width).ok()?.to_le_bytes());
    bytes.extend(u32::try_from(map.height).ok()?.to_le_bytes());
    let coded: Vec<Vec<u8>> = planes
        .par_iter()
        .map(|plane| code(plane, map.width))
        .collect();
    bytes.extend(coded.concat());
    Some(bytes)
}

/// The map of a code; `None` if it is none.
pub(crate) fn unpack(bytes: &[u8]) -> Option<PointMap> {
    let (width, rest) = bytes.split_first_chunk()?;
    let (height, mut rest) = rest.split_first_chunk()?;
    let [width, height] = [width, height].map(|size| u32::from_le_bytes(*size) as usize);
    let count = width.checked_mul(height)?;
    // A block has a byte at least.
    if count == 0 || count.div_ceil(BLOCK) > rest.len() / PLANES {
        return None;
    }
    let mut plane = || decode(&mut rest, width, count);
    let planes = [plane()?, plane()?, plane()?, plane()?];
    rest.is_empty().then(|| point_map(&planes, [width, height]))
}

/// What [`unpack`] makes of a map's code; `None` where there is none.
pub(crate) fn rounded(map: &PointMap) -> Option<PointMap> {
    u32::try_from(map.width.max(map.height)).ok()?;
    Some(point_map(&planes(map)?, [map.width, map.height]))
}

fn planes(map: &PointMap) -> Option<Planes> {
    let count = map.width * map.height;
    if count == 0 || map.points.len() != count || map.confidence.len() != count {
        return None;
    }
    let mut planes: Planes = std::array::from_fn(|_| Vec::with_capacity(count));
    for (&point, &confidence) in map.points.iter().zip(&map.confidence) {
        for (plane, steps) in planes.iter_mut().zip(steps(point, confidence)?) {
            plane.push(steps);
        }
    }
    Some(planes)
}

fn point_map([norm, u, v, confidence]: &Planes, [width, height]: [usize; 2]) -> PointMap {
    let points: Vec<[f32; 3]> = (0..norm.len())
        .into_par_iter()
        .map(|at| point(norm[at], [u[at], v[at]]))
        .collect();
    let confidence: Vec<f32> = confidence
        .par_iter()
        .map(|&steps| as_float((f64::from(steps) / CONFIDENCE).exp2()))
        .collect();
    PointMap {
        width,
        height,
        points: points.into(),
        confidence: confidence.into(),
    }
}

/// A pixel's numbers in their steps.
fn steps(point: [f32; 3], confidence: f32) -> Option<[i32; PLANES]> {
    let [x, y, z] = point.map(f64::from);
    let norm = x.abs() + y.abs() + z.abs();
    let logarithm = |value: f64, steps: f64| {
        let rounded = (value.log2() * steps).round();
        rounded.is_finite().then_some(rounded as i32)
    };
    let [mut u, mut v] = [x / norm, y / norm];
    if z < 0. {
        // The back of the octahedron folds over the edges of its front.
        [u, v] = [(1. - v.abs()).copysign(u), (1. - u.abs()).copysign(v)];
    }
    Some([
        logarithm(norm, NORM)?,
        (u * DIRECTION).round() as i32,
        (v * DIRECTION).round() as i32,
        logarithm(f64::from(confidence), CONFIDENCE)?,
    ])
}

/// [`steps`] back to a point.
fn point(norm: i32, direction: [i32; 2]) -> [f32; 3] {
    let [mut x, mut y] = direction.map(|steps| f64::from(steps) / DIRECTION);
    let z = 1. - x.abs() - y.abs();
    if z < 0. {
        [x, y] = [(1. - y.abs()).copysign(x), (1. - x.abs()).copysign(y)];
    }
    let norm = (f64::from(norm) / NORM).exp2();
    [x, y, z].map(|part| as_float(part * norm))
}

/// As float32, which a step may have led beyond its range.
fn as_float(value: f64) -> f32 {
    let largest = f64::from(f32::MAX);
    value.clamp(-largest, largest) as f32
}

/// What the pixel `at` is expected to be by those before it.
fn predicted(plane: &[i32], at: usize, width: usize) -> i32 {
    let (x, y) = (at % width, at / width);
    match (x, y) {
        (0, 0) => 0,
        (_, 0) => plane[at - 1],
        (0, _) => plane[at - width],
        _ => {
            let (left, above) = (plane[at - 1], plane[at - width]);
            let corner = plane[at - width - 1];
            left.wrapping_add(above)
                .wrapping_sub(corner)
                .clamp(left.min(above), left.max(above))
        }
    }
}

fn code(plane: &[i32], width: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(plane.len());
    for first in (0..plane.len()).step_by(BLOCK) {
        let mut residuals = [0u32; BLOCK];
        for (residual, at) in residuals.iter_mut().zip(first..plane.len()) {
            let difference = plane[at].wrapping_sub(predicted(plane, at, width));
            *residual = (difference << 1 ^ difference >> 31) as u32;
        }
        let bits = 32
            - residuals
                .iter()
                .fold(0, |all, one| all | one)
                .leading_zeros();
        bytes.push(bits as u8);
        let (mut held, mut count) = (0u64, 0);
        for residual in residuals {
            held |= u64::from(residual) << count;
            count += bits;
            while count >= 8 {
                bytes.push(held as u8);
                held >>= 8;
                count -= 8;
            }
        }
    }
    bytes
}

/// Takes a plane of `count` numbers from the front of `bytes`.
fn decode(bytes: &mut &[u8], width: usize, count: usize) -> Option<Vec<i32>> {
    let mut plane = vec![0; count];
    for first in (0..count).step_by(BLOCK) {
        let (&bits, rest) = bytes.split_first()?;
        if bits > 32 {
            return None;
        }
        let (mut block, rest) = rest.split_at_checked(2 * usize::from(bits))?;
        *bytes = rest;
        let (mut held, mut there) = (0u64, 0);
        for at in first..count.min(first + BLOCK) {
            while there < bits {
                let (&byte, rest) = block.split_first()?;
                held |= u64::from(byte) << there;
                there += 8;
                block = rest;
            }
            let residual = (held & ((1 << bits) - 1)) as u32;
            held >>= bits;
            there -= bits;
            let difference = (residual >> 1) as i32 ^ -((residual & 1) as i32);
            plane[at] = predicted(&plane, at, width).wrapping_add(difference);
        }
    }
    Some(plane)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wall, a floor and something before them, with the noise of a network; or points in every
    /// direction, behind the camera too.
    fn map(width: usize, height: usize, everywhere: bool) -> PointMap {
        let noise = |at: usize| (((at * 7919) % 1013) as f32 / 1013. - 0.5) * 2e-3;
        let point = |at: usize| {
            let (x, y) = (at % width, at / width);
            let ray = [x, y].map(|pixel| (pixel as f32 - 0.5 * width as f32) / width as f32);
            let z = match (x / 20 % 3, ray[1] > 0.1) {
                (0, _) => 1.2,
                (_, true) => 0.5 / ray[1],
                _ => 5. + ray[0],
            } * (1. + noise(at));
            if everywhere {
                let angle = at as f32 * 0.37;
                let radius = 0.01 * 1.02f32.powi((at % 900) as i32);
                let part = [angle.sin(), (angle * 1.7).cos(), (angle * 0.3).sin() - 0.2];
                return part.map(|part| part * radius);
            }
            [(ray[0] + noise(at + 5) * 0.3) * z, ray[1] * z, z]
        };
        PointMap {
            width,
            height,
            points: (0..width * height).map(point).collect(),
            confidence: (0..width * height)
                .map(|at| 1. + 3. * (1. + noise(at) * 10.) * (at % width) as f32 / width as f32)
                .collect(),
        }
    }

    #[test]
    fn maps_read_back_within_what_is_stated_and_once_rounded_as_they_were() {
        for (size, everywhere) in [
            ((64, 48), false),
            ((61, 7), true),
            ((1, 1), true),
            ((1, 40), false),
            ((300, 9), true),
        ] {
            let map = map(size.0, size.1, everywhere);
            let bytes = pack(&map).unwrap();
            let back = unpack(&bytes).unwrap();
            assert_eq!((back.width, back.height), size);
            for (found, want) in back.points.iter().zip(&map.points) {
                let [found, want] = [found, want].map(|point| point.map(f64::from));
                let one = |point: [f64; 3]| point.iter().map(|part| part.abs()).sum::<f64>();
                assert!(
                    (one(found) / one(want) - 1.).abs() < 4.4e-5,
                    "{found:?} {want:?}"
                );
                let two =
                    |point: [f64; 3]| point.iter().map(|part| part * part).sum::<f64>().sqrt();
                let cross: f64 = (0..3)
                    .map(|i| {
                        let (j, k) = ((i + 1) % 3, (i + 2) % 3);
                        (found[j] * want[k] - found[k] * want[j]).powi(2)
                    })
                    .sum();
                let angle = cross.sqrt() / (two(found) * two(want));
                assert!(angle < 7e-5, "{angle}: {found:?} {want:?}");
            }
            for (found, want) in back.confidence.iter().zip(&map.confidence) {
                assert!((found / want - 1.).abs() < 7e-4, "{found} {want}");
            }
            assert_eq!(pack(&back).unwrap(), bytes);
            assert_eq!(rounded(&map).unwrap(), back);
        }
    }

    #[test]
    fn a_map_takes_less_than_a_quarter() {
        let map = map(320, 240, false);
        let bytes = pack(&map).unwrap().len() as f64 / (320. * 240.);
        assert!(bytes < 4., "{bytes} bytes a pixel, 16 before");
    }

    #[test]
    fn what_has_no_logarithm_is_not_packed() {
        let good = map(8, 4, false);
        for value in [f32::NAN, f32::INFINITY] {
            let mut bad = good.clone();
            bad.points[9][1] = value;
            assert!(pack(&bad).is_none());
            let mut bad = good.clone();
            bad.confidence[9] = value;
            assert!(pack(&bad).is_none());
        }
        let mut bad = good.clone();
        bad.points[3] = [0.; 3];
        assert!(pack(&bad).is_none());
        let mut bad = good.clone();
        bad.confidence[3] = -1.;
        assert!(pack(&bad).is_none());
        let mut extreme = good;
        extreme.points[0] = [f32::MAX, -f32::MAX, f32::MIN_POSITIVE];
        extreme.points[1] = [0., -f32::MIN_POSITIVE, 0.];
        extreme.confidence[0] = f32::MAX;
        let back = unpack(&pack(&extreme).unwrap()).unwrap();
        assert!(
            back.points
                .as_flattened()
                .iter()
                .all(|part| part.is_finite())
        );
    }

    #[test]
    fn what_is_no_code_is_none() {
        let bytes = pack(&map(19, 5, true)).unwrap();
        for length in 0..bytes.len() {
            assert!(unpack(&bytes[..length]).is_none(), "{length}");
        }
        assert!(unpack(&[&bytes[..], &[0]].concat()).is_none());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            // Whatever it is, it is no panic.
            let _ = unpack(&changed);
        }
        assert!(unpack(&[255; 64]).is_none());
    }
}
