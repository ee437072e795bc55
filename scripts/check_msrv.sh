#!/usr/bin/env bash
# Checks that the oldest Rust that Cargo.toml promises compiles everything.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
rustup toolchain install "$version" --profile minimal
cargo "+$version" check --release --locked --workspace --all-targets
