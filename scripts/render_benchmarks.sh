#!/usr/bin/env bash
# Puts docs/BENCHMARKS.md together from the reports in docs/benchmarks: scripts/render_benchmarks.sh [MAST3R]
set -euo pipefail
cd "$(dirname "$0")/../docs"
mast3r=${1:-../target/release/mast3r}

# section TITLE REPORT [ARGUMENTS]: the tables of a report, one level down.
section() {
    printf '## %s\n\n' "$1"
    "$mast3r" bench --show "$2" "${@:3}" --export-markdown - | sed 's/^## /### /'
    echo
}

# rows TITLE REPORT: every row of a report, and nothing else.
rows() {
    printf '## %s\n\n' "$1"
    "$mast3r" bench --show "$2" --export-markdown - | sed -n '/^## mast3r bench on/,$p' | sed 's/^## /### /'
    echo
}

{
    cat benchmarks/intro.md
    section "An NVIDIA H200 with captured graphs, 2026-11-29" benchmarks/h200_graphs.json \
        --against benchmarks/h200_graphs_torch.json
    for machine in cpu h200; do
        title=$([ $machine = cpu ] && echo "A CPU, two threads" || echo "An NVIDIA H200, 2026-11-25: without graphs")
        section "$title" benchmarks/$machine.json --against benchmarks/${machine}_torch.json
        for profile in benchmarks/${machine}_profile_*.md; do
            precision=$(basename "$profile" .md)
            sed "s/^## /#### /; s/^# .*/&, ${precision##*_}/; s/^# /### /" "$profile"
            echo
        done
    done
    rows "Matching on the H200" benchmarks/h200_match.json
} > BENCHMARKS.md
