#!/usr/bin/env python3
"""Checks the recipes for many workers: GNU parallel, Slurm and Ray give what one run gives.

    scripts/test_recipes.py target/release/mast3r parallel slurm ray

Nine images, one of which is cut short, are reconstructed by one run without that one and by the
recipes with it. Work folders must be equal, byte for byte, and the point clouds too. `slurm` uses a
stub of sbatch that runs arrays on this machine; `real-slurm` a cluster that this machine is part
of. `ray` needs the package ray; one of its four workers is killed in the middle.
Needs Pillow.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NETWORK = ["--model", "tiny", "--res", "112"]
SHARDS = 4
CORRUPT = "demo_5.jpg"

# Runs the jobs of sbatch here, one after the other; a dependency has been run before.
STUB = """#!/bin/sh
array= wrap= dependency=
for argument; do
  case $argument in
    --array=*) array=${argument#--array=} ;;
    --wrap=*) wrap=${argument#--wrap=} ;;
    --dependency=afterok:*) dependency=${argument#--dependency=afterok:} ;;
  esac
done
[ -z "$dependency" ] || [ -f "$STUB_FOLDER/$dependency" ] || exit 1
number=$(($(ls "$STUB_FOLDER" | wc -l) + 1))
for task in $(seq "${array%-*}" "${array#*-}"); do
  SLURM_ARRAY_TASK_ID=$task sh -c "$wrap" >> "$STUB_LOG" 2>&1 || exit 1
done
[ -n "$array" ] || sh -c "$wrap" >> "$STUB_LOG" 2>&1 || exit 1
touch "$STUB_FOLDER/$number"
echo "$number"
"""


def images(folder):
    """Eight images of the demonstration's house."""
    folder.mkdir()
    for number in range(1, 5):
        image = Image.open(ROOT / f"assets/demo_{number}.jpg")
        image.save(folder / f"demo_{number}.png")
        width, height = image.size
        image.crop((width // 8, height // 8, width - width // 8, height - height // 8)).save(folder / f"part_{number}.png")


def contents(work):
    """The results in a work folder, by name."""
    files = [work / "scene.json"]
    for part in ("views", "features", "pairs"):
        files += (work / part).glob("*.safetensors")
    return {path.relative_to(work): path.read_bytes() for path in files}


def check(folder, recipe, log):
    single, many = contents(folder / "single"), contents(folder / recipe)
    assert single.keys() == many.keys(), f"{recipe}: {sorted(single.keys() ^ many.keys())}"
    different = [str(name) for name in single if single[name] != many[name]]
    assert not different, f"{recipe}: {different} differ"
    assert (folder / "single.ply").read_bytes() == (folder / f"{recipe}.ply").read_bytes(), f"{recipe}: the cloud differs"
    assert CORRUPT in log, f"{recipe}: {CORRUPT} is not named\n{log}"
    print(f"{recipe}: as one run, {len(single)} files equal, {CORRUPT} named", flush=True)


def run(command, **options):
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


def plan(program, folder, recipe):
    run([program, "plan", folder / "all", *NETWORK, "--work", folder / recipe, "--shards", SHARDS])


def align(program, folder, recipe):
    return run([program, "align", folder / recipe, "-o", folder / f"{recipe}.ply"])


def parallel(program, folder):
    plan(program, folder, "parallel")
    line = 'for stage in encode pairs; do seq 0 3 | parallel -j4 --retries 3 "$0" run --work "$1" --shard {} --stage $stage --threads 1 || exit; done'
    run(["bash", "-c", line, program, folder / "parallel"])
    return align(program, folder, "parallel")


def slurm(program, folder, real=False):
    recipe = "real-slurm" if real else "slurm"
    plan(program, folder, recipe)
    script = [ROOT / "scripts/slurm_reconstruct.sh", folder / recipe, "-o", folder / f"{recipe}.ply"]
    environment = {**os.environ, "MAST3R": str(program), "RUN_EXTRA": "--threads 1"}
    if not real:
        stub = folder / "bin"
        stub.mkdir()
        (stub / "sbatch").write_text(STUB)
        (stub / "sbatch").chmod(0o755)
        (folder / "jobs").mkdir()
        environment |= {"PATH": f"{stub}:{environment['PATH']}", "STUB_FOLDER": str(folder / "jobs"), "STUB_LOG": str(folder / "log")}
        run(script, env=environment)
        return (folder / "log").read_text()
    environment["SBATCH_EXTRA"] = f"--output={folder}/slurm-%A_%a.log --export=ALL"
    run(script, env=environment, cwd=folder)
    for _ in range(600):
        if (folder / f"{recipe}.ply").exists():
            break
        time.sleep(1)
    return "".join(path.read_text() for path in folder.glob("slurm-*.log"))


def workers(title):
    """Processes of Ray that run a task: their numbers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(title):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def ray(program, folder):
    command = [sys.executable, ROOT / "scripts/ray_reconstruct.py", folder / "all", "--work", folder / "ray", "--shards", SHARDS]
    command += ["--plan", " ".join(NETWORK), "--run", "--threads 1", "--workers", "4", "--mast3r", program]
    command += ["--", "-o", folder / "ray.ply"]
    before = set(workers(b"ray::run_shard"))
    with open(folder / "ray.log", "w") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT)
        while len(list((folder / "ray/pairs").glob("[!.]*"))) < 5:
            assert process.poll() is None, (folder / "ray.log").read_text()
            time.sleep(0.02)
        victim = min(set(workers(b"ray::run_shard")) - before)
        children = Path(f"/proc/{victim}/task/{victim}/children").read_text().split()
        for number in [victim, *map(int, children)]:
            os.kill(number, signal.SIGKILL)
        print(f"ray: worker {victim} and its program {', '.join(children)} killed")
        code = process.wait()
    log = (folder / "ray.log").read_text()
    assert code == 0, log
    return log


def main():
    program = Path(sys.argv[1]).resolve()
    recipes = {"parallel": parallel, "slurm": slurm, "real-slurm": lambda *both: slurm(*both, real=True), "ray": ray}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        images(folder / "good")
        images(folder / "all")
        whole = (ROOT / "assets/demo_1.jpg").read_bytes()
        (folder / "all" / CORRUPT).write_bytes(whole[: len(whole) // 2])
        started = time.monotonic()
        run([program, "reconstruct", folder / "good", *NETWORK, "--no-refine", "--work", folder / "single", "-o", folder / "single.ply"])
        print(f"one run: {time.monotonic() - started:.1f} s", flush=True)
        for recipe in sys.argv[2:]:
            started = time.monotonic()
            check(folder, recipe, recipes[recipe](program, folder))
            print(f"{recipe}: {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
