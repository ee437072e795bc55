"""Ground-truth correspondences, the two losses, and what is measured beside them."""
import typing

import torch
import torch.nn.functional as F

from renderer import STATIC

ALPHA = 0.2  # weight of the logarithm that rewards confidence
TEMPERATURE = 0.07
SKY = 0.1  # weight of confidence where nothing is at a finite distance
VISIBLE = 0.025  # two points are the same one within this share of their depth
APART = 1e4  # what a logit loses that is not to count


class Matches(typing.NamedTuple):
    """Pixels (pairs, 2, n), each row * width + column, that show the same point in both views where `valid`."""
    pixels: torch.Tensor
    valid: torch.Tensor  # (pairs, n)


def seen_in_first(views, pixels):
    """Where view 1 shows what view 2 shows at `pixels` (pairs, n): column and row (pairs, n), and whether it does."""
    height, width = views.depth.shape[2:]
    take = lambda points, at: points.flatten(1, 2).gather(1, at[..., None].expand(-1, -1, 3))
    point = take(views.points[:, 1], pixels)
    depth = views.depth[:, 1].flatten(1).gather(1, pixels)
    z, f = point[..., 2].clamp(min=1e-3), views.focal[:, :1]
    column = f * point[..., 0] / z + (width - 1) / 2
    row = f * point[..., 1] / z + (height - 1) / 2
    inside = (column > -0.5) & (column < width - 0.5) & (row > -0.5) & (row < height - 0.5)
    nearest = (row.round().clamp(0, height - 1) * width + column.round().clamp(0, width - 1)).long()
    same = (take(views.points[:, 0], nearest) - point).norm(dim=-1) < VISIBLE * z
    still = [views.kind[:, view].flatten(1).gather(1, at) == STATIC for view, at in ((0, nearest), (1, pixels))]
    valid = inside & same & (point[..., 2] > 1e-3) & (depth > 0) & still[0] & still[1]
    return column, row, nearest, valid


