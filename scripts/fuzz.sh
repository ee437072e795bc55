#!/usr/bin/env bash
# Fuzzes what reads files of other people, and fails if that finds something. See docs/fuzzing.md.
#
#   scripts/fuzz.sh MINUTES [TARGET...]            shares MINUTES among the targets, all of them by default
#   scripts/fuzz.sh --seconds SECONDS [TARGET...]  gives SECONDS to each
#
# Findings are kept in fuzz/findings, and what reaches new code in fuzz/corpus, where later runs go on from.
set -euo pipefail
cd "$(dirname "$0")/.."

jobs=$(nproc)

# The versions that the program itself is built with, and libFuzzer's beside them.
[ fuzz/Cargo.lock -nt Cargo.lock ] || cp Cargo.lock fuzz/Cargo.lock
if [ "${FUZZ_SANITIZER:-}" = address ]; then
    host=$(rustc -vV | sed -n 's/^host: //p')
    binary=fuzz/target/$host/release/fuzz
    # With a target named, build scripts and macros are left alone.
    RUSTFLAGS="-Zsanitizer=address" RUSTC_WRAPPER=$PWD/fuzz/rustc.sh \
        cargo +nightly build --release --target "$host" --manifest-path fuzz/Cargo.toml
else
    binary=fuzz/target/release/fuzz
    RUSTC_WRAPPER=$PWD/fuzz/rustc.sh cargo build --release --manifest-path fuzz/Cargo.toml
fi
[ "${1:-}" != build ] || exit 0

mapfile -t targets < <(FUZZ_TARGET=list "$binary" 2> /dev/null)
if [ "${1:-}" = --seconds ]; then
    seconds=${2:?"--seconds needs a number"}
    shift 2
    [ $# = 0 ] || targets=("$@")
else
    minutes=${1:?"name the minutes; see the first lines of this script"}
    shift
    [ $# = 0 ] || targets=("$@")
    seconds=$((minutes * 60 * jobs / ${#targets[@]}))
fi

logs=$(mktemp -d)
# Files of a run lie in memory where there is such a folder.
scratch=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
trap 'rm -rf "$logs" "$scratch"' EXIT

# Runs one target, with its times behind its log.
one() {
    target=$1
    mkdir -p "fuzz/corpus/$target" "fuzz/findings/$target" "$scratch/$target"
    dictionary=fuzz/dictionaries/$target.dict
    export FUZZ_TARGET=$target TMPDIR=$scratch/$target RAYON_NUM_THREADS=1 RUST_BACKTRACE=1
    TIMEFORMAT="CPU: %U %S"
    { time "$binary" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=1024 -max_len=40000 -print_final_stats=1 \
        -artifact_prefix="fuzz/findings/$target/" ${dictionary:+-dict="$dictionary"} \
        "fuzz/corpus/$target" "fuzz/seeds/$target"; } > "$logs/$target" 2>&1 || echo FAILED >> "$logs/$target"
}
export -f one
export seconds binary scratch logs
printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I{} bash -c 'one {}'

failed=0
printf '%-16s %8s %12s %9s %8s  %s\n' target CPU executions coverage corpus finding
for target in "${targets[@]}"; do
    log=$logs/$target
    cpu=$(awk '/^CPU: /{printf "%.0f s", $2 + $3}' "$log")
    executions=$(awk '/^stat::number_of_executed_units:/{print $2}' "$log")
    coverage=$(grep -o ' cov: [0-9]*' "$log" | tail -1 | grep -o '[0-9]*')
    corpus=$(grep -o ' corp: [0-9]*' "$log" | tail -1 | grep -o '[0-9]*')
    finding=none
    if grep -q '^FAILED$' "$log"; then
        failed=1
        finding=$(grep -om1 -E '^(PANIC|MEMORY): .*|ERROR: libFuzzer: .*' "$log" || echo "the fuzzer did not start")
    fi
    printf '%-16s %8s %12s %9s %8s  %s\n' "$target" "$cpu" "${executions:-?}" "${coverage:-?}" "${corpus:-?}" "$finding"
    if [ "$finding" != none ]; then
        grep -E '^(PANIC|MEMORY): |panicked at|Test unit written to|No such file' -A1 "$log" | sed 's/^/    /' | head -20
    fi
done
exit $failed
