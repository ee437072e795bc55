"""Trains `tiny` on scenes made as it goes: python3 train.py OUT_DIR --minutes M [--resume FILE] [--until SHARE]

Every GPU of the machine takes part, each with scenes of its own. Step `n` on GPU `r` draws its scenes from the seed
(SEED, n, r), so a run that is resumed goes on with new ones.
"""
import argparse
import csv
import math
import pathlib
import tempfile
import time

import torch
import torch.distributed as dist

import checkpoint
import losses
from checkpoint import Progress
from network import Tiny, as_input
from renderer import Renderer
from scenes import sample

SEED = 20_240
# Sizes (height, width) from which each step takes one, by the share of the schedule that is done.
STAGES = (
    (0.40, ((112, 112), (112, 112), (84, 112), (112, 84), (112, 140), (140, 112))),
    (0.70, ((168, 168), (126, 168), (168, 126))),
    (1.00, ((224, 224), (224, 224), (168, 224), (224, 168))),
)
PEAK_RATE, LAST_RATE, WARM_UP = 1.5e-3, 1e-5, 300
LOG_EVERY, MATCH_EVERY = 50, 250  # steps
SAVE_EVERY = 60  # seconds
COLUMNS = ("step", "pairs", "seconds", "share", "difficulty", "height", "width", "rate", "loss_points",
           "loss_matching", "accuracy", "error_view1", "error_view2", "precision_2px", "matches", "gradient", "skipped",
           "pairs_per_second")


def size_of(step, share):
    sizes = next(sizes for end, sizes in STAGES if share <= end or end == 1.0)
    return sizes[step * 7919 % 104729 % len(sizes)]


