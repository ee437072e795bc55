// What the page takes of three.js; see README.md.
export {
  BufferAttribute, BufferGeometry, ColorManagement, DoubleSide, Float32BufferAttribute, Frustum, GLSL3, Group, Line,
  LineBasicMaterial, LineSegments, LinearSRGBColorSpace, Matrix4, Mesh, MeshBasicMaterial, Object3D,
  PerspectiveCamera, Points, Quaternion, RawShaderMaterial, Scene, Sphere, Texture, Vector2, Vector3, Vector4,
  WebGLRenderer,
} from 'three';
