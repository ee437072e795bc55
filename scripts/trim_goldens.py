#!/usr/bin/env python3
"""Trim a folder of goldens to what the repository carries.

    python scripts/trim_goldens.py FULL_FOLDER tests/golden

Of every tensor with more than LIMIT elements, other than inputs, the trimmed file keeps each stride-th element of the
flattened values and records `{name: {"shape": [...], "stride": s}}` in the metadata entry `sampled`. Strides are odd and
no multiple of 3, 5 or 7, so that samples fall on every row, column and channel. FULL_FOLDER may be that of Depth
Anything 3 as well. Positions, weights and images are left
out: weights follow from the recipe, positions from the grid. Of the scenes of many views two are kept, whole but for the
reference's own results. Needs numpy and safetensors.
"""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

LIMIT = 600
SCENES = ["outlier5", "two_view"]
SCENE_FILES = ["scene.json", "views.safetensors", "pairs.safetensors", "matches.safetensors", "truth.safetensors"]


def stride_for(count):
    stride = max(1, -(-count // LIMIT))
    while stride > 1 and any(stride % p == 0 for p in (2, 3, 5, 7)):
        stride += 1
    return stride


def trim(source, target, keep_whole):
    with safe_open(source, "numpy") as file:
        metadata = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    kept, sampled = {}, {}
    for name, value in sorted(tensors.items()):
        if name.startswith("pos."):
            continue
        stride = 1 if keep_whole(name) else stride_for(value.size)
        if stride == 1:
            kept[name] = np.ascontiguousarray(value)
        else:
            kept[name] = np.ascontiguousarray(value.reshape(-1)[::stride])
            sampled[name] = {"shape": list(value.shape), "stride": stride}
    if sampled:
        metadata["sampled"] = json.dumps(sampled, separators=(",", ":"))
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, target, metadata=metadata)


def main():
    full, out = Path(sys.argv[1]), Path(sys.argv[2])
    for folder in sorted(full.glob("*_tiny")):
        config = json.loads((folder / "config.json").read_text())
        # Names, shapes and aliases suffice for the recipe.
        config["tensors"] = {
            name: {key: entry[key] for key in ("shape", "alias_of") if key in entry}
            for name, entry in config["tensors"].items()
        }
        target = out / folder.name / "config.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(config, separators=(",", ":")) + "\n")
        for case in sorted(folder.glob("case_*.safetensors")):
            trim(case, out / folder.name / case.name, lambda name: name.startswith("in."))
        for case in sorted(folder.glob("mlx/expected_*.safetensors")):
            trim(case, out / folder.name / "mlx" / case.name, lambda name: name.startswith("in."))
    tiny = full / "tiny"
    if tiny.is_dir():
        config = json.loads((tiny / "config.json").read_text())
        del config["tensors"]
        target = out / "da3" / "tiny"
        target.mkdir(parents=True, exist_ok=True)
        (target / "config.json").write_text(json.dumps(config, separators=(",", ":")) + "\n")
        for case in sorted(tiny.glob("case_*.safetensors")):
            trim(case, target / case.name, lambda name: name.startswith("in."))
        shutil.copyfile(tiny / "posedecode.safetensors", target / "posedecode.safetensors")
        return
    for op in sorted((full / "ops").glob("*.safetensors")):
        # Inputs and weights stay whole; activations are compared element by element.
        whole = op.stem == "postprocess"
        trim(op, out / "ops" / op.name, lambda name: whole or not name.endswith(("out", "no_offset")))
    for scene in SCENES:
        for name in SCENE_FILES:
            target = out / "multiview" / scene / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(full / "multiview" / scene / name, target)
    print(sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) / 1e6, "MB in", out)


if __name__ == "__main__":
    main()
