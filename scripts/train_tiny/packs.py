"""Photographs, panoramas and meshes on a device, as world.cu reads them; material/ makes the files and says what is in them.

Without a pack its part is left out: surfaces are painted with procedural textures, the sky too, furniture is made of boxes.
"""
import ctypes
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

PICTURE, MATERIAL, INDOOR = 0, 1, 1  # kinds of tiles and of panoramas, as in material/packs.py
SIDE, DOME_WIDTH, DOME_HEIGHT, DOME_WHITE = 256, 512, 256, 8.0  # as in surfaces.cuh
FILES = {"atlas": "atlas.bin", "panoramas": "panoramas.npz", "meshes": "meshes.npz"}
FOLDER = pathlib.Path(__file__).parent.parent.parent / ".material"


class Record(ctypes.Structure):
    """`Packs` of shapes.cuh."""
    _fields_ = [(name, ctypes.c_void_p) for name in ("tiles", "domes", "suns", "nodes", "triangles", "colours", "meshes")] + [
        (name, ctypes.c_int) for name in ("tile_count", "material_count", "dome_count", "mesh_count")]


def with_mips(tiles):
    """Tiles uint8 (n, SIDE, SIDE, 4) with their mip levels down to 4 x 4, (n, bytes), filtered as light adds up."""
    levels, light = [tiles.reshape(len(tiles), -1)], (tiles.permute(0, 3, 1, 2).float() / 255).square()
    while light.shape[2] > 4:
        light = F.avg_pool2d(light, 2)
        level = (255 * light.sqrt()).round().to(torch.uint8)
        levels.append(level.permute(0, 2, 3, 1).reshape(len(tiles), -1))
    return torch.cat(levels, 1)


def domes_of(panoramas):
    """Domes uint8 (n, DOME_HEIGHT, DOME_WIDTH, 4), and for each 12 floats: towards the sun, and the light of the sun, of the
    upper and of the lower half, as a white surface shows it."""
    domes, suns = [], []
    for image, scale, sun, power, kind in zip(*(panoramas[key] for key in ("images", "scale", "sun", "sun_power", "kind"))):
        if kind == INDOOR:
            continue
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        light = scale.item() * (pixels / 255).square()
        light = F.interpolate(light, (DOME_HEIGHT, DOME_WIDTH), mode="area" if light.shape[2] >= DOME_HEIGHT else "bilinear")[0]
        weight = torch.cos((torch.arange(DOME_HEIGHT) + 0.5) / DOME_HEIGHT * math.pi - math.pi / 2)[None, :, None]
        mean = lambda part, w: ((part * w).sum((1, 2)) / w.sum() / DOME_WIDTH).tolist()
        half = DOME_HEIGHT // 2
        suns.append([*sun.tolist(), *(power / math.pi).tolist(), *mean(light[:, :half], weight[:, :half]),
                     *mean(light[:, half:], weight[:, half:])])
        encoded = (255 * (light / DOME_WHITE).clamp(0, 1).sqrt()).round().to(torch.uint8)
        domes.append(F.pad(encoded.permute(1, 2, 0), (0, 1), value=255))
    return torch.stack(domes), torch.tensor(suns)


class Packs:
    """What world.cu reads besides seeds, on `device`; each argument as a loader of material/packs.py returns it, or None."""

    def __init__(self, device, atlas=None, panoramas=None, meshes=None):
        self.parts = {}
        self.record = Record()
        put = lambda name, tensor: self.parts.__setitem__(name, tensor.to(device).contiguous())
        if atlas is not None:
            # What may be repeated comes first; cut-outs are left out.
            kinds = torch.from_numpy(np.asarray(atlas["kinds"]))
            order = torch.cat([(kinds == MATERIAL).nonzero()[:, 0], (kinds == PICTURE).nonzero()[:, 0]])
            tiles = torch.from_numpy(np.asarray(atlas["tiles"]))[order]
            put("tiles", torch.cat([with_mips(part.to(device)) for part in tiles.split(64)]))
            self.record.tile_count, self.record.material_count = len(tiles), int((kinds == MATERIAL).sum())
        if panoramas is not None:
            domes, suns = domes_of(panoramas)
            put("domes", domes)
            put("suns", suns)
            self.record.dome_count = len(domes)
        if meshes is not None:
            for name in ("nodes", "triangles", "colours", "meshes"):
                put(name, torch.from_numpy(np.asarray(meshes[name], np.float32)))
            self.record.mesh_count = len(meshes["meshes"])
        for name, tensor in self.parts.items():
            setattr(self.record, name, tensor.data_ptr())


def load(device, folder=FOLDER):
    """The packs of `folder`, whichever are there."""
    paths = {name: pathlib.Path(folder) / file for name, file in FILES.items()}
    there = {name: path for name, path in paths.items() if path.exists()}
    if there:
        from material import packs as files
    return Packs(device, **{name: getattr(files, f"load_{name}")(path) for name, path in there.items()})
