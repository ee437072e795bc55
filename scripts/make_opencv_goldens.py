#!/usr/bin/env python3
"""Write what OpenCV makes of the images of tests/images, as Depth Anything 3's input preparation is specified:

    python scripts/make_opencv_goldens.py > tests/golden/da3/preprocess.json

The long side goes to SIDE, then each side to the nearest multiple of 14. Only sizes at which both resizes shrink: there
OpenCV's result is the same on every machine. Needs numpy, opencv-python-headless and pillow.
"""
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

IMAGES = Path(__file__).parent.parent / "tests" / "images"
FILES = ["grey.png", "large_601x433.png", "odd_161x107.png", "plain.bmp", "portrait.png", "rgba.png", "square.png"]
SIDES = [70, 84, 126, 154]
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def nearest(side):
    return (side + 7) // 14 * 14


def prepared(image, side):
    """The resized image, or None where a resize enlarges."""
    height, width = image.shape[:2]
    scale = side / max(width, height)
    if scale > 1:
        return None
    first = (max(1, round(width * scale)), max(1, round(height * scale)))
    second = tuple(map(nearest, first))
    if second[0] > first[0] or second[1] > first[1] or 0 in second:
        return None
    for size in (first, second):
        if size != image.shape[1::-1]:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return image


def main():
    pictures = {}
    for name in FILES:
        if not (IMAGES / name).exists():
            continue
        image = np.asarray(Image.open(IMAGES / name).convert("RGB"))
        variants = {}
        for side in SIDES:
            result = prepared(image, side)
            if result is None:
                continue
            normal = (result.astype(np.float32) / np.float32(255) - MEAN) / DEVIATION
            planes = [np.ascontiguousarray(x.transpose(2, 0, 1)) for x in (result, normal)]
            digest = [hashlib.sha256(x.tobytes()).hexdigest() for x in planes]
            variants[f"{side}_upper_bound_resize"] = {
                "shape_3hw": list(planes[0].shape),
                "u8_sha256": digest[0],
                "f32_sha256": digest[1],
                "noipp_u8_sha256": digest[0],
                "noipp_pixels_different": 0.0,
            }
        if variants:
            pictures[name] = {"variants": variants}
    print(json.dumps({"opencv": cv2.__version__, "pictures": pictures}, indent=1))


if __name__ == "__main__":
    main()
