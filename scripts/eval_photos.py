"""Measures cameras, matches and depth of `mast3r reconstruct` on photographs whose cameras COLMAP has found.

    python3 eval_photos.py SET [SET ...] --out results.json -- --model tiny                  # image pairs
    python3 eval_photos.py SET [SET ...] --scenes --out results.json -- --model tiny         # all images of each set at once

A SET is a folder with `images/` and a COLMAP model, `.bin` or `.txt`, in `sparse/0`, `sparse` or itself. What follows `--` goes
to the program (`--binary`, target/release/mast3r unless given). Needs numpy. COLMAP's lens distortion is neglected, so the
model of a wide-angle lens should be undistorted first.

pairs    of images that share 40 of COLMAP's points, seen from directions 1.5 degrees apart or more (median) and turned by at
         most 80 degrees, `--pairs` of each set: median errors of rotation and of the direction of translation in degrees; AUC
         of the larger of both at 5, 10, 20 and 30 degrees, where a pair without cameras counts as 180; share of matches within
         1% of the long side of their epipolar lines in both images; depth at COLMAP's points, mean of |d - d*| / d* after one
         scale, the ratio of the medians.
scenes   one reconstruction of all images: images with a camera, and over all pairs of COLMAP's images the same AUC; RMSE of
         camera positions after a similarity transform, over their largest distance.
"""
import argparse
import csv
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time
import typing

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIMITS = 5, 10, 20, 30  # degrees
UNSOLVED = 180.0
MIN_SHARED, MIN_PARALLAX, MAX_TURN = 40, 1.5, 80.0
# COLMAP's camera models: number, name, parameters, and how many of these are focal lengths.
MODELS = {0: ("SIMPLE_PINHOLE", 3, 1), 1: ("PINHOLE", 4, 2), 2: ("SIMPLE_RADIAL", 4, 1), 3: ("RADIAL", 5, 1),
          4: ("OPENCV", 8, 2)}


class Camera(typing.NamedTuple):
    width: int
    height: int
    matrix: np.ndarray  # 3x3, pixels; COLMAP's convention: the centre of the top left pixel is (0.5, 0.5)


class Image(typing.NamedTuple):
    camera: Camera
    rotation: np.ndarray  # 3x3, camera from world
    translation: np.ndarray
    pixels: np.ndarray  # (n, 2) where it shows
    points: np.ndarray  # (n,) the points with these numbers


class Model(typing.NamedTuple):
    """A COLMAP model: images by name, and the places of points by number."""
    images: dict
    points: dict


# ---- COLMAP's files ---------------------------------------------------------------------------------------------------


def camera(name, width, height, parameters):
    known = {model: focal for model, _, focal in MODELS.values()}
    if name not in known:
        raise SystemExit(f"camera model {name} is not supported; expected {', '.join(known)}")
    fx, fy = parameters[0], parameters[known[name] - 1]
    cx, cy = parameters[known[name]:known[name] + 2]
    return Camera(width, height, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]))


def rotation_of(w, x, y, z):
    return np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                     [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                     [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])


def image(cameras, pose, camera_id, seen):
    seen = np.asarray(seen, float).reshape(-1, 3)
    seen = seen[seen[:, 2] >= 0]
    return Image(cameras[camera_id], rotation_of(*pose[:4]), np.array(pose[4:]), seen[:, :2], seen[:, 2].astype(int))


class Binary:
    def __init__(self, path):
        self.data, self.at = path.read_bytes(), 0

    def read(self, form):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def name(self):
        end = self.data.index(b"\0", self.at)
        text, self.at = self.data[self.at:end].decode(), end + 1
        return text


