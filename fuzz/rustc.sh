#!/bin/sh
# A compiler for Cargo that makes the crates below report to libFuzzer what they run and compare: those that read bytes. All
# of these options are stable, and they are what cargo-fuzz passes. Cargo does not notice when this file changes.
rustc=$1
shift
name=
previous=
for argument; do
    [ "$previous" != --crate-name ] || name=$argument
    previous=$argument
done
case $name in
fuzz | mast3r | fax | fdeflate | flate2 | image | image_webp | miniz_oxide | png | safetensors | serde_json | weezl)
    exec "$rustc" "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec "$rustc" "$@"
