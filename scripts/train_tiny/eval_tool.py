"""Measures a network through the program itself: python3 eval_tool.py OUT_DIR --model tiny [--pairs 500]

Writes every held-out pair as two PNG files, runs `mast3r reconstruct` on them, and compares its outputs with the truth:
points, matches, and cameras. Writes eval_tool.json and eval_tool.md. Needs no GPU.

Point errors are relative to the true distance from the first camera, after one scale for both views. A match is right
if view 1 shows, within 2 pixels of the network's size, what view 2 shows; the pictures are rendered at that size. The
error of a pose is the greater of two angles, that of the rotation and that between the directions of the translations;
AUC@T is the area under the share of pairs with an error below t, for t from 0 to T degrees, over T, as in SuperGlue
(Sarlin et al., CVPR 2020). Cameras that the program could not solve have the greatest angles there are, 180 degrees;
errors of the focal length are of the others.
"""
import argparse
import concurrent.futures
import csv
import json
import math
import os
import pathlib
import shlex
import subprocess
import tempfile
import time
import typing

import torch
from PIL import Image
from safetensors.torch import load_file

import held_out
import losses
from renderer import Renderer

ROOT = pathlib.Path(__file__).resolve().parents[2]
AUC_LIMITS = (5, 10, 20)  # degrees
UNSOLVED = 180.0  # degrees
# Key of a table's row: what it is called, and the digits of its numbers.
ROWS = {
    "pairs": ("pairs", ".0f"),
    "median_error_view1": ("point error, median, view 1", ".1%"),
    "median_error_view2": ("point error, median, view 2", ".1%"),
    "within_5_percent_view1": ("points within 5 %, view 1", ".1%"),
    "within_5_percent_view2": ("points within 5 %, view 2", ".1%"),
    "within_10_percent_view1": ("points within 10 %, view 1", ".1%"),
    "within_10_percent_view2": ("points within 10 %, view 2", ".1%"),
    "rotation_error": ("rotation error, median, degrees", ".2f"),
    "translation_error": ("translation direction error, median, degrees", ".2f"),
    "focal_error": ("focal length error, median", ".1%"),
    **{f"auc_{limit}": (f"pose AUC@{limit}°", ".1%") for limit in AUC_LIMITS},
    "cameras_failed": ("pairs without cameras", ".0f"),
    "matching_precision_2px": ("matches right within 2 px", ".1%"),
    "matches": ("matches a pair, mean", ".0f"),
}


class Program(typing.NamedTuple):
    """The program and the arguments that choose the network."""
    binary: pathlib.Path
    arguments: list

    def reconstruct(self, folder, height, width):
        """Runs it on a.png and b.png of `folder`, all outputs beside them."""
        outputs = {"--cameras": "cameras.json", "--matches": "matches.csv", "--predictions": "maps.safetensors",
                   "--output": "cloud.ply"}
        command = [str(self.binary), "reconstruct", *(str(folder / name) for name in ("a.png", "b.png")),
                   *self.arguments, "--res", f"{width}x{height}",
                   *(str(part) for option, name in outputs.items() for part in (option, folder / name))]
        run = subprocess.run(command, capture_output=True, text=True)
        # Without cameras all else is written, and the exit code tells.
        if run.returncode and not ("no relative pose" in run.stderr and (folder / "matches.csv").exists()):
            raise RuntimeError(f"exit code {run.returncode} of {shlex.join(command)}\n{run.stderr}")


class Pose(typing.NamedTuple):
    """How far a pair's cameras are from the true ones: angles in degrees, and the mean share of the focal lengths."""
    rotation: float
    translation: float
    focal: float

    def worst(self):
        return max(self.rotation, self.translation)


class Batch(typing.NamedTuple):
    """What is measured of a batch of pairs."""
    points: torch.Tensor  # of held_out.point_measures
    poses: list  # a [`Pose`] for each pair, None where there are no cameras
    right: list  # for each pair a tensor of its matches, whether they are right


def angle_between(first, second):
    """Degrees between two vectors (3); NaN if either has no direction."""
    norms = first.norm() * second.norm()
    sine, cosine = torch.linalg.cross(first, second).norm(), first.dot(second)
    return math.degrees(math.atan2(sine, cosine)) if norms > 0 else math.nan


def rotation_angle(first, second):
    """Degrees of the rotation that leads from `first` to `second` (3, 3)."""
    # Not the arc cosine of the trace, which loses half the digits of a small angle.
    return math.degrees(2 * math.asin(min(1.0, (first - second).norm().item() / math.sqrt(8))))


def area_under_curve(errors, limit):
    """The mean over t in [0, `limit`] of the share of `errors` below t."""
    return (1 - torch.as_tensor(errors) / limit).clamp(min=0).mean().item()


def pose_of(images, views, pair):
    """The [`Pose`] of a camera file's two `images`, or None."""
    if any(image["world_from_camera"] is None for image in images):
        return None
    world_from = [torch.tensor(image["world_from_camera"], dtype=torch.float64) for image in images]
    first_from_second = world_from[0].inverse() @ world_from[1]
    focal = [abs(image["fx"] / true - 1) for image, true in zip(images, views.focal[pair].tolist())]
    translation = angle_between(first_from_second[:3, 3], views.centre[pair].double())
    return Pose(rotation_angle(first_from_second[:3, :3], views.rotation[pair].double()),
                UNSOLVED if math.isnan(translation) else translation, sum(focal) / len(focal))


