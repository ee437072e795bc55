#!/usr/bin/env python3
"""Makes the small image files of tests/images/decoding and records the pixels that Pillow gives for them.

    venv/bin/python scripts/make_decoding_cases.py

Needs Python 3.10 with numpy, Pillow, imagecodecs and pillow-jpls, and cjpeg of libjpeg-turbo. Pixels are those after
`ImageOps.exif_transpose`, as RGB, those of JPEG-LS files CharLS's; summary.json has each file's size and the SHA-256 of its
pixels. The pixels of twelve_bit.jpg are in twelve_bit.png.
"""

import hashlib
import io
import json
import pathlib
import struct
import subprocess
import tempfile
import zlib

import imagecodecs
import numpy
import PIL
import pillow_jpls  # noqa: F401, so that Pillow saves JPEG-LS
from PIL import Image, ImageOps, features
from PIL.PngImagePlugin import PngInfo

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests/images/decoding"
# Odd sides, and more than one minimum coded unit each way at every sampling.
SIZE = (45, 37)
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def cjpeg(image, *options, scans=None):
    with tempfile.TemporaryDirectory() as folder:
        source, script = pathlib.Path(folder, "a.ppm"), pathlib.Path(folder, "scans")
        image.save(source)
        if scans:
            script.write_text(scans)
            options += ("-scans", str(script))
        return subprocess.run(["cjpeg", "-quality", "80", *options, str(source)], check=True, capture_output=True).stdout


