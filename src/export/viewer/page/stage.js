// What is seen: renderer, loop, and the actions that the panel and the keys offer.
import { DESCRIPTION } from './data.js';
import { Navigation } from './navigation.js';
import { Input } from './input.js';
import { Cloud } from './cloud.js';
import { Cameras } from './cameras.js';
import { Measuring, Scale } from './measuring.js';

const FOV = 50;
/** A view that has been still for so long is drawn with all points. */
const STILL_MS = 160;
/** Points in a frame while the view moves: at first, and at least. */
const MOVING_POINTS = [4e6, 2e5];
/** Frames that take longer or shorter, in milliseconds, change that number. */
const SLOW_FRAME = 45, FAST_FRAME = 24;
/** Pixels around a click in which a point is picked. */
const PICK_PX = 9;
/** The part of the points that may lie outside the first view, on each side. */
const OUTSIDE_VIEW = 0.01;
/** The part of the view's sides that the first view fills. */
const FILLED = 0.9;

export class Stage {
  /** `told(what)` is called when something changed that the panel shows. */
  constructor(canvas, overlay, told) {
    this.canvas = canvas;
    this.told = told;
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: false, powerPreference: 'high-performance' });
    // Colours are sRGB from the file to the screen.
    THREE.ColorManagement.enabled = false;
    this.renderer.outputColorSpace = THREE.LinearSRGBColorSpace;
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(FOV, 1, 0.01, 100);
    const { low, high } = DESCRIPTION.extent;
    this.centre = new THREE.Vector3(...low.map((value, axis) => (value + high[axis]) / 2));
    const length = Math.max(...high.map((value, axis) => value - low[axis]));
    this.length = length > 0 ? length : DESCRIPTION.frustum || 1;
    this.navigation = new Navigation(this.camera, this.length);
    this.cloud = new Cloud();
    this.cameras = new Cameras();
    this.scale = new Scale();
    this.measuring = new Measuring(overlay, this.scale);
    this.scene.add(this.cloud.group, this.cameras.group, this.measuring.line);
    this.flies = false;
    this.input = new Input(canvas, this.navigation, this);
    this.ups = upDirections();
    this.isFlipped = false;
    this.navigation.up.copy(Object.values(this.ups)[0]);
    this.movingPoints = MOVING_POINTS[0];
    this.lastMotion = -Infinity;
    this.lastFrame = null;
    this.isTouched = false;
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.resize();
  }

  get still() {
    return matchMedia('(prefers-reduced-motion: reduce)').matches;
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    this.ratio = Math.min(devicePixelRatio || 1, 2);
    this.renderer.setPixelRatio(this.ratio);
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
    // All of an image stays in view.
    const { chosen } = this.cameras;
    if (chosen) this.navigation.fly(this.cameras.viewpoint(chosen, this.navigation, this.camera.aspect), true);
    this.draw();
  }

  /** The viewer moved: called by the input. */
  changed() {
    this.isTouched = true;
    this.cameras.leave();
    this.told('motion');
    this.lastMotion = performance.now();
    this.draw();
  }

  /** Asks for a frame. */
  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame((now) => {
      this.frame = null;
      this.render(now);
    });
  }

  render(now) {
    const seconds = this.lastFrame === null ? 0 : Math.min((now - this.lastFrame) / 1000, 0.1);
    const held = this.input.step(seconds);
    if (held) this.changed();
    const isFlying = this.navigation.step(now);
    if (isFlying || held) this.lastMotion = now;
    const isMoving = isFlying || held || now - this.lastMotion < STILL_MS;
    if (isMoving && this.lastFrame !== null) this.adapt(now - this.lastFrame);
    this.paint(isMoving ? this.movingPoints : Infinity);
    this.lastFrame = isMoving ? now : null;
    if (isMoving) this.draw();
  }

  /** Draws as many points as the machine has time for. */
  adapt(milliseconds) {
    if (milliseconds > SLOW_FRAME) this.movingPoints = Math.max(0.75 * this.movingPoints, MOVING_POINTS[1]);
    else if (milliseconds < FAST_FRAME) this.movingPoints = Math.min(1.1 * this.movingPoints, 1e8);
  }

  paint(budget) {
    const { camera, canvas, centre } = this;
    const away = camera.position.distanceTo(centre);
    const reach = this.cloud.blocks.reduce(
      (most, { sphere }) => Math.max(most, sphere.center.distanceTo(centre) + sphere.radius), this.length);
    camera.near = Math.max(Math.min(this.navigation.distance, this.length) * 2e-3, 1e-6 * away);
    camera.far = 1.1 * (away + Math.max(reach, 2 * this.length)) + 10 * this.cameras.length;
    camera.updateProjectionMatrix();
    camera.matrixWorldInverse.copy(camera.matrixWorld).invert();
    this.drawn = this.cloud.plan(camera, canvas.clientHeight * this.ratio, this.ratio, budget);
    this.renderer.render(this.scene, camera);
    this.measuring.place(camera, canvas.clientWidth, canvas.clientHeight);
  }

  // --- what is done to the view ---

  clicked(x, y) {
    const { clientWidth, clientHeight } = this.canvas;
    if (this.measuring.isOn) return this.pickEnd(x, y);
    const item = this.cameras.hit(this.camera, x, y, clientWidth, clientHeight);
    if (item) this.jump(item);
  }

  /** The point under the pointer becomes what the viewer goes around. */
  doubleClicked(x, y) {
    if (this.measuring.isOn) return;
    const point = this.pick(x, y);
    if (!point) return;
    const { eye, distance } = this.navigation;
    const near = eye.clone().sub(point).setLength(Math.min(distance, eye.distanceTo(point)));
    this.navigation.fly({ eye: near.add(point), target: point }, this.still);
    this.changed();
  }

  pick(x, y) {
    const { clientWidth, clientHeight } = this.canvas;
    this.camera.matrixWorldInverse.copy(this.camera.matrixWorld).invert();
    return this.cloud.pick(this.camera, x, y, clientWidth, clientHeight, PICK_PX);
  }

  /** Sets an end of the measured line at a pixel, by default that in the middle. */
  pickEnd(x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const point = this.pick(x, y);
    if (point) this.measuring.add(point);
    this.told(point ? 'measured' : 'missed');
    this.draw();
  }

  jump(item) {
    this.isTouched = true;
    this.navigation.fly(this.cameras.viewpoint(item, this.navigation, this.camera.aspect), this.still);
    this.cameras.choose(item).then(() => this.draw());
    this.told('camera');
    this.draw();
  }

  /** Everything in view: from behind the cameras, a little above and to the side. */
  reset(isAtOnce = this.still) {
    this.cameras.leave();
    const { up } = this.navigation;
    const eyes = this.cameras.items.map(({ pose }) => new THREE.Vector3().setFromMatrixPosition(pose));
    const ahead = new THREE.Vector3();
    for (const { pose } of this.cameras.items) ahead.add(new THREE.Vector3(0, 0, 1).transformDirection(pose));
    ahead.addScaledVector(up, -ahead.dot(up));
    if (ahead.lengthSq() < 1e-6) ahead.set(0, 0, 1).addScaledVector(up, -up.z);
    if (ahead.lengthSq() < 1e-6) ahead.set(1, 0, 0).addScaledVector(up, -up.x);
    ahead.normalize().applyAxisAngle(up, -0.3);
    const right = ahead.clone().cross(up).normalize();
    const forward = ahead.multiplyScalar(Math.cos(0.3)).addScaledVector(up, -Math.sin(0.3));
    const above = right.clone().cross(forward);
    const slope = Math.tan((FOV * Math.PI) / 360) * FILLED;
    const points = this.cloud.sample(4000);
    const [across, backAcross] = fitted(points, eyes, right, forward, slope * this.camera.aspect);
    const [along, backAlong] = fitted(points, eyes, above, forward, slope);
    const back = Math.min(backAcross, backAlong);
    const eye = new THREE.Vector3()
      .addScaledVector(right, across + centred(points, eyes, right, forward, across, back))
      .addScaledVector(above, along + centred(points, eyes, above, forward, along, back))
      .addScaledVector(forward, back);
    const depths = points.map((point) => point.clone().sub(eye).dot(forward)).sort((a, b) => a - b);
    const depth = Math.max(depths[depths.length >> 1] ?? this.length, 1e-3 * this.length);
    this.navigation.fly({ eye, target: eye.clone().addScaledVector(forward, depth), fov: FOV }, isAtOnce);
    this.told('motion');
    this.lastMotion = performance.now();
    this.draw();
  }

  setUp(name, isFlipped) {
    this.isFlipped = isFlipped;
    this.navigation.setUp(this.ups[name].clone().multiplyScalar(isFlipped ? -1 : 1));
    this.changed();
  }

  setColors(background, edges) {
    this.renderer.setClearColor(background);
    this.cameras.setColor(edges);
    this.draw();
  }

  /** The view as an entry of `cameras.json`: that of the image, at its camera. */
  get entry() {
    if (this.cameras.chosen) return this.cameras.chosen.entry;
    const { camera, canvas } = this;
    const [width, height] = [canvas.width, canvas.height];
    const focal = height / (2 * Math.tan((camera.fov * Math.PI) / 360));
    const m = camera.matrixWorld.elements;
    const { origin } = DESCRIPTION;
    // From y up and z backward to y down and z forward.
    const row = (axis) => [m[axis], -m[4 + axis], -m[8 + axis], m[12 + axis] + origin[axis]];
    return {
      name: 'view', width, height, fx: focal, fy: focal, cx: (width - 1) / 2, cy: (height - 1) / 2,
      world_from_camera: [row(0), row(1), row(2), [0, 0, 0, 1]],
    };
  }

  /** The view as a PNG. */
  screenshot() {
    this.paint(Infinity);
    return new Promise((resolve) => this.canvas.toBlob(resolve, 'image/png'));
  }
}

