"""Renders the demonstration pictures: python3 demo.py OUT_DIR [--frames N]

One room, composed by hand out of what training scenes are made of and rendered by the same code; no training scene is
it. Writes demo_1.jpg to demo_4.jpg, or N smaller frames of a walk along its open side, and their true cameras in the
format of the program's `--cameras`. Needs no GPU.
"""
import argparse
import json
import math
import pathlib

import torch
import torch.nn.functional as F
from PIL import Image

from renderer import SOLID, Renderer, Scenes
from scenes import BOX, CYLINDER, ELLIPSOID, about_z, looking

WIDTH, HEIGHT = 672, 504
FOCAL = 0.92  # times the longer side
FINER = 3  # pixels rendered across one of a picture
FRAME_WIDTH, FRAME_HEIGHT = 336, 252
QUALITY = 92
SOFT, CHECKS, BRICKS, PLANKS, STRIPES, DOTS, MARBLE, TILES, STONES, BLOTCHES, BLOCKS, PRINT = range(12)
# Azimuth in degrees from the middle of the room's open side, distance and height in metres. The first two make the
# pair of the README, 28 degrees apart.
CAMERAS = ((-13.0, 4.7, 1.7), (15.0, 4.6, 1.6), (-36.0, 4.7, 2.0), (36.0, 4.8, 2.1))
FOCUS = (-0.05, 0.25, 0.66)
LAMP = (-1.3, -1.9, 3.1)
WARM = (1.06, 1.02, 0.97)  # exposure of red, green and blue


def colour(text):
    """Red, green and blue in [0, 1] of a colour such as "#d0a060"."""
    return [int(text[i:i + 2], 16) / 255 for i in (1, 3, 5)]


def solid(kind, centre, half, texture, cell, first, second, seed=1, wear=0.15, wear_cell=0.5, gloss=0.0, yaw=0.0):
    """A row of the solids, as scene.cu describes it; `yaw` in degrees about z."""
    turn = about_z(torch.tensor(math.radians(yaw))).flatten().tolist()
    row = [kind, *centre, *half, *turn, texture, cell, *colour(first), *colour(second), seed, wear, wear_cell, gloss]
    return row + [0.0] * (SOLID - len(row))


def standing(kind, x, y, floor, half, *paint, **more):
    """A solid whose lowest point is at height `floor`."""
    return solid(kind, (x, y, floor + half[2]), half, *paint, **more)


def room():
    """Floor, three walls, their skirting, and a rug."""
    return [
        solid(BOX, (0, 0, -0.1), (3.2, 4.2, 0.1), PLANKS, 0.19, "#d9a874", "#8a5a34", seed=11, wear=0.2),
        solid(BOX, (0, 2.6, 1.7), (3.2, 0.1, 1.7), SOFT, 0.15, "#efe9d4", "#bcc4a4", seed=5, wear=0.1),
        solid(BOX, (-3.1, 0, 1.7), (0.1, 4.2, 1.7), BRICKS, 0.3, "#c98163", "#e6d8c4", seed=21, wear=0.18),
        solid(BOX, (3.1, 0, 1.7), (0.1, 4.2, 1.7), STRIPES, 0.22, "#8fb0ab", "#e3e8da", seed=8, wear=0.1),
        solid(BOX, (0, 2.48, 0.09), (3.0, 0.03, 0.09), PLANKS, 0.1, "#f0e8da", "#c9b79c", seed=3),
        solid(BOX, (-0.15, -0.35, 0.008), (1.55, 1.15, 0.012), BLOCKS, 0.24, "#2f6f7e", "#efd9a7", seed=14, yaw=4),
    ]


