// Loads the scene into the page. `window.viewer` is for scripts and tests.
import { DESCRIPTION, takeBlock } from './data.js';
import { Stage } from './stage.js';
import { Panel } from './panel.js';

async function start() {
  const started = performance.now();
  const panel = new Panel();
  if (!window.DecompressionStream) throw new Error('this browser is too old: it lacks DecompressionStream');
  const canvas = document.getElementById('view');
  const stage = new Stage(canvas, document.getElementById('overlay'), (what) => panel.told(what));
  panel.connect(stage);
  window.viewer = { description: DESCRIPTION, stage, panel, isLoaded: false };
  const { blocks } = DESCRIPTION;
  // The next block is inflated, off this thread, while one is decoded.
  let next = blocks.length > 0 ? takeBlock(0) : null;
  for (let index = 0; index < blocks.length; index++) {
    const block = await next;
    if (index + 1 < blocks.length) next = takeBlock(index + 1);
    stage.cloud.add(blocks[index], block);
    panel.at.progress.value = (index + 1) / blocks.length;
    if (index === 0) stage.reset(true);
    // A frame now and then, so that points appear and the page stays usable.
    if (index % 8 === 0) {
      stage.draw();
      await new Promise((resolve) => setTimeout(resolve));
    }
  }
  if (!stage.isTouched) stage.reset(true);
  panel.at.progress.hidden = true;
  panel.showPoints();
  panel.showFacts();
  window.viewer.loadMs = performance.now() - started;
  panel.say('Press ? for keys');
  await stage.cameras.load((item) => {
    panel.setThumb(item);
    stage.cameras.refresh();
    stage.draw();
  });
  window.viewer.isLoaded = true;
}

start().catch((error) => {
  const status = document.getElementById('status');
  status.textContent = `The scene cannot be shown: ${error.message}`;
  status.classList.add('bad');
  document.getElementById('progress').hidden = true;
  console.error(error);
});
