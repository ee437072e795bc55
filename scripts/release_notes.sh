#!/usr/bin/env bash
# Prints the changelog of one version: scripts/release_notes.sh 0.1.0. Fails if there is none, or if
# Cargo.toml has another version.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:?version}
have=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
[ "$have" = "$version" ] || { echo "Cargo.toml has version $have, not $version" >&2; exit 1; }
notes=$(awk -v version="$version" '/^## /{ on = index($2, "[" version "]") == 1; next } on' CHANGELOG.md)
[ -n "$notes" ] || { echo "CHANGELOG.md has no version $version" >&2; exit 1; }
printf '%s\n' "$notes"
