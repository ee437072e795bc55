#!/usr/bin/env bash
# What CI checks on a Mac with Apple silicon: lints and tests with Metal, operations and the bundled
# network on its GPU against the CPU. Needs numpy.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; "$@"; }

# A GPU that does not answer fails.
export MAST3R_REQUIRE_GPU=1
step cargo clippy --release --locked --workspace --all-targets --features metal -- -D warnings
step cargo test --release --locked -p mast3r-custom-ops --features metal -- --nocapture
step cargo test --release --locked --features metal
step cargo build --release --locked --features metal
step python3 scripts/compare_devices.py metal
step python3 scripts/compare_devices.py metal --precision bf16 --tolerance 0.1