def read_binary(folder):
    cameras, images, points = {}, {}, {}
    file = Binary(folder / "cameras.bin")
    for _ in range(*file.read("Q")):
        number, kind, width, height = file.read("iiQQ")
        if kind not in MODELS:
            raise SystemExit(f"{folder}: camera model {kind} is not supported; expected {', '.join(m[0] for m in MODELS.values())}")
        name, count, _ = MODELS[kind]
        cameras[number] = camera(name, width, height, file.read(f"{count}d"))
    file = Binary(folder / "images.bin")
    for _ in range(*file.read("Q")):
        _, *pose, camera_id = file.read("i7di")
        name, (count,) = file.name(), file.read("Q")
        images[name] = image(cameras, pose, camera_id, [file.read("ddq") for _ in range(count)])
    file = Binary(folder / "points3D.bin")
    for _ in range(*file.read("Q")):
        number, *place = file.read("Q3d")
        file.read("3Bd")
        length, = file.read("Q")
        file.read(f"{2 * length}i")
        points[number] = np.array(place)
    return Model(images, points)


def read_text(folder):
    lines = lambda name: [line for line in (folder / name).read_text().split("\n") if not line.startswith("#")]
    cameras, images = {}, {}
    for words in filter(None, map(str.split, lines("cameras.txt"))):
        cameras[int(words[0])] = camera(words[1], int(words[2]), int(words[3]), [float(w) for w in words[4:]])
    both = lines("images.txt")
    for first, second in zip(both[::2], both[1::2]):
        words = first.split(maxsplit=9)
        images[words[9]] = image(cameras, [float(w) for w in words[1:8]], int(words[8]), [float(w) for w in second.split()])
    rows = filter(None, map(str.split, lines("points3D.txt")))
    return Model(images, {int(words[0]): np.array([float(w) for w in words[1:4]]) for words in rows})


def read_model(folder):
    for place in (folder / "sparse" / "0", folder / "sparse", folder):
        if (place / "images.bin").exists():
            return read_binary(place)
        if (place / "images.txt").exists():
            return read_text(place)
    raise SystemExit(f"{folder}: no COLMAP model in it, in its sparse or in its sparse/0")


# ---- geometry ---------------------------------------------------------------------------------------------------------


def angle(rotation):
    """Of a rotation, in degrees."""
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))


def between(a, b):
    """Degrees between two directions."""
    return float(np.degrees(np.arccos(np.clip(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12), -1, 1))))


def second_from_first(first, second):
    """Rotation and translation between two poses (rotation, translation), camera from world."""
    rotation = second[0] @ first[0].T
    return rotation, second[1] - rotation @ first[1]


def aucs(errors):
    """Percent of the area under the curve of the share of errors below a limit, for each of the limits, as the evaluation of
    SuperGlue (arXiv 1911.11763) defines it: the curve is drawn from error to error."""
    errors = np.concatenate([[0], np.sort(errors)])
    shares = np.arange(len(errors)) / max(len(errors) - 1, 1)
    table = {}
    for limit in LIMITS:
        within = np.searchsorted(errors, limit)
        x, y = np.append(errors[:within], limit), np.append(shares[:within], shares[within - 1])
        table[f"auc{limit}"] = round(100 * float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / limit), 1)
    return table


def pose_of(image):
    return image.rotation, image.translation


def position_error(found, true):
    """RMSE of positions (n, 3) after the best similarity transform, over the largest true distance (Umeyama 1991)."""
    x, y = found - found.mean(0), true - true.mean(0)
    u, s, vt = np.linalg.svd(y.T @ x / len(x))
    signs = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = (s * signs).sum() / max((x ** 2).sum() / len(x), 1e-12)
    rest = y - scale * x @ (u @ np.diag(signs) @ vt).T
    largest = np.linalg.norm(true[:, None] - true[None], axis=2).max()
    return float(np.sqrt((rest ** 2).sum(1).mean()) / max(largest, 1e-12))


# ---- what is measured ---------------------------------------------------------------------------------------------------


def candidates(model, limit):
    """Names of image pairs as the top of this file says, at most `limit`, always the same."""
    found, names = [], sorted(model.images)
    for i, a in enumerate(names):
        for b in names[i + 1:]:
            first, second = model.images[a], model.images[b]
            shared = np.intersect1d(first.points, second.points)
            if len(shared) < MIN_SHARED:
                continue
            places = np.array([model.points[p] for p in shared])
            rays = [places + view.rotation.T @ view.translation for view in (first, second)]
            cosine = (rays[0] * rays[1]).sum(1) / np.linalg.norm(rays[0], axis=1) / np.linalg.norm(rays[1], axis=1)
            parallax = np.degrees(np.median(np.arccos(np.clip(cosine, -1, 1))))
            if parallax >= MIN_PARALLAX and angle(second.rotation @ first.rotation.T) <= MAX_TURN:
                found.append((a, b))
    random.Random(7).shuffle(found)
    return found[:limit]


