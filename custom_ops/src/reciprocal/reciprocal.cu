// Reciprocal nearest neighbours among the descriptors of two images: seeds walk to their nearest neighbour in the
// other image and back until they stay where they are. All walks of a pair of images, from seeds on either image
// and in every decode, advance together by half a trip, and the host hears of them at the end.
//
// The nearest neighbour has the largest dot product, a float32 sum of products in channel order, and is the earliest
// pixel where several are equal. Few of these sums are made: the matrix units give all products of a query with an
// image in float16, of which the largest of every block of 256 pixels is kept. By Cauchy-Schwarz what rounding to
// float16 took from a query and from a block's pixels bounds the error, and only blocks that the bound does not rule
// out are scored in float32.
//
// A map is one image's descriptors in one decode. Lists, answers and walkers belong to the map that queries or seeds
// are pixels of; its partner, the map of the same decode with the lowest bit of the number flipped, is searched.

#include "matrix_units.cuh"

// Descriptors are padded to as many.
constexpr unsigned CHANNELS = 24;
constexpr unsigned FOURS = CHANNELS / 4;
// Pixels are taken in tiles of 8x8, row by row, and four tiles are a block: near pixels are alike, and what is alike
// should be scored together.
constexpr unsigned SIDE = 8, TILE = SIDE * SIDE, BLOCK = 4 * TILE;
// Queries of a thread block: 32 of each of its eight warps.
constexpr unsigned QUERIES = 256;
// Blocks that belong to one piece of work, as their products are written together.
constexpr unsigned PIECE = 4;
// Threads that decide about a query, and blocks that they note as possible; if there are more, all are looked at.
constexpr unsigned DECIDERS = 128, NOTED = 32;
constexpr unsigned ALL_LANES = 0xffffffff;

constexpr unsigned STATISTICS = 3;

// A walker's state.
constexpr unsigned MOVING = 0, SETTLED = 1;
// No pixel.
constexpr unsigned NOWHERE = 0xffffffff;
// An answer is a pixel plus one; a query that is on a list and has none is this.
constexpr unsigned PENDING = 0xffffffff;

// Covers the rounding of lengths.
constexpr float SLACK = 1.0001f;
// Of the product of two lengths: covers the rounding of float32 scores and of the matrix units' sums.
constexpr float ROUNDING = (CHANNELS + 8) / 4194304.f;

struct Walker {
    unsigned here, there, state;
    // Of the two pixels, once it is settled.
    float confidence, partner_confidence;
};

struct Search {
    // Of each map: (height, width, channels).
    const float *descriptors[4];
    // Of each map: (height, width).
    const float *confidences[4];
    // (maps, CHANNELS): near the mean descriptor.
    float *means;
    // (maps, blocks, BLOCK, CHANNELS): descriptors less the mean.
    __half *coded;
    // (maps, blocks, FOURS, BLOCK): descriptors, four channels at a time.
    float4 *columns;
    // (maps, blocks): the most that rounding took from a descriptor, and the longest rounded one.
    float *residuals, *lengths;
    // (maps, STATISTICS): the largest square of a length, as bits; descriptors of no usable length; confidences that are
    // not finite.
    unsigned *statistics;
    // (maps, pixels)
    unsigned *answers;
    // (maps, seeds): pixels whose answer is sought.
    unsigned *lists;
    // (half trips, maps)
    unsigned *counts;
    // (maps, rows, blocks): each query's largest products, zero or more.
    float *maxima;
    // (maps, seeds)
    Walker *walkers;
    // (images, seeds): where walks begin.
    const unsigned *starts;
    // Of the two images.
    unsigned widths[2], heights[2], blocks[2], seeds[2];
    // Of a descriptor.
    unsigned channels;
    unsigned maps;
    // From one map to the next: in `answers`; in whatever has blocks; in lists and walkers.
    unsigned pixel_stride, block_stride, seed_stride;
    // Queries that are answered together.
    unsigned rows;
    // Half trips.
    unsigned halves;
};
static_assert(sizeof(Search) == 224, "as the host has it");

