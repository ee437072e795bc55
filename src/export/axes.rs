//! The axes of georeferenced scenes, for formats that have axes of their own.

use std::borrow::Cow;

use nalgebra::{Isometry3, Matrix3, Rotation3, Translation3, UnitQuaternion};
use serde_json::{Value, json};

use crate::geometry::Geodetic;
use crate::scene::Scene;

/// The scene in the axes that a level camera has, x right, y down, z forward: of a georeferenced
/// scene, whose axes are east, north and up, those are east, down and north. Writers for y up or z
/// up start from them.
pub(super) fn with_y_down(scene: &Scene) -> Cow<'_, Scene> {
    let Some(origin) = scene.georeference else {
        return Cow::Borrowed(scene);
    };
    let turn = Matrix3::new(1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0);
    let turn = UnitQuaternion::from_rotation_matrix(&Rotation3::from_matrix_unchecked(turn));
    let mut turned = scene.clone();
    turned.transform(&nalgebra::convert(Isometry3::from_parts(
        Translation3::identity(),
        turn,
    )));
    turned.georeference = Some(origin);
    Cow::Owned(turned)
}

/// Where a world lies on the Earth, for JSON: the position of its origin, and its axes.
pub(super) fn georeference(origin: Geodetic, axes: &str) -> Value {
    json!({
        "latitude": origin.latitude,
        "longitude": origin.longitude,
        "altitude": origin.altitude,
        "datum": "WGS84",
        "axes": axes,
        "unit": "metre",
    })
}

/// The same for a comment, in one line.
pub(super) fn describe(origin: Geodetic) -> String {
    let Geodetic {
        latitude,
        longitude,
        altitude,
    } = origin;
    format!(
        "x east, y north, z up, metres, from latitude {latitude}, longitude {longitude}, altitude {altitude} (WGS84)"
    )
}
