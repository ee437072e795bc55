// Pairs of images of random worlds that resemble photographs, from nothing but a seed each: worlds.cuh decides what
// stands where, this file runs it, ray traces both views and passes them through two cameras (lenses.cuh). nvcc makes
// kernels of this file, g++ plain loops over the same functions.
//
// World frame: z up, metres. Camera frame: x right, y down, z forward; the centre of the top left pixel is (0, 0) and
// the principal point ((width - 1) / 2, (height - 1) / 2). All arrays are dense and row-major:
//   seeds   (pairs)                        int32, what decides a pair
//   hardest (pairs)                        float32 in [0, 1], see worlds.py
// and the outputs:
//   rgb     (pairs, 2, 3, height, width)   uint8
//   depth   (pairs, 2, height, width)      float32 along the view's own z axis; 0 where nothing is hit
//   points  (pairs, 2, height, width, 3)   float32 in the frame of the pair's first camera; 0 where nothing is hit
//   kind    (pairs, 2, height, width)      uint8: 0 sky, 1 what stays, 2 what has moved between the views
//   poses   (pairs, 2, 13)                 float32: world_from_camera 9, centre 3, focal length in pixels; written,
//                                                 or read with the option CAMERAS_GIVEN

#include <cstring>

#include "worlds.cuh"
#include "lenses.cuh"

constexpr int TILE_WIDTH = 16, TILE_HEIGHT = 8, TILE = TILE_WIDTH * TILE_HEIGHT, CANDIDATES = 8;

struct Job {
    Packs packs;
    World* worlds;
    Solid* solids;
    float* heights;       // (pairs, GRID, GRID)
    float* scores;        // (pairs, CANDIDATES)
    float* meters;        // (pairs, 2): exposure of a view
    float* linear;        // (pairs, 2, 3, height, width)
    float* normals;       // (pairs, 2, height, width, 4): of what a pixel's centre shows, in its frame, and its part
    int* marks;           // (pairs, 2, height, width): its solid and part, as they tell edges
    const int* seeds;
    const float* hardest;
    unsigned char* rgb;
    float* depth;
    float* points;
    unsigned char* kind;
    float* poses;
    int pairs, height, width, samples, options;
};

FN Scenery scenery(const Job& job, int pair) {
    Scenery w = {job.worlds + pair, job.solids + (size_t)pair * MOST_SOLIDS, job.heights + (size_t)pair * GRID * GRID, &job.packs, nullptr, nullptr, 0};
    return w;
}

// ---- making a world -----------------------------------------------------------------------------------------------

FN void make_pair(const Job& job, int pair) {
    make_world(job.worlds + pair, job.solids + (size_t)pair * MOST_SOLIDS, &job.packs, hash((uint32_t)job.seeds[pair]), job.hardest[pair], job.options);
}

FN void make_height(const Job& job, int pair, int i) {
    const Land_& land = job.worlds[pair].land;
    if (land.style == FLAT) { return; }
    float x = ((i % GRID + 0.5f) * 2.0f / GRID - 1.0f) * land.extent, y = ((i / GRID + 0.5f) * 2.0f / GRID - 1.0f) * land.extent;
    job.heights[(size_t)pair * GRID * GRID + i] = land_at(land, x, y);
}

struct Trial {
    Camera cameras[2];
    float counts[COUNTS];
};

FN void judge(Team team, const Job& job, int pair, int candidate, Trial* trial) {
    Scenery w = scenery(job, pair);
    if (team.lane == 0) {
        propose(*w.world, candidate, trial->cameras);
        for (int i = 0; i < COUNTS; i++) { trial->counts[i] = 0.0f; }
    }
    wait_for_all();
    for (int i = team.lane; i < PROBES * PROBES; i += team.size) { probe(w, trial->cameras, i, trial->counts); }
    wait_for_all();
    if (team.lane == 0) { job.scores[pair * CANDIDATES + candidate] = score(*w.world, trial->counts); }
}