def lossless(image, predictor, factors=((1, 1),) * 3, shift=0, units=0, scans=((0, 1, 2),)):
    """A lossless JPEG file, with a restart marker behind as many units, and a table that codes each size with 5 bits."""
    h_max, v_max = (max(factor[axis] for factor in factors) for axis in (0, 1))
    pixels = numpy.asarray(image).astype("i4") >> shift
    out = b"\xFF\xD8" + segment(0xC4, bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)]))
    parts = b"".join(bytes([i + 1, h << 4 | v, 0]) for i, (h, v) in enumerate(factors))
    out += segment(0xC3, struct.pack(">BHHB", 8, image.height, image.width, 3) + parts)
    out += segment(0xDD, struct.pack(">H", units))
    rule = [
        lambda a, b, c: a,
        lambda a, b, c: b,
        lambda a, b, c: c,
        lambda a, b, c: a + b - c,
        lambda a, b, c: a + ((b - c) >> 1),
        lambda a, b, c: b + ((a - c) >> 1),
        lambda a, b, c: (a + b) >> 1,
    ][predictor - 1]
    for scan in scans:
        out += segment(0xDA, bytes([len(scan), *sum(([i + 1, 0] for i in scan), []), predictor, 0, shift]))
        planes, wide, high = [], -(-image.width // h_max), -(-image.height // v_max)
        for i in scan:
            h, v = factors[i]
            plane = pixels[:: v_max // v, :: h_max // h, i]
            if len(scan) == 1:
                (high, wide), h, v = plane.shape, 1, 1
            fill = ((0, high * v - plane.shape[0]), (0, wide * h - plane.shape[1]))
            planes.append((numpy.pad(plane, fill, mode="edge"), h, v))
        bits, restarts, start = "", 0, 0
        for y in range(high):
            if units and y and y * wide % units == 0:
                out += coded(bits) + bytes([0xFF, 0xD0 + restarts % 8])
                bits, restarts, start = "", restarts + 1, y
            for x in range(wide):
                for plane, h, v in planes:
                    for row in range(y * v, (y + 1) * v):
                        for column in range(x * h, (x + 1) * h):
                            left, above = (row, column - 1), (row - 1, column)
                            if row == start * v:
                                guess = plane[left] if column else 128 >> shift
                            elif column == 0:
                                guess = plane[above]
                            else:
                                guess = rule(plane[left], plane[above], plane[row - 1, column - 1])
                            gap = int(plane[row, column]) - int(guess)
                            size = abs(gap).bit_length()
                            bits += f"{size:05b}"
                            bits += f"{gap if gap > 0 else gap + (1 << size) - 1:0{size}b}" if size else ""
        out += coded(bits)
    return out + b"\xFF\xD9"


def coded(bits):
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xFF", b"\xFF\0")


def exif(orientation, kind=3, order="<"):
    value = struct.pack(order + {1: "Bxxx", 3: "Hxx", 4: "I"}[kind], orientation)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return start + struct.pack(order + "HHHI", 1, 0x0112, kind, 1) + value + bytes(4)


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(jpeg, *segments):
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def without_tables(jpeg):
    at, kept = 2, jpeg[:2]
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
        if jpeg[at + 1] != 0xC4:
            kept += jpeg[at:end]
        at = end
    return kept + jpeg[at:]


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(png, *chunks, last=False):
    at = len(png) - 12 if last else 33
    return png[:at] + b"".join(chunks) + png[at:]


def webp_with_exif(webp, exif, size):
    chunks = webp[12:]
    head = b"VP8X" + struct.pack("<I", 10) + bytes([8, 0, 0, 0])
    head += (size[0] - 1).to_bytes(3, "little") + (size[1] - 1).to_bytes(3, "little")
    tail = b"EXIF" + struct.pack("<I", len(exif)) + exif + bytes(len(exif) % 2)
    body = b"WEBP" + head + chunks + tail
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(image, **options):
    return saved(image, "TIFF", **options)


def raw_tiff(*pages):
    """A file of images that Pillow does not write: each is its tags and its strips or tiles, with their tag."""
    out = b"II*\0" + bytes(4)
    pointer = 4
    for tags, (chunks_tag, chunks) in pages:
        offsets = [len(out) + sum(map(len, chunks[:i])) for i in range(len(chunks))]
        out += b"".join(chunks)
        lengths_tag = 279 if chunks_tag == 273 else 325
        entries = sorted([*tags, (chunks_tag, 4, offsets), (lengths_tag, 4, [len(chunk) for chunk in chunks])])
        out = out[:pointer] + struct.pack("<I", len(out)) + out[pointer + 4 :]
        directory, values = b"", b""
        behind = len(out) + 2 + 12 * len(entries) + 4
        for tag, kind, numbers in entries:
            packed = struct.pack("<" + {3: "H", 4: "I"}[kind] * len(numbers), *numbers)
            place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", behind + len(values))
            values += packed if len(packed) > 4 else b""
            directory += struct.pack("<HHI", tag, kind, len(numbers)) + place
        out += struct.pack("<H", len(entries)) + directory
        pointer = len(out)
        out += bytes(4) + values
    return out


def rgb_tags(image, *more):
    return [(256, 4, [image.width]), (257, 4, [image.height]), (258, 3, [8, 8, 8]), (259, 3, [1]), (262, 3, [2]), (277, 3, [3]), *more]


def tiled_planar(image, side=16):
    pixels = numpy.asarray(image)
    tiles = []
    for plane in range(3):
        for y in range(0, image.height, side):
            for x in range(0, image.width, side):
                tile = numpy.zeros((side, side), "u1")
                part = pixels[y : y + side, x : x + side, plane]
                tile[: part.shape[0], : part.shape[1]] = part
                tiles.append(tile.tobytes())
    return raw_tiff((rgb_tags(image, (284, 3, [2]), (322, 4, [side]), (323, 4, [side])), (324, tiles)))


def thumbnail_first(image):
    small = image.resize((12, 8))
    thumbnail = (rgb_tags(small, (254, 4, [1]), (278, 4, [8])), (273, [small.tobytes()]))
    return raw_tiff(thumbnail, (rgb_tags(image, (278, 4, [image.height])), (273, [image.tobytes()])))


def cases():
    image = Image.open(ROOT / "assets/demo_1.jpg").convert("RGB").resize(SIZE)
    noise = numpy.random.default_rng(0).integers(-20, 21, (SIZE[1], SIZE[0], 3))
    image = Image.fromarray((numpy.asarray(image).astype("i4") + noise).clip(0, 255).astype("u1"))
    separate = "0;\n1;\n2;\n"
    for sampling in ["1x1", "2x1", "1x2", "2x2", "3x1", "4x1", "4x2", "1x1,2x2,2x2", "2x1,1x2,1x2", "2x2,2x1,1x1"]:
        name = sampling.replace(",", "_")
        yield f"sampled_{name}.jpg", cjpeg(image, "-sample", sampling)
        yield f"separate_{name}.jpg", cjpeg(image, "-sample", sampling, scans=separate)
    for name, options in [
        ("progressive", ["-progressive"]),
        ("arithmetic", ["-arithmetic"]),
        ("arithmetic_progressive", ["-arithmetic", "-progressive"]),
        ("restarts", ["-restart", "1B"]),
        ("progressive_restarts", ["-progressive", "-restart", "1"]),
        ("arithmetic_restarts", ["-arithmetic", "-restart", "2B"]),
        ("grey", ["-grayscale", "-sample", "2x2"]),
        ("rgb", ["-rgb"]),
    ]:
        yield f"{name}.jpg", cjpeg(image, *options)
    yield "chroma_first.jpg", cjpeg(image, scans="1;\n0;\n2;\n")
    yield "two_scans.jpg", cjpeg(image, scans="1,2;\n0;\n")
    yield "without_tables.jpg", without_tables(saved(image, "JPEG"))
    yield "inks.jpg", saved(image.convert("CMYK"), "JPEG", quality=90)
    yield "narrow.jpg", saved(image.crop((0, 0, 3, 37)), "JPEG")

    stored = image.resize((30, 20))
    for predictor in range(1, 8):
        yield f"lossless_{predictor}.jpg", lossless(stored, predictor, shift=predictor % 2)
    chroma = ((2, 2), (1, 1), (1, 1))
    yield "lossless_sampled.jpg", lossless(stored, 4, chroma, units=15)
    yield "lossless_wide.jpg", lossless(stored, 7, ((1, 1), (2, 1), (1, 1)), shift=2, units=30)
    yield "lossless_separate.jpg", lossless(stored, 6, chroma, scans=((2,), (0, 1)))
    for turns in ("none", "line", "sample"):
        yield f"ls_{turns}.jls", saved(stored, "JPEG-LS", interleave=turns)
        yield f"ls_near_{turns}.jls", saved(stored, "JPEG-LS", interleave=turns, near_lossless=3)
    flat = stored.quantize(4).convert("L")
    yield "ls_grey.jls", saved(flat, "JPEG-LS")
    fine = (numpy.asarray(image).astype("u2") << 4) + 7
    yield "ls_16_bits.jls", imagecodecs.jpegls_encode(fine << 4)
    twelve = imagecodecs.jpeg8_encode(fine, level=95, bitspersample=12, subsampling="420")
    yield "twelve_bit.jpg", twelve
    levels = (imagecodecs.jpeg8_decode(twelve).astype("i4") + 8 >> 4).clip(0, 255)
    yield "twelve_bit.png", saved(Image.fromarray(levels.astype("u1")), "PNG")
    jpeg, png = saved(stored, "JPEG"), saved(stored, "PNG")
    webp = saved(stored, "WEBP", lossless=True)
    header = b"Exif\0\0"
    for turn in range(1, 9):
        yield f"turned_{turn}.jpg", with_segments(jpeg, segment(0xE1, header + exif(turn, 4, ">")))
        yield f"turned_{turn}.tif", tiff(stored, tiffinfo={274: turn}, compression="tiff_lzw")
        yield f"turned_{turn}.png", png_with(png, chunk(b"eXIf", exif(turn)), last=True)
        yield f"turned_{turn}.webp", webp_with_exif(webp, header + exif(turn), stored.size)
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + (XMP % 8).encode()
    yield "turned_xmp.jpg", with_segments(jpeg, segment(0xE1, xmp))
    yield "turned_two_blocks.jpg", with_segments(jpeg, segment(0xE1, xmp), segment(0xE1, header + exif(6)))
    yield "turned_byte.jpg", with_segments(jpeg, segment(0xE1, header + exif(6, 1)))
    yield "turned_without_prefix.webp", webp_with_exif(webp, exif(7), stored.size)
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP % 3)
    yield "turned_xmp.png", saved(stored, "PNG", pnginfo=info)
    raw = header + exif(5)
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(raw):8}\n{raw.hex()}\n", zip=True)
    yield "turned_raw_profile.png", saved(stored, "PNG", pnginfo=info)

    alpha = Image.linear_gradient("L").resize(stored.size)
    clear = stored.copy()
    clear.putalpha(alpha)
    yield "lossy.webp", saved(image, "WEBP", quality=70)
    yield "lossy_alpha.webp", saved(clear, "WEBP", quality=70)
    yield "palette_transparent.png", saved(stored.quantize(16), "PNG", transparency=3)
    yield "grey_alpha.png", saved(clear.convert("LA"), "PNG")
    yield "palette.bmp", saved(stored.quantize(16), "BMP")
    yield "palette.tif", tiff(stored.quantize(200))
    yield "palette_4_bits.tif", tiff(stored.quantize(16), bits=4)
    yield "jpeg_chroma.tif", tiff(image, compression="jpeg", quality=80)
    yield "jpeg_rgb.tif", tiff(image, compression="jpeg", quality=80, tiffinfo={262: 2})
    yield "jpeg_grey.tif", tiff(image.convert("L"), compression="jpeg", quality=80)
    yield "inks.tif", tiff(image.convert("CMYK"), compression="tiff_lzw")
    yield "one_bit.tif", tiff(image.convert("1"))
    yield "fax.tif", tiff(image.convert("1"), compression="group4")
    yield "packbits.tif", tiff(image, compression="packbits")
    yield "predicted.tif", tiff(image, compression="tiff_lzw", tiffinfo={317: 2})
    yield "big.tif", tiff(image, big_tiff=True, compression="tiff_adobe_deflate")
    yield "alpha.tif", tiff(clear)
    yield "tiled_planar.tif", tiled_planar(stored)
    yield "thumbnail_first.tif", thumbnail_first(stored)


def record(pixels):
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return {"width": pixels.width, "height": pixels.height, "sha256": digest}


def main():
    OUT.mkdir(exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    summary = {}
    for name, data in cases():
        (OUT / name).write_bytes(data)
        if name == "twelve_bit.jpg":
            continue
        if name.endswith(".jls"):
            pixels = imagecodecs.jpegls_decode(data)
            pixels = Image.fromarray((pixels >> 8 * (pixels.itemsize - 1)).astype("u1")).convert("RGB")
            summary[name] = record(pixels)
            continue
        with Image.open(OUT / name) as image:
            if name == "thumbnail_first.tif":
                image.seek(1)
            pixels = ImageOps.exif_transpose(image).convert("RGB")
        summary[name] = record(pixels)
    made_by = f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}"
    text = json.dumps({"made_by": made_by, "files": summary}, indent=1)
    (OUT / "summary.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
