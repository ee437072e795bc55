"""Measures an exported network on held-out scenes: python3 eval.py MODEL OUT_DIR [--pairs 500]

Writes eval.json and contact sheets. Errors are relative to the true distance from the first camera, after one scale for
both views; matches are mutual nearest neighbours of random pixels, right within 2 pixels.
"""
import argparse
import json
import pathlib

import torch

import checkpoint
import losses
import sheets
from network import as_input
from renderer import Renderer
from scenes import sample

HELD_OUT = 1 << 40  # training never draws this seed
SIZES = ((224, 224), (168, 224), (224, 168))
# Name: difficulty of the hardest pair, and whether shapes and textures are those kept from training.
TABLES = {"easy": (0.2, False), "all": (1.0, False), "unfamiliar": (1.0, True)}


@torch.no_grad()
def measure(net, renderer, count, difficulty, unfamiliar, sheet):
    """The table's row for `count` pairs."""
    generator = torch.Generator(renderer.device).manual_seed(HELD_OUT)
    medians, precisions, numbers, close, done = [], [], [], [], 0
    while done < count:
        height, width = SIZES[done // 16 % len(SIZES)]
        pairs = min(16, count - done)
        views = renderer(sample(pairs, difficulty, generator, unfamiliar), height, width)
        tokens = net.trunk(as_input(views.rgb))
        points, confidence = net.points(tokens)
        error = losses.relative_errors(points, views).flatten(2)
        medians.append(error.nanmedian(2).values)
        close.append((error < 0.05).float().sum(2) / (~error.isnan()).sum(2).clamp(min=1))
        precision, number = losses.matching_precision(net, tokens, views, generator)
        precisions.append(precision * number)
        numbers.append(number)
        if done == 0:
            sheets.pairs(views, sheet, points, confidence, most=12)
        done += pairs
    middle, close = torch.cat(medians).nanmedian(0).values.tolist(), torch.cat(close).mean(0).tolist()
    return {"pairs": count, "median_error_view1": middle[0], "median_error_view2": middle[1],
            "within_5_percent_view1": close[0], "within_5_percent_view2": close[1],
            "matching_precision_2px": (sum(precisions) / sum(numbers)).item(),
            "matches_of_512": (sum(numbers) / len(numbers)).item()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    net, renderer = checkpoint.exported(args.model, args.device), Renderer(args.device)
    table = {}
    for name, (difficulty, unfamiliar) in TABLES.items():
        table[name] = measure(net, renderer, args.pairs, difficulty, unfamiliar, args.out / f"predictions_{name}.jpg")
        print(name, " ".join(f"{key}={value:.3g}" for key, value in table[name].items()), flush=True)
    (args.out / "eval.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