def rate_of(step, steps_here, share):
    """Cosine over the schedule; a short warm-up at the start and after resuming, when the moments are not whole."""
    cosine = LAST_RATE + (PEAK_RATE - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    return cosine * min(1.0, (step + 1) / WARM_UP, (steps_here + 1) / 50)


def first_pairs(views, count):
    return views._replace(**{name: getattr(views, name)[:count] for name in ("depth", "points", "focal")})


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


class Trainer:
    def __init__(self, args, rank, ranks):
        self.args, self.rank, self.ranks = args, rank, ranks
        self.device = torch.device(args.device, rank) if args.device == "cuda" else torch.device("cpu")
        torch.manual_seed(SEED)
        self.net = Tiny().to(self.device, memory_format=torch.channels_last)
        self.parameters = list(self.net.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        decayed = [p for p in self.parameters if p.ndim > 1 and p.shape[0] > 1]
        others = [p for p in self.parameters if p.ndim <= 1 or p.shape[0] == 1]
        groups = [{"params": decayed, "weight_decay": 0.03}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), eps=1e-8, fused=True)
        self.progress = Progress()
        if args.resume and args.resume.suffix == ".safetensors":
            checkpoint.load_exported(args.resume, self.net, self.average)
            self.progress = last_progress(args.resume.parent / "log.csv")._replace(share=args.round_from)
        elif args.resume:
            self.progress = checkpoint.load(args.resume, self.net, self.average, self.optimizer)
        self.renderer = Renderer(self.device)
        self.generator = torch.Generator(self.device)
        self.regression = losses.regression_from_raw
        if args.compile in ("blocks", "all"):
            for block in (*self.net.dune_backbone.blocks[0], *self.net.mast3r.dec_blocks):
                block.compile(dynamic=True)
        if args.compile in ("losses", "all"):
            self.regression = torch.compile(self.regression, dynamic=True)
        self.skipped = torch.zeros((), device=self.device)

    def step(self, share, steps_here):
        """One step; returns what the log needs, still on the GPU."""
        step, difficulty = self.progress.step, self.progress.difficulty
        self.generator.manual_seed((SEED * 1_000_003 + step) * 64 + self.rank)
        height, width = size_of(step, share)
        pairs = max(2, self.args.tokens * 196 // (height * width) // 8 * 8)
        views = self.renderer(sample(pairs, difficulty, self.generator), height, width)
        match = losses.correspondences(views, max(16, height * width // 48), self.generator)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            tokens = self.net.trunk(as_input(views.rgb))
            raw = self.net.raw_points(tokens)
            descriptors, certainty = self.net.descriptors(tokens, match.pixels)
        regression = self.regression(raw, views.points, views.depth)
        matching, sure, right = losses.matching_loss(descriptors, certainty, match.valid)
        # Until pairs are hard, finding the same point again is what there is to learn first.
        loss = regression + (1.0 - 0.8 * difficulty) * matching + 0.05 * sure
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = self.update(rate_of(step, steps_here, share))
        return views, tokens, raw.detach(), (regression.detach(), matching.detach(), right, norm)

    def update(self, rate):
        """Averages gradients over the GPUs and takes a step, unless one of them is not finite; their norm."""
        for p in self.parameters:  # the fused optimizer wants equal strides
            if p.grad.stride() != p.stride():
                p.grad = torch.empty_like(p).copy_(p.grad)
        gradients = [p.grad for p in self.parameters]
        if self.ranks > 1:
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat, op=dist.ReduceOp.AVG)
            parts = [t.view_as(g) for t, g in zip(flat.split([g.numel() for g in gradients]), gradients)]
            torch._foreach_copy_(gradients, parts)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.grad_scale, self.optimizer.found_inf = None, (~norm.isfinite()).float()
        self.skipped += self.optimizer.found_inf
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        decay = min(0.999, (1 + self.progress.step) / (20 + self.progress.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return norm

    def save(self):
        unfinished = self.args.out / "state.part"
        checkpoint.save(unfinished, self.net, self.average, self.optimizer, self.progress)
        unfinished.rename(self.args.out / "state.pt")

    def run(self):
        args, start, begin = self.args, time.monotonic(), self.progress
        seconds, window, steps_here = 60 * args.minutes, (time.monotonic(), begin.pairs), 0
        log, elapsed, saved = (Log(args) if self.rank == 0 else None), 0.0, start
        while elapsed < seconds and steps_here < args.steps:
            share = begin.share + (args.until - begin.share) * min(elapsed / seconds, 1.0)
            views, tokens, raw, values = self.step(share, steps_here)
            pairs = self.progress.pairs + self.ranks * len(views.depth)
            steps_here += 1
            self.progress = self.progress._replace(step=self.progress.step + 1, pairs=pairs, share=share)
            first_steps = steps_here in (1, 5, 20)
            if self.progress.step % LOG_EVERY and not first_steps and steps_here != args.steps:
                continue
            # Everything that decides what comes next is the same number on all GPUs.
            errors = losses.relative_errors(losses.points_of(raw[:64])[0], first_pairs(views, 64)).transpose(0, 1).flatten(1)
            errors = errors.nanmedian(1).values
            own = torch.tensor(time.monotonic() - start if self.rank == 0 else 0.0, device=self.device) * self.ranks
            shared = torch.stack([own, *values, *errors]).double()
            if self.ranks > 1:
                dist.all_reduce(shared, op=dist.ReduceOp.AVG)
            elapsed, regression, matching, right, norm, error1, error2 = shared.tolist()
            precision = matches = float("nan")
            if self.progress.step % MATCH_EVERY == 0 and self.rank == 0:
                hooked = [torch.cat([half[:8] for half in t.chunk(2)]).detach() for t in tokens.hooked]
                with torch.no_grad():
                    found = losses.matching_precision(self.net, tokens._replace(hooked=hooked), first_pairs(views, 8),
                                                      self.generator)
                precision, matches = (value.item() for value in found)
            # Harder pairs once those of now are matched, and in any case as the schedule advances.
            floor = (share - 0.15) / 0.45
            harder = self.progress.difficulty + (0.015 if right > 0.55 and not first_steps else 0.0)
            self.progress = self.progress._replace(difficulty=min(1.0, max(harder, floor)),
                                                   seconds=begin.seconds + elapsed)
            if log:
                now = time.monotonic()
                speed, window = (pairs - window[1]) / (now - window[0]), (now, pairs)
                rate = self.optimizer.param_groups[0]["lr"]
                row = (*self.progress[:3], share, self.progress.difficulty, *views.depth.shape[2:], rate, regression,
                       matching, right, error1, error2, precision, matches, norm, int(self.skipped), speed)
                log.write(row, first_steps or self.progress.step % (4 * LOG_EVERY) == 0)
                if now - saved > SAVE_EVERY:
                    saved = now
                    self.save()
        if self.rank == 0:
            log.close()
            self.save()
            if self.device.type == "cuda":
                print(f"most GPU memory in use: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, required=True, help="how long to train now")
    parser.add_argument("--resume", type=pathlib.Path,
                        help="state.pt of an earlier stretch; or the exported weights of a finished run, log.csv beside "
                             "them, from which a further round begins")
    parser.add_argument("--round-from", type=float, default=0.35, metavar="SHARE",
                        help="where in the schedule such a round begins")
    parser.add_argument("--until", type=float, default=1.0, help="share of the schedule done when the minutes are over")
    parser.add_argument("--tokens", type=int, default=65_536,
                        help="patches of first views in a step, on each GPU; so many take 30 GiB. Twice as many are no "
                             "faster a pair and half as many steps; half as many take twice the time a pair")
    parser.add_argument("--steps", type=int, default=1 << 40, help="stop after so many")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", choices=("none", "blocks", "losses", "all"), default="none",
                        help="what torch.compile takes first")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    ranks = torch.cuda.device_count() if args.device == "cuda" else 1
    meeting = pathlib.Path(tempfile.mkdtemp()) / "meeting"
    if ranks > 1:
        torch.multiprocessing.spawn(work, (args, ranks, meeting), nprocs=ranks)
    else:
        work(0, args, ranks, meeting)


if __name__ == "__main__":
    main()