FN void choose(const Job& job, int pair) {
    World& w = job.worlds[pair];
    int best = 0;
    for (int i = 1; i < CANDIDATES; i++) {
        if (job.scores[pair * CANDIDATES + i] > job.scores[pair * CANDIDATES + best]) { best = i; }
    }
    Camera posed[2];
    propose(w, best, posed);
    float longer = job.height > job.width ? job.height : job.width;
    for (int view = 0; view < 2 && job.options & CAMERAS_GIVEN; view++) {
        const float* pose = job.poses + (pair * 2 + view) * 13;
        for (int i = 0; i < 9; i++) { posed[view].turn[i] = pose[i]; }
        posed[view].centre = at(pose + 9);
        posed[view].focal = pose[12] / longer;
    }
    for (int view = 0; view < 2; view++) {
        Camera& c = w.cameras[view];
        for (int i = 0; i < 9; i++) { c.turn[i] = posed[view].turn[i]; }
        c.centre = posed[view].centre;
        c.focal = posed[view].focal;
        float* pose = job.poses + (pair * 2 + view) * 13;
        for (int i = 0; i < 9; i++) { pose[i] = c.turn[i]; }
        pose[9] = c.centre.x;
        pose[10] = c.centre.y;
        pose[11] = c.centre.z;
        pose[12] = c.focal * longer;
    }
}

// ---- images -----------------------------------------------------------------------------------------------------

struct Listed {           // of a tile
    int count, edge_count, caster_count, nearest, farthest;  // the last two are the bits of positive depths
    short list[MOST_SOLIDS], casters[MOST_SOLIDS], edges[TILE];  // solids that may be seen, that may shade them, pixels on edges
    Bounds bounds[MOST_SOLIDS];
};

