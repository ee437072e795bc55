#!/usr/bin/env bash
# Runs the tests of the CPU kernels as compiled for 64-bit ARM, under QEMU: NEON with int8 dot products and with I8MM
# against plain loops, and the ops that are made of them. They say nothing of speed.
#
# Needs the Rust target aarch64-unknown-linux-gnu and from Debian qemu-user, gcc-aarch64-linux-gnu and
# libc6-dev-arm64-cross.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# A processor with every extension that QEMU knows, then one without those for int8.
for processor in max cortex-a72; do
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $processor -L /usr/aarch64-linux-gnu"
    cargo test --release --target aarch64-unknown-linux-gnu --package mast3r-custom-ops --lib -- \
        cpu:: linear:: conv2d:: attention:: plain::
done
