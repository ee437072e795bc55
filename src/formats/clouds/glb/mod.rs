//! Point clouds and cameras as binary glTF 2.0, read: those of this program and of others.
//!
//! See `export`'s writer for the axes: glTF is y up, the scene's world y down.

mod document;

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{ImageReader, Limits, Rgb, RgbImage};
use nalgebra::{Isometry3, Matrix3, Matrix4, Translation3, Vector3};
use serde_json::Value;

use super::{Cloud, posed_view};
use crate::error::{Error, Result};
use crate::geometry::procrustes::nearest_rotation;
use crate::geometry::{Camera, Intrinsics};
use crate::scene::{Scene, SceneView};
use document::{BufferView, Document, Perspective, Primitive};

const JSON: u32 = 0x4e4f_534a;
const BINARY: u32 = 0x004e_4942;
const POINTS: u32 = 0;
/// Nodes within one another, at most.
const DEEPEST: usize = 256;
/// Images on a camera's frustum, pixels a side: those that are decoded, and as they are kept.
const LARGEST_IMAGE: u32 = 4096;
const LONGEST_SIDE: u32 = 512;
/// Memory for decoding an image.
const IMAGE_BYTES: u64 = 128 << 20;
/// Height in pixels of the image of a camera that has none, and its level.
const BLANK_HEIGHT: f64 = 96.0;
const BLANK: Rgb<u8> = Rgb([128; 3]);
/// The member of `asset.extras` that says that units are metres.
pub(crate) const METRIC: &str = "metric";

/// Reads the points of a GLB file (primitives of mode POINTS), their `COLOR_0` and `_CONFIDENCE`,
/// and its perspective cameras, each with the texture of the mesh below it as its image.
///
/// # Errors
/// [`Error::Input`] for a file that is missing, truncated, without a point or no GLB; [`Error::Io`].
pub(super) fn read(path: &Path) -> Result<Scene> {
    let bytes = fs::read(path).map_err(|source| Error::unreadable(path, source))?;
    parse(&bytes).map_err(|reason| Error::input(path, reason))
}

pub(super) fn parse(bytes: &[u8]) -> Result<Scene, String> {
    let (json, binary) = chunks(bytes)?;
    let document: Document =
        serde_json::from_slice(json).map_err(|error| format!("its JSON is not glTF: {error}"))?;
    let mut reader = Reader {
        document: &document,
        binary,
        cloud: Cloud::new(0),
        cameras: Vec::new(),
        is_visited: vec![false; document.nodes.len()],
        budget: 4 * bytes.len(),
    };
    let roots = match document.scenes.get(document.scene.unwrap_or(0)) {
        Some(scene) => scene.nodes.clone(),
        None => (0..document.nodes.len()).collect(),
    };
    for root in roots {
        reader.visit(root, &Matrix4::identity(), 0)?;
    }
    let Reader { cloud, cameras, .. } = reader;
    if cloud.is_empty() {
        return Err("it has no points; meshes of triangles are not shown".into());
    }
    let metric = document.asset.extras[METRIC] == Value::Bool(true);
    let mut scene = cloud.into_scene(metric)?;
    let origin = scene.origin;
    scene
        .views
        .extend(cameras.into_iter().map(|mut view: SceneView| {
            if let Some(camera) = &mut view.camera {
                camera.world_from_camera.translation.vector -= origin;
            }
            view
        }));
    Ok(scene)
}

/// The chunks of JSON and of binary data.
fn chunks(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let word = |at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    if !bytes.starts_with(b"glTF") {
        return Err("it is not a GLB file: it does not begin with \"glTF\"".into());
    }
    let truncated = || "it is truncated; write it again".to_string();
    match word(4) {
        Some(2) => {}
        Some(version) => return Err(format!("it is glTF {version}; expected 2")),
        None => return Err(truncated()),
    }
    let length = word(8).ok_or_else(truncated)? as usize;
    if bytes.len() < length {
        let found = bytes.len();
        return Err(format!(
            "it is truncated: {found} of {length} bytes are there; write it again"
        ));
    }
    let (mut json, mut binary) = (None, &[][..]);
    let mut at = 12;
    while let (Some(length), Some(kind)) = (word(at), word(at + 4)) {
        let chunk = bytes
            .get(at + 8..at + 8 + length as usize)
            .ok_or_else(truncated)?;
        match kind {
            JSON => json = json.or(Some(chunk)),
            BINARY if binary.is_empty() => binary = chunk,
            _ => {}
        }
        at += 8 + chunk.len();
    }
    Ok((json.ok_or("it has no JSON")?, binary))
}

struct Reader<'a> {
    document: &'a Document,
    binary: &'a [u8],
    cloud: Cloud,
    cameras: Vec<SceneView>,
    is_visited: Vec<bool>,
    /// What may still be read: a small file can name the same data over and over.
    budget: usize,
}