def right_of(path, views, pair):
    """Whether each match of the file at `path` is right, (matches)."""
    with path.open(newline="") as lines:
        rows = [[int(row[key]) for key in ("x1", "y1", "x2", "y2")] for row in csv.DictReader(lines)]
    x1, y1, x2, y2 = torch.tensor(rows, dtype=torch.int64).reshape(-1, 4).unbind(1)
    width = views.depth.shape[3]
    alone = type(views)(*(part[pair:pair + 1] for part in views))
    return losses.right_matches(alone, (y1 * width + x1)[None], (y2 * width + x2)[None])[0]


def measure(program, renderer, scenes, height, width):
    """Renders a batch of `scenes`, runs the program on each pair, and measures what it wrote: [`Batch`]."""
    views = renderer(scenes, height, width)
    points, poses, right = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for pair, pictures in enumerate(views.rgb.permute(0, 1, 3, 4, 2).numpy()):
            for name, picture in zip(("a.png", "b.png"), pictures):
                Image.fromarray(picture).save(folder / name, compress_level=1)
            program.reconstruct(folder, height, width)
            images = json.loads((folder / "cameras.json").read_text())["images"]
            if any((image["height"], image["width"]) != (height, width) for image in images):
                raise ValueError(f"the network saw another size than {width}x{height}: {images}")
            maps = load_file(folder / "maps.safetensors")
            points.append(torch.stack([maps["pts3d.1"], maps["pts3d.2"]]))
            poses.append(pose_of(images, views, pair))
            right.append(right_of(folder / "matches.csv", views, pair))
    return Batch(held_out.point_measures(losses.relative_errors(torch.stack(points), views)), poses, right)


def summary(batches):
    """A table's column."""
    poses = [pose for batch in batches for pose in batch.poses]
    solved = [pose for pose in poses if pose is not None]
    right = [matches for batch in batches for matches in batch.right]
    angles = lambda of: torch.tensor([UNSOLVED if pose is None else of(pose) for pose in poses])
    return {
        "pairs": len(poses), **held_out.of_all_pairs(torch.cat([batch.points for batch in batches])),
        "rotation_error": angles(lambda pose: pose.rotation).median().item(),
        "translation_error": angles(lambda pose: pose.translation).median().item(),
        "focal_error": torch.tensor([pose.focal for pose in solved]).median().item() if solved else None,
        **{f"auc_{limit}": area_under_curve(angles(Pose.worst), limit) for limit in AUC_LIMITS},
        "cameras_failed": len(poses) - len(solved),
        "matching_precision_2px": sum(matches.sum().item() for matches in right) / max(1, sum(map(len, right))),
        "matches": sum(map(len, right)) / len(right),
    }


def markdown(tables):
    """The table of [`summary`] for every group of pairs."""
    number = lambda value, digits: "none" if value is None else format(value, digits)
    lines = ["| | " + " | ".join(tables) + " |", "|---|" + "--:|" * len(tables)]
    for key, (name, digits) in ROWS.items():
        lines.append(f"| {name} | " + " | ".join(number(table[key], digits) for table in tables.values()) + " |")
    return "\n".join(lines) + "\n"


def main():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, help="folder for eval_tool.json and eval_tool.md")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--model", help="the program's --model, as tiny")
    network.add_argument("--weights", type=pathlib.Path, help="the program's --weights")
    parser.add_argument("--pairs", type=int, default=500, help="of each group")
    parser.add_argument("--jobs", type=int, default=2, help="pairs at a time")
    parser.add_argument("--options", default="", help="more of the program's options, as '--symmetric'")
    parser.add_argument("--binary", type=pathlib.Path, default=target / "release" / "mast3r")
    args = parser.parse_args()
    if args.pairs < 1 or args.jobs < 1:
        parser.error("--pairs and --jobs are at least 1")
    if not args.binary.is_file():
        parser.error(f"{args.binary} is not there; build it with cargo build --release, or name it with --binary")
    torch.set_num_threads(1)  # the jobs are what runs at a time
    arguments = ["--model", args.model] if args.model else ["--weights", str(args.weights)]
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    program = Program(args.binary, [*arguments, "--threads", str(threads), *shlex.split(args.options)])
    version = subprocess.run([args.binary, "--version"], check=True, capture_output=True, text=True)
    version = version.stdout.splitlines()[0]
    args.out.mkdir(exist_ok=True)
    renderer, start = Renderer("cpu"), time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        groups = {name: [pool.submit(measure, program, renderer, *batch) for batch in
                         held_out.batches(args.pairs, *table, held_out.seeded("cpu"))]
                  for name, table in held_out.TABLES.items()}
        try:
            tables = {name: summary([batch.result() for batch in batches]) for name, batches in groups.items()}
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    text = markdown(tables)
    print(f"{text}\n{version}; {time.monotonic() - start:.0f} s")
    (args.out / "eval_tool.md").write_text(text)
    report = {"program": version, "options": program.arguments, "groups": tables}
    (args.out / "eval_tool.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
