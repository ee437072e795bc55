// Runs one of the kernels that come before this file on the CPU. On stdin:
//
//   u32 kernel; u32 blocks[3], threads, bytes of dynamic shared memory
//   u32 bytes of parameters, parameters
//   u32 tensor maps; for each: u32 dims[4], box[4], buffer
//   u32 buffers; for each: u64 bytes, u32 whether it is given, if so: bytes
//
// and buffer 0, the result, comes back on stdout. Every buffer is a block of its own of exactly its size.

#include "fibers.h"
#include "warpgroup.cuh"

std::vector<Memory> buffers;
std::vector<CUtensorMap> maps;
std::vector<char> parameters;

template <typename T> T *buffer(std::size_t i) { return reinterpret_cast<T *>(buffers.at(i).bytes); }

template <typename T> T parameter() {
    T value;
    if (parameters.size() != sizeof value) std::fprintf(stderr, "parameters of another size\n"), std::exit(1);
    std::memcpy(&value, parameters.data(), sizeof value);
    return value;
}

int main() {
    const unsigned kernel = need<unsigned>();
    unsigned blocks[3];
    if (!read(blocks, 3)) return 1;
    const unsigned threads = need<unsigned>();
    const unsigned shared = need<unsigned>();
    parameters.resize(need<unsigned>());
    if (!read(parameters.data(), parameters.size())) return 1;
    maps.resize(need<unsigned>());
    std::vector<unsigned> of_map;
    for (CUtensorMap &map : maps) {
        if (!read(map.dims, 4) || !read(map.box, 4)) return 1;
        of_map.push_back(need<unsigned>());
    }
    buffers.resize(need<unsigned>());
    for (Memory &memory : buffers) {
        memory = allocate(need<std::uint64_t>());
        if (need<unsigned>() && !read(memory.bytes, memory.size)) return 1;
    }
    for (std::size_t i = 0; i < maps.size(); i++) maps[i].numbers = buffers.at(of_map[i]).bytes;
    if (kernel >= std::size(KERNELS)) return 1;
    body = KERNELS[kernel];
    run_grid(blocks, threads, shared);
    std::fwrite(buffers.at(0).bytes, 1, buffers.at(0).size, stdout);
    return std::fflush(stdout) == 0 ? 0 : 1;
}
