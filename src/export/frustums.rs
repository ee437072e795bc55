//! The cameras of a GLB file as things to see: the edges of each one's pyramid of sight, and its
//! image at the end.

use std::io;

use image::imageops::{FilterType, resize};
use serde_json::{Value, json};

use super::images::write_jpeg;
use crate::geometry::{Intrinsics, median};
use crate::scene::{Scene, SceneView};

/// What shows the cameras in a GLB file. Nodes with a camera, for viewers that look through them,
/// are always there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CameraModels {
    /// A pyramid with the image on its base, in a node of its own below the camera's.
    #[default]
    Frustums,
    /// Nothing.
    None,
}

/// Distance of the image from its camera: a share of the one to the nearest other camera, between
/// shares of the median depth of all that is seen.
const SHARE_OF_GAP: f64 = 0.6;
const SHARES_OF_DEPTH: [f64; 2] = [0.02, 0.1];
/// Longest side of an image on its pyramid, and its quality as JPEG.
const IMAGE_SIDE: u32 = 256;
const IMAGE_QUALITY: u8 = 85;
/// Grey of the edges, linear.
const EDGE_COLOR: [f64; 4] = [0.2, 0.2, 0.2, 1.0];

/// Corners of the image, clockwise from the top left, and the camera's centre.
const VERTICES: usize = 5;
const CENTRE: u16 = 4;
const EDGES: [u16; 16] = [
    0, 1, 1, 2, 2, 3, 3, 0, 0, CENTRE, 1, CENTRE, 2, CENTRE, 3, CENTRE,
];
const TRIANGLES: [u16; 6] = [0, 3, 2, 0, 2, 1];
/// One for each vertex, though the centre is on no triangle: so lines and triangles share their
/// vertices.
const TEXTURE_PLACES: [[f32; 2]; VERTICES] =
    [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]];

const FLOAT: u32 = 5126;
const UNSIGNED_SHORT: u32 = 5123;
const ARRAY_BUFFER: u32 = 34962;
const ELEMENT_ARRAY_BUFFER: u32 = 34963;
const LINES: u32 = 1;

/// What all pyramids add to the binary chunk, and where in it each part begins.
pub(super) struct Frustums {
    /// A multiple of four bytes.
    pub bytes: Vec<u8>,
    edges: Part,
    triangles: Part,
    texture_places: Part,
    pyramids: Vec<Pyramid>,
}

#[derive(Clone, Copy)]
struct Part {
    start: usize,
    length: usize,
}

struct Pyramid {
    vertices: Part,
    corners: [[f32; 3]; VERTICES],
    image: Part,
}

impl Frustums {
    /// A pyramid for every view that has a camera, in order.
    ///
    /// # Errors
    /// Those of an image that cannot be encoded.
    pub fn new(scene: &Scene) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let edges = append(
            &mut bytes,
            EDGES.iter().flat_map(|index| index.to_le_bytes()),
        );
        let triangles = append(
            &mut bytes,
            TRIANGLES.iter().flat_map(|index| index.to_le_bytes()),
        );
        let texture_places = append(
            &mut bytes,
            TEXTURE_PLACES
                .as_flattened()
                .iter()
                .flat_map(|place| place.to_le_bytes()),
        );
        let depth = image_distance(scene);
        let mut pyramids = Vec::new();
        for view in &scene.views {
            let Some(camera) = &view.camera else { continue };
            let corners = vertices(&camera.intrinsics, depth);
            let vertices = append(
                &mut bytes,
                corners
                    .as_flattened()
                    .iter()
                    .flat_map(|value| value.to_le_bytes()),
            );
            let image = append(&mut bytes, small_image(view)?);
            pyramids.push(Pyramid {
                vertices,
                corners,
                image,
            });
        }
        Ok(Self {
            bytes,
            edges,
            triangles,
            texture_places,
            pyramids,
        })
    }

    /// Adds meshes, materials and images to a document whose binary chunk goes on with the
    /// pyramids' bytes at `start`, and hangs a node with each mesh below the camera's node.
    pub fn describe(&self, document: &mut Value, start: usize, camera_nodes: &[usize]) {
        if self.pyramids.is_empty() {
            return;
        }
        let edge_color = json!({ "baseColorFactor": EDGE_COLOR });
        let edge_material = push(
            document,
            "materials",
            json!({ "name": "edges", "pbrMetallicRoughness": edge_color, "extensions": { "KHR_materials_unlit": {} } }),
        );
        let indices = |document: &mut Value, part: Part, count: usize| {
            let view = buffer_view(document, start, part, Some(ELEMENT_ARRAY_BUFFER));
            let accessor = json!({ "bufferView": view, "componentType": UNSIGNED_SHORT, "count": count, "type": "SCALAR" });
            push(document, "accessors", accessor)
        };
        let edges = indices(document, self.edges, EDGES.len());
        let triangles = indices(document, self.triangles, TRIANGLES.len());
        let places = buffer_view(document, start, self.texture_places, Some(ARRAY_BUFFER));
        let places = push(
            document,
            "accessors",
            json!({ "bufferView": places, "componentType": FLOAT, "count": VERTICES, "type": "VEC2" }),
        );
        for (pyramid, &camera_node) in self.pyramids.iter().zip(camera_nodes) {
            let name = document["nodes"][camera_node]["name"].clone();
            let vertices = buffer_view(document, start, pyramid.vertices, Some(ARRAY_BUFFER));
            let (low, high) = bounds(&pyramid.corners);
            let vertices = push(
                document,
                "accessors",
                json!({
                    "bufferView": vertices,
                    "componentType": FLOAT,
                    "count": VERTICES,
                    "type": "VEC3",
                    "min": low,
                    "max": high
                }),
            );
            let jpeg = buffer_view(document, start, pyramid.image, None);
            let image = push(
                document,
                "images",
                json!({ "name": name, "bufferView": jpeg, "mimeType": "image/jpeg" }),
            );
            let texture = push(document, "textures", json!({ "source": image }));
            let image_material = push(
                document,
                "materials",
                json!({
                    "name": name,
                    "doubleSided": true,
                    "pbrMetallicRoughness": { "baseColorTexture": { "index": texture } },
                    "extensions": { "KHR_materials_unlit": {} }
                }),
            );
            let mesh = json!({ "name": name, "primitives": [
                { "mode": LINES, "material": edge_material, "indices": edges, "attributes": { "POSITION": vertices } },
                {
                    "material": image_material,
                    "indices": triangles,
                    "attributes": { "POSITION": vertices, "TEXCOORD_0": places }
                },
            ] });
            let mesh = push(document, "meshes", mesh);
            let node = push(
                document,
                "nodes",
                json!({ "name": "frustum", "mesh": mesh }),
            );
            document["nodes"][camera_node]["children"] = json!([node]);
        }
    }
}

