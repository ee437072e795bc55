//! The similarity between two lists of 3D points.

use nalgebra::{Matrix3, Point3, Rotation3, Similarity3, Translation3, UnitQuaternion, Vector3};

/// Shares of the largest singular value below which points count as lying on a line.
const FLAT: f64 = 1e-9;
/// Singular value iterations before giving up.
const MOST_ITERATIONS: usize = 100;

/// A point and where the similarity should take it.
#[derive(Clone, Copy, Debug)]
pub struct Correspondence {
    /// Before.
    pub from: Point3<f64>,
    /// After.
    pub to: Point3<f64>,
    /// Not negative.
    pub weight: f64,
}

/// The similarity of least weighted squared distance that takes `from` to `to` (Umeyama 1991).
///
/// `None` if it is not determined: fewer than three points, points on a line, or values that are
/// not finite.
pub fn similarity(pairs: &[Correspondence]) -> Option<Similarity3<f64>> {
    weighted_similarity(pairs, |_| 1.0)
}

/// As [`similarity`], made robust to gross outliers: `rounds` times each weight is divided by the
/// pair's distance after the last fit, so that distances instead of their squares count.
pub fn robust_similarity(pairs: &[Correspondence], rounds: usize) -> Option<Similarity3<f64>> {
    let mut fit = similarity(pairs)?;
    for _ in 0..rounds {
        let distance = |pair: &Correspondence| (fit * pair.from - pair.to).norm();
        let weight: f64 = pairs.iter().map(|pair| pair.weight).sum();
        let mean = pairs
            .iter()
            .map(|pair| pair.weight * distance(pair))
            .sum::<f64>()
            / weight;
        // Points fitted this well already are as good as exact; dividing by less would let one of
        // them decide alone.
        let small = (1e-2 * mean).max(f64::MIN_POSITIVE);
        fit = weighted_similarity(pairs, |pair| 1.0 / (distance(pair) + small))?;
    }
    Some(fit)
}

fn weighted_similarity(
    pairs: &[Correspondence],
    factor: impl Fn(&Correspondence) -> f64,
) -> Option<Similarity3<f64>> {
    if pairs.len() < 3 {
        return None;
    }
    let weights: Vec<f64> = pairs
        .iter()
        .map(|pair| pair.weight * factor(pair))
        .collect();
    let total: f64 = weights.iter().sum();
    let weighted = || {
        pairs
            .iter()
            .zip(weights.iter().map(|weight| weight / total))
    };
    let mean = |point: fn(&Correspondence) -> Point3<f64>| {
        weighted().fold(Vector3::zeros(), |sum, (pair, weight)| {
            sum + point(pair).coords * weight
        })
    };
    let (from_mean, to_mean) = (mean(|pair| pair.from), mean(|pair| pair.to));
    let (mut covariance, mut variance) = (Matrix3::zeros(), 0.0);
    for (pair, weight) in weighted() {
        let (from, to) = (pair.from.coords - from_mean, pair.to.coords - to_mean);
        covariance += to * from.transpose() * weight;
        variance += weight * from.norm_squared();
    }
    if !(total > 0.0
        && variance > 0.0
        && variance.is_finite()
        && covariance.iter().all(|value| value.is_finite()))
    {
        return None;
    }
    let svd = covariance.try_svd(true, true, f64::EPSILON, MOST_ITERATIONS)?;
    let (u, v_t) = (svd.u?, svd.v_t?);
    // Sorted, the smallest is last: the one whose sign a reflection would flip.
    if svd.singular_values[1] <= FLAT * svd.singular_values[0] {
        return None;
    }
    let sign = Vector3::new(1.0, 1.0, (u * v_t).determinant().signum());
    let rotation = Rotation3::from_matrix_unchecked(u * Matrix3::from_diagonal(&sign) * v_t);
    let scale = svd.singular_values.dot(&sign) / variance;
    if !(scale > 0.0 && scale.is_finite()) {
        return None;
    }
    let translation = Translation3::from(to_mean - rotation * from_mean * scale);
    Some(Similarity3::from_parts(
        translation,
        UnitQuaternion::from_rotation_matrix(&rotation),
        scale,
    ))
}

/// The rotation nearest to a matrix, that is the one that maximises the trace of its product with
/// the matrix's transpose; `None` if the matrix has no singular values.
pub fn nearest_rotation(matrix: Matrix3<f64>) -> Option<UnitQuaternion<f64>> {
    let svd = matrix.try_svd(true, true, f64::EPSILON, MOST_ITERATIONS)?;
    let (u, v_t) = (svd.u?, svd.v_t?);
    let sign = Vector3::new(1.0, 1.0, (u * v_t).determinant().signum());
    if !sign.z.is_finite() {
        return None;
    }
    let turn = Rotation3::from_matrix_unchecked(u * Matrix3::from_diagonal(&sign) * v_t);
    Some(UnitQuaternion::from_rotation_matrix(&turn))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth() -> Similarity3<f64> {
        Similarity3::new(
            Vector3::new(0.4, -1.0, 2.0),
            Vector3::new(0.5, 1.9, -0.6),
            1.7,
        )
    }

    fn cloud(count: usize) -> Vec<Correspondence> {
        let point = |index: usize| {
            let t = index as f64;
            Point3::new(
                (0.9 * t).sin(),
                (1.7 * t).cos() * 2.0,
                4.0 + (0.37 * t).sin(),
            )
        };
        (0..count)
            .map(|index| Correspondence {
                from: point(index),
                to: truth() * point(index),
                weight: 1.0,
            })
            .collect()
    }

    fn gap(fit: &Similarity3<f64>) -> f64 {
        (fit.to_homogeneous() - truth().to_homogeneous())
            .abs()
            .max()
    }

    #[test]
    fn an_exact_similarity_is_found() {
        assert!(gap(&similarity(&cloud(3)).unwrap()) < 1e-9);
        assert!(gap(&similarity(&cloud(40)).unwrap()) < 1e-12);
        assert!(gap(&robust_similarity(&cloud(40), 10).unwrap()) < 1e-9);
    }

    #[test]
    fn a_fifth_of_wild_points_does_not_move_the_robust_fit() {
        let mut pairs = cloud(100);
        pairs
            .iter_mut()
            .step_by(5)
            .for_each(|pair| pair.to += Vector3::new(3.0, 1.0, -2.0));
        assert!(gap(&similarity(&pairs).unwrap()) > 0.1);
        assert!(gap(&robust_similarity(&pairs, 30).unwrap()) < 0.01);
    }

    #[test]
    fn what_does_not_determine_a_similarity_gives_none() {
        let line: Vec<_> = (0..9)
            .map(|index| Point3::new(f64::from(index), 0.0, 1.0))
            .map(|from| Correspondence {
                from,
                to: from,
                weight: 1.0,
            })
            .collect();
        assert!(similarity(&line).is_none());
        assert!(similarity(&cloud(2)).is_none());
        assert!(similarity(&[cloud(1)[0]; 8]).is_none());
        let mut broken = cloud(8);
        broken[3].to.x = f64::NAN;
        assert!(robust_similarity(&broken, 3).is_none());
    }
}
