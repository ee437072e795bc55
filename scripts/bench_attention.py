#!/usr/bin/env python3
"""Times the attention kernels for Hopper GPUs beside PyTorch's, on the same tensors.

    python scripts/bench_attention.py --nvcc /usr/local/cuda/bin/nvcc

compiles `custom_ops/src/attention/*_sm90.cu`, launches them on PyTorch's CUDA tensors, checks each result
against PyTorch's and prints microseconds and TFLOP/s: medians of replays of a CUDA graph of many launches.
"""

import argparse
import ctypes
import math
import pathlib
import statistics
import subprocess
import tempfile

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SOURCES = pathlib.Path(__file__).parent.parent / "custom_ops/src"
SHAPES = ["2x768x16", "2x768x12", "2x1344x16", "2x1344x12", "8x973x12", "1x7784x12", "1x31136x12", "1x576x12"]
DIM, QUERIES, KEYS, THREADS = 64, 64, 128, 128
QUERY_BYTES, KEY_BYTES = 8192, 16384
# CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
MOST_SHARED = 8
# CU_TENSOR_MAP_DATA_TYPE_FLOAT16, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
DTYPES = {torch.float16: ("f16", 6), torch.bfloat16: ("bf16", 9)}
# Largest difference to PyTorch's result, of the largest value.
ALLOWED = 1e-2


class Driver:
    """The CUDA driver's functions, in PyTorch's context."""

    def __init__(self):
        self.cuda = ctypes.CDLL("libcuda.so.1")
        torch.zeros(1, device="cuda")

    def __getattr__(self, name):
        def call(*arguments):
            code = getattr(self.cuda, name)(*arguments)
            if code != 0:
                raise RuntimeError(f"{name}: CUDA error {code}")

        return call

    def function(self, cubin, name, shared):
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.cuModuleLoadData(ctypes.byref(module), ctypes.create_string_buffer(cubin))
        self.cuModuleGetFunction(ctypes.byref(function), module, name.encode())
        self.cuFuncSetAttribute(function, MOST_SHARED, shared)
        return function

    def launch(self, function, grid, threads, shared, arguments):
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self.cuLaunchKernel(function, *grid, threads, 1, 1, shared, stream, addresses, None)

    def boxes(self, tensor, tokens):
        """A CUtensorMap of `(batch, tokens, heads, 64)` and boxes of so many tokens."""
        memory = ctypes.create_string_buffer(256)
        start = -ctypes.addressof(memory) % 64
        tensor_map = (ctypes.c_char * 128).from_buffer(memory, start)
        batch, count, heads, _ = tensor.shape
        steps = [tensor.stride(axis) * tensor.element_size() for axis in (2, 1, 0)]
        self.cuTensorMapEncodeTiled(
            tensor_map, DTYPES[tensor.dtype][1], 4, ctypes.c_void_p(tensor.data_ptr()),
            (ctypes.c_uint64 * 4)(DIM, heads, count, batch), (ctypes.c_uint64 * 3)(*steps),
            (ctypes.c_uint32 * 4)(DIM, 1, tokens, 1), (ctypes.c_uint32 * 4)(1, 1, 1, 1), 0, 3, 3, 0,
        )
        return tensor_map


def parameters(*numbers):
    """The kernels' struct: whole numbers, then the scale."""
    scale = ctypes.c_uint32.from_buffer(ctypes.c_float(math.log2(math.e) / math.sqrt(DIM))).value
    return (ctypes.c_uint32 * (len(numbers) + 1))(*numbers, scale)


