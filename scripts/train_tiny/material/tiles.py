"""Cuts tiles from images and judges them: what is flat, blurred, no colour image, or seen before is left out."""

import numpy as np
from PIL import Image

from material.packs import CUTOUT, MATERIAL, PICTURE, SIDE
from material.sources import PHOTO, POSTER

LEAST = 190  # pixels of a crop's side; smaller crops would be blurred when enlarged to a tile
MOST_CROPS = 6  # of one photograph


def grey(tile):
    return tile[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def halved(a):
    return (a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]) / 4


def flat_share(tile):
    """Share of the blocks of 16x16 pixels in which nothing is to be seen."""
    blocks = grey(tile).reshape(SIDE // 16, 16, SIDE // 16, 16)
    return float((blocks.std((1, 3)) < 2.0).mean())


def detail(tile):
    """What is lost when the tile is halved and doubled again, in grey levels, over its most detailed quarter."""
    g = grey(tile)
    lost = np.abs(g - np.repeat(np.repeat(halved(g), 2, 0), 2, 1)).reshape(16, 16, 16, 16).mean((1, 3))
    return float(np.sort(lost.ravel())[-64:].mean())


def is_normal_map(tile):
    red, green, blue = tile[..., :3].reshape(-1, 3).mean(0)
    return blue > 190 and abs(red - 128) < 24 and abs(green - 128) < 24


def fingerprint(tile):
    small = np.asarray(Image.fromarray(tile[..., :3]).convert("L").resize((9, 8), Image.BILINEAR), np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def is_even(tile):
    """Whether all quarters of the tile look alike: it may then be repeated as a material."""
    t = tile[..., :3].astype(np.float32)
    half = SIDE // 2
    quarters = [t[y:y + half, x:x + half] for y in (0, half) for x in (0, half)]
    means = np.array([q.mean((0, 1)) for q in quarters])
    spreads = np.array([q.std() for q in quarters])
    return float(np.ptp(means, axis=0).max()) < 0.5 * spreads.mean() + 4 and spreads.max() < 1.6 * spreads.min() + 1


def one_colour_share(tile):
    """Share of the most frequent colour: large around the islands of an unwrapped model's texture, and in drawings."""
    colours = tile[..., :3].astype(np.int32) // 4 @ np.array([1, 64, 4096])
    return np.bincount(colours.ravel()).max() / colours.size


def is_worth_it(tile, flat=0.45, least_detail=2.5):
    level = grey(tile)
    return (level.std() > 8 and level.mean() > 28 and flat_share(tile) < flat and detail(tile) > least_detail
            and not is_normal_map(tile) and one_colour_share(tile) < 0.35)


def lightened(tile, least=64):
    """Very dark textures were made for games that light them strongly."""
    gain = np.clip(least / max(grey(tile).mean(), 1), 1, 2)
    return np.minimum(tile * gain, 255).astype(np.uint8)


def as_tile(image, box=None):
    return np.asarray(image.resize((SIDE, SIDE), Image.LANCZOS, box))


def squares(width, height):
    """Boxes of square crops at several scales, large ones first."""
    side = min(width, height)
    scales = [side]
    while scales[-1] * 0.6 >= LEAST:
        scales.append(scales[-1] * 0.6)
    for scale in scales:
        columns, rows = (max(1, round((length - scale) / (0.75 * scale)) + 1) for length in (width, height))
        for row in range(rows):
            for column in range(columns):
                x = (width - scale) * (column + 0.5 * (columns == 1)) / max(columns - 1, 1)
                y = (height - scale) * (row + 0.5 * (rows == 1)) / max(rows - 1, 1)
                yield x, y, x + scale, y + scale


def opened(path):
    """RGB or RGBA image, at most 1600 pixels long."""
    image = Image.open(path)
    image.draft("RGB", (1600, 1600))
    alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    image = image.convert("RGBA" if alpha else "RGB")
    if alpha and np.asarray(image)[..., 3].min() > 250:
        image = image.convert("RGB")
    image.thumbnail((1600, 1600), Image.LANCZOS, reducing_gap=3)
    return image


def tiles_of(path, kind):
    """(tile, its kind in the atlas) of one image file, best first; the caller leaves out what it has already."""
    image = opened(path)
    width, height = image.size
    if min(width, height) < 120 or max(width, height) > 4.5 * min(width, height):
        return
    if image.mode == "RGBA":
        tile = as_tile(image)
        alpha = tile[..., 3].astype(float) / 255
        solid, soft = (alpha > 0.9).mean(), ((alpha > 0.1) & (alpha < 0.9)).mean()
        if 0.15 < solid < 0.9 and soft < 0.25 and tile[alpha > 0.9][:, :3].std() > 12:
            yield tile, CUTOUT
        if solid < 0.97:
            return
        image = image.convert("RGB")
    if kind == PHOTO:
        crops = [as_tile(image, box) for box in squares(width, height)]
        whole, rest = crops[:2], crops[2:]
        rest = sorted((t for t in rest if is_worth_it(t)), key=detail, reverse=True)
        chosen = [t for t in whole if is_worth_it(t, 0.7)] + rest
    elif kind == POSTER:
        chosen = [as_tile(image)]
    else:
        tile = as_tile(image)
        chosen = [lightened(tile)] if is_worth_it(tile, 0.5, 1.6) and min(width, height) >= 128 else []
        if chosen and min(width, height) >= 900:  # a finer tile of a large texture
            chosen += [t for t in [as_tile(image, (0, 0, 512, 512))] if is_worth_it(t)]
    for tile in chosen:
        repeats = kind != POSTER and is_even(tile) and (kind != PHOTO or flat_share(tile) < 0.1)
        yield tile, MATERIAL if repeats else PICTURE


class Seen:
    """Fingerprints of the tiles that were taken."""

    def __init__(self, distance=6):
        self.taken, self.distance = np.zeros(0, np.uint64), distance

    def is_new(self, tile):
        print_ = np.uint64(fingerprint(tile))
        if len(self.taken) and (np.bitwise_count(self.taken ^ print_) <= self.distance).any():
            return False
        self.taken = np.append(self.taken, print_)
        return True


def collect(images, excluded=frozenset()):
    """(tile, kind in the atlas, image it came from) of all `images`; `excluded` are fingerprints of tiles thrown out by eye."""
    seen = Seen()
    for image in images:
        taken = 0
        try:
            for tile, kind in tiles_of(image.path, image.kind):
                if fingerprint(tile) not in excluded and seen.is_new(tile):
                    yield tile, kind, image
                    taken += 1
                if taken == MOST_CROPS:
                    break
        except OSError as error:
            print(f"{image.path}: left out, cannot be read ({error})")