/// Appends bytes, and zeros up to a multiple of four.
fn append(bytes: &mut Vec<u8>, part: impl IntoIterator<Item = u8>) -> Part {
    let start = bytes.len();
    bytes.extend(part);
    let length = bytes.len() - start;
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Part { start, length }
}

/// Appends to a list of the document, which need not exist, and returns the index.
fn push(document: &mut Value, list: &str, item: Value) -> usize {
    match document[list].as_array_mut() {
        Some(items) => {
            items.push(item);
            items.len() - 1
        }
        None => {
            document[list] = json!([item]);
            0
        }
    }
}

fn buffer_view(document: &mut Value, start: usize, part: Part, target: Option<u32>) -> usize {
    let mut view =
        json!({ "buffer": 0, "byteOffset": start + part.start, "byteLength": part.length });
    if let Some(target) = target {
        view["target"] = target.into();
    }
    push(document, "bufferViews", view)
}

/// The image's corners at a distance and the centre, in glTF's camera axes: y up, z backward.
fn vertices(inside: &Intrinsics, depth: f64) -> [[f32; 3]; VERTICES] {
    let [a, b, c, d] = inside.corners().map(|pixel| {
        let point = inside.unproject(pixel, depth);
        [point.x as f32, -point.y as f32, -point.z as f32]
    });
    [a, b, c, d, [0.0; 3]]
}

/// How far from their cameras all images hang: as near as the cameras' gaps ask, but never lost
/// in the scene.
pub(super) fn image_distance(scene: &Scene) -> f64 {
    let placed = scene.views.iter().filter(|view| view.camera.is_some());
    let known = |depth: &f32| depth.is_finite() && *depth > 0.0;
    let depths = placed
        .flat_map(|view| view.depth.iter().copied().filter(known))
        .map(f64::from);
    // Without any depth the unit is as good as anything.
    let depth = median(depths).unwrap_or(1.0);
    let [least, most] = SHARES_OF_DEPTH.map(|share| share * depth);
    (SHARE_OF_GAP * scene.camera_gap()).clamp(least, most)
}

fn small_image(view: &SceneView) -> io::Result<Vec<u8>> {
    let (width, height) = view.rgb.dimensions();
    let longer = width.max(height);
    let mut jpeg = Vec::new();
    if longer <= IMAGE_SIDE {
        write_jpeg(&view.rgb, IMAGE_QUALITY, &mut jpeg)?;
    } else {
        let side = |side: u32| (side * IMAGE_SIDE / longer).max(1);
        let small = resize(&view.rgb, side(width), side(height), FilterType::Triangle);
        write_jpeg(&small, IMAGE_QUALITY, &mut jpeg)?;
    }
    Ok(jpeg)
}

/// Smallest and largest coordinates; widened to f64, which JSON keeps exactly.
fn bounds(points: &[[f32; 3]]) -> ([f64; 3], [f64; 3]) {
    let reduce = |pick: fn(f32, f32) -> f32| -> [f64; 3] {
        std::array::from_fn(|axis| {
            points
                .iter()
                .map(|point| point[axis])
                .reduce(pick)
                .map_or(0.0, f64::from)
        })
    };
    (reduce(f32::min), reduce(f32::max))
}
