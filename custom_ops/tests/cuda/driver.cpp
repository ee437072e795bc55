// Runs the kernels of reciprocal.cu on the CPU, which comes before this file. One search is on stdin:
//
//   u32 maps; for each: u64 bytes, bytes of its descriptors, and the same of its confidences
//   u32 bytes, the sizes: what follows the pointers of `Search`
//   u32 buffers; for each: u64 bytes, u32 begin (0 not a number, 1 zeros, 2 as given), if given: bytes
//   u32 launches; for each: u32 length, kernel's name; u32 blocks[3], threads; u32 numbers; numbers
//
// and the buffers come back on stdout. Every buffer is a block of its own of exactly its size, so that the address
// sanitizer sees an access beyond it.

#include <ucontext.h>

#include <cstdlib>
#include <deque>
#include <memory>
#include <string>

uint3 threadIdx, blockIdx, blockDim, gridDim;

// The address sanitizer goes through a whole stack at every turn.
constexpr std::size_t STACK = 1 << 15;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack = std::make_unique<char[]>(STACK);
    uint3 place;
    bool is_done;
    std::vector<Copy> copies;
};

// Those of the block that runs.
std::deque<Fiber> fibers;
std::deque<Warp> warps;
ucontext_t scheduler;
Fiber *current;
void (*body)();
unsigned waiting = 0, releases = 0;

Warp &warp() { return warps[threadIdx.x / 32]; }
std::vector<Copy> &copies() { return current->copies; }

void yield() {
    Fiber &mine = *current;
    swapcontext(&mine.context, &scheduler);
    threadIdx = mine.place;
}

void __syncthreads() {
    const unsigned release = releases;
    waiting++;
    while (releases == release) yield();
}

void begin() {
    body();
    current->is_done = true;
}

void run_block(unsigned threads) {
    warps.clear();
    warps.resize((threads + 31) / 32);
    fibers.resize(threads);
    waiting = 0;
    for (unsigned i = 0; i < threads; i++) {
        Fiber &fiber = fibers[i];
        fiber.place = {i, 0, 0};
        fiber.is_done = false;
        fiber.copies.clear();
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, begin, 0);
    }
    for (;;) {
        unsigned left = 0, occasions = 0;
        for (const Warp &w : warps) occasions += w.occasions;
        bool has_ended = false;
        // The last comes first: a kernel must not rely on an order.
        for (std::size_t i = fibers.size(); i-- > 0;) {
            Fiber &fiber = fibers[i];
            if (fiber.is_done) continue;
            current = &fiber;
            threadIdx = fiber.place;
            swapcontext(&scheduler, &fiber.context);
            has_ended |= fiber.is_done;
            left += !fiber.is_done;
        }
        if (left == 0) break;
        unsigned after = 0;
        for (const Warp &w : warps) after += w.occasions;
        if (waiting == left) {
            waiting = 0;
            releases++;
        } else if (!has_ended && after == occasions) {
            std::fprintf(stderr, "a deadlock: %u threads left, %u of them at a barrier\n", left, waiting), std::exit(1);
        }
    }
}

template <typename T> bool read(T *to, std::size_t count) { return std::fread(to, sizeof(T), count, stdin) == count; }

template <typename T> T need() {
    T value;
    if (!read(&value, 1)) std::fprintf(stderr, "the request ends early\n"), std::exit(1);
    return value;
}

struct Memory {
    char *bytes;
    std::size_t size;
};

Memory allocate(std::size_t size) {
    void *bytes = nullptr;
    if (posix_memalign(&bytes, 256, size)) std::exit(1);
    // Not a number: what is read before it is written is seen.
    std::memset(bytes, 0xff, size);
    return {static_cast<char *>(bytes), size};
}

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
        blockDim = {threads, 1, 1};
        gridDim = {blocks[0], blocks[1], blocks[2]};
        for (unsigned z = blocks[2]; z-- > 0;) {
            for (unsigned y = blocks[1]; y-- > 0;) {
                for (unsigned x = blocks[0]; x-- > 0;) {
                    blockIdx = {x, y, z};
                    run_block(threads);
                }
            }
        }
    }
    for (const Memory &memory : buffers) std::fwrite(memory.bytes, 1, memory.size, stdout);
    return std::fflush(stdout) == 0 ? 0 : 1;
}
