"""Measures camera poses by the Gaussian splats that are trained with them: PSNR and SSIM of images held out of the training.

    python scripts/splat_psnr.py MODEL [MODEL ...] --steps 7000 --hold-out 8 --out results.json --render FOLDER

A MODEL is a folder with `images/` and a COLMAP model, `.bin` or `.txt`, in `sparse/0`, without lens distortion: PINHOLE or
SIMPLE_PINHOLE. To make one by this program, one without its refinement, and one of COLMAP's to compare with:

    mast3r reconstruct PHOTOS --model tiny --res 336 -o MODEL --format colmap --undistort
    mast3r reconstruct PHOTOS --model tiny --res 336 -o MODEL --format colmap --undistort --no-refine
    colmap image_undistorter --image_path PHOTOS --input_path sparse/0 --output_path MODEL   # then move sparse/* to sparse/0

Of the images sorted by name every 8th (`--hold-out`), from the first, is not trained on. Its camera is the model's too, so
an error of its pose counts as well. The training is that of "3D Gaussian Splatting for Real-Time Radiance Field Rendering"
(arXiv 2308.04079) with the numbers of gsplat's simple_trainer, and densifies over the first half of the steps. The world is
moved to the middle of the cameras and scaled to their extent first, so a model's own scale does not matter.

Undistorted images are resampled and cut, each to the focal length and distortion of its own model, so the images that two
models are measured on are not quite the same. gsplat adds up in no fixed order, so two runs with one --seed differ a little.

Needs torch, gsplat (1.5.3) on an NVIDIA GPU, numpy and pillow. gsplat compiles its CUDA code when it first runs.
"""
import argparse
import json
import math
import pathlib
import random
import time
import typing

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import eval_photos

SH_DEGREE, SH0 = 3, 0.28209479177387814  # the constant function among the spherical harmonics
DSSIM_SHARE = 0.2  # of the loss
RATES = {"means": 1.6e-4, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3, "shN": 2.5e-3 / 20}


class View(typing.NamedTuple):
    name: str
    camera_from_world: torch.Tensor  # 4x4
    matrix: torch.Tensor  # 3x3; COLMAP and gsplat both put the centre of the top left pixel at (0.5, 0.5)
    truth: torch.Tensor  # (height, width, 3), 0 to 1


# ---- COLMAP's files ---------------------------------------------------------------------------------------------------


def refuse_distortion(place):
    pinhole = {number: eval_photos.MODELS[number][0] for number in (0, 1)}

    def check(model):
        if model not in pinhole.values():
            raise SystemExit(f"{place}: camera model {model} is not supported; expected {' or '.join(pinhole.values())}, so "
                             "undistort the images first (mast3r reconstruct --undistort, colmap image_undistorter)")

    if (place / "cameras.bin").exists():
        file = eval_photos.Binary(place / "cameras.bin")
        for _ in range(*file.read("Q")):
            _, kind, _, _ = file.read("iiQQ")
            check(eval_photos.MODELS.get(kind, (kind,))[0])
            file.read(f"{eval_photos.MODELS[kind][1]}d")
    else:
        for words in map(str.split, (place / "cameras.txt").read_text().splitlines()):
            if words and not words[0].startswith("#"):
                check(words[1])


def read_points(place):
    """Places (n, 3) and colours (n, 3) from 0 to 1."""
    rows = []
    if (place / "points3D.bin").exists():
        file = eval_photos.Binary(place / "points3D.bin")
        for _ in range(*file.read("Q")):
            rows.append(file.read("Q3d3Bd")[1:7])
            file.read(f"{2 * file.read('Q')[0]}i")
    else:
        for words in map(str.split, (place / "points3D.txt").read_text().splitlines()):
            if words and not words[0].startswith("#"):
                rows.append([float(word) for word in words[1:7]])
    rows = np.array(rows, float).reshape(-1, 6)
    return rows[:, :3], rows[:, 3:] / 255


