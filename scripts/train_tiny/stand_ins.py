"""Small made-up packs in place of material/'s, for tests: coloured noise for photographs, a gradient for a sky, crates for meshes."""
import numpy as np
import torch
import torch.nn.functional as F

from packs import SIDE, Packs


def atlas(count=24, seed=1):
    """Tiles of noise of many sizes in two colours each; every third is a picture, the others may be repeated."""
    generator = torch.Generator().manual_seed(seed)
    tiles = torch.zeros(count, 3, SIDE, SIDE)
    for octave in range(2, 8):
        noise = torch.rand(count, 3, 2**octave, 2**octave, generator=generator)
        tiles += F.interpolate(noise, (SIDE, SIDE), mode="bilinear") * 0.75**octave
    tiles = (tiles - tiles.mean((2, 3), keepdim=True)) / tiles.std((2, 3), keepdim=True)
    colour = torch.rand(count, 3, 1, 1, generator=generator) * 0.8 + 0.1
    rgb = (255 * (colour + 0.14 * tiles)).clamp(0, 255).to(torch.uint8)
    rgba = F.pad(rgb.permute(0, 2, 3, 1), (0, 1), value=255)
    return {"tiles": rgba.numpy(), "kinds": np.array([1, 1, 0] * (count // 3), np.uint8)}


def panoramas():
    """One sky, brighter towards the horizon, over brown ground."""
    image = np.zeros((64, 128, 3), np.uint8)
    image[:32] = np.linspace((90, 130, 200), (220, 225, 230), 32)[:, None]
    image[32:] = (110, 95, 80)
    return {"images": [image], "scale": np.array([1.0], np.float32), "sun": np.array([[0.6, 0.0, 0.8]], np.float32),
            "sun_power": np.array([[3.0, 2.8, 2.5]], np.float32), "kind": np.array([0], np.uint8)}


def meshes():
    """A crate of twelve triangles, as a tree of three nodes: its sides, and its bottom and top."""
    corner = np.array([(x, y, z) for x in (-1, 1) for y in (-0.8, 0.8) for z in (-0.6, 0.6)], np.float32)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    triangles = np.zeros((12, 12), np.float32)
    triangles[:, :3] = corner[faces[:, 0]]
    triangles[:, 3:6] = corner[faces[:, 1]] - corner[faces[:, 0]]
    triangles[:, 6:9] = corner[faces[:, 2]] - corner[faces[:, 0]]
    triangles[:, 9] = np.arange(12) // 4
    box = [-1, -0.8, -0.6, 1, 0.8, 0.6]
    leaves = [[*corner[faces[i:i + 4]].min((0, 1)), *corner[faces[i:i + 4]].max((0, 1)), i, 4] for i in (0, 4, 8)]
    nodes = np.array([[*box, 1, -1], leaves[0], [*box, 3, -1], leaves[1], leaves[2]], np.float32)
    return {"nodes": nodes, "triangles": triangles, "colours": np.full((12, 3), 0.6, np.float32),
            "meshes": np.array([[0, 12, 1, 0.8, 0.6, 3, 0.5, 0]], np.float32)}


def packs(device="cpu"):
    return Packs(device, atlas(), panoramas(), meshes())
