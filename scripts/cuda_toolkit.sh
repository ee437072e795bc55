#!/usr/bin/env bash
# Installs a CUDA toolkit from NVIDIA's Python wheels (Linux), for machines without one, and prints
# the variables that a build needs:
#
#   eval "$(scripts/cuda_toolkit.sh)"             # 700 MB: builds the program
#   eval "$(scripts/cuda_toolkit.sh --check)"     # 120 MB: cargo check and clippy, which do not link
#
# No GPU is needed. libcuda.so is a stub to link with: the program runs where a driver is. The
# toolkit goes to CUDA_WHEELS, ~/.cache/mast3r-cuda if not set.
set -euo pipefail
cd "$(dirname "$0")"

root=${CUDA_WHEELS:-${XDG_CACHE_HOME:-$HOME/.cache}/mast3r-cuda}
home=$root/nvidia/cu13
requirements=$PWD/requirements-cuda.txt
mark=$home/.complete
if [ "${1:-}" = --check ]; then
    requirements=$(mktemp)
    trap 'rm -f "$requirements"' EXIT
    sed '/^# Only to link/,$d' requirements-cuda.txt > "$requirements"
    mark=$home/.checks
fi

if [ ! -e "$mark" ] && [ ! -e "$home/.complete" ]; then
    mkdir -p "$root"
    python3 -m pip install --quiet --no-deps --upgrade --target "$root" --requirement "$requirements" >&2
    chmod +x "$home"/bin/* "$home"/nvvm/bin/*
    ln -sfn lib "$home/lib64"
    # Wheels lack the names without a version, by which libraries are linked.
    for library in "$home"/lib/lib*.so.*; do
        ln -sf "$(basename "$library")" "${library%%.so.*}.so"
    done
    # The driver's library is on no wheel: a stub with every name that its header has.
    grep -ohE '\bcu[A-Z][A-Za-z0-9_]+' "$home/include/cuda.h" | sort -u | sed 's/.*/void &(void) {}/' > "$root/stub.c"
    cc -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$home/lib/libcuda.so" "$root/stub.c" >&2
    touch "$mark"
fi

cat << SETTINGS
export CUDA_HOME='$home' CUDA_PATH='$home' CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}
export PATH='$home/bin':"\$PATH" LIBRARY_PATH='$home/lib'\${LIBRARY_PATH:+:\$LIBRARY_PATH}
SETTINGS
