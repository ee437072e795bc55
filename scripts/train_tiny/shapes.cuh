// Records of a world and where rays meet its solids. World frame: z up, metres.
#pragma once
#include "paint.cuh"

#ifdef __CUDACC__
#define BIG static __device__ __noinline__
#define FN_METHOD __device__ __forceinline__
#else
#define BIG static
#define FN_METHOD inline
#endif

constexpr int MOST_SOLIDS = 160, GRID = 160, PALETTE = 10, STACK = 40;
constexpr float FARTHEST = 2000.0f;

enum Shape { EMPTY, HULL, ROUND, BALL, CHAMBER, PLANE, LAND, MESH };
enum Relief { SMOOTH, WINDOWS, BLOCKS, RIBS };
enum LandStyle { FLAT, HILLS, ROCKS, CANYON, DUNES, BLOCKS_ };
enum Cut { WHOLE, RAGGED, LATTICE, LEAF, CROWN };
enum Part { WALL = 16, GLASS, FRAME, REVEAL };  // parts of a relief; below 16 it is the number of a face

struct Solid {
    int shape;
    Vec centre, half;
    float turn[9];         // world_from_local, row-major
    float top_x, top_y;    // HULL, ROUND: half sizes at the top, as shares of those at the bottom (0: a point, 1: upright)
    int relief;            // of the side faces
    float cell_u, cell_v, depth, share_u, share_v;  // of a relief: cell and depth in metres, window's share of the cell
    int cut;               // what is cut out of the surface
    float cut_share, cut_cell;
    int tile, stretched;   // photograph on it (-1: none), once over each face or repeated every `metres`
    float metres, tint;
    Vec a, b;              // tint, and colours of the paint where there is no photograph
    int paint;
    float cell;            // of the paint, metres
    uint32_t seed;
    float gloss, wear;
    int glass;             // photograph behind windows
    int views;             // bit 0, 1: present in view 1, 2
    int mesh;
    float radius;          // of a sphere about the centre that holds it
};

struct Light {
    Vec sun;               // towards it, or a lamp's place
    int lamp;
    Vec colour, sky, ground;  // of the sun or lamp, and of what comes from above and below
    int dome;              // panorama (>= 0), photograph (-2) or painted sky (-1)
    float dome_turn;
    Vec zenith, horizon;
    float clouds, haze;    // haze: share of light lost per metre
};

struct Camera {
    float turn[9];         // world_from_camera
    Vec centre;
    float focal;           // in multiples of the longer side
    Vec gain;              // after the camera's own exposure
    int held;              // exposed as the first view is
    float gamma, contrast, saturation, vignette, noise, speckle;
    float blur_xx, blur_xy, blur_yy;  // covariance of the blur in squared pixels at 224 pixels
    float quality;         // step of the JPEG quantisation, 0 for none
};

struct Land_ {             // a height map over [-extent, extent]^2, mirrored beyond
    int style;             // LandStyle; a plane if it is FLAT
    float extent, height, level, slope, flat, width;
    uint32_t seed;
    Vec middle;            // of the part that is flat, `flat` metres about it
};

struct Rig {               // where cameras may be and look
    Vec focus, spread;
    float near, far, low, high;      // distances, elevations in radians
    float azimuth, sweep;
    Vec least, most;       // corners of the box that cameras stay in
    float eye;             // least height over the land
    float reach;           // closest allowed to anything
};

struct World {
    int family, count;
    uint32_t seed;
    float difficulty, overlap;       // the hardest of this pair; the share that views are to share
    int motion;
    int palette[PALETTE];
    Land_ land;
    Rig rig;
    Light lights[2];
    Camera cameras[2];
};

struct Packs {             // photographs, panoramas and meshes, see worlds.py
    const unsigned char* tiles;
    const unsigned char* domes;
    const float* suns;
    const float* nodes;
    const float* triangles;
    const float* colours;
    const float* meshes;
    int tile_count, material_count, dome_count, mesh_count;
};

struct Bounds {            // of a solid that casts shadows; the radius is negative if it casts none, huge if it has no bounds
    Vec centre;
    float radius;
};

