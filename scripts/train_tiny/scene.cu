// Both views of procedural scenes, ray traced: colour, depth and ground-truth points. One thread makes one pixel.
// nvcc makes a kernel of this file, g++ a plain loop over the same functions.
//
// World frame: z up, metres. Camera frame: x right, y down, z forward; the centre of the top left pixel is (0, 0) and
// the principal point ((width - 1) / 2, (height - 1) / 2). All arrays are dense, row-major float32:
//   scenes (pairs, 12)            light x y z, ambient, light strength, sky colour r g b, haze r g b, seed
//   solids (pairs, solids, 32)    kind, centre 3, half sizes 3, world_from_local 9 (row-major), texture kind, texture
//                                 cell in metres, colour a 3, colour b 3, seed, weathering, its cell, gloss, of a room
//                                 the first and the number of textures its walls choose from, 2 unused
//   views  (pairs, 2, 20)         world_from_camera 9 (row-major), centre 3, focal length in pixels, gain r g b, noise,
//                                 contrast, 2 unused
// and the outputs:
//   rgb    (pairs, 2, 3, height, width)  uint8
//   depth  (pairs, 2, height, width)     along the view's own z axis; 0 where nothing is hit
//   points (pairs, 2, height, width, 3)  in the frame of the pair's first camera; 0 where nothing is hit

#include "paint.cuh"

enum Kind { NONE, BOX, ELLIPSOID, CYLINDER, CONE, ROOM, GROUND, TERRAIN };
constexpr int SCENE = 12, SOLID = 32, VIEW = 20, MAX_SOLIDS = 32, WAVES = 4;
constexpr float FAR_AWAY = 40.0f;

// Colour of a solid at `q`, a point of its local frame in metres, where the local normal is `n`.
FN Vec surface_colour(const float* s, Vec q, Vec n, float pixel_size) {
    Vec size = vec(fabsf(n.x), fabsf(n.y), fabsf(n.z));
    int axis = size.x > size.y ? (size.x > size.z ? 0 : 2) : (size.y > size.z ? 1 : 2);
    float u = axis == 0 ? q.y : q.x, v = axis == 2 ? q.y : q.z;
    uint32_t seed = (uint32_t)s[24], kind = (uint32_t)s[16];
    Vec a = at(s + 18), b = at(s + 21);
    float cell = s[17];
    if ((int)s[0] == ROOM) {  // each wall has a paint of its own
        float side = axis == 0 ? n.x : axis == 1 ? n.y : n.z;
        seed = hash(seed + axis * 2 + (side > 0.0f));
        kind = (uint32_t)s[28] + hash(seed + 1u) % (uint32_t)s[29];
        cell *= 0.6f + 0.8f * in_unit(hash(seed + 2u));
        float swap = in_unit(hash(seed + 3u)), shade = 0.7f + 0.6f * in_unit(hash(seed + 4u));
        Vec first = mix(a, b, swap) * shade;
        b = mix(b, vec(a.y, a.z, a.x), swap);
        a = first;
    }
    // Away from zero, where a mirrored pattern would show, and not the same part of the pattern on every solid.
    u += 31.0f + (seed & 255u);
    v += 57.0f + ((seed >> 8) & 255u);
    Paint p = paint((int)kind, u / cell, v / cell, seed, pixel_size / cell);
    float wear = fractal(u / s[26], v / s[26], seed + 9u, pixel_size / s[26]);
    return mix(a, b, clamp01(p.blend)) * (p.tone * (1.0f + s[25] * (2.0f * wear - 1.0f)));
}

// ---- solids -------------------------------------------------------------------------------------------------------

struct Hit {
    float t;
    Vec normal;  // in the solid's local frame, not of unit length
};

// Height and steepest slope of the terrain at a local point.
FN float terrain_height(const float* s, float x, float y) {
    uint32_t h = (uint32_t)s[24];
    float sum = 0.0f;
    for (int i = 0; i < WAVES; i++) {
        h = hash(h + i);
        float angle = 6.2832f * in_unit(h), k = (0.5f + 0.35f * i) / s[4];
        sum += (1.0f / (1.5f + i)) * sinf(k * (cosf(angle) * x + sinf(angle) * y) + 6.2832f * in_unit(hash(h)));
    }
    return 0.6f * s[6] * sum;
}
FN float terrain_slope(const float* s) {
    float sum = 0.0f;
    for (int i = 0; i < WAVES; i++) { sum += (0.5f + 0.35f * i) / s[4] / (1.5f + i); }
    return 0.6f * s[6] * sum;
}

