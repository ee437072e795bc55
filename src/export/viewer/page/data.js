// The scene inside the page: its description, blocks of points, images.

export const DESCRIPTION = JSON.parse(document.getElementById('scene').textContent);

/** The bytes of an element with base64, which goes away: a large scene need not be there twice. */
export function takeBytes(id) {
  const element = document.getElementById(id);
  const text = element.textContent;
  element.remove();
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < bytes.length; at++) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

/** A JPEG of the page, or null. */
export function takeImage(index) {
  const id = `image-${index}`;
  if (!document.getElementById(id)) return null;
  return new Blob([takeBytes(id)], { type: 'image/jpeg' });
}

/**
 * The points of a block, in an order of which every beginning is spread evenly over the block:
 * `places` are x, y, z in 65535ths of its sides and the level times 257, `colors` RGBA, and
 * `histogram` says how many points each level has.
 */
export async function takeBlock(index) {
  const { count } = DESCRIPTION.blocks[index];
  const stream = new Blob([takeBytes(`block-${index}`)]).stream();
  const inflated = stream.pipeThrough(new DecompressionStream('deflate'));
  const planes = new Uint8Array(await new Response(inflated).arrayBuffer());
  if (planes.length !== 10 * count) {
    throw new Error(`block ${index} has ${planes.length} bytes, expected ${10 * count}`);
  }
  return decodePlanes(planes, count);
}

/** Undoes the differences: see `encode` in blocks.rs. */
function decodePlanes(planes, count) {
  const places = new Uint16Array(4 * count);
  const colors = new Uint8Array(4 * count);
  const histogram = new Uint32Array(256);
  const step = scatterStep(count);
  const change = (low, high) => {
    const code = low | (high << 8);
    return (code >>> 1) ^ -(code & 1);
  };
  let x = 0, y = 0, z = 0, green = 0, red = 0, blue = 0, level = 0;
  for (let at = 0, to = 0; at < count; at++) {
    x = (x + change(planes[at], planes[count + at])) & 0xffff;
    y = (y + change(planes[2 * count + at], planes[3 * count + at])) & 0xffff;
    z = (z + change(planes[4 * count + at], planes[5 * count + at])) & 0xffff;
    green = (green + planes[6 * count + at]) & 0xff;
    red = (red + planes[7 * count + at]) & 0xff;
    blue = (blue + planes[8 * count + at]) & 0xff;
    level = (level + planes[9 * count + at]) & 0xff;
    const slot = 4 * to;
    places[slot] = x;
    places[slot + 1] = y;
    places[slot + 2] = z;
    places[slot + 3] = 257 * level;
    colors[slot] = red + green;
    colors[slot + 1] = green;
    colors[slot + 2] = blue + green;
    colors[slot + 3] = 255;
    histogram[level]++;
    to += step;
    if (to >= count) to -= count;
  }
  return { count, places, colors, histogram };
}

/**
 * How far apart neighbours on the curve are put. Slot s then holds the point s·g of the curve,
 * modulo the number of points, with g a golden section of them: multiples of it are evenly spread.
 */
function scatterStep(count) {
  if (count < 3) return 1;
  for (let golden = Math.round(0.6180339887 * count); ; golden++) {
    const inverse = inverseModulo(golden % count, count);
    if (inverse !== null) return inverse;
  }
}

/** The b with a·b = 1 modulo m, or null if a and m have a common divisor. */
function inverseModulo(a, m) {
  let [r, next, b, following] = [m, a, 0, 1];
  while (next !== 0) {
    const quotient = Math.floor(r / next);
    [r, next] = [next, r - quotient * next];
    [b, following] = [following, b - quotient * following];
  }
  return r === 1 ? ((b % m) + m) % m : null;
}
