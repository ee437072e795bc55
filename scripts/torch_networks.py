"""The networks of this repository stated in PyTorch, with the checkpoints' tensor names.

Images are (batch * views, 3, height, width) in [-1, 1], those of first views before those of second views. `prepare`
must be called once for their size, so that what depends on it alone is no part of the computation.
"""
import typing

import torch
import torch.nn.functional as F
from torch import nn


class Widths(typing.NamedTuple):
    """Dimensions of what follows the encoder of a two-view network: the published ones unless given."""
    dim: int = 768
    depth: int = 12
    mlp: int = 3072
    levels: tuple[int, int, int, int] = (96, 192, 384, 768)
    features: int = 256
    head: int = 128
    last: int = 128
    descriptor_hidden: int | None = None  # four times both widths together
    roles: bool = False  # whether the decoder is told which view's tokens it has: `view_embed`, added to them


class Rope2d(nn.Module):
    """Angles by position for each half of a head's channels: y first, x second."""

    def __init__(self, rows, columns, head_dim, device):
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        self.fill(torch.stack([y.reshape(-1), x.reshape(-1)], 1), head_dim, device)

    @classmethod
    def at(cls, positions, head_dim, device):
        """Of tokens at these positions (y, x)."""
        rope = cls.__new__(cls)
        rope.fill(positions, head_dim, device)
        return rope

    def fill(self, positions, head_dim, device):
        super().__init__()
        quarter = head_dim // 4
        frequency = 100.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
        angles = positions[:, :, None] * frequency
        self.register_buffer("cos", angles.cos().float().to(device), persistent=False)
        self.register_buffer("sin", angles.sin().float().to(device), persistent=False)

    def forward(self, t):
        batch, heads, tokens, dim = t.shape
        first, second = t.reshape(batch, heads, tokens, 2, 2, dim // 4).unbind(4)
        cos, sin = self.cos.to(t.dtype), self.sin.to(t.dtype)
        return torch.stack([first * cos - second * sin, second * cos + first * sin], 4).reshape(t.shape)


def attend(q, k, v, fused):
    if fused:
        return F.scaled_dot_product_attention(q, k, v)
    return ((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5).softmax(-1) @ v


class Attention(nn.Module):
    def __init__(self, dim, heads, fused, head_norms=False):
        super().__init__()
        self.qkv, self.proj, self.heads, self.fused = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), heads, fused
        norm = lambda: nn.LayerNorm(dim // heads) if head_norms else nn.Identity()
        self.q_norm, self.k_norm = norm(), norm()

    def forward(self, x, rope=None):
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if rope is not None:
            q, k = rope(q), rope(k)
        return self.proj(attend(q, k, v, self.fused).transpose(1, 2).reshape(batch, tokens, dim))


class CrossAttention(nn.Module):
    def __init__(self, dim, heads, fused):
        super().__init__()
        self.projq, self.projk, self.projv, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.heads, self.fused = heads, fused

    def forward(self, x, y, rope, rope_y):
        split = lambda t: t.reshape(t.shape[0], t.shape[1], self.heads, -1).transpose(1, 2)
        q, k, v = rope(split(self.projq(x))), rope_y(split(self.projk(y))), split(self.projv(y))
        return self.proj(attend(q, k, v, self.fused).transpose(1, 2).reshape(x.shape))


class Mlp(nn.Module):
    def __init__(self, dim, hidden, out):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, out)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Scale(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, dim, heads, fused, scaled=False, mlp=None, head_norms=False):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, 1e-6), nn.LayerNorm(dim, 1e-6)
        self.attn, self.mlp = Attention(dim, heads, fused, head_norms), Mlp(dim, mlp or 4 * dim, dim)
        self.ls1, self.ls2 = (Scale(dim), Scale(dim)) if scaled else (nn.Identity(), nn.Identity())

    def forward(self, x, rope=None):
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return x + self.ls2(self.mlp(self.norm2(x)))


