// Reciprocal nearest neighbours among the descriptors of two images: seeds walk to their nearest neighbour in the
// other image and back until they stay where they are. All walks of a pair of images, from seeds on either image
// and in every decode, advance together by half a trip in one launch, and the host hears of them at the end.
//
// The nearest neighbour has the largest dot product, a float32 sum of products in channel order, and is the earliest
// pixel where several are equal. Few of these sums are made: the matrix units give all products of a query with an
// image in 8-bit integers, of which the largest of every block of 256 pixels is kept. By Cauchy-Schwarz what rounding to
// integers took from a query and from a block's pixels bounds the error; in blocks that the bound does not rule out
// every pixel's product is taken again, and only pixels that it does not rule out are scored in float32.
//
// A map is one image's descriptors in one decode. Walkers belong to the map that their seeds are pixels of, lists and
// queries to the map that the queries are pixels of; its partner, the map of the same decode with the lowest bit of the
// number flipped, is searched.

#include "grid.cuh"
#include "matrix_units.cuh"

// Of a descriptor, at most.
constexpr unsigned CHANNELS = 24;
// Codes of a descriptor, the last ones zero: as many as the matrix units multiply at once.
constexpr unsigned CODES = 32, WORDS = CODES / 4;
// The largest code, and less than any sum of products of codes.
constexpr float MOST = 127.f;
constexpr int LEAST = -0x7fffffff;
// Pixels are taken in tiles of 8x8, row by row, and four tiles are a block: near pixels are alike, and what is alike
// should be looked at together.
constexpr unsigned SIDE = 8, TILE = SIDE * SIDE, BLOCK = 4 * TILE;
// Rows of the matrix units' left operand.
constexpr unsigned ROWS = 16;
// Of a thread block, which has a thread for each pixel of a block.
constexpr unsigned THREADS = BLOCK, WARPS = THREADS / 32;
// Left operands of a warp, and queries that a thread block compares with a block at once.
constexpr unsigned TILES = 2, GROUP = TILES * WARPS * ROWS;
// 16-byte pieces of a block's codes: of every eight pixels the first sixteen codes, then the others.
constexpr unsigned PIECES = BLOCK * CODES / 16;
// Blocks that are compared one after the other, and those that a warp looks at for a query.
constexpr unsigned RUN = 4, LOOK = 32 * RUN;
// Pixels of whose descriptors the mean is taken: any vector serves, a near one makes the rounding errors small.
constexpr unsigned SAMPLES = 256;
constexpr unsigned ALL_LANES = 0xffffffff;

constexpr unsigned STATISTICS = 3;

// A walker's state.
constexpr unsigned MOVING = 0, SETTLED = 1;
// No pixel.
constexpr unsigned NOWHERE = 0xffffffff;

// Covers the rounding of lengths.
constexpr float SLACK = 1.0001f;
// Of the product of two lengths: covers the rounding of float32 scores and of coded products.
constexpr float ROUNDING = (CHANNELS + 8) / 4194304.f;

struct Walker {
    unsigned here, there, state;
    // Of the two pixels, once it is settled.
    float confidence, partner_confidence;
};

// The descriptor of a query: what a code stands for, the length, and what rounding took.
struct alignas(16) Asked {
    float scale, length, residual;
};

// A walker's question: which pixel is nearest to the one where it is?
struct alignas(16) Query {
    Asked asked;
    // The nearest neighbour so far: its score, `ordered`, and below it the complement of its pixel.
    unsigned long long found;
    // Blocks that may hold it, and those of them whose pixels were scored.
    unsigned possible, scored;
    // What the largest product comes to at least, as `ordered`.
    unsigned reached;
    unsigned walker, pixel;
};

// The descriptors of a block: what a code stands for, the most that rounding took from one, and the longest rounded one.
struct alignas(16) Bounds {
    float scale, residual, length;
};

// What `find_maxima` has in shared memory: a run of blocks, the next one, and a group's queries.
struct Comparing {
    uint4 codes[2][RUN][PIECES];
    Bounds bounds[2][RUN];
    Asked asked[GROUP];
};

