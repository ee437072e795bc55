"""Writes the weights that are shipped: python3 export.py STATE OUT.safetensors"""
import argparse
import pathlib

import checkpoint

MOST_BYTES = 40_000_000


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("state", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    net, optimizer, _, progress = checkpoint.load(args.state)
    values, size = checkpoint.export(net, optimizer.average_of(net), args.out), args.out.stat().st_size
    print(f"{args.out}: {values:,} values, {size / 2**20:.2f} MiB, after {progress.pairs:,} pairs")
    if size > MOST_BYTES:
        raise SystemExit(f"{size} bytes are more than the {MOST_BYTES} that may be shipped")


if __name__ == "__main__":
    main()
