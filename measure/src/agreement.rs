//! How near one set of outputs is to another.

use std::path::Path;

use candle_core::{Device, Tensor};

use crate::Agreement;
use mast3r::{Error, Result};

/// Pearson's correlation and the largest difference, over the largest magnitude of `reference`, of
/// two lists of values of one length, in float64.
pub fn compare_values(reference: &[f32], values: &[f32]) -> (f64, f64) {
    let count = reference.len().max(1) as f64;
    let mean = |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(reference), mean(values));
    let (mut xx, mut yy, mut xy, mut gap, mut most) = (0.0, 0.0, 0.0, 0.0, 0.0_f64);
    for (&x, &y) in reference.iter().zip(values) {
        let (x, y) = (f64::from(x), f64::from(y));
        xx += (x - mean_x).powi(2);
        yy += (y - mean_y).powi(2);
        xy += (x - mean_x) * (y - mean_y);
        let far = (x - y).abs();
        // A NaN must not vanish in a maximum: nothing is greater than it.
        if far > gap || far.is_nan() {
            gap = far;
        }
        most = most.max(x.abs());
    }
    (
        xy / (xx * yy).sqrt(),
        if most > 0.0 { gap / most } else { gap },
    )
}

/// Each of `outputs` beside the tensor of its name in the safetensors file `reference`.
///
/// # Errors
/// [`Error::Input`] if the file cannot be read, or lacks an output, or has it of another size.
pub fn agreement(reference: &Path, outputs: &[(String, Tensor)]) -> Result<Vec<Agreement>> {
    let known = candle_core::safetensors::load(reference, &Device::Cpu)
        .map_err(|error| Error::input(reference, error.to_string()))?;
    let one = |(name, tensor): &(String, Tensor)| {
        let same = known
            .get(name)
            .filter(|other| other.dims() == tensor.dims());
        let other = same.ok_or_else(|| {
            Error::input(reference, format!("has no {name} of {:?}", tensor.dims()))
        })?;
        let values = |tensor: &Tensor| -> Result<Vec<f32>> { Ok(tensor.flatten_all()?.to_vec1()?) };
        let (pearson, error) = compare_values(&values(other)?, &values(tensor)?);
        Ok(Agreement {
            output: name.clone(),
            pearson,
            error,
        })
    };
    outputs.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlation_and_error_are_those_of_the_textbook() {
        let (pearson, error) = compare_values(&[1.0, 2.0, 3.0, -4.0], &[1.0, 2.0, 3.0, -4.0]);
        assert!((pearson - 1.0).abs() < 1e-15 && error == 0.0);
        let (pearson, error) = compare_values(&[0.0, 1.0, 0.0, 1.0], &[0.0, 0.0, 1.0, 1.0]);
        assert!(pearson.abs() < 1e-15 && error == 1.0);
        let (pearson, _) = compare_values(&[1.0, 2.0], &[2.0, 1.0]);
        assert!((pearson + 1.0).abs() < 1e-15);
        assert!(
            compare_values(&[1.0, 2.0, 3.0], &[1.0, f32::NAN, 3.0])
                .1
                .is_nan()
        );
    }
}