/// Numbers of an accessor, `width` for each of `count` items.
struct Numbers {
    width: usize,
    count: usize,
    values: Vec<f64>,
}

impl Reader<'_> {
    fn visit(&mut self, index: usize, parent: &Matrix4<f64>, depth: usize) -> Result<(), String> {
        let document = self.document;
        let node = item(&document.nodes, index, "node")?;
        if std::mem::replace(&mut self.is_visited[index], true) {
            return Err(format!("the node {index} has two parents"));
        }
        if depth > DEEPEST {
            return Err(format!("its nodes are nested deeper than {DEEPEST}"));
        }
        let world = parent * node.matrix();
        if let Some(mesh) = node.mesh {
            for primitive in &item(&document.meshes, mesh, "mesh")?.primitives {
                self.spend(1)?;
                if primitive.mode == Some(POINTS) {
                    self.add_points(primitive, &world)?;
                }
            }
        }
        if let Some(camera) = node.camera
            && let Some(perspective) = &item(&document.cameras, camera, "camera")?.perspective
        {
            let name = node
                .name
                .clone()
                .unwrap_or_else(|| format!("camera {camera}"));
            let Some(camera) = camera_of(perspective, &world) else {
                return Err(format!("the camera {name} is not usable"));
            };
            let below = node
                .children
                .iter()
                .find_map(|child| self.image_below(*child));
            let (cost, image) = below.map_or((0, None), |bytes| (bytes.len(), decode(bytes)));
            self.spend(cost)?;
            self.cameras.push(view_of(name, camera, perspective, image));
        }
        node.children
            .iter()
            .try_for_each(|child| self.visit(*child, &world, depth + 1))
    }

    fn add_points(&mut self, primitive: &Primitive, world: &Matrix4<f64>) -> Result<(), String> {
        let numbers = |name: &str| match primitive.attributes.get(name) {
            None => Ok(None),
            Some(index) => self
                .numbers(index.as_u64().map_or(usize::MAX, |index| index as usize))
                .map(Some)
                .map_err(|reason| format!("{name}: {reason}")),
        };
        let positions = numbers("POSITION")?.ok_or("its points have no POSITION")?;
        let colors = numbers("COLOR_0")?;
        let confidences = numbers("_CONFIDENCE")?;
        let count = positions.count;
        self.spend(count)?;
        let has_all = |other: &Option<Numbers>, width: usize| {
            other
                .as_ref()
                .is_none_or(|other| other.count == count && other.width >= width)
        };
        if positions.width != 3 || !has_all(&colors, 3) || !has_all(&confidences, 1) {
            return Err("its points' attributes do not agree in number and type".into());
        }
        for (at, place) in positions.values.chunks_exact(3).enumerate() {
            let place = world.transform_point(&[place[0], place[1], place[2]].into());
            let rgb = colors.as_ref().map(|colors| {
                [0, 1, 2]
                    .map(|channel| srgb_from_linear(colors.values[at * colors.width + channel]))
            });
            let confidence = confidences.as_ref().map_or(1.0, |c| c.values[at * c.width]);
            // Subtracting keeps a zero positive.
            let position = [place.x, 0.0 - place.y, 0.0 - place.z];
            self.cloud.add(position, rgb, confidence as f32);
        }
        Ok(())
    }

    /// The numbers of an accessor, integers as parts of their largest.
    fn numbers(&self, index: usize) -> Result<Numbers, String> {
        let accessor = item(&self.document.accessors, index, "accessor")?;
        let width = match &accessor.shape[..] {
            "SCALAR" => 1,
            "VEC3" => 3,
            "VEC4" => 4,
            shape => return Err(format!("the type {shape} is not supported")),
        };
        let (size, most) = match accessor.component_type {
            5121 => (1, 255.0),
            5123 => (2, 65535.0),
            5126 => (4, 1.0),
            kind => return Err(format!("the component type {kind} is not supported")),
        };
        let view = accessor
            .buffer_view
            .ok_or("an accessor without data is not supported")?;
        let view = item(&self.document.buffer_views, view, "buffer view")?;
        let stride = view.byte_stride.unwrap_or(width * size).max(1);
        let bytes = self.bytes(view)?;
        let end = (accessor.count.max(1) - 1)
            .checked_mul(stride)
            .and_then(|last| {
                last.checked_add(accessor.byte_offset)?
                    .checked_add(width * size)
            });
        if end.is_none_or(|end| end > bytes.len()) {
            return Err("its data lie outside of the file".into());
        }
        let mut values = Vec::with_capacity(accessor.count * width);
        for item in 0..accessor.count {
            let start = accessor.byte_offset + item * stride;
            for bytes in bytes[start..start + width * size].chunks_exact(size) {
                values.push(match *bytes {
                    [a] => f64::from(a) / most,
                    [a, b] => f64::from(u16::from_le_bytes([a, b])) / most,
                    [a, b, c, d] => f64::from(f32::from_le_bytes([a, b, c, d])),
                    _ => unreachable!("components have one, two or four bytes"),
                });
            }
        }
        Ok(Numbers {
            width,
            count: accessor.count,
            values,
        })
    }

    fn bytes(&self, view: &BufferView) -> Result<&[u8], String> {
        view.byte_offset
            .checked_add(view.byte_length)
            .and_then(|end| self.binary.get(view.byte_offset..end))
            .ok_or_else(|| "its data lie outside of the file".into())
    }

    /// The file of the image on a mesh, if it has one.
    fn image_below(&self, node: usize) -> Option<&[u8]> {
        let document = self.document;
        let mesh = document.meshes.get(document.nodes.get(node)?.mesh?)?;
        mesh.primitives.iter().find_map(|primitive| {
            let number = |value: &Value| value.as_u64().map(|number| number as usize);
            let material = document.materials.get(primitive.material?)?;
            let texture = &material["pbrMetallicRoughness"]["baseColorTexture"]["index"];
            let source = &document.textures.get(number(texture)?)?["source"];
            let view = &document.images.get(number(source)?)?["bufferView"];
            self.bytes(document.buffer_views.get(number(view)?)?).ok()
        })
    }

    fn spend(&mut self, cost: usize) -> Result<(), String> {
        self.budget = self
            .budget
            .checked_sub(cost)
            .ok_or("it names the same data more often than its size explains")?;
        Ok(())
    }
}

