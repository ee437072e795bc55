"""Random scenes and camera pairs, whole batches at a time, from a seeded generator.

World frame: z up, the floor at z = 0, metres (which mean little: the network learns shape up to scale).
"""
import functools
import math

import torch

from renderer import Scenes

NONE, BOX, ELLIPSOID, CYLINDER, CONE, ROOM, GROUND, TERRAIN = range(8)
# Textures 12 and 13 (rings, plaid) and cones are kept from training, for the table of unfamiliar scenes.
TRAINED_TEXTURES, OTHER_TEXTURES = (0, 12), (12, 2)
LOOSE, STEPS, TABLE, PANELS = 10, 5, 5, 3
SOLIDS = 1 + LOOSE + STEPS + TABLE + PANELS


@functools.cache
def constant(values, device):
    """A tensor that stays on `device`: copying it there anew would make the host wait for the GPU."""
    return torch.tensor(values, dtype=torch.float32, device=device)


class Dice:
    """Random tensors with a row for every pair."""

    def __init__(self, pairs, generator):
        self.pairs, self.generator, self.device = pairs, generator, generator.device

    def uniform(self, low, high, *shape):
        values = torch.rand(self.pairs, *shape, generator=self.generator, device=self.device)
        return low + (high - low) * values

    def log_uniform(self, low, high, *shape):
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def normal(self, *shape):
        return torch.randn(self.pairs, *shape, generator=self.generator, device=self.device)

    def chance(self, share, *shape):
        return self.uniform(0, 1, *shape) < share

    def whole(self, low, high, *shape):
        return torch.randint(low, high, (self.pairs, *shape), generator=self.generator, device=self.device).float()

    def one_of(self, values, shares, *shape):
        steps = constant(tuple(sum(shares[:i]) for i in range(1, len(shares))), self.device)
        return constant(values, self.device)[torch.bucketize(self.uniform(0, sum(shares), *shape), steps)]

    def direction(self, *shape):
        return torch.nn.functional.normalize(self.normal(*shape, 3), dim=-1)


def about_z(angle):
    """Rotations (..., 3, 3) about z by `angle` (...)."""
    c, s, o = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([c, -s, o, s, c, o, o, o, o + 1], -1).reshape(*angle.shape, 3, 3)


def any_rotation(dice, *shape):
    w, x, y, z = torch.nn.functional.normalize(dice.normal(*shape, 4), dim=-1).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
            2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
            2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]
    return torch.stack(rows, -1).reshape(*w.shape, 3, 3)


def looking(towards, roll):
    """World_from_camera (..., 3, 3) of cameras that look along `towards` (..., 3), upright but for `roll` (...)."""
    z = torch.nn.functional.normalize(towards, dim=-1)
    up = constant((0.0, 0.0, 1.0), z.device).expand_as(z)
    x = torch.nn.functional.normalize(torch.linalg.cross(z, up), dim=-1)
    y = torch.linalg.cross(z, x)
    return torch.stack([x, y, z], -1) @ about_z(roll)