struct Scenery {           // one pair's
    const World* world;
    const Solid* solids;
    const float* heights;
    const Packs* packs;
    const Bounds* bounds;  // of each solid, and which of them may shade what is seen, while images are shaded
    const short* casters;
    int caster_count;
};

struct Hit {
    float t;
    Vec normal;            // local, not of unit length
    int part;              // face, Part, or ~triangle of a mesh
};

// ---- reliefs ------------------------------------------------------------------------------------------------------

struct Spot {
    float u, v, inward;    // along the face, above its lower edge, and into it, metres
};

// How far behind the face at (u, v) the surface lies, and the part that it is; `edge`: half the face's width there.
FN float relief_depth(const Solid& s, float u, float v, float edge, int* part) {
    float d = s.depth;
    *part = WALL;
    if (s.relief == RIBS) { return d * (0.5f + 0.5f * sinf(6.2832f * u / s.cell_u)); }
    if (s.relief == BLOCKS) {
        int row = (int)floorf(v / s.cell_v);
        float along = u / s.cell_u + 0.5f * (row & 1) + 100.0f, up = v / s.cell_v - row;
        int column = (int)floorf(along);
        float across = along - column, joint = 0.04f;
        if (across < joint || up < joint * s.cell_u / s.cell_v) { return d; }
        return 0.7f * d * in_unit(hash(column, row, s.seed));
    }
    uint32_t bits = hash(s.seed + 5u);
    float height = 2.0f * s.half.z, cornice = 0.25f + 0.08f * s.cell_v;
    if (edge - fabsf(u) < 0.12f * s.cell_u || height - v < cornice) { return 0.0f; }
    if (v < 0.3f * s.cell_v * ((bits & 1u) ? 1.0f : 0.0f)) { return 0.1f * d; }
    float cu = (edge < 1e8f ? u + edge : u) / s.cell_u, cv = v / s.cell_v;
    int column = (int)floorf(cu), row = (int)floorf(cv);
    float x = cu - column - 0.5f, y = cv - row - 0.5f, wall = 0.3f * d;
    uint32_t h = hash(column, row, s.seed + 3u);
    if ((bits & 2u) && y < -0.5f + 0.06f) { return 0.08f * d; }  // a band below each storey
    float from_column = 0.5f - fabsf(x), pillar = 0.04f + 0.09f * in_unit(hash(bits));
    if ((bits & 12u) == 4u && from_column < pillar) { return 0.1f * d; }
    if ((bits & 12u) == 8u && from_column < pillar) {  // half a column
        float a = from_column / pillar;
        return wall * (1.0f - sqrtf(larger(1.0f - a * a, 0.0f)));
    }
    bool arched = (bits & 48u) == 16u;
    float hw = 0.5f * s.share_u, hh = 0.5f * s.share_v, ax = fabsf(x), spring = hh - hw * s.cell_u / s.cell_v;
    if ((h & 15u) == 0u) { return wall; }  // no window here
    bool open = ax < hw && fabsf(y) < hh;
    if (open && arched && y > spring) {
        float rise = (y - spring) * s.cell_v / s.cell_u;
        open = ax * ax + rise * rise < hw * hw;
    }
    if (!open) {
        if (ax < hw + 0.05f && y > -hh - 0.05f && y <= -hh) { *part = FRAME; return 0.05f * d; }  // sill
        if ((bits & 64u) && ax < hw + 0.07f && y < hh + 0.07f && y > -hh) { *part = FRAME; return 0.18f * d; }
        return wall;
    }
    if (s.depth < 0.6f && !((bits >> 7) & 1u)) {  // bars of the window
        float bar = 0.025f;
        if (ax < bar || fabsf(y - 0.3f * hh) < bar || ax > hw - bar || fabsf(y) > hh - bar) {
            *part = FRAME;
            return 0.85f * d;
        }
    }
    *part = GLASS;
    return d;
}