__device__ __forceinline__ float largest_of_warp(float x) {
    for (unsigned step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
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

// A mean over some pixels of every map: any vector serves, a near one makes the rounding errors small.
constexpr unsigned STRIPS = 32, SAMPLES = 256;

extern "C" __global__ void __launch_bounds__(STRIPS *CHANNELS) reciprocal_mean(Search s) {
    __shared__ float sums[STRIPS][CHANNELS];
    const unsigned map = blockIdx.x, channel = threadIdx.x % CHANNELS, strip = threadIdx.x / CHANNELS;
    const unsigned pixels = s.widths[map % 2] * s.heights[map % 2], samples = min(pixels, SAMPLES);
    float sum = 0.f;
    if (channel < s.channels) {
        for (unsigned sample = strip; sample < samples; sample += STRIPS) {
            const size_t pixel = size_t(sample) * pixels / samples;
            sum += s.descriptors[map][pixel * s.channels + channel];
        }
    }
    sums[strip][channel] = sum;
    __syncthreads();
    if (strip == 0) {
        for (unsigned other = 1; other < STRIPS; other++) sum += sums[other][channel];
        s.means[map * CHANNELS + channel] = sum / samples;
    }
}

// One block of a map, a thread a pixel: its descriptors in both forms, and what bounds them.
extern "C" __global__ void __launch_bounds__(BLOCK) reciprocal_code(Search s) {
    __shared__ float residuals[BLOCK / 32], lengths[BLOCK / 32];
    const unsigned block = blockIdx.x, map = blockIdx.y, image = map % 2, place = threadIdx.x;
    if (block >= s.blocks[image]) return;
    const unsigned pixel = pixel_at(s, image, block * BLOCK + place);
    const float *descriptor = s.descriptors[map] + size_t(pixel) * s.channels;
    const float *mean = s.means + map * CHANNELS;
    float4 *column = s.columns + (size_t(map) * s.block_stride + block) * FOURS * BLOCK + place;
    alignas(16) uint32_t coded[CHANNELS / 2];
    float square = 0.f, residual = 0.f, length = 0.f;
#pragma unroll
    for (unsigned four = 0; four < FOURS; four++) {
        float values[4], centred[4];
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            const unsigned channel = 4 * four + i;
            values[i] = channel < s.channels ? descriptor[channel] : 0.f;
            centred[i] = values[i] - mean[channel];
            const float rounded = __half2float(__float2half_rn(centred[i]));
            square += values[i] * values[i];
            residual += (centred[i] - rounded) * (centred[i] - rounded);
            length += rounded * rounded;
        }
        column[four * BLOCK] = make_float4(values[0], values[1], values[2], values[3]);
        coded[2 * four] = pair<__half>(centred[0], centred[1]);
        coded[2 * four + 1] = pair<__half>(centred[2], centred[3]);
    }
    uint4 *to = reinterpret_cast<uint4 *>(s.coded + ((size_t(map) * s.block_stride + block) * BLOCK + place) * CHANNELS);
#pragma unroll
    for (unsigned i = 0; i < CHANNELS / 8; i++) to[i] = reinterpret_cast<const uint4 *>(coded)[i];

    unsigned *statistics = s.statistics + STATISTICS * map;
    atomicMax(&statistics[0], __float_as_uint(square));
    // Not a number is not usable either. What is repeated counts once.
    const bool is_usable = square >= 1e-6f && square <= 1e6f, is_known = isfinite(s.confidences[map][pixel]);
    if (!(is_usable && is_known) && place_of(s, image, pixel) == block * BLOCK + place) {
        if (!is_usable) atomicAdd(&statistics[1], 1u);
        if (!is_known) atomicAdd(&statistics[2], 1u);
    }
    residual = largest_of_warp(sqrtf(residual));
    length = largest_of_warp(sqrtf(length));
    if (place % 32 == 0) residuals[place / 32] = residual, lengths[place / 32] = length;
    __syncthreads();
    if (place > 0) return;
    for (unsigned warp = 1; warp < BLOCK / 32; warp++) {
        residual = fmaxf(residual, residuals[warp]);
        length = fmaxf(length, lengths[warp]);
    }
    s.residuals[map * s.block_stride + block] = residual * SLACK;
    s.lengths[map * s.block_stride + block] = length * SLACK;
}

// Tells every walker the answer to its last question, and puts the next one on a list unless it was asked before. Even
// halves lead to the other image, odd ones back. A walker that is answered as the time before stays where it is.
extern "C" __global__ void __launch_bounds__(256) reciprocal_step(Search s, unsigned half) {
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x, map = blockIdx.y;
    if (index >= s.seeds[map % 2]) return;
    Walker &walker = s.walkers[map * s.seed_stride + index];
    const bool is_outward = half % 2 == 0;
    if (half == 0) {
        walker = {s.starts[map % 2 * s.seed_stride + index], NOWHERE, MOVING, 0.f, 0.f};
    } else if (walker.state != MOVING) {
        return;
    } else {
        // The last half went the other way.
        const unsigned from = is_outward ? map ^ 1 : map;
        const unsigned answer = s.answers[from * s.pixel_stride + (is_outward ? walker.there : walker.here)] - 1;
        unsigned &place = is_outward ? walker.here : walker.there;
        if (answer == place) {
            walker.state = SETTLED;
            walker.confidence = s.confidences[map][walker.here];
            walker.partner_confidence = s.confidences[map ^ 1][walker.there];
            return;
        }
        place = answer;
    }
    if (half >= s.halves) return;
    const unsigned asking = is_outward ? map : map ^ 1, pixel = is_outward ? walker.here : walker.there;
    unsigned *answer = &s.answers[asking * s.pixel_stride + pixel];
    if (*answer == 0 && atomicCAS(answer, 0u, PENDING) == 0) {
        s.lists[asking * s.seed_stride + atomicAdd(&s.counts[half * s.maps + asking], 1u)] = pixel;
    }
}

// BLOCK coded descriptors into shared memory by 256 threads.
__device__ __forceinline__ void load_block(__half (*to)[CHANNELS], const __half *from) {
#pragma unroll
    for (unsigned i = 0; i < CHANNELS / 8; i++) {
        const unsigned piece = threadIdx.x + 256 * i;
        copy_async(&to[0][0] + 8 * piece, from + 8 * piece, true);
    }
}

// How many queries of a map, from `first` on, are answered now.
__device__ __forceinline__ unsigned rows_of(const Search &s, unsigned half, unsigned map, unsigned first) {
    const unsigned count = s.counts[half * s.maps + map];
    return count > first ? min(count - first, s.rows) : 0;
}

__device__ __forceinline__ unsigned pieces_of(const Search &s, unsigned map) {
    return (s.blocks[map % 2] + PIECE - 1) / PIECE;
}

// The largest products of queries `first` and on with every block. QUERIES queries of a map and a piece of what they are
// compared with are one item of work; each thread block has an equal run of them, so that it changes queries seldom.
extern "C" __global__ void __launch_bounds__(256, 4) reciprocal_maxima(Search s, unsigned half, unsigned first) {
    // Rows of 48 bytes: eight of them begin in different banks.
    alignas(16) __shared__ __half blocks[2][BLOCK][CHANNELS];
    unsigned items = 0;
#pragma unroll 1
    for (unsigned map = 0; map < s.maps; map++) {
        items += (rows_of(s, half, map, first) + QUERIES - 1) / QUERIES * pieces_of(s, map ^ 1);
    }
    unsigned item = uint64_t(items) * blockIdx.x / gridDim.x;
    const unsigned last = uint64_t(items) * (blockIdx.x + 1) / gridDim.x;
    const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

    while (item < last) {
        unsigned map = 0, in_map = item, rows, pieces;
#pragma unroll 1
        for (;; map++) {
            rows = rows_of(s, half, map, first);
            pieces = pieces_of(s, map ^ 1);
            const unsigned of_map = (rows + QUERIES - 1) / QUERIES * pieces;
            if (in_map < of_map) break;
            in_map -= of_map;
        }
        const unsigned partner = map ^ 1, piece = in_map % pieces, pieces_now = min(pieces - piece, last - item);
        const unsigned begin = piece * PIECE, end = min(begin + pieces_now * PIECE, s.blocks[partner % 2]);
        const unsigned warp_row = in_map / pieces * QUERIES + threadIdx.x / 32 * 32;
        item += pieces_now;
        // A warp without queries helps to load.
        const bool is_idle = warp_row >= rows;
        const __half *coded = s.coded + size_t(partner) * s.block_stride * BLOCK * CHANNELS;

        // Nobody is at the blocks of the last item any more.
        __syncthreads();
        load_block(blocks[begin % 2], coded + size_t(begin) * BLOCK * CHANNELS);
        commit_copies();

        // Two operands of 16 queries: the left 16 channels, the right 8.
        uint32_t left[2][4], right[2][2];
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = min(warp_row + 8 * i + g, rows - 1);
            const unsigned pixel = s.lists[map * s.seed_stride + first + row];
            const float *query = s.descriptors[map] + size_t(pixel) * s.channels;
            uint32_t parts[3];
#pragma unroll
            for (unsigned part = 0; part < 3; part++) {
                const unsigned channel = 8 * part + 2 * t;
                parts[part] = pair<__half>(channel < s.channels ? query[channel] : 0.f,
                                           channel + 1 < s.channels ? query[channel + 1] : 0.f);
            }
            left[i / 2][i % 2] = parts[0];
            left[i / 2][i % 2 + 2] = parts[1];
            right[i / 2][i % 2] = parts[2];
        }

        // Of the lane's four rows; each lane of a row keeps one of four blocks, and they are written together.
        float kept[4];
        for (unsigned block = begin; block < end; block++) {
            wait_for_copies();
            __syncthreads();
            if (block + 1 < end) {
                load_block(blocks[(block + 1) % 2], coded + size_t(block + 1) * BLOCK * CHANNELS);
                commit_copies();
            }
            if (is_idle) continue;
            const auto &rows_of_block = blocks[block % 2];
            // As integers, of which the largest of three is one instruction: positive numbers are in the order of their
            // bits, and all others are below zero, where a block's largest product begins. That it may be too large when it
            // is below zero rules out no block that holds a nearest neighbour: its own is zero or more as well.
            int largest[4] = {};
#pragma unroll 4
            for (unsigned group = 0; group < BLOCK; group += 16) {
                // Sixteen pixels: the three matrices of the first eight and one of the others', then the others' two.
                uint32_t m[4], n[2];
                load_matrices(m, &rows_of_block[group + lane / 24 * 8 + lane % 8][lane % 24 / 8 * 8]);
                load_matrices(n, &rows_of_block[group + 8 + lane % 8][8 + lane / 8 % 2 * 8]);
#pragma unroll
                for (unsigned i = 0; i < 2; i++) {
                    float low[4] = {}, high[4] = {};
                    multiply_add<__half>(low, left[i], m[0], m[1]);
                    multiply_add<__half>(high, left[i], m[3], n[0]);
                    multiply_add(low, right[i], m[2]);
                    multiply_add(high, right[i], n[1]);
#pragma unroll
                    for (unsigned row = 0; row < 2; row++) {
                        int &most = largest[2 * i + row];
                        most = __vimax3_s32(most, __float_as_int(low[2 * row]), __float_as_int(low[2 * row + 1]));
                        most = __vimax3_s32(most, __float_as_int(high[2 * row]), __float_as_int(high[2 * row + 1]));
                    }
                }
            }
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                float most = __int_as_float(largest[i]);
                most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
                most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
                if (block % PIECE == t) kept[i] = most;
            }
            if (block % PIECE == PIECE - 1 || block + 1 == end) {
                const unsigned mine = block / PIECE * PIECE + t;
#pragma unroll
                for (unsigned i = 0; i < 4; i++) {
                    const unsigned row = warp_row + 8 * i + g;
                    if (row < rows && mine <= block) {
                        s.maxima[(size_t(map) * s.rows + row) * s.block_stride + mine] = kept[i];
                    }
                }
            }
        }
    }
}

