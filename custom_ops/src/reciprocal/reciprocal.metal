// Reciprocal nearest neighbours among the descriptors of two images: seeds walk to their nearest neighbour in the
// other image and back until they stay where they are. All walks of a pair of images, from seeds on either image
// and in every decode, advance together by half a trip, and the host hears of them at the end.
//
// The nearest neighbour has the largest dot product, a float32 sum of products in channel order, and is the earliest
// pixel where several are equal. Every product is made, in float32: on these GPUs half precision is not faster, and
// memory that all threads of a SIMD group read at the same place is read once.
//
// A map is one image's descriptors in one decode. Lists, answers and walkers belong to the map that queries or seeds
// are pixels of; its partner, the map of the same decode with the lowest bit of the number flipped, is searched.

#include <metal_stdlib>
using namespace metal;

// Products and sums are rounded one by one, as on every other device.
#pragma METAL fp contract(off)

// Fours of channels, to which descriptors are padded with zeros.
constexpr constant uint FOURS = 6;
// Queries that a thread compares with each pixel that it reads.
constexpr constant uint QUERIES = 2;
constexpr constant uint STATISTICS = 2;

// A walker's state.
constexpr constant uint MOVING = 0;
constexpr constant uint SETTLED = 1;
// No pixel.
constexpr constant uint NOWHERE = 0xffffffffu;

struct Walker {
    uint here;
    uint there;
    uint state;
    // Of the two pixels, once it is settled.
    float confidence;
    float partner_confidence;
};

struct Found {
    float score;
    uint pixel;
};

// The host's `SearchParams`.
struct SearchParams {
    // Of the two images: pixels, and seeds.
    uint pixels;
    uint other_pixels;
    uint seeds;
    uint other_seeds;
    // Of a descriptor, at most 4 FOURS.
    uint channels;
    uint maps;
    // From one map to the next.
    uint pixel_stride;
    uint seed_stride;
    // Into which the pixels of a map are cut, and how many pixels each has.
    uint slices;
    uint slice;
    // Half trips, and which of them it is.
    uint halves;
    uint half_trip;
    // The map that is packed.
    uint map;
};

inline uint pixels_of(constant SearchParams& params, uint map) {
    return map % 2 == 0 ? params.pixels : params.other_pixels;
}

inline uint seeds_of(constant SearchParams& params, uint map) {
    return map % 2 == 0 ? params.seeds : params.other_seeds;
}

// How many queries of a map are answered now.
inline uint queries_of(constant SearchParams& params, device atomic_uint* counts, uint map) {
    return atomic_load_explicit(counts + params.half_trip * params.maps + map, memory_order_relaxed);
}

// What every kernel takes:
//   descriptors, confidence  of the map that is packed: (pixels, channels), (pixels)
//   starts       (images, seeds): where walks begin
//   packed       (maps, pixels, FOURS)
//   confidences  (maps, pixels)
//   statistics   (maps, STATISTICS): descriptors of no usable length; confidences that are not finite
//   asked        (maps, pixels): whether a pixel was on a list
//   answers      (maps, pixels): nearest neighbours of those that were
//   lists        (maps, seeds): pixels whose answer is sought
//   counts       (half trips, maps): how many
//   found        (maps, slices, seeds): of every query the best of each slice
//   walkers      (maps, seeds)
#define SEARCH_ARGUMENTS                          \
    device const F* descriptors [[buffer(0)]],    \
    device const F* confidence [[buffer(1)]],     \
    device const uint* starts [[buffer(2)]],      \
    device float4* packed [[buffer(3)]],          \
    device F* confidences [[buffer(4)]],          \
    device atomic_uint* statistics [[buffer(5)]], \
    device atomic_uint* asked [[buffer(6)]],      \
    device uint* answers [[buffer(7)]],           \
    device uint* lists [[buffer(8)]],             \
    device atomic_uint* counts [[buffer(9)]],     \
    device Found* found [[buffer(10)]],           \
    device Walker* walkers [[buffer(11)]],        \
    constant SearchParams& params [[buffer(12)]], \
    uint3 position [[thread_position_in_grid]]

// One map's descriptors as the search reads them. Threads are (pixels, 1, 1).
template <typename F>
[[kernel]] void reciprocal_pack(SEARCH_ARGUMENTS) {
    const uint pixel = position.x;
    const uint map = params.map;
    if (pixel >= pixels_of(params, map)) {
        return;
    }
    device const F* from = descriptors + pixel * params.channels;
    device float4* to = packed + (map * params.pixel_stride + pixel) * FOURS;
    F square = 0.0f;
    for (uint four = 0; four < FOURS; four++) {
        float4 values = float4(0.0f);
        for (uint i = 0; i < 4; i++) {
            const uint channel = 4 * four + i;
            if (channel < params.channels) {
                values[i] = from[channel];
                square += from[channel] * from[channel];
            }
        }
        to[four] = values;
    }
    const F known = confidence[pixel];
    confidences[map * params.pixel_stride + pixel] = known;
    // Not a number is not usable either.
    if (!(square >= 1e-6f && square <= 1e6f)) {
        atomic_fetch_add_explicit(statistics + STATISTICS * map, 1u, memory_order_relaxed);
    }
    // By its bits: a compiler with fast math may assume that it is finite.
    if ((as_type<uint>(known) & 0x7f800000u) == 0x7f800000u) {
        atomic_fetch_add_explicit(statistics + STATISTICS * map + 1, 1u, memory_order_relaxed);
    }
}