// Half the width of side face `face` at local height z.
FN float half_width(const Solid& s, int face, float z) {
    if (s.shape == ROUND) { return 1e9f; }
    float half = face < 2 ? s.half.y : s.half.x, top = face < 2 ? s.top_y : s.top_x;
    return half * (0.5f * (1.0f + top) + 0.5f * (top - 1.0f) * z / s.half.z);
}
FN Spot spot_of(const Solid& s, int face, Vec p) {
    Spot r;
    r.v = p.z + s.half.z;
    if (s.shape == ROUND) {
        float x = p.x / s.half.x, y = p.y / s.half.y, z = p.z / s.half.z;
        r.u = atan2f(y, x) * s.half.x;
        r.inward = (0.5f * (1.0f + s.top_x) + 0.5f * (s.top_x - 1.0f) * z - sqrtf(x * x + y * y)) * s.half.x;
        return r;
    }
    int along_x = face < 2;
    float half = along_x ? s.half.x : s.half.y, top = along_x ? s.top_x : s.top_y, lean = 0.5f * half * (top - 1.0f) / s.half.z;
    float out = (face & 1 ? 1.0f : -1.0f) * (along_x ? p.x : p.y);
    r.u = along_x ? p.y : p.x;
    r.inward = (0.5f * half * (1.0f + top) + lean * p.z - out) / sqrtf(1.0f + lean * lean);
    return r;
}

// Follows a ray that enters through side face `face` at hit->t into the relief; false if it leaves beside it.
BIG bool enter_relief(const Solid& s, Vec o, Vec d, float end, int face, Hit* hit) {
    float start = hit->t, length = sqrtf(dot(hit->normal, hit->normal));
    float rate = -dot(hit->normal, d) / length;  // inward metres per unit of t
    float steep = 0.08f * sqrtf(dot(d, d)), stop = start + 1.3f * s.depth / larger(rate, steep);
    if (stop > end) { stop = end; }
    Spot at = spot_of(s, face, o + d * start);
    int part, before;
    float depth = relief_depth(s, at.u, at.v, half_width(s, face, at.v - s.half.z), &part);
    hit->part = part;
    if (depth <= 1e-4f) { return true; }
    float low = start, high = start;
    bool found = false;
    constexpr int STEPS = 14;
    for (int i = 1; i <= STEPS && !found; i++) {
        high = start + (stop - start) * i / STEPS;
        at = spot_of(s, face, o + d * high);
        found = at.inward >= relief_depth(s, at.u, at.v, half_width(s, face, at.v - s.half.z), &part);
        if (!found) { low = high; }
    }
    if (!found) { return false; }
    for (int i = 0; i < 7; i++) {
        float middle = 0.5f * (low + high);
        at = spot_of(s, face, o + d * middle);
        bool inside = at.inward >= relief_depth(s, at.u, at.v, half_width(s, face, at.v - s.half.z), &part);
        if (inside) { high = middle; } else { low = middle; }
    }
    Spot out = spot_of(s, face, o + d * low), in = spot_of(s, face, o + d * high);
    float edge = half_width(s, face, in.v - s.half.z);
    float outer = relief_depth(s, out.u, out.v, edge, &before), inner = relief_depth(s, in.u, in.v, edge, &part);
    hit->t = high;
    hit->part = part;
    Vec n = hit->normal * (1.0f / length);
    Vec along = s.shape == ROUND ? unit(vec(-n.y, n.x, 0.0f)) : face < 2 ? vec(0, 1, 0) : vec(1, 0, 0), up = vec(0, 0, 1);
    if (outer - inner > 0.04f * s.depth && outer > in.inward + 1e-3f * s.depth) {  // a side of a step
        int ignored;
        bool aside = relief_depth(s, in.u, out.v, edge, &ignored) <= in.inward;
        float sign = aside ? (in.u > out.u ? -1.0f : 1.0f) : (in.v > out.v ? -1.0f : 1.0f);
        hit->normal = (aside ? along : up) * sign;
        hit->part = part == GLASS ? REVEAL : part;
    } else {
        float e = 0.01f * s.cell_u;
        int ignored;
        float du = (relief_depth(s, in.u + e, in.v, edge, &ignored) - relief_depth(s, in.u - e, in.v, edge, &ignored)) / (2 * e);
        hit->normal = fabsf(du) < 3.0f ? n + along * du : n;
    }
    return true;
}