struct Search {
    // Of each map: (height, width, channels).
    const float *descriptors[4];
    // Of each map: (height, width).
    const float *confidences[4];
    // (maps, blocks, PIECES): codes of descriptors less the mean.
    uint4 *coded;
    // (maps, blocks)
    Bounds *bounds;
    // (maps, STATISTICS): the largest square of a length, as bits; descriptors of no usable length; confidences that are
    // not finite.
    unsigned *statistics;
    // (this half and the next, maps, seeds)
    Query *queries;
    // (this half and the next, maps, seeds / ROWS, lanes): their codes, as left operands.
    uint4 *lefts;
    // (half trips, maps): how many queries there are; then how many blocks are possible, and how many thread blocks have
    // come to the grid's barrier.
    unsigned *counts;
    // (maps, rows, blocks): each query's largest coded products.
    int *maxima;
    // Of them those that may be the nearest neighbour's, by their index.
    unsigned *possible;
    // (maps, seeds)
    Walker *walkers;
    // (images, seeds): where walks begin.
    const unsigned *starts;
    // Of the two images.
    unsigned widths[2], heights[2], blocks[2], seeds[2];
    // Of a descriptor.
    unsigned channels;
    unsigned maps;
    // From one map to the next: in whatever has blocks, a multiple of RUN; in queries and walkers, one of GROUP.
    unsigned block_stride, seed_stride;
    // Queries that are answered together, a multiple of GROUP.
    unsigned rows;
    // Half trips.
    unsigned halves;
};
static_assert(sizeof(Search) == 200, "as the host has it");

