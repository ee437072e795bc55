// Distances between picked points, and the scale that a known one gives the scene.
import { DESCRIPTION } from './data.js';

/** Metres in a unit of the scene, if that is known. */
export class Scale {
  constructor() {
    this.metresPerUnit = DESCRIPTION.metric ? 1 : null;
    this.isMeasured = false;
  }

  /** A length of the scene's units in words. */
  format(length) {
    const text = (value) => Number(value.toPrecision(4)).toString();
    if (this.metresPerUnit === null) return `${text(length)} units`;
    return `${text(length * this.metresPerUnit)} m`;
  }

  set(metresPerUnit) {
    this.metresPerUnit = metresPerUnit;
    this.isMeasured = true;
  }

  get description() {
    if (this.isMeasured) return 'metres, by your measurement';
    return DESCRIPTION.metric ? 'metres' : 'arbitrary units';
  }
}

/** Two ends of a line, which are shown by elements over the view. */
export class Measuring {
  constructor(overlay, scale) {
    this.scale = scale;
    this.isOn = false;
    this.ends = [];
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute('position', new THREE.Float32BufferAttribute(6, 3));
    this.line = new THREE.Line(geometry, new THREE.LineBasicMaterial({ color: 0xff5a36, depthTest: false }));
    this.line.renderOrder = 20;
    this.line.frustumCulled = false;
    const element = (name) => {
      const added = document.createElement('div');
      added.className = name;
      added.hidden = true;
      overlay.append(added);
      return added;
    };
    this.marks = [element('mark'), element('mark')];
    this.label = element('distance');
    this.clear();
  }

  clear() {
    this.ends = [];
    this.line.visible = false;
  }

  /** Adds an end; after two ends it begins anew. */
  add(point) {
    if (this.ends.length === 2) this.clear();
    this.ends.push(point);
    if (this.ends.length === 2) {
      const { position } = this.line.geometry.attributes;
      this.ends.forEach((end, index) => position.setXYZ(index, end.x, end.y, end.z));
      position.needsUpdate = true;
      this.line.visible = true;
    }
  }

  /** In the scene's units, or null. */
  get distance() {
    return this.ends.length === 2 ? this.ends[0].distanceTo(this.ends[1]) : null;
  }

  /** Makes the distance what it truly is; whether it can be. */
  setTrue(metres) {
    if (!this.distance || !(metres > 0) || !Number.isFinite(metres)) return false;
    this.scale.set(metres / this.distance);
    return true;
  }

  /** Puts the marks and the label where the ends are seen. */
  place(camera, width, height) {
    const put = (element, point) => {
      const seen = point?.clone().project(camera);
      element.hidden = !seen || Math.abs(seen.z) > 1;
      if (element.hidden) return;
      const [x, y] = [(seen.x + 1) * 0.5 * width, (1 - seen.y) * 0.5 * height];
      element.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px) translate(-50%, -50%)`;
    };
    this.marks.forEach((mark, index) => put(mark, this.ends[index]));
    const { distance, ends } = this;
    put(this.label, distance === null ? undefined : ends[0].clone().lerp(ends[1], 0.5));
    if (distance !== null) this.label.textContent = this.scale.format(distance);
  }
}
