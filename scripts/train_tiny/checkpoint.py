"""The state of a training run in one small file, and the network's weights in the form that is shipped."""
import typing

import torch
from safetensors.torch import load_file, save_file

from network import CONFIGS, Tiny, config_of
from optimizer import Optimizer


class Progress(typing.NamedTuple):
    """How far a run has come."""
    step: int = 0
    pairs: int = 0
    seconds: float = 0.0
    share: float = 0.0  # of the schedule
    difficulty: float = 0.05  # of the hardest pairs


def save(path, settings, optimizer, progress):
    """Writes everything a run needs to go on, in full precision: some 16 bytes a parameter."""
    torch.save({"settings": settings, "optimizer": optimizer.state(), "progress": dict(progress._asdict())}, path)


def load(path):
    """The network and its optimizer, on the CPU, the settings they are made of, and the [`Progress`] of a saved run."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    net, optimizer = made(saved["settings"], "cpu")
    optimizer.load(saved["optimizer"])
    return net, optimizer, saved["settings"], Progress(**saved["progress"])


def made(settings, device):
    """A fresh network of `settings` on `device` and its optimizer."""
    net = Tiny(CONFIGS[settings["network"]]).to(device)
    return net, Optimizer(net, muon=settings["muon"])


def export(net, average, path):
    """Writes the averaged weights, by name, as float16 safetensors under the canonical names; returns the number of
    values.

    There is no `dec_blocks2`: by the convention of the published files the second view then uses `dec_blocks`. Names
    that share a parameter share its average.
    """
    by_parameter = {id(p): average[name] for name, p in net.named_parameters()}
    tensors = {}
    for name, p in net.named_parameters(remove_duplicate=False):
        values = by_parameter[id(p)].detach().float().cpu()
        if not values.isfinite().all() or values.abs().max() > 60000:
            raise ValueError(f"{name} does not fit float16")
        tensors[name] = values.to(torch.float16).contiguous().clone()
    save_file(tensors, path, metadata={"format": "pt", "network": "tiny"})
    return sum(t.numel() for t in tensors.values())


def load_exported(path, net):
    """Fills the network from an exported file."""
    exported = load_file(path)
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(exported[name])


def exported(path, device):
    """The network of an exported file, in float32."""
    tensors = load_file(path)
    net = Tiny(config_of(tensors))
    net.load_state_dict({name: t.float() for name, t in tensors.items()})
    return net.to(device).eval()
