"""`tiny`: a DuneMASt3R of small widths, and the forward pass that trains it.

Tensor names and mathematics are those of scripts/torch_networks.py. Three things differ in how it is computed:
both views share the decoder's weights, so that they go through it as one batch (a file without `dec_blocks2` means just
that); the bilinear upsampling is a product with two small matrices, whose backward pass needs no atomic additions; and
descriptors are computed for chosen pixels alone. What is added up along the blocks stays in float32; products are in
bfloat16 under autocast.
"""
import functools
import math
import pathlib
import sys
import typing

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from losses import points_of  # noqa: E402
from torch_networks import DuneMast3r, ImageNet, Rope2d, Widths  # noqa: E402

PATCH, DESCRIPTOR = 14, 24


class Config(typing.NamedTuple):
    """The encoder's dimensions, and those behind it. Attention heads are 64 wide everywhere."""
    dim: int = 192
    depth: int = 6
    mlp: int = 384
    grid: int = 16
    widths: Widths = Widths(dim=192, depth=6, mlp=384, levels=(32, 48, 64, 96), features=48, head=32, last=32,
                            descriptor_hidden=128)
    biased: bool = True  # whether the blocks' products have biases that are not zero


CONFIGS = {
    "tiny": Config(),
    "wide": Config(dim=384, depth=8, mlp=768, biased=False,
                   widths=Widths(dim=256, depth=6, mlp=768, levels=(48, 64, 96, 128), features=64, head=48, last=32,
                                 descriptor_hidden=192, roles=True)),
}


def config_of(tensors):
    """The [`Config`] of an exported network, by the shapes of its tensors."""
    shape = lambda name: tuple(tensors[name].shape)
    count = lambda prefix: len({n.removeprefix(prefix).split(".")[0] for n in tensors if n.startswith(prefix)})
    head, encoder = "mast3r.downstream_head1.", "dune_backbone.blocks.0."
    biased = any(t.any() for n, t in tensors.items() if "blocks" in n and "norm" not in n and n.endswith(".bias"))
    levels = tuple(shape(f"{head}dpt.act_postprocess.{k}.0.weight")[0] for k in range(4))
    widths = Widths(dim=shape("mast3r.dec_norm.weight")[0], depth=count("mast3r.dec_blocks."),
                    mlp=shape("mast3r.dec_blocks.0.mlp.fc1.weight")[0], levels=levels,
                    features=shape(f"{head}dpt.scratch.layer1_rn.weight")[0],
                    head=shape(f"{head}dpt.head.0.weight")[0], last=shape(f"{head}dpt.head.2.weight")[0],
                    descriptor_hidden=shape(f"{head}head_local_features.fc1.weight")[0],
                    roles="mast3r.view_embed" in tensors)
    return Config(dim=shape("norm.weight")[0], depth=count(encoder), mlp=shape(f"{encoder}0.mlp.fc1.weight")[0],
                  grid=math.isqrt(shape("dune_backbone.pos_embed")[1] - 1), widths=widths, biased=biased)