FN bool hit_terrain(const float* s, Vec o, Vec d, float limit, Hit* hit) {
    float top = s[6], t = 0.0f;
    if (o.z > top) {
        if (d.z >= 0.0f) { return false; }
        t = (top - o.z) / d.z;
    }
    // No step is longer than the gap allows at the steepest slope, so that nothing is stepped over.
    float closing = terrain_slope(s) * sqrtf(d.x * d.x + d.y * d.y) - d.z, gap = 1.0f;
    if (closing <= 0.0f) { return false; }
    for (int i = 0; i < 160 && t < limit; i++) {
        gap = o.z + t * d.z - terrain_height(s, o.x + t * d.x, o.y + t * d.y);
        if (gap < 2e-4f * t) { break; }
        t += gap / closing;
    }
    if (t >= limit || gap > 5e-3f * t) { return false; }
    float x = o.x + t * d.x, y = o.y + t * d.y, e = 0.02f, h = terrain_height(s, x, y);
    hit->t = t;
    hit->normal = vec((h - terrain_height(s, x + e, y)) / e, (h - terrain_height(s, x, y + e)) / e, 1.0f);
    return true;
}

FN float component(Vec a, int axis) { return axis == 0 ? a.x : axis == 1 ? a.y : a.z; }
FN Vec axis_normal(int axis, float sign) {
    return vec(axis == 0 ? sign : 0.0f, axis == 1 ? sign : 0.0f, axis == 2 ? sign : 0.0f);
}

// Where the ray o + t d meets solid `s` between `first` and `limit`, coming from outside (from inside for a room).
FN bool hit_solid(const float* s, Vec o, Vec d, float first, float limit, Hit* hit) {
    int kind = (int)s[0];
    if (kind == NONE) { return false; }
    Vec half = at(s + 4), from = o - at(s + 1);
    if (kind < ROOM) {  // most rays miss even the sphere about it
        float dd = dot(d, d), along = dot(from, d);
        if (dot(from, from) * dd - along * along > 1.001f * dot(half, half) * dd) { return false; }
    }
    Vec lo = transposed_times(s + 7, from), ld = transposed_times(s + 7, d);
    if (kind == GROUND) {
        float t = -lo.z / ld.z;
        hit->t = t;
        hit->normal = vec(0.0f, 0.0f, 1.0f);
        return ld.z < 0.0f && t > first && t < limit;
    }
    if (kind == TERRAIN) { return hit_terrain(s, lo, ld, limit, hit); }
    Vec inverse = vec(1.0f / half.x, 1.0f / half.y, 1.0f / half.z);
    Vec p = lo * inverse, q = ld * inverse;  // the solid is now of size one
    float best = limit;
    if (kind == BOX || kind == ROOM) {
        float near = -1e30f, far = 1e30f;
        int near_axis = 0, far_axis = 0;
        for (int axis = 0; axis < 3; axis++) {
            float direction = component(q, axis);
            float inv = 1.0f / (fabsf(direction) > 1e-9f ? direction : 1e-9f), middle = -component(p, axis) * inv;
            float reach = fabsf(inv);
            if (middle - reach > near) { near = middle - reach; near_axis = axis; }
            if (middle + reach < far) { far = middle + reach; far_axis = axis; }
        }
        int axis = kind == BOX ? near_axis : far_axis;
        hit->t = kind == BOX ? near : far;
        hit->normal = axis_normal(axis, component(q, axis) > 0.0f ? -1.0f : 1.0f);
        return near < far && hit->t > first && hit->t < limit;
    }
    // Quadrics about z: x^2 + y^2 + e z^2 + 2 g z = r.
    float e = 0.0f, g = 0.0f, r = 1.0f;
    if (kind == ELLIPSOID) { e = 1.0f; }
    if (kind == CONE) { e = -0.25f; g = 0.25f; r = 0.25f; }  // radius (1 - z) / 2
    float a = q.x * q.x + q.y * q.y + e * q.z * q.z;
    float b = p.x * q.x + p.y * q.y + e * p.z * q.z + g * q.z;
    float c = p.x * p.x + p.y * p.y + e * p.z * p.z + 2.0f * g * p.z - r;
    float inside = b * b - a * c;
    if (inside > 0.0f && fabsf(a) > 1e-12f) {
        float root = sqrtf(inside);
        for (int k = 0; k < 2; k++) {
            // The nearer root of two; the farther serves a cone, whose other half is no part of the solid.
            float t = (-b + ((k == 0) == (a > 0.0f) ? -root : root)) / a, z = p.z + t * q.z;
            if (t > first && t < best && (kind == ELLIPSOID || fabsf(z) <= 1.0f) && (k == 0 || kind == CONE)) {
                best = t;
                hit->t = t;
                hit->normal = vec((p.x + t * q.x) * inverse.x, (p.y + t * q.y) * inverse.y, (e * z + g) * inverse.z);
            }
        }
    }
    if (kind == CYLINDER || kind == CONE) {  // the caps; a cone has the lower one alone
        float side = kind == CONE || q.z > 0.0f ? -1.0f : 1.0f, t = (side - p.z) / q.z;
        float x = p.x + t * q.x, y = p.y + t * q.y;
        if (t > first && t < best && x * x + y * y <= 1.0f) {
            best = t;
            hit->t = t;
            hit->normal = vec(0.0f, 0.0f, side);
        }
    }
    return best < limit;
}

