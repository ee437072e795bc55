// The points: one object for each block, of which a beginning is drawn.

/** Diameter of a point over the distance to its neighbours. */
const COVERAGE = 1.35;
/** Points drawn for each pixel that a block covers, at most. */
const POINTS_PER_PIXEL = 3;
/** Diameters in pixels of the screen: at least, and at most. */
const DIAMETERS = [1.2, 40];

const VERTEX = `
precision highp float;
uniform mat4 modelViewMatrix;
uniform mat4 projectionMatrix;
uniform float pixelsPerUnit;
uniform float diameter;
uniform float leastLevel;
uniform vec2 diameters;
in vec4 position;
in vec4 color;
out vec3 shade;
flat out float pixels;
void main() {
  shade = color.rgb;
  vec4 seen = modelViewMatrix * vec4(position.xyz, 1.0);
  pixels = clamp(diameter * pixelsPerUnit / max(-seen.z, 1e-20), diameters.x, diameters.y);
  gl_PointSize = pixels;
  gl_Position = position.w < leastLevel ? vec4(2.0, 2.0, 2.0, 1.0) : projectionMatrix * seen;
}`;

const FRAGMENT = `
precision mediump float;
in vec3 shade;
flat in float pixels;
out vec4 pixel;
void main() {
  vec2 place = gl_PointCoord - 0.5;
  if (pixels > 3.0 && dot(place, place) > 0.25) discard;
  pixel = vec4(shade, 1.0);
}`;

export class Cloud {
  constructor() {
    this.group = new THREE.Group();
    this.blocks = [];
    this.total = 0;
    this.histogram = new Float64Array(256);
    this.leastLevel = 0;
    this.size = 1;
    this.shared = {
      pixelsPerUnit: { value: 1 },
      leastLevel: { value: 0 },
      diameters: { value: new THREE.Vector2(...DIAMETERS) },
    };
  }

  /** Adds a block: its description and its points. */
  add({ low, size, spacing }, { count, places, colors, histogram }) {
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute('position', new THREE.BufferAttribute(places, 4, true));
    geometry.setAttribute('color', new THREE.BufferAttribute(colors, 4, true));
    const diameter = { value: 0 };
    const material = new THREE.RawShaderMaterial({
      glslVersion: THREE.GLSL3,
      vertexShader: VERTEX,
      fragmentShader: FRAGMENT,
      uniforms: { ...this.shared, diameter },
    });
    const points = new THREE.Points(geometry, material);
    points.frustumCulled = false;
    points.position.fromArray(low);
    points.scale.fromArray(size);
    points.updateMatrixWorld();
    const centre = new THREE.Vector3(...low.map((value, axis) => value + size[axis] / 2));
    const sphere = new THREE.Sphere(centre, Math.hypot(...size) / 2);
    this.blocks.push({ count, places, points, sphere, spacing, diameter });
    this.group.add(points);
    this.total += count;
    histogram.forEach((number, level) => (this.histogram[level] += number));
  }

  /** Points of a level or above are shown, others are not. */
  setLeastLevel(level) {
    this.leastLevel = level;
    this.shared.leastLevel.value = (level - 0.5) / 255;
  }

  /** How many points are shown. */
  get shown() {
    return this.histogram.slice(this.leastLevel).reduce((sum, number) => sum + number, 0);
  }