class DecoderBlock(nn.Module):
    def __init__(self, dim, heads, mlp, fused):
        super().__init__()
        self.norm1, self.norm2, self.norm3, self.norm_y = (nn.LayerNorm(dim, 1e-6) for _ in range(4))
        self.attn, self.cross_attn = Attention(dim, heads, fused), CrossAttention(dim, heads, fused)
        self.mlp = Mlp(dim, mlp, dim)

    def forward(self, x, y, rope, rope_y):
        x = x + self.attn(self.norm1(x), rope)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(y), rope, rope_y)
        return x + self.mlp(self.norm3(x))


class PatchEmbed(nn.Module):
    def __init__(self, patch, dim):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, image):
        return self.proj(image.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)


class ImageNet(nn.Module):
    """From [-1, 1] to ImageNet's normalisation."""

    def __init__(self, device):
        super().__init__()
        for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(values, device=device)[:, None, None], persistent=False)

    def forward(self, images):
        return (images * 0.5 + 0.5 - self.mean) / self.std


class Dune(nn.Module):
    """Images in [-1, 1] to all tokens before the final norm."""

    def __init__(self, dim, heads, grid, fused, depth=12, mlp=None):
        super().__init__()
        self.patch, self.grid = 14, grid
        self.patch_embed = PatchEmbed(14, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, 4, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, dim))
        self.blocks = nn.ModuleList([nn.ModuleList([Block(dim, heads, fused, True, mlp) for _ in range(depth)])])

    def prepare(self, rows, columns, device):
        self.normalise = ImageNet(device)

    def positions(self, rows, columns):
        if rows == columns == self.grid:
            return self.pos_embed
        cells = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        scale = ((rows + 0.1) / self.grid, (columns + 0.1) / self.grid)
        cells = F.interpolate(cells, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)
        return torch.cat([self.pos_embed[:, :1], cells], 1)

    def forward(self, images):
        batch, rows, columns = images.shape[0], images.shape[2] // 14, images.shape[3] // 14
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), self.patch_embed(self.normalise(images))], 1)
        tokens = tokens + self.positions(rows, columns)
        tokens = torch.cat([tokens[:, :1], self.register_tokens.expand(batch, -1, -1), tokens[:, 1:]], 1)
        for block in self.blocks[0]:
            tokens = block(tokens)
        return tokens


class DuneEncoder(Dune):
    def __init__(self, dim, heads, grid, fused):
        super().__init__(dim, heads, grid, fused)
        self.norm = nn.LayerNorm(dim, 1e-6)

    def forward(self, images):
        return {"features": self.norm(super().forward(images))[:, 5:]}