FN void append(short* list, int* count, int value) {
#ifdef __CUDACC__
    list[atomicAdd(count, 1)] = (short)value;
#else
    list[(*count)++] = (short)value;
#endif
}
FN void widen(int* least, int* most, float value) {  // positive floats are ordered as their bits are
#ifdef __CUDACC__
    atomicMin(least, __float_as_int(value));
    atomicMax(most, __float_as_int(value));
#else
    int bits;
    memcpy(&bits, &value, sizeof(bits));
    *least = bits < *least ? bits : *least;
    *most = bits > *most ? bits : *most;
#endif
}
FN float from_bits(int bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

FN Vec ray(const Camera& c, const Job& job, float row, float column) {
    float pixel = 1.0f / (c.focal * (job.height > job.width ? job.height : job.width));
    return times(c.turn, vec((column - 0.5f * (job.width - 1)) * pixel, (row - 0.5f * (job.height - 1)) * pixel, 1.0f));
}

FN void list_solids(Team team, const Job& job, Scenery& w, int view, int top, int left, Listed* listed) {
    w.bounds = listed->bounds;
    const Camera& c = w.world->cameras[view];
    if (team.lane == 0) {
        listed->count = listed->edge_count = listed->caster_count = listed->farthest = 0;
        listed->nearest = 0x7f800000;
    }
    wait_for_all();
    Vec axis = unit(ray(c, job, top + 0.5f * TILE_HEIGHT, left + 0.5f * TILE_WIDTH));
    float cosine = 1.0f;
    for (int i = 0; i < 4; i++) {
        Vec corner = unit(ray(c, job, top - 0.6f + (i & 1) * (TILE_HEIGHT + 0.2f), left - 0.6f + (i >> 1) * (TILE_WIDTH + 0.2f)));
        cosine = smaller(cosine, dot(axis, corner));
    }
    float sine = sqrtf(larger(1.0f - cosine * cosine, 0.0f));
    for (int i = team.lane; i < w.world->count; i += team.size) {
        const Solid& s = w.solids[i];
        bool in = ((s.views >> view) & 1) && s.shape != EMPTY, endless = s.shape == CHAMBER || s.shape == PLANE || s.shape == LAND;
        listed->bounds[i].centre = s.centre;
        listed->bounds[i].radius = !in || s.shape == PLANE ? -1.0f : endless ? 1e9f : s.radius;
        if (in && !endless) {
            Vec v = s.centre - c.centre;
            float along = dot(v, axis), beside = sqrtf(larger(dot(v, v) - along * along, 0.0f));
            in = dot(v, v) < s.radius * s.radius || beside * cosine - along * sine <= s.radius;
            in = in && along > -s.radius;
        }
        if (in) { append(listed->list, &listed->count, i); }
    }
    wait_for_all();
}

// Row and column in its tile of a thread's pixel: a warp's are a block of 8 x 4, whose rays take much the same way.
FN int row_of(int i) { return i / 64 * 4 + i % 32 / 8; }
FN int column_of(int i) { return i / 32 % 2 * 8 + i % 8; }

FN int mark_of(int found, const Hit& hit, const Solid* solids) {
    return found < 0 ? -1 : found * 32 + (solids[found].shape == MESH ? 0 : hit.part & 31);
}

FN void trace_tile(Team team, const Job& job, int image, int top, int left, Listed* listed) {
    int pair = image / 2, view = image % 2;
    Scenery w = scenery(job, pair);
    list_solids(team, job, w, view, top, left, listed);
    for (int i = team.lane; i < TILE; i += team.size) {
        int row = top + row_of(i), column = left + column_of(i);
        if (row >= job.height || column >= job.width) { continue; }
        size_t place = ((size_t)image * job.height + row) * job.width + column;
        const Camera& c = w.world->cameras[view];
        const Camera& first = w.world->cameras[0];
        Vec d = ray(c, job, row, column);  // its z is 1 in the camera's frame, so t is the depth
        Hit hit = {0.0f, vec(0, 0, 1), 0};
        int found = nearest_hit(w, listed->list, listed->count, view, c.centre, d, &hit);
        Vec point = found < 0 ? vec(0, 0, 0) : transposed_times(first.turn, c.centre - first.centre + d * hit.t);
        job.marks[place] = mark_of(found, hit, w.solids);
        job.normals[4 * place] = hit.normal.x;
        job.normals[4 * place + 1] = hit.normal.y;
        job.normals[4 * place + 2] = hit.normal.z;
        job.normals[4 * place + 3] = (float)hit.part;
        job.depth[place] = found < 0 ? 0.0f : hit.t;
        job.points[3 * place] = point.x;
        job.points[3 * place + 1] = point.y;
        job.points[3 * place + 2] = point.z;
        job.kind[place] = found < 0 ? 0 : w.solids[found].views == 3 ? 1 : 2;
    }
    wait_for_all();
}

// Whether a pixel lies on an edge, where one ray does not tell its colour.
FN bool on_edge(const Job& job, size_t image, int row, int column) {
    size_t place = (image * job.height + row) * job.width + column;
    int mark = job.marks[place];
    float depth = job.depth[place];
    for (int i = 0; i < 4; i++) {
        int y = row + (i == 0) - (i == 1), x = column + (i == 2) - (i == 3);
        if (y < 0 || x < 0 || y >= job.height || x >= job.width) { continue; }
        size_t other = (image * job.height + y) * job.width + x;
        if (job.marks[other] != mark || fabsf(job.depth[other] - depth) > 0.06f * depth) { return true; }
    }
    return false;
}

// Lists the solids that may shade what a tile shows: those that come near the way from there to the light.
FN void list_casters(Team team, const Job& job, Scenery& w, int image, int top, int left, Listed* listed) {
    const Camera& c = w.world->cameras[image % 2];
    const Light& l = w.world->lights[image % 2];
    for (int i = team.lane; i < TILE; i += team.size) {
        int row = top + row_of(i), column = left + column_of(i);
        if (row >= job.height || column >= job.width) { continue; }
        float depth = job.depth[((size_t)image * job.height + row) * job.width + column];
        if (depth > 0.0f) { widen(&listed->nearest, &listed->farthest, depth); }
    }
    wait_for_all();
    float near = from_bits(listed->nearest), far = from_bits(listed->farthest);
    if (near <= far) {
        float across = 0.5f * (TILE_WIDTH + TILE_HEIGHT) / (c.focal * (job.height > job.width ? job.height : job.width)) * far;
        Vec axis = ray(c, job, top + 0.5f * TILE_HEIGHT, left + 0.5f * TILE_WIDTH), middle = c.centre + axis * (0.5f * (near + far));
        float deep = 0.5f * (far - near) * sqrtf(dot(axis, axis)), reach = 1.02f * sqrtf(deep * deep + across * across);
        Vec way = l.lamp ? l.sun - middle : l.sun * (2.0f * FARTHEST);
        float inverse = 1.0f / larger(dot(way, way), 1e-6f);
        for (int i = team.lane; i < w.world->count; i += team.size) {
            Bounds b = listed->bounds[i];
            Vec from = b.centre - middle, apart = from - way * clamp01(dot(from, way) * inverse);
            float limit = b.radius + reach;
            if (b.radius >= 0.0f && dot(apart, apart) <= limit * limit) { append(listed->casters, &listed->caster_count, i); }
        }
    }
    wait_for_all();
    w.casters = listed->casters;
    w.caster_count = listed->caster_count;
}

FN Vec bounded(Vec c) { return vec(smaller(c.x, 6.0f), smaller(c.y, 6.0f), smaller(c.z, 6.0f)); }

// Every pixel is first shaded through its middle; those on edges then look for what else they show. Textures are filtered, so that
// no part of a pixel is shaded twice.
FN void shade_tile(Team team, const Job& job, int image, int top, int left, Listed* listed) {
    int view = image % 2;
    Scenery w = scenery(job, image / 2);
    list_solids(team, job, w, view, top, left, listed);
    list_casters(team, job, w, image, top, left, listed);
    const Camera& c = w.world->cameras[view];
    float pixel = 1.0f / (c.focal * (job.height > job.width ? job.height : job.width));
    size_t plane = (size_t)job.height * job.width;
    float* linear = job.linear + (size_t)image * 3 * plane;
    const int* marks = job.marks + (size_t)image * plane;
    for (int i = team.lane; i < TILE; i += team.size) {
        int row = top + row_of(i), column = left + column_of(i);
        if (row >= job.height || column >= job.width) { continue; }
        size_t place = (size_t)row * job.width + column;
        int found = marks[place] < 0 ? -1 : marks[place] / 32;
        Vec d = ray(c, job, row, column);
        const float* normal = job.normals + 4 * ((size_t)image * plane + place);
        Hit hit = {job.depth[(size_t)image * plane + place], at(normal), (int)normal[3]};
        Vec colour = bounded(shade(w, view, found, hit, c.centre, d, pixel));
        linear[place] = colour.x;
        linear[place + plane] = colour.y;
        linear[place + 2 * plane] = colour.z;
        if (job.samples > 1 && on_edge(job, image, row, column)) { append(listed->edges, &listed->edge_count, i); }
    }
    wait_for_all();
    for (int e = team.lane; e < listed->edge_count; e += team.size) {
        int i = listed->edges[e], row = top + row_of(i), column = left + column_of(i), others = 0, other = -1;
        size_t place = (size_t)row * job.width + column;
        Hit hit, best;
        Vec direction = vec(0, 0, 1);
        for (int k = 0; k < job.samples; k++) {  // a rotated grid of four
            Vec d = ray(c, job, row + 0.125f + 0.25f * ((k * 2 + 1 + k / 2) & 3) - 0.5f, column + 0.125f + 0.25f * k - 0.5f);
            int found = nearest_hit(w, listed->list, listed->count, view, c.centre, d, &hit);
            if (mark_of(found, hit, w.solids) == marks[place]) { continue; }
            if (others++ == 0) {
                other = found;
                best = hit;
                direction = d;
            }
        }
        if (others == 0) { continue; }
        Vec colour = bounded(shade(w, view, other, best, c.centre, direction, pixel));
        float share = (float)others / job.samples;
        linear[place] = mix(linear[place], colour.x, share);
        linear[place + plane] = mix(linear[place + plane], colour.y, share);
        linear[place + 2 * plane] = mix(linear[place + 2 * plane], colour.z, share);
    }
    wait_for_all();
}

FN void meter(Team team, const Job& job, int image, float* sum) {
    const float* linear = job.linear + (size_t)image * 3 * job.height * job.width;
    if (team.lane == 0) { *sum = 0.0f; }
    wait_for_all();
    float own = 0.0f;
    for (int i = team.lane; i < METERED; i += team.size) { own += metered(linear, job.height, job.width, i); }
    add_to(sum, own);
    wait_for_all();
    if (team.lane == 0) { job.meters[image] = *sum; }
}

FN void develop_patch(Team team, const Job& job, int image, int top, int left, Patch* patch) {
    size_t plane = (size_t)job.height * job.width;
    const World& w = job.worlds[image / 2];
    const Camera& c = w.cameras[image % 2];
    float bright = job.meters[c.held ? image / 2 * 2 : image], exposure = MIDDLE * MIDDLE / larger(bright * bright, 1e-4f);
    develop(team, patch, c, exposure, job.linear + image * 3 * plane, hash(w.seed + 77u * (1 + image % 2)), job.height, job.width, top, left, job.rgb + image * 3 * plane);
}

// ---- running it ---------------------------------------------------------------------------------------------------

#ifdef __CUDACC__
__global__ void make_kernel(Job job) {
    int pair = blockIdx.x * blockDim.x + threadIdx.x;
    if (pair < job.pairs) { make_pair(job, pair); }
}
__global__ void height_kernel(Job job) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < GRID * GRID) { make_height(job, blockIdx.y, i); }
}
__global__ void judge_kernel(Job job) {
    __shared__ Trial trial;
    Team team = {(int)threadIdx.x, (int)blockDim.x};
    judge(team, job, blockIdx.y, blockIdx.x, &trial);
}
__global__ void choose_kernel(Job job) {
    int pair = blockIdx.x * blockDim.x + threadIdx.x;
    if (pair < job.pairs) { choose(job, pair); }
}
__global__ void __launch_bounds__(TILE) trace_kernel(Job job, int across) {
    __shared__ Listed listed;
    Team team = {(int)threadIdx.x, TILE};
    trace_tile(team, job, blockIdx.y, blockIdx.x / across * TILE_HEIGHT, blockIdx.x % across * TILE_WIDTH, &listed);
}
__global__ void __launch_bounds__(TILE) shade_kernel(Job job, int across) {
    __shared__ Listed listed;
    Team team = {(int)threadIdx.x, TILE};
    shade_tile(team, job, blockIdx.y, blockIdx.x / across * TILE_HEIGHT, blockIdx.x % across * TILE_WIDTH, &listed);
}
__global__ void meter_kernel(Job job) {
    __shared__ float sum;
    Team team = {(int)threadIdx.x, (int)blockDim.x};
    meter(team, job, blockIdx.x, &sum);
}
__global__ void __launch_bounds__(128) develop_kernel(Job job, int across) {
    __shared__ Patch patch;
    Team team = {(int)threadIdx.x, 128};
    develop_patch(team, job, blockIdx.y, blockIdx.x / across * 16, blockIdx.x % across * 16, &patch);
}
#endif

