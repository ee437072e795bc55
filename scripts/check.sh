#!/usr/bin/env bash
# What CI checks first: format, lints, tests, documentation, packages, and the Metal code for a Mac.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
    printf "\n== %s\n" "$*"
    local began=$SECONDS
    "$@"
    printf "== %s s\n" $((SECONDS - began))
}

step cargo fmt --all --check
step cargo fmt --manifest-path fuzz/Cargo.toml --check
step cargo clippy --release --workspace --all-targets -- -D warnings
RUSTC_WRAPPER=$PWD/scripts/rustc_of_tests.sh step cargo test --release --workspace
RUSTDOCFLAGS="-D warnings" step cargo doc --release --workspace --no-deps
# Every crate can be published: none is larger than crates.io allows.
step scripts/check_packages.sh
# The library alone, which scripts/fuzz.sh compiles, must not bring in the command line's crates, nor
# those that speak HTTP.
if cargo tree -p mast3r -e normal --prefix none | grep -E '^(clap|clap_complete|clap_mangen|anyhow|indicatif|ctrlc|tracing-subscriber|sysinfo|humantime|inferno|ureq|rustls|native-tls|ring) '; then
    echo "the library depends on crates of the command line or of the hub" >&2
    exit 1
fi
# Without SQLite, which is C and would need a Mac's compiler.
RUSTFLAGS="-D warnings" step cargo check --release --target aarch64-apple-darwin --no-default-features --features metal
