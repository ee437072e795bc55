// Mouse, touch and keyboard on the view.

/** A press that moves less than this many pixels is a click. */
const CLICK_PX = 5;
/** Parts of the scene's length in a second. */
const FLIGHT_SPEED = 0.25;
const FLIGHT_KEYS = {
  KeyW: [0, 0, 1], KeyS: [0, 0, -1], KeyA: [-1, 0, 0], KeyD: [1, 0, 0], KeyQ: [0, -1, 0], KeyE: [0, 1, 0],
};
const TURN_KEYS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * Turns what is done to `canvas` into motion. `host` has `flies` (whether a drag looks around
 * instead of orbiting), `changed()`, `clicked(x, y)` and `doubleClicked(x, y)` in pixels of the
 * canvas.
 */
export class Input {
  constructor(canvas, navigation, host) {
    this.canvas = canvas;
    this.navigation = navigation;
    this.host = host;
    this.pointers = new Map();
    this.held = new Set();
    this.travelled = 0;
    canvas.addEventListener('pointerdown', (event) => this.press(event));
    canvas.addEventListener('pointermove', (event) => this.move(event));
    canvas.addEventListener('pointerup', (event) => this.release(event));
    canvas.addEventListener('pointercancel', (event) => this.release(event, true));
    canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
    canvas.addEventListener('contextmenu', (event) => event.preventDefault());
    canvas.addEventListener('dblclick', (event) => host.doubleClicked(event.offsetX, event.offsetY));
    window.addEventListener('keydown', (event) => this.hold(event));
    window.addEventListener('keyup', (event) => this.held.delete(event.code));
    window.addEventListener('blur', () => this.held.clear());
  }

  press(event) {
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    if (this.pointers.size === 1) this.travelled = 0;
    else this.travelled = Infinity;
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.offsetX, y: event.offsetY };
    const [right, down] = [now.x - before.x, now.y - before.y];
    this.travelled += Math.hypot(right, down);
    if (this.pointers.size === 2) this.pinch(event.pointerId, before, now);
    this.pointers.set(event.pointerId, now);
    if (this.pointers.size !== 1 || this.travelled < CLICK_PX) return;
    const height = this.canvas.clientHeight;
    const pans = event.buttons & 6 || event.shiftKey || event.ctrlKey || event.metaKey;
    if (pans) this.navigation.pan(right, down, height);
    else if (this.host.flies) this.navigation.look((-2 * right) / height, (2 * down) / height);
    else this.navigation.orbit((-4 * right) / height, (-4 * down) / height);
    this.host.changed();
  }

  /** Two fingers move the scene along and zoom it. */
  pinch(moved, before, now) {
    const [, other] = [...this.pointers].find(([id]) => id !== moved);
    const distance = (point) => Math.hypot(point.x - other.x, point.y - other.y);
    const height = this.canvas.clientHeight;
    this.navigation.pan((now.x - before.x) / 2, (now.y - before.y) / 2, height);
    const middle = this.relative((now.x + other.x) / 2, (now.y + other.y) / 2);
    this.navigation.zoom(Math.max(distance(before), 1) / Math.max(distance(now), 1), middle);
    this.host.changed();
  }

  release(event, isCancelled = false) {
    if (!this.pointers.delete(event.pointerId)) return;
    const isClick = this.travelled < CLICK_PX && this.pointers.size === 0 && event.button === 0;
    if (isClick && !isCancelled) this.host.clicked(event.offsetX, event.offsetY);
  }

  wheel(event) {
    event.preventDefault();
    const unit = [1, 30, 300][event.deltaMode];
    const change = Math.min(Math.max(event.deltaY * unit, -300), 300);
    this.navigation.zoom(Math.exp(0.0015 * change), this.relative(event.offsetX, event.offsetY));
    this.host.changed();
  }

  hold(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
    const turns = TURN_KEYS[event.code] && document.activeElement === this.canvas;
    if (!FLIGHT_KEYS[event.code] && !turns) return;
    if (turns) event.preventDefault();
    this.held.add(event.code);
    this.isFast = event.shiftKey;
    this.host.changed();
  }

  /** Moves by the keys that are held, for so many seconds; whether there are any. */
  step(seconds) {
    const { navigation } = this;
    const speed = FLIGHT_SPEED * navigation.length * seconds * (this.isFast ? 4 : 1);
    for (const code of this.held) {
      const flight = FLIGHT_KEYS[code];
      const turn = TURN_KEYS[code];
      if (flight) navigation.shift(...flight.map((axis) => axis * speed));
      else if (this.host.flies) navigation.look(...turn.map((axis) => axis * seconds));
      else navigation.orbit(...turn.map((axis) => -1.5 * axis * seconds));
    }
    return this.held.size > 0;
  }

  /** A pixel in the view's own coordinates: -1 to 1, y up. */
  relative(x, y) {
    const { clientWidth, clientHeight } = this.canvas;
    return { x: (2 * x) / clientWidth - 1, y: 1 - (2 * y) / clientHeight };
  }

  get isPressed() {
    return this.pointers.size > 0;
  }
}

/** Whether a key belongs to a field or a dialog. */
export function isTyping(event) {
  const { target } = event;
  if (document.querySelector('dialog[open]')) return true;
  if (target instanceof HTMLInputElement) return !['range', 'checkbox', 'radio'].includes(target.type);
  return target instanceof HTMLSelectElement;
}
