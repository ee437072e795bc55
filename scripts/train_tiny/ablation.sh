#!/usr/bin/env bash
# ablation.sh OUT_DIR SECONDS NAME...: short runs of the smaller network from nothing, each with one thing changed.
#
# NAME: base, no_photos, half_photos, no_meshes, one_light, side168, wide. Leaves NAME.safetensors and NAME.csv of each in
# OUT_DIR/ablation.tar. Two minutes a run are the least: after one, matching has hardly left chance.
set -eu
export PYTHONUNBUFFERED=1
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd) minutes=$(awk "BEGIN{print $2/60}"); shift 2
packs=${PACKS:-$here/../../.material}
# The renderers are compiled before the first run's time begins.
python3 "$here/train.py" "$out/first" --minutes 1 --steps 1 --network tiny --side 112 --tokens 1568 > /dev/null
rm -r "$out/first"
for name in "$@"; do
    work=$(mktemp -d) network=tiny; args=(--side 112)
    mkdir "$work/packs"; cp "$packs"/{atlas.bin,panoramas.npz,meshes.npz} "$work/packs/"
    case $name in
        base) ;;
        no_photos) rm "$work/packs/atlas.bin" "$work/packs/panoramas.npz" ;;
        half_photos) PYTHONPATH=$here python3 - "$work/packs/atlas.bin" <<'PY'
import sys
from material import packs
atlas = packs.read_atlas(sys.argv[1])
packs.save_atlas(sys.argv[1], *(part[::2] for part in atlas))
PY
            ;;
        no_meshes) rm "$work/packs/meshes.npz" ;;
        one_light) args+=(--one-light) ;;
        side168) args=(--side 168) ;;
        wide) network=wide ;;
        *) echo "ablation.sh: unknown run $name" >&2; exit 2 ;;
    esac
    python3 "$here/train.py" "$work" --minutes "$minutes" --network $network --packs "$work/packs" "${args[@]}" > "$work/train.txt"
    python3 "$here/export.py" "$work/state.pt" "$work/$name.safetensors"
    mv "$work/log.csv" "$work/$name.csv"
    tar -C "$work" -rf "$out/ablation.tar" $name.safetensors $name.csv
    rm -r "$work"
done
