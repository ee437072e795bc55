//! Where an image was taken, as EXIF says.

use super::exif::Bytes;

/// The directory of the position.
const GPS_DIRECTORY: u16 = 0x8825;
const LATITUDE_REF: u16 = 1;
const LATITUDE: u16 = 2;
const LONGITUDE_REF: u16 = 3;
const LONGITUDE: u16 = 4;
const ALTITUDE_REF: u16 = 5;
const ALTITUDE: u16 = 6;

/// A position from EXIF's GPS directory, WGS84.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GpsPosition {
    /// Degrees, north positive.
    pub latitude: f64,
    /// Degrees, east positive.
    pub longitude: f64,
    /// Metres: above sea level in most files, or above the ellipsoid, which EXIF 2 does not tell
    /// apart. `None` if the file has none.
    pub altitude: Option<f64>,
}

impl GpsPosition {
    /// What EXIF data say, from their TIFF header on. `None` without a whole position, for numbers
    /// that are none on Earth, and for 0, 0, which stands for no fix.
    pub(super) fn of(exif: &[u8]) -> Option<Self> {
        let bytes = Bytes::of(exif)?;
        let directory = bytes.value(bytes.u32(4)?, GPS_DIRECTORY)?;
        let angle = |tag, most: f64, reference, negative: &str, positive: &str| {
            let [degrees, minutes, seconds] = bytes.rationals(directory, tag)?;
            let angle = degrees + minutes / 60.0 + seconds / 3600.0;
            let side = bytes.text(directory, reference)?;
            let signed = match side.to_ascii_uppercase() {
                side if side.starts_with(positive) => angle,
                side if side.starts_with(negative) => -angle,
                _ => return None,
            };
            (signed.abs() <= most).then_some(signed)
        };
        let latitude = angle(LATITUDE, 90.0, LATITUDE_REF, "S", "N")?;
        let longitude = angle(LONGITUDE, 180.0, LONGITUDE_REF, "W", "E")?;
        let below = bytes
            .byte(directory, ALTITUDE_REF)
            .is_some_and(|side| side % 2 == 1);
        let altitude = bytes
            .rationals(directory, ALTITUDE)
            .map(|[metres]| if below { -metres } else { metres });
        let is_fix = latitude != 0.0 || longitude != 0.0;
        is_fix.then_some(Self {
            latitude,
            longitude,
            altitude,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// EXIF data of either byte order with a GPS directory of these parts.
    pub(in crate::views) fn exif(
        big_endian: bool,
        latitude: &str,
        longitude: &str,
        altitude: Option<(u8, u32)>,
    ) -> Vec<u8> {
        let number = |value: u32, bytes: usize| match big_endian {
            true => value.to_be_bytes()[4 - bytes..].to_vec(),
            false => value.to_le_bytes()[..bytes].to_vec(),
        };
        let entry = |tag: u16, kind: u32, count: u32, value: Vec<u8>| {
            let mut value = value;
            value.resize(4, 0);
            [
                number(tag.into(), 2),
                number(kind, 2),
                number(count, 4),
                value,
            ]
            .concat()
        };
        let fractions = |values: &[(u32, u32)]| -> Vec<u8> {
            values
                .iter()
                .flat_map(|(above, below)| [number(*above, 4), number(*below, 4)].concat())
                .collect()
        };
        let count = if altitude.is_some() { 6 } else { 4 };
        let data = 26 + 2 + 12 * count + 4;
        let mut entries = vec![
            entry(LATITUDE_REF, 2, 2, latitude.as_bytes().to_vec()),
            entry(LATITUDE, 5, 3, number(data, 4)),
            entry(LONGITUDE_REF, 2, 2, longitude.as_bytes().to_vec()),
            entry(LONGITUDE, 5, 3, number(data + 24, 4)),
        ];
        let mut values = fractions(&[(48, 1), (30, 1), (3600, 100), (2, 1), (15, 1), (0, 1)]);
        if let Some((side, decimetres)) = altitude {
            entries.push(entry(ALTITUDE_REF, 1, 1, vec![side]));
            entries.push(entry(ALTITUDE, 5, 1, number(data + 48, 4)));
            values.extend(fractions(&[(decimetres, 10)]));
        }
        let order = if big_endian { b"MM" } else { b"II" };
        [
            order.to_vec(),
            number(42, 2),
            number(8, 4),
            number(1, 2),
            entry(GPS_DIRECTORY, 4, 1, number(26, 4)),
            number(0, 4),
            number(count, 2),
            entries.concat(),
            number(0, 4),
            values,
        ]
        .concat()
    }

    #[test]
    fn positions_are_read_in_either_byte_order_with_their_signs() {
        for big_endian in [false, true] {
            let found = GpsPosition::of(&exif(big_endian, "N", "W", Some((1, 1234)))).unwrap();
            assert!((found.latitude - 48.51).abs() < 1e-12, "{found:?}");
            assert!((found.longitude + 2.25).abs() < 1e-12);
            assert_eq!(found.altitude, Some(-123.4));
            let found = GpsPosition::of(&exif(big_endian, "s", "E", None)).unwrap();
            assert!(found.latitude < 0.0 && found.longitude > 0.0);
            assert_eq!(found.altitude, None);
        }
    }

    #[test]
    fn damaged_positions_count_as_missing() {
        assert_eq!(GpsPosition::of(&exif(false, "X", "E", None)), None);
        let whole = exif(true, "N", "E", Some((0, 10)));
        for length in 0..whole.len() - 56 {
            assert_eq!(GpsPosition::of(&whole[..length]), None, "{length}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] = 0xFF;
            if let Some(found) = GpsPosition::of(&damaged) {
                assert!(found.latitude.abs() <= 90.0 && found.longitude.abs() <= 180.0);
                assert!(found.altitude.is_none_or(f64::is_finite));
            }
        }
    }
}
