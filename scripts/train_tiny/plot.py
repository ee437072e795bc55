"""Draws a training log: python3 plot.py log.csv log.png"""
import csv
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

PANELS = (
    ("median relative point error", ("error_view1", "error_view2"), "log"),
    ("matches", ("accuracy", "precision_2px"), "linear"),
    ("losses", ("loss_points", "loss_matching"), "symlog"),
    ("schedule", ("share", "difficulty"), "linear"),
)


def main(log, out):
    rows = list(csv.DictReader(open(log)))
    pairs = [float(row["pairs"]) / 1e6 for row in rows]
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), sharex=True, layout="constrained")
    for axis, (title, names, scale) in zip(axes.flat, PANELS):
        for name in names:
            points = [(x, float(row[name])) for x, row in zip(pairs, rows) if row[name] not in ("", "nan")]
            axis.plot(*zip(*points), label=name.replace("_", " ")) if points else None
        axis.set(title=title, yscale=scale)
        axis.grid(alpha=0.3)
        axis.legend()
    for axis in axes[1]:
        axis.set_xlabel("million pairs seen")
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