def together(driver, cubin, groups, q, k, v, out):
    """A launch of the kernel whose blocks have `groups` warpgroups with queries of their own."""
    batch, tokens, heads, _ = q.shape
    stages = 3 if groups == 2 else 2
    shared = groups * QUERY_BYTES + 2 * stages * KEY_BYTES
    function = driver.function(cubin, f"attention_sm90_{DTYPES[q.dtype][0]}_{groups}", shared)
    arguments = [driver.boxes(q, QUERIES), driver.boxes(k, KEYS), driver.boxes(v, KEYS),
                 ctypes.c_uint64(out.data_ptr()), parameters(tokens, k.shape[1], heads)]
    grid = (-(-tokens // (groups * QUERIES)), batch * heads, 1)
    return lambda: driver.launch(function, grid, (groups + 1) * THREADS, shared, arguments)


def split(driver, cubin, q, k, v, out):
    """A launch of the kernel whose blocks share 64 queries."""
    batch, tokens, heads, _ = q.shape
    shared = QUERY_BYTES + 8 * KEY_BYTES
    function = driver.function(cubin, f"attention_split_sm90_{DTYPES[q.dtype][0]}", shared)
    strides = [tensor.stride(axis) for tensor in (q, k, v) for axis in range(3)]
    arguments = [ctypes.c_uint64(tensor.data_ptr()) for tensor in (out, q, k, v)]
    arguments.append(parameters(tokens, k.shape[1], heads, *strides))
    grid = (-(-tokens // QUERIES), batch * heads, 1)
    return lambda: driver.launch(function, grid, 2 * THREADS, shared, arguments)


def milliseconds(work, launches):
    """Of one launch."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        work()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(launches):
                work()
    times = []
    for _ in range(8):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / launches)
    return statistics.median(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", default="nvcc", help="CUDA's compiler, 12 or newer")
    parser.add_argument("--precision", choices=["f16", "bf16"], default="bf16")
    parser.add_argument("--shape", nargs="+", default=SHAPES, metavar="BATCHxTOKENSxHEADS")
    args = parser.parse_args()
    dtype = next(dtype for dtype, (name, _) in DTYPES.items() if name == args.precision)
    driver, cubins = Driver(), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("attention_sm90", "attention_split_sm90"):
            output = pathlib.Path(folder) / f"{name}.cubin"
            source = SOURCES / "attention" / f"{name}.cu"
            subprocess.run([args.nvcc, "-cubin", "-O3", "-std=c++17", "-arch=sm_90a", f"-I{SOURCES / 'launch'}",
                            "-o", output, source], check=True)
            cubins[name] = output.read_bytes()
    print("| batch x tokens x heads | two warpgroups | three | split | cuDNN | FlashAttention |\n|---|--:|--:|--:|--:|--:|")
    for shape in args.shape:
        batch, tokens, heads = map(int, shape.split("x"))
        torch.manual_seed(0)
        qkv = torch.randn(batch, tokens, 3, heads, DIM, device="cuda", dtype=dtype)
        q, k, v = qkv.unbind(2)
        first = [tensor.transpose(1, 2) for tensor in (q, k, v)]
        theirs = lambda: torch.nn.functional.scaled_dot_product_attention(*first)
        want = theirs().transpose(1, 2).float()
        out = torch.zeros(batch, tokens, heads, DIM, device="cuda", dtype=dtype)
        tensor_operations = 4 * batch * heads * tokens * tokens * DIM
        launches, cells = 20 if tokens < 10_000 else 3, []

        def cell(work):
            took = milliseconds(work, launches)
            cells.append(f"{1e3 * took:.1f}, {tensor_operations / took / 1e9:.0f}")

        ours = [together(driver, cubins["attention_sm90"], groups, q, k, v, out) for groups in (2, 3)]
        ours.append(split(driver, cubins["attention_split_sm90"], q, k, v, out))
        for work in ours:
            out.zero_()
            work()
            error = ((out.float() - want).abs().max() / want.abs().max()).item()
            if not error <= ALLOWED:
                raise SystemExit(f"{shape}: {error:.1e} of the largest value off PyTorch's result")
            cell(work)
        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
            with sdpa_kernel(backend):
                cell(theirs)
        print(f"| {shape} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
