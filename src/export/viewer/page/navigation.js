// Where the viewer stands and looks, and how that changes.

/** The least angle between the line of sight and the vertical, in radians. */
const POLE = 0.02;
const FLIGHT_MS = 650;

/**
 * The state is an eye, a target that it looks at, the direction that is up, and a roll about the
 * line of sight, which is 0 except at an image that was taken askew.
 */
export class Navigation {
  constructor(camera, length) {
    this.camera = camera;
    this.length = length;
    this.eye = new THREE.Vector3();
    this.target = new THREE.Vector3(0, 0, 1);
    this.up = new THREE.Vector3(0, -1, 0);
    this.roll = 0;
    this.flight = null;
  }

  get distance() {
    return this.eye.distanceTo(this.target);
  }

  /** Puts the camera where the state says. */
  apply() {
    const { camera } = this;
    camera.position.copy(this.eye);
    camera.up.copy(this.up);
    camera.lookAt(this.target);
    camera.rotateZ(this.roll);
    camera.updateMatrixWorld();
  }

  /** The viewer goes around the target; angles in radians, to the left and downwards. */
  orbit(yaw, pitch) {
    const arm = this.eye.clone().sub(this.target);
    this.swing(arm, yaw, pitch);
    this.eye.copy(this.target).add(arm);
    this.moved();
  }

  /** The viewer turns on the spot. */
  look(yaw, pitch) {
    const arm = this.target.clone().sub(this.eye);
    this.swing(arm, yaw, pitch);
    this.target.copy(this.eye).add(arm);
    this.moved();
  }

  swing(arm, yaw, pitch) {
    arm.applyAxisAngle(this.up, yaw);
    const axis = this.up.clone().cross(arm);
    if (axis.lengthSq() < 1e-20 * arm.lengthSq()) axis.set(1, 0, 0).cross(this.up);
    const angle = arm.angleTo(this.up);
    const turned = Math.min(Math.max(angle + pitch, POLE), Math.PI - POLE);
    arm.applyAxisAngle(axis.normalize(), turned - angle);
  }

  /** Moves eye and target along the screen, by pixels of a view of this height. */
  pan(right, down, height) {
    const scale = (2 * this.distance * Math.tan((this.camera.fov * Math.PI) / 360)) / height;
    this.shift(-right * scale, down * scale, 0);
  }

  /** Moves eye and target along the camera's axes: right, up, forward. */
  shift(right, up, forward) {
    const step = new THREE.Vector3(right, up, -forward).applyQuaternion(this.camera.quaternion);
    this.eye.add(step);
    this.target.add(step);
    this.moved();
  }

  /** Multiplies the distance to the target; the point of its plane at `at` (-1 to 1) stays put. */
  zoom(factor, at = { x: 0, y: 0 }) {
    const { camera } = this;
    if (factor < 1 && this.distance * factor < 1e-4 * this.length) return;
    if (factor > 1 && this.distance * factor > 1e3 * this.length) return;
    const half = this.distance * Math.tan((camera.fov * Math.PI) / 360);
    const fixed = new THREE.Vector3(at.x * half * camera.aspect, at.y * half, 0);
    fixed.applyQuaternion(camera.quaternion).add(this.target);
    this.eye.sub(fixed).multiplyScalar(factor).add(fixed);
    this.target.sub(fixed).multiplyScalar(factor).add(fixed);
    this.moved();
  }

  /** Another direction becomes up; the viewer stays where it is. */
  setUp(up) {
    this.up.copy(up).normalize();
    this.roll = 0;
    this.moved();
  }

  moved() {
    this.flight = null;
    // A viewer that moves stands upright again, bit by bit.
    this.roll = Math.abs(this.roll) < 1e-3 ? 0 : 0.85 * this.roll;
    this.apply();
  }

  /** The roll of a camera with this orientation that looks from `eye` at `target`. */
  rollOf(quaternion, eye, target) {
    const level = new THREE.Object3D();
    level.isCamera = true;
    level.up.copy(this.up);
    level.position.copy(eye);
    level.lookAt(target);
    const turn = level.quaternion.invert().multiply(quaternion);
    return 2 * Math.atan2(turn.z, turn.w);
  }

  /** Goes to another state; at once if motion is unwanted. */
  fly({ eye, target, roll = 0, fov = this.camera.fov }, still) {
    const { camera } = this;
    const from = { position: camera.position.clone(), quaternion: camera.quaternion.clone(), fov: camera.fov };
    this.eye.copy(eye);
    this.target.copy(target);
    this.roll = roll;
    camera.fov = fov;
    this.apply();
    camera.updateProjectionMatrix();
    if (still) return;
    const to = { position: camera.position.clone(), quaternion: camera.quaternion.clone(), fov };
    this.flight = { from, to, start: performance.now() };
    this.step(this.flight.start);
  }

  /** Goes on with a flight; whether there is one. */
  step(now) {
    if (!this.flight) return false;
    const { from, to, start } = this.flight;
    const linear = Math.min(Math.max((now - start) / FLIGHT_MS, 0), 1);
    const share = linear * linear * (3 - 2 * linear);
    const { camera } = this;
    camera.position.lerpVectors(from.position, to.position, share);
    camera.quaternion.slerpQuaternions(from.quaternion, to.quaternion, share);
    camera.fov = from.fov + share * (to.fov - from.fov);
    camera.updateProjectionMatrix();
    camera.updateMatrixWorld();
    if (linear === 1) this.flight = null;
    return true;
  }
}
