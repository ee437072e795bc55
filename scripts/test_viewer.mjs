#!/usr/bin/env node
// Tests the page that `mast3r` writes of a scene, in Chromium without a window.
//
//   npm install --prefix FOLDER playwright-core@1.65.1
//   node scripts/test_viewer.mjs --modules FOLDER [--mast3r PROGRAM] [--chromium PROGRAM]
//       [--screenshots FOLDER] [--points N,N]
//
// Every control must change what it is for, nothing may be fetched and nothing logged as an error.
// --screenshots keeps images to look at; --points measures how long clouds of so many points load.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const { values: options } = parseArgs({
  options: {
    modules: { type: 'string', default: '.' },
    mast3r: { type: 'string', default: path.join(ROOT, 'target/release/mast3r') },
    chromium: { type: 'string', default: 'chromium' },
    screenshots: { type: 'string' },
    points: { type: 'string' },
  },
});
const { chromium } = createRequire(path.resolve(options.modules, 'package.json'))('playwright-core');
const folder = mkdtempSync(path.join(tmpdir(), 'mast3r-viewer-'));
const at = (name) => path.join(folder, name);
const mast3r = (...args) => execFileSync(options.mast3r, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'inherit'] });

// Three squares side by side, two units apart, red, green and blue, 1, 2 and 5 confident.
const SQUARES = [
  { x: -2, rgb: [220, 30, 40], confidence: 1 },
  { x: 0, rgb: [30, 200, 60], confidence: 2 },
  { x: 2, rgb: [40, 60, 230], confidence: 5 },
];
const SIDE = 150;

/** A PLY file of `count` points; `point(index)` is [x, y, z, r, g, b, confidence]. */
function writePly(file, count, point) {
  const header = `ply\nformat binary_little_endian 1.0\nelement vertex ${count}\n`
    + ['x', 'y', 'z'].map((name) => `property float ${name}\n`).join('')
    + ['red', 'green', 'blue'].map((name) => `property uchar ${name}\n`).join('')
    + 'property float confidence\nend_header\n';
  const out = openSync(file, 'w');
  writeSync(out, header);
  for (let start = 0; start < count; start += 65536) {
    const number = Math.min(65536, count - start);
    const bytes = Buffer.alloc(19 * number);
    for (let index = 0; index < number; index++) {
      const [x, y, z, r, g, b, confidence] = point(start + index);
      let offset = 19 * index;
      for (const value of [x, y, z]) offset = bytes.writeFloatLE(value, offset);
      for (const value of [r, g, b]) offset = bytes.writeUInt8(value, offset);
      bytes.writeFloatLE(confidence, offset);
    }
    writeSync(out, bytes);
  }
  closeSync(out);
}

function squarePoint(index) {
  const square = SQUARES[Math.floor(index / (SIDE * SIDE))];
  const place = index % (SIDE * SIDE);
  const [u, v] = [place % SIDE, Math.floor(place / SIDE)].map((step) => step / (SIDE - 1) - 0.5);
  return [square.x + u, v, 4, ...square.rgb, square.confidence];
}

