"""What stands between a block's products, each in one kernel forwards and one backwards, for NVIDIA GPUs.

The tokens that are added up along the blocks are float32; what products read and make is bfloat16. A step of training
at these widths takes more time with such traffic than with products, so every pass over the tokens counts.
network.py says the same in plain PyTorch (`add_norm`, `rotate`); test_train_tiny.py holds both against each other.
"""
import torch
import triton
import triton.language as tl

ROWS, PROGRAMS = 4, 132 * 4  # rows at a time; programs that add up the weights' gradients


@triton.jit
def add_norm_forward(x, delta, gamma, w1, b1, w2, b2, y, h1, h2, mean, rstd, rows, eps, D: tl.constexpr,
                     BLOCK: tl.constexpr, ROWS: tl.constexpr, ADDS: tl.constexpr, SCALES: tl.constexpr,
                     TWO: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    there = (row < rows)[:, None] & (column < D)[None, :]
    at = row[:, None].to(tl.int64) * D + column[None, :]
    value = tl.load(x + at, there, 0.0)
    if ADDS:
        added = tl.load(delta + at, there, 0.0).to(tl.float32)
        if SCALES:
            added *= tl.load(gamma + column, column < D, 0.0)[None, :]
        value += added
        tl.store(y + at, value, there)
    middle = tl.sum(value, 1) / D
    centred = tl.where(there, value - middle[:, None], 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
    tl.store(mean + row, middle, row < rows)
    tl.store(rstd + row, scale, row < rows)
    unit = centred * scale[:, None]
    weight, bias = tl.load(w1 + column, column < D, 0.0), tl.load(b1 + column, column < D, 0.0)
    tl.store(h1 + at, (unit * weight[None, :] + bias[None, :]).to(h1.dtype.element_ty), there)
    if TWO:
        weight, bias = tl.load(w2 + column, column < D, 0.0), tl.load(b2 + column, column < D, 0.0)
        tl.store(h2 + at, (unit * weight[None, :] + bias[None, :]).to(h2.dtype.element_ty), there)


@triton.jit
def add_norm_backward(y, mean, rstd, dy, dh1, dh2, delta, gamma, w1, w2, dx, ddelta, parts, rows,
                      TURNS: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
                      ADDS: tl.constexpr, SCALES: tl.constexpr, TWO: tl.constexpr, PASSES_ON: tl.constexpr):
    """`parts` (programs, 5, D): what each program adds up for w1, b1, w2, b2 and gamma."""
    program, column = tl.program_id(0), tl.arange(0, BLOCK)
    inside = column < D
    weight1 = tl.load(w1 + column, inside, 0.0)
    weight2, scales = weight1, weight1
    if TWO:
        weight2 = tl.load(w2 + column, inside, 0.0)
    if SCALES:
        scales = tl.load(gamma + column, inside, 0.0)
    sum_w1 = tl.zeros([BLOCK], tl.float32)
    sum_b1, sum_w2, sum_b2, sum_gamma = sum_w1, sum_w1, sum_w1, sum_w1
    for turn in range(TURNS):
        row = (turn * tl.num_programs(0) + program) * ROWS + tl.arange(0, ROWS)
        there = (row < rows)[:, None] & inside[None, :]
        at = row[:, None].to(tl.int64) * D + column[None, :]
        middle, scale = tl.load(mean + row, row < rows, 0.0), tl.load(rstd + row, row < rows, 0.0)
        unit = tl.where(there, (tl.load(y + at, there, 0.0) - middle[:, None]) * scale[:, None], 0.0)
        slope = tl.load(dh1 + at, there, 0.0).to(tl.float32)
        sum_w1 += tl.sum(slope * unit, 0)
        sum_b1 += tl.sum(slope, 0)
        towards = slope * weight1[None, :]
        if TWO:
            slope = tl.load(dh2 + at, there, 0.0).to(tl.float32)
            sum_w2 += tl.sum(slope * unit, 0)
            sum_b2 += tl.sum(slope, 0)
            towards += slope * weight2[None, :]
        along, level = tl.sum(towards * unit, 1) / D, tl.sum(towards, 1) / D
        grad = (towards - level[:, None] - unit * along[:, None]) * scale[:, None]
        if PASSES_ON:
            grad += tl.load(dy + at, there, 0.0)
        tl.store(dx + at, grad, there)
        if ADDS:
            if SCALES:
                sum_gamma += tl.sum(tl.where(there, grad, 0.0) * tl.load(delta + at, there, 0.0).to(tl.float32), 0)
                grad *= scales[None, :]
            tl.store(ddelta + at, grad.to(ddelta.dtype.element_ty), there)
    own = parts + program * 5 * D + column
    tl.store(own, sum_w1, inside)
    tl.store(own + D, sum_b1, inside)
    tl.store(own + 2 * D, sum_w2, inside)
    tl.store(own + 3 * D, sum_b2, inside)
    tl.store(own + 4 * D, sum_gamma, inside)


class AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, delta, gamma, eps, dtype, w1, b1, w2, b2):
        ctx.set_materialize_grads(False)
        width = x.shape[-1]
        rows = x.numel() // width
        x = x.contiguous()
        delta = delta if delta is None else delta.contiguous()
        y = x if delta is None else torch.empty_like(x)
        h1, h2 = (None if w is None else torch.empty_like(x, dtype=dtype) for w in (w1, w2))
        mean, rstd = (torch.empty(rows, dtype=torch.float32, device=x.device) for _ in range(2))
        flags = {"D": width, "BLOCK": triton.next_power_of_2(width), "ROWS": ROWS, "ADDS": delta is not None,
                 "SCALES": gamma is not None, "TWO": w2 is not None}
        add_norm_forward[(triton.cdiv(rows, ROWS),)](x, delta, gamma, w1, b1, w2, b2, y, h1, h2, mean, rstd, rows, eps,
                                                     **flags)
        ctx.save_for_backward(y, mean, rstd, delta, gamma, w1, w2)
        ctx.flags = flags
        return (x.view_as(x) if delta is None else y), h1, h2

    @staticmethod
    def backward(ctx, dy, dh1, dh2):
        y, mean, rstd, delta, gamma, w1, w2 = ctx.saved_tensors
        flags, width = ctx.flags, y.shape[-1]
        rows = y.numel() // width
        dh1, dh2, dy = (None if t is None else t.contiguous() for t in (dh1, dh2, dy))
        if dh1 is None or (flags["TWO"] and dh2 is None):
            raise ValueError("a norm whose result is not used")
        dx = torch.empty_like(y)
        ddelta = None if delta is None else torch.empty_like(delta)
        turns = triton.cdiv(rows, PROGRAMS * ROWS)
        programs = triton.cdiv(rows, turns * ROWS)
        parts = torch.empty(programs, 5, width, dtype=torch.float32, device=y.device)
        add_norm_backward[(programs,)](y, mean, rstd, dy, dh1, dh2, delta, gamma, w1, w2, dx, ddelta, parts, rows,
                                       TURNS=turns, PASSES_ON=dy is not None, **flags)
        dw1, db1, dw2, db2, dgamma = parts.sum(0).unbind(0)
        if not flags["TWO"]:
            dw2 = db2 = None
        return dx, ddelta, dgamma if flags["SCALES"] else None, None, None, dw1, db1, dw2, db2


def add_norm(x, delta, gamma, norm, second=None):
    """`network.add_norm`, fused."""
    dtype = torch.bfloat16 if torch.is_autocast_enabled(x.device.type) else torch.float32
    more = (None, None) if second is None else (second.weight, second.bias)
    y, h1, h2 = AddNorm.apply(x, delta, gamma, norm.eps, dtype, norm.weight, norm.bias, *more)
    return (y, h1) if second is None else (y, h1, h2)


@triton.jit
def rotate_kernel(x, cos, sin, out, rows, tokens, stride, sign, D: tl.constexpr, BLOCK: tl.constexpr,
                  ROWS: tl.constexpr):
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    there = (row < rows)[:, None] & (column < D)[None, :]
    at = (row % tokens)[:, None] * 64 + (column % 64)[None, :]
    start = row[:, None].to(tl.int64) * stride
    own = tl.load(x + start + column[None, :], there, 0.0).to(tl.float32)
    partner = tl.load(x + start + (column ^ 16)[None, :], there, 0.0).to(tl.float32)
    turned = own * tl.load(cos + at, there, 0.0) + partner * tl.load(sin + at, there, 0.0) * sign
    tl.store(out + row[:, None].to(tl.int64) * D + column[None, :], turned.to(out.dtype.element_ty), there)


def rotated(x, cos, sin, sign):
    batch, tokens, width = x.shape
    if x.stride(2) != 1 or x.stride(0) != tokens * x.stride(1):
        x = x.contiguous()
    out = torch.empty(batch, tokens, width, dtype=x.dtype, device=x.device)
    rotate_kernel[(triton.cdiv(batch * tokens, ROWS),)](x, cos, sin, out, batch * tokens, tokens, x.stride(1), sign,
                                                        D=width, BLOCK=triton.next_power_of_2(width), ROWS=ROWS)
    return out


class Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return rotated(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx, grad):
        return rotated(grad, *ctx.saved_tensors, -1.0), None, None


def rotate(x, cos, sin):
    """`network.rotate`, fused; `x` may be a part of wider rows."""
    return Rotate.apply(x, cos, sin)