class ResidualUnit(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(features, features, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Refine(nn.Module):
    def __init__(self, features, adds):
        super().__init__()
        if adds:
            self.resConfUnit1 = ResidualUnit(features)
        self.resConfUnit2 = ResidualUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x, level=None):
        if level is not None:
            x = x + self.resConfUnit1(level)
        x = F.interpolate(self.resConfUnit2(x), scale_factor=2, mode="bilinear", align_corners=True)
        return self.out_conv(x)


class Dpt(nn.Module):
    def __init__(self, encoder, widths, patch):
        super().__init__()
        levels, features, decoder, self.factor = widths.levels, widths.features, widths.dim, 2 * patch / 16
        adapt = [nn.Conv2d(c, level, 1) for c, level in zip((encoder, decoder, decoder, decoder), levels)]
        resize = [nn.ConvTranspose2d(levels[0], levels[0], 4, 4), nn.ConvTranspose2d(levels[1], levels[1], 2, 2), None,
                  nn.Conv2d(levels[3], levels[3], 3, 2, 1)]
        self.act_postprocess = nn.ModuleList(nn.Sequential(*filter(None, pair)) for pair in zip(adapt, resize))
        self.scratch = nn.Module()
        for k in range(4):
            setattr(self.scratch, f"layer{k + 1}_rn", nn.Conv2d(levels[k], features, 3, padding=1, bias=False))
            # The coarsest level has nothing to add to; its first unit is in the published files and never read.
            setattr(self.scratch, f"refinenet{k + 1}", Refine(features, adds=k < 3))
        self.head = nn.ModuleDict({"0": nn.Conv2d(features, widths.head, 3, padding=1),
                                   "2": nn.Conv2d(widths.head, widths.last, 3, padding=1),
                                   "4": nn.Conv2d(widths.last, 4, 1)})

    def forward(self, tokens, rows, columns):
        s = self.scratch
        maps = [t.transpose(1, 2).reshape(t.shape[0], -1, rows, columns) for t in tokens]
        l1, l2, l3, l4 = (getattr(s, f"layer{k + 1}_rn")(self.act_postprocess[k](m)) for k, m in enumerate(maps))
        x = s.refinenet4(l4)[:, :, :l3.shape[2], :l3.shape[3]]
        x = s.refinenet1(s.refinenet2(s.refinenet3(x, l3), l2), l1)
        x = F.interpolate(self.head["0"](x), scale_factor=self.factor, mode="bilinear", align_corners=True)
        return self.head["4"](F.relu(self.head["2"](x)))


class Head(nn.Module):
    def __init__(self, encoder, widths, patch):
        super().__init__()
        self.patch, self.dpt, both = patch, Dpt(encoder, widths, patch), encoder + widths.dim
        self.head_local_features = Mlp(both, widths.descriptor_hidden or 4 * both, 25 * patch * patch)

    def forward(self, tokens, rows, columns):
        tokens = [t.float() for t in tokens]
        xyz, conf = self.dpt(tokens, rows, columns).permute(0, 2, 3, 1).split([3, 1], -1)
        local = self.head_local_features(torch.cat([tokens[0], tokens[3]], -1)).transpose(1, 2)
        local = F.pixel_shuffle(local.reshape(local.shape[0], -1, rows, columns), self.patch)
        desc, desc_conf = local.permute(0, 2, 3, 1).split([24, 1], -1)
        d = xyz.norm(dim=-1, keepdim=True)
        return {"pts3d": xyz / d.clip(min=1e-8) * torch.expm1(d), "conf": 1 + conf[..., 0].exp(),
                "desc": desc / desc.norm(dim=-1, keepdim=True), "desc_conf": desc_conf[..., 0].exp()}


class TwoView(nn.Module):
    """decoder_embed, dec_blocks, dec_blocks2, dec_norm and the two heads, which are float32 always."""

    def __init__(self, encoder, patch, fused, widths=Widths()):
        super().__init__()
        dim, depth = widths.dim, widths.depth
        self.patch, self.hooks = patch, (depth * 2 // 4, depth * 3 // 4, depth)
        self.decoder_embed = nn.Linear(encoder, dim)
        self.dec_blocks, self.dec_blocks2 = (
            nn.ModuleList(DecoderBlock(dim, dim // 64, widths.mlp, fused) for _ in range(depth)) for _ in range(2))
        self.dec_norm = nn.LayerNorm(dim, 1e-6)
        self.view_embed = nn.Parameter(torch.zeros(2, dim)) if widths.roles else None
        self.downstream_head1, self.downstream_head2 = (Head(encoder, widths, patch) for _ in range(2))

    def prepare(self, rows, columns, device):
        self.rope = Rope2d(rows, columns, 64, device)

    def decode(self, first, second, rows, columns):
        rope = self.rope
        a, b = self.decoder_embed(first), self.decoder_embed(second)
        if self.view_embed is not None:
            a, b = a + self.view_embed[0], b + self.view_embed[1]
        hooked = [[first], [second]]
        for i, (block, block2) in enumerate(zip(self.dec_blocks, self.dec_blocks2)):
            a, b = block(a, b, rope, rope), block2(b, a, rope, rope)
            if i + 1 in self.hooks:
                for tokens, x in zip(hooked, (a, b)):
                    tokens.append(self.dec_norm(x) if i + 1 == self.hooks[2] else x)
        with torch.autocast(first.device.type, enabled=False):
            heads = (self.downstream_head1, self.downstream_head2)
            outs = [head(tokens, rows, columns) for head, tokens in zip(heads, hooked)]
        return {f"{name}.{view}": value for view, out in ((1, outs[0]), (2, outs[1])) for name, value in out.items()}


class CrocoEncoder(nn.Module):
    """MASt3R's encoder; its tensors stand at the top of MASt3R's file."""

    def __init__(self, fused):
        super().__init__()
        self.patch_embed = PatchEmbed(16, 1024)
        self.enc_blocks = nn.ModuleList(Block(1024, 16, fused) for _ in range(24))
        self.enc_norm = nn.LayerNorm(1024, 1e-6)

    def prepare(self, rows, columns, device):
        self.rope = Rope2d(rows, columns, 64, device)

    def encode(self, images):
        x = self.patch_embed(images)
        for block in self.enc_blocks:
            x = block(x, self.rope)
        return self.enc_norm(x)

    def forward(self, images):
        return {"features": self.encode(images)}


class Mast3r(TwoView):
    def __init__(self, fused):
        super().__init__(1024, 16, fused)
        for name, part in CrocoEncoder(fused).named_children():
            self.add_module(name, part)

    def forward(self, images):
        first, second = CrocoEncoder.encode(self, images).chunk(2)
        return self.decode(first, second, images.shape[2] // 16, images.shape[3] // 16)


class DuneMast3r(nn.Module):
    def __init__(self, dim, heads, fused, grid=32, depth=12, mlp=None, widths=Widths()):
        super().__init__()
        self.dune_backbone, self.mast3r = Dune(dim, heads, grid, fused, depth, mlp), TwoView(dim, 14, fused, widths)
        self.norm = nn.LayerNorm(dim)

    def prepare(self, rows, columns, device):
        self.dune_backbone.prepare(rows, columns, device)
        self.mast3r.prepare(rows, columns, device)

    def forward(self, images):
        first, second = self.norm(self.dune_backbone(images)[:, 5:]).chunk(2)
        return self.mast3r.decode(first, second, images.shape[2] // 14, images.shape[3] // 14)


class Sinusoid(nn.Module):
    """0.1 times sines and cosines of the place along x, then along y, added to maps of one size."""

    def __init__(self, channels, rows, columns, image, device):
        super().__init__()
        aspect = image[1] / image[0]
        diagonal, quarter = (aspect**2 + 1) ** 0.5, channels // 4
        frequency = 100.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)

        def along(count, side):
            place = side * (2 * torch.arange(count, dtype=torch.float64) + 1 - count) / count
            angles = place[:, None] * frequency
            return torch.cat([angles.sin(), angles.cos()], 1)

        across, down = along(columns, aspect / diagonal), along(rows, 1 / diagonal)
        both = [across[None].expand(rows, -1, -1), down[:, None].expand(-1, columns, -1)]
        values = 0.1 * torch.cat(both, 2).permute(2, 0, 1).float()
        self.register_buffer("values", values.contiguous().to(device), persistent=False)

    def forward(self, x):
        return x + self.values


class RefineTo(Refine):
    """A step of the fusion to a size of the caller's."""

    def forward(self, x, size, level=None):
        if level is not None:
            x = x + self.resConfUnit1(level)
        x = F.interpolate(self.resConfUnit2(x), size, mode="bilinear", align_corners=True)
        return self.out_conv(x)


class AnyViewHead(nn.Module):
    def __init__(self, dim, levels, features):
        super().__init__()
        self.levels, self.features, self.norm = levels, features, nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, level, 1) for level in levels)
        self.resize_layers = nn.ModuleList([
            nn.ConvTranspose2d(levels[0], levels[0], 4, 4), nn.ConvTranspose2d(levels[1], levels[1], 2, 2),
            nn.Identity(), nn.Conv2d(levels[3], levels[3], 3, 2, 1)])
        self.scratch = s = nn.Module()
        for k in range(4):
            setattr(s, f"layer{k + 1}_rn", nn.Conv2d(levels[k], features, 3, padding=1, bias=False))
            setattr(s, f"refinenet{k + 1}", RefineTo(features, adds=k < 3))
        s.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        s.output_conv2 = nn.Sequential(nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 2, 1))

    def prepare(self, rows, columns, device):
        image = self.image = (14 * rows, 14 * columns)
        self.places = nn.ModuleList(Sinusoid(level, rows, columns, image, device) for level in self.levels)
        self.last_place = Sinusoid(self.features // 2, *image, image, device)

    def forward(self, tokens, rows, columns):
        s, maps = self.scratch, []
        for k, level in enumerate(tokens):
            z = self.norm(level.float()).transpose(1, 2).reshape(level.shape[0], -1, rows, columns)
            z = self.resize_layers[k](self.places[k](self.projects[k](z)))
            maps.append(getattr(s, f"layer{k + 1}_rn")(z))
        x = None
        for k, factor in ((3, 1), (2, 2), (1, 4), (0, 8)):
            size = (factor * rows, factor * columns)
            refine = getattr(s, f"refinenet{k + 1}")
            x = refine(maps[k], size) if x is None else refine(x, size, maps[k])
        x = F.interpolate(s.output_conv1(x), self.image, mode="bilinear", align_corners=True)
        depth, conf = s.output_conv2(self.last_place(x)).unbind(1)
        return depth.exp(), 1 + conf.exp()


class AnyViewBackbone(nn.Module):
    """Depth Anything 3's encoder: all images are views of one scene."""

    alternate, hooks = 4, (5, 7, 9, 11)

    def __init__(self, dim, heads, fused, grid=37):
        super().__init__()
        self.grid, self.patch_embed = grid, PatchEmbed(14, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.camera_token = nn.Parameter(torch.zeros(1, 2, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, fused, True, head_norms=i >= self.alternate) for i in range(12))
        self.norm = nn.LayerNorm(dim)

    def prepare(self, rows, columns, device):
        self.normalise = ImageNet(device)
        grid = torch.cartesian_prod(torch.arange(1, rows + 1), torch.arange(1, columns + 1))
        self.local = Rope2d.at(torch.cat([torch.zeros(1, 2, dtype=grid.dtype), grid]), 64, device)
        self.joint = Rope2d.at(torch.tensor([[1, 1]]), 64, device)

    positions = Dune.positions

    def rotated_jointly(self, t):
        """Among all views patches are told from camera tokens alone."""
        views = t.reshape(*t.shape[:2], -1, len(self.local.cos), t.shape[3])
        first = views[:, :, :, 0]
        patches = views[:, :, :, 1:].flatten(2, 3)
        patches = self.joint(patches).reshape(*views.shape[:3], -1, t.shape[3])
        return torch.cat([first[:, :, :, None], patches], 3).reshape(t.shape)

    def reference(self, x):
        classes = x[:, 0].float()
        lengths = classes.norm(dim=1)
        units = classes / lengths[:, None]
        measures = [((units @ units.T).sum(1) - 1) / (len(x) - 1), lengths, units.var(1)]
        return sum(((m - m.min()) / (m.max() - m.min() + 1e-8) - 0.5).abs() for m in measures).argmin()

    def forward(self, images):
        views, rows, columns = images.shape[0], images.shape[2] // 14, images.shape[3] // 14
        x = torch.cat([self.cls_token.expand(views, -1, -1), self.patch_embed(self.normalise(images))], 1)
        x = x + self.positions(rows, columns)
        order, levels, local = None, [], x
        for i, block in enumerate(self.blocks):
            if views > 2 and i == self.alternate - 1:
                index = torch.arange(views, device=x.device)
                chosen = self.reference(x)
                order = torch.argsort(torch.where(index == chosen, -1, index))
                x = x[order]
            if i == self.alternate:
                first = self.camera_token[0, (torch.arange(views, device=x.device) > 0).long()]
                x = torch.cat([first[:, None].to(x.dtype), x[:, 1:]], 1)
            if i >= self.alternate and i % 2:
                x = block(x.reshape(1, -1, x.shape[2]), self.rotated_jointly).reshape(x.shape)
            else:
                x = local = block(x, self.local if i >= self.alternate else None)
            if i in self.hooks:
                level, camera = torch.cat([local[:, 1:], self.norm(x[:, 1:])], 2), torch.cat([local[:, 0], x[:, 0]], 1)
                back = slice(None) if order is None else torch.argsort(order)
                levels.append(level[back])
        return levels, camera[back]


class CameraDecoder(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t, self.fc_qvec = nn.Linear(dim, 3), nn.Linear(dim, 4)
        self.fc_fov = nn.Sequential(nn.Linear(dim, 2), nn.ReLU())

    def forward(self, x):
        h = self.backbone(x.float())
        return torch.cat([self.fc_t(h), self.fc_qvec(h), self.fc_fov(h)], 1)


class DepthAnything3(nn.Module):
    """Without rays and given cameras; head and camera decoder are float32 always."""

    def __init__(self, dim, heads, fused, features, levels):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.pretrained = AnyViewBackbone(dim, heads, fused)
        self.head, self.cam_dec = AnyViewHead(2 * dim, levels, features), CameraDecoder(2 * dim)

    def prepare(self, rows, columns, device):
        self.backbone.pretrained.prepare(rows, columns, device)
        self.head.prepare(rows, columns, device)

    def forward(self, images):
        levels, camera = self.backbone.pretrained(images)
        with torch.autocast(images.device.type, enabled=False):
            # Eight views at a time, as the reference.
            parts = zip(*(level.split(8) for level in levels))
            maps = [self.head(part, images.shape[2] // 14, images.shape[3] // 14) for part in parts]
            poses = self.cam_dec(camera)
        depth, conf = (torch.cat(part) for part in zip(*maps))
        return {"depth": depth, "conf": conf, "poses": poses}


class Network(typing.NamedTuple):
    patch: int
    views: int
    build: typing.Callable[[bool, int], nn.Module]  # of whether attention is fused, and DUNE's position grid


NETWORKS = {
    "dune-small": Network(14, 1, lambda fused, grid: DuneEncoder(384, 6, grid, fused)),
    "dune-base": Network(14, 1, lambda fused, grid: DuneEncoder(768, 12, grid, fused)),
    "mast3r-encoder": Network(16, 1, lambda fused, grid: CrocoEncoder(fused)),
    "mast3r": Network(16, 2, lambda fused, grid: Mast3r(fused)),
    "dunemast3r-small": Network(14, 2, lambda fused, grid: DuneMast3r(384, 6, fused)),
    "dunemast3r-base": Network(14, 2, lambda fused, grid: DuneMast3r(768, 12, fused)),
    # A batch is so many views of one scene.
    "da3-small": Network(14, 1, lambda fused, grid: DepthAnything3(384, 6, fused, 64, (48, 96, 192, 384))),
    "da3-base": Network(14, 1, lambda fused, grid: DepthAnything3(768, 12, fused, 128, (96, 192, 384, 768))),
}


def published_grid(width, height):
    """Side of the position grid of the DUNE encoder published for images of this size, else the smaller one's."""
    long_side = max(width, height)
    return long_side // 14 if long_side in (336, 448) else 24
