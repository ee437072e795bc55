// The images' cameras: a frustum with the image on its base each, and the image over the cloud.
import { DESCRIPTION, takeImage } from './data.js';

/** Width of the images on frustums, in pixels; the one over the cloud has all of its own. */
const SMALL_WIDTH = 256;
const EDGES = [0, 1, 1, 2, 2, 3, 3, 0, 0, 4, 1, 4, 2, 4, 3, 4];

export class Cameras {
  constructor() {
    this.group = new THREE.Group();
    this.size = DESCRIPTION.frustum;
    this.fade = 0.6;
    this.chosen = null;
    const edges = (color) => new THREE.LineBasicMaterial({ color });
    this.materials = { plain: edges(0x808080), chosen: edges(0xff9d2e) };
    this.items = DESCRIPTION.cameras.map((camera, index) => this.item(camera, index));
    this.overlay = new THREE.Mesh(
      new THREE.BufferGeometry(),
      new THREE.MeshBasicMaterial({
        transparent: true, depthTest: false, depthWrite: false, side: THREE.DoubleSide,
      }),
    );
    this.overlay.renderOrder = 10;
    this.overlay.visible = false;
    this.setSize(1);
  }

  item({ entry, depth }, index) {
    const pose = new THREE.Matrix4().set(...entry.world_from_camera.flat());
    const { origin } = DESCRIPTION;
    [12, 13, 14].forEach((at, axis) => (pose.elements[at] -= origin[axis]));
    // At depth 1 in the camera's own axes: x right, y down, z forward.
    const { width, height, fx, fy, cx, cy } = entry;
    const corner = (x, y) => [(x - cx) / fx, (y - cy) / fy, 1];
    const [right, bottom] = [width - 0.5, height - 0.5];
    const corners = [corner(-0.5, -0.5), corner(right, -0.5), corner(right, bottom), corner(-0.5, bottom)];
    const positions = new THREE.Float32BufferAttribute([...corners.flat(), 0, 0, 0], 3);
    const lines = new THREE.BufferGeometry();
    lines.setAttribute('position', positions);
    lines.setIndex(EDGES);
    const base = new THREE.BufferGeometry();
    base.setAttribute('position', positions);
    base.setAttribute('uv', new THREE.Float32BufferAttribute([0, 0, 1, 0, 1, 1, 0, 1, 0, 0], 2));
    base.setIndex([0, 2, 1, 0, 3, 2]);
    const holder = new THREE.Group();
    holder.matrixAutoUpdate = false;
    const edges = new THREE.LineSegments(lines, this.materials.plain);
    holder.add(edges);
    this.group.add(holder);
    return { index, name: entry.name, entry, depth, pose, corners, base, holder, edges, picture: null, blob: null, isShown: true };
  }

  /** Decodes the images one after another; `ready(item)` when one is there. */
  async load(ready) {
    for (const item of this.items) {
      item.blob = takeImage(item.index);
      if (!item.blob) continue;
      const width = Math.min(SMALL_WIDTH, item.entry.width);
      const texture = await textureOf(item.blob, width);
      item.picture = new THREE.Mesh(
        item.base,
        new THREE.MeshBasicMaterial({ map: texture, side: THREE.DoubleSide }),
      );
      item.holder.add(item.picture);
      ready(item);
    }
  }

  /** Length of the frustums, times their usual one. */
  setSize(factor) {
    this.length = this.size * factor;
    const scale = new THREE.Matrix4().makeScale(this.length, this.length, this.length);
    for (const { holder, pose } of this.items) {
      holder.matrix.multiplyMatrices(pose, scale);
      holder.updateMatrixWorld(true);
    }
  }

  show(item, isShown) {
    item.isShown = isShown;
    this.refresh();
  }

