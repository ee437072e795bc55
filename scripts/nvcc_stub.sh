#!/bin/sh
# Stands for nvcc where Candle's own kernels are made, for scripts/check_cuda.sh: writes empty files.
# What else it is asked the real one answers.
out='' folder='' source='' previous=''
for argument; do
    case $previous in
        -o) out=$argument ;;
        --output-directory) folder=$argument ;;
    esac
    case $argument in
        *.cu) source=$argument ;;
    esac
    previous=$argument
done
[ -z "$folder" ] || out=$folder/$(basename "$source" .cu).ptx
[ -n "$out" ] || exec "${CUDA_HOME:+$CUDA_HOME/bin/}nvcc" "$@"
: > "$out"
