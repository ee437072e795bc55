#!/usr/bin/env bash
# Compiles all CUDA code, on a machine without a GPU: our kernels by nvcc, the host code by clippy.
# Nothing is linked or run. Needs the toolkit: eval "$(scripts/cuda_toolkit.sh --check)".
set -euo pipefail
cd "$(dirname "$0")/.."

# Candle's kernels are compiled too, and thrown away: as fast as nvcc can, six times faster.
export NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:---Ofast-compile=max}"
cargo clippy --release --locked --workspace --all-targets --features cuda -- -D warnings
