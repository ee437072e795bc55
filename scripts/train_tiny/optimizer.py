"""One step of Muon for the matrices of transformer blocks and of AdamW for all else, over flat storage.

All parameters are parts of one vector, their gradients of another: averaging over GPUs is one all-reduce, and nothing
in a step depends on the host, so that it can be captured in a CUDA graph. With `low_precision` the network's own
copy of what goes into products is bfloat16.

Muon (K. Jordan et al., 2024): the momentum of a matrix is replaced by the nearest matrix with orthonormal rows or
columns, found by five Newton-Schulz steps; scaled as in Moonlight (arXiv 2502.16982), so that one learning rate and one
weight decay serve both rules.
"""
import torch

MOMENTUM, BETAS, EPSILON = 0.95, (0.9, 0.98), 1e-8
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315
AVERAGED = 0.9995  # share of the average of weights that stays in a step


def orthogonalised(matrices):
    """(..., m, n) with all singular values near one and the same singular vectors; bfloat16 on a GPU."""
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def is_hidden_matrix(name):
    """Whether Muon takes the parameter: weights of attention and MLPs of the blocks."""
    return "blocks" in name and name.endswith(".weight") and (".attn." in name or ".mlp." in name or "cross" in name)


def is_in_products(name, p):
    """Whether a parameter goes into products of low precision: weights but those of the last layer of points."""
    return name.endswith(".weight") and p.ndim > 1 and not name.endswith("dpt.head.4.weight")


class Optimizer:
    """Owns the storage of a network's parameters, their gradients, their average and the moments, all float32."""

    def __init__(self, net, muon=True, weight_decay=0.05, low_precision=False):
        named, self.muon = list(net.named_parameters()), muon
        rank = lambda item: 0 if muon and is_hidden_matrix(item[0]) else 1 if is_in_products(*item) else 2
        named.sort(key=lambda item: (rank(item), self.piece(*item) if rank(item) == 0 else ()))
        hidden, others = [i for i in named if rank(i) == 0], [i for i in named if rank(i) > 0]
        self.parameters = [p for _, p in named]
        size = sum(p.numel() for p in self.parameters)
        device = self.parameters[0].device
        self.values, self.gradients, self.first = (torch.zeros(size, device=device) for _ in range(3))
        low = sum(p.numel() for item in named for p in item[1:] if rank(item) < 2)
        self.working = torch.zeros(low, device=device, dtype=torch.bfloat16) if low_precision else None
        self.matrices = sum(p.numel() for _, p in hidden)  # the first so many values are Muon's
        self.second = torch.zeros(size - self.matrices, device=device)
        decayed = torch.cat([torch.full((p.numel(),), float(p.ndim > 1 and p.shape[0] > 1)) for _, p in others])
        self.decay, self.weight_decay = (weight_decay * decayed).to(device), weight_decay
        at, self.shapes, self.parts = 0, [], []
        for p in self.parameters:
            part = slice(at, at + p.numel())
            self.values[part].copy_(p.detach().flatten())
            p.data = (self.values if self.working is None or at >= low else self.working)[part].view(p.shape)
            self.parts.append(self.gradients[part].view(p.shape))
            at += p.numel()
        self.publish()
        for shape in dict.fromkeys(self.piece(*item) for item in hidden):
            self.shapes.append((shape, sum(p.numel() for n, p in hidden if self.piece(n, p) == shape)))
        self.average = self.values.clone()
        self.steps, self.skipped = torch.zeros((), device=device), torch.zeros((), device=device)
        self.rate = torch.zeros((), device=device)

    @staticmethod
    def piece(name, p):
        """Shape of the matrices that a weight holds: of `qkv` three."""
        rows, columns = p.shape
        return (rows // 3, columns) if name.endswith("qkv.weight") else (rows, columns)

    def average_of(self, net):
        """Name to the average of each parameter."""
        return {name: self.average[p.storage_offset():][:p.numel()].view(p.shape) for name, p in net.named_parameters()}

    def publish(self):
        """Gives the network what has changed in `values`."""
        if self.working is not None:
            self.working.copy_(self.values[:len(self.working)])

    def forget(self):
        """The next backward pass makes gradients anew."""
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def collect(self):
        """Gathers the gradients of a backward pass; those of parameters that it does not reach are zero."""
        for dtype in (torch.float32, torch.bfloat16):
            chosen = [(part, p.grad) for part, p in zip(self.parts, self.parameters)
                      if p.grad is not None and p.grad.dtype == dtype]
            if chosen:
                torch._foreach_copy_(*map(list, zip(*chosen)))

    @torch.no_grad()
    def step(self):
        """Takes a step along the gradients, unless one of them is not finite; returns their norm."""
        norm = torch.linalg.vector_norm(self.gradients)
        usable = norm.isfinite()
        gradients = torch.where(usable, self.gradients / norm.clamp(min=1.0), 0.0)
        rate = self.rate * usable
        self.skipped += 1 - usable.float()
        self.steps += usable

        self.first[:self.matrices].lerp_(gradients[:self.matrices], 1 - MOMENTUM)
        ahead = torch.lerp(gradients[:self.matrices], self.first[:self.matrices], MOMENTUM)
        start = 0
        for shape, count in self.shapes:
            update = orthogonalised(ahead[start:start + count].view(-1, *shape)).flatten() * (0.2 * max(shape) ** 0.5)
            values = self.values[start:start + count]
            values.sub_(rate * (update + self.weight_decay * values))
            start += count

        own, first = gradients[self.matrices:], self.first[self.matrices:]
        first.lerp_(own, 1 - BETAS[0])
        self.second.lerp_(own.square(), 1 - BETAS[1])
        steps = self.steps.clamp(min=1)
        update = first / (1 - BETAS[0] ** steps) / ((self.second / (1 - BETAS[1] ** steps)).sqrt() + EPSILON)
        values = self.values[self.matrices:]
        values.sub_(rate * (update + self.decay * values))

        keep = torch.minimum((1 + self.steps) / (20 + self.steps), torch.full_like(self.steps, AVERAGED))
        self.average.lerp_(self.values, 1 - keep)
        self.publish()
        return norm

    def state(self):
        """What a run that goes on needs."""
        names = "values", "average", "first", "second", "steps"
        return {name: getattr(self, name).cpu() for name in names}

    def load(self, state):
        for name, value in state.items():
            getattr(self, name).copy_(value)
        self.publish()