const browser = await chromium.launch({
  executablePath: path.isAbsolute(options.chromium) ? options.chromium
    : execFileSync('sh', ['-c', `command -v ${options.chromium}`]).toString().trim(),
  args: ['--no-sandbox', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist'],
});
const troubles = [];

/** Opens a page from the disk; whatever it logs as an error or asks of a network is a failure. */
async function open(name, settings = {}) {
  const context = await browser.newContext({ viewport: { width: 1100, height: 700 }, acceptDownloads: true, ...settings });
  const page = await context.newPage();
  const url = pathToFileURL(at(name)).href;
  page.on('console', (message) => {
    // Software rendering is slow to read from, and says so.
    if (['error', 'warning'].includes(message.type()) && !message.text().includes('GPU stall')) {
      troubles.push(`${name}: ${message.text()}`);
    }
  });
  page.on('pageerror', (error) => troubles.push(`${name}: ${error}`));
  page.on('request', (request) => {
    if (request.url() !== url && !/^(data|blob):/.test(request.url())) troubles.push(`${name} asked for ${request.url()}`);
  });
  await page.goto(url);
  await page.waitForFunction(() => window.viewer?.isLoaded, null, { timeout: 120000 });
  await page.waitForTimeout(300);
  return page;
}

async function shoot(page, name) {
  if (!options.screenshots) return;
  mkdirSync(options.screenshots, { recursive: true });
  await page.screenshot({ path: path.join(options.screenshots, `${name}.png`) });
}

/**
 * The pixels of the canvas now: RGB at the given places, how many differ from the background, and
 * how many have changed since the last time.
 */
const pixels = (page, places = []) => page.evaluate((places) => {
  const { stage } = window.viewer;
  stage.paint(Infinity);
  const gl = stage.renderer.getContext();
  const [width, height] = [gl.drawingBufferWidth, gl.drawingBufferHeight];
  const data = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  const rgb = (x, y) => [...data.slice(4 * ((height - 1 - y) * width + x)).slice(0, 3)];
  const background = rgb(0, 0);
  const differs = (at, rgb, from) => [0, 1, 2].some((channel) => Math.abs(data[at + channel] - rgb[from + channel]) > 3);
  const last = window.lastPixels ?? data;
  let [drawn, changed] = [0, 0];
  for (let at = 0; at < data.length; at += 4) {
    drawn += differs(at, background, 0);
    changed += differs(at, last, at);
  }
  window.lastPixels = data;
  const { ratio } = stage;
  return { background, drawn, changed, colors: places.map(([x, y]) => rgb(Math.round(x * ratio), Math.round(y * ratio))) };
}, places);

/** Where points of the scene are seen, in pixels of the canvas. */
const project = (page, points) => page.evaluate((points) => {
  const { camera, canvas } = window.viewer.stage;
  camera.matrixWorldInverse.copy(camera.matrixWorld).invert();
  return points.map((point) => {
    const seen = new THREE.Vector3(...point).project(camera);
    return [(seen.x + 1) / 2 * canvas.clientWidth, (1 - seen.y) / 2 * canvas.clientHeight];
  });
}, points);

const pose = (page) => page.evaluate(() => {
  const { eye, target, up, roll } = window.viewer.stage.navigation;
  return { eye: eye.toArray(), target: target.toArray(), up: up.toArray(), roll };
});
const settle = (page) => page.waitForTimeout(1100);
const status = (page) => page.textContent('#status');
const near = (a, b, within, what) => assert.ok(Math.abs(a - b) <= within, `${what}: ${a}, expected ${b} within ${within}`);
const far = (a, b, least, what) => assert.ok(Math.hypot(...a.map((value, axis) => value - b[axis])) > least, `${what}: ${a} and ${b}`);
/** Moves a slider as a user does. */
const slide = (page, id, value) => page.$eval(`#${id}`, (input, value) => {
  input.value = value;
  input.dispatchEvent(new Event('input', { bubbles: true }));
}, value);
/** Clicks a place of the canvas. */
async function clickView(page, [x, y], clicks = 1) {
  const box = await page.locator('#view').boundingBox();
  await page.mouse.click(box.x + x, box.y + y, { clickCount: clicks });
}

const tests = {
  async 'points have their colours at their places'() {
    const page = await open('squares.html');
    const centres = await project(page, SQUARES.map(({ x }) => [x, 0, 4]));
    const { drawn, colors } = await pixels(page, centres);
    assert.ok(drawn > 20000, `${drawn} pixels are drawn`);
    SQUARES.forEach(({ rgb }, index) => assert.deepEqual(colors[index], rgb));
    assert.match(await page.textContent('#facts'), /67,500 points · arbitrary units/);
    assert.equal(await page.title(), 'squares');
    await shoot(page, 'squares');
    await page.context().close();
  },

  async 'sliders change the points'() {
    const page = await open('squares.html');
    await page.evaluate(() => window.viewer.stage.navigation.zoom(0.15));
    const before = await pixels(page);
    await slide(page, 'size', -2);
    const small = await pixels(page);
    assert.ok(small.drawn < 0.5 * before.drawn, `size: ${small.drawn} of ${before.drawn} pixels`);
    await slide(page, 'size', 0);
    assert.equal((await pixels(page)).drawn, before.drawn);
    await page.evaluate(() => window.viewer.stage.reset(true));
    const levels = await page.evaluate(() => window.viewer.description.levels);
    await slide(page, 'confidence', levels.indexOf(2));
    assert.equal(await page.textContent('#confidence-value'), '2.00');
    assert.match(await page.textContent('#count'), /^45,000 of 67,500/);
    const centres = await project(page, SQUARES.map(({ x }) => [x, 0, 4]));
    const { colors, background } = await pixels(page, centres);
    assert.deepEqual(colors, [background, SQUARES[1].rgb, SQUARES[2].rgb]);
    await slide(page, 'confidence', 0);
    await slide(page, 'percentile', 30);
    assert.match(await page.textContent('#count'), /^22,500 of 67,500/);
    await page.context().close();
  },

  async 'a distance is measured and sets the scale'() {
    const page = await open('squares.html', { permissions: ['clipboard-read', 'clipboard-write'] });
    assert.equal(await page.inputValue('#scale'), 'unknown');
    await page.click('#measure');
    const ends = await project(page, [[-2, 0, 4], [2, 0, 4]]);
    for (const end of ends) await clickView(page, end);
    near(await page.evaluate(() => window.viewer.stage.measuring.distance), 4, 0.03, 'distance');
    assert.match(await page.textContent('#measured'), /^Distance: (4|4\.0\d+|3\.9\d+) units$/);
    assert.match(await status(page), /^Distance/);
    await shoot(page, 'measured');
    await page.fill('#true-distance', '0');
    await page.press('#true-distance', 'Enter');
    assert.match(await status(page), /above 0/);
    await page.fill('#true-distance', '12,5');
    await page.press('#true-distance', 'Enter');
    assert.equal(await page.textContent('#measured'), 'Distance: 12.5 m');
    near(Number(await page.inputValue('#scale')), 12.5 / 4, 0.03, 'scale');
    assert.match(await page.textContent('#facts'), /metres, by your measurement/);
    await page.click('#copy-scale');
    near(Number(await page.evaluate(() => navigator.clipboard.readText())), 12.5 / 4, 0.03, 'copied scale');
    // By the keyboard: Enter picks what the cross in the middle shows.
    await page.press('body', 'Escape');
    await page.press('#view', 'm');
    assert.ok(await page.isVisible('#crosshair'));
    await page.press('#view', 'Enter');
    assert.equal(await status(page), 'Pick the second point');
    await page.press('#view', 'Escape');
    assert.ok(!(await page.isVisible('#crosshair')));
    await page.context().close();
  },

  async 'images are jumped to and shown over the points'() {
    const page = await open('demo.html');
    const list = page.locator('#cameras button');
    assert.deepEqual(await list.allTextContents(), ['demo_1.jpg', 'demo_2.jpg']);
    await shoot(page, 'demo');
    const before = await pose(page);
    await list.nth(1).click();
    await settle(page);
    const { eye } = await pose(page);
    const centre = await page.evaluate(() => window.viewer.description.cameras[1].entry.world_from_camera.slice(0, 3).map((row) => row[3]));
    centre.forEach((value, axis) => near(eye[axis], value, 1e-9, 'eye'));
    far(before.eye, eye, 0.01, 'the viewer moved');
    assert.equal(await list.nth(1).getAttribute('aria-current'), 'true');
    assert.equal(await status(page), 'At image demo_2.jpg');
    // The image lies over the points: they show the same, so the view hardly changes, but where
    // there are no points it does.
    await slide(page, 'fade', 0);
    const bare = await pixels(page);
    await slide(page, 'fade', 100);
    const covered = await pixels(page);
    assert.ok(covered.changed > 5000, `the image changes ${covered.changed} pixels`);
    assert.ok(covered.drawn > bare.drawn, `${covered.drawn} and ${bare.drawn} pixels`);
    await slide(page, 'fade', 60);
    await shoot(page, 'demo-image');
    // Points and image agree: their projections coincide.
    const off = await page.evaluate(() => {
      const { stage } = window.viewer;
      const { entry, pose, corners } = stage.cameras.items[1];
      const seen = corners.map((corner) => new THREE.Vector3(...corner).applyMatrix4(pose).project(stage.camera));
      return seen.map(({ x, y }) => Math.max(Math.abs(x), Math.abs(y)));
    });
    off.forEach((reach) => assert.ok(reach > 0.3 && reach <= 1.001, `corner at ${reach}`));
    // Whoever moves leaves the image.
    await page.mouse.move(700, 300);
    await page.mouse.wheel(0, 200);
    await page.waitForTimeout(200);
    assert.equal(await page.evaluate(() => window.viewer.stage.cameras.overlay.visible), false);
    assert.equal(await list.nth(1).getAttribute('aria-current'), 'false');
    await page.press('body', ']');
    await settle(page);
    assert.equal(await status(page), 'At image demo_1.jpg');
    await page.context().close();
  },

  async 'frustums are hidden one by one and all, and clicked'() {
    const page = await open('demo.html');
    await slide(page, 'frustum', 2);
    await pixels(page);
    await page.uncheck('#cameras li:first-child input');
    assert.ok((await pixels(page)).changed > 500, 'one frustum is hidden');
    assert.equal(await page.$eval('#all-frustums', (box) => box.indeterminate), true);
    await page.check('#all-frustums');
    await pixels(page);
    await page.uncheck('#all-frustums');
    assert.ok((await pixels(page)).changed > 500, 'all frustums are hidden');
    assert.equal(await page.isChecked('#cameras li:last-child input'), false);
    await page.check('#all-frustums');
    assert.ok((await pixels(page)).changed > 1000, 'all frustums are shown');
    const middle = await page.evaluate(() => {
      const { cameras } = window.viewer.stage;
      return new THREE.Vector3(0, 0, 1).applyMatrix4(cameras.items[0].holder.matrixWorld).toArray();
    });
    await clickView(page, (await project(page, [middle]))[0]);
    await settle(page);
    assert.match(await status(page), /^At image demo_/);
    await page.context().close();
  },

  async 'cameras are copied as in cameras.json'() {
    const page = await open('demo.html', { permissions: ['clipboard-read', 'clipboard-write'] });
    const copied = async () => {
      await page.click('#copy-camera');
      await page.waitForTimeout(100);
      return JSON.parse(await page.evaluate(() => navigator.clipboard.readText()));
    };
    const view = await copied();
    const { eye, target } = await pose(page);
    const column = (index) => view.world_from_camera.slice(0, 3).map((row) => row[index]);
    column(3).forEach((value, axis) => near(value, eye[axis], 1e-9, 'centre'));
    const ahead = target.map((value, axis) => value - eye[axis]);
    column(2).forEach((value, axis) => near(value, ahead[axis] / Math.hypot(...ahead), 1e-6, 'z axis'));
    // A point in front projects by the intrinsics to where it is seen.
    const [seen] = await project(page, [target]);
    near(view.cx, seen[0] * (view.width / (await page.$eval('#view', (canvas) => canvas.clientWidth))) - 0.5, 1e-3, 'cx');
    const cameras = JSON.parse(readFileSync(at('cameras.json')));
    await page.locator('#cameras button').first().click();
    await settle(page);
    const { depth_file: _, ...expected } = cameras.images[0];
    assert.deepEqual(await copied(), expected);
    await page.context().close();
  },

  async 'a screenshot is a PNG of the view'() {
    const page = await open('squares.html');
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('#screenshot')]);
    assert.equal(download.suggestedFilename(), 'squares.png');
    const bytes = readFileSync(await download.path());
    assert.equal(bytes.toString('latin1', 1, 4), 'PNG');
    const size = await page.$eval('#view', (canvas) => [canvas.width, canvas.height]);
    assert.deepEqual([bytes.readUInt32BE(16), bytes.readUInt32BE(20)], size);
    assert.ok(bytes.length > 4000, `${bytes.length} bytes`);
    await page.context().close();
  },

  async 'up is chosen and flipped'() {
    const page = await open('demo.html');
    const names = await page.$$eval('#up option', (entries) => entries.map((entry) => entry.value));
    assert.ok(names.includes('cameras') && names.includes('+z'), `${names}`);
    const before = await pose(page);
    await page.selectOption('#up', '+z');
    assert.deepEqual((await pose(page)).up, [0, 0, 1]);
    await page.click('#flip');
    assert.deepEqual((await pose(page)).up.map((value) => value || 0), [0, 0, -1]);
    assert.equal(await page.getAttribute('#flip', 'aria-pressed'), 'true');
    await page.selectOption('#up', names[0]);
    (await pose(page)).up.forEach((value, axis) => near(value, before.up[axis], 1e-12, 'up'));
    await page.context().close();
  },

  async 'mouse, touch and keys move the viewer'() {
    const page = await open('squares.html', { hasTouch: true });
    const first = await pose(page);
    const drag = async (button) => {
      await page.mouse.move(700, 350);
      await page.mouse.down({ button });
      await page.mouse.move(780, 380, { steps: 4 });
      await page.mouse.up({ button });
      return pose(page);
    };
    const orbited = await drag('left');
    far(orbited.eye, first.eye, 0.1, 'orbit');
    assert.deepEqual(orbited.target, first.target);
    const panned = await drag('right');
    far(panned.target, orbited.target, 0.1, 'pan');
    await page.check('input[value="fly"]', { force: true });
    const looked = await drag('left');
    assert.deepEqual(looked.eye, panned.eye);
    far(looked.target, panned.target, 0.1, 'look');
    await page.check('input[value="orbit"]', { force: true });
    const distance = ({ eye, target }) => Math.hypot(...eye.map((value, axis) => value - target[axis]));
    await page.mouse.move(780, 380);
    await page.mouse.wheel(0, -300);
    await page.waitForTimeout(500);
    const zoomed = await pose(page);
    assert.ok(distance(zoomed) < 0.9 * distance(looked), 'the wheel zooms');
    const touch = await page.context().newCDPSession(page);
    const fingers = (type, ...places) => touch.send('Input.dispatchTouchEvent', {
      type, touchPoints: places.map(([x, y], id) => ({ x, y, id })),
    });
    await fingers('touchStart', [600, 300], [700, 300]);
    await fingers('touchMove', [550, 300], [750, 300]);
    await fingers('touchEnd');
    const pinched = await pose(page);
    assert.ok(distance(pinched) < 0.8 * distance(zoomed), 'a pinch zooms');
    await fingers('touchStart', [600, 300]);
    await fingers('touchMove', [640, 300]);
    await fingers('touchMove', [680, 300]);
    await fingers('touchEnd');
    far((await pose(page)).eye, pinched.eye, 0.01, 'one finger orbits');
    await page.focus('#view');
    for (const key of ['w', 'a', 'q', 'ArrowLeft', 'ArrowUp']) {
      const before = await pose(page);
      await page.keyboard.down(key);
      await page.waitForTimeout(400);
      await page.keyboard.up(key);
      far((await pose(page)).eye, before.eye, 0.01, key);
    }
    const before = await pose(page);
    await page.keyboard.press('+');
    assert.ok(distance(await pose(page)) < distance(before), '+ zooms');
    await page.keyboard.press('f');
    await settle(page);
    (await pose(page)).eye.forEach((value, axis) => near(value, first.eye[axis], 1e-6, 'see everything'));
    const [middle] = await project(page, [[2, 0, 4]]);
    await clickView(page, middle);
    await clickView(page, middle, 2);
    await settle(page);
    near((await pose(page)).target[0], 2, 0.05, 'a double click sets the target');
    await page.context().close();
  },

  async 'colours follow the system and the switch'() {
    const page = await open('squares.html', { colorScheme: 'dark' });
    const dark = (await pixels(page)).background;
    assert.ok(Math.max(...dark) < 60, `${dark}`);
    await shoot(page, 'dark');
    await page.selectOption('#theme', 'light');
    const light = (await pixels(page)).background;
    assert.ok(Math.min(...light) > 200, `${light}`);
    await shoot(page, 'light');
    await page.selectOption('#theme', 'system');
    assert.deepEqual((await pixels(page)).background, dark);
    await page.emulateMedia({ colorScheme: 'light' });
    await page.waitForFunction(() => document.documentElement.dataset.theme === 'light');
    assert.deepEqual((await pixels(page)).background, light);
    await page.context().close();
  },

  async 'help opens and closes, and the panel hides'() {
    const page = await open('squares.html');
    await page.press('#view', '?');
    assert.ok(await page.isVisible('#help'));
    await shoot(page, 'help');
    await page.keyboard.press('Escape');
    assert.ok(!(await page.isVisible('#help')));
    await page.click('#open-help');
    await page.click('#close-help');
    assert.ok(!(await page.isVisible('#help')));
    const width = () => page.$eval('#view', (canvas) => canvas.clientWidth);
    const before = await width();
    await page.press('#view', 'h');
    assert.ok((await width()) > before + 200);
    assert.equal(await page.getAttribute('#toggle-panel', 'aria-expanded'), 'false');
    await page.context().close();
  },

  async 'every control has a name and is reached by the keyboard'() {
    const page = await open('demo.html');
    const nameless = await page.$$eval('button, input, select, canvas, progress', (controls) => controls
      .filter((control) => !(control.textContent.trim() && control.tagName === 'BUTTON') && !control.labels?.length
        && !control.getAttribute('aria-label')?.trim() && !control.getAttribute('aria-labelledby'))
      .map((control) => control.outerHTML));
    assert.deepEqual(nameless, []);
    const expected = await page.$$eval('button, input, select, canvas', (controls) => controls
      .filter((control) => !control.disabled && control.checkVisibility() && !(control.type === 'radio' && !control.checked))
      .map((control, index) => (control.dataset.test = String(index))));
    const reached = new Set();
    for (let presses = 0; presses < expected.length + 5; presses++) {
      await page.keyboard.press('Tab');
      reached.add(await page.evaluate(() => document.activeElement.dataset.test));
    }
    assert.deepEqual(expected.filter((name) => !reached.has(name)), []);
    assert.equal(await page.getAttribute('#status', 'aria-live'), 'polite');
    await page.context().close();
  },

  async 'motion is left out where it is unwanted'() {
    const page = await open('demo.html', { reducedMotion: 'reduce' });
    await page.locator('#cameras button').first().click();
    assert.equal(await page.evaluate(() => window.viewer.stage.navigation.flight), null);
    await page.context().close();
  },

  async 'a narrow screen has the controls below'() {
    const page = await open('demo.html', { viewport: { width: 390, height: 780 }, hasTouch: true, isMobile: true });
    assert.ok(!(await page.isVisible('#panel')));
    await shoot(page, 'narrow');
    await page.tap('#toggle-panel');
    assert.ok(await page.isVisible('#panel'));
    await shoot(page, 'narrow-panel');
    await page.context().close();
  },

  async 'a damaged page says so'() {
    const text = readFileSync(at('squares.html'), 'utf8');
    writeFileSync(at('damaged.html'), text.replace(/(id="block-0">.{100}).{40}/, '$1'));
    const page = await browser.newPage();
    await page.goto(pathToFileURL(at('damaged.html')).href);
    await page.waitForSelector('#status.bad');
    assert.match(await status(page), /^The scene cannot be shown: /);
    await page.close();
  },

  async 'nothing that a name holds runs'() {
    const name = '<img src=x onerror=alert(1)>&amp;.ply';
    writePly(at(name), 3, (index) => [index, 0, 1, 9, 9, 9, 1]);
    mast3r('view', at(name), '-o', at('<b>&quot;.html'), '--no-open');
    const page = await open('<b>&quot;.html');
    assert.equal(await page.textContent('#title'), '<b>&quot;');
    await page.context().close();
  },
};

