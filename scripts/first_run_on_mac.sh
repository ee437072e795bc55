#!/usr/bin/env bash
# The first run on a Mac with Apple silicon: builds with Metal, compares every kernel and every small
# network on the GPU with the CPU or the reference, measures, and packs all of it into one file:
#
#   scripts/first_run_on_mac.sh [FOLDER]     # FOLDER/mast3r-first-run-DATE.tar.gz; . if not given
#
# Please attach the file to an issue. It holds the chip's name, the memory, the versions of the
# system and of Rust, and what the steps printed, with your home folder as ~. Needs Rust and Xcode's
# command line tools; about half an hour. A step that fails does not stop the next one.
set -euo pipefail

fail() {
    echo "first_run_on_mac.sh: $*" >&2
    exit 2
}

# uname, not the triple of Rust: under Rosetta the whole run would be one of x86-64.
system=$(uname -s)
processor=$(uname -m)
[ "$system" = Darwin ] || fail "this is $system on $processor; it needs a Mac with Apple silicon"
[ "$processor" = arm64 ] ||
    fail "this shell runs as $processor; on a Mac with Apple silicon open it without Rosetta, others have no GPU that is supported"
for tool in cargo rustc git xcode-select tar; do
    command -v "$tool" > /dev/null || fail "there is no $tool on the PATH"
done
xcode-select -p > /dev/null 2>&1 || fail "Xcode's command line tools are missing: xcode-select --install"
folder=${1:-.}
[ -d "$folder" ] || fail "$folder is no folder"
folder=$(cd "$folder" && pwd)
cd "$(dirname "$0")/.."

name=mast3r-first-run-$(date -u +%Y-%m-%dT%H%M%SZ)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
report=$work/$name
mkdir "$report"

# What a user would rather not publish: the name of the home folder.
without_home() { sed "s|$HOME|~|g"; }

{
    echo "commit: $(git rev-parse HEAD)"
    echo "changed files: $(git status --porcelain | wc -l | tr -d ' ')"
    echo "rust: $(rustc --version)"
    echo "macOS: $(sw_vers -productVersion)"
    echo "chip: $(sysctl -n machdep.cpu.brand_string)"
    echo "memory: $(sysctl -n hw.memsize)"
    system_profiler SPDisplaysDataType | grep -E 'Chipset Model|Total Number of Cores|Metal' || true
} 2>&1 | without_home > "$report/machine.txt"

number=0
failed=()
# step NAME COMMAND...: its output in NN-NAME.log, its exit status and seconds in steps.txt.
step() {
    local step=$1 began=$SECONDS status=0 log
    shift
    number=$((number + 1))
    log=$report/$(printf '%02d' "$number")-$step.log
    printf '== %s: %s\n' "$step" "$*"
    echo "$*" | without_home > "$log"
    "$@" 2>&1 | without_home >> "$log" || status=${PIPESTATUS[0]}
    printf '%s\t%s\t%s s\n' "$step" "$status" "$((SECONDS - began))" | tee -a "$report/steps.txt"
    [ "$status" = 0 ] || failed+=("$step")
}

# A GPU that does not answer fails, and so does a missing network of the goldens.
export MAST3R_REQUIRE_GPU=1 MAST3R_DEVICE=metal
mast3r=target/release/mast3r
metal=(--release --locked --features metal)
step build cargo build "${metal[@]}" --bin mast3r
step operations cargo test "${metal[@]}" -p mast3r-custom-ops --no-fail-fast -- --nocapture
step goldens cargo test "${metal[@]}" -p mast3r --features tiny --test golden networks -- --nocapture
step reconstruct "$mast3r" reconstruct assets/demo_1.jpg assets/demo_2.jpg --model tiny --device metal \
    -o "$work/cloud.ply" --cameras "$report/cameras.json"
if python3 -c 'import numpy' 2> /dev/null; then
    step agreement-f32 python3 scripts/compare_devices.py metal
    step agreement-f16 python3 scripts/compare_devices.py metal --precision f16 --tolerance 0.1
    step agreement-bf16 python3 scripts/compare_devices.py metal --precision bf16 --tolerance 0.1
else
    echo "agreement: skipped, Python has no numpy" | tee -a "$report/steps.txt"
fi
for precision in f32 f16 bf16; do
    step "bench-$precision" "$mast3r" bench --device metal --precision "$precision" --model all \
        --max-time 20 --export-json "$report/bench-$precision.json" --export-markdown "$report/bench-$precision.md"
done
for model in dune-base mast3r; do
    step "profile-$model" "$mast3r" profile --device metal --precision f16 --model "$model" \
        --export-json "$report/profile-$model.json" --export-markdown "$report/profile-$model.md"
done

tar -czf "$folder/$name.tar.gz" -C "$work" "$name"
echo "the report: $folder/$name.tar.gz"
if [ "${#failed[@]}" -gt 0 ]; then
    echo "failed: ${failed[*]}; the report says how, please send it" >&2
    exit 1
fi
