"""Measures an exported network on held-out scenes: python3 eval.py MODEL OUT_DIR [--pairs 500]

Writes eval.json and contact sheets. Errors are relative to the true distance from the first camera, after one scale for
both views; matches are mutual nearest neighbours of random pixels, right within 2 pixels.
"""
import argparse
import json
import pathlib

import torch

import checkpoint
import held_out
import losses
import packs
import sheets
from network import as_input
from renderer import Renderer


@torch.no_grad()
def measure(net, renderer, count, difficulty, sample, sheet):
    """The table's row for `count` pairs."""
    generator = held_out.seeded(renderer.device)
    measures, precisions, numbers = [], [], []
    for scenes, height, width in held_out.batches(count, difficulty, sample, generator):
        views = renderer(scenes, height, width)
        tokens = net.trunk(as_input(views.rgb))
        points, confidence = net.points(tokens)
        precision, number = losses.matching_precision(net, tokens, views, generator)
        precisions.append(precision * number)
        numbers.append(number)
        if not measures:
            sheets.pairs(views, sheet, points, confidence, most=12)
        measures.append(held_out.point_measures(losses.relative_errors(points, views)))
    return {"pairs": count, **held_out.of_all_pairs(torch.cat(measures)),
            "matching_precision_2px": (sum(precisions) / sum(numbers)).item(),
            "matches_of_512": (sum(numbers) / len(numbers)).item()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    net, renderer = checkpoint.exported(args.model, args.device), Renderer(args.device, packs.load(args.device))
    table = {}
    for name, (difficulty, sample) in (held_out.TABLES | held_out.WORLD_TABLES).items():
        table[name] = measure(net, renderer, args.pairs, difficulty, sample, args.out / f"predictions_{name}.jpg")
        print(name, " ".join(f"{key}={value:.3g}" for key, value in table[name].items()), flush=True)
    (args.out / "eval.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