// The nearest solid along the ray, or -1.
FN int nearest_hit(const float* solids, int count, Vec o, Vec d, Hit* hit) {
    int found = -1;
    hit->t = FAR_AWAY;
    for (int i = 0; i < count; i++) {
        Hit candidate;
        if (hit_solid(solids + i * SOLID, o, d, 0.02f, hit->t, &candidate)) {
            *hit = candidate;
            found = i;
        }
    }
    return found;
}

FN bool in_shadow(const float* solids, int count, Vec o, Vec d) {
    Hit ignored;
    for (int i = 0; i < count; i++) {
        int kind = (int)solids[i * SOLID];
        if (kind < ROOM && hit_solid(solids + i * SOLID, o, d, 0.0f, 1.0f, &ignored)) { return true; }
    }
    return false;
}

// ---- images -----------------------------------------------------------------------------------------------------

FN Vec trace_colour(const float* scene, const float* solids, int count, Vec o, Vec d, float pixel) {
    Hit hit;
    int found = nearest_hit(solids, count, o, d, &hit);
    Vec towards = unit(d);
    if (found < 0) {
        float spread = 3.0f / (fabsf(towards.z) + 0.2f);
        float clouds = fractal(spread * towards.x, spread * towards.y, (uint32_t)scene[11], 0.0f);
        return mix(at(scene + 8), at(scene + 5), clamp01(0.4f * clouds + larger(towards.z, 0.0f)));
    }
    const float* s = solids + found * SOLID;
    Vec world = o + d * hit.t, local = transposed_times(s + 7, world - at(s + 1)), n = unit(times(s + 7, hit.normal));
    float slant = larger(fabsf(dot(n, towards)), 0.15f);
    if (dot(n, towards) > 0.0f) { n = n * -1.0f; }
    Vec colour = surface_colour(s, local, hit.normal, hit.t * pixel / slant);
    Vec light = at(scene) - world, to_light = unit(light);
    float lit = larger(dot(n, to_light), 0.0f), shine = 0.0f;
    if (lit > 0.0f && in_shadow(solids, count, world + n * 2e-3f, light)) { lit = 0.0f; }
    if (lit > 0.0f && s[27] > 0.0f) {
        float along = larger(dot(n, unit(to_light - towards)), 0.0f);
        along *= along; along *= along; along *= along; along *= along;
        shine = s[27] * along * along;
    }
    float brightness = scene[3] * (0.75f + 0.25f * n.z) + scene[4] * lit;
    return colour * brightness + vec(shine, shine, shine) * scene[4];
}

