// Runs the kernels of one shader on the CPU, thread by thread.
//
// The shader comes before this file and `KERNELS`, the list of its kernels by name, after it. Each request on stdin is
//
//   u32 length, kernel's name; u32 groups[3], threads[3]; u32 buffers; for each: u32 role, u64 offset, u64 bytes, bytes
//
// with role 0 for a buffer that is read, 1 for one that is written, 2 for parameters and 3 for one that is changed. A
// written buffer holds no bytes in the request; written and changed ones come back on stdout. Every buffer is a block of
// its own of exactly its size, so that the address sanitizer sees an access beyond it; offsets are in bytes, as
// `setBuffer` takes them. `IN_STEP` before this file says whether lanes of a SIMD group meet.

// The standard library uses these words for other things.
#undef device
#undef constant
#undef thread

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "simd.h"

struct Buffer {
    uint role;
    std::uint64_t offset;
    std::uint64_t size;
    char *bytes;
    // Of what is only read.
    std::vector<char> before;
};

struct Threads {
    metal::uint3 position, groups;
};

// Buffers in the order of their indices, then the thread's position, then the number of threadgroups.
struct Arguments {
    std::vector<Buffer> &buffers;
    const Threads &threads;
    std::size_t next = 0, grids = 0;

    Buffer &buffer() {
        if (next >= buffers.size()) std::fprintf(stderr, "buffer %zu is not bound\n", next), std::exit(1);
        return buffers[next++];
    }

    template <typename A> A get() {
        if constexpr (std::is_same_v<A, metal::uint3>) {
            return grids++ == 0 ? threads.position : threads.groups;
        } else if constexpr (std::is_reference_v<A>) {
            Buffer &block = buffer();
            if (block.role != 2 || block.size != sizeof(std::remove_reference_t<A>)) {
                std::fprintf(stderr, "buffer %zu is no parameter block of %zu bytes\n", next - 1,
                             sizeof(std::remove_reference_t<A>));
                std::exit(1);
            }
            return *reinterpret_cast<std::remove_reference_t<A> *>(block.bytes);
        } else {
            static_assert(std::is_pointer_v<A>, "a kernel takes buffers, parameters and its place");
            constexpr bool written = !std::is_const_v<std::remove_pointer_t<A>>;
            Buffer &block = buffer();
            if (written ? block.role != 1 && block.role != 3 : block.role != 0) {
                std::fprintf(stderr, "buffer %zu is bound the wrong way\n", next - 1), std::exit(1);
            }
            return reinterpret_cast<A>(block.bytes + block.offset);
        }
    }
};

template <typename... A> void run(void (*kernel)(A...), std::vector<Buffer> &buffers, const Threads &threads) {
    Arguments arguments{buffers, threads};
    std::tuple<A...> values{arguments.get<A>()...};
    if (arguments.next != buffers.size()) std::fprintf(stderr, "%zu buffers are too many\n", buffers.size()), std::exit(1);
    std::apply(kernel, values);
}

struct Kernel {
    const char *name;
    void (*run)(std::vector<Buffer> &, const Threads &);
};

extern const std::vector<Kernel> KERNELS;

template <typename T> bool read(T *to, std::size_t count) { return std::fread(to, sizeof(T), count, stdin) == count; }

template <typename T> T need() {
    T value;
    if (!read(&value, 1)) std::fprintf(stderr, "the request ends early\n"), std::exit(1);
    return value;
}

int main() {
    for (uint length; read(&length, 1);) {
        std::string name(length, ' ');
        uint groups[3], threads[3];
        if (!read(name.data(), length) || !read(groups, 3) || !read(threads, 3)) return 1;
        const Kernel *kernel = nullptr;
        for (const Kernel &each : KERNELS) {
            if (name == each.name) kernel = &each;
        }
        if (!kernel) std::fprintf(stderr, "no kernel %s\n", name.c_str()), std::exit(1);

        std::vector<Buffer> buffers(need<uint>());
        for (Buffer &buffer : buffers) {
            buffer.role = need<uint>();
            buffer.offset = need<std::uint64_t>();
            buffer.size = need<std::uint64_t>();
            void *bytes = nullptr;
            if (posix_memalign(&bytes, 256, buffer.size)) return 1;
            buffer.bytes = static_cast<char *>(bytes);
            if (buffer.role == 1) {
                // Not a number in every dtype: what is not written is seen.
                std::memset(buffer.bytes, 0xff, buffer.size);
            } else {
                if (!read(buffer.bytes, buffer.size)) return 1;
                if (buffer.role != 3) buffer.before.assign(buffer.bytes, buffer.bytes + buffer.size);
            }
        }

        // All threads of all threadgroups, those beyond the last element included; a kernel must not rely on an order,
        // so the last comes first.
        const uint all[3] = {groups[0] * threads[0], groups[1] * threads[1], groups[2] * threads[2]};
        for (uint z = all[2]; z-- > 0;) {
            for (uint y = all[1]; y-- > 0;) {
                const auto run = [&](uint x) {
                    kernel->run(buffers, Threads{{x, y, z}, {groups[0], groups[1], groups[2]}});
                };
                if (IN_STEP) {
                    if (threads[0] % LANES_IN_STEP != 0) {
                        std::fprintf(stderr, "%s: threadgroups of %u threads\n", name.c_str(), threads[0]), std::exit(1);
                    }
                    for (uint x = all[0]; x > 0; x -= LANES_IN_STEP) {
                        run_in_step([&](uint lane) { run(x - LANES_IN_STEP + lane); });
                    }
                } else {
                    for (uint x = all[0]; x-- > 0;) run(x);
                }
            }
        }

        for (Buffer &buffer : buffers) {
            if (buffer.role == 1 || buffer.role == 3) {
                std::fwrite(buffer.bytes, 1, buffer.size, stdout);
            } else if (std::memcmp(buffer.bytes, buffer.before.data(), buffer.size) != 0) {
                std::fprintf(stderr, "%s wrote to what it reads\n", name.c_str()), std::exit(1);
            }
            std::free(buffer.bytes);
        }
    }
    return std::fflush(stdout) == 0 ? 0 : 1;
}