def read_scene(folder, device):
    """Views sorted by name, places and colours of points. The world's origin is the middle of the cameras, and its unit 1.1
    times the distance of the camera that is furthest from it."""
    place = folder / "sparse" / "0"
    binary = (place / "images.bin").exists()
    if not binary and not (place / "images.txt").exists():
        raise SystemExit(f"{folder}: no COLMAP model in its sparse/0")
    refuse_distortion(place)
    images = (eval_photos.read_binary if binary else eval_photos.read_text)(place).images
    points, colors = read_points(place)
    if len(points) < 4:
        raise SystemExit(f"{folder}: {len(points)} points are too few to start from")
    centres = np.array([-image.rotation.T @ image.translation for image in images.values()])
    middle = centres.mean(0)
    unit = 1.1 * np.linalg.norm(centres - middle, axis=1).max()
    tensor = lambda values: torch.tensor(values, dtype=torch.float32, device=device)
    views = []
    for name in sorted(images):
        image = images[name]
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = image.rotation, (image.translation + image.rotation @ middle) / unit
        pixels = Image.open(folder / "images" / name).convert("RGB")
        if pixels.size != (image.camera.width, image.camera.height):
            raise SystemExit(f"{folder}: {name} has {pixels.width}x{pixels.height} pixels, its camera "
                             f"{image.camera.width}x{image.camera.height}")
        views.append(View(name, tensor(pose), tensor(image.camera.matrix), tensor(np.asarray(pixels) / 255)))
    return views, tensor((points - middle) / unit), tensor(colors)


# ---- measures ---------------------------------------------------------------------------------------------------------


def ssim(one, two):
    """Mean structural similarity (Wang et al. 2004) of images (height, width, 3), in windows that lie within them."""
    window = torch.exp(-(torch.arange(11, device=one.device) - 5.0) ** 2 / (2 * 1.5 ** 2))
    window = (window / window.sum()).expand(15, 1, 11)
    one, two = one.permute(2, 0, 1), two.permute(2, 0, 1)
    maps = torch.cat([one, two, one * one, two * two, one * two])[None]
    maps = F.conv2d(F.conv2d(maps, window[:, :, None, :], groups=15), window[..., None], groups=15)[0]
    mean_one, mean_two, square_one, square_two, product = maps.split(3)
    c1, c2 = 0.01 ** 2, 0.03 ** 2
    both = (2 * mean_one * mean_two + c1) * (2 * (product - mean_one * mean_two) + c2)
    return (both / ((mean_one ** 2 + mean_two ** 2 + c1)
                    * (square_one - mean_one ** 2 + square_two - mean_two ** 2 + c2))).mean()


def psnr(one, two):
    return -10 * math.log10(max(F.mse_loss(one, two).item(), 1e-10))


# ---- splats -----------------------------------------------------------------------------------------------------------


def first_splats(points, colors):
    """A round Gaussian at each point, as large as its three nearest neighbours are far."""
    near = torch.cat([torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist").topk(4, largest=False)[0][:, 1:]
                      for part in points.split(1024)])
    size = (near ** 2).mean(1).sqrt().clamp(min=1e-6)
    count, device = len(points), points.device
    splats = {"means": points, "scales": size.log()[:, None].repeat(1, 3), "quats": torch.rand(count, 4, device=device),
              "opacities": torch.full((count,), math.log(0.1 / 0.9), device=device), "sh0": ((colors - 0.5) / SH0)[:, None],
              "shN": torch.zeros(count, (SH_DEGREE + 1) ** 2 - 1, 3, device=device)}
    return torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in splats.items()})


def render(splats, view, degree):
    from gsplat.rendering import rasterization
    height, width, _ = view.truth.shape
    colors, _, info = rasterization(
        splats["means"], splats["quats"], splats["scales"].exp(), splats["opacities"].sigmoid(),
        torch.cat([splats["sh0"], splats["shN"]], 1), view.camera_from_world[None], view.matrix[None], width, height,
        sh_degree=degree, packed=False)
    return colors[0], info