def furniture(x, y, yaw):
    """A table with a vase, two books and two fruits on it."""
    wide, deep, high, leg = 0.72, 0.42, 0.74, 0.04
    c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    at = lambda across, along: (x + c * across - s * along, y + s * across + c * along)
    wood = (PLANKS, 0.12, "#b5763f", "#6d4020")
    parts = [standing(BOX, x, y, high - 2 * leg, (wide, deep, leg), *wood, seed=31, gloss=0.1, yaw=yaw)]
    for across in (-1, 1):
        for along in (-1, 1):
            parts.append(standing(BOX, *at(across * (wide - leg), along * (deep - leg)), 0, (leg, leg, high / 2 - leg),
                                  *wood, seed=33, yaw=yaw))
    return parts + [
        standing(CYLINDER, *at(-0.34, 0.05), high, (0.12, 0.12, 0.19), CHECKS, 0.06, "#2d5d86", "#e8eef0", seed=41),
        standing(BOX, *at(0.33, 0.08), high, (0.2, 0.15, 0.035), PRINT, 0.1, "#a63d40", "#f1d9b5", seed=43,
                 yaw=yaw + 12),
        standing(BOX, *at(0.32, 0.07), high + 0.07, (0.17, 0.13, 0.03), STRIPES, 0.07, "#2f6f6a", "#e9c46a", seed=44,
                 yaw=yaw - 18),
        standing(ELLIPSOID, *at(0.0, -0.2), high, (0.085, 0.085, 0.08), SOFT, 0.05, "#e2812b", "#f3b45c", seed=45,
                 gloss=0.2),
        standing(ELLIPSOID, *at(0.15, -0.24), high, (0.075, 0.075, 0.07), SOFT, 0.05, "#a8b63c", "#dfd77a", seed=46,
                 gloss=0.2),
    ]


def stairs(x, y):
    """Five steps of two paints, rising towards +y."""
    tread, rise, width = 0.16, 0.19, 0.62
    paints = ("#f0dfba", "#b0875a"), ("#cf8a5b", "#7d4526")
    return [standing(BOX, x, y + 2 * tread * i, 0, (width, tread, rise * (i + 1) / 2), TILES, 0.2, *paints[i % 2],
                     seed=51 + i) for i in range(5)]


def things():
    """A ball, three pictures on the walls, a tree in a pot, a stool, and two toy blocks."""
    return [
        standing(ELLIPSOID, 0.75, -0.75, 0.02, (0.42, 0.42, 0.42), STONES, 0.2, "#e63e4f", "#fbe3b0", seed=61,
                 gloss=0.25),
        solid(BOX, (-0.35, 2.47, 1.75), (0.62, 0.03, 0.44), PLANKS, 0.06, "#5a3a22", "#8d6239", seed=71),
        solid(BOX, (-0.35, 2.43, 1.75), (0.54, 0.02, 0.36), BLOCKS, 0.2, "#26547c", "#f2b134", seed=72),
        solid(BOX, (-1.9, 2.46, 1.6), (0.34, 0.03, 0.46), PLANKS, 0.06, "#e8e0cf", "#b9a98b", seed=73),
        solid(BOX, (-1.9, 2.43, 1.6), (0.28, 0.02, 0.4), STONES, 0.13, "#3d7068", "#f0cf9b", seed=74),
        solid(BOX, (2.97, 0.2, 1.85), (0.03, 0.55, 0.4), MARBLE, 0.22, "#274c77", "#f4a259", seed=75),
        standing(CYLINDER, -2.3, 1.6, 0, (0.27, 0.27, 0.27), DOTS, 0.12, "#e6e0d4", "#3b5b75", seed=81),
        standing(ELLIPSOID, -2.3, 1.6, 0.5, (0.46, 0.46, 0.55), STONES, 0.085, "#2f6b3a", "#a9cf6a", seed=82, wear=0.3),
        standing(CYLINDER, -1.75, -0.65, 0, (0.33, 0.33, 0.2), STRIPES, 0.12, "#e9c46a", "#7a4f6d", seed=83),
        standing(BOX, 0.1, -1.35, 0.02, (0.16, 0.16, 0.16), PRINT, 0.11, "#f1e3c6", "#3a6a9a", seed=84, yaw=24),
        standing(BOX, -0.3, -1.2, 0.02, (0.13, 0.13, 0.13), CHECKS, 0.09, "#e8a33d", "#fbeed3", seed=85, yaw=-15),
    ]


