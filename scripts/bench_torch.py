#!/usr/bin/env python3
"""Time the same networks in PyTorch, with the weights and images of `mast3r bench`.

    python scripts/bench_torch.py --suite --precision f32 bf16 --device cuda --export-json torch.json
    python scripts/bench_torch.py --case mast3r@512x384 --inputs ours/ --outputs torch/ --export-json torch/torch.json

Variants: `eager` spells attention out, and its halves are autocast; `tuned` uses scaled_dot_product_attention, and its
halves have their weights cast beforehand; `graph` is `tuned` captured as a CUDA graph and replayed; `compiled` is `tuned`
through torch.compile, whose time is reported apart as `compile_s`, and `reduce-overhead` the same in that mode, which
replays CUDA graphs too. Heads are float32 always; TF32 as PyTorch has it by default (convolutions only), but for the
precision `tf32`, which is float32 with TF32 allowed everywhere. Every case runs in a process of its own, so that its
memory is its own and a failure is a row with `error`. Needs scripts/requirements-bench.txt.
"""
import argparse
import datetime
import hashlib
import json
import multiprocessing
import os
import pathlib
import platform
import resource
import statistics
import sys
import time
import typing
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from random_weights import random_tensor
from torch_networks import NETWORKS, published_grid

SUITE = (
    [f"{name}@{side}x{side}" for name in ("dune-small", "dune-base") for side in (336, 448)]
    + ["mast3r-encoder@672x512", "mast3r@512x384", "mast3r@672x512"]
    + [f"{name}@{side}x{side}" for name in ("dunemast3r-small", "dunemast3r-base") for side in (336, 448)]
)
QUICK_SUITE = ["dune-small@336x336", "dune-base@336x336", "dunemast3r-small@112x112"]
DTYPES = {"f32": torch.float32, "tf32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
VARIANTS = ("eager", "tuned", "compiled")
# Of CUDA alone.
GRAPH_VARIANTS = ("graph", "reduce-overhead")
# A case that is stopped early has at least as many runs, or there would be no spread.
FEWEST_RUNS = 3
MIB = 1 << 20


class Case(typing.NamedTuple):
    model: str
    width: int
    height: int
    batch: int
    precision: str
    variant: str

    @property
    def resolution(self):
        return f"{self.width}x{self.height}"

    @property
    def stem(self):
        """How the names of its tensors' files begin."""
        return f"{self.model}-{self.resolution}"

    def __str__(self):
        batch = f" batch {self.batch}" if self.batch > 1 else ""
        return f"{self.model} {self.resolution}{batch} {self.precision} {self.variant}"


class Options(typing.NamedTuple):
    """What all cases share, and what a case's process is told."""

    weights: str  # random:SEED or a file
    weights_label: str
    device: str
    threads: int | None
    warmup: int
    runs: int
    max_seconds: float


class Weights:
    """Tensors by their canonical names, float32, made or read one at a time."""

    def __init__(self, where):
        self.where = where
        self.seed = where.removeprefix("random:") if where.startswith("random:") else None
        self.file = None if self.seed is not None else safe_open(where, "pt")
        self.pool = ThreadPoolExecutor()

    def grid(self, case):
        """Side of DUNE's position grid."""
        if self.file is not None and "pos_embed" in self.file.keys():
            return int((self.file.get_slice("pos_embed").get_shape()[1] - 1) ** 0.5)
        return published_grid(case.width, case.height)

    def check(self, shapes):
        """Fails for a file that lacks tensors or has them in other shapes."""
        if self.file is None:
            return
        names = set(self.file.keys())
        missing = sorted(set(shapes) - names)
        if missing:
            raise ValueError(f"{self.where}: {len(missing)} tensors are missing, {', '.join(missing[:3])}")
        for name, shape in shapes.items():
            stored = tuple(self.file.get_slice(name).get_shape())
            if stored != shape:
                raise ValueError(f"{self.where}: {name} has shape {stored}, not {shape}")

    def tensor(self, name, shape):
        if self.file is not None:
            return self.file.get_tensor(name).float()
        return torch.from_numpy(random_tensor(self.seed, name, shape, self.pool.map))


def skeleton(case, weights):
    """The network without values, and the shapes of its tensors."""
    with torch.device("meta"):
        net = NETWORKS[case.model].build(case.variant != "eager", weights.grid(case)).eval()
    shapes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    weights.check(shapes)
    return net, shapes


def build(case, weights, device):
    """The network on `device`. Each tensor is cast at once, so that no second copy of all of them exists."""
    net, shapes = skeleton(case, weights)
    for name, shape in shapes.items():
        is_float32 = "downstream_head" in name or name.startswith(("head.", "cam_dec."))
        cast = case.variant != "eager" and not is_float32
        value = weights.tensor(name, shape).to(device, DTYPES[case.precision] if cast else torch.float32)
        owner, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
    patch = NETWORKS[case.model].patch
    net.prepare(case.height // patch, case.width // patch, device)
    return net


def generated_images(count, height, width):
    """Smooth images in [-1, 1]."""
    coarse = torch.rand(count, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) * 2 - 1


def read_images(path):
    with safe_open(path, "pt") as file:
        return file.get_tensor("images")


def peak_rss_mib():
    """Peak of this process; getrusage on Linux counts the parent from before exec too, so /proc comes first."""
    try:
        with open("/proc/self/status") as status:
            lines = [line.split() for line in status if line.startswith("VmHWM:")]
        return int(lines[0][1]) / 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / MIB if sys.platform == "darwin" else peak / 1024


def run_case(case, options, images, output):
    """Runs one case and returns what its row of results says of it; `images` and `output` are paths or None."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if case.precision == "tf32":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    views = NETWORKS[case.model].views
    images = read_images(images) if images else generated_images(views, case.height, case.width)
    start = time.perf_counter()
    net = build(case, Weights(options.weights), device)
    measured = {"load_ms": round(1e3 * (time.perf_counter() - start), 1)}
    # A batch repeats the pair, all first views before all second ones.
    batch = images.to(device).repeat_interleave(case.batch, 0)
    autocast = case.variant == "eager" and DTYPES[case.precision] != torch.float32

    def run():
        start = time.perf_counter()
        with torch.autocast(device.type, DTYPES[case.precision] if autocast else None, enabled=autocast):
            outputs = net(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return outputs, time.perf_counter() - start

    with torch.inference_mode():
        if case.variant in ("compiled", "reduce-overhead"):
            net = torch.compile(net, dynamic=False, mode="default" if case.variant == "compiled" else case.variant)
            measured["compile_s"] = round(run()[1], 3)
        if case.variant == "graph":
            net = captured(net, batch)
        for _ in range(options.warmup):
            run()
        seconds = []
        while len(seconds) < options.runs:
            outputs, last = run()
            seconds.append(last)
            if sum(seconds) > options.max_seconds and len(seconds) >= FEWEST_RUNS:
                break
    if output:
        tensors = {name: value.float().cpu().contiguous() for name, value in outputs.items()}
        save_file(tensors | {"images": images.float().cpu().contiguous()}, output)
    runs = [1e3 * value for value in seconds]
    return measured | {
        "threads": torch.get_num_threads(),
        "median_ms": round(statistics.median(runs), 4),
        "mean_ms": round(statistics.fmean(runs), 4),
        "per_second": round(1e3 * case.batch / statistics.median(runs), 4),
        "stddev_ms": round(statistics.stdev(runs), 4) if len(runs) > 1 else 0.0,
        "min_ms": round(min(runs), 4),
        "max_ms": round(max(runs), 4),
        "runs_ms": [round(value, 4) for value in runs],
        "peak_rss_mib": round(peak_rss_mib(), 1),
        "peak_device_mib": round(torch.cuda.max_memory_allocated(device) / MIB, 1) if device.type == "cuda" else None,
    }


def captured(net, batch):
    """`net` as a CUDA graph for inputs like `batch`, as PyTorch's documentation captures one."""
    held = batch.clone()
    stream = torch.cuda.Stream(batch.device)
    stream.wait_stream(torch.cuda.current_stream(batch.device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            net(held)
    torch.cuda.current_stream(batch.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = net(held)

    def replay(images):
        held.copy_(images)
        graph.replay()
        return outputs

    return replay


def child(connection, *arguments):
    """The body of a case's process."""
    try:
        connection.send(run_case(*arguments))
    except Exception as error:  # any failure becomes a row, whose reader needs no traceback
        lines = str(error).strip().splitlines() or [""]
        connection.send({"error": f"{type(error).__name__}: {lines[0]}"})


def measure(case, options, images, output):
    """Runs a case in a process of its own and returns its row."""
    row = {
        "framework": f"torch {torch.__version__.split('+')[0]}",
        "variant": case.variant,
        "model": case.model,
        "resolution": case.resolution,
        "stage": "full",
        "precision": case.precision,
        "device": options.device,
        "batch": case.batch,
        "threads": options.threads or torch.get_num_threads(),
        "weights": options.weights_label,
        "images": pathlib.Path(images).name if images else "generated",
        "warmup": options.warmup,
        "outputs": None,
        "date": now(),
        "error": None,
    }
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(sender, case, options, images, output))
    process.start()
    sender.close()
    try:
        row |= receiver.recv()
    except EOFError:
        process.join()
        row["error"] = f"the process ended with code {process.exitcode} (-9: out of memory, probably)"
    process.join()
    return row


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def machine(options):
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as info:
            cpu = next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor that has no name there
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    gpu = None
    if options.device.startswith("cuda"):
        gpu = torch.cuda.get_device_properties(options.device)
        versions |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "os": platform.platform(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "threads": options.threads or torch.get_num_threads(),
        "gpu": gpu and gpu.name,
        "gpu_memory_gib": gpu and round(gpu.total_memory / 2**30, 1),
        "versions": versions,
        "date": now(),
    }


def spread(row):
    return f"{row['median_ms']:.2f} ms ({row['min_ms']:.2f} to {row['max_ms']:.2f}, {len(row['runs_ms'])} runs)"


class Report:
    """The JSON file, complete after every case."""

    def __init__(self, path, machine):
        self.path, self.content = path, {"machine": machine, "results": []}

    def resume(self):
        """Takes over what the file holds already."""
        if not self.path or not self.path.exists():
            return
        old = json.loads(self.path.read_text())
        for key in ("cpu", "gpu", "versions"):
            if old["machine"].get(key) != self.content["machine"][key]:
                found, here = old["machine"].get(key), self.content["machine"][key]
                raise SystemExit(f"{self.path}: its {key} is {found}, here it is {here}; name another --export-json")
        self.content["results"] = old["results"]

    def holds(self, case, options):
        wanted = (case.model, case.resolution, case.precision, case.variant, options.device, case.batch,
                  options.weights_label)
        keys = ("model", "resolution", "precision", "variant", "device", "batch", "weights")
        return any(tuple(row[key] for key in keys) == wanted for row in self.content["results"])

    def add(self, row):
        self.content["results"].append(row)
        if self.path:
            partial = self.path.with_name(f".{self.path.name}.part")
            partial.write_text(self.text())
            partial.replace(self.path)

    def text(self):
        return json.dumps(self.content, indent=1) + "\n"


def parse_size(text):
    try:
        width, height = map(int, text.split("x"))
    except ValueError:
        raise SystemExit(f"{text}: a size is WIDTHxHEIGHT, for example 512x384") from None
    return width, height


def named_sizes(args):
    """(network, width, height) of every case asked for, each once."""
    texts = list(args.case)
    texts += (QUICK_SUITE if args.quick else SUITE) if args.suite else []
    texts += [text for text in args.size if "@" in text]
    sizes = [text for text in args.size if "@" not in text]
    if sizes and not args.model:
        raise SystemExit(f"--size {sizes[0]}: of which network? name it with --model, or say NAME@{sizes[0]}")
    for name in args.model:
        known = [text for text in SUITE if text.startswith(f"{name}@")]
        texts += [f"{name}@{size}" for size in sizes] or known
    if not texts:
        raise SystemExit("nothing to measure: give --suite, --case NAME@WIDTHxHEIGHT, or --model with --size")
    found = {}
    for text in texts:
        name, _, size = text.partition("@")
        if name not in NETWORKS:
            raise SystemExit(f"unknown model '{name}'; there are {', '.join(NETWORKS)}")
        width, height = parse_size(size)
        patch = NETWORKS[name].patch
        if min(width, height) < patch or width % patch or height % patch:
            raise SystemExit(f"{text}: sides must be multiples of {patch}")
        found[name, width, height] = None
    return list(found)


def find_images(folder, case):
    """The file of `folder` whose `images` this case takes."""
    tried = sorted(folder.glob(f"{case.stem}*.safetensors"))
    wanted = [NETWORKS[case.model].views, 3, case.height, case.width]
    for path in tried:
        with safe_open(path, "pt") as file:
            if "images" in file.keys() and file.get_slice("images").get_shape() == wanted:
                return str(path)
    what = f"{len(tried)} files {case.stem}*.safetensors, none with images of shape {wanted}"
    raise SystemExit(f"{folder}: {what}")


def weights_label(weights):
    if weights.startswith("random:"):
        return f"random, seed {weights.removeprefix('random:')}"
    digest = hashlib.sha256()
    try:
        with open(weights, "rb") as file:
            while block := file.read(MIB):
                digest.update(block)
    except OSError as error:
        raise SystemExit(f"{weights}: {error.strerror}") from None
    return f"{pathlib.Path(weights).name}, sha256 {digest.hexdigest()[:16]}"


def checked_weights(cases, options):
    """The weights, after a look whether they fit all cases."""
    try:
        weights = Weights(options.weights)
        for case in {(case.model, case.resolution): case for case in cases}.values():
            skeleton(case, weights)
    except (ValueError, SafetensorError) as error:
        raise SystemExit(str(error)) from None
    return weights


def save_weights(path, cases, weights):
    """Writes the one network of `cases` under its canonical names, float32."""
    found = {(case.model, weights.grid(case) if case.model.startswith("dune-") else None): case for case in cases}
    if len(found) != 1:
        raise SystemExit(f"--save-weights {path}: one network at a time, and {len(found)} are asked for")
    _, shapes = skeleton(cases[0], weights)
    partial = path.with_name(f".{path.name}.part")
    save_file({name: weights.tensor(name, shape) for name, shape in shapes.items()}, partial, {"format": "pt"})
    partial.replace(path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    several = {"nargs": "+", "action": "extend", "default": []}
    what = parser.add_argument_group("what is measured")
    what.add_argument("--suite", action="store_true", help="the networks and sizes of the published page")
    what.add_argument("--quick", action="store_true", help="one warm-up, three runs, and a suite of small networks")
    what.add_argument("--case", metavar="NAME@WIDTHxHEIGHT", **several)
    what.add_argument("--model", metavar="NAME", help="at every --size, or at its sizes of the suite", **several)
    what.add_argument("--size", metavar="WIDTHxHEIGHT", help="of every --model; or NAME@WIDTHxHEIGHT", **several)
    what.add_argument("--precision", choices=DTYPES, nargs="+", default=["f32"])
    what.add_argument("--variant", choices=VARIANTS + GRAPH_VARIANTS, nargs="+", help="all that the device has")
    what.add_argument("--batch", type=int, nargs="+", default=[1], help="images, or pairs, at a time")
    how = parser.add_argument_group("how")
    how.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    how.add_argument("--threads", type=int)
    how.add_argument("--warmup", type=int, help="runs before those that count (3)")
    how.add_argument("--runs", type=int, help="runs that count (10); 0 measures nothing, for --save-weights")
    how.add_argument("--max-seconds", type=float, default=float("inf"),
                     help=f"a case whose counted runs take longer stops, after {FEWEST_RUNS} at the least")
    files = parser.add_argument_group("files")
    files.add_argument("--weights", default="random:0", help="random:SEED, or a .safetensors with canonical names")
    files.add_argument("--save-weights", type=pathlib.Path, metavar="FILE", help="for mast3r --weights FILE")
    files.add_argument("--inputs", type=pathlib.Path, metavar="FOLDER",
                       help="take the `images` of its MODEL-WIDTHxHEIGHT*.safetensors (otherwise generated)")
    files.add_argument("--outputs", type=pathlib.Path, metavar="FOLDER",
                       help="save images and outputs of every case whose batch is one")
    files.add_argument("--export-json", default="-", metavar="FILE", help="the results; - is standard output")
    files.add_argument("--resume", action="store_true", help="cases that the file holds already are not run again")
    args = parser.parse_args()
    args.variant = args.variant or list(VARIANTS + (GRAPH_VARIANTS if args.device.startswith("cuda") else ()))
    if args.quick and args.warmup is None:
        args.warmup = 1
    if args.quick and args.runs is None:
        args.runs = 3
    args.warmup = 3 if args.warmup is None else args.warmup
    args.runs = 10 if args.runs is None else args.runs
    if min(args.batch) < 1 or args.warmup < 0 or args.runs < 0:
        parser.error("--batch must be 1 or more, --warmup and --runs 0 or more")
    if args.resume and args.export_json == "-":
        parser.error("--resume needs --export-json FILE")
    return args


def main():
    args = arguments()
    cases = [Case(*named, batch, precision, variant) for named in named_sizes(args) for batch in args.batch
             for precision in args.precision for variant in args.variant]
    options = Options(
        weights=args.weights,
        weights_label=weights_label(args.weights),
        device="cuda:0" if args.device == "cuda" else args.device,
        threads=args.threads,
        warmup=args.warmup,
        runs=args.runs,
        max_seconds=args.max_seconds,
    )
    weights = checked_weights(cases, options)
    if args.save_weights:
        save_weights(args.save_weights, cases, weights)
    if args.runs == 0:
        return
    report = Report(None if args.export_json == "-" else pathlib.Path(args.export_json), machine(options))
    if args.resume:
        report.resume()
    if (load := os.getloadavg()[0]) > 1:
        print(f"warning: {load:.1f} other threads are busy here, so the times will be too long", file=sys.stderr)
    images = {}
    if args.inputs:
        images = {case: find_images(args.inputs, case) for case in cases}
    if args.outputs:
        args.outputs.mkdir(parents=True, exist_ok=True)
    for index, case in enumerate(cases):
        prefix = f"[{index + 1}/{len(cases)}] {case}"
        if report.holds(case, options):
            print(f"{prefix}: measured already", file=sys.stderr)
            continue
        print(f"{prefix} ...", file=sys.stderr)
        output = None
        if args.outputs and case.batch == 1:
            output = args.outputs / f"{case.stem}-{case.precision}-{case.variant}.safetensors"
        row = measure(case, options, images.get(case), output)
        if output and not row["error"]:
            # Relative to the report, so that the two can be moved together.
            row["outputs"] = os.path.relpath(output, report.path.parent if report.path else ".")
        report.add(row)
        print(f"{prefix}: {row['error'] or spread(row)}", file=sys.stderr)
    if not report.path:
        sys.stdout.write(report.text())


if __name__ == "__main__":
    main()
