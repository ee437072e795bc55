#!/usr/bin/env python3
"""Compares how this project and Pillow decode the image files below a folder.

    cargo build --release --example decode
    python3 -m venv venv && venv/bin/pip install numpy pillow
    venv/bin/python scripts/compare_decoding.py FOLDER [FOLDER ...] [--binary target/release/examples/decode]

Both give 8-bit RGB after EXIF orientation. Files that either refuses and files whose pixels differ are listed, with the
largest and the mean difference in grey levels; the exit code is 1 if any pixels differ. 16-bit grey images are compared by
their high bytes, since Pillow itself clips them at 255. Needs Python 3.10 with numpy and Pillow.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import warnings

import numpy
from PIL import Image, ImageOps

BATCH = 20


def ours(binary, files):
    """The pixels of each file, or the message of its refusal."""
    result = subprocess.run([binary, *files], stdout=subprocess.PIPE)
    data, at, decoded = result.stdout, 0, {}
    while at < len(data):
        end = data.index(b"\n", at)
        head, at = json.loads(data[at:end]), end + 1
        if "error" in head:
            decoded[head["file"]] = head["error"].removeprefix(head["file"] + ": ")
        else:
            shape = (head["height"], head["width"], 3)
            size = shape[0] * shape[1] * 3
            decoded[head["file"]] = numpy.frombuffer(data[at : at + size], "u1").reshape(shape)
            at += size
    missing = [file for file in files if file not in decoded]
    if missing or result.returncode:
        sys.exit(f"{binary} ended with {result.returncode}; without an answer: {missing}")
    return decoded


def pillows(file):
    """Pillow's pixels and the kind of image, or the message of its refusal."""
    try:
        with Image.open(file) as image:
            kind = f"{image.format} {image.mode}"
            image = ImageOps.exif_transpose(image)
            if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
                high = (numpy.asarray(image).astype("i8") >> 8).clip(0, 255).astype("u1")
                return numpy.stack([high] * 3, axis=-1), kind
            return numpy.asarray(image.convert("RGB")), kind
    except Exception as error:  # Whatever it is, it is Pillow's answer.
        return f"{type(error).__name__}: {error}", None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--binary", default="target/release/examples/decode")
    parser.add_argument("--refused", action="store_true", help="list the files as well that only Pillow reads")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    # Pillow refuses twice as many: the limit of ours.
    Image.MAX_IMAGE_PIXELS = 128 << 20
    files = sorted(str(file) for folder in arguments.folders for file in folder.rglob("*") if file.is_file())
    counts = collections.Counter()
    for start in range(0, len(files), BATCH):
        for file, pixels in ours(arguments.binary, files[start : start + BATCH]).items():
            reference, kind = pillows(file)
            if isinstance(pixels, str) and isinstance(reference, str):
                counts["both refuse"] += 1
            elif isinstance(pixels, str):
                counts[f"only Pillow reads ({kind.split()[0]})"] += 1
                if arguments.refused:
                    print(f"{file}: {kind}: refused: {pixels}")
            elif isinstance(reference, str):
                counts["only we read"] += 1
                if arguments.refused:
                    print(f"{file}: Pillow: {reference}")
            elif pixels.shape != reference.shape:
                counts["differ"] += 1
                print(f"{file}: {kind}: {pixels.shape[1]}x{pixels.shape[0]}, Pillow {reference.shape[1]}x{reference.shape[0]}")
            elif (pixels != reference).any():
                gap = numpy.abs(pixels.astype("i2") - reference)
                counts["differ"] += 1
                print(f"{file}: {kind}: up to {gap.max()} grey levels, mean {gap.mean():.4f}")
            else:
                counts[f"equal ({kind.split()[0]})"] += 1
    for what, count in sorted(counts.items()):
        print(f"{count:6} {what}")
    sys.exit(1 if counts["differ"] else 0)


if __name__ == "__main__":
    main()
