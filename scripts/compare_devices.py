#!/usr/bin/env python3
"""Compares what the bundled network predicts on two devices, through the program:

    scripts/compare_devices.py DEVICE [--mast3r BINARY] [--precision f32] [--tolerance 1e-3]

The CPU's predictions in f32 of the demonstration images are the reference. The error of a map is the
largest absolute difference over the largest magnitude. Needs numpy."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def read(path):
    """The float32 tensors of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32", f"{name} is {entry['dtype']}"
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], "<f4").astype(np.float64)
    return tensors


def predictions(binary, device, precision, folder):
    path = Path(folder) / f"{device.replace(':', '_')}-{precision}.safetensors"
    images = [ROOT / "assets" / f"demo_{number}.jpg" for number in (1, 2)]
    command = [binary, "reconstruct", *images, "--model", "tiny", "--no-refine", "--quiet"]
    command += ["--device", device, "--precision", precision, "--predictions", path]
    subprocess.run(command, check=True)
    return read(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("device")
    parser.add_argument("--mast3r", default=str(ROOT / "target/release/mast3r"))
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        expected = predictions(args.mast3r, "cpu", "f32", folder)
        found = predictions(args.mast3r, args.device, args.precision, folder)
    if not expected or expected.keys() != found.keys():
        sys.exit(f"different tensors: {sorted(expected)} and {sorted(found)}")
    worst = 0.0
    for name, reference in sorted(expected.items()):
        error = np.abs(found[name] - reference).max() / np.abs(reference).max()
        apart = 1 - np.corrcoef(found[name], reference)[0, 1]
        print(f"{name:12} error {error:.1e}, 1 - Pearson {apart:.1e}")
        worst = max(worst, error)
    # Not a number fails too.
    if not worst <= args.tolerance:
        sys.exit(f"{args.device} {args.precision}: error {worst:.1e}, allowed {args.tolerance:.1e}")


if __name__ == "__main__":
    main()