def plain_network(config=Config()):
    """The same network as torch_networks.py computes it, to check this file's forward pass against."""
    return DuneMast3r(config.dim, config.dim // 64, True, config.grid, config.depth, config.mlp, config.widths)


@functools.cache
def rotation_table(rows, columns, device):
    """Cosines and signed sines (tokens, 64) of the rotary embedding."""
    rope = Rope2d(rows, columns, 64, "cpu")
    cos = rope.cos[:, :, None].expand(-1, -1, 2, -1).flatten(1)
    sin = torch.stack([-rope.sin, rope.sin], 2).flatten(1)
    return cos.to(device), sin.to(device)


def rotate(x, cos, sin):
    """The rotary embedding of (batch, tokens, heads * 64): pairs are 16 channels apart within each half of a head."""
    t = x.unflatten(2, (-1, 64))
    flipped = t.unflatten(-1, (2, 2, 16)).flip(-2).flatten(-3)
    return (t * cos[:, None] + flipped * sin[:, None]).to(x.dtype).flatten(2)


@functools.cache
def interpolation(size, to, device, dtype):
    """Matrix (to, size) of linear interpolation with corners aligned."""
    place = torch.arange(to, dtype=torch.float64) * (size - 1) / max(to - 1, 1)
    below = place.floor().clamp(max=max(size - 2, 0)).long()
    matrix, rows = torch.zeros(to, size, dtype=torch.float64), torch.arange(to)
    matrix[rows, below] = 1 - (place - below)
    if size > 1:
        matrix[rows, below + 1] = place - below
    return matrix.to(device, dtype)


def upsample(x, height, width):
    """Bilinear, corners aligned: (batch, channels, h, w) to (batch, channels, height, width); channels last."""
    batch, channels, h, w = x.shape
    across, down = interpolation(w, width, x.device, x.dtype), interpolation(h, height, x.device, x.dtype)
    x = torch.bmm(across.expand(batch * h, -1, -1), x.permute(0, 2, 3, 1).reshape(batch * h, w, channels))
    x = torch.bmm(down.expand(batch, -1, -1), x.reshape(batch, h, width * channels))
    return x.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def working_type(device):
    """What products are computed in."""
    return torch.bfloat16 if torch.is_autocast_enabled(device.type) else torch.float32


def normalised(norm, x):
    """The layer norm of float32 `x`, rounded for the product that reads it."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(working_type(x.device))


def add_norm(x, delta, gamma, *norms):
    """The float32 tokens `x` with `delta` added, scaled by `gamma`, both if given; and their layer norms."""
    if delta is not None:
        x = x + (delta if gamma is None else gamma * delta)
    return x, *(normalised(norm, x) for norm in norms)


class Chosen(torch.autograd.Function):
    """Rows `at` (n), all different, of (batch, rows, channels); the backward pass needs no atomic additions."""

    @staticmethod
    def forward(ctx, x, at):
        ctx.save_for_backward(at)
        ctx.shape = x.shape
        return x.index_select(1, at)

    @staticmethod
    def backward(ctx, grad):
        at, = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(1, at, grad), None


def attention(q, k, v):
    """Of (batch, tokens, heads * 64)."""
    heads = (t.unflatten(2, (-1, 64)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


class Tokens(typing.NamedTuple):
    """What the heads read: (2 * pairs, tokens, width) each, first views before second ones."""
    hooked: list
    rows: int
    columns: int


class Tiny(DuneMast3r):
    add_norm, rotate = staticmethod(add_norm), staticmethod(rotate)  # or those of fused.py

    def __init__(self, config=Config()):
        super().__init__(config.dim, config.dim // 64, True, config.grid, config.depth, config.mlp, config.widths)
        self.config = config
        del self.mast3r.dec_blocks2
        self.mast3r.downstream_head2.head_local_features = self.mast3r.downstream_head1.head_local_features
        self.normalise = ImageNet("cpu")
        self.initialise()

    def initialise(self):
        backbone = self.dune_backbone
        roles = [self.mast3r.view_embed] if self.config.widths.roles else []
        for token in (backbone.cls_token, backbone.register_tokens, backbone.pos_embed, *roles):
            nn.init.trunc_normal_(token, std=0.02)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features ** -0.5 * 0.7)
                nn.init.zeros_(module.bias)
                if name.endswith((".attn.proj", ".cross_attn.proj", ".mlp.fc2")):
                    module.weight.data *= 0.3
        for head in self.heads():
            # All points begin near (0, 0, 1), and confidences at 2.
            last = head.dpt.head["4"]
            last.weight.data *= 0.3
            last.bias.data = torch.tensor([0.0, 0.0, math.log(2.0), 0.0])

    def heads(self):
        return self.mast3r.downstream_head1, self.mast3r.downstream_head2

    def product(self, linear, x):
        return F.linear(x, linear.weight, linear.bias if self.config.biased else None)

    def mlp(self, mlp, x):
        return self.product(mlp.fc2, F.gelu(self.product(mlp.fc1, x)))

    def trunk(self, images):
        """Pictures (2 * pairs, 3, height, width) in [-1, 1], first views before second ones, to [`Tokens`]."""
        rows, columns, two = images.shape[2] // PATCH, images.shape[3] // PATCH, self.mast3r
        backbone, batch = self.dune_backbone, images.shape[0]
        # A patch's convolution is a product, and a product is what a GPU is quickest at.
        patches = self.normalise(images).unflatten(3, (columns, PATCH)).unflatten(2, (rows, PATCH))
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)
        projection = backbone.patch_embed.proj
        tokens = F.linear(patches, projection.weight.flatten(1), projection.bias)
        position = backbone.positions(rows, columns)
        special = torch.cat([backbone.cls_token + position[:, :1], backbone.register_tokens], 1)
        tokens = torch.cat([special.expand(batch, -1, -1), tokens + position[:, 1:]], 1)
        x, delta, gamma = tokens.float(), None, None
        for block in backbone.blocks[0]:
            x, h = self.add_norm(x, delta, gamma, block.norm1)
            mixed = attention(*self.product(block.attn.qkv, h).chunk(3, 2))
            x, h = self.add_norm(x, self.product(block.attn.proj, mixed), block.ls1.gamma, block.norm2)
            delta, gamma = self.mlp(block.mlp, h), block.ls2.gamma
        encoded = self.add_norm(x, delta, gamma, self.norm)[1][:, 5:]
        hooked = [encoded]

        x, delta = two.decoder_embed(encoded).float(), None
        if self.config.widths.roles:
            x = (x.unflatten(0, (2, -1)) + two.view_embed[:, None, None]).flatten(0, 1)
        table = rotation_table(rows, columns, x.device)
        turned = lambda t: self.rotate(t, *table)
        for i, block in enumerate(two.dec_blocks):
            x, h, memory = self.add_norm(x, delta, None, block.norm1, block.norm_y)
            if i in two.hooks:
                hooked.append(x)
            memory = memory.roll(batch // 2, 0)  # of each view the other's tokens as they come in
            q, k, v = self.product(block.attn.qkv, h).chunk(3, 2)
            mixed = attention(turned(q), turned(k), v)
            x, h = self.add_norm(x, self.product(block.attn.proj, mixed), None, block.norm2)
            cross = block.cross_attn
            q, k, v = (self.product(part, t) for part, t in ((cross.projq, h), (cross.projk, memory), (cross.projv, memory)))
            mixed = attention(turned(q), turned(k), v)
            x, h = self.add_norm(x, self.product(cross.proj, mixed), None, block.norm3)
            delta = self.mlp(block.mlp, h)
        hooked.append(self.add_norm(x, delta, None, two.dec_norm)[1])
        return Tokens(hooked, rows, columns)

    def raw_points(self, tokens, pixels=None):
        """What the heads say (pairs, 2, n, 4), before [`losses.points_of`] makes points of it, at `pixels` (n), each
        row * width + column; at all of them unless given."""
        maps = [self.dpt(head.dpt, [t.chunk(2)[view] for t in tokens.hooked], tokens.rows, tokens.columns, pixels)
                for view, head in enumerate(self.heads())]
        return torch.stack(maps, 1)

    def points(self, tokens):
        """Points (pairs, 2, height, width, 3) in the first camera's frame and confidences (pairs, 2, height, width)."""
        return points_of(self.raw_points(tokens).unflatten(2, (tokens.rows * PATCH, tokens.columns * PATCH)))

    def dpt(self, dpt, hooked, rows, columns, pixels):
        """Raw output (pairs, n, 4) of one DPT head."""
        s = dpt.scratch
        maps = [t.reshape(t.shape[0], rows, columns, -1).permute(0, 3, 1, 2) for t in hooked]
        levels = [getattr(s, f"layer{k + 1}_rn")(dpt.act_postprocess[k](m)) for k, m in enumerate(maps)]
        x = None
        for k in (3, 2, 1, 0):
            refine, level = getattr(s, f"refinenet{k + 1}"), levels[k]
            x = level if x is None else x + refine.resConfUnit1(level)
            # A 1x1 convolution and an interpolation commute, and before it there are four times fewer pixels.
            x = refine.out_conv(refine.resConfUnit2(x))
            finer = levels[k - 1].shape[2:] if k else None
            x = upsample(x, 2 * x.shape[2], 2 * x.shape[3])
            if finer:
                x = x[:, :, :finer[0], :finer[1]]
        x = upsample(dpt.head["0"](x), rows * PATCH, columns * PATCH)
        x = dpt.head["2"](x).permute(0, 2, 3, 1).flatten(1, 2)
        x = F.relu(x if pixels is None else Chosen.apply(x, pixels))
        with torch.autocast(x.device.type, enabled=False):  # three digits are too few for a point
            return F.linear(x.float(), dpt.head["4"].weight.flatten(1), dpt.head["4"].bias)

    def descriptors(self, tokens, pixels):
        """Unit descriptors (pairs, 2, n, 24), float32, and confidences (pairs, 2, n) at `pixels` (pairs, 2, n), each
        row * width + column."""
        first, last = tokens.hooked[0], tokens.hooked[3]
        local = self.heads()[0].head_local_features(torch.cat([first, last.to(first.dtype)], -1))
        n, width = pixels.shape[2], tokens.columns * PATCH
        pixels = pixels.transpose(0, 1).flatten(0, 1)
        row, column = pixels // width, pixels % width
        token = row // PATCH * tokens.columns + column // PATCH
        place = token * (DESCRIPTOR + 1) * PATCH * PATCH + row % PATCH * PATCH + column % PATCH
        channel = torch.arange(DESCRIPTOR + 1, device=pixels.device) * PATCH * PATCH
        chosen = local.flatten(1).gather(1, (place[..., None] + channel).flatten(1))
        chosen = chosen.reshape(2, -1, n, DESCRIPTOR + 1).transpose(0, 1).float()
        confidence = chosen[..., DESCRIPTOR].clamp(max=12.0).exp()
        return F.normalize(chosen[..., :DESCRIPTOR], dim=-1), confidence


def as_input(rgb):
    """uint8 (pairs, 2, 3, height, width) to (2 * pairs, 3, height, width) in [-1, 1]."""
    return rgb.transpose(0, 1).flatten(0, 1).float() / 127.5 - 1