def place_solids(dice, room, terrain, half, scale, unfamiliar):
    """Kind (pairs, solids), centre and half sizes (pairs, solids, 3), rotation (pairs, solids, 3, 3).

    `half` (pairs, 3): half the room, or of the ground on which things stand; `scale` (pairs): size of the things.
    """
    pairs, k = dice.pairs, scale[:, None]
    stack = lambda *parts: torch.stack(torch.broadcast_tensors(*parts), -1)
    zero = torch.zeros(pairs, 1, device=dice.device)
    middle = stack(zero, zero, torch.where(room, half[:, 2], 0.0)[:, None])
    size = torch.where(room[:, None], half, stack(scale, scale, 0.25 * half[:, 2] + 0.05))[:, None]
    ground = torch.where(room, ROOM, torch.where(terrain, TERRAIN, GROUND))[:, None].float()

    shares = (0.3, 0.2, 0.2, 0.3) if unfamiliar else (0.5, 0.27, 0.23, 0.0)
    kind = dice.one_of((BOX, ELLIPSOID, CYLINDER, CONE), shares, LOOSE)
    kind = kind * (torch.arange(LOOSE, device=dice.device) < dice.whole(3, LOOSE + 1, 1))
    loose = (dice.log_uniform(0.12, 0.75, LOOSE) * k)[..., None] * dice.log_uniform(0.6, 1.6, LOOSE, 3)
    spread = dice.uniform(-0.8, 0.8, LOOSE, 2) * half[:, None, :2]
    lifted = dice.uniform(0.2, 1.6, LOOSE) * k * dice.chance(0.25, LOOSE)
    tilted = dice.chance(0.25, LOOSE)[..., None, None]
    turn = torch.where(tilted, any_rotation(dice, LOOSE), about_z(dice.uniform(0, 6.2832, LOOSE)))
    centre = torch.cat([spread, (0.95 * loose[..., 2] + lifted)[..., None]], -1)

    def group(locals_, halves, share, count):
        """Boxes of one thing, given in its own frame, somewhere on the floor."""
        yaw = about_z(dice.uniform(0, 6.2832))[:, None]
        spot = torch.cat([dice.uniform(-0.7, 0.7, 1, 2) * half[:, None, :2], zero[..., None]], -1)
        places = (yaw @ (locals_ * k[..., None])[..., None])[..., 0] + spot
        there = dice.chance(share, 1) * torch.ones(count, device=dice.device)
        return BOX * there, places, halves * k[..., None], yaw.expand(-1, count, -1, -1)

    step = torch.arange(STEPS, device=dice.device)
    tread, rise, width = dice.uniform(0.1, 0.2, 1), dice.uniform(0.12, 0.25, 1), dice.uniform(0.4, 1.0, 1)
    level = rise * (step + 1) / 2
    stairs = group(stack(zero, 2 * tread * step, level), stack(width, tread, level), 0.3, STEPS)
    wide, deep, high, leg = dice.uniform(0.4, 0.9, 1), dice.uniform(0.3, 0.5, 1), dice.uniform(0.4, 0.8, 1), 0.04
    across, along = constant((0, 1, 1, -1, -1), dice.device), constant((0, 1, -1, 1, -1), dice.device)
    top = across == 0
    table = group(
        stack((wide - leg) * across, (deep - leg) * along, torch.where(top, high, high / 2)),
        stack(torch.where(top, wide, leg), torch.where(top, deep, leg), torch.where(top, leg, high / 2)), 0.4, TABLE)

    # Pictures and shelves on a room's walls; outdoors, buildings around the ground.
    sideways, sign = dice.chance(0.5, PANELS), dice.one_of((-1, 1), (0.5, 0.5), PANELS)
    wall = torch.where(sideways, half[:, :1], half[:, 1:2])
    run = dice.uniform(-0.7, 0.7, PANELS) * torch.where(sideways, half[:, 1:2], half[:, :1])
    thin, broad, tall = dice.uniform(0.02, 0.2, PANELS), dice.uniform(0.2, 0.8, PANELS), dice.uniform(0.2, 0.6, PANELS)
    outer = ~room[:, None]
    thin, broad = torch.where(outer, 4 * broad * k, thin), torch.where(outer, 3 * broad * k, broad)
    tall = torch.where(outer, 4 * tall * k, tall)
    out = sign * torch.where(outer, 1.2 * wall + thin + 2 * k, wall)
    level = torch.where(outer, tall, dice.uniform(0.4, 1.6, PANELS) * half[:, 2:])
    panel_centre = stack(torch.where(sideways, out, run), torch.where(sideways, run, out), level)
    panel_half = stack(torch.where(sideways, thin, broad), torch.where(sideways, broad, thin), tall)
    panels = BOX * dice.chance(0.6, PANELS), panel_centre, panel_half, about_z(zero).expand(-1, PANELS, -1, -1)

    parts = [(ground, middle, size, about_z(zero)), (kind, centre, loose, turn), stairs, table, panels]
    return [torch.cat(column, 1) for column in zip(*parts)]