def walk(frames):
    """Cameras of a walk along the room's open side: azimuth, distance and height as in `CAMERAS`."""
    share = [frame / max(frames - 1, 1) for frame in range(frames)]
    return [(-40 + 80 * at, 4.7 + 0.25 * math.sin(5 * at), 1.8 + 0.3 * math.sin(9 * at)) for at in share]


def demo(around=CAMERAS):
    """The room and an even number of cameras as [`Scenes`] of pairs: views 1 and 2, views 3 and 4, and so on."""
    solids = torch.tensor(room() + furniture(-0.75, 0.85, 10) + stairs(1.85, 0.75) + things())
    scene = torch.tensor([*LAMP, 0.55, 0.62, *colour("#cfe0ee"), *colour("#f3eee4"), 7])
    around = [(math.radians(azimuth), distance, height) for azimuth, distance, height in around]
    centres = torch.tensor([[FOCUS[0] + distance * math.sin(angle), FOCUS[1] - distance * math.cos(angle), height]
                            for angle, distance, height in around])
    facing = looking(torch.tensor(FOCUS) - centres, torch.zeros(len(around)))
    lens = torch.tensor([FOCAL, *WARM, 0.0, 0.95, 0.0, 0.0]).expand(len(around), -1)
    views = torch.cat([facing.flatten(1), centres, lens], 1).reshape(len(around) // 2, 2, -1)
    return Scenes(scene.expand(len(views), -1), solids.expand(len(views), -1, -1), views)


def cameras(scenes, names, width, height):
    """The views of `scenes` in the format of `--cameras`, metres; the world is the first camera's frame."""
    images, focal = [], FOCAL * max(width, height)
    inside = {"width": width, "height": height, "fx": focal, "fy": focal, "cx": (width - 1) / 2, "cy": (height - 1) / 2}
    views = scenes.views.double().flatten(0, 1)
    first_from_room = views[0, :9].reshape(3, 3).T
    for name, view in zip(names, views):
        rotation, centre = first_from_room @ view[:9].reshape(3, 3), first_from_room @ (view[9:12] - views[0, 9:12])
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3] = torch.cat([rotation, centre[:, None]], 1)
        rows = [[round(value, 6) + 0.0 for value in row] for row in pose.tolist()]  # to a micrometre
        images.append({"name": name, **inside, "world_from_camera": rows, "file": inside})
    return {"format": "mast3r-cameras", "version": 1, "images": images}


def pictures(scenes, width, height):
    """Each view (3, height, width) in [0, 255] in turn, a pixel the mean of `FINER` x `FINER` finer ones."""
    render = Renderer("cpu")
    for pair in range(len(scenes.views)):
        one = slice(pair, pair + 1)
        rgb = render(Scenes(*(part[one] for part in scenes)), FINER * height, FINER * width).rgb
        yield from F.avg_pool2d(rgb.flatten(0, 1).float(), FINER).round().to(torch.uint8)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--frames", type=int, metavar="N", help="this even number of frames of a walk instead")
    args = parser.parse_args()
    if args.frames is not None and (args.frames < 2 or args.frames % 2):
        parser.error("--frames: an even number is needed")
    args.out.mkdir(exist_ok=True)
    if args.frames is None:
        scenes, stem, width, height = demo(), "demo", WIDTH, HEIGHT
        names = [f"demo_{number}.jpg" for number in range(1, 5)]
    else:
        scenes, stem, width, height = demo(walk(args.frames)), "frame", FRAME_WIDTH, FRAME_HEIGHT
        names = [f"frame_{number:03}.jpg" for number in range(1, args.frames + 1)]
    for name, rgb in zip(names, pictures(scenes, width, height)):
        picture = Image.fromarray(rgb.permute(1, 2, 0).numpy())
        picture.save(args.out / name, quality=QUALITY, subsampling=0)
    (args.out / f"{stem}_cameras.json").write_text(json.dumps(cameras(scenes, names, width, height), indent=1) + "\n")


if __name__ == "__main__":
    main()
