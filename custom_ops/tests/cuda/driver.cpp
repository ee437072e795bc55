// Runs the kernels of reciprocal.cu on the CPU, which comes before this file. One search is on stdin:
//
//   u32 maps; for each: u64 bytes, bytes of its descriptors, and the same of its confidences
//   u32 bytes, the sizes: what follows the pointers of `Search`
//   u32 buffers; for each: u64 bytes, u32 begin (0 not a number, 1 zeros, 2 as given), if given: bytes
//   u32 launches; for each: u32 length, kernel's name; u32 blocks[3], threads; u32 numbers; numbers
//
// and the buffers come back on stdout. Every buffer is a block of its own of exactly its size, so that the address
// sanitizer sees an access beyond it.

#include "fibers.h"

// What the kernel that runs is given.
Search search;
unsigned numbers[2];

struct Kernel {
    const char *name;
    unsigned numbers;
    void (*run)();
};

const Kernel KERNELS[] = {
    {"reciprocal_mean", 0, [] { reciprocal_mean(search); }},
    {"reciprocal_code", 0, [] { reciprocal_code(search); }},
    {"reciprocal_step", 1, [] { reciprocal_step(search, numbers[0]); }},
    {"reciprocal_maxima", 2, [] { reciprocal_maxima(search, numbers[0], numbers[1]); }},
    {"reciprocal_decide", 2, [] { reciprocal_decide(search, numbers[0], numbers[1]); }},
};

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
    if (offsetof(Search, means) + buffers.size() * sizeof(void *) != pointers) {
        std::fprintf(stderr, "the host's buffers are not the kernels'\n");
        return 1;
    }
    for (std::size_t i = 0; i < buffers.size(); i++) {
        buffers[i] = allocate(need<std::uint64_t>());
        const unsigned begin = need<unsigned>();
        if (begin == 1) std::memset(buffers[i].bytes, 0, buffers[i].size);
        if (begin == 2 && !read(buffers[i].bytes, buffers[i].size)) return 1;
        std::memcpy(reinterpret_cast<char *>(&search) + offsetof(Search, means) + i * sizeof(void *), &buffers[i].bytes,
                    sizeof(void *));
    }

    for (unsigned left = need<unsigned>(); left > 0; left--) {
        std::string name(need<unsigned>(), ' ');
        if (!read(name.data(), name.size())) return 1;
        unsigned blocks[3];
        if (!read(blocks, 3)) return 1;
        const unsigned threads = need<unsigned>(), count = need<unsigned>();
        const Kernel *kernel = nullptr;
        for (const Kernel &each : KERNELS) {
            if (name == each.name) kernel = &each;
        }
        if (!kernel || kernel->numbers != count || !read(numbers, count)) {
            std::fprintf(stderr, "no kernel %s of %u numbers\n", name.c_str(), count);
            return 1;
        }
        body = kernel->run;
        run_grid(blocks, threads);
    }
    for (const Memory &memory : buffers) std::fwrite(memory.bytes, 1, memory.size, stdout);
    return std::fflush(stdout) == 0 ? 0 : 1;
}