  /** Marks an item, or none, and puts its image over the cloud. */
  async choose(item) {
    this.chosen = item;
    this.overlay.visible = false;
    this.overlay.removeFromParent();
    this.refresh();
    if (!item?.blob) return;
    const texture = await textureOf(item.blob);
    if (this.chosen !== item) return texture.dispose();
    const { material } = this.overlay;
    material.map?.dispose();
    material.map = texture;
    material.needsUpdate = true;
    this.overlay.geometry = item.base;
    item.holder.add(this.overlay);
    item.holder.updateMatrixWorld(true);
    this.setFade(this.fade);
  }

  /** Opacity of the image over the cloud. */
  setFade(fade) {
    this.fade = fade;
    this.overlay.material.opacity = fade;
    this.overlay.visible = Boolean(this.chosen && this.overlay.parent) && fade > 0;
  }

  /** The viewer has left the chosen camera, whose image no longer fits the cloud. */
  leave() {
    if (!this.chosen) return;
    this.chosen = null;
    this.overlay.visible = false;
    this.overlay.removeFromParent();
    this.refresh();
  }

  refresh() {
    for (const item of this.items) {
      // From its own camera a frustum hides the cloud.
      item.holder.children.forEach((child) => (child.visible = item.isShown && item !== this.chosen));
      item.edges.material = item === this.chosen ? this.materials.chosen : this.materials.plain;
    }
    this.overlay.visible = Boolean(this.chosen && this.overlay.parent) && this.fade > 0;
  }

  setColor(color) {
    this.materials.plain.color.set(color);
  }

  /** The nearest frustum whose base is seen at (x, y), or null. */
  hit(camera, x, y, width, height) {
    const view = new THREE.Matrix4().multiplyMatrices(camera.projectionMatrix, camera.matrixWorldInverse);
    let found = null;
    let nearest = Infinity;
    for (const item of this.items) {
      if (!item.isShown || item === this.chosen) continue;
      const matrix = new THREE.Matrix4().multiplyMatrices(view, item.holder.matrixWorld);
      const corners = item.corners.map((corner) => new THREE.Vector4(...corner, 1).applyMatrix4(matrix));
      if (corners.some((corner) => corner.w <= 0)) continue;
      const outline = corners.map((corner) => [
        (corner.x / corner.w + 1) * 0.5 * width - x, (1 - corner.y / corner.w) * 0.5 * height - y,
      ]);
      if (containsOrigin(outline) && corners[0].w < nearest) {
        nearest = corners[0].w;
        found = item;
      }
    }
    return found;
  }

  /** Where a viewer stands at an item's camera, so that all of its image is seen in a view. */
  viewpoint(item, navigation, aspect) {
    const position = new THREE.Vector3();
    const quaternion = new THREE.Quaternion();
    item.pose.decompose(position, quaternion, new THREE.Vector3());
    const forward = new THREE.Vector3(0, 0, 1).applyQuaternion(quaternion);
    const target = position.clone().addScaledVector(forward, item.depth ?? navigation.length / 2);
    // Half a turn about x: a three.js camera looks along -z, y up.
    quaternion.multiply(new THREE.Quaternion(1, 0, 0, 0));
    const extent = (axis) => Math.max(...item.corners.map((corner) => Math.abs(corner[axis])));
    const slope = 1.04 * Math.max(extent(1), extent(0) / aspect);
    return {
      eye: position,
      target,
      roll: navigation.rollOf(quaternion, position, target),
      fov: (Math.atan(slope) * 360) / Math.PI,
    };
  }
}

async function textureOf(blob, width) {
  const size = width ? { resizeWidth: width, resizeQuality: 'medium' } : {};
  const texture = new THREE.Texture(await createImageBitmap(blob, size));
  texture.flipY = false;
  texture.generateMipmaps = true;
  texture.needsUpdate = true;
  return texture;
}

/** Whether a convex outline has the origin inside. */
function containsOrigin(outline) {
  const sides = outline.map(([x, y], at) => {
    const [nextX, nextY] = outline[(at + 1) % outline.length];
    return Math.sign(x * nextY - y * nextX);
  });
  return sides.every((side) => side > 0) || sides.every((side) => side < 0);
}