// Bytes that a pair needs in `worlds`, `solids`, `heights`, `scores` and `meters`.
extern "C" void sizes(int* bytes) {
    bytes[0] = sizeof(World);
    bytes[1] = MOST_SOLIDS * sizeof(Solid);
    bytes[2] = GRID * GRID * sizeof(float);
    bytes[3] = CANDIDATES * sizeof(float);
    bytes[4] = 2 * sizeof(float);
}

// Makes and renders `job.pairs` pairs on a GPU's `stream`; 0, or the error's number.
extern "C" int render_worlds(const Job* given, int device, void* stream) {
    const Job job = *given;
    int across = (job.width + TILE_WIDTH - 1) / TILE_WIDTH, tiles = across * ((job.height + TILE_HEIGHT - 1) / TILE_HEIGHT);
    int wide = (job.width + 15) / 16, patches = wide * ((job.height + 15) / 16);
#ifdef __CUDACC__
    if (cudaSetDevice(device) != cudaSuccess) { return (int)cudaGetLastError(); }
    cudaStream_t s = (cudaStream_t)stream;
    make_kernel<<<(job.pairs + 31) / 32, 32, 0, s>>>(job);
    height_kernel<<<dim3((GRID * GRID + 127) / 128, job.pairs), 128, 0, s>>>(job);
    judge_kernel<<<dim3(CANDIDATES, job.pairs), 64, 0, s>>>(job);
    choose_kernel<<<(job.pairs + 31) / 32, 32, 0, s>>>(job);
    trace_kernel<<<dim3(tiles, job.pairs * 2), TILE, 0, s>>>(job, across);
    shade_kernel<<<dim3(tiles, job.pairs * 2), TILE, 0, s>>>(job, across);
    meter_kernel<<<job.pairs * 2, 64, 0, s>>>(job);
    develop_kernel<<<dim3(patches, job.pairs * 2), 128, 0, s>>>(job, wide);
    return (int)cudaGetLastError();
#else
    (void)device;
    (void)stream;
    Team alone = {0, 1};
    Trial trial;
    Listed listed;
    Patch patch;
    float sum;
    for (int pair = 0; pair < job.pairs; pair++) {
        make_pair(job, pair);
        for (int i = 0; i < GRID * GRID; i++) { make_height(job, pair, i); }
        for (int i = 0; i < CANDIDATES; i++) { judge(alone, job, pair, i, &trial); }
        choose(job, pair);
        for (int image = 2 * pair; image < 2 * pair + 2; image++) {
            for (int i = 0; i < tiles; i++) { trace_tile(alone, job, image, i / across * TILE_HEIGHT, i % across * TILE_WIDTH, &listed); }
            for (int i = 0; i < tiles; i++) { shade_tile(alone, job, image, i / across * TILE_HEIGHT, i % across * TILE_WIDTH, &listed); }
            meter(alone, job, image, &sum);
            for (int i = 0; i < patches; i++) { develop_patch(alone, job, image, i / wide * 16, i % wide * 16, &patch); }
        }
    }
    return 0;
#endif
}