// ---- cut-outs -----------------------------------------------------------------------------------------------------

// Whether the surface is there at (u, v), metres on a face with half sizes (hu, hv).
FN bool is_there(const Solid& s, float u, float v, float hu, float hv) {
    if (s.cut == WHOLE) { return true; }
    if (s.cut == LATTICE) {
        float a = u / s.cut_cell, b = v / s.cut_cell;
        if (s.seed & 1u) { float c = a + b; b = a - b; a = c; }
        if (s.seed & 2u) { b = 0.5f; }  // bars alone
        a -= floorf(a);
        b -= floorf(b);
        return a < s.cut_share || b < s.cut_share;
    }
    if (s.cut == LEAF) {  // a frond: leaflets along a rib
        float along = v / hv, across = fabsf(u / hu), width = sqrtf(larger(1.0f - along * along, 0.0f)) * (0.75f - 0.25f * along);
        float slanted = (v + 0.7f * fabsf(u)) / s.cut_cell;
        slanted -= floorf(slanted);
        return across < 0.06f || (across < width && slanted < s.cut_share);
    }
    float ragged = fractal(u / s.cut_cell + 91.0f, v / s.cut_cell + 91.0f, s.seed + 33u, 0.0f);
    if (s.cut == CROWN && hu < 1e8f) {  // thinner towards its rim
        float r = sqrtf(u * u / (hu * hu) + v * v / (hv * hv));
        ragged -= 0.35f * larger(r - 0.5f, 0.0f);
        if (r > 1.0f) { return false; }
    }
    return ragged > s.cut_share;
}

FN void face_place(const Solid& s, int face, Vec p, float* u, float* v, float* hu, float* hv) {
    *u = face < 2 ? p.y : p.x;
    *v = face < 4 ? p.z : p.y;
    *hu = face < 2 ? s.half.y : s.half.x;
    *hv = face < 4 ? s.half.z : s.half.y;
}

// ---- solids -------------------------------------------------------------------------------------------------------

FN Vec face_normal(const Solid& s, int face) {
    float sign = face & 1 ? 1.0f : -1.0f;
    if (face < 2) { return vec(sign, 0.0f, -0.5f * s.half.x * (s.top_x - 1.0f) / s.half.z); }
    if (face < 4) { return vec(0.0f, sign, -0.5f * s.half.y * (s.top_y - 1.0f) / s.half.z); }
    return vec(0.0f, 0.0f, sign);
}

// `plain`: without relief, for shadows.
FN bool hit_hull(const Solid& s, Vec o, Vec d, float first, float limit, bool plain, Hit* hit) {
    float near = -1e30f, far = 1e30f;
    int near_face = 0, far_face = 0;
#pragma unroll
    for (int face = 0; face < 6; face++) {
        Vec n = face_normal(s, face);
        float c = face < 2 ? 0.5f * s.half.x * (1.0f + s.top_x) : face < 4 ? 0.5f * s.half.y * (1.0f + s.top_y) : s.half.z;
        float gap = c - dot(n, o), speed = dot(n, d);
        if (fabsf(speed) < 1e-9f) { speed = 1e-9f; }
        float t = gap / speed;
        if (speed < 0.0f) {
            if (t > near) { near = t; near_face = face; }
        } else if (t < far) { far = t; far_face = face; }
    }
    if (near >= far || far <= first || near >= limit) { return false; }
    float u, v, hu, hv;
    hit->t = near;
    hit->part = near_face;
    hit->normal = face_normal(s, near_face);
    if (near > first) {
        face_place(s, near_face, o + d * near, &u, &v, &hu, &hv);
        if (is_there(s, u, v, hu, hv)) {
            if (plain || s.relief == SMOOTH || near_face > 3) { return true; }
            return enter_relief(s, o, d, far, near_face, hit) && hit->t < limit;
        }
    }
    // From inside, a wall hides what is behind it as well; light that starts inside may leave.
    if (far >= limit || (s.cut == WHOLE && plain)) { return false; }
    face_place(s, far_face, o + d * far, &u, &v, &hu, &hv);
    hit->t = far;
    hit->part = far_face;
    hit->normal = face_normal(s, far_face);
    return is_there(s, u, v, hu, hv);
}

