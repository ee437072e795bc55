"""Trains `tiny` on scenes made as it goes: python3 train.py OUT_DIR --minutes M [--resume FILE] [--until SHARE]

Every GPU of the machine takes part, each with scenes of its own. Step `n` on GPU `r` draws its scenes from the seed
(SEED, n, r), so a run that is resumed goes on with new ones. On a GPU the scenes of the next step are drawn and rendered
on a stream of their own while a step runs, and a step is two CUDA graphs, one for each size of images and one for the
optimizer, with the average of gradients over the GPUs between them.
"""
import argparse
import csv
import functools
import math
import pathlib
import tempfile
import time
import typing

import torch
import torch.distributed as dist

import checkpoint
import losses
import packs
import scenes
import worlds
from checkpoint import Progress
from network import CONFIGS, Tiny, as_input
from renderer import Renderer, Views

SEED = 20_240
# Sizes (height, width) from which each step takes one, by the share of the schedule that is done.
STAGES = (
    (0.35, ((112, 112), (84, 112), (112, 84))),
    (0.50, ((168, 168), (126, 168), (168, 126))),
    (0.78, ((224, 224), (168, 224), (224, 168), (126, 224), (154, 224))),
    (1.00, ((336, 336), (252, 336), (336, 252), (224, 336), (252, 336), (224, 224), (168, 224))),
)
PROCEDURAL_EVERY = 8  # steps, of which one sees the procedural scenes and the others worlds that resemble photographs
LAST_RATE, WARM_UP, DECAY_FROM = 0.02, 500, 0.75  # share of the peak rate at the end; steps; share of the schedule
LOG_EVERY, MATCH_EVERY = 50, 250  # steps
SAVE_EVERY = 120  # seconds
COLUMNS = ("step", "pairs", "seconds", "share", "difficulty", "height", "width", "rate", "loss_points",
           "loss_matching", "accuracy", "error_view1", "error_view2", "precision_2px", "matches", "gradient", "skipped",
           "pairs_per_second")


def size_of(step, share, side=None):
    """Height and width of a step's images; with `side`, the longer side of all of them."""
    sizes = ((side, side), (side * 3 // 4, side), (side, side * 3 // 4)) if side else next(
        sizes for end, sizes in STAGES if share <= end or end == 1.0)
    return sizes[step * 7919 % 104729 % len(sizes)]


def rate_of(peak, steps_here, share):
    """A warm-up at the start and after resuming, the peak, and a cosine down to the end of the schedule."""
    down = min(max((share - DECAY_FROM) / (1 - DECAY_FROM), 0.0), 1.0)
    return peak * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * down))) * min(1.0, (steps_here + 1) / WARM_UP)


def first_pairs(views, count):
    return Views(*(part[:count] for part in views))


def last_progress(log):
    """How far the run had come whose log this is."""
    *_, row = csv.DictReader(log.read_text().splitlines())
    return Progress(**{name: type(default)(row[name]) for name, default in Progress._field_defaults.items()})


class Log:
    """log.csv, which goes on where the one beside the resumed state ends."""

    def __init__(self, args):
        earlier = args.resume.parent / "log.csv" if args.resume else None
        before = earlier.read_text() if earlier and earlier.exists() else ",".join(COLUMNS) + "\n"
        self.file = open(args.out / "log.csv", "w", newline="", buffering=1)
        self.file.write(before)
        self.writer = csv.writer(self.file, lineterminator="\n")

    def close(self):
        self.file.close()

    def write(self, row, show):
        self.writer.writerow([f"{v:.5g}" if isinstance(v, float) else v for v in row])
        if show:
            print(" ".join(f"{name}={v:.4g}" for name, v in zip(COLUMNS, row)), flush=True)


class Batch(typing.NamedTuple):
    """Rendered pairs, and when they are there."""
    views: Views
    ready: torch.cuda.Event | None


class Feed:
    """Makes the batches, on a GPU on a stream of its own, so that a step and the next one's scenes overlap."""

    def __init__(self, device, rank, folder, options):
        self.renderer, self.rank = Renderer(device, packs.load(device, folder)), rank
        self.sample_worlds = functools.partial(worlds.sample, options=options)
        self.generator = torch.Generator(device)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def draw(self, step, pairs, size, difficulty):
        sample = scenes.sample if step % PROCEDURAL_EVERY == 0 else self.sample_worlds
        if self.stream is None:
            return Batch(self.render(sample, step, pairs, size, difficulty), None)
        with torch.cuda.stream(self.stream):
            views = self.render(sample, step, pairs, size, difficulty)
            return Batch(views, self.stream.record_event())

    def render(self, sample, step, pairs, size, difficulty):
        self.generator.manual_seed((SEED * 1_000_003 + step) * 64 + self.rank)
        return self.renderer(sample(pairs, difficulty, self.generator), *size)