// The exact answers to queries `first` and on, a query at a time.
extern "C" __global__ void __launch_bounds__(DECIDERS) reciprocal_decide(Search s, unsigned half, unsigned first) {
    __shared__ float bests[DECIDERS / 32];
    __shared__ unsigned nearests[DECIDERS / 32], noted[NOTED], possible;
    const unsigned map = blockIdx.y, partner = map ^ 1, rows = rows_of(s, half, map, first);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned blocks = s.blocks[partner % 2];
    const float longest = sqrtf(__uint_as_float(s.statistics[STATISTICS * partner])) * SLACK;
    const float *residuals = s.residuals + partner * s.block_stride, *lengths = s.lengths + partner * s.block_stride;

    for (unsigned row = blockIdx.x; row < rows; row += gridDim.x) {
        const unsigned pixel = s.lists[map * s.seed_stride + first + row], place = place_of(s, map % 2, pixel);
        const float4 *own = s.columns + (size_t(map) * s.block_stride + place / BLOCK) * FOURS * BLOCK + place % BLOCK;
        float4 query[FOURS];
        float square = 0.f, residual = 0.f;
#pragma unroll
        for (unsigned four = 0; four < FOURS; four++) {
            query[four] = own[four * BLOCK];
            const float values[4] = {query[four].x, query[four].y, query[four].z, query[four].w};
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                const float left = values[i] - __half2float(__float2half_rn(values[i]));
                square += values[i] * values[i];
                residual += left * left;
            }
        }
        const float length = sqrtf(square) * SLACK, rounding = length * longest * ROUNDING;
        residual = sqrtf(residual) * SLACK;
        const float *maxima = s.maxima + (size_t(map) * s.rows + row) * s.block_stride;
        // |q b - q' b'| <= |q| |b - b'| + |q - q'| |b'|, b' the rounded descriptor.
        const auto error = [&](unsigned block) { return length * residuals[block] + residual * lengths[block] + rounding; };
        float reached = -INFINITY;
        for (unsigned block = threadIdx.x; block < blocks; block += DECIDERS) {
            reached = fmaxf(reached, maxima[block] - error(block));
        }
        reached = largest_of_warp(reached);
        if (lane == 0) bests[warp] = reached;
        if (threadIdx.x == 0) possible = 0;
        __syncthreads();
        for (unsigned other = 0; other < DECIDERS / 32; other++) reached = fmaxf(reached, bests[other]);

        const auto is_possible = [&](unsigned block) { return maxima[block] + error(block) >= reached; };
        for (unsigned block = threadIdx.x; block < blocks; block += DECIDERS) {
            if (is_possible(block)) {
                const unsigned index = atomicAdd(&possible, 1u);
                if (index < NOTED) noted[index] = block;
            }
        }
        __syncthreads();
        const bool are_noted = possible <= NOTED;
        const unsigned count = are_noted ? possible : blocks;
        float best = -INFINITY;
        unsigned nearest = PENDING;
        for (unsigned index = 0; index < count; index++) {
            const unsigned block = are_noted ? noted[index] : index;
            if (!are_noted && !is_possible(block)) continue;
            const float4 *columns = s.columns + (size_t(partner) * s.block_stride + block) * FOURS * BLOCK;
#pragma unroll
            for (unsigned place = threadIdx.x; place < BLOCK; place += DECIDERS) {
                float score = 0.f;
#pragma unroll
                for (unsigned four = 0; four < FOURS; four++) {
                    const float4 values = columns[four * BLOCK + place];
                    // Rounded after each step, as on every other device.
                    score = __fadd_rn(score, __fmul_rn(query[four].x, values.x));
                    score = __fadd_rn(score, __fmul_rn(query[four].y, values.y));
                    score = __fadd_rn(score, __fmul_rn(query[four].z, values.z));
                    score = __fadd_rn(score, __fmul_rn(query[four].w, values.w));
                }
                if (score >= best) {
                    const unsigned here = pixel_at(s, partner % 2, block * BLOCK + place);
                    if (score > best || here < nearest) nearest = here;
                    best = score;
                }
            }
        }
        const auto take = [&](float other, unsigned there) {
            if (other > best || (other == best && there < nearest)) best = other, nearest = there;
        };
        for (unsigned step = 16; step > 0; step /= 2) {
            const float other = __shfl_xor_sync(ALL_LANES, best, step);
            const unsigned there = __shfl_xor_sync(ALL_LANES, nearest, step);
            take(other, there);
        }
        if (lane == 0) bests[warp] = best, nearests[warp] = nearest;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (unsigned other = 1; other < DECIDERS / 32; other++) take(bests[other], nearests[other]);
            // Descriptors that are not numbers have no nearest one; the host learns of them by the statistics.
            s.answers[map * s.pixel_stride + pixel] = (nearest == PENDING ? 0 : nearest) + 1;
        }
        // Before the next query's bounds.
        __syncthreads();
    }
}
