"""Contact sheets: a row for each pair, pictures, depths and, if given, what the network made of them."""
import numpy as np
from PIL import Image


def colour_map(values, low, high):
    """(height, width) to RGB: dark blue for `high`, far, through green to yellow for `low`, near; black where NaN."""
    t = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    stops = np.array([[253, 231, 37], [94, 201, 98], [33, 145, 140], [59, 82, 139], [68, 1, 84]], np.float32)
    place = np.nan_to_num(t) * (len(stops) - 1)
    below = np.minimum(place.astype(int), len(stops) - 2)
    rgb = stops[below] + (stops[below + 1] - stops[below]) * (place - below)[..., None]
    rgb[np.isnan(values)] = 0
    return rgb.astype(np.uint8)


def pairs(views, path, points=None, confidence=None, most=16):
    """Writes the first `most` pairs of `views`, with the network's `points` and `confidence` beside the truth if given.

    Depth here is z in the first camera's frame for both views, on one scale a pair.
    """
    rows = []
    numpy = lambda t: t[:most].float().cpu().numpy()
    rgb, truth, seen = numpy(views.rgb), numpy(views.points), numpy(views.depth) > 0
    made, sure = (None, None) if points is None else (numpy(points), numpy(confidence))
    for i in range(len(rgb)):
        z = np.where(seen[i], truth[i, ..., 2], np.nan)
        low, high = np.nanquantile(z, [0.02, 0.95]) if seen[i].any() else (0, 1)
        row = [rgb[i, v].transpose(1, 2, 0).astype(np.uint8) for v in (0, 1)]
        row += [colour_map(z[v], low, high) for v in (0, 1)]
        if made is not None and seen[i].any():
            distance = lambda p: np.median(np.linalg.norm(p, axis=-1)[seen[i]])
            scaled = made[i, ..., 2] * distance(truth[i]) / max(distance(made[i]), 1e-6)
            row += [colour_map(np.where(seen[i, v], scaled[v], np.nan), low, high) for v in (0, 1)]
            row += [colour_map(-np.log(sure[i, v]), -3, 0) for v in (0, 1)]
        rows.append(np.concatenate(row, 1))
    Image.fromarray(np.concatenate(rows, 0)).save(path, quality=88)