/** A rolling landscape of so many points, 10 units wide. */
function landscapePoint(count) {
  const side = Math.ceil(Math.sqrt(count));
  return (index) => {
    const [u, v] = [(index % side) / side, Math.floor(index / side) / side];
    const height = Math.sin(9 * u) * Math.cos(7 * v) + 0.05 * Math.sin(400 * u * v);
    const shade = Math.round(127 + 100 * Math.sin(60 * u) * Math.sin(60 * v));
    return [10 * u, height, 10 * v, shade, 180 - shade / 2, 90, 1 + u * v];
  };
}

async function time(count) {
  const name = `points-${count}`;
  writePly(at(`${name}.ply`), count, landscapePoint(count));
  const started = performance.now();
  mast3r('view', at(`${name}.ply`), '-o', at(`${name}.html`), '--no-open');
  const written = performance.now();
  const page = await open(`${name}.html`);
  const loaded = performance.now();
  const facts = await page.evaluate(async () => {
    const { stage, loadMs } = window.viewer;
    const nextFrame = () => new Promise(requestAnimationFrame);
    const started = performance.now();
    let frames = 0;
    while (performance.now() - started < 4000) {
      stage.navigation.orbit(0.02, 0);
      stage.changed();
      await nextFrame();
      frames++;
    }
    const seconds = (performance.now() - started) / 1000;
    return { loadMs, frames: frames / seconds, moving: stage.drawn, interactive: performance.getEntriesByType('navigation')[0].domInteractive };
  });
  await page.waitForTimeout(2000);
  await shoot(page, name);
  const megabytes = (statSync(at(`${name}.html`)).size / 1e6).toFixed(1);
  console.log(`${count} points: page of ${megabytes} MB written in ${((written - started) / 1000).toFixed(1)} s, `
    + `parsed in ${(facts.interactive / 1000).toFixed(1)} s, points decoded in ${(facts.loadMs / 1000).toFixed(1)} s, `
    + `all in ${((loaded - written) / 1000).toFixed(1)} s; `
    + `${facts.frames.toFixed(1)} frames a second while moving, of ${facts.moving} points`);
  await page.context().close();
  rmSync(at(`${name}.ply`));
  rmSync(at(`${name}.html`));
}

