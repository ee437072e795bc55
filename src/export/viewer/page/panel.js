// The controls beside the view: what they do, and what they show.
import { DESCRIPTION } from './data.js';
import { isTyping } from './input.js';

const UP_NAMES = { ground: 'Ground plane', cameras: 'Cameras', '-y': '-Y axis', '+y': '+Y axis', '+z': '+Z axis', '-z': '-Z axis', '+x': '+X axis' };

export class Panel {
  constructor() {
    const named = document.querySelectorAll('[id]');
    this.at = Object.fromEntries([...named].map((element) => [element.id, element]));
    this.buttons = [];
    this.dark = matchMedia('(prefers-color-scheme: dark)');
  }

  /** A message for everybody, read aloud too. */
  say(text, isBad = false) {
    this.at.status.textContent = text;
    this.at.status.classList.toggle('bad', isBad);
  }

  /** Makes the controls work on a stage. */
  connect(stage) {
    this.stage = stage;
    this.connectView();
    this.connectPoints();
    this.connectCameras();
    this.connectMeasuring();
    this.connectPage();
    window.addEventListener('keydown', (event) => this.key(event));
    this.showFacts();
    this.showScale();
  }

  on(id, type, act) {
    this.at[id].addEventListener(type, act);
  }

  connectView() {
    const { at, stage } = this;
    for (const radio of document.getElementsByName('navigation')) {
      radio.addEventListener('change', () => this.setNavigation(radio.value));
    }
    at.up.append(...Object.keys(stage.ups).map((name) => new Option(UP_NAMES[name], name)));
    this.on('up', 'change', () => this.setUp(at.up.value, false));
    this.on('flip', 'click', () => this.setUp(at.up.value, !stage.isFlipped));
    this.on('reset', 'click', () => this.reset());
    this.on('screenshot', 'click', () => this.screenshot());
    this.on('copy-camera', 'click', () => this.copyCamera());
  }

  setNavigation(name) {
    this.stage.flies = name === 'fly';
    for (const radio of document.getElementsByName('navigation')) radio.checked = radio.value === name;
    this.say(name === 'fly' ? 'Dragging looks around' : 'Dragging orbits the scene');
  }

  setUp(name, isFlipped) {
    this.stage.setUp(name, isFlipped);
    this.at.flip.setAttribute('aria-pressed', isFlipped);
    this.say(`Up: ${UP_NAMES[name]}${isFlipped ? ', flipped' : ''}`);
  }

  reset() {
    this.stage.reset();
    this.say('Everything is in view');
  }

