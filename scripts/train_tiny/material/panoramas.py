"""Reads HDR panoramas and measures the sun in each: `packed` gives what `packs.save_panoramas` writes."""

import base64
import re
import tempfile

import numpy as np
import OpenEXR
from PIL import Image

from material.packs import INDOOR, OUTDOOR, SKY, encode

QUALITY = 94
BRIGHTEST = 12  # times the mean: what is stored at most, so that eight bits are enough for the rest
WIDTHS = (1024, 512)
INDOORS = {"apartment", "hall", "interior", "lab", "lobby", "studio", "warehouse", "workshop"}


def read_exr(path):
    with OpenEXR.File(str(path), separate_channels=False) as file:
        channels = file.channels()
        return np.asarray(channels["RGB" if "RGB" in channels else "RGBA"].pixels, np.float32)[..., :3]


def read_module(path):
    """An EXR file inside a JavaScript module, as a data URL."""
    data = base64.b64decode(re.search(r"base64,([A-Za-z0-9+/=]+)", path.read_text())[1])
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(data)
        file.flush()
        return read_exr(file.name)


def read_rgbe(path):
    """A Radiance file (.hdr), run-length encoded or not."""
    data = path.read_bytes()
    end = data.index(b"\n\n") + 2
    size, start = data[end:data.index(b"\n", end)].split(), data.index(b"\n", end) + 1
    height, width = int(size[1]), int(size[3])
    out = np.zeros((height, width, 4), np.uint8)
    for row in range(height):
        if data[start:start + 2] != b"\x02\x02":
            out[row] = np.frombuffer(data, np.uint8, 4 * width, start).reshape(width, 4)
            start += 4 * width
            continue
        start += 4
        for channel in range(4):
            at = 0
            while at < width:
                count = data[start]
                if count > 128:
                    out[row, at:at + count - 128, channel] = data[start + 1]
                    at, start = at + count - 128, start + 2
                else:
                    out[row, at:at + count, channel] = np.frombuffer(data, np.uint8, count, start + 1)
                    at, start = at + count, start + 1 + count
    scale = np.ldexp(1.0, out[..., 3].astype(int) - 136)[..., None]
    return (out[..., :3] * scale).astype(np.float32)


def directions(height, width):
    """Unit vector of each pixel, and the solid angle of a pixel of each row (see packs.py)."""
    a = 2 * np.pi * (0.5 - (np.arange(width) + 0.5) / width)
    e = np.pi * (0.5 - (np.arange(height) + 0.5) / height)
    rays = np.stack([np.cos(e)[:, None] * np.cos(a), np.cos(e)[:, None] * np.sin(a), np.sin(e)[:, None] + 0 * a], -1)
    return rays, (np.cos(e) * np.pi / height * 2 * np.pi / width)[:, None]


def shrunk(radiance, width):
    factor = radiance.shape[1] // width
    rows, columns = radiance.shape[0] // factor, radiance.shape[1] // factor
    return radiance[:rows * factor, :columns * factor].reshape(rows, factor, columns, factor, 3).mean((1, 3))


def spread(a, pick, reach=3):
    """`pick` (np.maximum or np.minimum) of each pixel's neighbours up to `reach` pixels away."""
    for axis in (0, 1):
        a = pick.reduce([np.roll(a, shift, axis) for shift in range(-reach, reach + 1)])
    return a


def without_faults(radiance):
    """Replaces what is no number, and mends suns in which some channels, or all, overflowed."""
    radiance = np.nan_to_num(np.maximum(radiance, 0), nan=65504.0, posinf=65504.0)
    strongest = radiance.max(-1)
    bright = strongest > 30 * np.median(strongest)
    radiance = np.where(bright[..., None], np.maximum(radiance, 0.6 * strongest[..., None]), radiance)
    mended = np.minimum(spread(spread(strongest, np.maximum), np.minimum), 65504)  # fills small dark holes in what is bright
    hole = (mended > 30 * np.median(strongest)) & (mended > 3 * strongest)
    return np.where(hole[..., None], mended[..., None], radiance)


