// The matrix units' instructions: copies into shared memory, 8x8 matrices of it, and products with sums in float32.
//
// A lane holds (row g, columns 2t and 2t + 1) of an 8x8 matrix, g = lane / 4 and t = lane % 4. A 16x16 operand is its
// upper left, lower left, upper right and lower right matrix; the columns of the other operand lie as rows in memory.

// The guard is a name, not `#pragma once`: the tests have a header of that name in this one's place.
#ifndef MATRIX_UNITS_CUH
#define MATRIX_UNITS_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

// A block's memory, as much of it as the launch says.
#define DYNAMIC_SHARED(NAME) extern __shared__ __align__(1024) char NAME[]

__device__ __forceinline__ unsigned shared_address(const void *pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// 16 bytes from global to shared memory, zeros where not `inside`.
__device__ __forceinline__ void copy_async(void *to, const void *from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)), "l"(from),
                 "r"(inside ? 16 : 0));
}

// Ends a group of copies; every thread that copies does.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;\n"); }

// Waits for all groups of this thread.
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_group 0;\n"); }

// Four 8x8 matrices whose rows start at the lanes' addresses, eight lanes a matrix.
__device__ __forceinline__ void load_matrices(uint32_t (&m)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(shared_address(row)));
}

// Two of them, by the addresses of the first sixteen lanes.
__device__ __forceinline__ void load_matrices(uint32_t (&m)[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(m[0]), "=r"(m[1])
                 : "r"(shared_address(row)));
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&m)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(shared_address(row)));
}

template <typename T>
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void multiply_add<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void multiply_add<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                                            uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same of a 16x8 by an 8x8 matrix in float16.
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[2], uint32_t b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b));
}

// A 16x8 by an 8x8 matrix of float32, which counts as TF32: (row g, column t), (row g + 8, column t), then t + 4.
__device__ __forceinline__ void multiply_add_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2^x, and 0 where that is less than the smallest normal number: one instruction.
__device__ __forceinline__ float power_of_two(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(power) : "f"(x));
    return power;
}

// Two neighbouring elements of an operand.
template <typename T> __device__ __forceinline__ uint32_t pair(float low, float high);

template <> __device__ __forceinline__ uint32_t pair<__half>(float low, float high) {
    const __half2 both = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&both);
}

template <> __device__ __forceinline__ uint32_t pair<__nv_bfloat16>(float low, float high) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&both);
}

#endif