// Tells every walker the answer to its last question, and puts the next one on a list unless it was asked before. Even
// half trips lead to the other image, odd ones back. A walker that is answered as the time before stays where it is.
// Threads are (seeds, maps, 1).
template <typename F>
[[kernel]] void reciprocal_step(SEARCH_ARGUMENTS) {
    const uint index = position.x;
    const uint map = position.y;
    const uint partner = map ^ 1u;
    if (index >= seeds_of(params, map)) {
        return;
    }
    device Walker* walker = walkers + map * params.seed_stride + index;
    const bool is_outward = params.half_trip % 2 == 0;
    if (params.half_trip == 0) {
        walker->here = starts[map % 2 * params.seed_stride + index];
        walker->there = NOWHERE;
        walker->state = MOVING;
        walker->confidence = 0.0f;
        walker->partner_confidence = 0.0f;
    } else if (walker->state != MOVING) {
        return;
    } else {
        // The last half trip went the other way.
        const uint from = is_outward ? partner : map;
        const uint question = is_outward ? walker->there : walker->here;
        const uint answer = answers[from * params.pixel_stride + question];
        if (answer == (is_outward ? walker->here : walker->there)) {
            walker->state = SETTLED;
            walker->confidence = confidences[map * params.pixel_stride + walker->here];
            walker->partner_confidence = confidences[partner * params.pixel_stride + walker->there];
            return;
        }
        if (is_outward) {
            walker->here = answer;
        } else {
            walker->there = answer;
        }
    }
    if (params.half_trip >= params.halves) {
        return;
    }
    const uint asking = is_outward ? map : partner;
    const uint pixel = is_outward ? walker->here : walker->there;
    if (atomic_exchange_explicit(asked + asking * params.pixel_stride + pixel, 1u, memory_order_relaxed) == 0) {
        const uint last =
            atomic_fetch_add_explicit(counts + params.half_trip * params.maps + asking, 1u, memory_order_relaxed);
        lists[asking * params.seed_stride + last] = pixel;
    }
}

// The best pixel of a slice for QUERIES queries. Threads are (seeds / QUERIES, slices, maps): those of a SIMD group read the
// same pixels.
template <typename F>
[[kernel]] void reciprocal_search(SEARCH_ARGUMENTS) {
    const uint map = position.z;
    const uint partner = map ^ 1u;
    const uint queries = queries_of(params, counts, map);
    const uint first = position.x * QUERIES;
    if (first >= queries) {
        return;
    }
    F best[QUERIES];
    uint nearest[QUERIES];
    float4 query[QUERIES][FOURS];
    for (uint q = 0; q < QUERIES; q++) {
        const uint pixel = lists[map * params.seed_stride + min(first + q, queries - 1)];
        for (uint four = 0; four < FOURS; four++) {
            query[q][four] = packed[(map * params.pixel_stride + pixel) * FOURS + four];
        }
        best[q] = -INFINITY;
        nearest[q] = NOWHERE;
    }
    const uint end = min((position.y + 1) * params.slice, pixels_of(params, partner));
    for (uint pixel = position.y * params.slice; pixel < end; pixel++) {
        device const float4* other = packed + (partner * params.pixel_stride + pixel) * FOURS;
        F score[QUERIES];
        for (uint q = 0; q < QUERIES; q++) {
            score[q] = 0.0f;
        }
        for (uint four = 0; four < FOURS; four++) {
            const float4 values = other[four];
            for (uint q = 0; q < QUERIES; q++) {
                const float4 products = query[q][four] * values;
                score[q] = score[q] + products.x;
                score[q] = score[q] + products.y;
                score[q] = score[q] + products.z;
                score[q] = score[q] + products.w;
            }
        }
        for (uint q = 0; q < QUERIES; q++) {
            // The earliest of several stays.
            if (score[q] > best[q]) {
                best[q] = score[q];
                nearest[q] = pixel;
            }
        }
    }
    for (uint q = 0; q < QUERIES; q++) {
        if (first + q < queries) {
            device Found* to = found + (map * params.slices + position.y) * params.seed_stride + first + q;
            to->score = best[q];
            to->pixel = nearest[q];
        }
    }
}

// The best of all slices, the earliest of several. Threads are (seeds, maps, 1).
template <typename F>
[[kernel]] void reciprocal_answer(SEARCH_ARGUMENTS) {
    const uint row = position.x;
    const uint map = position.y;
    if (row >= queries_of(params, counts, map)) {
        return;
    }
    F best = -INFINITY;
    // Descriptors that are not numbers have no nearest one; the host learns of them by the statistics.
    uint nearest = 0;
    for (uint slice = 0; slice < params.slices; slice++) {
        device const Found* of_slice = found + (map * params.slices + slice) * params.seed_stride + row;
        if (of_slice->score > best) {
            best = of_slice->score;
            nearest = of_slice->pixel;
        }
    }
    answers[map * params.pixel_stride + lists[map * params.seed_stride + row]] = nearest;
}

template [[host_name("reciprocal_pack_f32")]] [[kernel]] decltype(reciprocal_pack<float>) reciprocal_pack<float>;
template [[host_name("reciprocal_step_f32")]] [[kernel]] decltype(reciprocal_step<float>) reciprocal_step<float>;
template [[host_name("reciprocal_search_f32")]] [[kernel]] decltype(reciprocal_search<float>) reciprocal_search<float>;
template [[host_name("reciprocal_answer_f32")]] [[kernel]] decltype(reciprocal_answer<float>) reciprocal_answer<float>;