def place_cameras(dice, room, half, scale, floor, difficulty):
    """World_from_camera (pairs, 2, 3, 3), centres (pairs, 2, 3), and the point (pairs, 3) that both look towards.

    The second camera is the first, turned about that point. `difficulty` (pairs) in [0, 1] widens the angle, the
    difference in distance, and how far aside they look; `floor` (pairs) is the lowest point allowed.
    """
    lerp = lambda low, high: low + (high - low) * difficulty
    k, top = scale, torch.where(room, 2 * half[:, 2] - 0.25, 30.0)
    focus = torch.cat([dice.uniform(-0.35, 0.35, 2) * half[:, :2], (dice.uniform(0.2, 1.3) * k)[:, None]], 1)
    azimuth, reach = dice.uniform(0, 6.2832), dice.uniform(1.5, 5.0) * k
    raised = dice.uniform(0.0, 0.6) * reach
    arm = torch.stack([azimuth.cos() * reach, azimuth.sin() * reach, raised], -1)

    def inside(point):
        """`point`, moved into the room (or above the ground)."""
        wall = torch.where(room[:, None], half[:, :2] - 0.25, 1e3)
        beside = point[:, :2].clamp(-wall, wall)
        return torch.cat([beside, point[:, 2:].clamp(min=(floor + 0.35 * k)[:, None], max=top[:, None])], 1)

    first = inside(focus + arm)
    away = first - focus
    distance = away.norm(dim=1, keepdim=True)
    # Too near a wall's thing to see much: look past it.
    focus = focus - away / distance.clamp(min=1e-3) * (1.2 * k[:, None] - distance).clamp(min=0)
    away = first - focus
    distance = away.norm(dim=1)
    angle = lerp(0.03, 0.15) + dice.uniform(0, 1) * lerp(0.08, 1.2)
    turned = about_z(angle * dice.one_of((-1, 1), (0.5, 0.5))) @ away[..., None]
    second = focus + turned[..., 0] * (dice.uniform(-1, 1) * lerp(0.06, 0.45)).exp()[:, None]
    second = inside(second + dice.direction() * (distance * lerp(0.02, 0.2))[:, None])
    aside = dice.direction(2) * (dice.uniform(0, 1, 2) * (distance * lerp(0.08, 0.3))[:, None])[..., None]
    centres = torch.stack([first, second], 1)
    roll = dice.normal(2) * lerp(0.02, 0.12)[:, None]
    return looking(focus[:, None] + aside - centres, roll), centres, focus


def clear_way(kind, centre, half, rotation, cameras, focus):
    """`kind` with 0 for the solids that hold a camera or stand close before one, on its way to `focus`."""
    along = constant((0.0, 0.12, 0.25, 0.4), kind.device)[:, None]
    probes = cameras[:, :, None] + (focus[:, None] - cameras)[:, :, None] * along
    probes = probes.flatten(1, 2)[:, None]  # (pairs, 1, probes, 3)
    local = (probes - centre[:, :, None]) @ rotation
    margin = torch.where(torch.arange(probes.shape[2], device=kind.device) % 4 == 0, 0.25, 0.08)[:, None]
    near = (local.abs() < half[:, :, None] + margin).all(-1).any(-1)
    return torch.where(near & (kind > 0) & (kind < ROOM), 0.0, kind)


def colours(dice, solids):
    """Two colours (pairs, solids, 3) that differ enough to show a texture, for most."""
    grey, saturation = dice.uniform(0.1, 0.9, solids, 1), dice.uniform(0, 1, solids, 1) ** 1.5
    first = grey + saturation * (dice.uniform(0, 1, solids, 3) - grey)
    step = dice.uniform(0.2, 0.6, solids, 1) * torch.where(dice.chance(0.08, solids, 1), 0.15, 1.0)
    step = torch.where(first.mean(-1, keepdim=True) > 0.5, -step, step)
    return first.clamp(0.03, 0.97), (first + step * dice.uniform(0.4, 1.4, solids, 3)).clamp(0.03, 0.97)