def correspondences(views, n, generator):
    """`n` random pixels of each second view and where the first shows the same.

    Every other pixel lies two to six away from another one, so that it is also near ones that have to be told apart.
    """
    pairs, _, height, width = views.depth.shape
    random = lambda low, high, *shape: torch.randint(low, high, (pairs, *shape), generator=generator,
                                                     device=views.depth.device)
    row, column = random(0, height, n // 2), random(0, width, n // 2)
    down, across = random(-6, 7, n // 2), random(-6, 7, n // 2)
    across = torch.where((down.abs() < 2) & (across.abs() < 2), across + 4, across)
    row = torch.cat([row, (row + down).clamp(0, height - 1)], 1)
    second = row * width + torch.cat([column, (column + across).clamp(0, width - 1)], 1)
    _, _, first, valid = seen_in_first(views, second)
    return Matches(torch.stack([first, second], 1), valid)


def points_of(raw):
    """Points (..., 3) and confidences (...) of a DPT head's output (..., 4)."""
    raw = raw.float()
    xyz, d = raw[..., :3], raw[..., :3].norm(dim=-1, keepdim=True).clamp(1e-6, 12.0)
    return xyz / d * torch.expm1(d), 1 + raw[..., 3].clamp(max=12.0).exp()


def one_in_four(height, width, device):
    """Of every 2 x 2 pixels the same one, chosen at random: (height * width / 4), each row * width + column."""
    row, column = torch.arange(0, height - 1, 2, device=device), torch.arange(0, width - 1, 2, device=device)
    down, across = torch.randint(0, 2, (2,), device=device).unbind()
    return ((row + down)[:, None] * width + column + across).flatten()


def typical_distance(points, mask):
    """Geometric mean of the distances (pairs, 1, 1) of both views' points (pairs, 2, n, 3) from the first camera where
    `mask`: what is far away does not decide it alone."""
    total = (points.norm(dim=-1).clamp(min=1e-4).log() * mask).sum((1, 2))
    return (total / mask.sum((1, 2)).clamp(min=1)).exp()[:, None, None]


def regression_from_raw(raw, true_points, depth):
    """Confidence-weighted distance of point maps that are both scaled to a typical distance of one: `raw` (pairs, 2, n,
    4) as the heads say it, the truth (pairs, 2, n, 3), its depth (pairs, 2, n) 0 where nothing is at a finite distance.

    An error counts the less the farther the point, so that neither the foreground nor the horizon is all. Where nothing
    is at a finite distance confidence goes to its floor.
    """
    points, confidence = points_of(raw)
    mask = (depth > 0).float()
    scale, true_scale = typical_distance(points, mask), typical_distance(true_points, mask)
    distance = true_points.norm(dim=-1) / true_scale
    error = (points / scale[..., None] - true_points / true_scale[..., None]).norm(dim=-1) / (0.5 + 0.5 * distance)
    each = (confidence * error - ALPHA * confidence.log()) * mask
    mean = lambda values, where: values.sum((0, 2)) / where.sum((0, 2)).clamp(min=1)
    per_view = mean(each, mask) + SKY * mean((confidence - 1) * (1 - mask), 1 - mask)
    # The true scale cannot be seen in pictures; that the network's own stays near one keeps it from drifting.
    return per_view.sum() + 0.01 * scale.log().square().mean()


def matching_loss(descriptors, confidence, valid):
    """InfoNCE over the points of each pair, in both directions, its confidence's loss, and the share matched right.

    The confidence learns how certain a match is and does not weigh on the descriptors.
    """
    first, second = descriptors.unbind(1)
    logits = first @ second.transpose(1, 2) / TEMPERATURE
    away = (~valid).float() * APART
    target = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
    forth, back = logits - away[:, None], logits.transpose(1, 2) - away[:, None]
    each = 0.5 * (F.cross_entropy(forth.flatten(0, 1), target.flatten(), reduction="none")
                  + F.cross_entropy(back.flatten(0, 1), target.flatten(), reduction="none")).reshape(valid.shape)
    weight, count = valid.float(), valid.sum().clamp(min=1)
    sure = confidence.mean(1)
    certainty = ((sure * each.detach() - 2.0 * sure.log()) * weight).sum() / count
    right = ((forth.argmax(2) == target) * weight).sum() / count
    return (each * weight).sum() / count, certainty, right


@torch.no_grad()
def relative_errors(points, views):
    """Distance to the truth over the truth's distance, (pairs, 2, height, width), NaN where nothing is seen.

    The prediction is first scaled by the ratio of the median distances of both views' points.
    """
    mask = views.depth > 0
    distance = lambda p: p.norm(dim=-1).masked_fill(~mask, float("nan")).flatten(1).nanmedian(1).values
    scale = (distance(views.points) / distance(points).clamp(min=1e-6))[:, None, None, None, None]
    error = (points * scale - views.points).norm(dim=-1) / views.points.norm(dim=-1).clamp(min=1e-6)
    return error.masked_fill(~mask, float("nan"))


def right_matches(views, first, second, tolerance=2.0):
    """Whether what view 2 shows at its pixels `second` (pairs, n) is within `tolerance` pixels of view 1's `first`."""
    width = views.depth.shape[3]
    column, row, _, valid = seen_in_first(views, second)
    apart = torch.hypot(first % width - column, torch.div(first, width, rounding_mode="floor") - row)
    return valid & (apart <= tolerance)


@torch.no_grad()
def matching_precision(net, tokens, views, generator, seeds=512, tolerance=2.0):
    """Of the mutual nearest neighbours of random pixels of view 2, the share within `tolerance` pixels, and the number.

    All pixels of the other view compete. A match of a point that the first view does not show is wrong.
    """
    pairs, _, height, width = views.depth.shape
    everywhere = torch.arange(height * width, device=views.depth.device).expand(pairs, 2, -1)
    first, second = net.descriptors(tokens, everywhere)[0].unbind(1)
    chosen = torch.randint(0, height * width, (pairs, seeds), generator=generator, device=views.depth.device)
    nearest = lambda at, a, b: (a.gather(1, at[..., None].expand(-1, -1, a.shape[2])) @ b.transpose(1, 2)).argmax(2)
    found = nearest(chosen, second, first)
    mutual = nearest(found, first, second) == chosen
    right = mutual & right_matches(views, found, chosen, tolerance)
    return right.sum() / mutual.sum().clamp(min=1), mutual.float().mean() * seeds