class Program:
    """The program under test and its options."""

    def __init__(self, binary, options):
        self.binary, self.options = binary, options

    def run(self, paths, *outputs):
        """The program's message if it failed, else none."""
        done = subprocess.run([self.binary, "reconstruct", *map(str, paths), "-q", *outputs, *self.options],
                              capture_output=True, text=True)
        return done.stderr.strip()[-300:] if done.returncode else None


def cameras_of(path, paths):
    """Poses (rotation, translation), camera from world, of the images that have one, by their place in `paths`."""
    poses = {}
    if not path.exists():
        return poses
    entries = json.loads(path.read_text())["images"]
    parts = lambda name: pathlib.Path(name).parts
    for number, image in enumerate(paths):
        # Names are the ends of the paths, as many parts as tell the images apart.
        named = [entry for entry in entries if parts(image)[-len(parts(entry["name"])):] == parts(entry["name"])]
        if len(named) == 1 and named[0].get("world_from_camera") is not None:
            matrix = np.linalg.inv(np.array(named[0]["world_from_camera"]))
            poses[number] = matrix[:3, :3], matrix[:3, 3]
    return poses


def share_on_epipolar_lines(path, first, second):
    """Share of the matches of a CSV within 1% of the long side of their epipolar lines in both images, and their number."""
    columns = "file_x1", "file_y1", "file_x2", "file_y2"
    with open(path) as file:
        rows = np.array([[float(row[c]) + 0.5 for c in columns] for row in csv.DictReader(file)])
    if len(rows) == 0:
        return None, 0
    rotation, (x, y, z) = second_from_first(pose_of(first), pose_of(second))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    fundamental = np.linalg.inv(second.camera.matrix).T @ cross @ rotation @ np.linalg.inv(first.camera.matrix)
    one = np.ones((len(rows), 1))
    a, b = np.hstack([rows[:, :2], one]), np.hstack([rows[:, 2:], one])
    lines_b, lines_a = a @ fundamental.T, b @ fundamental
    off = np.abs((b * lines_b).sum(1))
    off = np.maximum(off / np.linalg.norm(lines_b[:, :2], axis=1), off / np.linalg.norm(lines_a[:, :2], axis=1))
    return float((off < 0.01 * max(first.camera.width, first.camera.height)).mean()), len(rows)


def depth_error(path, view, model):
    """Mean relative error of a depth map at the points that `view` shows, after one scale."""
    depth = np.load(path)
    height, width = depth.shape
    scale = max(width / view.camera.width, height / view.camera.height)
    true = (np.array([model.points[p] for p in view.points]) @ view.rotation.T + view.translation)[:, 2]
    middle = np.array([view.camera.width, view.camera.height]) / 2
    column, row = ((view.pixels - middle) * scale + np.array([width, height]) / 2).astype(int).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found, true = depth[row[inside], column[inside]], true[inside]
    usable = np.isfinite(found) & (found > 0)
    if usable.sum() <= 10:
        return None
    found, true = found[usable], true[usable]
    return float(np.mean(np.abs(found * np.median(true) / np.median(found) - true) / true))


def measure_pair(program, folder, model, a, b):
    first, second = model.images[a], model.images[b]
    row = {"set": folder.name, "first": a, "second": b, "pose": UNSOLVED}
    with tempfile.TemporaryDirectory() as name:
        out, paths = pathlib.Path(name), [folder / "images" / a, folder / "images" / b]
        failed = program.run(paths, "--cameras", out / "cameras.json", "--matches", out / "matches.csv", "--depth", out / "depth")
        if failed:
            row["error"] = failed
        poses = cameras_of(out / "cameras.json", paths)
        if len(poses) == 2:
            found, true = second_from_first(poses[0], poses[1]), second_from_first(pose_of(first), pose_of(second))
            row["rotation"], row["direction"] = angle(found[0] @ true[0].T), between(found[1], true[1])
            row["pose"] = max(row["rotation"], row["direction"])
        if (out / "matches.csv").exists():
            row["right"], row["matches"] = share_on_epipolar_lines(out / "matches.csv", first, second)
        depths = sorted((out / "depth").glob("*depth.npy"))
        if depths:
            row["depth"] = depth_error(depths[0], first, model)
    return row


