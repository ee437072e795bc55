"""Renders the demonstration pictures: python3 demo.py OUT_DIR [--frames N]

A country house with a tower, a world of worlds.cuh from a seed of its own, seen from places chosen by hand. Writes demo_1.jpg to
demo_4.jpg, or N smaller frames of a walk past the house, and their true cameras in the format of the program's `--cameras`.
Needs the packs (material/README.md), no GPU.
"""
import argparse
import json
import math
import pathlib

import torch
import torch.nn.functional as F
from PIL import Image

import packs
from renderer import Renderer, Worlds
from scenes import looking
from worlds import NOTHING_MOVES, ONE_LIGHT, PERFECT_LENSES

SEED = 3001
WIDTH, HEIGHT = 672, 504
FOCAL = 0.85  # times the longer side
FINER = 2  # pixels rendered across one of a picture
FRAME_WIDTH, FRAME_HEIGHT = 336, 252
QUALITY = 92
# Azimuth in degrees from the facade's normal, distance and height in metres. The first two make the pair of the README.
CAMERAS = ((-31.0, 26.0, 4.6), (-7.0, 25.0, 4.0), (-52.0, 25.0, 5.2), (14.0, 26.5, 4.8))
FOCUS = (0.5, -3.0, 4.6)


def walk(frames):
    """Cameras of a walk past the house: azimuth, distance and height as in `CAMERAS`."""
    share = [frame / max(frames - 1, 1) for frame in range(frames)]
    return [(-52 + 66 * at, 25.5 + 0.8 * math.sin(5 * at), 4.6 + 0.6 * math.sin(9 * at)) for at in share]


def poses(around):
    """(cameras, 13): world from camera, centre, focal length in multiples of the longer side."""
    around = [(math.radians(azimuth), distance, height) for azimuth, distance, height in around]
    centres = torch.tensor([[FOCUS[0] + distance * math.sin(angle), FOCUS[1] - distance * math.cos(angle), height]
                            for angle, distance, height in around])
    facing = looking(torch.tensor(FOCUS) - centres, torch.zeros(len(around)))
    return torch.cat([facing.flatten(1), centres, torch.full((len(around), 1), FOCAL)], 1)


def cameras(views, names, width, height):
    """The [`poses`] in the format of `--cameras`, metres; the world is the first camera's frame."""
    images, focal = [], round(FOCAL * max(width, height), 6)
    inside = {"width": width, "height": height, "fx": focal, "fy": focal, "cx": (width - 1) / 2, "cy": (height - 1) / 2}
    views = views.double()
    first_from_ground = views[0, :9].reshape(3, 3).T
    for name, view in zip(names, views):
        rotation, centre = first_from_ground @ view[:9].reshape(3, 3), first_from_ground @ (view[9:12] - views[0, 9:12])
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3] = torch.cat([rotation, centre[:, None]], 1)
        rows = [[round(value, 6) + 0.0 for value in row] for row in pose.tolist()]  # to a micrometre
        images.append({"name": name, **inside, "world_from_camera": rows, "file": inside})
    return {"format": "mast3r-cameras", "version": 1, "images": images}


def worlds(views, width, height):
    """The house, seen from an even number of [`poses`], as pairs: views 1 and 2, views 3 and 4, and so on."""
    views = torch.cat([views[:, :12], views[:, 12:] * max(width, height)], 1).unflatten(0, (-1, 2))
    seeds, hardest = torch.full((len(views),), SEED, dtype=torch.int32), torch.full((len(views),), 0.5)
    return Worlds(seeds, hardest, ONE_LIGHT | PERFECT_LENSES | NOTHING_MOVES, views)


def pictures(views, width, height):
    """The view of each of the [`poses`], (3, height, width) in [0, 255], a pixel the mean of `FINER` x `FINER` finer ones."""
    render, (height, width) = Renderer("cpu", packs.load("cpu")), (FINER * height, FINER * width)
    for pair in views.split(2):
        rgb = render(worlds(pair, width, height), height, width).rgb
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
        views, stem, width, height = poses(CAMERAS), "demo", WIDTH, HEIGHT
        names = [f"demo_{number}.jpg" for number in range(1, 5)]
    else:
        views, stem, width, height = poses(walk(args.frames)), "frame", FRAME_WIDTH, FRAME_HEIGHT
        names = [f"frame_{number:03}.jpg" for number in range(1, args.frames + 1)]
    for name, rgb in zip(names, pictures(views, width, height)):
        picture = Image.fromarray(rgb.permute(1, 2, 0).numpy())
        picture.save(args.out / name, quality=QUALITY, subsampling=0)
    (args.out / f"{stem}_cameras.json").write_text(json.dumps(cameras(views, names, width, height), indent=1) + "\n")


if __name__ == "__main__":
    main()