/// An image, small enough; `None` for one that cannot be read.
fn decode(bytes: &[u8]) -> Option<RgbImage> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(LARGEST_IMAGE);
    limits.max_image_height = Some(LARGEST_IMAGE);
    limits.max_alloc = Some(IMAGE_BYTES);
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .ok()?;
    reader.limits(limits);
    let image = reader.decode().ok()?;
    let longer = image.width().max(image.height());
    Some(match longer > LONGEST_SIDE {
        true => image.thumbnail(LONGEST_SIDE, LONGEST_SIDE).to_rgb8(),
        false => image.to_rgb8(),
    })
}

/// A camera of one pixel with this angle of view, in the scene's axes; `None` if the angle or the
/// pose is none.
fn camera_of(perspective: &Perspective, world: &Matrix4<f64>) -> Option<Camera> {
    let is_angle = perspective.yfov > 0.0 && perspective.yfov < std::f64::consts::PI;
    if !(is_angle && world.iter().all(|value| value.is_finite())) {
        return None;
    }
    let focal = 0.5 / (perspective.yfov / 2.0).tan();
    let flip = Matrix3::from_diagonal(&Vector3::new(1.0, -1.0, -1.0));
    let turn: Matrix3<f64> = world.fixed_view::<3, 3>(0, 0).into();
    let centre: Vector3<f64> = flip * world.fixed_view::<3, 1>(0, 3);
    Some(Camera {
        intrinsics: Intrinsics::centred(1, 1, focal),
        world_from_camera: Isometry3::from_parts(
            Translation3::from(centre),
            nearest_rotation(flip * turn * flip)?,
        ),
    })
}

/// The view of a camera with its image, or a blank one of the camera's shape.
fn view_of(
    name: String,
    mut camera: Camera,
    perspective: &Perspective,
    image: Option<RgbImage>,
) -> SceneView {
    let image = image.unwrap_or_else(|| {
        let aspect = perspective.aspect_ratio.unwrap_or(1.0).clamp(0.1, 10.0);
        RgbImage::from_pixel((BLANK_HEIGHT * aspect) as u32, BLANK_HEIGHT as u32, BLANK)
    });
    let (width, height) = image.dimensions();
    let focal = f64::from(height) * camera.intrinsics.fy;
    let own = f64::from(width) / f64::from(height);
    let stretch = own
        / perspective
            .aspect_ratio
            .filter(|aspect| *aspect > 0.0)
            .unwrap_or(own);
    camera.intrinsics = Intrinsics {
        fx: focal * stretch,
        ..Intrinsics::centred(width, height, focal)
    };
    posed_view(name, camera, image)
}

/// The sRGB level of linear light, which is cut to 0 to 1.
pub(crate) fn srgb_from_linear(light: f64) -> u8 {
    let light = light.clamp(0.0, 1.0);
    let value = if light <= 0.003_130_8 {
        12.92 * light
    } else {
        1.055 * light.powf(1.0 / 2.4) - 0.055
    };
    (value * 255.0).round() as u8
}

fn item<'a, T>(items: &'a [T], index: usize, what: &str) -> Result<&'a T, String> {
    items
        .get(index)
        .ok_or_else(|| format!("it has no {what} {index}, which it names"))
}

#[cfg(test)]
mod tests;
