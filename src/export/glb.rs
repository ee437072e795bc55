//! Point clouds and cameras as binary glTF 2.0.
//!
//! glTF is y up and its cameras look along -z, so a point (x, y, z) of the OpenCV world becomes (x,
//! -y, -z): a viewer whose camera stands at the origin sees what the first camera saw.
//!
//! Positions are float32. In a scene far from the world's origin they are relative to
//! [`Scene::origin`](crate::scene::Scene::origin), which is the translation of the node `world`
//! above all others: (x, -y, -z) of it, in glTF's axes, and in its `extras` `world_origin`, in the
//! world's.

use std::f64::consts::PI;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::axes;
use super::colors::linear_from_srgb;
use super::frustums::{CameraModels, Frustums};
use crate::formats::clouds::METRIC;
use crate::geometry::Camera;
use crate::scene::{PointSelection, ScenePoint};
use crate::views::names::distinct_names;

const POSITION_BYTES: usize = 12;
const COLOR_BYTES: usize = 8;
const CONFIDENCE_BYTES: usize = 4;
const FLOAT: u32 = 5126;
const UNSIGNED_SHORT: u32 = 5123;
const ARRAY_BUFFER: u32 = 34962;
const POINTS: u32 = 0;
/// Bytes that are put together before they are handed to the writer.
const CHUNK_BYTES: usize = 1 << 16;
/// Near plane of the cameras in world units; glTF wants one above zero.
const NEAR: f64 = 0.01;

/// Writes the points as one primitive of mode POINTS, with `POSITION`, `COLOR_0` and `_CONFIDENCE`,
/// and a camera node for every view that has been placed, with a pyramid to see where `cameras`
/// asks for it.
///
/// Vertex colours are linear in glTF. They are stored in 16 bits, because 8 linear bits would merge
/// the darkest 30 of the 256 sRGB levels into a few. A glTF camera has no principal point; its
/// field of view is that of a centred one.
///
/// # Errors
/// The writer's own; `FileTooLarge` past the 4 GiB that the format can address.
pub fn write_glb(
    points: &PointSelection<'_>,
    cameras: CameraModels,
    out: &mut dyn Write,
) -> io::Result<()> {
    let count = points.counts().kept;
    let point_bytes = count * (POSITION_BYTES + COLOR_BYTES + CONFIDENCE_BYTES);
    let frustums = match cameras {
        CameraModels::Frustums => Some(Frustums::new(points.scene())?),
        CameraModels::None => None,
    };
    let frustum_bytes = frustums
        .as_ref()
        .map_or(&[][..], |frustums| &frustums.bytes);
    let binary_bytes = (point_bytes + frustum_bytes.len()) as u64;
    let mut json = document(points, binary_bytes, frustums.as_ref())
        .to_string()
        .into_bytes();
    json.resize(json.len().next_multiple_of(4), b' ');

    // The sizes of the attributes and of the frustums are multiples of four, so the binary chunk
    // needs no padding.
    let total_bytes = 12 + 8 + json.len() as u64 + 8 + binary_bytes;
    let (Ok(total_bytes), Ok(json_bytes), Ok(binary_bytes)) = (
        u32::try_from(total_bytes),
        u32::try_from(json.len()),
        u32::try_from(binary_bytes),
    ) else {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!(
                "{count} points are more than the 4 GiB of a GLB file hold; keep fewer points or write PLY"
            ),
        ));
    };
    out.write_all(b"glTF")?;
    out.write_all(&2_u32.to_le_bytes())?;
    out.write_all(&total_bytes.to_le_bytes())?;
    out.write_all(&json_bytes.to_le_bytes())?;
    out.write_all(b"JSON")?;
    out.write_all(&json)?;
    out.write_all(&binary_bytes.to_le_bytes())?;
    out.write_all(b"BIN\0")?;

    write_attribute::<POSITION_BYTES>(points, out, |point| {
        let mut bytes = [0; POSITION_BYTES];
        for (bytes, value) in bytes.chunks_exact_mut(4).zip(gltf_position(point.position)) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    })?;
    let linear = linear_from_srgb();
    write_attribute::<COLOR_BYTES>(points, out, |point| {
        let [[r0, r1], [g0, g1], [b0, b1]] = point
            .rgb
            .map(|level| linear[usize::from(level)].to_le_bytes());
        [r0, r1, g0, g1, b0, b1, 0xff, 0xff]
    })?;
    write_attribute::<CONFIDENCE_BYTES>(points, out, |point| point.confidence.to_le_bytes())?;
    out.write_all(frustum_bytes)
}

/// Writes `bytes_of` every point, one after the other.
fn write_attribute<const BYTES: usize>(
    points: &PointSelection<'_>,
    out: &mut dyn Write,
    bytes_of: impl Fn(&ScenePoint) -> [u8; BYTES],
) -> io::Result<()> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES + BYTES);
    for point in points.iter() {
        chunk.extend_from_slice(&bytes_of(&point));
        if chunk.len() >= CHUNK_BYTES {
            out.write_all(&chunk)?;
            chunk.clear();
        }
    }
    out.write_all(&chunk)
}

