//! Colour arithmetic: linear light, a colour scale that is even to the eye, robust ranges.

use std::sync::OnceLock;

pub(super) use crate::formats::clouds::srgb_from_linear;

/// Levels of the colour scale.
const LEVELS: usize = 256;

/// The range of values that spreads over a scale; the few beyond it are clamped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    low: f32,
    high: f32,
}

impl Range {
    /// From the 2nd to the 98th percentile of `values`, whose order is changed; `None` if there are
    /// none.
    ///
    /// All values must be finite.
    pub(super) fn robust(values: &mut [f32]) -> Option<Self> {
        let last = values.len().checked_sub(1)?;
        let mut at = |part: f64| {
            *values
                .select_nth_unstable_by((part * last as f64).round() as usize, f32::total_cmp)
                .1
        };
        Some(Self {
            low: at(0.02),
            high: at(0.98),
        })
    }

    /// Where `value` lies, from 0 to 1; the middle if the range is a single value.
    pub(super) fn position(self, value: f32) -> f32 {
        // Halved, so that the difference of two large values does not overflow.
        let width = self.high / 2.0 - self.low / 2.0;
        if width > 0.0 {
            ((value / 2.0 - self.low / 2.0) / width).clamp(0.0, 1.0)
        } else {
            0.5
        }
    }
}

/// Linear light, 0 to 65535, of every sRGB level.
pub(super) fn linear_from_srgb() -> [u16; 256] {
    std::array::from_fn(|level| {
        let value = level as f64 / 255.0;
        let linear = if value <= 0.04045 {
            value / 12.92
        } else {
            ((value + 0.055) / 1.055).powf(2.4)
        };
        (linear * 65535.0).round() as u16
    })
}

/// The colour at `position`, 0 to 1: from a dark violet over blue and green to a bright yellow,
/// lightness rising evenly.
pub(super) fn scale_color(position: f32) -> [u8; 3] {
    static SCALE: OnceLock<[[u8; 3]; LEVELS]> = OnceLock::new();
    let scale = SCALE.get_or_init(|| {
        std::array::from_fn(|level| {
            even_light(level as f64 / (LEVELS - 1) as f64).map(srgb_from_linear)
        })
    });
    scale[((position * (LEVELS - 1) as f32).round() as usize).min(LEVELS - 1)]
}

/// Linear sRGB of one colour of the scale, chosen in Oklab (Ottosson 2020), in which equal steps
/// look equal.
fn even_light(position: f64) -> [f64; 3] {
    let lightness = 0.30 + 0.64 * position;
    let hue = (300.0 - 195.0 * position).to_radians();
    // A smooth curve below what sRGB can show, which is least for cyan; along the limit itself
    // there would be edges.
    let chroma = 0.098 + 0.24 * (position - 0.45).powi(2);
    linear_srgb_from_oklab([lightness, chroma * hue.cos(), chroma * hue.sin()])
}

fn linear_srgb_from_oklab([lightness, a, b]: [f64; 3]) -> [f64; 3] {
    let long = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
    let medium = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
    let short = (lightness - 0.089_484_177_5 * a - 1.291_485_548_0 * b).powi(3);
    [
        4.076_741_662_1 * long - 3.307_711_591_3 * medium + 0.230_969_929_2 * short,
        -1.268_438_004_6 * long + 2.609_757_401_1 * medium - 0.341_319_396_5 * short,
        -0.004_196_086_3 * long - 0.703_418_614_7 * medium + 1.707_614_701_0 * short,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_srgb_level_keeps_a_linear_value_of_its_own() {
        let linear = linear_from_srgb();
        assert_eq!((linear[0], linear[255]), (0, 65535));
        assert!(linear.windows(2).all(|pair| pair[0] < pair[1]));
        // IEC 61966-2-1: level 128 is 0.2158605 of full light.
        assert_eq!(linear[128], 14146);
    }

    #[test]
    fn the_scale_stays_within_srgb() {
        for level in 0..LEVELS {
            let position = level as f64 / (LEVELS - 1) as f64;
            let light = even_light(position);
            assert!(
                light.iter().all(|light| (0.0..=1.0).contains(light)),
                "{position}: {light:?}"
            );
        }
    }

    #[test]
    fn the_scale_gets_lighter_in_even_steps() {
        let luma = |[r, g, b]: [u8; 3]| {
            let linear = linear_from_srgb().map(f64::from);
            let light = |level: u8| linear[usize::from(level)] / 65535.0;
            (0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b)).cbrt()
        };
        let steps: Vec<f64> = (0..=16)
            .map(|step| luma(scale_color(step as f32 / 16.0)))
            .collect();
        for pair in steps.windows(2) {
            let rise = pair[1] - pair[0];
            assert!((0.02..0.06).contains(&rise), "{steps:?}");
        }
    }

    #[test]
    fn a_range_ignores_outliers_and_clamps_them() {
        let mut values: Vec<f32> = (0..=100).map(|value| value as f32).collect();
        values[100] = 1e9;
        let range = Range::robust(&mut values).unwrap();
        assert_eq!(
            range,
            Range {
                low: 2.0,
                high: 98.0
            }
        );
        assert_eq!(
            [
                range.position(-5.0),
                range.position(50.0),
                range.position(1e9)
            ],
            [0.0, 0.5, 1.0]
        );
    }

    #[test]
    fn a_range_of_one_value_maps_to_the_middle() {
        let range = Range::robust(&mut [3.0, 3.0]).unwrap();
        assert_eq!(range.position(3.0), 0.5);
        assert_eq!(Range::robust(&mut []), None);
        let widest = Range {
            low: f32::MIN,
            high: f32::MAX,
        };
        assert_eq!(widest.position(0.0), 0.5);
    }
}