FN bool hit_round(const Solid& s, Vec o, Vec d, float first, float limit, bool plain, Hit* hit) {
    Vec p = vec(o.x / s.half.x, o.y / s.half.y, o.z / s.half.z), q = vec(d.x / s.half.x, d.y / s.half.y, d.z / s.half.z);
    bool ball = s.shape == BALL;
    // x^2 + y^2 = (m + k z)^2, or + z^2 = 1
    float m = 0.5f * (1.0f + s.top_x), k = 0.5f * (s.top_x - 1.0f), w = m + k * p.z;
    float a = q.x * q.x + q.y * q.y + (ball ? q.z * q.z : -k * k * q.z * q.z);
    float b = p.x * q.x + p.y * q.y + (ball ? p.z * q.z : -k * q.z * w);
    float c = p.x * p.x + p.y * p.y + (ball ? p.z * p.z - 1.0f : -w * w);
    float inside = b * b - a * c, end = limit;
    bool found = false, side = false;
    hit->t = limit;
    if (inside > 0.0f && fabsf(a) > 1e-12f) {
        float root = sqrtf(inside);
        for (int i = 0; i < 2 && !found; i++) {
            float t = (-b + ((i == 0) == (a > 0.0f) ? -root : root)) / a;
            if (i == 1) { end = t; }
            if (t <= first || t >= limit) { continue; }
            Vec x = p + q * t;
            if (!ball && fabsf(x.z) > 1.0f) { continue; }
            if (s.cut != WHOLE) {
                float u = atan2f(x.y, x.x) * s.half.x, v = (ball ? asinf(larger(-1.0f, smaller(1.0f, x.z))) : x.z) * s.half.z;
                if (!is_there(s, u, v, 1e9f, 1e9f)) { continue; }
            }
            hit->t = t;
            hit->part = 0;
            hit->normal = vec(x.x / s.half.x, x.y / s.half.y, (ball ? x.z : -k * (m + k * x.z)) / s.half.z);
            found = side = true;
            if (i == 0) { end = (-b + (a > 0.0f ? root : -root)) / a; }
        }
    }
    if (ball) { return found; }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float sign = i ? 1.0f : -1.0f, r = i ? s.top_x : 1.0f, t = (sign - p.z) / q.z, x = p.x + t * q.x, y = p.y + t * q.y;
        if (s.cut == WHOLE && t > first && t < hit->t && x * x + y * y <= r * r) {
            hit->t = t;
            hit->part = 4 + i;
            hit->normal = vec(0.0f, 0.0f, sign);
            found = true;
            side = false;
        }
    }
    if (found && side && !plain && s.relief != SMOOTH) {
        if (end <= hit->t) { end = limit; }
        float floor = (q.z < 0.0f ? -1.0f - p.z : 1.0f - p.z) / q.z;  // where it leaves through an end
        return enter_relief(s, o, d, smaller(end, floor > hit->t ? floor : end), 0, hit) && hit->t < limit;
    }
    return found;
}

// Whether a wall of a chamber is open to the outside at p, and the frame about the opening.
FN bool opening(const Solid& s, int face, Vec p, bool* frame) {
    *frame = false;
    uint32_t h = hash(s.seed + 40u + face);
    if (face > 3 || in_unit(h) > s.share_u) { return false; }
    float half = face < 2 ? s.half.y : s.half.x, u = face < 2 ? p.y : p.x;
    float middle = (in_unit(hash(h + 1u)) - 0.5f) * half, wide = (0.25f + 0.35f * in_unit(hash(h + 2u))) * half;
    float low = (-0.6f + 0.5f * in_unit(hash(h + 3u))) * s.half.z, high = (0.3f + 0.5f * in_unit(hash(h + 4u))) * s.half.z;
    if (in_unit(hash(h + 5u)) < 0.25f) { low = -s.half.z; }  // a door
    float a = u - middle, b = p.z;
    if (fabsf(a) > wide || b < low || b > high) { return false; }
    float bar = 0.03f, cell = 2.0f * wide / (1 + (h >> 28) % 4u), c = (a + wide) / cell;
    c = fabsf(c - floorf(c + 0.5f)) * cell;
    *frame = c < bar || b - low < bar || high - b < bar || ((h & 64u) && fabsf(b - 0.5f * (low + high)) < bar);
    return true;
}

