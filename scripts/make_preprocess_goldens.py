#!/usr/bin/env python3
# requirements: Pillow==13.0.0 numpy==2.4.6 safetensors==0.8.0
"""Draws the images of tests/images and records in tests/golden/preprocess what Pillow makes of them.

    python -m venv venv && venv/bin/pip install Pillow==13.0.0 numpy==2.4.6 safetensors==0.8.0
    venv/bin/python scripts/make_preprocess_goldens.py

The images are formulas of our own. Decoding, orientation, conversion to RGB, resizing and cropping are Pillow's; only
the arithmetic of sizes is written here, after the published description of the image preparation.
"""

import hashlib
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "tests/images"
GOLDEN = ROOT / "tests/golden/preprocess"
ORIENTATION = 0x0112

# (size, patch, square allowed): MASt3R, three sizes of DUNE, the square of 224.
VARIANTS = [(512, 16, False), (518, 14, True), (336, 14, True), (448, 14, True), (224, 16, False)]

# What to keep besides checksums, for the comparison of JPEGs within a tolerance and for a message that says where.
STORED = {(224, 16, False)}
STORED_OF_PHOTO = {(224, 16, False), (512, 16, False)}


def drawing(width, height):
    """An RGB test card: ramps, rings that alias when shrunk, and hard edges that ring."""
    y, x = np.mgrid[0:height, 0:width]
    red = x * 255 // max(width - 1, 1)
    green = (x * x + y * y) // 97 % 256
    blue = np.where((x // 9 + y // 7) % 2 == 0, 255 - y * 255 // max(height - 1, 1), 20)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def write_png(path, samples, bit_depth, color_type, extra=b""):
    """A PNG of kinds that Pillow does not write; `samples` is (height, width[, channels]), big endian."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def draw():
    IMAGES.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawing(161, 107)).save(IMAGES / "odd_161x107.png")
    Image.fromarray(drawing(61, 90)).save(IMAGES / "portrait.png")
    Image.fromarray(drawing(120, 120)).save(IMAGES / "square.png")
    # Large enough to be shrunk at every size; few colors keep the file small.
    coarse = Image.fromarray(drawing(601, 433) // 64 * 80)
    coarse.save(IMAGES / "large_601x433.png", optimize=True)
    coarse.quantize(16).save(IMAGES / "palette.png", optimize=True)

    grey = drawing(75, 52)[..., 1]
    Image.fromarray(grey).save(IMAGES / "grey.png")
    Image.fromarray(grey > 40).save(IMAGES / "one_bit.png")
    alpha = drawing(57, 90)[..., 2:]
    Image.fromarray(np.concatenate([drawing(57, 90), alpha], axis=-1)).save(IMAGES / "rgba.png")

    deep = drawing(64, 48).astype(np.uint32) * 257
    y, x = np.mgrid[0:48, 0:64]
    deep = ((deep + (x * 37 + y * 101)[..., None]) % 65536).astype(">u2")
    write_png(IMAGES / "rgb_16bit.png", deep, 16, 2)
    write_png(IMAGES / "grey_16bit.png", deep[..., 1], 16, 0)

    exif = Image.Exif()
    exif[ORIENTATION] = 6
    photo = Image.fromarray(drawing(300, 200))
    photo.save(IMAGES / "exif_6.jpg", quality=90, exif=exif)
    photo.convert("CMYK").resize((90, 60)).save(IMAGES / "cmyk.jpg", quality=90)
    photo.convert("L").resize((90, 60)).save(IMAGES / "grey_progressive.jpg", quality=90, progressive=True)
    exif[ORIENTATION] = 7
    Image.fromarray(drawing(70, 50)).save(IMAGES / "lossless_exif_7.webp", lossless=True, exif=exif)
    Image.fromarray(drawing(40, 30)).save(IMAGES / "deflate.tif", compression="tiff_adobe_deflate")
    Image.fromarray(drawing(40, 30)).save(IMAGES / "plain.bmp")


def opened(path):
    """The upright RGB image."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "I;16":
            # Pillow clips 16-bit grey at 255; ours keeps the high byte, as Pillow does for 16-bit color.
            return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8)).convert("RGB")
        return upright.convert("RGB")


def framed(image, size, patch, square_allowed):
    """Resizes and crops. Python's `round` takes ties to even."""
    width1, height1 = image.size
    target = round(size * max(width1 / height1, height1 / width1)) if size == 224 else size
    longer = max(width1, height1)
    resample = Image.LANCZOS if longer > target else Image.BICUBIC
    image = image.resize(tuple(round(side * target / longer) for side in image.size), resample)
    width, height = image.size
    cx, cy = width // 2, height // 2
    if size == 224:
        half_width = half_height = min(cx, cy)
    else:
        half_width, half_height = (2 * cx // patch * patch / 2, 2 * cy // patch * patch / 2)
        if width == height and not square_allowed:
            half_height = 3 * half_width / 4
    box = (cx - half_width, cy - half_height, cx + half_width, cy + half_height)
    return image.crop(tuple(round(edge) for edge in box))


def record():
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for old in GOLDEN.iterdir():
        old.unlink()
    cases = {}
    for path in sorted(IMAGES.iterdir()):
        with Image.open(path) as image:
            case = {
                "file_size_wh": list(image.size),
                "mode": image.mode,
                "exif_orientation": image.getexif().get(ORIENTATION),
                "sha256_file": hashlib.sha256(path.read_bytes()).hexdigest(),
                "variants": {},
            }
        arrays = {}
        for variant in VARIANTS:
            size, patch, square_allowed = variant
            name = f"s{size}_p{patch}_{'sq' if square_allowed else 'nosq'}"
            planar = np.asarray(framed(opened(path), *variant)).transpose(2, 0, 1)
            normalised = (planar.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
            stored = variant in (STORED_OF_PHOTO if path.name == "exif_6.jpg" else STORED)
            if stored:
                arrays[f"{name}.u8_every4"] = np.ascontiguousarray(planar[:, ::4, ::4])
            case["variants"][name] = {
                "size": size,
                "patch_size": patch,
                "square_ok": square_allowed,
                "true_shape": list(planar.shape[1:]),
                "multiple_of_patch": all(side % patch == 0 for side in planar.shape[1:]),
                "sha256_u8": hashlib.sha256(planar.tobytes()).hexdigest(),
                "sha256_f32": hashlib.sha256(normalised.astype("<f4").tobytes()).hexdigest(),
                "stored": "rows and columns 0, 4, 8, ..." if stored else "checksums only",
            }
        save_file(arrays, GOLDEN / f"{path.stem}.safetensors")
        cases[path.name] = case
    summary = {"pillow": PIL.__version__, "cases": cases}
    (GOLDEN / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    draw()
    record()
