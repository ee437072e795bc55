#!/usr/bin/env bash
# Packs every crate as for crates.io, and checks that none is larger than the 10 MB it may have.
#
#   scripts/check_packages.sh [OPTION OF cargo package ...]     # --allow-dirty
set -euo pipefail
cd "$(dirname "$0")/.."

cargo package --workspace --locked --no-verify --quiet "$@"
folder=$(cargo metadata --locked --no-deps --format-version 1 |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/package
failed=0
for crate in "$folder"/*.crate; do
    bytes=$(wc -c < "$crate")
    printf '%-40s %6d kB\n' "$(basename "$crate")" $((bytes / 1000))
    if [ "$bytes" -gt 10000000 ]; then
        echo "$(basename "$crate") is too large for crates.io" >&2
        failed=1
    fi
done
exit $failed
