"""Checks the training data before anything is trained on it: python3 verify.py OUT_DIR [--pairs N] [--device cuda]

A point that view 2 sees must lie on the surface that view 1 shows there, or behind it, never before it; where it lies
on it, both views must show the same colour. Writes a contact sheet of pairs with their depth.
"""
import argparse
import functools
import pathlib
import sys
import time

import torch
import torch.nn.functional as F

import packs
import scenes
import sheets
import worlds
from losses import seen_in_first
from renderer import Renderer, Worlds


def without_cameras_own(scenes):
    """The same scenes, with neither exposure, contrast, noise, gloss, light nor motion to tell the views apart."""
    if isinstance(scenes, Worlds):
        return scenes._replace(options=worlds.ONE_LIGHT | worlds.PERFECT_LENSES | worlds.NOTHING_MOVES)
    views, solids = scenes.views.clone(), scenes.solids.clone()
    views[..., 13:16], views[..., 16], views[..., 17], solids[..., 27] = 1.0, 0.0, 1.0, 0.0
    return scenes._replace(views=views, solids=solids)


def measure(views):
    """Name to (value, limit) of what must stay below its limit; errors in shares of the depth or of full white."""
    pairs, _, height, width = views.depth.shape
    seen = views.depth > 0
    first, second = views.points.unbind(1)
    own = (second - views.centre[:, None, None]) @ views.rotation[:, None]  # view 2's points in its own frame
    error = lambda p, view: ((p[..., 2] / views.depth[:, view] - 1).abs())[seen[:, view]]
    row, column = torch.meshgrid(*(torch.arange(n, device=own.device) for n in (height, width)), indexing="ij")
    f = views.focal[:, 1, None, None]
    off = torch.maximum((f * own[..., 0] / own[..., 2] + (width - 1) / 2 - column).abs(),
                        (f * own[..., 1] / own[..., 2] + (height - 1) / 2 - row).abs())[seen[:, 1]]

    everywhere = torch.arange(height * width, device=own.device).expand(pairs, -1)
    u, v, nearest, valid = seen_in_first(views, everywhere)
    z = second[..., 2].flatten(1)
    # A point before the surface at its pixel and at all around it: next to an edge, a pixel's centre tells too little.
    far = views.depth[:, 0].masked_fill(views.depth[:, 0] == 0, float("inf"))
    shown = -F.max_pool2d(-far[:, None], 3, 1, 1).flatten(1).gather(1, nearest)
    framed = (u > 0) & (u < width - 1) & (v > 0) & (v < height - 1) & (z > 0.05) & seen[:, 1].flatten(1)
    before = (framed & (z < 0.96 * shown)).sum() / framed.sum()
    colour = views.rgb.float().flatten(3) / 255
    there = colour[:, 0].gather(2, nearest[:, None].expand(-1, 3, -1))
    difference = (there - colour[:, 1]).abs().mean(1)[valid]
    chance = (colour[:, 0].roll(1, 0) - colour[:, 1]).abs().mean(1).median()
    overlap = valid.float().mean(1)
    low, high = overlap.quantile(0.1), overlap.quantile(0.9)
    print(f"overlap: lowest tenth of pairs {low:.2f}, median {overlap.median():.2f}, highest tenth {high:.2f}; "
          f"median depth {views.depth[seen].median():.2f} m")
    return {
        "first view: depth against the point's z": (error(first, 0).max().item(), 1e-3),
        "second view: depth against the point's z": (error(own, 1).max().item(), 5e-3),
        "second view: pixels off its own ray": (off.max().item(), 0.05),
        "share of points before the surface": (before.item(), 0.01),
        "median colour difference": (difference.median().item(), 0.03),
        "the same over that of unrelated pixels": ((difference.median() / chance).item(), 0.2),
        "share of pairs with an overlap below a tenth": ((overlap < 0.1).float().mean().item(), 0.25),
        "share of pixels that see nothing": (1 - seen.float().mean().item(), 0.3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    start = time.perf_counter()
    renderer, generator = Renderer(args.device, packs.load(args.device)), torch.Generator(args.device).manual_seed(5)
    print(f"compiled in {time.perf_counter() - start:.1f} s")
    failed = []
    families = {"": scenes.sample, "_unfamiliar": functools.partial(scenes.sample, unfamiliar=True), "_photo": worlds.sample}
    for name, sample in families.items():
        drawn = sample(args.pairs, 1.0, generator)
        for what, (value, limit) in measure(renderer(without_cameras_own(drawn), 168, 224)).items():
            verdict = "ok" if value <= limit else "FAILED"
            print(f"{verdict:7}{what}: {value:.2g} (at most {limit})")
            failed += [what] * (verdict != "ok")
        sheets.pairs(renderer(sample(16, 1.0, generator), 168, 224), args.out / f"pairs{name}.jpg")
    if args.device != "cpu":
        for name, sample in (("scenes", scenes.sample), ("worlds", worlds.sample)):
            for size in (112, 224):
                drawn = sample(256, 1.0, generator)
                for what, work in (("sampling", lambda: sample(256, 1.0, generator)),
                                   ("rendering", lambda: renderer(drawn, size, size))):
                    work()
                    torch.cuda.synchronize()
                    start = time.perf_counter()
                    for _ in range(10):
                        work()
                    torch.cuda.synchronize()
                    print(f"{what} 256 {name} at {size}: {(time.perf_counter() - start) * 100:.2f} ms")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