FN void make_pixel(const float* scene, const float* solids, int count, const float* views, int view, int height,
                   int width, int samples, int row, int column, unsigned char* rgb, float* depth, float* points) {
    const float* camera = views + view * VIEW;
    Vec centre = at(camera + 9);
    float pixel = 1.0f / camera[12];
    float x = (column - 0.5f * (width - 1)) * pixel, y = (row - 0.5f * (height - 1)) * pixel;

    // The direction's z in the camera's frame is 1, so that the ray's parameter is the depth.
    Vec d = times(camera, vec(x, y, 1.0f));
    Hit hit;
    int found = nearest_hit(solids, count, centre, d, &hit);
    Vec point = found < 0 ? vec(0.0f, 0.0f, 0.0f) : transposed_times(views, centre + d * hit.t - at(views + 9));
    *depth = found < 0 ? 0.0f : hit.t;
    points[0] = point.x;
    points[1] = point.y;
    points[2] = point.z;

    Vec sum = vec(0.0f, 0.0f, 0.0f);
    for (int i = 0; i < samples; i++) {  // one in the middle, or a rotated grid of four
        float across = samples == 1 ? 0.0f : (0.125f + 0.25f * i - 0.5f) * pixel;
        float down = samples == 1 ? 0.0f : (0.125f + 0.25f * ((i * 2 + 1 + i / 2) & 3) - 0.5f) * pixel;
        Vec colour = trace_colour(scene, solids, count, centre, times(camera, vec(x + across, y + down, 1.0f)), pixel);
        sum = sum + vec(clamp01(colour.x), clamp01(colour.y), clamp01(colour.z));
    }
    sum = sum * (1.0f / samples);
    uint32_t h = hash(column, row, (uint32_t)scene[11] + 77u * (view + 1));
    float value[3] = {sum.x, sum.y, sum.z};
    for (int c = 0; c < 3; c++) {
        h = hash(h + c);
        float noise = (in_unit(h) + in_unit(hash(h)) - 1.0f) * 2.45f * camera[16];
        float bright = powf(larger(value[c] * camera[13 + c], 1e-4f), camera[17]) + noise;
        rgb[(size_t)c * height * width] = (unsigned char)(255.0f * clamp01(bright) + 0.5f);
    }
}

#ifdef __CUDACC__
__global__ void __launch_bounds__(128)
    render_kernel(const float* scenes, const float* solids, const float* views, int count, int height, int width,
                  int samples, unsigned char* rgb, float* depth, float* points) {
    __shared__ float scene[SCENE], all[MAX_SOLIDS * SOLID], both[2 * VIEW];
    size_t pair = blockIdx.y / 2, image = blockIdx.y;
    for (int i = threadIdx.x; i < count * SOLID; i += blockDim.x) { all[i] = solids[pair * count * SOLID + i]; }
    if (threadIdx.x < 2 * VIEW) { both[threadIdx.x] = views[pair * 2 * VIEW + threadIdx.x]; }
    if (threadIdx.x < SCENE) { scene[threadIdx.x] = scenes[pair * SCENE + threadIdx.x]; }
    __syncthreads();
    int i = blockIdx.x * blockDim.x + threadIdx.x, pixels = height * width;
    if (i < pixels) {
        size_t place = image * pixels + i;
        make_pixel(scene, all, count, both, image % 2, height, width, samples, i / width, i % width,
                   rgb + image * 3 * pixels + i, depth + place, points + 3 * place);
    }
}
#endif

// Renders `pairs` scenes of `count` solids each on a GPU's `stream`; 0, or the error's number.
extern "C" int render(const float* scenes, const float* solids, const float* views, int pairs, int count, int height,
                      int width, int samples, unsigned char* rgb, float* depth, float* points, int device,
                      void* stream) {
    if (count > MAX_SOLIDS) { return -1; }
#ifdef __CUDACC__
    if (cudaSetDevice(device) != cudaSuccess) { return (int)cudaGetLastError(); }
    dim3 blocks((height * width + 127) / 128, pairs * 2);
    render_kernel<<<blocks, 128, 0, (cudaStream_t)stream>>>(scenes, solids, views, count, height, width, samples, rgb,
                                                            depth, points);
    return (int)cudaGetLastError();
#else
    (void)device;
    (void)stream;
    size_t pixels = (size_t)height * width;
    for (int image = 0; image < pairs * 2; image++) {
        size_t pair = image / 2;
        for (int i = 0; i < (int)pixels; i++) {
            size_t place = image * pixels + i;
            make_pixel(scenes + pair * SCENE, solids + pair * count * SOLID, count, views + pair * 2 * VIEW, image % 2,
                       height, width, samples, i / width, i % width, rgb + image * 3 * pixels + i, depth + place,
                       points + 3 * place);
        }
    }
    return 0;
#endif
}