FN bool hit_chamber(const Solid& s, Vec o, Vec d, float first, float limit, Hit* hit) {
    float far = 1e30f;
    int face = 0;
    for (int axis = 0; axis < 3; axis++) {
        float q = axis == 0 ? d.x : axis == 1 ? d.y : d.z, p = axis == 0 ? o.x : axis == 1 ? o.y : o.z;
        float half = axis == 0 ? s.half.x : axis == 1 ? s.half.y : s.half.z;
        if (fabsf(p) > half) { return false; }  // outside: it has no outer side
        if (fabsf(q) < 1e-9f) { continue; }
        float t = ((q > 0.0f ? half : -half) - p) / q;
        if (t < far) { far = t; face = 2 * axis + (q > 0.0f); }
    }
    bool frame;
    if (far <= first || far >= limit) { return false; }
    bool open = opening(s, face, o + d * far, &frame);
    if (open && !frame) { return false; }
    float sign = face & 1 ? -1.0f : 1.0f;
    hit->t = far;
    hit->part = frame ? FRAME : face;
    hit->normal = vec(face < 2 ? sign : 0.0f, face == 2 || face == 3 ? sign : 0.0f, face > 3 ? sign : 0.0f);
    return true;
}

// ---- land ---------------------------------------------------------------------------------------------------------

FN int folded(int i, int n) {
    i %= 2 * n;
    i = i < 0 ? i + 2 * n : i;
    return i < n ? i : 2 * n - 1 - i;
}
FN float land_height(const float* heights, float extent, float x, float y) {
    float u = (x / extent + 1.0f) * (0.5f * GRID) - 0.5f, v = (y / extent + 1.0f) * (0.5f * GRID) - 0.5f;
    float iu = floorf(u), iv = floorf(v);
    int x0 = folded((int)iu, GRID), x1 = folded((int)iu + 1, GRID), y0 = folded((int)iv, GRID), y1 = folded((int)iv + 1, GRID);
    return mix(mix(heights[y0 * GRID + x0], heights[y0 * GRID + x1], u - iu),
               mix(heights[y1 * GRID + x0], heights[y1 * GRID + x1], u - iu), v - iv);
}

// `steps`: fewer for shadows.
BIG bool hit_land(const Land_& land, const float* heights, Vec o, Vec d, float first, float limit, int steps, Hit* hit) {
    float top = land.level + land.height, t = first, cell = 2.0f * land.extent / GRID;
    float flat = sqrtf(d.x * d.x + d.y * d.y), least = 0.5f * cell / larger(flat, 0.3f * fabsf(d.z)), before = first;
    if (o.z + t * d.z > top) {
        if (d.z >= 0.0f) { return false; }
        t = before = (top - o.z) / d.z;
    }
    float closing = land.slope * flat - d.z;
    bool found = false;
    for (int i = 0; i < steps && t < limit; i++) {
        float z = o.z + t * d.z, gap = z - land_height(heights, land.extent, o.x + t * d.x, o.y + t * d.y);
        if (z > top && d.z >= 0.0f) { return false; }
        if (gap < 0.0f) { found = true; break; }
        before = t;
        t += larger(closing > 0.0f ? gap / closing : FARTHEST, larger(least, 0.01f * t));
    }
    if (!found) { return false; }
    for (int i = 0; i < 8; i++) {
        float middle = 0.5f * (before + t);
        bool under = o.z + middle * d.z < land_height(heights, land.extent, o.x + middle * d.x, o.y + middle * d.y);
        if (under) { t = middle; } else { before = middle; }
    }
    if (t >= limit || t <= first) { return false; }
    float x = o.x + t * d.x, y = o.y + t * d.y, e = 0.6f * cell;
    hit->t = t;
    hit->part = 5;
    hit->normal = vec((land_height(heights, land.extent, x - e, y) - land_height(heights, land.extent, x + e, y)) / (2 * e),
                      (land_height(heights, land.extent, x, y - e) - land_height(heights, land.extent, x, y + e)) / (2 * e), 1.0f);
    return true;
}

