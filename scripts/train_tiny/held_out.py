"""The held-out pairs on which a trained network is measured, and what is said of its points."""
import functools

import torch

import scenes
import worlds

HELD_OUT = 1 << 40  # training never draws this seed
BATCH = 16
SIZES = ((224, 224), (168, 224), (224, 168))
# Name: difficulty of the hardest pair, and what draws it: procedural scenes, with shapes and textures kept from training or not.
TABLES = {"easy": (0.2, scenes.sample), "all": (1.0, scenes.sample),
          "unfamiliar": (1.0, functools.partial(scenes.sample, unfamiliar=True))}
# The same of worlds that resemble photographs, which depend on the packs (packs.py).
WORLD_TABLES = {"photo_easy": (0.2, worlds.sample), "photo": (1.0, worlds.sample)}


def seeded(device):
    """The generator of a table's pairs, on `device`; a CPU and a GPU draw different ones."""
    return torch.Generator(device).manual_seed(HELD_OUT)


def batches(count, difficulty, sample, generator):
    """`count` pairs that `sample` draws, at most `BATCH` at a time, each with the height and the width to render it at."""
    for number, start in enumerate(range(0, count, BATCH)):
        yield sample(min(BATCH, count - start), difficulty, generator), *SIZES[number % len(SIZES)]


def point_measures(error):
    """Median of `error` (pairs, 2, height, width) and shares within 5 and 10 %, (pairs, 3, 2); NaN is no point."""
    error = error.flatten(2)
    within = lambda limit: (error < limit).float().sum(2) / (~error.isnan()).sum(2).clamp(min=1)
    return torch.stack([error.nanmedian(2).values, within(0.05), within(0.1)], 1)


def of_all_pairs(measures):
    """For each view the median of the medians and the means of the shares, of [`point_measures`] (pairs, 3, 2)."""
    rows = measures[:, 0].nanmedian(0).values, measures[:, 1].mean(0), measures[:, 2].mean(0)
    names = "median_error", "within_5_percent", "within_10_percent"
    return {f"{name}_view{view}": row[view - 1].item() for name, row in zip(names, rows) for view in (1, 2)}
