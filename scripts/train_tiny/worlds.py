"""Worlds that resemble photographs: facades, monuments, landscapes, rooms, plants, seen by two different cameras.

A batch is a seed for each pair; world.cu makes everything of it on the device that renders, so drawing one takes the host no time.
World frame: z up, metres.
"""
import ctypes

import torch

from renderer import Views, Worlds

ONE_LIGHT, PERFECT_LENSES, NOTHING_MOVES, CAMERAS_GIVEN = 1, 2, 4, 8  # Option of worlds.cuh
SIZES = ("worlds", "solids", "heights", "scores", "meters")


class Job(ctypes.Structure):
    """`Job` of world.cu, behind the packs."""
    _fields_ = [(name, ctypes.c_void_p) for name in (*SIZES, "linear", "normals", "marks", "seeds", "hardest", "rgb", "depth", "points", "kind",
                                                     "poses")] + [
        (name, ctypes.c_int) for name in ("pairs", "height", "width", "samples", "options")]


def sample(pairs, difficulty, generator, options=0):
    """`pairs` worlds with two cameras each. `difficulty` in [0, 1], a number or a tensor, is the hardest of a pair; each has its
    own below it; `options` are some of those above. Returns [`Worlds`] on the generator's device, which the host does not wait
    for."""
    seeds = torch.randint(0, (1 << 31) - 1, (pairs,), generator=generator, device=generator.device, dtype=torch.int32)
    hardest = torch.as_tensor(difficulty, dtype=torch.float32).to(generator.device, non_blocking=True) if isinstance(
        difficulty, torch.Tensor) else torch.full((), difficulty, device=generator.device)
    return Worlds(seeds, hardest.expand(pairs).contiguous(), options)


class WorldRenderer:
    """Renders [`Worlds`]; `library` is world.cu compiled, `packs` a [`packs.Packs`] on the same device."""

    def __init__(self, device, library, packs):
        self.device, self.packs = torch.device(device), packs
        self.function = library.render_worlds
        bytes_of = (ctypes.c_int * len(SIZES))()
        library.sizes(bytes_of)
        self.bytes_of = dict(zip(SIZES, bytes_of))

    def __call__(self, worlds, height, width, samples=4):
        pairs = len(worlds.seeds)
        new = lambda *shape, dtype=torch.float32: torch.empty(pairs, 2, *shape, dtype=dtype, device=self.device)
        keep = {name: torch.empty(pairs * size, dtype=torch.uint8, device=self.device) for name, size in self.bytes_of.items()}
        keep |= {"linear": new(3, height, width), "normals": new(height, width, 4), "marks": new(height, width, dtype=torch.int32),
                 "seeds": worlds.seeds.to(torch.int32).contiguous(), "hardest": worlds.hardest.float().contiguous(),
                 "rgb": new(3, height, width, dtype=torch.uint8), "depth": new(height, width), "points": new(height, width, 3),
                 "kind": new(height, width, dtype=torch.uint8), "poses": new(13)}
        if keep["seeds"].device != keep["rgb"].device:
            raise ValueError(f"worlds on {keep['seeds'].device}, expected {keep['rgb'].device}, the renderer's device")
        options = worlds.options
        if worlds.cameras is not None:
            options |= CAMERAS_GIVEN
            keep["poses"].copy_(worlds.cameras)
        numbers = {"pairs": pairs, "height": height, "width": width, "samples": samples, "options": options}
        job = Job(**{name: tensor.data_ptr() for name, tensor in keep.items()}, **numbers)
        whole = (ctypes.c_char * (ctypes.sizeof(self.packs.record) + ctypes.sizeof(job))).from_buffer_copy(
            bytes(self.packs.record) + bytes(job))
        index = keep["rgb"].get_device()
        stream = torch.cuda.current_stream(index).cuda_stream if index >= 0 else 0
        error = self.function(whole, ctypes.c_int(index), ctypes.c_void_p(stream))
        if error:
            raise RuntimeError(f"world.cu failed with CUDA error {error}")
        poses = keep["poses"]
        world_from = poses[..., :9].reshape(pairs, 2, 3, 3)
        first = world_from[:, 0].transpose(1, 2)
        centre = (first @ (poses[:, 1, 9:12] - poses[:, 0, 9:12])[..., None])[..., 0]
        return Views(keep["rgb"], keep["depth"], keep["points"], poses[..., 12], first @ world_from[:, 1], centre, keep["kind"])