// ---- meshes -------------------------------------------------------------------------------------------------------

FN float entry(const float* node, Vec o, Vec inverse, float limit) {
    float x0 = (node[0] - o.x) * inverse.x, x1 = (node[3] - o.x) * inverse.x;
    float y0 = (node[1] - o.y) * inverse.y, y1 = (node[4] - o.y) * inverse.y;
    float z0 = (node[2] - o.z) * inverse.z, z1 = (node[5] - o.z) * inverse.z;
    float near = larger(larger(smaller(x0, x1), smaller(y0, y1)), smaller(z0, z1));
    float far = smaller(smaller(larger(x0, x1), larger(y0, y1)), larger(z0, z1));
    return near <= far && far > 0.0f && near < limit ? near : 1e30f;
}

// The ray is in the mesh's own frame, where its largest half size is 1. `any`: the first hit found will do.
BIG bool hit_mesh(const Packs& packs, int mesh, Vec o, Vec d, float first, float limit, bool any, Hit* hit) {
    int stack[STACK], height = 0, node = (int)packs.meshes[8 * mesh];
    Vec inverse = vec(1.0f / (fabsf(d.x) > 1e-9f ? d.x : 1e-9f), 1.0f / (fabsf(d.y) > 1e-9f ? d.y : 1e-9f),
                      1.0f / (fabsf(d.z) > 1e-9f ? d.z : 1e-9f));
    bool found = false;
    hit->t = limit;
    if (entry(packs.nodes + 8 * node, o, inverse, limit) > 1e29f) { return false; }
    for (;;) {
        const float* n = packs.nodes + 8 * (size_t)node;
        int a = (int)n[6], b = (int)n[7];
        if (b < 0) {
            float left = entry(packs.nodes + 8 * (size_t)a, o, inverse, hit->t);
            float right = entry(packs.nodes + 8 * (size_t)(a + 1), o, inverse, hit->t);
            bool swap = right < left;
            float nearer = swap ? right : left, farther = swap ? left : right;
            if (farther < 1e29f && height < STACK) { stack[height++] = swap ? a : a + 1; }
            if (nearer < 1e29f) { node = swap ? a + 1 : a; continue; }
        } else {
            for (int i = a; i < a + b; i++) {
                const float* v = packs.triangles + 12 * (size_t)i;
                Vec e1 = at(v + 3), e2 = at(v + 6), from = o - at(v);
                Vec p = vec(d.y * e2.z - d.z * e2.y, d.z * e2.x - d.x * e2.z, d.x * e2.y - d.y * e2.x);
                float scale = dot(e1, p);
                if (fabsf(scale) < 1e-12f) { continue; }
                float inv = 1.0f / scale, u = dot(from, p) * inv;
                Vec q = vec(from.y * e1.z - from.z * e1.y, from.z * e1.x - from.x * e1.z, from.x * e1.y - from.y * e1.x);
                float w = dot(d, q) * inv, t = dot(e2, q) * inv;
                if (u < 0.0f || w < 0.0f || u + w > 1.0f || t <= first || t >= hit->t) { continue; }
                hit->t = t;
                hit->part = ~i;
                hit->normal = vec(e1.y * e2.z - e1.z * e2.y, e1.z * e2.x - e1.x * e2.z, e1.x * e2.y - e1.y * e2.x);
                found = true;
                if (any) { return true; }
            }
        }
        if (height == 0) { return found; }
        node = stack[--height];
    }
}

// ---- all of them --------------------------------------------------------------------------------------------------

