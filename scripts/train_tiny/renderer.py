"""Compiles scene.cu and world.cu for a GPU or a CPU and renders batches of scenes and of worlds with them."""
import ctypes
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import typing

import torch

HERE = pathlib.Path(__file__).parent
# What each library is made of, its main file last.
SOURCES = {"scene": ("paint.cuh", "scene.cu"),
           "world": ("paint.cuh", "shapes.cuh", "surfaces.cuh", "worlds.cuh", "lenses.cuh", "world.cu")}
SCENE, SOLID, VIEW, MAX_SOLIDS = 12, 32, 20, 32  # floats of a record and most solids, as in scene.cu
SKY, STATIC, MOVED = range(3)


class Scenes(typing.NamedTuple):
    """Scenes and the cameras of their pairs; the columns are described in scene.cu. World frame: z up, metres."""
    scenes: torch.Tensor  # (pairs, 12)
    solids: torch.Tensor  # (pairs, solids, 32)
    views: torch.Tensor  # (pairs, 2, 20); focal lengths in multiples of the longer side until rendered


class Worlds(typing.NamedTuple):
    """Worlds and the cameras of their pairs, each made of a seed by worlds.cuh."""
    seeds: torch.Tensor  # (pairs,) int32
    hardest: torch.Tensor  # (pairs,) float32 in [0, 1]: the pair is at most that hard
    options: int = 0  # of worlds.py
    cameras: torch.Tensor | None = None  # (pairs, 2, 13) world from camera 9, centre 3, focal length in pixels, instead of its own


class Views(typing.NamedTuple):
    """Rendered pairs. Camera frame: x right, y down, z forward; points are in that of the pair's first camera."""
    rgb: torch.Tensor  # (pairs, 2, 3, height, width) uint8
    depth: torch.Tensor  # (pairs, 2, height, width) metres along the view's own z; 0 where nothing is seen
    points: torch.Tensor  # (pairs, 2, height, width, 3) metres
    focal: torch.Tensor  # (pairs, 2) pixels; the principal point is ((width - 1) / 2, (height - 1) / 2)
    rotation: torch.Tensor  # (pairs, 3, 3) and
    centre: torch.Tensor  # (pairs, 3): point in first camera = rotation @ point in second + centre
    kind: torch.Tensor  # (pairs, 2, height, width) uint8: SKY, STATIC or MOVED; what has moved between the views has no match


def compiled(kind, name="scene"):
    """The library `name` of `SOURCES` for `kind`, "cuda" or "cpu", built unless one of the same source lies there."""
    sources = [HERE / source for source in SOURCES[name]]
    if kind == "cuda":
        nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
        major, minor = torch.cuda.get_device_capability()
        command = [nvcc, f"-arch=sm_{major}{minor}", "-O3", "--use_fast_math", "-Xcompiler", "-fPIC", "-shared"]
    else:
        command = ["g++", "-x", "c++", "-O3", "-march=native", "-fno-math-errno", "-fPIC", "-shared"]
    text = " ".join(command).encode() + b"".join(path.read_bytes() for path in sources)
    folder = pathlib.Path(tempfile.gettempdir()) / f"train_tiny_{os.getuid()}"
    library = folder / f"{name}_{kind}_{hashlib.sha256(text).hexdigest()[:16]}.so"
    if not library.exists():
        folder.mkdir(exist_ok=True)
        unfinished = library.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, str(sources[-1]), "-o", str(unfinished)], check=True)
        unfinished.rename(library)
    return ctypes.CDLL(str(library))


class Renderer:
    """Renders [`Scenes`] and [`Worlds`] on `device`; `packs` are what worlds are furnished with, none if not given."""

    def __init__(self, device, packs=None):
        self.device = torch.device(device)
        self.function = compiled(self.device.type).render
        self.packs, self.worlds = packs, None

    def of_worlds(self, worlds, height, width, samples):
        if self.worlds is None:  # compiled when it is first needed
            from packs import Packs
            from worlds import WorldRenderer
            self.worlds = WorldRenderer(self.device, compiled(self.device.type, "world"), self.packs or Packs(self.device))
        return self.worlds(worlds, height, width, samples)

    def __call__(self, scenes, height, width, samples=4):
        """[`Views`] of [`Scenes`] or [`Worlds`].

        `samples` rays per pixel make the colours, 1 or 4 (of worlds only at edges); one through the middle makes depth and point.
        """
        if isinstance(scenes, Worlds):
            return self.of_worlds(scenes, height, width, samples)
        pairs, count = scenes.solids.shape[:2]
        views = scenes.views.clone()
        views[..., 12] *= max(height, width)
        inputs = [t.contiguous().float() for t in (scenes.scenes, scenes.solids, views)]
        widths = [t.shape[-1] for t in inputs]
        if widths != [SCENE, SOLID, VIEW] or count > MAX_SOLIDS or samples not in (1, 4):
            raise ValueError(f"scene.cu reads no records of {widths} floats, {count} solids, {samples} samples")
        new = lambda *shape, dtype=torch.float32: torch.empty(pairs, 2, *shape, dtype=dtype, device=self.device)
        rgb, depth, points = new(3, height, width, dtype=torch.uint8), new(height, width), new(height, width, 3)
        index = rgb.get_device()
        stream = torch.cuda.current_stream(index).cuda_stream if index >= 0 else 0
        pointer = lambda t: ctypes.c_void_p(t.data_ptr())
        error = self.function(*map(pointer, inputs), *map(ctypes.c_int, (pairs, count, height, width, samples)),
                              *map(pointer, (rgb, depth, points)), ctypes.c_int(index), ctypes.c_void_p(stream))
        if error:
            raise RuntimeError(f"scene.cu failed with CUDA error {error}")
        world_from = views[..., :9].reshape(pairs, 2, 3, 3)
        first = world_from[:, 0].transpose(1, 2)
        centre = (first @ (views[:, 1, 9:12] - views[:, 0, 9:12])[..., None])[..., 0]
        return Views(rgb, depth, points, views[..., 12], first @ world_from[:, 1], centre, (depth > 0).to(torch.uint8))