  /** Chooses what to draw: `budget` points at most, fewer of what is far away; returns how many. */
  plan(camera, height, ratio, budget) {
    const pixelsPerUnit = height / (2 * Math.tan((camera.fov * Math.PI) / 360));
    this.shared.pixelsPerUnit.value = pixelsPerUnit;
    this.shared.diameters.value.set(...DIAMETERS.map((pixels) => pixels * ratio * Math.sqrt(this.size)));
    const view = new THREE.Matrix4().multiplyMatrices(camera.projectionMatrix, camera.matrixWorldInverse);
    const frustum = new THREE.Frustum().setFromProjectionMatrix(view);
    let wanted = 0;
    for (const block of this.blocks) {
      const { sphere, count, points } = block;
      points.visible = frustum.intersectsSphere(sphere);
      const away = sphere.center.distanceTo(camera.position) - sphere.radius;
      const radius = away > 0 ? (sphere.radius * pixelsPerUnit) / away : Infinity;
      block.wanted = Math.min(count, Math.ceil(POINTS_PER_PIXEL * Math.PI * radius * radius) + 1);
      if (points.visible) wanted += block.wanted;
    }
    const share = Math.min(1, budget / Math.max(wanted, 1));
    let drawn = 0;
    for (const { points, wanted, count, spacing, diameter } of this.blocks) {
      if (!points.visible) continue;
      const number = Math.ceil(wanted * share);
      points.geometry.setDrawRange(0, number);
      diameter.value = this.size * COVERAGE * spacing * Math.min(Math.sqrt(count / number), 4);
      drawn += number;
    }
    return drawn;
  }

  /**
   * The shown point nearest to the viewer within so many pixels of (x, y), in the scene's frame, or
   * null. A point in the middle may be a twentieth farther away than one at the rim.
   */
  pick(camera, x, y, width, height, within) {
    const view = new THREE.Matrix4().multiplyMatrices(camera.projectionMatrix, camera.matrixWorldInverse);
    const pixelsPerUnit = height / (2 * Math.tan((camera.fov * Math.PI) / 360));
    const ray = rayThrough(camera, (2 * x) / width - 1, 1 - (2 * y) / height);
    const least = 257 * this.leastLevel;
    const matrix = new THREE.Matrix4();
    let best = Infinity;
    let found = null;
    for (const { sphere, places, count, points } of this.blocks) {
      const along = sphere.center.clone().sub(camera.position).dot(ray);
      const across = sphere.center.clone().sub(camera.position).addScaledVector(ray, -along).length();
      const reach = sphere.radius + (2 * within * Math.max(along + sphere.radius, 0)) / pixelsPerUnit;
      if (across > reach || along < -sphere.radius) continue;
      const m = matrix.multiplyMatrices(view, points.matrixWorld).elements;
      for (let at = 0; at < 4 * count; at += 4) {
        if (places[at + 3] < least) continue;
        const [u, v, w] = [places[at] / 65535, places[at + 1] / 65535, places[at + 2] / 65535];
        const depth = m[3] * u + m[7] * v + m[11] * w + m[15];
        if (depth <= 0 || depth > best) continue;
        const px = ((m[0] * u + m[4] * v + m[8] * w + m[12]) / depth + 1) * 0.5 * width - x;
        const py = (1 - (m[1] * u + m[5] * v + m[9] * w + m[13]) / depth) * 0.5 * height - y;
        const off = (px * px + py * py) / (within * within);
        if (off > 1 || depth * (1 + 0.05 * off) >= best) continue;
        best = depth * (1 + 0.05 * off);
        found = new THREE.Vector3(u, v, w).applyMatrix4(points.matrixWorld);
      }
    }
    return found;
  }

  /** About so many of the points, evenly chosen, as vectors. */
  sample(number) {
    const share = Math.min(1, number / Math.max(this.total, 1));
    return this.blocks.flatMap(({ places, count, points }) =>
      Array.from({ length: Math.ceil(count * share) }, (_, at) =>
        new THREE.Vector3(places[4 * at], places[4 * at + 1], places[4 * at + 2])
          .multiplyScalar(1 / 65535)
          .applyMatrix4(points.matrixWorld)));
  }
}

/** Unit direction from the camera through a place of the view, -1 to 1. */
function rayThrough(camera, x, y) {
  const half = Math.tan((camera.fov * Math.PI) / 360);
  return new THREE.Vector3(x * half * camera.aspect, y * half, -1).normalize().applyQuaternion(camera.quaternion);
}