__device__ __forceinline__ float largest_of_warp(float x) {
    for (unsigned step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

__device__ __forceinline__ float sum_of_warp(float x) {
    for (unsigned step = 16; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

// Bits in the order of the numbers, none of them zero.
__device__ __forceinline__ unsigned ordered(float x) {
    const unsigned bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000;
}

__device__ __forceinline__ float number_of(unsigned ordered) {
    return __uint_as_float(ordered >> 31 ? ordered & 0x7fffffff : ~ordered);
}

// The code of a number whose scale is the inverse of `inverse`; some code of what is not a number.
__device__ __forceinline__ int code_of(float x, float inverse) {
    return int(rintf(fminf(fmaxf(x * inverse, -MOST), MOST)));
}

// By which numbers of at most `most` are multiplied for their codes.
__device__ __forceinline__ float inverse_of(float most) { return most > 0.f ? MOST / most : 0.f; }

// Four codes as one word.
__device__ __forceinline__ unsigned word_of(const int (&codes)[4]) {
    return (codes[0] & 0xff) | (codes[1] & 0xff) << 8 | (codes[2] & 0xff) << 16 | unsigned(codes[3]) << 24;
}

// The pixel at a place in the order of blocks; places beyond the image repeat its last column, row or tile.
__device__ __forceinline__ unsigned pixel_at(const Search &s, unsigned image, unsigned place) {
    const unsigned width = s.widths[image], height = s.heights[image];
    const unsigned columns = (width + SIDE - 1) / SIDE, tiles = columns * ((height + SIDE - 1) / SIDE);
    const unsigned tile = min(place / TILE, tiles - 1), lane = place % TILE;
    const unsigned x = min(tile % columns * SIDE + lane % SIDE, width - 1);
    const unsigned y = min(tile / columns * SIDE + lane / SIDE, height - 1);
    return y * width + x;
}

// The first place of a pixel.
__device__ __forceinline__ unsigned place_of(const Search &s, unsigned image, unsigned pixel) {
    const unsigned width = s.widths[image], x = pixel % width, y = pixel / width;
    const unsigned columns = (width + SIDE - 1) / SIDE;
    return (y / SIDE * columns + x / SIDE) * TILE + y % SIDE * SIDE + x % SIDE;
}

// Of a thread among all: its warp, and how many there are.
__device__ __forceinline__ unsigned warp_in_grid() { return (blockIdx.x * THREADS + threadIdx.x) / 32; }
__device__ __forceinline__ unsigned warps_of_grid() { return gridDim.x * WARPS; }

// What `code_maps` has in shared memory.
struct Coding {
    // Of each map and channel: sums of some samples, of which the first become the means.
    float sums[4][WARPS][CHANNELS];
    float of_warps[4][WARPS];
};

// The descriptor of a pixel, zeros beyond its channels.
__device__ __forceinline__ void load_descriptor(float (&to)[CHANNELS], const Search &s, unsigned map, unsigned pixel) {
    const float *from = s.descriptors[map] + size_t(pixel) * s.channels;
    if (s.channels == CHANNELS && reinterpret_cast<uintptr_t>(from) % sizeof(float4) == 0) {
#pragma unroll
        for (unsigned i = 0; i < CHANNELS; i += 4) {
            const float4 four = *reinterpret_cast<const float4 *>(from + i);
            to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < CHANNELS; i++) to[i] = i < s.channels ? from[i] : 0.f;
    }
}

// One block of a map, a thread a pixel with its descriptor: the codes of the descriptors, and what bounds them.
__device__ __forceinline__ void code_block(const Search &s, unsigned map, unsigned block, unsigned pixel,
                                           float (&centred)[CHANNELS], Coding &shared) {
    const unsigned image = map % 2, place = threadIdx.x;
    const float *mean = shared.sums[map][0];
    float square = 0.f, most = 0.f;
#pragma unroll
    for (unsigned channel = 0; channel < CHANNELS; channel++) {
        square += centred[channel] * centred[channel];
        centred[channel] -= mean[channel];
        most = fmaxf(most, fabsf(centred[channel]));
    }
    const auto keep = [&](unsigned which, float x) {
        x = largest_of_warp(x);
        if (place % 32 == 0) shared.of_warps[which][place / 32] = x;
    };
    const auto largest = [&](unsigned which) {
        float x = 0.f;
        for (unsigned warp = 0; warp < WARPS; warp++) x = fmaxf(x, shared.of_warps[which][warp]);
        return x;
    };
    keep(0, most);
    __syncthreads();
    most = largest(0);
    const float inverse = inverse_of(most), scale = most / MOST;
    unsigned words[WORDS] = {};
    float residual = 0.f, length = 0.f;
#pragma unroll
    for (unsigned word = 0; word < CHANNELS / 4; word++) {
        int codes[4];
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            const float x = centred[4 * word + i];
            codes[i] = code_of(x, inverse);
            const float rounded = codes[i] * scale;
            residual += (x - rounded) * (x - rounded);
            length += rounded * rounded;
        }
        words[word] = word_of(codes);
    }
    uint4 *pieces = s.coded + (size_t(map) * s.block_stride + block) * PIECES + place / 8 * 16 + place % 8;
    pieces[0] = make_uint4(words[0], words[1], words[2], words[3]);
    pieces[8] = make_uint4(words[4], words[5], words[6], words[7]);

    unsigned *statistics = s.statistics + STATISTICS * map;
    // Not a number is not usable either. What is repeated counts once.
    const bool is_usable = square >= 1e-6f && square <= 1e6f, is_known = isfinite(s.confidences[map][pixel]);
    if (!(is_usable && is_known) && place_of(s, image, pixel) == block * BLOCK + place) {
        if (!is_usable) atomicAdd(&statistics[1], 1u);
        if (!is_known) atomicAdd(&statistics[2], 1u);
    }
    keep(1, sqrtf(residual));
    keep(2, sqrtf(length));
    keep(3, square);
    __syncthreads();
    if (place > 0) return;
    s.bounds[map * s.block_stride + block] = {scale, largest(1) * SLACK, largest(2) * SLACK};
    atomicMax(&statistics[0], __float_as_uint(largest(3)));
}

// All blocks of all maps.
__device__ __forceinline__ void code_maps(const Search &s, Coding &shared) {
    const unsigned channel = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (unsigned map = 0; map < s.maps; map++) {
        const unsigned pixels = s.widths[map % 2] * s.heights[map % 2], samples = min(pixels, SAMPLES);
        float sum = 0.f;
        if (channel < s.channels) {
#pragma unroll 8
            for (unsigned sample = warp; sample < samples; sample += WARPS) {
                sum += s.descriptors[map][size_t(sample * (pixels / samples)) * s.channels + channel];
            }
        }
        if (channel < CHANNELS) shared.sums[map][warp][channel] = sum / samples;
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < s.maps * CHANNELS; i += THREADS) {
        float *sums = &shared.sums[i / CHANNELS][0][i % CHANNELS];
        for (unsigned other = 1; other < WARPS; other++) sums[0] += sums[other * CHANNELS];
    }
    __syncthreads();
    // The next block's descriptors are on their way meanwhile.
    const unsigned all = s.maps / 2 * (s.blocks[0] + s.blocks[1]);
    float descriptor[CHANNELS], next[CHANNELS];
    unsigned map, block, pixel, next_map = 0, next_block = 0, next_pixel = 0;
    const auto load = [&](unsigned item) {
        if (item >= all) return;
        const unsigned in_decode = item % (s.blocks[0] + s.blocks[1]), image = in_decode >= s.blocks[0];
        next_map = item / (s.blocks[0] + s.blocks[1]) * 2 + image, next_block = in_decode - image * s.blocks[0];
        next_pixel = pixel_at(s, image, next_block * BLOCK + threadIdx.x);
        load_descriptor(next, s, next_map, next_pixel);
    };
    load(blockIdx.x);
    for (unsigned item = blockIdx.x; item < all; item += gridDim.x) {
        map = next_map, block = next_block, pixel = next_pixel;
#pragma unroll
        for (unsigned channel = 0; channel < CHANNELS; channel++) descriptor[channel] = next[channel];
        load(item + gridDim.x);
        code_block(s, map, block, pixel, descriptor, shared);
    }
    // Nobody is at the means any more.
    __syncthreads();
}

// Asks for the nearest neighbour of pixel `pixel` of map `map` in half trip `half`, by a warp.
__device__ __forceinline__ void ask(const Search &s, unsigned half, unsigned map, unsigned row, unsigned walker,
                                    unsigned pixel) {
    const unsigned lane = threadIdx.x % 32;
    const size_t index = size_t(half % 2 * s.maps + map) * s.seed_stride + row;
    // A number a lane.
    const float x = lane < s.channels ? s.descriptors[map][size_t(pixel) * s.channels + lane] : 0.f;
    const float most = largest_of_warp(fabsf(x)), scale = most / MOST;
    const int code = code_of(x, inverse_of(most));
    // Lane 4 g + t has codes 4 t to 4 t + 3 of row g and of row g + 8, then the same of 16 more.
    uint4 *lanes = s.lefts + index / ROWS * 32 + row % 8 * 4 + lane % 16 / 4;
    reinterpret_cast<int8_t *>(lanes)[4 * (row / 8 % 2 + lane / 16 * 2) + lane % 4] = int8_t(code);
    const float left = x - code * scale, length = sqrtf(sum_of_warp(x * x)), residual = sqrtf(sum_of_warp(left * left));
    if (lane == 0) s.queries[index] = {{scale, length * SLACK, residual * SLACK}, 0, 0, 0, 0, walker, pixel};
}

// Queries of a map, of which those from `first` on are answered now.
__device__ __forceinline__ Query *queries_of(const Search &s, unsigned half, unsigned map, unsigned first) {
    return s.queries + size_t(half % 2 * s.maps + map) * s.seed_stride + first;
}

__device__ __forceinline__ unsigned rows_of(const Search &s, unsigned half, unsigned map, unsigned first) {
    const unsigned count = s.counts[half * s.maps + map];
    return count > first ? min(count - first, s.rows) : 0;
}

// |q b - q' b'| <= |q| |b - b'| + |q - q'| |b'|, q' and b' the rounded ones.
__device__ __forceinline__ float error_of(const Asked &query, const Bounds &block) {
    return query.length * block.residual + query.residual * block.length;
}

__device__ __forceinline__ float product_of(const Asked &query, const Bounds &block, int coded) {
    return coded * (query.scale * block.scale);
}

// What a query's product with a pixel of map `partner` comes to, with its error, if the pixel may be nearest.
__device__ __forceinline__ float least_of(const Search &s, unsigned partner, const Query &query) {
    const float longest = sqrtf(__uint_as_float(s.statistics[STATISTICS * partner])) * SLACK;
    return number_of(query.reached) - 2.f * query.asked.length * longest * ROUNDING;
}

// The largest products of a warp's queries with the pixels of a block.
__device__ __forceinline__ void multiply_block(int (&largest)[TILES][2], const uint32_t (&left)[TILES][4], unsigned tiles,
                                               const uint4 (&codes)[PIECES]) {
#pragma unroll 4
    for (unsigned first = 0; first < PIECES; first += 32) {
        // Sixteen pixels.
        uint32_t right[4];
        load_matrices(right, &codes[first + threadIdx.x % 32]);
#pragma unroll
        for (unsigned tile = 0; tile < TILES; tile++) {
            if (tile >= tiles) continue;
            int low[4], high[4];
            multiply_codes(low, left[tile], right[0], right[1]);
            multiply_codes(high, left[tile], right[2], right[3]);
#pragma unroll
            for (unsigned i = 0; i < 2; i++) {
                int &most = largest[tile][i];
                most = __vimax3_s32(most, low[2 * i], low[2 * i + 1]);
                most = __vimax3_s32(most, high[2 * i], high[2 * i + 1]);
            }
        }
    }
}

// Of four numbers of each of four neighbouring lanes, the largest of the lane's own number among them.
__device__ __forceinline__ int largest_of_four(const int (&x)[RUN]) {
    const unsigned t = threadIdx.x % 4;
    const bool is_odd = t % 2, is_late = t / 2;
    int even = is_odd ? x[0] : x[1], odd = is_odd ? x[2] : x[3];
    even = max(is_odd ? x[1] : x[0], __shfl_xor_sync(ALL_LANES, even, 1));
    odd = max(is_odd ? x[3] : x[2], __shfl_xor_sync(ALL_LANES, odd, 1));
    const int other = __shfl_xor_sync(ALL_LANES, is_late ? even : odd, 2);
    return max(is_late ? odd : even, other);
}

// The largest products of a group of queries, from `first_row` on, with some runs of blocks.
__device__ __forceinline__ void find_maxima_of(const Search &s, unsigned half, unsigned map, unsigned first, unsigned rows,
                                               unsigned first_row, unsigned begin, unsigned end, Comparing &shared) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, partner = map ^ 1;
    const uint4 *coded = s.coded + size_t(partner) * s.block_stride * PIECES;
    const Bounds *bounds = s.bounds + partner * s.block_stride;
    const unsigned blocks = s.blocks[partner % 2];
    Query *queries = queries_of(s, half, map, first);
    // Of a left operand of this warp, and how many there are.
    const auto row_of = [&](unsigned tile) { return first_row + (tile * WARPS + warp) * ROWS; };
    unsigned tiles = 0;
    while (tiles < TILES && row_of(tiles) < rows) tiles++;
    // What there is beyond the last block has room, and is not looked at.
    const auto load = [&](unsigned run) {
        if (run < end) {
            uint4 *to = &shared.codes[run % 2][0][threadIdx.x];
            const uint4 *from = &coded[size_t(run) * RUN * PIECES + threadIdx.x];
#pragma unroll
            for (unsigned i = 0; i < RUN * PIECES; i += THREADS) copy_async(to + i, from + i, true);
            if (threadIdx.x < RUN) copy_async(&shared.bounds[run % 2][threadIdx.x], &bounds[run * RUN + threadIdx.x], true);
        }
        commit_copies();
    };
    load(begin);

    uint32_t left[TILES][4] = {};
    for (unsigned tile = 0; tile < tiles; tile++) {
        const size_t index = (queries - s.queries + row_of(tile)) / ROWS;
        const uint4 codes = s.lefts[index * 32 + lane];
        left[tile][0] = codes.x, left[tile][1] = codes.y, left[tile][2] = codes.z, left[tile][3] = codes.w;
    }
    for (unsigned i = threadIdx.x; i < min(GROUP, rows - first_row); i += THREADS) {
        shared.asked[i] = queries[first_row + i].asked;
    }
    const auto row_of_lane = [&](unsigned i) { return row_of(i / 2) + i % 2 * 8 + g; };
    // The most that any product of the lane's rows comes to at least.
    float reached[2 * TILES];
    for (float &each : reached) each = -INFINITY;
    for (unsigned run = begin; run < end; run++) {
        wait_for_copies();
        __syncthreads();
        load(run + 1);
        int largest[TILES][2][RUN];
#pragma unroll
        for (unsigned block = 0; block < RUN; block++) {
            int most[TILES][2];
            for (auto &both : most) both[0] = both[1] = LEAST;
            multiply_block(most, left, tiles, shared.codes[run % 2][block]);
#pragma unroll
            for (unsigned i = 0; i < 2 * TILES; i++) largest[i / 2][i % 2][block] = most[i / 2][i % 2];
        }
        const unsigned mine = run * RUN + t;
        const Bounds its = shared.bounds[run % 2][t];
#pragma unroll
        for (unsigned i = 0; i < 2 * TILES; i++) {
            // Of the four lanes of a row each has another block's.
            const int most = largest_of_four(largest[i / 2][i % 2]);
            const unsigned row = row_of_lane(i);
            if (row >= rows || mine >= blocks) continue;
            s.maxima[(size_t(map) * s.rows + row) * s.block_stride + mine] = most;
            const Asked asked = shared.asked[row - first_row];
            reached[i] = fmaxf(reached[i], product_of(asked, its, most) - error_of(asked, its));
        }
    }
    // Nobody is at the blocks any more.
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < 2 * TILES; i++) {
        if (row_of_lane(i) < rows) atomicMax(&queries[row_of_lane(i)].reached, ordered(reached[i]));
    }
}

// The largest products of queries `first` and on with every block. Each thread block has an equal share of all groups of
// queries and runs of blocks, one after the other, so that it changes queries seldom.
__device__ __forceinline__ void find_maxima(const Search &s, unsigned half, unsigned first, Comparing &shared) {
    const auto groups_of = [&](unsigned map) { return (rows_of(s, half, map, first) + GROUP - 1) / GROUP; };
    const auto runs_of = [&](unsigned map) { return (s.blocks[(map ^ 1) % 2] + RUN - 1) / RUN; };
    unsigned all = 0;
    for (unsigned map = 0; map < s.maps; map++) all += groups_of(map) * runs_of(map);
    unsigned item = uint64_t(all) * blockIdx.x / gridDim.x;
    const unsigned last = uint64_t(all) * (blockIdx.x + 1) / gridDim.x;
    while (item < last) {
        unsigned map = 0, in_map = item;
        for (unsigned of_map; in_map >= (of_map = groups_of(map) * runs_of(map)); map++) in_map -= of_map;
        const unsigned runs = runs_of(map), begin = in_map % runs, end = min(begin + last - item, runs);
        const unsigned rows = rows_of(s, half, map, first), first_row = in_map / runs * GROUP;
        find_maxima_of(s, half, map, first, rows, first_row, begin, end, shared);
        item += end - begin;
    }
}

// The blocks that may hold the nearest neighbours of queries `first` and on.
__device__ __forceinline__ void find_possible(const Search &s, unsigned half, unsigned first) {
    const unsigned lane = threadIdx.x % 32;
    unsigned before = 0;
    for (unsigned map = 0; map < s.maps; map++) {
        const unsigned partner = map ^ 1, blocks = s.blocks[partner % 2], looks = (blocks + LOOK - 1) / LOOK;
        const unsigned items = rows_of(s, half, map, first) * looks, warps = warps_of_grid();
        const Bounds *bounds = s.bounds + partner * s.block_stride;
        for (unsigned item = (warp_in_grid() + warps - before % warps) % warps; item < items; item += warps) {
            const unsigned row = item / looks, block = item % looks * LOOK + lane * RUN;
            Query &query = queries_of(s, half, map, first)[row];
            const unsigned index = (map * s.rows + row) * s.block_stride + block;
            const Asked asked = query.asked;
            const float least = least_of(s, partner, query);
            int maxima[RUN] = {};
            if (block < blocks) {
                const int4 four = *reinterpret_cast<const int4 *>(s.maxima + index);
                maxima[0] = four.x, maxima[1] = four.y, maxima[2] = four.z, maxima[3] = four.w;
            }
            unsigned mine = 0;
#pragma unroll
            for (unsigned i = 0; i < RUN; i++) {
                if (block + i >= blocks) continue;
                const Bounds its = bounds[block + i];
                mine |= unsigned(product_of(asked, its, maxima[i]) + error_of(asked, its) >= least) << i;
            }
            if (__ballot_sync(ALL_LANES, mine != 0) == 0) continue;
            const unsigned count = unsigned(sum_of_warp(float(__popc(mine))));
            unsigned place = 0;
            if (lane == 0) {
                atomicAdd(&query.possible, count);
                place = atomicAdd(&s.counts[s.halves * s.maps], count);
            }
            place = __shfl_sync(ALL_LANES, place, 0);
            for (unsigned i = 0; i < RUN; i++) {
                const unsigned mask = __ballot_sync(ALL_LANES, mine >> i & 1);
                if (mine >> i & 1) s.possible[place + __popc(mask & ((1u << lane) - 1))] = index + i;
                place += __popc(mask);
            }
        }
        before += items;
    }
}

// Sends a walker on to the answer of its query, by a warp. Even halves lead to the other image, odd ones back. A walker
// that is answered as the time before stays where it is.
__device__ __forceinline__ void advance(const Search &s, unsigned half, unsigned map, unsigned walker, unsigned nearest) {
    const bool is_outward = half % 2 == 0;
    const unsigned own = is_outward ? map : map ^ 1;
    unsigned row = NOWHERE;
    if (threadIdx.x % 32 == 0) {
        Walker &its = s.walkers[size_t(own) * s.seed_stride + walker];
        unsigned &place = is_outward ? its.there : its.here;
        if (nearest == place) {
            its.state = SETTLED;
            its.confidence = s.confidences[own][its.here];
            its.partner_confidence = s.confidences[own ^ 1][its.there];
        } else {
            place = nearest;
            if (half + 1 < s.halves) row = atomicAdd(&s.counts[(half + 1) * s.maps + (map ^ 1)], 1u);
        }
    }
    row = __shfl_sync(ALL_LANES, row, 0);
    if (row != NOWHERE) ask(s, half + 1, map ^ 1, row, walker, nearest);
}

// The exact scores in blocks that may hold a query's nearest neighbour, a warp a block; what comes last to a query sends
// its walker on.
__device__ __forceinline__ void score_possible(const Search &s, unsigned half, unsigned first) {
    const unsigned lane = threadIdx.x % 32, count = s.counts[s.halves * s.maps];
    for (unsigned item = warp_in_grid(); item < count; item += warps_of_grid()) {
        const unsigned index = s.possible[item], block = index % s.block_stride;
        const unsigned map = index / s.block_stride / s.rows, row = index / s.block_stride % s.rows, partner = map ^ 1;
        Query *const query = queries_of(s, half, map, first) + row;
        const Query its = *query;
        // Of every sixteen pixels a lane has one's first or last sixteen codes.
        const unsigned is_last = lane / 8 % 2, its_pixel = lane / 16 * 8 + lane % 8;
        const unsigned *words =
            &s.lefts[(query - s.queries) / ROWS * 32 + row % 8 * 4].x + row / 8 % 2 + 2 * is_last;
        const int codes[4] = {int(words[0]), int(words[4]), int(words[8]), int(words[12])};
        const Bounds bounds = s.bounds[partner * s.block_stride + block];
        const float least = least_of(s, partner, its) - error_of(its.asked, bounds);
        const uint4 *coded = s.coded + (size_t(partner) * s.block_stride + block) * PIECES + lane;
        // Of the columns, those whose pixel is possible.
        unsigned possible = 0;
#pragma unroll 8
        for (unsigned column = 0; column < PIECES / 32; column++) {
            const uint4 others = coded[column * 32];
            int product = __dp4a(int(others.x), codes[0], __dp4a(int(others.y), codes[1], 0));
            product = __dp4a(int(others.z), codes[2], __dp4a(int(others.w), codes[3], product));
            product += __shfl_xor_sync(ALL_LANES, product, 8);
            possible |= unsigned(product_of(its.asked, bounds, product) >= least) << column;
        }
        if (is_last) possible = 0;

        float best = -INFINITY;
        unsigned nearest = NOWHERE;
        const auto take = [&](float score, unsigned there) {
            if (score > best || (score == best && there < nearest)) best = score, nearest = there;
        };
        for (; possible != 0; possible &= possible - 1) {
            const unsigned column = __ffs(int(possible)) - 1;
            const unsigned there = pixel_at(s, partner % 2, block * BLOCK + column * 16 + its_pixel);
            float own[CHANNELS], values[CHANNELS], score = 0.f;
            load_descriptor(own, s, map, its.pixel);
            load_descriptor(values, s, partner, there);
#pragma unroll
            for (unsigned channel = 0; channel < CHANNELS; channel++) {
                // Rounded after each step, as on every other device.
                score = __fadd_rn(score, __fmul_rn(own[channel], values[channel]));
            }
            take(score, there);
        }
        for (unsigned step = 16; step > 0; step /= 2) {
            const float score = __shfl_xor_sync(ALL_LANES, best, step);
            const unsigned there = __shfl_xor_sync(ALL_LANES, nearest, step);
            take(score, there);
        }
        if (its.possible > 1) {
            if (lane == 0) {
                const uint64_t found = uint64_t(ordered(best)) << 32 | ~nearest;
                if (nearest != NOWHERE) atomicMax(&query->found, (unsigned long long)found);
                __threadfence();
                nearest = NOWHERE;
                if (atomicAdd(&query->scored, 1u) + 1 == its.possible) {
                    __threadfence();
                    nearest = ~unsigned(atomicMax(&query->found, 0ull));
                }
            }
            nearest = __shfl_sync(ALL_LANES, nearest, 0);
        }
        if (nearest != NOWHERE) advance(s, half, map, its.walker, nearest);
    }
}

// What a thread block has in shared memory at a time.
union Shared {
    Coding coding;
    Comparing comparing;
};
static_assert(sizeof(Shared) == 69760, "as the host has it");

// All walks, by as many thread blocks as there is room for at once. Walkers whose descriptors are not numbers are lost on
// the way; the host learns of such by the statistics.
extern "C" __global__ void __launch_bounds__(THREADS, 2) reciprocal_walks(Search s) {
    DYNAMIC_SHARED(memory);
    Shared &shared = *reinterpret_cast<Shared *>(memory);
    const bool is_first = blockIdx.x == 0 && threadIdx.x == 0;
    GridBarrier barrier{s.counts + s.halves * s.maps + 1};
    code_maps(s, shared.coding);
    for (unsigned map = 0; map < s.maps; map++) {
        const unsigned seeds = s.seeds[map % 2];
        for (unsigned seed = warp_in_grid(); seed < seeds; seed += warps_of_grid()) {
            const unsigned start = s.starts[map % 2 * s.seed_stride + seed];
            if (threadIdx.x % 32 == 0) s.walkers[size_t(map) * s.seed_stride + seed] = {start, NOWHERE, MOVING, 0.f, 0.f};
            ask(s, 0, map, seed, seed, start);
        }
        if (is_first) s.counts[map] = seeds;
    }
    barrier.wait();
    for (unsigned half = 0; half < s.halves; half++) {
        unsigned most = 0;
        for (unsigned map = 0; map < s.maps; map++) most = max(most, s.counts[half * s.maps + map]);
        // Everybody stays where it is.
        if (most == 0) return;
        for (unsigned first = 0; first < most; first += s.rows) {
            find_maxima(s, half, first, shared.comparing);
            if (is_first) s.counts[s.halves * s.maps] = 0;
            barrier.wait();
            find_possible(s, half, first);
            barrier.wait();
            score_possible(s, half, first);
            barrier.wait();
        }
    }
}