class Trainer:
    def __init__(self, args, rank, ranks):
        self.args, self.rank, self.ranks = args, rank, ranks
        self.device = torch.device(args.device, rank) if args.device == "cuda" else torch.device("cpu")
        self.graphs, self.static, self.pool = {}, {}, None
        torch.manual_seed(SEED)
        torch.set_float32_matmul_precision("high")
        self.settings = {"network": args.network, "muon": args.muon}
        self.progress, saved = Progress(), None
        if args.resume and args.resume.suffix == ".pt":
            _, saved, self.settings, self.progress = checkpoint.load(args.resume)
        self.net = Tiny(CONFIGS[self.settings["network"]]).to(self.device)
        if args.resume and args.resume.suffix == ".safetensors":
            checkpoint.load_exported(args.resume, self.net)
            self.progress = last_progress(args.resume.parent / "log.csv")._replace(share=args.round_from)
        fast = self.device.type == "cuda" and not args.plain
        self.optimizer = checkpoint.Optimizer(self.net, muon=self.settings["muon"], low_precision=fast)
        if saved:
            self.optimizer.load(saved.state())
        self.feed = Feed(self.device, rank, args.packs, worlds.ONE_LIGHT if args.one_light else 0)
        self.difficulty = torch.zeros((), device=self.device)
        self.stats = torch.zeros(4, device=self.device)  # losses of points and of matching, share matched, gradient
        if fast:
            import fused
            Tiny.add_norm, Tiny.rotate = staticmethod(fused.add_norm), staticmethod(fused.rotate)

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def backward(self, views):
        """Gradients of the loss over `views`, into the optimizer's storage."""
        height, width = views.depth.shape[2:]
        self.optimizer.forget()
        pixels = losses.one_in_four(height, width, self.device)
        match = losses.correspondences(views, max(16, height * width // 48), None)
        with self.autocast():
            tokens = self.net.trunk(as_input(views.rgb))
            raw = self.net.raw_points(tokens, pixels)
            descriptors, certainty = self.net.descriptors(tokens, match.pixels)
        at = lambda maps: maps.flatten(2, 3).index_select(2, pixels)
        regression = losses.regression_from_raw(raw, at(views.points), at(views.depth))
        matching, sure, right = losses.matching_loss(descriptors, certainty, match.valid)
        # Until pairs are hard, finding the same point again is what there is to learn first.
        loss = regression + (1.0 - 0.7 * self.difficulty) * matching + 0.05 * sure
        loss.backward()
        self.optimizer.collect()
        self.stats[:3].copy_(torch.stack([regression.detach(), matching.detach(), right]))

    def finish(self):
        self.stats[3].copy_(self.optimizer.step())

    def captured(self, function):
        """`function` as a CUDA graph that shares its memory with the others: they run one after another, and nothing in
        a graph's own memory is read after it."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        kept = self.optimizer.state() if function == self.finish else None
        with torch.cuda.stream(side):
            for _ in range(2):
                function()
        torch.cuda.current_stream().wait_stream(side)
        if kept:  # the warm-up took two steps
            self.optimizer.load(kept)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            function()
        self.pool = self.pool or graph.pool()
        return graph

    def replay(self, name, function):
        """Runs `function`, on a GPU as a graph known by `name`."""
        if self.device.type == "cpu" or self.args.eager:
            return function()
        if name not in self.graphs:
            self.graphs[name] = self.captured(function)
        self.graphs[name].replay()

    def step(self, batch):
        """One step on a batch of scenes."""
        views = batch.views
        if batch.ready:
            current = torch.cuda.current_stream()
            current.wait_event(batch.ready)
            for part in views:
                part.record_stream(current)
            size = tuple(views.depth.shape)
            if size not in self.static:
                self.static[size] = Views(*(torch.empty_like(part) for part in views))
            for own, new in zip(self.static[size], views):
                own.copy_(new)
            views = self.static[size]
        self.replay(tuple(views.depth.shape), functools.partial(self.backward, views))
        if self.ranks > 1:
            dist.all_reduce(self.optimizer.gradients, op=dist.ReduceOp.AVG)
        self.replay("finish", self.finish)
        return views

    def draw(self, step, share):
        """The batch of step `step`, drawn ahead."""
        height, width = size_of(step, share, self.args.side)
        pairs = max(2, self.args.tokens * 196 // (height * width) // 8 * 8)
        return self.feed.draw(step, pairs, (height, width), self.progress.difficulty)

    @torch.no_grad()
    def measure(self, views, precise):
        """Median errors of both views' points, and of matches the share that is right and their number."""
        few = first_pairs(views, 64)
        with self.autocast():
            tokens = self.net.trunk(as_input(few.rgb))
            points = self.net.points(tokens)[0]
            errors = losses.relative_errors(points, few).transpose(0, 1).flatten(1).nanmedian(1).values
            if not precise:
                return *errors.tolist(), math.nan, math.nan
            few = first_pairs(views, 8)
            tokens = self.net.trunk(as_input(few.rgb))
            found = losses.matching_precision(self.net, tokens, few, None)
        return *errors.tolist(), *(value.item() for value in found)

    def save(self):
        unfinished = self.args.out / "state.part"
        checkpoint.save(unfinished, self.settings, self.optimizer, self.progress)
        unfinished.rename(self.args.out / "state.pt")

    def run(self):
        args, start, begin = self.args, time.monotonic(), self.progress
        seconds, window, steps_here = 60 * args.minutes, (time.monotonic(), begin.pairs), 0
        log, elapsed, saved = (Log(args) if self.rank == 0 else None), 0.0, start
        share = begin.share
        batch = self.draw(self.progress.step, share)
        while elapsed < seconds and steps_here < args.steps:
            rate = rate_of(args.rate, steps_here, share)
            self.optimizer.rate.fill_(rate)
            self.difficulty.fill_(self.progress.difficulty)
            views = self.step(batch)
            pairs = self.progress.pairs + self.ranks * len(views.depth)
            steps_here += 1
            self.progress = self.progress._replace(step=self.progress.step + 1, pairs=pairs, share=share)
            first_steps = steps_here in (1, 5, 20)
            if self.progress.step % LOG_EVERY == 0 or first_steps or steps_here == args.steps:
                # Everything that decides what comes next is the same number on all GPUs.
                own = torch.tensor(time.monotonic() - start if self.rank == 0 else 0.0, device=self.device) * self.ranks
                shared = torch.stack([own, *self.stats]).double()
                if self.ranks > 1:
                    dist.all_reduce(shared, op=dist.ReduceOp.AVG)
                elapsed, regression, matching, right, norm = shared.tolist()
                # Harder pairs once those of now are matched, and in any case as the schedule advances.
                floor = (share - 0.1) / 0.4
                harder = self.progress.difficulty + (0.01 if right > 0.55 and not first_steps else 0.0)
                self.progress = self.progress._replace(difficulty=min(1.0, max(harder, floor)),
                                                       seconds=begin.seconds + elapsed)
                now = time.monotonic()
                if log:
                    found = self.measure(views, self.progress.step % MATCH_EVERY == 0)
                    speed, window = (pairs - window[1]) / (now - window[0]), (now, pairs)
                    row = (*self.progress[:3], share, self.progress.difficulty, *views.depth.shape[2:], rate, regression,
                           matching, right, *found, norm, int(self.optimizer.skipped), speed)
                    log.write(row, first_steps or self.progress.step % (4 * LOG_EVERY) == 0)
                    if now - saved > SAVE_EVERY:
                        saved = now
                        self.save()
            share = begin.share + (args.until - begin.share) * min(elapsed / seconds, 1.0)
            batch = self.draw(self.progress.step, share)
        if self.rank == 0:
            log.close()
            self.save()
            if self.device.type == "cuda":
                print(f"most GPU memory in use: {torch.cuda.max_memory_reserved() / 2**30:.1f} GiB")


def work(rank, args, ranks, meeting):
    if args.device == "cuda":
        torch.cuda.set_device(rank)
    if ranks > 1:
        dist.init_process_group("nccl", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    try:
        Trainer(args, rank, ranks).run()
    finally:
        if ranks > 1:
            dist.destroy_process_group()


def arguments(line=None):
    """The options, of the command line if no other is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, required=True, help="how long to train now")
    parser.add_argument("--resume", type=pathlib.Path,
                        help="state.pt of an earlier stretch; or the exported weights of a finished run, log.csv beside "
                             "them, from which a further round begins")
    parser.add_argument("--round-from", type=float, default=0.35, metavar="SHARE",
                        help="where in the schedule such a round begins")
    parser.add_argument("--until", type=float, default=1.0, help="share of the schedule done when the minutes are over")
    parser.add_argument("--packs", type=pathlib.Path, default=packs.FOLDER, help="folder of what worlds are made with")
    parser.add_argument("--side", type=int, help="longer side of all images, in place of the stages; a multiple of 56")
    parser.add_argument("--one-light", action="store_true", help="the same light in both views of every world")
    parser.add_argument("--network", choices=CONFIGS, default="wide", help="what to train from nothing")
    parser.add_argument("--muon", action=argparse.BooleanOptionalAction, default=True,
                        help="Muon for the blocks' matrices, or AdamW for everything")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="the highest learning rate")
    parser.add_argument("--tokens", type=int, default=16_384, help="patches of first views in a step, on each GPU")
    parser.add_argument("--steps", type=int, default=1 << 40, help="stop after so many")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--gpus", type=int, help="how many of the machine's to use")
    parser.add_argument("--plain", action="store_true", help="no fused kernels, float32 weights cast in every step")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    return parser.parse_args(line)


def main():
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    ranks = (args.gpus or torch.cuda.device_count()) if args.device == "cuda" else 1
    meeting = pathlib.Path(tempfile.mkdtemp()) / "meeting"
    if ranks > 1:
        torch.multiprocessing.spawn(work, (args, ranks, meeting), nprocs=ranks)
    else:
        work(0, args, ranks, meeting)


if __name__ == "__main__":
    main()