def sample(pairs, difficulty, generator, unfamiliar=False):
    """`pairs` scenes with two cameras each. `difficulty` in [0, 1] is the hardest of a pair; each has its own below it.

    Returns [`Scenes`] on the generator's device. `unfamiliar` takes the shapes and textures kept from training.
    """
    dice = Dice(pairs, generator)
    room = dice.chance(0.6)
    terrain = ~room & dice.chance(0.5)
    half = torch.stack([dice.uniform(1.6, 4.5), dice.uniform(1.6, 4.5), dice.uniform(1.1, 1.9)], 1)
    scale = torch.where(room, 1.0, dice.log_uniform(0.8, 2.0))
    half = half * torch.where(room, 1.0, 1.3 * scale)[:, None]
    kind, centre, halves, rotation = place_solids(dice, room, terrain, half, scale, unfamiliar)
    floor = torch.where(terrain, halves[:, 0, 2], 0.0)
    own = difficulty * dice.uniform(0, 1).sqrt()
    facing, cameras, focus = place_cameras(dice, room, half, scale, floor, own)
    kind = clear_way(kind, centre, halves, rotation, cameras, focus)

    first, count = OTHER_TEXTURES if unfamiliar else TRAINED_TEXTURES
    texture = dice.whole(first, first + count, SOLIDS)
    bare = torch.zeros(pairs, SOLIDS, 1, device=dice.device)
    a, b = colours(dice, SOLIDS)
    cell = dice.log_uniform(0.08, 0.6, SOLIDS, 1) * scale[:, None, None]
    cell[:, 0] *= 1.5
    wear, wear_cell = dice.uniform(0.1, 0.5, SOLIDS, 1), dice.log_uniform(0.2, 1.5, SOLIDS, 1) * scale[:, None, None]
    gloss = dice.uniform(-0.4, 0.4, SOLIDS, 1).clamp(min=0)
    solids = torch.cat([
        kind[..., None], centre, halves, rotation.flatten(2), texture[..., None], cell, a, b,
        dice.whole(0, 1 << 20, SOLIDS, 1), wear, wear_cell, gloss, bare + first, bare + count, bare, bare], -1)

    sun = dice.direction() * constant((60.0, 60.0, 0.0), dice.device)
    sun[:, 2] = dice.uniform(30, 90)
    lamp = torch.cat([dice.uniform(-0.7, 0.7, 2) * half[:, :2], (dice.uniform(1.2, 1.9) * half[:, 2])[:, None]], 1)
    ambient, strength = dice.uniform(0.35, 0.7, 1), dice.uniform(0.35, 0.85, 1)
    sky = dice.uniform(0.3, 0.9, 1) * dice.uniform(0.6, 1.0, 3)
    haze = dice.uniform(0.6, 1.0, 1) * dice.uniform(0.8, 1.0, 3)
    scenes = torch.cat([torch.where(room[:, None], lamp, sun), ambient, strength, sky, haze,
                        dice.whole(0, 1 << 20, 1)], 1)

    focal = dice.log_uniform(0.6, 1.6, 1)
    zoom = torch.where(dice.chance(0.7, 1), 1.0, (dice.uniform(-0.3, 0.3, 1)).exp())
    focal = torch.cat([focal, (focal * zoom).clamp(0.6, 1.6)], 1)[..., None]
    exposure = dice.uniform(0.8, 1.2, 1, 1) * dice.uniform(0.93, 1.07, 2, 1) * dice.uniform(0.96, 1.04, 2, 3)
    noise = dice.uniform(0.0, 0.03, 1, 1).expand(-1, 2, -1)
    contrast = dice.uniform(0.75, 1.25, 1, 1) * dice.uniform(0.96, 1.04, 2, 1)
    views = torch.cat([facing.flatten(2), cameras, focal, exposure, noise, contrast,
                       torch.zeros(pairs, 2, 2, device=dice.device)], -1)
    return Scenes(scenes, solids, views)