def measure_scene(program, folder, model):
    names = sorted(model.images)
    paths = [folder / "images" / name for name in names]
    with tempfile.TemporaryDirectory() as out:
        start = time.monotonic()
        failed = program.run(paths, "--cameras", f"{out}/cameras.json")
        seconds = time.monotonic() - start
        poses = cameras_of(pathlib.Path(out) / "cameras.json", paths)
    errors = []
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            if i not in poses or j not in poses:
                errors.append(UNSOLVED)
                continue
            true = second_from_first(pose_of(model.images[names[i]]), pose_of(model.images[names[j]]))
            found = second_from_first(poses[i], poses[j])
            errors.append(max(angle(found[0] @ true[0].T), between(found[1], true[1])))
    row = {"set": folder.name, "images": len(names), "registered": len(poses), "seconds": round(seconds, 1), **aucs(errors)}
    if len(poses) > 2:
        place = lambda pose: -pose[0].T @ pose[1]
        found = np.array([place(poses[i]) for i in sorted(poses)])
        true = np.array([place(pose_of(model.images[names[i]])) for i in sorted(poses)])
        row["positions"] = round(position_error(found, true), 4)
    return row | ({"error": failed} if failed else {})


# ---- the command ----------------------------------------------------------------------------------------------------------


def line(name, rows):
    """One line of the table of pairs."""
    of = lambda key: [row[key] for row in rows if row.get(key) is not None]
    median = lambda key: float(np.median(of(key))) if of(key) else float("nan")
    right = 100 * float(np.mean([row.get("right") or 0.0 for row in rows]))
    areas = " ".join(f"{value:5.1f}" for value in aucs([row["pose"] for row in rows]).values())
    return (f"{name:24s} {len(rows):3d} pairs  rotation {median('rotation'):6.2f}  direction {median('direction'):6.2f}  "
            f"AUC {areas}  right {right:5.1f} %  depth {median('depth'):.3f}")


def main():
    words = sys.argv[1:]
    own, options = (words[:words.index("--")], words[words.index("--") + 1:]) if "--" in words else (words, ["--model", "tiny"])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", type=pathlib.Path, metavar="SET")
    parser.add_argument("--out", type=pathlib.Path, help="JSON with every pair and scene")
    parser.add_argument("--binary", default=ROOT / "target" / "release" / "mast3r")
    parser.add_argument("--pairs", type=int, default=16, help="of each set, at most")
    parser.add_argument("--scenes", action="store_true", help="reconstruct all images of a set at once")
    args = parser.parse_args(own)
    program, pairs, scenes = Program(args.binary, options), [], []
    for folder in args.sets:
        model = read_model(folder)
        if args.scenes:
            scenes.append(measure_scene(program, folder, model))
            print(" ".join(f"{key} {value}" for key, value in scenes[-1].items()), flush=True)
            continue
        rows = [measure_pair(program, folder, model, a, b) for a, b in candidates(model, args.pairs)]
        pairs += rows
        print(line(folder.name, rows) if rows else f"{folder.name:24s} no pairs that share enough points", flush=True)
    if pairs:
        print(line("all", pairs))
    if scenes:
        mean = {f"auc{limit}": round(float(np.mean([row[f"auc{limit}"] for row in scenes])), 1) for limit in LIMITS}
        print("mean", " ".join(f"{key} {value}" for key, value in mean.items()),
              f"registered {sum(row['registered'] for row in scenes)} of {sum(row['images'] for row in scenes)}")
    if args.out:
        args.out.write_text(json.dumps({"options": options, "pairs": pairs, "scenes": scenes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