let failures = 0;
try {
  writePly(at('squares.ply'), 3 * SIDE * SIDE, squarePoint);
  mast3r('view', at('squares.ply'), '-o', at('squares.html'), '--no-open');
  mast3r('reconstruct', 'assets/demo_1.jpg', 'assets/demo_2.jpg', '--model', 'tiny', '--quiet', '--clean',
    '-o', at('demo.html'), '--cameras', at('cameras.json'));
  for (const [name, test] of Object.entries(tests)) {
    try {
      await test();
      assert.deepEqual(troubles.splice(0), []);
      console.log(`ok      ${name}`);
    } catch (error) {
      failures++;
      console.log(`FAILED  ${name}\n${error.stack}`);
    }
  }
  const { renderer } = await browser.newPage().then((page) => page.evaluate(() => {
    const gl = document.createElement('canvas').getContext('webgl2');
    return { renderer: gl.getParameter(gl.getExtension('WEBGL_debug_renderer_info').UNMASKED_RENDERER_WEBGL) };
  }));
  console.log(`Chromium ${browser.version()}, ${renderer}`);
  for (const count of options.points?.split(',') ?? []) await time(Number(count));
} finally {
  await browser.close();
  rmSync(folder, { recursive: true });
}
process.exitCode = failures > 0 ? 1 : 0;