def packed(radiance, kind):
    """One panorama as `packs.save_panoramas` takes it, from linear RGB radiance (height, 2 * height, 3)."""
    width = next(w for w in WIDTHS if w <= radiance.shape[1])
    radiance = shrunk(without_faults(radiance), width)
    rays, solid = directions(*radiance.shape[:2])
    sphere_mean = lambda a: (a * solid[..., None]).sum((0, 1)) / (4 * np.pi)
    brightness = radiance.mean(-1)
    scale = min(np.quantile(brightness, 0.995) * 1.5, BRIGHTEST * sphere_mean(radiance).mean())
    for _ in range(8):  # what is clipped counts no longer towards the mean
        scale = min(scale, BRIGHTEST * sphere_mean(np.minimum(radiance, scale)).mean())
    clipped = np.minimum(radiance, scale)
    unit = 0.5 / sphere_mean(clipped).mean()
    clipped, excess, scale = clipped * unit, np.maximum(radiance - scale, 0) * unit, scale * unit

    # The sun: what is brighter than `scale` around the brightest place.
    peak = rays[np.unravel_index(np.argmax(brightness), brightness.shape)]
    near = solid * (rays @ peak > np.cos(np.radians(15)))
    weight = near * np.where(brightness > np.quantile(brightness, 0.998), brightness, 0)
    sun = (rays * weight[..., None]).sum((0, 1))
    sun = sun / np.linalg.norm(sun)
    power = (excess * (near * np.maximum(rays @ sun, 0))[..., None]).sum((0, 1))
    upper = rays[..., 2] > 0
    mean = (clipped * (solid * upper)[..., None]).sum((0, 1)) / (2 * np.pi)
    stored = np.round(255 * np.sqrt(np.minimum(clipped / scale, 1))).astype(np.uint8)
    return {"image": encode(stored, QUALITY), "size": stored.shape[:2], "scale": scale, "sun": sun, "sun_power": power,
            "upper": mean, "kind": kind}


def sources(root):
    """(linear radiance, kind, path below `root`, licence, author) of each panorama."""
    for path in sorted((root / "blender-data").rglob("studiolights/world/*.exr")):
        kind = INDOOR if path.stem in INDOORS else OUTDOOR
        yield read_exr(path), kind, path.relative_to(root), "CC0-1.0", "Greg Zaal and others (HDRI Haven), for Blender"
    for path in sorted((root / "pmndrs-assets/package/hdri").glob("*.exr.js")):
        kind = INDOOR if path.name.split(".")[0] in INDOORS else OUTDOOR
        yield read_module(path), kind, path.relative_to(root), "CC0-1.0", "Poly Haven's authors, for Poimandres"
    for path in sorted((root / "mani_skill").rglob("*puresky*.hdr")):
        yield read_rgbe(path), SKY, path.relative_to(root), "CC0-1.0", "Poly Haven's authors"


def view(radiance, yaw, pitch, field=75, side=256):
    """A photograph of the panorama (linear radiance): square, `field` degrees wide, exposed by its own brightness."""
    span = np.tan(np.radians(field / 2)) * (2 * (np.arange(side * 2) + 0.5) / (side * 2) - 1)
    yaw, pitch = np.radians(yaw), np.radians(pitch)
    ahead = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0])
    up = np.cross(right, ahead)
    rays = ahead + span[None, :, None] * right - span[:, None, None] * up
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    height, width = radiance.shape[:2]
    x = (0.5 - np.arctan2(rays[..., 1], rays[..., 0]) / (2 * np.pi)) * width - 0.5
    y = np.clip((0.5 - np.arcsin(rays[..., 2]) / np.pi) * height - 0.5, 0, height - 1)
    x0, y0 = np.floor(x).astype(int), np.minimum(np.floor(y).astype(int), height - 2)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    at = lambda dy, dx: radiance[y0 + dy, (x0 + dx) % width]
    seen = (at(0, 0) * (1 - fx) + at(0, 1) * fx) * (1 - fy) + (at(1, 0) * (1 - fx) + at(1, 1) * fx) * fy
    seen = seen * (0.25 / max(np.median(seen.mean(-1)), 1e-6))
    shown = 255 * np.clip(seen / (1 + 0.25 * seen) * 1.1, 0, 1) ** (1 / 2.2)
    return np.asarray(Image.fromarray(shown.astype(np.uint8)).resize((side, side), Image.BOX))
