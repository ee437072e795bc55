//! COLMAP's camera models: which of them are usable intrinsics.

use super::super::super::{Inside, ListedIntrinsics, TO_CORNER};
use crate::error::Visible;

/// COLMAP's camera models by their numbers, with the count of their parameters and of those that
/// are focal lengths. The principal point follows these, distortion follows it.
pub(super) const MODELS: [(&str, usize, usize); 18] = [
    ("SIMPLE_PINHOLE", 3, 1),
    ("PINHOLE", 4, 2),
    ("SIMPLE_RADIAL", 4, 1),
    ("RADIAL", 5, 1),
    ("OPENCV", 8, 2),
    ("OPENCV_FISHEYE", 8, 2),
    ("FULL_OPENCV", 12, 2),
    ("FOV", 5, 2),
    ("SIMPLE_RADIAL_FISHEYE", 4, 1),
    ("RADIAL_FISHEYE", 5, 1),
    ("THIN_PRISM_FISHEYE", 12, 2),
    ("RAD_TAN_THIN_PRISM_FISHEYE", 16, 2),
    ("SIMPLE_DIVISION", 4, 1),
    ("DIVISION", 5, 2),
    ("SIMPLE_FISHEYE", 3, 1),
    ("FISHEYE", 4, 2),
    ("EUCM", 6, 2),
    ("EQUIRECTANGULAR", 2, 0),
];

/// Models that are a pinhole where all of their further parameters are 0; others bend even then.
const PINHOLES: [&str; 8] = [
    "SIMPLE_PINHOLE",
    "PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
    "SIMPLE_DIVISION",
    "DIVISION",
];

/// Those among them whose first coefficients are k1 and k2 of [`Lens`](crate::geometry::Lens).
const RADIALS: [&str; 4] = ["SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"];

/// The intrinsics of a camera, or why they cannot be used.
pub(super) fn inside(model: &str, size: [f64; 2], parameters: &[f64]) -> Inside {
    let Some((name, count, focals)) = MODELS.into_iter().find(|(name, ..)| *name == model) else {
        return Inside::Unusable(unsupported(&format!("{}", Visible(model))));
    };
    if parameters.len() != count {
        let found = parameters.len();
        return Inside::Unusable(format!(
            "its camera has {found} parameters, and those of {name} have {count}"
        ));
    }
    let is_pinhole = PINHOLES.contains(&name);
    let mut distortion = parameters[(focals + 2).min(count)..].iter().copied();
    let mut radial = [0.0; 2];
    if RADIALS.contains(&name) {
        radial
            .iter_mut()
            .zip(distortion.by_ref())
            .for_each(|(term, value)| *term = value);
    }
    if !is_pinhole || distortion.any(|value| value != 0.0) {
        return Inside::Unusable(format!(
            "its camera ({name}) has distortion that is not known here; undistort first, for example with \
             `colmap image_undistorter`, and give the model that this makes"
        ));
    }
    let [width, height] = size;
    let (fx, fy) = (parameters[0], parameters[focals - 1]);
    let (cx, cy) = (
        parameters[focals] - TO_CORNER,
        parameters[focals + 1] - TO_CORNER,
    );
    Inside::Known(vec![ListedIntrinsics {
        width,
        height,
        fx,
        fy,
        cx,
        cy,
        radial,
    }])
}

pub(super) fn unsupported(model: &str) -> String {
    format!(
        "its camera model {model} is not supported; supported are, without distortion other than k1 and k2, {}; \
         undistort first, for example with `colmap image_undistorter`",
        PINHOLES.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distortion_that_is_not_radial_makes_intrinsics_unusable_and_zeros_do_not() {
        let of = |model: &str, parameters: &[f64]| inside(model, [64.0, 48.0], parameters);
        let refusal = |model: &str, parameters: &[f64]| match of(model, parameters) {
            Inside::Unusable(reason) => reason,
            other => panic!("{other:?}"),
        };
        assert!(matches!(
            of("SIMPLE_RADIAL", &[50.0, 32.0, 24.0, 0.0]),
            Inside::Known(_)
        ));
        assert!(matches!(
            of("DIVISION", &[50.0, 51.0, 32.0, 24.0, 0.0]),
            Inside::Known(_)
        ));
        let radial = |model: &str, parameters: &[f64]| match of(model, parameters) {
            Inside::Known(sized) => sized[0].radial,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            radial("SIMPLE_RADIAL", &[50.0, 32.0, 24.0, 0.1]),
            [0.1, 0.0]
        );
        assert_eq!(radial("RADIAL", &[50.0, 32.0, 24.0, 0.1, 0.2]), [0.1, 0.2]);
        assert_eq!(
            radial("OPENCV", &[50.0, 51.0, 32.0, 24.0, 0.1, 0.2, 0.0, 0.0]),
            [0.1, 0.2]
        );
        assert!(
            refusal("OPENCV", &[50.0, 51.0, 32.0, 24.0, 0.0, 0.0, 0.1, 0.0])
                .contains("(OPENCV) has distortion")
        );
        assert!(
            refusal("DIVISION", &[50.0, 51.0, 32.0, 24.0, 0.1])
                .contains("(DIVISION) has distortion")
        );
        for (model, count, _) in MODELS
            .into_iter()
            .filter(|(model, ..)| !PINHOLES.contains(model))
        {
            let message = refusal(model, &vec![0.0; count]);
            assert!(
                message.contains(&format!("({model})")) && message.contains("undistort first"),
                "{message}"
            );
        }
        assert!(
            refusal("PINHOLE", &[50.0, 32.0, 24.0])
                .contains("has 3 parameters, and those of PINHOLE have 4")
        );
        let message = refusal("PERIODIC", &[50.0]);
        assert!(
            message.contains(
                "PERIODIC is not supported; supported are, without distortion other than k1 and k2, SIMPLE_PINHOLE, "
            ),
            "{message}"
        );
    }
}