  async screenshot() {
    const url = URL.createObjectURL(await this.stage.screenshot());
    const link = Object.assign(document.createElement('a'), { href: url, download: `${DESCRIPTION.title}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    this.say(`Screenshot: ${link.download}`);
  }

  copyCamera() {
    const { entry } = this.stage;
    return this.copy(JSON.stringify(entry, null, 2), `Camera copied: ${entry.name}`);
  }

  async copy(text, message) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Pages on a disk may not use the clipboard everywhere; a selection they may copy.
      const field = Object.assign(document.createElement('textarea'), { value: text, className: 'unseen' });
      document.body.append(field);
      const focused = document.activeElement;
      field.select();
      const isCopied = document.execCommand('copy');
      field.remove();
      focused?.focus();
      if (!isCopied) return this.say('The browser does not let this page copy', true);
    }
    this.say(message);
  }

  connectPoints() {
    const { at, stage } = this;
    const { levels } = DESCRIPTION;
    at['confidence-controls'].hidden = levels.length < 2;
    at.confidence.max = Math.max(levels.length - 1, 1);
    this.on('size', 'input', () => {
      stage.cloud.size = 2 ** at.size.value;
      this.showPoints();
    });
    this.on('confidence', 'input', () => this.showPoints());
    this.on('percentile', 'input', () => this.showPoints());
  }

  /** Applies the sliders of the points, and shows what they say. */
  showPoints() {
    const { at, stage } = this;
    const { levels } = DESCRIPTION;
    const percent = Number(at.percentile.value);
    // Points that tie with the last one stay: a level that no point has is that of those below.
    let byShare = Math.min(Math.round(256 * (1 - percent / 100)), levels.length - 1);
    while (byShare > 0 && levels[byShare] === levels[byShare + 1]) byShare--;
    stage.cloud.setLeastLevel(Math.max(Number(at.confidence.value), byShare));
    const least = (levels[at.confidence.value] ?? 0).toPrecision(3);
    at['size-value'].textContent = `${Math.round(100 * stage.cloud.size)} %`;
    at['confidence-value'].textContent = least;
    at.confidence.setAttribute('aria-valuetext', `confidence ${least}`);
    at['percentile-value'].textContent = `${percent} %`;
    at.percentile.setAttribute('aria-valuetext', `${percent} percent`);
    at.size.setAttribute('aria-valuetext', at['size-value'].textContent);
    const number = (value) => value.toLocaleString('en');
    at.count.textContent = `${number(stage.cloud.shown)} of ${number(stage.cloud.total)} points shown`;
    stage.draw();
  }

  connectCameras() {
    const { at, stage } = this;
    const { cameras } = stage;
    at['cameras-section'].hidden = cameras.items.length === 0;
    this.on('fade', 'input', () => {
      cameras.setFade(at.fade.value / 100);
      this.showCameras();
    });
    this.on('frustum', 'input', () => {
      cameras.setSize(2 ** at.frustum.value);
      this.showCameras();
    });
    this.on('all-frustums', 'change', () => this.showFrustums(at['all-frustums'].checked));
    this.buttons = cameras.items.map((item) => this.cameraButton(item));
    this.showCameras();
  }

  cameraButton(item) {
    const line = document.createElement('li');
    const button = Object.assign(document.createElement('button'), { type: 'button', title: item.name });
    button.setAttribute('aria-label', `Go to image ${item.name}`);
    const thumb = Object.assign(document.createElement('span'), { className: 'thumb' });
    const name = Object.assign(document.createElement('span'), { textContent: item.name });
    button.append(thumb, name);
    button.addEventListener('click', () => this.stage.jump(item));
    const check = Object.assign(document.createElement('input'), { type: 'checkbox', checked: true });
    check.setAttribute('aria-label', `Show the frustum of ${item.name}`);
    check.title = 'Show the frustum';
    check.addEventListener('change', () => {
      this.stage.cameras.show(item, check.checked);
      this.showCameras();
    });
    line.append(button, check);
    this.at.cameras.append(line);
    return { button, check, thumb, item };
  }

  /** An image is decoded: the list shows it too. */
  setThumb(item) {
    const image = new Image();
    image.className = 'thumb';
    image.alt = '';
    image.src = URL.createObjectURL(item.blob);
    this.buttons[item.index].thumb.replaceWith(image);
  }

  showFrustums(areShown) {
    this.stage.cameras.items.forEach((item) => (item.isShown = areShown));
    this.stage.cameras.refresh();
    this.showCameras();
    this.say(areShown ? 'All frustums are shown' : 'No frustums are shown');
  }

  showCameras() {
    const { at, stage } = this;
    at['fade-value'].textContent = `${at.fade.value} %`;
    at['frustum-value'].textContent = `${Math.round(100 * 2 ** at.frustum.value)} %`;
    at.frustum.setAttribute('aria-valuetext', at['frustum-value'].textContent);
    const shown = this.buttons.filter(({ item }) => item.isShown).length;
    at['all-frustums'].checked = shown === this.buttons.length;
    at['all-frustums'].indeterminate = shown > 0 && shown < this.buttons.length;
    for (const { button, check, item } of this.buttons) {
      check.checked = item.isShown;
      button.setAttribute('aria-current', item === stage.cameras.chosen);
    }
    stage.draw();
  }

  /** Goes to the next image, or the one before. */
  step(by) {
    const { items, chosen } = this.stage.cameras;
    if (items.length === 0) return;
    const start = this.last ?? (by > 0 ? -1 : 0);
    const index = ((chosen?.index ?? start) + by + items.length) % items.length;
    this.stage.jump(items[index]);
    this.buttons[index].button.scrollIntoView({ block: 'nearest' });
  }

  connectMeasuring() {
    const { at, stage } = this;
    const { measuring } = stage;
    this.on('measure', 'click', () => this.setMeasuring(!measuring.isOn));
    this.on('scale-form', 'submit', (event) => {
      event.preventDefault();
      const metres = Number(at['true-distance'].value.trim().replace(',', '.'));
      if (!measuring.setTrue(metres)) return this.say('The true distance must be a number above 0', true);
      this.showScale();
      this.showFacts();
      this.showMeasured();
      this.say(`Scale: ${at.scale.value} metres per unit`);
      stage.draw();
    });
    this.on('copy-scale', 'click', () => this.copy(at.scale.value, 'Scale copied'));
  }

  setMeasuring(isOn) {
    const { measuring, canvas } = this.stage;
    measuring.isOn = isOn;
    if (isOn) measuring.clear();
    canvas.classList.toggle('picks', isOn);
    this.at.crosshair.hidden = !isOn;
    this.at.measure.setAttribute('aria-pressed', isOn);
    this.showMeasured();
    if (isOn) {
      canvas.focus({ preventScroll: true });
      this.say('Pick the first point: click it, or press Enter at the cross');
    } else {
      this.say('');
    }
    this.stage.draw();
  }

  showMeasured() {
    const { at, stage: { measuring, scale } } = this;
    const { distance } = measuring;
    at['true-distance'].disabled = at['set-scale'].disabled = !distance;
    if (distance !== null) at.measured.textContent = `Distance: ${scale.format(distance)}`;
    else at.measured.textContent = `Pick two points. The scale is ${scale.description}.`;
  }

  showScale() {
    const { metresPerUnit } = this.stage.scale;
    this.at.scale.value = metresPerUnit === null ? 'unknown' : Number(metresPerUnit.toPrecision(9));
    this.at['copy-scale'].disabled = metresPerUnit === null;
    this.showMeasured();
  }

  showFacts() {
    const { cloud, cameras, scale } = this.stage;
    const images = cameras.items.length;
    const parts = [
      `${cloud.total.toLocaleString('en')} points`,
      ...(images ? [`${images} ${images === 1 ? 'image' : 'images'}`] : []),
      scale.description,
    ];
    this.at.facts.textContent = parts.join(' · ');
  }

  connectPage() {
    const { at } = this;
    this.on('theme', 'change', () => this.applyTheme());
    this.dark.addEventListener('change', () => this.applyTheme());
    this.on('toggle-panel', 'click', () => this.togglePanel());
    this.on('open-help', 'click', () => at.help.showModal());
    if (matchMedia('(max-width: 720px)').matches) this.togglePanel();
    this.applyTheme();
  }

  applyTheme() {
    const chosen = this.at.theme.value;
    const isDark = chosen === 'dark' || (chosen === 'system' && this.dark.matches);
    document.documentElement.dataset.theme = isDark ? 'dark' : 'light';
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    this.stage.setColors(color('--view'), color('--edges'));
  }

  togglePanel() {
    const isHidden = document.body.classList.toggle('wide');
    this.at['toggle-panel'].setAttribute('aria-expanded', !isHidden);
  }

  /** The stage tells what changed. */
  told(what) {
    const { stage } = this;
    if (what === 'camera') {
      this.last = stage.cameras.chosen?.index ?? this.last;
      this.showCameras();
      if (stage.cameras.chosen) this.say(`At image ${stage.cameras.chosen.name}`);
    }
    if (what === 'motion' && this.buttons.some(({ button }) => button.getAttribute('aria-current') === 'true')) {
      this.showCameras();
      this.say('');
    }
    if (what === 'missed') this.say('There is no point; pick another place');
    if (what === 'measured') {
      const { distance } = stage.measuring;
      this.showMeasured();
      this.say(distance === null ? 'Pick the second point' : `Distance: ${stage.scale.format(distance)}`);
    }
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
    const { stage, at } = this;
    const isButton = event.target instanceof HTMLButtonElement || event.target instanceof HTMLInputElement;
    const zoom = (factor) => {
      stage.navigation.zoom(factor);
      stage.changed();
    };
    const actions = {
      '?': () => at.help.showModal(),
      '+': () => zoom(0.85),
      '=': () => zoom(0.85),
      '-': () => zoom(1 / 0.85),
      '[': () => this.step(-1),
      ']': () => this.step(1),
      f: () => this.reset(),
      m: () => this.setMeasuring(!stage.measuring.isOn),
      u: () => this.setUp(at.up.value, !stage.isFlipped),
      c: () => this.copyCamera(),
      p: () => this.screenshot(),
      h: () => this.togglePanel(),
      i: () => this.showFrustums(!at['all-frustums'].checked),
      o: () => this.setNavigation(stage.flies ? 'orbit' : 'fly'),
      Enter: () => stage.measuring.isOn && !isButton && stage.pickEnd(),
      Escape: () => stage.measuring.isOn && this.setMeasuring(false),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    if (event.key === '?') event.preventDefault();
    action();
  }
}