// Scale from a mesh's own frame to the solid's.
FN Vec mesh_scale(const Packs& packs, const Solid& s) {
    const float* m = packs.meshes + 8 * s.mesh;
    return vec(s.half.x / larger(m[2], 1e-3f), s.half.y / larger(m[3], 1e-3f), s.half.z / larger(m[4], 1e-3f));
}

// Where o + t d meets solid `s` between `first` and `limit`. `shadow`: whether at all, and coarsely.
FN bool hit_solid(const Scenery& w, const Solid& s, Vec o, Vec d, float first, float limit, bool shadow, Hit* hit) {
    if (s.shape == LAND) { return hit_land(w.world->land, w.heights, o, d, first, limit, shadow ? 40 : 110, hit); }
    Vec lo = transposed_times(s.turn, o - s.centre), ld = transposed_times(s.turn, d);
    switch (s.shape) {
    case HULL: return hit_hull(s, lo, ld, first, limit, shadow, hit);
    case ROUND: case BALL: return hit_round(s, lo, ld, first, limit, shadow, hit);
    case CHAMBER: return hit_chamber(s, lo, ld, first, limit, hit);
    case PLANE:
        hit->t = -lo.z / ld.z;
        hit->part = 5;
        hit->normal = vec(0.0f, 0.0f, 1.0f);
        return ld.z < 0.0f && hit->t > first && hit->t < limit;
    case MESH: {
        Vec k = mesh_scale(*w.packs, s);
        bool found = hit_mesh(*w.packs, s.mesh, vec(lo.x / k.x, lo.y / k.y, lo.z / k.z),
                              vec(ld.x / k.x, ld.y / k.y, ld.z / k.z), first, limit, shadow, hit);
        hit->normal = vec(hit->normal.x / k.x, hit->normal.y / k.y, hit->normal.z / k.z);
        return found;
    }
    }
    return false;
}

FN bool may_meet(const Solid& s, Vec o, Vec d, float dd, float limit) {
    if (s.shape == EMPTY) { return false; }
    if (s.shape == CHAMBER || s.shape == PLANE || s.shape == LAND) { return true; }
    Vec from = s.centre - o;
    float along = dot(from, d), r2 = s.radius * s.radius, distance2 = dot(from, from);
    if (distance2 < r2) { return true; }
    if (along < 0.0f) { return false; }
    float closest = along - limit * dd;  // beyond the limit?
    if (closest > 0.0f && closest * closest > r2 * dd) { return false; }
    return distance2 * dd - along * along <= r2 * dd;
}

// The nearest solid of `list` (all of them if null) that view `view` shows along the ray, or -1.
FN int nearest_hit(const Scenery& w, const short* list, int count, int view, Vec o, Vec d, Hit* hit) {
    int found = -1;
    float dd = dot(d, d);
    hit->t = FARTHEST;
    for (int k = 0; k < count; k++) {
        int i = list ? list[k] : k;
        const Solid& s = w.solids[i];
        Hit candidate;
        if (!((s.views >> view) & 1) || !may_meet(s, o, d, dd, hit->t)) { continue; }
        if (hit_solid(w, s, o, d, 0.02f, hit->t, false, &candidate)) {
            *hit = candidate;
            found = i;
        }
    }
    return found;
}

FN bool in_shadow(const Scenery& w, int own, Vec o, Vec d, float limit) {
    Hit ignored;
    float dd = dot(d, d);
    for (int k = 0; k < w.caster_count; k++) {
        int i = w.casters[k];
        Bounds b = w.bounds[i];
        Vec from = b.centre - o;
        float along = dot(from, d), r2 = b.radius * b.radius, distance2 = dot(from, from);
        if (b.radius < 0.0f || (distance2 > r2 && (along < 0.0f || distance2 * dd - along * along > r2 * dd))) { continue; }
        const Solid& s = w.solids[i];
        if (i == own && (s.relief != SMOOTH || s.cut != WHOLE)) { continue; }
        if (hit_solid(w, s, o, d, 0.0f, limit, true, &ignored)) { return true; }
    }
    return false;
}