/** The directions that may be up, the likeliest first. */
function upDirections() {
  const { ground, cameras } = DESCRIPTION.up;
  const axes = { '-y': [0, -1, 0], '+y': [0, 1, 0], '+z': [0, 0, 1], '-z': [0, 0, -1], '+x': [1, 0, 0] };
  const all = { ...(ground && { ground }), ...(cameras && { cameras }), ...axes };
  return Object.fromEntries(Object.entries(all).map(([name, up]) => [name, new THREE.Vector3(...up)]));
}

/**
 * Where along `side` and `forward` a camera sees all `eyes` and most `points` between lines of this
 * slope to its line of sight: a point is inside if |s - s0| <= slope (f - f0).
 */
function fitted(points, eyes, side, forward, slope) {
  const [most, least] = [1, -1].map((sign) =>
    largest(points, eyes, (point) => sign * point.dot(side) - slope * point.dot(forward)));
  if (!Number.isFinite(most + least)) return [0, 0];
  return [(most - least) / 2, -(most + least) / (2 * slope)];
}

/** How far a camera at `place` along `side` has to move for as much room on both sides. */
function centred(points, eyes, side, forward, place, back) {
  const [most, least] = [1, -1].map((sign) =>
    largest(points, eyes, (point) => (sign * (point.dot(side) - place)) / (point.dot(forward) - back)));
  const depths = points.map((point) => point.dot(forward) - back).sort((a, b) => a - b);
  const shift = ((most - least) / 2) * depths[depths.length >> 1];
  return Number.isFinite(shift) ? shift : 0;
}

/** The largest value of all `eyes` and most `points`. */
function largest(points, eyes, value) {
  const sorted = points.map(value).sort((a, b) => a - b);
  const cloud = sorted[Math.floor((1 - OUTSIDE_VIEW) * (sorted.length - 1))] ?? -Infinity;
  return Math.max(cloud, ...eyes.map(value));
}
