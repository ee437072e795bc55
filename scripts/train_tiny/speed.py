"""Times the parts of a training step on one GPU: python3 speed.py [--network wide]

For each size of images: drawing and rendering a batch, forward and backward pass, the optimizer's step, all together as
training runs them, pairs a second, and what share of the GPU's rate of bfloat16 products the network's products take.
"""
import argparse
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

import train
from network import CONFIGS, as_input

PEAK = 790e12  # of an H200: 8192^3 on random data


def timed(work, repeats):
    """Milliseconds of one call, of `repeats` in a row."""
    work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=CONFIGS, default="wide")
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--plain", action="store_true", help="as of train.py")
    parser.add_argument("--sizes", default="112,168,224")
    args = parser.parse_args()
    line = f"- --minutes 1 --device cuda --network {args.network} --tokens {args.tokens}".split()
    trainer = train.Trainer(train.arguments(line + ["--plain"] * args.plain), 0, 1)
    trainer.optimizer.rate.fill_(1e-5)
    for side in map(int, args.sizes.split(",")):
        pairs = args.tokens * 196 // side ** 2 // 8 * 8
        draw = lambda: trainer.feed.draw(1, pairs, (side, side), 1.0)
        start = time.perf_counter()
        batch = draw()
        trainer.step(batch)
        torch.cuda.synchronize()
        first = time.perf_counter() - start

        def both():
            nonlocal batch
            trainer.step(batch)
            batch = draw()

        rgb = batch.views.rgb[:8]
        with FlopCounterMode(display=False) as counter, trainer.autocast(), torch.no_grad():
            trainer.net.raw_points(trainer.net.trunk(as_input(rgb)))
        flop = 3 * counter.get_total_flops() / 8
        drawn = train.worlds.sample(pairs, 1.0, trainer.feed.generator)
        parts = {"rendering": timed(lambda: trainer.feed.renderer(drawn, side, side), 10),
                 "forward and backward": timed(trainer.graphs[tuple(batch.views.depth.shape)].replay, 10),
                 "optimizer": timed(trainer.graphs["finish"].replay, 10), "all": timed(both, 20)}
        rate = pairs / parts["all"] * 1e3
        print(f"{side}: {pairs} pairs, first step {first:.1f} s, " + ", ".join(f"{k} {v:.2f} ms" for k, v in parts.items())
              + f"; {rate:.0f} pairs/s, {flop / 1e9:.1f} GFLOP a pair, {100 * rate * flop / PEAK:.1f} % of the peak; "
              f"{torch.cuda.max_memory_reserved() / 2**30:.1f} GiB", flush=True)


if __name__ == "__main__":
    main()