/// The JSON chunk.
fn document(points: &PointSelection<'_>, binary_bytes: u64, frustums: Option<&Frustums>) -> Value {
    let count = points.counts().kept;
    let (low, high) = bounds(points);
    let mut offset = 0;
    let mut buffer_view = |bytes: usize| {
        let view = json!({
            "buffer": 0, "byteOffset": offset, "byteLength": count * bytes, "target": ARRAY_BUFFER
        });
        offset += count * bytes;
        view
    };
    let buffer_views = [
        buffer_view(POSITION_BYTES),
        buffer_view(COLOR_BYTES),
        buffer_view(CONFIDENCE_BYTES),
    ];

    let views = &points.scene().views;
    let names = distinct_names(views.iter().map(|view| view.name.as_str()));
    let placed: Vec<(String, &Camera)> = names
        .into_iter()
        .zip(views)
        .filter_map(|(name, view)| Some((name, view.camera.as_ref()?)))
        .collect();
    let mut nodes = vec![json!({ "name": "points", "mesh": 0 })];
    let first_camera = nodes.len();
    nodes.extend(
        placed
            .iter()
            .enumerate()
            .map(|(index, (name, camera))| camera_node(name, index, camera)),
    );
    let camera_nodes: Vec<usize> = (first_camera..nodes.len()).collect();
    let mut top: Vec<usize> = (0..nodes.len()).collect();
    if points.scene().is_far() {
        let [x, y, z] = points.scene().origin.into();
        let (translation, origin) = ([x, 0.0 - y, 0.0 - z], [x, y, z]);
        nodes.push(json!({
            "name": "world", "translation": translation, "children": top, "extras": { "world_origin": origin }
        }));
        top = vec![nodes.len() - 1];
    }

    let mut document = json!({
        "asset": { "version": "2.0", "generator": concat!("mast3r ", env!("CARGO_PKG_VERSION")) },
        // Points without normals have no use for light.
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{ "nodes": top }],
        "nodes": nodes,
        "meshes": [{ "primitives": [{
            "mode": POINTS,
            "material": 0,
            "attributes": { "POSITION": 0, "COLOR_0": 1, "_CONFIDENCE": 2 }
        }] }],
        "materials": [{ "name": "points", "extensions": { "KHR_materials_unlit": {} } }],
        "accessors": [
            { "bufferView": 0, "componentType": FLOAT, "count": count, "type": "VEC3", "min": low, "max": high },
            { "bufferView": 1, "componentType": UNSIGNED_SHORT, "normalized": true, "count": count, "type": "VEC4" },
            { "bufferView": 2, "componentType": FLOAT, "count": count, "type": "SCALAR" },
        ],
        "bufferViews": buffer_views,
        "buffers": [{ "byteLength": binary_bytes }],
    });
    if points.scene().metric {
        document["asset"]["extras"] = json!({ METRIC: true });
    }
    if let Some(origin) = points.scene().georeference {
        document["asset"]["extras"]["georeference"] =
            axes::georeference(origin, "x east, y up, z south");
    }
    // glTF forbids an empty list.
    if !placed.is_empty() {
        document["cameras"] = placed
            .iter()
            .map(|(_, camera)| gltf_camera(camera))
            .collect();
    }
    if let Some(frustums) = frustums {
        frustums.describe(&mut document, offset, &camera_nodes);
    }
    document
}

fn gltf_camera(camera: &Camera) -> Value {
    let inside = &camera.intrinsics;
    let (half_width, half_height) = (
        f64::from(inside.width) / (2.0 * inside.fx),
        f64::from(inside.height) / (2.0 * inside.fy),
    );
    let yfov = (2.0 * half_height.atan()).clamp(f64::MIN_POSITIVE, PI);
    json!({
        "type": "perspective",
        "perspective": { "yfov": yfov, "aspectRatio": half_width / half_height, "znear": NEAR }
    })
}

/// A camera's node. World and camera axes both turn by half a turn about x, which negates y and z
/// of the rotation's vector part as it does of the translation.
fn camera_node(name: &str, index: usize, camera: &Camera) -> Value {
    let pose = &camera.world_from_camera;
    let (turn, centre) = (pose.rotation.quaternion(), pose.translation.vector);
    json!({
        "name": name,
        "camera": index,
        "rotation": [turn.i, -turn.j, -turn.k, turn.w],
        "translation": [centre.x, -centre.y, -centre.z]
    })
}

/// OpenCV axes to glTF's. Subtracting keeps a zero positive.
fn gltf_position([x, y, z]: [f32; 3]) -> [f32; 3] {
    [x, 0.0 - y, 0.0 - z]
}

/// Smallest and largest coordinates; widened to f64, which JSON keeps exactly.
fn bounds(points: &PointSelection<'_>) -> ([f64; 3], [f64; 3]) {
    let mut low = [f32::INFINITY; 3];
    let mut high = [f32::NEG_INFINITY; 3];
    for point in points.iter() {
        for (axis, value) in gltf_position(point.position).into_iter().enumerate() {
            low[axis] = low[axis].min(value);
            high[axis] = high[axis].max(value);
        }
    }
    (low.map(f64::from), high.map(f64::from))
}
