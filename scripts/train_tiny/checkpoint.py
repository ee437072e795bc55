"""The state of a training run in one small file, and the network's weights in the form that is shipped."""
import typing

import torch
from safetensors.torch import load_file, save_file

from network import Config, Tiny


class Progress(typing.NamedTuple):
    """How far a run has come."""
    step: int = 0
    pairs: int = 0
    seconds: float = 0.0
    share: float = 0.0  # of the schedule
    difficulty: float = 0.05  # of the hardest pairs


def save(path, net, average, optimizer, progress):
    """Weights and their average in float16, the optimizer's second moment in bfloat16: 6 bytes a parameter.

    What rounding a weight loses is less than a few steps move it, and the first moment is made anew in ten steps.
    """
    names = [name for name, _ in net.named_parameters()]
    states = [optimizer.state[p] for p in net.parameters()]
    column = lambda tensors, dtype: {name: t.detach().to("cpu", dtype) for name, t in zip(names, tensors)}
    torch.save({
        "weights": column(net.parameters(), torch.float16), "average": column(average, torch.float16),
        "second": column([s["exp_avg_sq"] for s in states], torch.bfloat16),
        "optimizer_step": int(states[0]["step"]), "progress": dict(progress._asdict()),
    }, path)


def load(path, net, average, optimizer):
    """Fills the network, the average and the optimizer from `path`; returns the [`Progress`]."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    with torch.no_grad():
        for (name, p), a in zip(net.named_parameters(), average):
            p.copy_(saved["weights"][name])
            a.copy_(saved["average"][name])
            optimizer.state[p] = {
                "step": torch.tensor(float(saved["optimizer_step"]), device=p.device if p.is_cuda else "cpu"),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.empty_like(p).copy_(saved["second"][name])}
    return Progress(**saved["progress"])


def export(net, average, path):
    """Writes the averaged weights as float16 safetensors under the canonical names; returns the number of values.

    There is no `dec_blocks2`: by the convention of the published files the second view then uses `dec_blocks`.
    """
    by_parameter = {id(p): a for p, a in zip(net.parameters(), average)}
    tensors = {}
    for name, p in net.named_parameters(remove_duplicate=False):
        values = by_parameter[id(p)].detach().float().cpu()
        if not values.isfinite().all() or values.abs().max() > 60000:
            raise ValueError(f"{name} does not fit float16")
        tensors[name] = values.to(torch.float16).contiguous().clone()
    save_file(tensors, path, metadata={"format": "pt", "network": "tiny"})
    return sum(t.numel() for t in tensors.values())


def load_exported(path, net, average):
    """Fills the network and the average from an exported file."""
    exported = load_file(path)
    with torch.no_grad():
        for (name, p), a in zip(net.named_parameters(), average):
            p.copy_(exported[name])
            a.copy_(exported[name])


def exported(path, device, config=Config()):
    """The network of an exported file, in float32."""
    net = Tiny(config)
    net.load_state_dict({name: t.float() for name, t in load_file(path).items()})
    return net.to(device).eval()