def train(views, points, colors, steps, seed):
    from gsplat.strategy import DefaultStrategy
    torch.manual_seed(seed)
    order = random.Random(seed)
    splats = first_splats(points, colors)
    optimizers = {name: torch.optim.Adam([{"params": splats[name], "lr": rate, "name": name}], eps=1e-15)
                  for name, rate in RATES.items()}
    # reset_every: no reset of opacities (gsplat 1.5.3 has none: `0 & step > 0`), and with it no pruning of Gaussians that are
    # larger than a tenth of the extent of the cameras: where all cameras look ahead, the background is made of those.
    strategy = DefaultStrategy(refine_start_iter=steps // 14, refine_stop_iter=steps // 2, reset_every=steps)
    strategy.check_sanity(splats, optimizers)
    state = strategy.initialize_state(scene_scale=1.0)
    for step in range(steps):
        view = order.choice(views)
        image, info = render(splats, view, min(step // 1000, SH_DEGREE))
        strategy.step_pre_backward(splats, optimizers, state, step, info)
        loss = (1 - DSSIM_SHARE) * F.l1_loss(image, view.truth) + DSSIM_SHARE * (1 - ssim(image, view.truth))
        loss.backward()
        optimizers["means"].param_groups[0]["lr"] = RATES["means"] * 0.01 ** (step / steps)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        strategy.step_post_backward(splats, optimizers, state, step, info, packed=False)
    return splats


def measure(folder, args, device):
    views, points, colors = read_scene(folder, device)
    held, kept = views[::args.hold_out], [view for number, view in enumerate(views) if number % args.hold_out]
    if not kept:
        raise SystemExit(f"{folder}: all {len(views)} images are held out")
    start = time.monotonic()
    splats = train(kept, points, colors, args.steps, args.seed)
    torch.cuda.synchronize()
    seconds, rows = time.monotonic() - start, []
    with torch.no_grad():
        for view in held:
            image = render(splats, view, SH_DEGREE)[0].clamp(0, 1)
            rows.append({"image": view.name, "psnr": round(psnr(image, view.truth), 3),
                         "ssim": round(ssim(image, view.truth).item(), 4)})
            if args.render:
                both = (torch.cat([image, view.truth], 1) * 255).round().byte().cpu().numpy()
                stem = pathlib.PurePath(view.name).with_suffix("").as_posix().replace("/", "_")
                Image.fromarray(both).save(args.render / f"{folder.name}_{stem}.png")
    mean = lambda key: float(np.mean([row[key] for row in rows]))
    return {"model": folder.name, "psnr": round(mean("psnr"), 3), "ssim": round(mean("ssim"), 4), "trained": len(kept),
            "points": len(points), "gaussians": len(splats["means"]), "seconds": round(seconds, 1), "held": rows}


# ---- the command ------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=pathlib.Path, metavar="MODEL")
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--hold-out", type=int, default=8, metavar="N", help="every N-th image, from the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="JSON with every held-out image")
    parser.add_argument("--render", type=pathlib.Path, metavar="FOLDER", help="PNGs of held-out images: rendered, true")
    args = parser.parse_args()
    if args.steps < 14 or args.hold_out < 2:
        parser.error("--steps must be 14 or more, --hold-out 2 or more")
    if not torch.cuda.is_available():
        raise SystemExit("gsplat needs an NVIDIA GPU, and torch finds none")
    torch.backends.cudnn.allow_tf32 = False  # variances in SSIM are small differences
    from gsplat.cuda._backend import _C  # compiled before the clock starts
    if _C is None:
        raise SystemExit("gsplat's CUDA code is not there, and no nvcc to compile it")
    if args.render:
        args.render.mkdir(parents=True, exist_ok=True)
    results = []
    for folder in args.models:
        results.append(row := measure(folder, args, "cuda"))
        each = " ".join(f"{held['psnr']:.2f}" for held in row["held"])
        print(f"{row['model']:24s} PSNR {row['psnr']:6.3f} ({each})  SSIM {row['ssim']:.4f}  trained on {row['trained']}  "
              f"{row['gaussians']} Gaussians from {row['points']} points  {row['seconds']} s", flush=True)
        if args.out:
            args.out.write_text(json.dumps({"steps": args.steps, "hold_out": args.hold_out, "seed": args.seed,
                                            "models": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
