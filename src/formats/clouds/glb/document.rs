//! The JSON of a glTF file, what is read of it.

use nalgebra::{Isometry3, Matrix4, Quaternion, Translation3, UnitQuaternion, Vector3};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    pub asset: Asset,
    pub scene: Option<usize>,
    #[serde(default)]
    pub scenes: Vec<Nodes>,
    #[serde(default)]
    pub nodes: Vec<Node>,
    #[serde(default)]
    pub meshes: Vec<Mesh>,
    #[serde(default)]
    pub accessors: Vec<Accessor>,
    #[serde(default)]
    pub buffer_views: Vec<BufferView>,
    #[serde(default)]
    pub cameras: Vec<GltfCamera>,
    #[serde(default)]
    pub materials: Vec<Value>,
    #[serde(default)]
    pub textures: Vec<Value>,
    #[serde(default)]
    pub images: Vec<Value>,
}

#[derive(Deserialize)]
pub struct Asset {
    #[serde(default)]
    pub extras: Value,
}

#[derive(Deserialize)]
pub struct Nodes {
    #[serde(default)]
    pub nodes: Vec<usize>,
}

#[derive(Deserialize)]
pub struct Node {
    pub name: Option<String>,
    pub mesh: Option<usize>,
    pub camera: Option<usize>,
    #[serde(default)]
    pub children: Vec<usize>,
    pub matrix: Option<[f64; 16]>,
    pub translation: Option<[f64; 3]>,
    pub rotation: Option<[f64; 4]>,
    pub scale: Option<[f64; 3]>,
}

#[derive(Deserialize)]
pub struct Mesh {
    #[serde(default)]
    pub primitives: Vec<Primitive>,
}

#[derive(Deserialize)]
pub struct Primitive {
    pub mode: Option<u32>,
    pub material: Option<usize>,
    #[serde(default)]
    pub attributes: serde_json::Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accessor {
    pub buffer_view: Option<usize>,
    #[serde(default)]
    pub byte_offset: usize,
    pub component_type: u32,
    pub count: usize,
    #[serde(rename = "type")]
    pub shape: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BufferView {
    #[serde(default)]
    pub byte_offset: usize,
    pub byte_length: usize,
    pub byte_stride: Option<usize>,
}

#[derive(Deserialize)]
pub struct GltfCamera {
    pub perspective: Option<Perspective>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Perspective {
    pub yfov: f64,
    pub aspect_ratio: Option<f64>,
}

impl Node {
    /// Takes the node's coordinates to its parent's.
    pub fn matrix(&self) -> Matrix4<f64> {
        if let Some(matrix) = &self.matrix {
            return Matrix4::from_column_slice(matrix);
        }
        let [i, j, k, w] = self.rotation.unwrap_or([0.0, 0.0, 0.0, 1.0]);
        let turn = UnitQuaternion::from_quaternion(Quaternion::new(w, i, j, k));
        let shift = Translation3::from(self.translation.unwrap_or_default());
        let scale = Vector3::from(self.scale.unwrap_or([1.0; 3]));
        Isometry3::from_parts(shift, turn).to_homogeneous()
            * Matrix4::new_nonuniform_scaling(&scale)
    }
}
