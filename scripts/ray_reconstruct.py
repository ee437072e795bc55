#!/usr/bin/env python3
"""Runs a reconstruction on a Ray cluster, or on this machine's cores or GPUs.

    pip install ray
    scripts/ray_reconstruct.py photos/ --work work/ --shards 8 --plan '--model mast3r --precision bf16' \
        --num-gpus 1 -- --images photos/ -o cloud.ply

makes a plan, runs every shard's `encode` and then every shard's `pairs` as Ray tasks, and aligns.
Arguments after -- are those of `mast3r align`; without any, nothing is aligned. With --address auto
the tasks run on the cluster that this machine is part of; its nodes must see the images, the work
folder, the weights and the program under the same paths. A task whose worker or node dies is run
again elsewhere and goes on from what is in the work folder. Images that cannot be used are named at
the end; everything else goes on without them.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time

import ray

# Exit codes of `mast3r` that another attempt does not change: usage, input, weights.
PERMANENT = (2, 3, 4)


class WorkerFailed(Exception):
    """Another attempt may succeed."""


class WorkerRefused(Exception):
    """Another attempt ends the same way."""


def run_shard(program, work, shard, stage, extra):
    """Runs a stage of a shard; its summary and the items that cannot be used."""
    command = [program, "run", "--work", work, "--shard", str(shard), "--stage", stage, *extra]
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if process.returncode:
        lines = [line for line in process.stderr.splitlines() if line.startswith("error")]
        message = f"shard {shard}, {stage}: exit code {process.returncode}: {'; '.join(lines)}"
        raise (WorkerRefused if process.returncode in PERMANENT else WorkerFailed)(message)
    events = [json.loads(line) for line in process.stdout.splitlines()]
    failed = [event for event in events if event.get("state") == "failed"]
    return events[-1], failed


def run_stage(stage, shards, arguments, extra):
    """Runs a stage of all shards; the items that cannot be used."""
    task = ray.remote(
        num_gpus=arguments.num_gpus,
        num_cpus=arguments.num_cpus,
        max_retries=arguments.retries,
        retry_exceptions=[WorkerFailed],
    )(run_shard)
    started = time.monotonic()
    waiting = [task.remote(arguments.mast3r, arguments.work, shard, stage, extra) for shard in range(shards)]
    failed = []
    done = items = 0
    while waiting:
        ready, waiting = ray.wait(waiting)
        for summary, unusable in ray.get(ready):
            done += 1
            items += summary["computed"] + summary["kept"]
            failed += unusable
            rate = items / (time.monotonic() - started)
            print(f"{stage}: {done} of {shards} shards, {items} items, {rate:.1f} a second", file=sys.stderr, flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", help="images as `mast3r plan` takes them")
    parser.add_argument("--work", required=True, help="work folder, on a file system that all nodes share")
    parser.add_argument("--shards", type=int, required=True, help="parts; a few times as many as workers")
    parser.add_argument("--plan", default="", help="further options of `mast3r plan`, in one argument")
    parser.add_argument("--run", default="", help="further options of `mast3r run`, in one argument")
    parser.add_argument("--num-gpus", type=float, default=0, help="GPUs of a task")
    parser.add_argument("--num-cpus", type=float, default=1, help="CPU cores of a task")
    parser.add_argument("--retries", type=int, default=3, help="further attempts of a task whose worker fails")
    parser.add_argument("--address", help="`auto` or a cluster's address; without it, this machine alone")
    parser.add_argument("--workers", type=int, help="CPU cores that Ray assumes here, without --address")
    parser.add_argument("--mast3r", default="mast3r", help="the program")
    own, align = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, align = own[:at], own[at + 1 :]
    arguments = parser.parse_args(own)

    plan = [arguments.mast3r, "plan", *arguments.images, "--work", arguments.work]
    subprocess.run([*plan, "--shards", str(arguments.shards), *shlex.split(arguments.plan)], check=True)
    if arguments.address:
        ray.init(address=arguments.address)
    else:
        ray.init(num_cpus=arguments.workers, include_dashboard=False)
    extra = shlex.split(arguments.run)
    failed = []
    for stage in ("encode", "pairs"):
        failed += run_stage(stage, arguments.shards, arguments, extra)
    ray.shutdown()
    for event in failed:
        print(f"left out: {event.get('reason') or event}", file=sys.stderr)
    if align:
        subprocess.run([arguments.mast3r, "align", arguments.work, *align], check=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
