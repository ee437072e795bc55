"""Writes what PyTorch makes of a held-out pair with the shipped weights, for tests/golden/networks.rs:
python3 golden.py ../../assets/tiny.safetensors ../../tests/golden/bundled/case_landscape.safetensors

Every seventeenth value of a large tensor is kept, as scripts/trim_goldens.py does it.
"""
import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file, save_file

import held_out
from network import PATCH, as_input, config_of, plain_network
from renderer import Renderer
from scenes import sample

HEIGHT, WIDTH = 70, 98
STRIDE, LIMIT = 17, 2000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    generator = held_out.seeded("cpu")
    images = as_input(Renderer("cpu")(sample(1, 0.2, generator), HEIGHT, WIDTH).rgb)
    weights = {name: t.float() for name, t in load_file(args.weights).items()}
    second = {name.replace("dec_blocks.", "dec_blocks2."): t for name, t in weights.items() if "dec_blocks." in name}
    plain = plain_network(config_of(weights)).eval()
    plain.load_state_dict({**weights, **second})
    plain.prepare(HEIGHT // PATCH, WIDTH // PATCH, "cpu")
    with torch.no_grad():
        outputs = plain(images)
    kept, sampled = {f"in.img.{view + 1}": images[view:view + 1].clone() for view in (0, 1)}, {}
    for name, value in outputs.items():
        if value.numel() > LIMIT:
            sampled[f"out.{name}"] = {"shape": list(value.shape), "stride": STRIDE}
            value = value.flatten()[::STRIDE]
        kept[f"out.{name}"] = value.contiguous().clone()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, args.out, metadata={"sampled": json.dumps(sampled), "torch": torch.__version__})
    print(f"{args.out}: {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
