#!/usr/bin/env bash
# Compiles all CUDA code, on a machine without a GPU: our kernels by nvcc, the host code by clippy.
# Nothing is linked or run. Needs the toolkit: eval "$(scripts/cuda_toolkit.sh --check)".
set -euo pipefail
cd "$(dirname "$0")/.."

# Candle's kernels would take nvcc minutes, and nothing here looks at them: they are left empty, and
# forgotten at the end, so that the next build makes them.
export NVCC=$PWD/scripts/nvcc_stub.sh
trap 'cargo clean --quiet --release --locked -p candle-kernels' EXIT
cargo clippy --release --locked --workspace --all-targets --features cuda -- -D warnings
