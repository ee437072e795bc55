#!/usr/bin/env bash
# Tests scripts/first_run_on_mac.sh without a Mac: with programs that stand for a Mac's, and for
# cargo and mast3r.
# shellcheck disable=SC2016 # Stubs expand their variables when they run.
set -euo pipefail
script=$(realpath "$(dirname "$0")/first_run_on_mac.sh")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "test_first_run_on_mac.sh: $*" >&2
    exit 1
}

# A clone with nothing in it but the script, so that no program of ours is taken for the stub.
mkdir -p "$work/clone/scripts" "$work/clone/target/release" "$work/bin" "$work/home"
cp "$script" "$work/clone/scripts"
stub() {
    printf '#!/bin/sh\n%s\n' "$2" > "$work/$1"
    chmod +x "$work/$1"
}
stub bin/uname 'case $1 in -s) echo "${SYSTEM:-Darwin}" ;; -m) echo "${PROCESSOR:-arm64}" ;; esac'
stub bin/xcode-select 'exit ${NO_XCODE:-0}'
stub bin/rustc 'echo rustc 1.95.0'
stub bin/git 'echo 0123456789abcdef'
stub bin/sw_vers 'echo 15.2'
stub bin/sysctl 'echo "Apple M4 Max"'
stub bin/system_profiler 'printf "      Chipset Model: Apple M4 Max\n      Serial Number: secret\n"'
stub bin/python3 'case $1 in -c) exit ${NO_NUMPY:-0} ;; *) echo "$@" ;; esac'
# Both say what they were asked, in which surroundings and from where.
stub bin/cargo 'echo "cargo $*; gpu $MAST3R_REQUIRE_GPU; device $MAST3R_DEVICE; $HOME/secret"
case $* in *"${BROKEN:-nothing}"*) echo "error: broken" >&2; exit 101 ;; esac'
stub clone/target/release/mast3r 'echo "mast3r $*"
while [ $# -gt 0 ]; do case $1 in --export-*|--cameras) echo "{}" > "$2" ;; esac; shift; done'

# run OUTCOME: with the variables that are set; output in $work/output.
run() {
    local wanted=$1 status=0
    rm -rf "$work/out"
    mkdir "$work/out"
    HOME=$work/home PATH=$work/bin:$PATH "$work/clone/scripts/first_run_on_mac.sh" "$work/out" \
        > "$work/output" 2>&1 || status=$?
    [ "$status" = "$wanted" ] || fail "exit status $status, $wanted expected: $(cat "$work/output")"
}
said() { grep -qF -- "$1" "$work/output" || fail "not said: $1; but $(cat "$work/output")"; }
unpacked() {
    tar -xzf "$work"/out/mast3r-first-run-*.tar.gz -C "$work/out"
    echo "$work"/out/mast3r-first-run-*/
}

# Not on a Mac with Apple silicon: says so, and does nothing.
SYSTEM=Linux PROCESSOR=x86_64 run 2
said "this is Linux on x86_64; it needs a Mac with Apple silicon"
PROCESSOR=x86_64 run 2
said "without Rosetta"
NO_XCODE=1 run 2
said "xcode-select --install"
[ -z "$(ls "$work/out")" ] || fail "a run that was refused left something"

# Everything works.
run 0
report=$(unpacked)
for file in machine.txt steps.txt cameras.json bench-f32.json bench-f16.md bench-bf16.json \
    profile-dune-base.json profile-mast3r.md; do
    [ -s "$report/$file" ] || fail "the report lacks $file: $(ls "$report")"
done
grep -q "chip: Apple M4 Max" "$report/machine.txt" || fail "no chip: $(cat "$report/machine.txt")"
[ "$(grep -c $'\t0\t' "$report/steps.txt")" = 12 ] || fail "steps: $(cat "$report/steps.txt")"
grep -q -- "--features metal.*gpu 1; device metal" "$report"/03-goldens.log ||
    fail "goldens not on the GPU: $(cat "$report"/03-goldens.log)"
grep -q "metal --precision bf16" "$report"/*-agreement-bf16.log || fail "no comparison in bf16"
if grep -rq "secret" "$report/machine.txt" || grep -rqF "$work/home" "$report"; then
    fail "the report says more than it should"
fi

# A step that fails is named and does not stop the others; without numpy a step is left out.
BROKEN="-p mast3r-custom-ops" NO_NUMPY=1 run 1
said "failed: operations"
report=$(unpacked)
grep -q $'operations\t101' "$report/steps.txt" || fail "steps: $(cat "$report/steps.txt")"
grep -q "error: broken" "$report"/02-operations.log || fail "what broke is not in the log"
grep -q "skipped, Python has no numpy" "$report/steps.txt" || fail "numpy"
[ -s "$report/profile-mast3r.md" ] || fail "a failed step stopped the others"
echo "first_run_on_mac.sh: ok"
