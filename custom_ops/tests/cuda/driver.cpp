// Runs the kernel of reciprocal.cu on the CPU, which comes before this file. One search is on stdin:
//
//   u32 maps; for each: u64 bytes, bytes of its descriptors, and the same of its confidences
//   u32 bytes, the sizes: what follows the pointers of `Search`
//   u32 buffers; for each: u64 bytes, u32 begin (0 not a number, 1 zeros, 2 as given), if given: bytes
//   u32 blocks, threads, bytes of shared memory
//
// and the buffers come back on stdout. Every buffer is a block of its own of exactly its size, so that the address
// sanitizer sees an access beyond it.

#include "fibers.h"

// What the kernel is given.
Search search;

int main() {
    const unsigned maps = need<unsigned>();
    for (unsigned map = 0; map < maps; map++) {
        for (const float **pointer : {&search.descriptors[map], &search.confidences[map]}) {
            const Memory memory = allocate(need<std::uint64_t>());
            if (!read(memory.bytes, memory.size)) return 1;
            *pointer = reinterpret_cast<const float *>(memory.bytes);
        }
    }
    const std::size_t pointers = offsetof(Search, widths);
    if (need<unsigned>() != offsetof(Search, halves) + sizeof(unsigned) - pointers) {
        std::fprintf(stderr, "the host's sizes are not the kernels'\n");
        return 1;
    }
    if (!read(reinterpret_cast<char *>(&search) + pointers, offsetof(Search, halves) + sizeof(unsigned) - pointers)) return 1;

    std::vector<Memory> buffers(need<unsigned>());
    if (offsetof(Search, coded) + buffers.size() * sizeof(void *) != pointers) {
        std::fprintf(stderr, "the host's buffers are not the kernels'\n");
        return 1;
    }
    for (std::size_t i = 0; i < buffers.size(); i++) {
        buffers[i] = allocate(need<std::uint64_t>());
        const unsigned begin = need<unsigned>();
        if (begin == 1) std::memset(buffers[i].bytes, 0, buffers[i].size);
        if (begin == 2 && !read(buffers[i].bytes, buffers[i].size)) return 1;
        std::memcpy(reinterpret_cast<char *>(&search) + offsetof(Search, coded) + i * sizeof(void *), &buffers[i].bytes,
                    sizeof(void *));
    }

    const unsigned blocks[3] = {need<unsigned>(), 1, 1};
    const unsigned threads = need<unsigned>();
    const unsigned shared = need<unsigned>();
    body = [] { reciprocal_walks(search); };
    run_grid(blocks, threads, shared, true);
    for (const Memory &memory : buffers) std::fwrite(memory.bytes, 1, memory.size, stdout);
    return std::fflush(stdout) == 0 ? 0 : 1;
}
