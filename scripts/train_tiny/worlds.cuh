// Random worlds: what stands where, in which light, seen by which two cameras. One number, the seed, decides everything.
#pragma once
#include "surfaces.cuh"

struct Dice {
    uint32_t state;
    FN_METHOD float unit() { state += 0x9e3779b9u; return in_unit(hash(state)); }
    FN_METHOD float uniform(float low, float high) { return low + (high - low) * unit(); }
    FN_METHOD float log_uniform(float low, float high) { return low * expf(unit() * logf(high / low)); }
    FN_METHOD bool chance(float share) { return unit() < share; }
    FN_METHOD int whole(int low, int high) { int n = low + (int)(unit() * (high - low)); return n < high ? n : high - 1; }
    FN_METHOD float normal() { return (unit() + unit() + unit() + unit() - 2.0f) * 1.7321f; }
    FN_METHOD int any() { state += 0x9e3779b9u; return (int)(hash(state) >> 1); }
    FN_METHOD Vec direction() {
        float z = uniform(-1.0f, 1.0f), a = uniform(0.0f, 6.2832f), r = sqrtf(1.0f - z * z);
        return vec(r * cosf(a), r * sinf(a), z);
    }
    FN_METHOD Vec colour() {
        float g = uniform(0.2f, 0.9f), saturation = unit();
        if (unit() > 0.12f) { saturation *= saturation * saturation; }  // most things have little colour
        return vec(mix(g, unit(), saturation), mix(g, unit(), saturation), mix(g, unit(), saturation));
    }
};

enum Family { ROOM_, TABLE_, PLANT_, STREET, CASTLE, ARENA, PYRAMIDS, TOWER, TEMPLE, NATURE, CITY, ABSTRACT, FAMILIES };
enum Motion { ORBIT, WALK, ADVANCE, TURN, FREE, APART };

// ---- land ---------------------------------------------------------------------------------------------------------

BIG float waves(float x, float y, uint32_t seed, int octaves, bool ridged) {
    float sum = 0.0f, weight = 0.5f;
    for (int i = 0; i < octaves; i++) {
        float n = value_noise(x, y, seed + i);
        if (ridged) { n = 1.0f - fabsf(2.0f * n - 1.0f); }
        sum += weight * n;
        weight *= 0.5f;
        float t = 1.6f * x - 1.2f * y + 13.7f;
        y = 1.2f * x + 1.6f * y + 5.1f;
        x = t;
    }
    return sum;
}

BIG float land_at(const Land_& l, float x, float y) {
    float k = 3.0f / l.extent, u = x * k + 40.0f, v = y * k + 40.0f, h = 0.0f;
    switch (l.style) {
    case HILLS: h = waves(u, v, l.seed, 6, false); break;
    case ROCKS: h = waves(u, v, l.seed, 7, true); h *= h * 1.2f; break;
    case DUNES: h = 0.7f * waves(u, 0.5f * v, l.seed, 3, true) + 0.25f * waves(4 * u, 4 * v, l.seed + 20u, 4, false); break;
    case CANYON: {
        float middle = 0.25f * l.extent * sinf(2.0f * y / l.extent + in_unit(l.seed) * 6.28f) + 0.35f * l.extent * (value_noise(3.0f, v, l.seed) - 0.5f);
        float away = fabsf(x - middle) / l.width, rough = waves(3 * u, 3 * v, l.seed + 7u, 5, true);
        float wall = clamp01((away - 0.5f - 1.3f * (rough - 0.4f)) * 1.6f);
        wall = wall * wall * (3.0f - 2.0f * wall);
        float steps = 4.0f * wall, whole = floorf(steps), part = steps - whole;  // terraces
        part = part * part * part;
        wall = mix(wall, (whole + part) * 0.25f, 0.5f);
        h = 0.8f * wall * (0.85f + 0.3f * (waves(9 * u, 9 * v, l.seed + 11u, 3, true) - 0.5f)) + 0.2f * waves(u, v, l.seed + 3u, 5, false) * clamp01(away);
        break;
    }
    case BLOCKS_: {  // a city from the air: blocks along streets, courtyards, trees
        float cell = l.width, gx = floorf(x / cell), gy = floorf(y / cell), fx = x / cell - gx, fy = y / cell - gy;
        uint32_t b = hash((int)gx, (int)gy, l.seed);
        float street = 0.09f;
        h = 0.04f * waves(8 * u, 8 * v, l.seed, 3, false);
        bool park = (b & 7u) == 0u;
        if (park || fx < street || fy < street || fx > 1 - street || fy > 1 - street) {
            float tree = value_noise(x / (0.12f * cell), y / (0.12f * cell), l.seed + 5u);
            if (tree > (park ? 0.55f : 0.8f)) { h += 0.35f * sqrtf(tree - (park ? 0.55f : 0.8f)); }
            break;
        }
        float n = 2.0f + (b >> 8) % 3u, hx = floorf((fx - street) / (1 - 2 * street) * n), hy = floorf((fy - street) / (1 - 2 * street) * n);
        uint32_t house = hash((int)hx, (int)hy, b);
        bool inner = hx > 0 && hy > 0 && hx < n - 1 && hy < n - 1;
        if (inner || (house & 7u) == 1u) { break; }
        h += 0.3f + 0.7f * in_unit(hash(house));
        if (house & 64u) {  // a ridge
            float r = (fx - street) / (1 - 2 * street) * n - hx;
            h += 0.15f * (0.5f - fabsf(r - 0.5f)) * 2.0f;
        }
        break;
    }
    }
    h = l.level + l.height * smaller(h, 1.0f);
    if (l.flat > 0.0f) {
        float dx = x - l.middle.x, dy = y - l.middle.y, r = sqrtf(dx * dx + dy * dy) / l.flat;
        h = mix(l.middle.z, h, clamp01(r - 1.0f));
    }
    return h;
}

// ---- building blocks ----------------------------------------------------------------------------------------------

struct Builder {
    World* w;
    Solid* solids;
    const Packs* packs;
    Dice dice;
};

FN void about_z(float* m, float angle) {
    float c = cosf(angle), s = sinf(angle);
    m[0] = c; m[1] = -s; m[2] = 0; m[3] = s; m[4] = c; m[5] = 0; m[6] = 0; m[7] = 0; m[8] = 1;
}
FN Vec cross(Vec a, Vec b) { return vec(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x); }
FN void from_axes(float* m, Vec x, Vec y, Vec z) {
    m[0] = x.x; m[1] = y.x; m[2] = z.x; m[3] = x.y; m[4] = y.y; m[5] = z.y; m[6] = x.z; m[7] = y.z; m[8] = z.z;
}
// Local z along `z`, local x level.
FN void along_z(float* m, Vec z) {
    z = unit(z);
    Vec side = fabsf(z.z) > 0.99f ? vec(1, 0, 0) : unit(cross(vec(0, 0, 1), z));
    from_axes(m, side, cross(z, side), z);
}
FN Vec spin(Vec p, float angle) { float c = cosf(angle), s = sinf(angle); return vec(c * p.x - s * p.y, s * p.x + c * p.y, p.z); }

BIG float ground(const Builder& b, float x, float y) { return b.w->land.style ? land_at(b.w->land, x, y) : 0.0f; }

// A new solid with a random surface. When there are too many, the last one is replaced.
BIG Solid& add(Builder& b, int shape, Vec centre, Vec half, float yaw) {
    int i = b.w->count < MOST_SOLIDS ? b.w->count++ : MOST_SOLIDS - 1;
    Solid& s = b.solids[i];
    Dice& dice = b.dice;
    s.shape = shape;
    s.centre = centre;
    s.half = half;
    about_z(s.turn, yaw);
    s.top_x = s.top_y = 1.0f;
    s.relief = SMOOTH;
    s.cell_u = s.cell_v = 1.0f;
    s.depth = s.share_u = s.share_v = 0.0f;
    s.cut = WHOLE;
    s.cut_share = 0.5f;
    s.cut_cell = 0.2f;
    bool photo = b.packs->tile_count > 0 && dice.chance(0.94f);
    s.tile = !photo ? -1 : dice.chance(0.5f) ? b.w->palette[dice.whole(0, PALETTE)] : dice.any() % b.packs->tile_count;
    s.stretched = dice.chance(0.3f);
    s.metres = dice.log_uniform(0.5f, 3.0f);
    s.tint = dice.chance(0.35f) ? dice.uniform(0.2f, 1.0f) : 0.0f;
    s.a = dice.colour();
    s.b = dice.colour();
    s.paint = dice.whole(0, 12);
    s.cell = dice.log_uniform(0.08f, 0.6f);
    s.seed = (uint32_t)dice.any() & 0xfffffu;
    s.gloss = dice.chance(0.15f) ? dice.uniform(0.0f, 0.3f) : 0.0f;
    s.wear = dice.uniform(0.05f, 0.35f);
    s.glass = b.packs->tile_count > 0 ? dice.any() % b.packs->tile_count : -1;
    s.views = 3;
    s.mesh = 0;
    s.radius = sqrtf(dot(half, half));
    return s;
}

FN void stuff_of(Builder& b, Solid& s, int slot, float metres) {  // one of the world's own materials
    if (s.tile >= 0) { s.tile = b.w->palette[slot % PALETTE]; }
    s.metres = metres;
    s.stretched = 0;
    s.cell = 0.2f * metres;
}
FN void like(Solid& s, const Solid& other) {
    s.tile = other.tile; s.metres = other.metres; s.tint = other.tint; s.a = other.a; s.b = other.b; s.paint = other.paint;
    s.cell = other.cell; s.stretched = other.stretched; s.seed = other.seed; s.wear = other.wear;
}
FN void green(Builder& b, Solid& s) {
    s.tint = b.dice.uniform(0.5f, 1.0f);
    float light = b.dice.uniform(0.3f, 0.75f);
    s.a = vec(light * b.dice.uniform(0.5f, 1.0f), light, light * b.dice.uniform(0.2f, 0.6f));
    s.b = s.a * 0.5f;
    s.gloss = 0.0f;
}
// As walls are: cream, sandstone, grey, brick, white.
BIG void masonry(Builder& b, Solid& s) {
    Dice& dice = b.dice;
    float kind = dice.unit(), light = dice.uniform(0.75f, 1.1f);
    s.a = kind < 0.3f ? vec(0.92f, 0.82f, 0.66f) : kind < 0.5f ? vec(0.8f, 0.72f, 0.58f) : kind < 0.7f ? vec(0.72f, 0.72f, 0.72f)
        : kind < 0.85f ? vec(0.7f, 0.42f, 0.33f) : vec(0.95f, 0.94f, 0.92f);
    s.a = s.a * light;
    s.b = dice.chance(0.6f) ? vec(0.9f, 0.88f, 0.82f) * dice.uniform(0.7f, 1.05f) : s.b;
    s.tint = dice.uniform(0.3f, 0.95f);
    if (dice.chance(0.15f)) { s.tile = -2; }  // plaster
}
FN Solid& standing(Builder& b, int shape, float x, float y, float z, Vec half, float yaw) {
    return add(b, shape, vec(x, y, z + half.z), half, yaw);
}

BIG void tree(Builder& b, float x, float y, float height) {
    Dice& dice = b.dice;
    float z = ground(b, x, y) - 0.02f * height, trunk = height * dice.uniform(0.15f, 0.45f), wide = height * dice.uniform(0.18f, 0.4f);
    Solid& stem = standing(b, ROUND, x, y, z, vec(0.03f * height, 0.03f * height, 0.6f * trunk + 0.1f * height), 0.0f);
    stem.a = vec(0.35f, 0.28f, 0.2f);
    stem.tint = 0.8f;
    int blobs = dice.whole(2, 6);
    float tall = 0.5f * (height - trunk), cell = dice.uniform(0.06f, 0.16f) * wide, share = dice.uniform(0.35f, 0.52f);
    bool fir = dice.chance(0.2f);
    for (int i = 0; i < (fir ? 2 : blobs); i++) {
        float k = fir ? 1.0f - 0.3f * i : i ? dice.uniform(0.4f, 0.75f) : 0.85f;
        Vec off = fir || !i ? vec(0, 0, 0) : dice.direction();
        Solid& s = add(b, fir ? ROUND : BALL, vec(x + 0.6f * wide * off.x, y + 0.6f * wide * off.y, z + trunk + tall * (1.0f + 0.5f * off.z)),
                       vec(wide * k, wide * k, tall * k), dice.uniform(0, 6.28f));
        if (fir) { s.top_x = s.top_y = 0.05f; }
        if (i) { like(s, b.solids[b.w->count - 2]); } else { green(b, s); }
        s.seed += i;
        s.cut = RAGGED;
        s.cut_share = share - (fir && i ? 0.2f : 0.0f);
        s.cut_cell = cell;
        s.metres = 1.5f * wide;
        s.stretched = 0;
    }
}

BIG void fern(Builder& b, Vec base, float size, int fronds) {
    Dice& dice = b.dice;
    Vec colour = vec(dice.uniform(0.2f, 0.5f), dice.uniform(0.4f, 0.75f), dice.uniform(0.15f, 0.4f));
    float share = dice.uniform(0.4f, 0.75f), leaflet = size * dice.uniform(0.015f, 0.06f);
    int whole = dice.chance(0.3f);
    uint32_t seed = (uint32_t)dice.any() & 0xfffffu;
    for (int i = 0; i < fronds; i++) {
        float azimuth = 2.39996f * i + dice.uniform(-0.3f, 0.3f), rise = dice.uniform(0.1f, 1.35f), length = size * dice.uniform(0.6f, 1.1f);
        Vec towards = vec(cosf(azimuth) * cosf(rise), sinf(azimuth) * cosf(rise), sinf(rise)), from = base;
        int parts = dice.chance(0.5f) ? 2 : 1;
        for (int k = 0; k < parts; k++) {
            Solid& s = add(b, HULL, from + towards * (0.5f * length), vec(length * dice.uniform(0.1f, 0.16f), 0.002f * size, 0.5f * length), 0.0f);
            along_z(s.turn, towards);
            s.cut = whole ? CROWN : LEAF;
            s.cut_share = whole ? 0.25f : share;
            s.cut_cell = whole ? length * 0.3f : leaflet;
            s.tint = 0.85f;
            s.a = colour * dice.uniform(0.8f, 1.2f);
            s.b = s.a * 0.6f;
            s.seed = seed;
            s.metres = size;
            from = from + towards * (0.8f * length);
            towards = unit(towards + vec(0.0f, 0.0f, -dice.uniform(0.5f, 1.2f)));
            length *= 0.7f;
        }
    }
}

// Furniture, a vehicle, anything: a mesh, or two boxes where there are none. `size`: half its largest side, which most have in
// their own size if `natural`.
BIG Solid& object(Builder& b, float x, float y, float z, float size, float yaw, bool natural) {
    Dice& dice = b.dice;
    if (b.packs->mesh_count > 0) {
        int mesh = dice.any() % b.packs->mesh_count;
        const float* m = b.packs->meshes + 8 * mesh;
        if (natural && m[6] > 0.0f && dice.chance(0.75f)) { size = m[6] * dice.uniform(0.8f, 1.25f); }
        Vec half = vec(m[2], m[3], m[4]) * size;
        half = vec(larger(half.x, 0.01f * size), larger(half.y, 0.01f * size), larger(half.z, 0.01f * size));
        Solid& s = standing(b, MESH, x, y, z, vec(half.x * dice.uniform(0.85f, 1.2f), half.y * dice.uniform(0.85f, 1.2f), half.z), yaw);
        s.mesh = mesh;
        s.metres = size * dice.uniform(0.5f, 2.0f);
        return s;
    }
    Vec half = vec(size * dice.uniform(0.3f, 1.0f), size * dice.uniform(0.3f, 1.0f), 0.5f * size);
    Solid& top = standing(b, HULL, x, y, z + 2.0f * half.z, vec(0.6f * half.x, 0.6f * half.y, 0.3f * size), yaw);
    top.top_x = dice.uniform(0.5f, 1.0f);
    return standing(b, dice.chance(0.7f) ? HULL : ROUND, x, y, z, half, yaw);
}

BIG Solid& thing(Builder& b, float x, float y, float z, float size) {  // something small that stands on z
    Dice& dice = b.dice;
    if (b.packs->mesh_count > 0 && dice.chance(0.2f)) { return object(b, x, y, z, size, dice.uniform(0, 6.28f), false); }
    int kind = dice.whole(0, 4);
    Vec half = vec(size * dice.uniform(0.35f, 1.0f), size * dice.uniform(0.35f, 1.0f), size * dice.uniform(0.25f, 1.0f));
    if (kind == 3) { half.y = half.x; half.z *= 1.3f; }
    Solid& s = standing(b, kind == 2 ? BALL : kind == 3 ? ROUND : HULL, x, y, z, half, dice.uniform(0, 6.28f));
    if (kind != 2 && dice.chance(0.3f)) { s.top_x = dice.uniform(0.2f, 1.0f); s.top_y = kind == 3 ? s.top_x : dice.uniform(0.2f, 1.0f); }
    s.metres = dice.log_uniform(0.7f, 4.0f) * size;
    s.cell = dice.log_uniform(0.15f, 0.8f) * size;
    if (dice.chance(0.15f)) {
        along_z(s.turn, dice.direction());
    }
    return s;
}

// Windows in a grid on the sides of a hull or round, sizes as near as whole cells come.
BIG void windows(Builder& b, Solid& s, float cell_u, float cell_v, float depth) {
    Dice& dice = b.dice;
    float around = s.shape == ROUND ? 6.2832f * s.half.x : 2.0f * s.half.x, tall = 2.0f * s.half.z;
    s.relief = WINDOWS;
    s.cell_u = around / larger(1.0f, floorf(around / cell_u + 0.5f));
    s.cell_v = tall / larger(1.0f, floorf(tall / cell_v + 0.5f));
    s.depth = depth;
    s.share_u = dice.uniform(0.3f, 0.6f);
    s.share_v = dice.uniform(0.45f, 0.8f);
}

FN Solid& roof(Builder& b, const Solid& below, float height, bool hipped) {
    Vec half = vec(below.half.x * 1.06f, below.half.y * 1.06f, 0.5f * height);
    Solid& s = add(b, below.shape == ROUND ? ROUND : HULL, below.centre + vec(0, 0, below.half.z + 0.5f * height), half, 0.0f);
    for (int i = 0; i < 9; i++) { s.turn[i] = below.turn[i]; }
    bool long_x = half.x > half.y;
    s.top_x = below.shape == ROUND ? 0.0f : hipped && long_x ? larger(0.0f, 1.0f - half.y / half.x) : hipped ? 0.02f : long_x ? 1.0f : 0.02f;
    s.top_y = below.shape == ROUND ? 0.0f : hipped && !long_x ? larger(0.0f, 1.0f - half.x / half.y) : hipped ? 0.02f : long_x ? 0.02f : 1.0f;
    stuff_of(b, s, 3, b.dice.uniform(2.0f, 5.0f));
    s.tint = 0.6f;
    s.a = vec(0.35f, 0.35f, 0.4f);
    if (b.w->palette[9] & 1) { s.a = vec(0.6f, 0.35f, 0.28f); }
    return s;
}

BIG Solid& house(Builder& b, float x, float y, Vec half, float yaw, int slot) {
    Dice& dice = b.dice;
    float z = ground(b, x, y) - 0.3f;
    Solid& s = standing(b, HULL, x, y, z, half, yaw);
    stuff_of(b, s, slot, dice.uniform(2.0f, 6.0f));
    if (dice.chance(0.7f)) { masonry(b, s); }
    windows(b, s, dice.uniform(1.8f, 4.0f), dice.uniform(2.6f, 4.2f), dice.uniform(0.15f, 0.5f));
    int index = (int)(&s - b.solids);
    if (dice.chance(0.75f)) {
        float high = half.y * dice.uniform(0.4f, 1.3f);
        roof(b, b.solids[index], high, dice.chance(0.5f));
        int chimneys = dice.whole(0, 4);
        for (int i = 0; i < chimneys; i++) {
            Vec p = spin(vec(dice.uniform(-0.8f, 0.8f) * half.x, dice.uniform(-0.4f, 0.4f) * half.y, 0.0f), yaw);
            Solid& c = standing(b, HULL, x + p.x, y + p.y, z + 2.0f * half.z, vec(0.4f, 0.4f, 0.55f * high + 0.5f), yaw);
            stuff_of(b, c, slot, 1.5f);
        }
    }
    return b.solids[index];
}

BIG void pole(Builder& b, float x, float y, float height, float radius) {
    Dice& dice = b.dice;
    float z = ground(b, x, y);
    Solid& s = standing(b, ROUND, x, y, z, vec(radius, radius, 0.5f * height), 0.0f);
    s.tile = -2;
    s.a = vec(0.35f, 0.35f, 0.36f);
    int kind = dice.whole(0, 4);
    if (kind == 1) {  // a sign
        Solid& sign = add(b, HULL, vec(x, y, z + height * 0.85f), vec(0.14f * height, 0.02f, 0.1f * height), dice.uniform(-0.6f, 0.6f));
        sign.stretched = 1;
    }
    if (kind == 2) { add(b, BALL, vec(x, y, z + height), vec(4 * radius, 4 * radius, 4 * radius), 0.0f); }
    if (kind == 3) {  // a cable
        Vec end = vec(dice.uniform(-20, 20), dice.uniform(-4, 4), dice.uniform(-1, 1));
        Solid& c = add(b, ROUND, vec(x, y, z + height) + end * 0.5f, vec(0.4f * radius, 0.4f * radius, 0.5f * sqrtf(dot(end, end))), 0.0f);
        along_z(c.turn, end);
        c.tile = -2;
        c.a = vec(0.15f, 0.15f, 0.15f);
    }
}

// Walls of boxes on an ellipse, open in the middle.
BIG void ring(Builder& b, float rx, float ry, float z, float height, float thick, int n, float from, float to, float cell, float depth) {
    for (int i = 0; i < n; i++) {
        float a = from + (to - from) * (i + 0.5f) / n, step = (to - from) / n;
        Vec p = vec(rx * cosf(a), ry * sinf(a), 0.0f), along = vec(-rx * sinf(a), ry * cosf(a), 0.0f);
        float length = sqrtf(dot(along, along)) * step;
        Solid& s = standing(b, HULL, p.x, p.y, z, vec(0.52f * length, thick, 0.5f * height), atan2f(along.y, along.x));
        stuff_of(b, s, 0, 0.5f * height);
        if (i) { like(s, b.solids[b.w->count - 2]); } else if (b.dice.chance(0.6f)) { masonry(b, s); }
        if (depth > 0.0f) {
            windows(b, s, cell, height / b.dice.whole(1, 2), depth);
            if (i) {
                const Solid& before = b.solids[b.w->count - 2];
                s.share_u = before.share_u;
                s.share_v = before.share_v;
                s.cell_v = before.cell_v;
            }
        }
    }
}

BIG void open_ground(Builder& b, int style, float extent, float height) {
    World& w = *b.w;
    Dice& dice = b.dice;
    w.land.style = style;
    w.land.extent = extent;
    w.land.height = height;
    w.land.level = 0.0f;
    w.land.width = extent * dice.uniform(0.12f, 0.3f);
    w.land.seed = (uint32_t)dice.any();
    w.land.flat = 0.0f;
    w.land.middle = vec(0, 0, 0);
    w.land.slope = style == CANYON || style == BLOCKS_ ? 2.5f : smaller(2.5f, 0.4f + 5.0f * height / extent);
    Solid& s = add(b, style ? LAND : PLANE, vec(0, 0, 0), vec(1, 1, 1), dice.uniform(0, 6.28f));
    s.metres = dice.log_uniform(0.03f, 0.15f) * extent;
    s.cell = 0.15f * s.metres;
    s.stretched = 0;
    s.gloss = 0.0f;
    if (dice.chance(0.5f)) { green(b, s); }
    else { s.a = vec(1.0f, dice.uniform(0.8f, 1.0f), dice.uniform(0.6f, 1.0f)) * dice.uniform(0.4f, 0.95f); s.tint = dice.uniform(0.2f, 0.9f); }
    s.b = vec(1.0f, dice.uniform(0.85f, 1.0f), dice.uniform(0.7f, 1.0f)) * dice.uniform(0.4f, 0.9f);
}

FN void scattered_trees(Builder& b, int count, float least, float most, float size) {
    for (int i = 0; i < count; i++) {
        float a = b.dice.uniform(0, 6.2832f), r = b.dice.uniform(least, most);
        tree(b, r * cosf(a), r * sinf(a), size * b.dice.uniform(0.5f, 1.4f));
    }
}

// Buildings and woods on the horizon.
BIG void far_off(Builder& b, float least, float most) {
    Dice& dice = b.dice;
    int n = dice.chance(0.6f) ? dice.whole(3, 14) : 0;
    for (int i = 0; i < n && b.w->count < 120; i++) {
        float a = dice.uniform(0, 6.2832f), r = dice.uniform(least, most), x = r * cosf(a), y = r * sinf(a);
        if (dice.chance(0.5f)) { house(b, x, y, vec(dice.uniform(5, 15), dice.uniform(5, 9), dice.uniform(3, 12)), a + 1.57f, i); }
        else { tree(b, x, y, dice.uniform(6, 16)); }
    }
}

// ---- families -----------------------------------------------------------------------------------------------------

FN void look_from(Rig& r, Vec focus, Vec spread, float near, float far, float low, float high, float azimuth, float sweep) {
    r.focus = focus; r.spread = spread; r.near = near; r.far = far; r.low = low; r.high = high;
    r.azimuth = azimuth; r.sweep = sweep;
}

BIG Vec make_chamber(Builder& b) {
    Dice& dice = b.dice;
    Vec half = vec(dice.log_uniform(1.6f, 6.0f), dice.log_uniform(1.6f, 6.0f), dice.uniform(1.15f, 2.0f));
    Solid& s = add(b, CHAMBER, vec(0, 0, half.z), half, 0.0f);
    s.metres = dice.log_uniform(0.6f, 3.0f);
    s.share_u = dice.chance(0.6f) ? dice.uniform(0.2f, 0.7f) : 0.0f;
    s.stretched = dice.chance(0.3f);
    float margin = 0.15f;
    b.w->rig.least = vec(-half.x + margin, -half.y + margin, 0.2f);
    b.w->rig.most = vec(half.x - margin, half.y - margin, 2.0f * half.z - 0.15f);
    b.w->rig.reach = 0.25f;
    Solid& outside = add(b, PLANE, vec(0, 0, -dice.log_uniform(0.1f, 12.0f)), vec(1, 1, 1), 0.0f);
    outside.metres = 6.0f;
    for (int i = 0; i < 3; i++) {
        float a = dice.uniform(0, 6.28f), r = dice.uniform(14.0f, 40.0f);
        Solid& h = standing(b, HULL, r * cosf(a), r * sinf(a), -12.0f, vec(5, 5, dice.uniform(4, 14)), a);
        windows(b, h, 3.0f, 3.2f, 0.4f);
    }
    // Images and boards on the walls, curtains, beams, pillars.
    int flat = dice.whole(1, 8);
    for (int i = 0; i < flat; i++) {
        bool x = dice.chance(0.5f);
        float sign = dice.chance(0.5f) ? 1.0f : -1.0f, run = dice.uniform(-0.85f, 0.85f), thin = dice.log_uniform(0.01f, 0.25f);
        Vec c = x ? vec(sign * half.x, run * half.y, 0) : vec(run * half.x, sign * half.y, 0);
        Vec size = vec(dice.uniform(0.15f, 0.9f), thin, dice.uniform(0.15f, 0.6f));
        c.z = dice.uniform(0.3f, 1.7f) * half.z;
        bool curtain = dice.chance(0.2f);
        if (curtain) { c.z = half.z; size.z = 0.95f * half.z; size.y = 0.15f; }
        Solid& p = add(b, HULL, c, size, x ? 1.5708f : 0.0f);
        p.stretched = dice.chance(0.7f);
        if (curtain) { p.relief = RIBS; p.cell_u = dice.uniform(0.1f, 0.25f); p.depth = 0.07f; }
    }
    int beams = dice.chance(0.3f) ? dice.whole(2, 6) : 0;
    for (int i = 0; i < beams; i++) {
        Solid& s2 = add(b, HULL, vec(0, half.y * (2.0f * (i + 0.5f) / beams - 1.0f), 2.0f * half.z - 0.1f), vec(half.x, 0.08f, 0.1f), 0.0f);
        stuff_of(b, s2, 6, 1.0f);
    }
    int pillars = dice.chance(0.25f) ? dice.whole(1, 4) : 0;
    for (int i = 0; i < pillars; i++) {
        Solid& p = standing(b, dice.chance(0.5f) ? ROUND : HULL, dice.uniform(-0.7f, 0.7f) * half.x, dice.uniform(-0.7f, 0.7f) * half.y, 0, vec(0.15f, 0.15f, half.z), 0.0f);
        stuff_of(b, p, 7, 1.0f);
    }
    if (dice.chance(0.5f)) {
        Solid& rug = add(b, HULL, vec(dice.uniform(-0.3f, 0.3f) * half.x, dice.uniform(-0.3f, 0.3f) * half.y, 0.004f), vec(dice.uniform(0.5f, 1.4f), dice.uniform(0.5f, 1.2f), 0.008f), dice.uniform(0, 6.28f));
        rug.stretched = 1;
    }
    return half;
}

BIG void shelf(Builder& b, float x, float y, float yaw) {
    Dice& dice = b.dice;
    float wide = dice.uniform(0.4f, 1.0f), level = dice.uniform(0.25f, 0.4f);
    int boards = dice.whole(2, 6), first = b.w->count;
    for (int i = 0; i < boards; i++) {
        Solid& s = add(b, HULL, vec(x, y, 0.1f + level * i), vec(wide, 0.16f, 0.015f), yaw);
        if (i) { like(s, b.solids[first]); }
        int items = dice.whole(0, 6);
        for (int k = 0; k < items; k++) {
            Vec p = spin(vec(dice.uniform(-0.85f, 0.85f) * wide, dice.uniform(-0.05f, 0.05f), 0), yaw);
            thing(b, x + p.x, y + p.y, 0.115f + level * i, dice.uniform(0.04f, 0.1f));
        }
    }
    Vec back = spin(vec(0, 0.16f, 0), yaw);
    Solid& s = add(b, HULL, vec(x + back.x, y + back.y, 0.5f * level * boards), vec(wide, 0.01f, 0.5f * level * boards), yaw);
    like(s, b.solids[first]);
}

BIG void table(Builder& b, float x, float y, float yaw, Vec half, int items) {
    Dice& dice = b.dice;
    float h = half.z;
    Solid& top = add(b, HULL, vec(x, y, h - 0.025f), vec(half.x, half.y, 0.025f), yaw);
    int index = (int)(&top - b.solids);
    for (int i = 0; i < 4; i++) {
        Vec p = spin(vec((i & 1 ? 0.92f : -0.92f) * half.x, (i & 2 ? 0.9f : -0.9f) * half.y, 0), yaw);
        Solid& leg = standing(b, HULL, x + p.x, y + p.y, 0, vec(0.03f, 0.03f, 0.5f * h - 0.02f), yaw);
        like(leg, b.solids[index]);
    }
    for (int i = 0; i < items; i++) {
        Vec p = spin(vec(dice.uniform(-0.85f, 0.85f) * half.x, dice.uniform(-0.85f, 0.85f) * half.y, 0), yaw);
        float size = dice.log_uniform(0.02f, 0.16f), lift = dice.chance(0.2f) ? dice.uniform(0.0f, 0.2f) : 0.0f;
        thing(b, x + p.x, y + p.y, h + lift, size);
    }
}

BIG void make_room(Builder& b, bool at_table) {
    Dice& dice = b.dice;
    Vec half = make_chamber(b);
    Vec focus = vec(0, 0, 0.7f);
    int furniture = at_table ? dice.whole(1, 5) : dice.whole(3, 11);
    for (int i = 0; i < furniture; i++) {
        float x = dice.uniform(-0.85f, 0.85f) * half.x, y = dice.uniform(-0.85f, 0.85f) * half.y;
        if (dice.chance(0.5f)) { if (half.x - fabsf(x) < half.y - fabsf(y)) { x = (x > 0 ? 0.85f : -0.85f) * half.x; } else { y = (y > 0 ? 0.85f : -0.85f) * half.y; } }
        object(b, x, y, 0.0f, dice.log_uniform(0.25f, 1.0f), 1.5708f * dice.whole(0, 4) + (dice.chance(0.3f) ? dice.uniform(-0.6f, 0.6f) : 0.0f), true);
    }
    if (at_table) {
        Vec size = vec(dice.uniform(0.4f, 1.0f), dice.uniform(0.35f, 0.7f), dice.uniform(0.35f, 0.8f));
        float yaw = dice.uniform(0, 6.28f);
        table(b, 0, 0, yaw, size, dice.whole(8, 45));
        if (dice.chance(0.3f)) { fern(b, vec(0.2f, 0.1f, size.z + 0.05f), dice.uniform(0.15f, 0.4f), dice.whole(6, 16)); }
        look_from(b.w->rig, vec(0, 0, size.z + 0.05f), vec(0.5f * size.x, 0.5f * size.y, 0.1f), 0.4f, 2.0f, 0.1f, 1.1f, 0, 6.2832f);
        b.w->rig.reach = 0.12f;
        return;
    }
    if (dice.chance(0.5f)) { table(b, dice.uniform(-0.5f, 0.5f) * half.x, dice.uniform(-0.5f, 0.5f) * half.y, dice.uniform(0, 6.28f), vec(dice.uniform(0.4f, 0.9f), dice.uniform(0.3f, 0.5f), dice.uniform(0.4f, 0.78f)), dice.whole(2, 12)); }
    if (dice.chance(0.4f)) { shelf(b, dice.uniform(-0.6f, 0.6f) * half.x, half.y - 0.2f, 0.0f); }
    if (dice.chance(0.3f)) { shelf(b, half.x - 0.2f, dice.uniform(-0.6f, 0.6f) * half.y, -1.5708f); }
    if (dice.chance(0.4f)) { fern(b, vec(dice.uniform(-0.7f, 0.7f) * half.x, dice.uniform(-0.7f, 0.7f) * half.y, dice.uniform(0.2f, 0.6f)), dice.uniform(0.3f, 0.8f), dice.whole(6, 20)); }
    int clutter = dice.chance(0.5f) ? dice.whole(5, 30) : dice.whole(0, 6);
    Vec heap = vec(dice.uniform(-0.6f, 0.6f) * half.x, dice.uniform(-0.6f, 0.6f) * half.y, 0);
    for (int i = 0; i < clutter; i++) {
        float r = dice.uniform(0.0f, 0.8f), a = dice.uniform(0, 6.28f);
        thing(b, heap.x + r * cosf(a), heap.y + r * sinf(a), larger(0.0f, (0.5f - r) * dice.unit()), dice.log_uniform(0.03f, 0.25f));
    }
    int hanging = dice.whole(0, 3);
    for (int i = 0; i < hanging; i++) {
        float x = dice.uniform(-0.5f, 0.5f) * half.x, y = dice.uniform(-0.5f, 0.5f) * half.y, drop = dice.uniform(0.2f, 0.8f);
        add(b, ROUND, vec(x, y, 2 * half.z - 0.5f * drop), vec(0.008f, 0.008f, 0.5f * drop), 0.0f);
        add(b, dice.chance(0.5f) ? BALL : ROUND, vec(x, y, 2 * half.z - drop), vec(0.15f, 0.15f, 0.12f), 0.0f);
    }
    look_from(b.w->rig, focus, vec(0.5f * half.x, 0.5f * half.y, 0.6f), 1.0f, 1.6f * (half.x + half.y), -0.1f, 0.5f, 0, 6.2832f);
}

BIG void make_plant(Builder& b) {
    Dice& dice = b.dice;
    bool indoors = dice.chance(0.7f);
    Vec half = vec(6, 6, 2);
    if (indoors) {
        half = make_chamber(b);
    } else {
        open_ground(b, FLAT, 40.0f, 0.0f);
        for (int i = 0; i < 3; i++) { house(b, dice.uniform(-12, 12), dice.uniform(6, 14), vec(5, 3, dice.uniform(3, 7)), dice.uniform(-0.3f, 0.3f), i); }
    }
    float size = dice.uniform(0.5f, 1.3f), level = dice.uniform(0.3f, 0.8f);
    if (indoors) { size = smaller(size, 0.5f * smaller(half.x, half.y)); }
    Solid& pot = standing(b, dice.chance(0.5f) ? ROUND : HULL, 0, 0, 0, vec(dice.uniform(0.2f, 1.0f) * size, dice.uniform(0.2f, 0.4f) * size, 0.5f * level), dice.uniform(-0.3f, 0.3f));
    if (pot.shape == ROUND) { pot.half.y = pot.half.x; pot.top_x = pot.top_y = 1.0f; }
    Solid& stem = standing(b, ROUND, 0, 0, level, vec(0.06f * size, 0.06f * size, 0.15f * size), 0.0f);
    stem.cell = 0.05f;
    fern(b, vec(0, 0, level + 0.25f * size), size, dice.whole(14, 40));
    int more = dice.whole(0, 4);
    for (int i = 0; i < more; i++) {
        float a = dice.uniform(0, 6.28f), r = dice.uniform(0.6f, 0.9f) * smaller(half.x, half.y);
        if (b.w->count < 110) { fern(b, vec(r * cosf(a), r * sinf(a), dice.uniform(0.1f, 0.8f)), dice.uniform(0.3f, 0.8f), dice.whole(4, 12)); }
        object(b, -r * cosf(a), -r * sinf(a), 0, dice.uniform(0.3f, 0.8f), a, true);
    }
    look_from(b.w->rig, vec(0, 0, level + 0.4f * size), vec(0.3f * size, 0.3f * size, 0.3f * size), 1.0f * size, 3.5f * size, -0.1f, 0.5f, 0, 6.2832f);
    if (!indoors) { b.w->rig.azimuth = -1.5708f; b.w->rig.sweep = 2.0f; }
    b.w->rig.reach = 0.2f;
}

BIG void street_things(Builder& b, float width, float front, int count) {
    Dice& dice = b.dice;
    for (int i = 0; i < count; i++) {
        float x = dice.uniform(-1.1f, 1.1f) * width, y = front - dice.uniform(0.05f, 0.8f) * width;
        switch (dice.whole(0, 9)) {
        case 0: case 1: tree(b, x, y, dice.uniform(2.0f, 9.0f)); break;
        case 2: pole(b, x, y, dice.uniform(1.5f, 7.0f), dice.uniform(0.03f, 0.09f)); break;
        case 3: object(b, x, y, ground(b, x, y), dice.uniform(0.5f, 2.2f), dice.uniform(0, 6.28f), true); break;
        case 4: {  // hedge or fence
            Solid& s = standing(b, HULL, x, y, ground(b, x, y), vec(dice.uniform(1, 6), dice.chance(0.5f) ? 0.02f : 0.4f, dice.uniform(0.4f, 1.0f)), dice.uniform(-0.3f, 0.3f));
            if (s.half.y < 0.1f) { s.cut = LATTICE; s.cut_share = dice.uniform(0.1f, 0.3f); s.cut_cell = dice.uniform(0.1f, 0.4f); s.tile = -2; }
            else { green(b, s); s.cut = RAGGED; s.cut_share = 0.36f; s.cut_cell = 0.08f; }
            break;
        }
        case 5: {  // a person
            float z = ground(b, x, y);
            Solid& body = standing(b, ROUND, x, y, z, vec(0.2f, 0.14f, 0.72f), dice.uniform(0, 6.28f));
            body.top_x = body.top_y = 1.0f;
            add(b, BALL, vec(x, y, z + 1.58f), vec(0.1f, 0.11f, 0.14f), 0.0f);
            break;
        }
        case 6: { Solid& s = standing(b, HULL, x, y, ground(b, x, y) - 0.02f, vec(dice.uniform(1, 8), dice.uniform(0.3f, 4), dice.uniform(0.03f, 0.15f)), dice.uniform(-0.3f, 0.3f)); if (dice.chance(0.5f)) { green(b, s); } break; }
        case 7: { float k = dice.uniform(0.2f, 1.2f); Solid& s = standing(b, BALL, x, y, ground(b, x, y) - 0.4f * k, vec(k, k * dice.uniform(0.6f, 1.4f), k), 0.0f); if (dice.chance(0.6f)) { green(b, s); s.cut = RAGGED; s.cut_share = 0.4f; s.cut_cell = 0.2f; } break; }
        default: thing(b, x, y, ground(b, x, y), dice.uniform(0.15f, 0.7f));
        }
    }
}

BIG void make_street(Builder& b) {
    Dice& dice = b.dice;
    open_ground(b, dice.chance(0.3f) ? HILLS : FLAT, 60.0f, dice.uniform(0.5f, 2.5f));
    int n = dice.whole(1, 5);
    float x = -8.0f * n, width = 0.0f;
    for (int i = 0; i < n; i++) {
        Vec half = vec(dice.uniform(3.5f, 11.0f), dice.uniform(3.0f, 6.0f), dice.uniform(2.5f, 9.0f));
        x += half.x;
        house(b, x, half.y + dice.uniform(0.0f, 2.0f), half, dice.chance(0.8f) ? 0.0f : dice.uniform(-0.3f, 0.3f), i % 3);
        x += half.x + (dice.chance(0.5f) ? 0.0f : dice.uniform(0.5f, 4.0f));
    }
    width = 10.0f + 3.0f * n;
    if (dice.chance(0.5f)) {  // a wing, or the street's other side
        house(b, -width * 0.9f, -8.0f, vec(4, 8, dice.uniform(3, 7)), 0.0f, 1);
    }
    street_things(b, width, 0.0f, dice.whole(4, 24));
    far_off(b, 45.0f, 90.0f);
    float height = dice.uniform(1.0f, 5.0f);
    look_from(b.w->rig, vec(0, 0, height), vec(0.7f * width, 1.0f, 0.5f * height), 5.0f, 30.0f, -0.12f, 0.12f, -1.5708f, 1.1f);
    b.w->rig.eye = dice.uniform(1.0f, 1.9f);
    if (dice.chance(0.2f)) { b.w->rig.low = 0.2f; b.w->rig.high = 0.9f; }
}

BIG void make_castle(Builder& b) {
    Dice& dice = b.dice;
    open_ground(b, dice.chance(0.3f) ? HILLS : FLAT, 90.0f, dice.uniform(1.0f, 5.0f));
    b.w->land.flat = 25.0f;
    float wide = dice.uniform(7.0f, 14.0f), tall = dice.uniform(3.5f, 7.0f), deep = dice.uniform(3.0f, 5.0f);
    float cell = dice.uniform(2.0f, 3.6f), storey = dice.uniform(2.8f, 4.2f), recess = dice.uniform(0.2f, 0.6f);
    Solid& middle = standing(b, HULL, 0, deep, -0.2f, vec(wide, deep, tall), 0.0f);
    stuff_of(b, middle, 0, dice.uniform(2, 6));
    if (dice.chance(0.75f)) { masonry(b, middle); }
    windows(b, middle, cell, storey, recess);
    int index = (int)(&middle - b.solids);
    Solid base = middle;
    roof(b, base, deep * dice.uniform(0.8f, 1.8f), true);
    bool round = dice.chance(0.35f);
    for (int side = -1; side < 2; side++) {
        if (side == 0 && dice.chance(0.4f)) { continue; }
        float hw = dice.uniform(2.0f, 4.0f), high = tall * dice.uniform(1.0f, 1.5f);
        Solid& s = standing(b, round && side ? ROUND : HULL, side * (wide + (side ? 0.5f * hw : 0.0f)), deep - (side ? 0.6f : 1.2f) * deep + dice.uniform(0, 0.5f), -0.2f, vec(hw, hw, high), 0.0f);
        like(s, b.solids[index]);
        windows(b, s, cell, storey, recess);
        s.share_u = base.share_u;
        s.share_v = base.share_v;
        Solid pavilion = s;
        roof(b, pavilion, hw * dice.uniform(1.2f, 3.0f), true);
    }
    int small = dice.whole(4, 16);
    for (int i = 0; i < small; i++) {  // dormers and chimneys
        float x = dice.uniform(-0.95f, 0.95f) * wide;
        Solid& s = standing(b, HULL, x, deep + dice.uniform(-0.7f, 0.7f) * deep, 2 * tall - 0.3f, vec(dice.uniform(0.3f, 0.8f), dice.uniform(0.3f, 1.0f), dice.uniform(0.6f, 2.2f)), 0.0f);
        like(s, b.solids[index]);
        if (dice.chance(0.5f)) { Solid top = s; roof(b, top, 1.0f, dice.chance(0.5f)); }
    }
    if (dice.chance(0.5f)) {
        for (int i = 0; i < 3; i++) { Solid& s = standing(b, HULL, 0, -1.0f, 0, vec(2.5f - 0.4f * i, 2.0f - 0.5f * i, 0.15f * (i + 1)), 0.0f); stuff_of(b, s, 5, 2.0f); }
    }
    street_things(b, wide * 1.3f, -3.0f, dice.whole(2, 14));
    scattered_trees(b, dice.whole(0, 7), 20.0f, 45.0f, 12.0f);
    far_off(b, 60.0f, 120.0f);
    look_from(b.w->rig, vec(0, 0, tall), vec(0.7f * wide, 1.0f, 0.4f * tall), 12.0f, 45.0f, -0.08f, 0.06f, -1.5708f, 1.2f);
    b.w->rig.eye = dice.uniform(1.3f, 2.0f);
    if (dice.chance(0.25f)) { look_from(b.w->rig, vec(0, 3, tall), vec(4, 2, 2), 20.0f, 60.0f, 0.2f, 0.8f, -1.5708f, 3.1f); }
}

BIG void make_arena(Builder& b) {
    Dice& dice = b.dice;
    open_ground(b, dice.chance(0.6f) ? BLOCKS_ : HILLS, 130.0f, dice.uniform(4.0f, 14.0f));
    float rx = dice.uniform(12.0f, 25.0f), ry = rx * dice.uniform(0.6f, 1.0f), tall = dice.uniform(6.0f, 14.0f);
    b.w->land.flat = rx * 1.4f;
    b.w->land.width = dice.uniform(14.0f, 30.0f);
    int n = dice.whole(18, 32);
    float cell = 6.2832f * rx / n / 2.0f, broken = dice.chance(0.5f) ? dice.uniform(3.5f, 6.0f) : 6.2832f;
    ring(b, rx, ry, -0.2f, tall, 0.06f * rx, n, 0.0f, broken, cell, dice.uniform(0.4f, 1.0f));
    ring(b, 0.9f * rx, 0.9f * ry, -0.2f, tall * dice.uniform(0.6f, 0.8f), 0.05f * rx, n, 0.0f, 6.2832f, cell, 0.5f);
    ring(b, 0.75f * rx, 0.75f * ry, -0.2f, 0.45f * tall, 0.08f * rx, 16, 0.0f, 6.2832f, 2.0f, 0.0f);
    ring(b, 0.6f * rx, 0.6f * ry, -0.2f, 0.22f * tall, 0.06f * rx, 12, 0.0f, 6.2832f, 2.0f, 0.0f);
    for (int i = 0; i < 6; i++) { house(b, dice.uniform(1.3f, 2.0f) * rx * cosf(1.0f * i), dice.uniform(1.4f, 2.2f) * rx * sinf(1.0f * i), vec(dice.uniform(2, 6), dice.uniform(2, 5), dice.uniform(2, 5)), dice.uniform(0, 6), i); }
    scattered_trees(b, dice.whole(0, 8), 1.2f * rx, 2.0f * rx, 6.0f);
    look_from(b.w->rig, vec(0, 0, 0.3f * tall), vec(0.4f * rx, 0.4f * ry, 2.0f), 2.0f * rx, 5.0f * rx, 0.15f, 0.8f, 0, 6.2832f);
    if (dice.chance(0.3f)) { look_from(b.w->rig, vec(0, 0, 0.5f * tall), vec(0.7f * rx, 0.7f * ry, 2.0f), 1.5f * rx, 3.0f * rx, -0.05f, 0.1f, 0, 6.2832f); }
    b.w->rig.eye = 1.6f;
}

BIG void make_pyramids(Builder& b) {
    Dice& dice = b.dice;
    open_ground(b, dice.chance(0.7f) ? DUNES : HILLS, 140.0f, dice.uniform(2.0f, 10.0f));
    float half = dice.uniform(12.0f, 25.0f), tall = half * dice.uniform(0.5f, 0.8f);
    b.w->land.flat = half * 1.1f;
    Vec sand = vec(dice.uniform(0.75f, 0.95f), dice.uniform(0.6f, 0.75f), dice.uniform(0.3f, 0.55f));
    bool sandy = dice.chance(0.7f);
    int n = dice.whole(1, 5);
    for (int i = 0; i < n; i++) {
        float k = i ? dice.uniform(0.15f, 0.6f) : 1.0f, a = dice.uniform(0, 6.28f), r = i ? half * dice.uniform(1.4f, 2.8f) : 0.0f;
        float x = r * cosf(a), y = r * sinf(a);
        Solid& s = standing(b, HULL, x, y, ground(b, x, y) - 0.5f, vec(half * k, half * k, tall * k), dice.uniform(0, 0.2f));
        s.top_x = s.top_y = dice.chance(0.7f) ? dice.uniform(0.0f, 0.06f) : dice.uniform(0.2f, 0.6f);
        s.relief = BLOCKS;
        s.cell_v = dice.uniform(0.6f, 1.6f) * (0.4f + 0.6f * k);
        s.cell_u = s.cell_v * dice.uniform(1.0f, 2.5f);
        s.depth = dice.uniform(0.3f, 0.9f) * s.cell_v;
        stuff_of(b, s, 0, half * 0.3f);
        if (sandy) { s.tint = 0.8f; s.a = sand; s.b = sand * 0.7f; }
    }
    int ruins = dice.whole(10, 60);
    for (int i = 0; i < ruins; i++) {
        float a = dice.uniform(0, 6.28f), r = half * dice.uniform(1.3f, 3.0f), x = r * cosf(a), y = r * sinf(a), k = dice.log_uniform(0.3f, 3.0f);
        Solid& s = standing(b, dice.chance(0.8f) ? HULL : BALL, x, y, ground(b, x, y) - 0.3f * k, vec(k * dice.uniform(0.4f, 2.5f), k * dice.uniform(0.4f, 1.0f), k * dice.uniform(0.3f, 1.0f)), dice.uniform(0, 0.4f));
        stuff_of(b, s, 0, 4.0f);
        if (sandy) { s.tint = 0.7f; s.a = sand * dice.uniform(0.7f, 1.1f); s.b = s.a * 0.7f; }
    }
    if (sandy) { Solid& land = b.solids[0]; land.tint = 0.8f; land.a = sand; land.b = sand * 0.85f; }
    look_from(b.w->rig, vec(0, 0, 0.4f * tall), vec(0.4f * half, 0.4f * half, 2.0f), 2.0f * half, 5.0f * half, 0.1f, 0.9f, 0, 6.2832f);
    if (dice.chance(0.25f)) { b.w->rig.low = -0.03f; b.w->rig.high = 0.1f; }
    b.w->rig.eye = 1.6f;
}

BIG void make_tower(Builder& b) {
    Dice& dice = b.dice;
    open_ground(b, dice.chance(0.6f) ? HILLS : FLAT, 60.0f, dice.uniform(1.0f, 6.0f));
    float r = dice.uniform(1.5f, 4.0f), tall = r * dice.uniform(2.5f, 6.0f), z = ground(b, 0, 0) - 0.3f, level = z;
    bool round = dice.chance(0.6f);
    int parts = dice.whole(1, 4);
    Solid last = b.solids[0];
    for (int i = 0; i < parts; i++) {
        float k = (i ? dice.uniform(0.75f, 1.12f) : 1.0f), h = tall * (i ? dice.uniform(0.1f, 0.5f) : 1.0f);
        Solid& s = standing(b, round ? ROUND : HULL, 0, 0, level, vec(r * k, r * k, 0.5f * h), 0.3f);
        s.top_x = s.top_y = i ? 1.0f : dice.uniform(0.75f, 1.0f);
        if (i) { like(s, last); } else { stuff_of(b, s, 0, dice.uniform(1.5f, 4.0f)); if (dice.chance(0.5f)) { masonry(b, s); } }
        if (dice.chance(0.5f)) { s.relief = BLOCKS; s.cell_v = dice.uniform(0.3f, 0.7f); s.cell_u = 6.2832f * r * k / (int)(6.2832f * r * k / (2 * s.cell_v) + 1); s.depth = 0.08f; }
        else { windows(b, s, dice.uniform(1.5f, 5.0f), dice.uniform(2.0f, 5.0f), dice.uniform(0.2f, 0.5f)); s.share_u *= 0.6f; }
        level += h;
        last = s;
    }
    if (dice.chance(0.7f)) { roof(b, last, r * dice.uniform(0.8f, 3.0f), true); }
    int n = dice.chance(0.6f) ? dice.whole(6, 14) : 0;
    for (int i = 0; i < n; i++) {  // battlements
        float a = 6.2832f * i / n;
        Solid& s = standing(b, HULL, 0.95f * last.half.x * cosf(a), 0.95f * last.half.x * sinf(a), level - 0.1f, vec(0.25f * r * 0.6f, 0.15f, 0.2f * r), a + 1.5708f);
        like(s, last);
    }
    int houses = dice.whole(0, 5);
    for (int i = 0; i < houses; i++) {
        float a = dice.uniform(0, 6.28f), far = r + dice.uniform(4.0f, 14.0f);
        house(b, far * cosf(a), far * sinf(a), vec(dice.uniform(2, 5), dice.uniform(2, 4), dice.uniform(1.2f, 3)), a + 1.57f, 1 + i % 2);
    }
    int walls = dice.whole(0, 4);
    for (int i = 0; i < walls; i++) {
        float a = dice.uniform(0, 6.28f), far = r + dice.uniform(2.0f, 8.0f), x = far * cosf(a), y = far * sinf(a);
        Solid& s = standing(b, HULL, x, y, ground(b, x, y) - 0.4f, vec(dice.uniform(1, 5), 0.25f, dice.uniform(0.5f, 1.4f)), a + 1.57f + dice.uniform(-0.5f, 0.5f));
        if (dice.chance(0.5f)) { s.relief = BLOCKS; s.cell_v = 0.3f; s.cell_u = 0.6f; s.depth = 0.06f; }
    }
    street_things(b, 10.0f, 5.0f, dice.whole(4, 20));
    scattered_trees(b, dice.whole(0, 6), r + 4.0f, 30.0f, 8.0f);
    far_off(b, 40.0f, 100.0f);
    look_from(b.w->rig, vec(0, 0, 0.5f * tall), vec(0.6f * r, 0.6f * r, 0.3f * tall), 1.5f * tall, 4.0f * tall, -0.2f, 0.1f, 0, 6.2832f);
    b.w->rig.eye = dice.uniform(1.3f, 1.8f);
}

BIG void make_temple(Builder& b) {
    Dice& dice = b.dice;
    open_ground(b, dice.chance(0.5f) ? HILLS : FLAT, 80.0f, dice.uniform(1.0f, 5.0f));
    b.w->land.flat = 16.0f;
    int n = dice.whole(4, 9), m = dice.whole(2, 10);
    float gap = dice.uniform(1.6f, 3.0f), radius = gap * dice.uniform(0.15f, 0.28f), tall = gap * dice.uniform(1.8f, 3.5f);
    float hx = 0.5f * gap * (n - 1), hy = 0.5f * gap * (m - 1), level = 0.0f;
    int steps = dice.whole(1, 4);
    for (int i = 0; i < steps; i++) {
        float out = radius * 2 + 0.4f * (steps - i);
        Solid& s = standing(b, HULL, 0, 0, level - 0.1f, vec(hx + out, hy + out, 0.2f), 0.0f);
        stuff_of(b, s, 0, 3.0f);
        level += 0.3f;
    }
    int first = b.w->count;
    bool broken = dice.chance(0.4f);
    for (int j = 0; j < m; j++) {
        for (int i = 0; i < n; i++) {
            if ((i > 0 && i < n - 1 && j > 0 && j < m - 1) || (broken && dice.chance(0.2f))) { continue; }
            Solid& s = standing(b, ROUND, gap * i - hx, gap * j - hy, level, vec(radius, radius, 0.5f * tall * (broken && dice.chance(0.3f) ? dice.uniform(0.2f, 0.8f) : 1.0f)), 0.0f);
            s.top_x = s.top_y = 0.85f;
            if (b.w->count - 1 > first) { like(s, b.solids[first]); s.seed += b.w->count; } else { stuff_of(b, s, 0, 2.0f); masonry(b, s); }
            s.relief = RIBS;
            s.cell_u = 6.2832f * radius / 16;
            s.depth = 0.12f * radius;
        }
    }
    if (!broken || dice.chance(0.5f)) {
        Solid& beam = standing(b, HULL, 0, 0, level + tall, vec(hx + 1.6f * radius, hy + 1.6f * radius, 0.25f * gap), 0.0f);
        stuff_of(b, beam, 0, 3.0f);
        Solid under = beam;
        if (dice.chance(0.8f)) { roof(b, under, 0.5f * hx, false); }
    }
    if (dice.chance(0.7f) && m > 2) {
        Solid& cella = standing(b, HULL, 0, 0, level, vec(larger(hx - gap, 0.5f), larger(hy - gap, 0.5f), 0.49f * tall), 0.0f);
        stuff_of(b, cella, 1, 3.0f);
    }
    street_things(b, hx + 8.0f, -hy - 1.0f, dice.whole(3, 16));
    float big = larger(larger(hx, hy), tall);
    look_from(b.w->rig, vec(0, 0, 0.5f * tall), vec(0.5f * hx, 0.5f * hy, 0.4f * tall), 1.5f * big, 4.0f * big, -0.15f, 0.15f, 0, 6.2832f);
    b.w->rig.eye = 1.5f;
    if (dice.chance(0.3f)) { b.w->rig.low = 0.2f; b.w->rig.high = 0.8f; }
}

BIG void make_nature(Builder& b) {
    Dice& dice = b.dice;
    float pick = dice.unit(), extent = dice.log_uniform(30.0f, 130.0f);
    int style = pick < 0.4f ? CANYON : pick < 0.65f ? ROCKS : pick < 0.85f ? HILLS : DUNES;
    open_ground(b, style, extent, extent * (style == CANYON ? dice.uniform(0.15f, 0.45f) : style == ROCKS ? dice.uniform(0.2f, 0.6f) : dice.uniform(0.06f, 0.3f)));
    Solid& land = b.solids[0];
    Vec rock = land.b;
    if (dice.chance(0.6f)) { green(b, land); land.b = rock; }
    land.metres = extent * dice.log_uniform(0.02f, 0.1f);
    int rocks = dice.whole(0, 25), trees = dice.chance(0.6f) ? dice.whole(2, 28) : 0;
    for (int i = 0; i < rocks; i++) {
        float x = dice.uniform(-0.6f, 0.6f) * extent, y = dice.uniform(-0.6f, 0.6f) * extent, k = extent * dice.log_uniform(0.004f, 0.03f);
        Solid& s = standing(b, dice.chance(0.5f) ? BALL : HULL, x, y, ground(b, x, y) - 0.5f * k, vec(k, k * dice.uniform(0.5f, 1.5f), k * dice.uniform(0.5f, 1.2f)), 0.0f);
        along_z(s.turn, dice.direction() + vec(0, 0, 1.5f));
        s.top_x = dice.uniform(0.4f, 1.0f);
        s.top_y = dice.uniform(0.4f, 1.0f);
        stuff_of(b, s, 1, 3.0f * k);
        s.a = land.b;
        s.tint = land.tint;
    }
    for (int i = 0; i < trees; i++) { tree(b, dice.uniform(-0.6f, 0.6f) * extent, dice.uniform(-0.6f, 0.6f) * extent, extent * dice.uniform(0.02f, 0.08f)); }
    if (dice.chance(0.3f)) { house(b, dice.uniform(-0.2f, 0.2f) * extent, dice.uniform(-0.2f, 0.2f) * extent, vec(4, 3, 3), dice.uniform(0, 6), 2); }
    float z = ground(b, 0, 0);
    bool air = dice.chance(0.7f);
    look_from(b.w->rig, vec(0, 0, z), vec(0.35f * extent, 0.35f * extent, 0.1f * b.w->land.height), 0.25f * extent, 1.3f * extent, air ? 0.2f : 0.0f, air ? 1.2f : 0.2f, 0, 6.2832f);
    b.w->rig.eye = air ? 0.05f * extent : 1.6f;
}

BIG void make_city(Builder& b) {
    Dice& dice = b.dice;
    float extent = dice.uniform(60.0f, 120.0f);
    open_ground(b, dice.chance(0.6f) ? BLOCKS_ : FLAT, extent, dice.uniform(5.0f, 16.0f));
    b.w->land.width = dice.uniform(14.0f, 30.0f);
    int houses = dice.whole(8, 40);
    for (int i = 0; i < houses; i++) {
        float x = dice.uniform(-0.5f, 0.5f) * extent, y = dice.uniform(-0.5f, 0.5f) * extent, k = dice.uniform(2.0f, 7.0f);
        house(b, x, y, vec(k, k * dice.uniform(0.5f, 1.0f), dice.log_uniform(2.0f, 14.0f)), 1.5708f * dice.whole(0, 2) + 0.1f, i % 5);
    }
    scattered_trees(b, dice.whole(2, 14), 3.0f, 0.5f * extent, 7.0f);
    look_from(b.w->rig, vec(0, 0, 3.0f), vec(0.3f * extent, 0.3f * extent, 3.0f), 20.0f, 90.0f, 0.25f, 1.2f, 0, 6.2832f);
    b.w->rig.eye = 6.0f;
    b.w->rig.reach = 3.0f;
}

BIG void make_abstract(Builder& b) {
    Dice& dice = b.dice;
    bool inside = dice.chance(0.6f);
    float size = 3.0f;
    if (inside) { Vec half = make_chamber(b); size = 0.8f * smaller(half.x, half.y); } else { open_ground(b, dice.chance(0.6f) ? HILLS : FLAT, 30.0f, 2.0f); }
    int n = dice.whole(15, 90);
    for (int i = 0; i < n; i++) {
        float k = dice.log_uniform(0.04f, 0.7f), x = dice.uniform(-1, 1) * size, y = dice.uniform(-1, 1) * size;
        float z = ground(b, x, y) + (dice.chance(0.4f) ? dice.uniform(0.0f, 2.0f) : -0.2f * k);
        switch (dice.whole(0, 5)) {
        case 0: object(b, x, y, z, k, dice.uniform(0, 6.28f), false); break;
        case 1: {
            Solid& s = add(b, HULL, vec(x, y, z + k), vec(k * 1.5f, 0.01f, k * 1.5f), 0.0f);
            along_z(s.turn, dice.direction());
            s.cut = dice.whole(0, 5);
            s.cut_share = s.cut == LATTICE ? dice.uniform(0.1f, 0.4f) : dice.uniform(0.3f, 0.6f);
            s.cut_cell = k * dice.uniform(0.08f, 0.5f);
            s.metres = 2.0f * k;
            break;
        }
        case 2: {
            Solid& s = add(b, ROUND, vec(x, y, z + k), vec(0.04f * k + 0.01f, 0.04f * k + 0.01f, 2.0f * k), 0.0f);
            along_z(s.turn, dice.direction());
            break;
        }
        default: {
            Solid& s = thing(b, x, y, z, k);
            if (s.shape == HULL && dice.chance(0.3f)) { windows(b, s, 0.6f * k, 0.6f * k, 0.15f * k); }
        }
        }
    }
    look_from(b.w->rig, vec(0, 0, 0.8f), vec(0.5f * size, 0.5f * size, 0.6f), 1.0f, 5.0f, -0.1f, 0.7f, 0, 6.2832f);
    b.w->rig.reach = 0.25f;
}

// ---- light, cameras -----------------------------------------------------------------------------------------------

BIG void light_up(Builder& b, Light& l, bool indoors) {
    Dice& dice = b.dice;
    float a = dice.uniform(0, 6.2832f), rise = dice.uniform(0.2f, 1.35f), kind = dice.unit();
    l.lamp = 0;
    l.sun = vec(cosf(a) * cosf(rise), sinf(a) * cosf(rise), sinf(rise));
    l.dome = -1;
    l.dome_turn = dice.uniform(0, 6.2832f);
    l.clouds = dice.uniform(0.0f, 1.0f);
    l.haze = 0.0f;
    float warm = dice.uniform(0.0f, 0.3f), strength = dice.uniform(1.0f, 2.4f);
    l.colour = vec(1.0f, 1.0f - 0.4f * warm, 1.0f - warm) * strength;
    l.sky = vec(dice.uniform(0.3f, 0.55f), dice.uniform(0.42f, 0.6f), dice.uniform(0.5f, 0.8f));
    l.ground = vec(0.3f, 0.28f, 0.25f) * dice.uniform(0.5f, 1.3f);
    l.zenith = vec(dice.uniform(0.08f, 0.3f), dice.uniform(0.25f, 0.5f), dice.uniform(0.6f, 1.0f));
    l.horizon = vec(dice.uniform(0.6f, 0.9f), dice.uniform(0.7f, 0.95f), dice.uniform(0.85f, 1.1f));
    if (kind < 0.3f) {  // overcast
        float g = dice.uniform(0.8f, 1.3f);
        l.colour = l.colour * dice.uniform(0.0f, 0.12f);
        l.sky = vec(g, g, g * dice.uniform(0.97f, 1.1f));
        l.ground = l.sky * dice.uniform(0.25f, 0.45f);
        l.zenith = l.sky * dice.uniform(0.7f, 1.0f);
        l.horizon = l.sky;
        l.clouds *= 0.6f;
    } else if (kind < 0.42f) {  // late
        l.sun.z = 0.12f;
        l.sun = unit(l.sun);
        l.colour = vec(1.0f, 0.6f, 0.3f) * dice.uniform(0.4f, 1.6f);
        l.sky = vec(0.35f, 0.35f, 0.45f) * dice.uniform(0.4f, 1.0f);
        l.ground = l.sky * 0.5f;
        l.zenith = vec(0.15f, 0.2f, 0.45f);
        l.horizon = vec(0.9f, 0.55f, 0.35f);
    }
    if (dice.chance(0.25f)) { l.haze = dice.log_uniform(0.0003f, 0.004f); }
    float dome = dice.unit();
    if (b.packs->dome_count > 0 && dome < 0.4f) {
        l.dome = dice.any() % b.packs->dome_count;
        const float* s = b.packs->suns + 12 * l.dome;
        l.sun = spin(at(s), l.dome_turn);
        if (l.sun.z < 0.1f) { l.sun.z = 0.1f; l.sun = unit(l.sun); }
        l.colour = at(s + 3);
        l.sky = at(s + 6);
        l.ground = at(s + 9);
        l.horizon = l.sky;
    } else if (dome > 0.85f) {
        l.dome = -2;
    }
    if (indoors) {
        float dim = dice.uniform(0.35f, 0.9f);
        l.haze = 0.0f;
        l.sky = (l.sky * 0.5f + vec(0.3f, 0.28f, 0.25f)) * dim;
        l.ground = l.sky * dice.uniform(0.5f, 0.9f);
        if (dice.chance(0.6f)) {
            const Rig& r = b.w->rig;
            l.lamp = 1;
            l.sun = vec(dice.uniform(0.7f * r.least.x, 0.7f * r.most.x), dice.uniform(0.7f * r.least.y, 0.7f * r.most.y), dice.uniform(0.7f, 0.98f) * r.most.z);
            l.colour = vec(1.0f, dice.uniform(0.75f, 1.0f), dice.uniform(0.5f, 1.0f)) * dice.uniform(0.3f, 1.2f);
        }
    }
}

BIG void lens(Builder& b, Camera& c, float same) {
    Dice& dice = b.dice;
    float gain = expf(0.3f * dice.normal() + same);
    c.gain = vec(gain * expf(0.06f * dice.normal()), gain, gain * expf(0.06f * dice.normal()));
    c.held = 0;
    c.gamma = dice.uniform(0.38f, 0.56f);
    c.contrast = dice.uniform(-0.15f, 0.6f);
    c.saturation = dice.uniform(0.7f, 1.3f);
    c.vignette = dice.chance(0.4f) ? dice.uniform(0.0f, 0.5f) : 0.0f;
    c.noise = dice.chance(0.6f) ? dice.log_uniform(0.002f, 0.035f) : 0.0f;
    c.speckle = dice.uniform(0.3f, 1.0f);
    c.blur_xx = c.blur_xy = c.blur_yy = 0.0f;
    if (dice.chance(0.35f)) {
        float even = dice.uniform(0.0f, 0.8f), x = 0.0f, y = 0.0f;
        even *= even;
        if (dice.chance(0.4f)) { float a = dice.uniform(0, 6.28f), r = dice.uniform(0.0f, 1.2f); x = r * cosf(a); y = r * sinf(a); }
        c.blur_xx = even + x * x;
        c.blur_xy = x * y;
        c.blur_yy = even + y * y;
    }
    c.quality = dice.chance(0.4f) ? dice.log_uniform(2.0f, 16.0f) : 0.0f;
}

FN Vec held_inside(const World& w, Vec p) {
    const Rig& r = w.rig;
    p.x = larger(r.least.x, smaller(r.most.x, p.x));
    p.y = larger(r.least.y, smaller(r.most.y, p.y));
    p.z = larger(r.least.z, smaller(r.most.z, p.z));
    float over = (w.land.style ? land_at(w.land, p.x, p.y) : 0.0f) + r.eye;
    p.z = larger(p.z, over);
    return p;
}

FN void face(Camera& c, Vec towards, float roll) {
    Vec z = unit(towards), x = fabsf(z.z) > 0.995f ? vec(1, 0, 0) : unit(cross(z, vec(0, 0, 1))), y = cross(z, x);
    float cr = cosf(roll), sr = sinf(roll);
    from_axes(c.turn, x * cr + y * sr, y * cr - x * sr, z);
}

// The poses and focal lengths of candidate `number` for a world's cameras.
BIG void propose(const World& w, int number, Camera* cameras) {
    Dice dice = {hash(w.seed * 31u + number * 7919u + 17u)};
    const Rig& r = w.rig;
    float hard = w.difficulty;
    float focal = dice.chance(0.6f) ? dice.uniform(0.65f, 1.0f) : dice.log_uniform(0.5f, 2.0f), focal2 = focal;
    if (dice.chance(0.35f)) { focal2 = larger(0.45f, smaller(2.2f, focal * expf(dice.uniform(-1.0f, 1.0f) * (0.15f + 0.95f * hard)))); }
    Vec focus = r.focus + vec(dice.uniform(-1, 1) * r.spread.x, dice.uniform(-1, 1) * r.spread.y, dice.uniform(-1, 1) * r.spread.z);
    if (w.land.style && w.land.flat == 0.0f) { focus.z = larger(focus.z, land_at(w.land, focus.x, focus.y)); }
    float azimuth = r.azimuth + dice.uniform(-1, 1) * (r.sweep > 3.0f ? 3.1416f : r.sweep), rise = dice.uniform(r.low, r.high);
    float distance = dice.log_uniform(r.near, r.far) * (dice.chance(0.6f) ? focal / 0.8f : 1.0f);
    Vec arm = vec(cosf(azimuth) * cosf(rise), sinf(azimuth) * cosf(rise), sinf(rise)) * distance;
    Vec first = held_inside(w, focus + arm), away = first - focus;
    distance = sqrtf(dot(away, away));
    Vec second = first, focus2 = focus;
    float wide = 0.06f + 1.34f * hard, aside = 0.05f + 0.25f * hard;
    Vec shift = dice.direction();
    switch (w.motion) {
    case ORBIT: {
        float angle = (0.04f + dice.unit() * wide) * (dice.chance(0.5f) ? 1.0f : -1.0f);
        second = focus + spin(away, angle) * expf(dice.uniform(-1, 1) * (0.05f + 0.45f * hard));
        second = second + shift * (distance * dice.uniform(0.0f, 0.02f + 0.15f * hard));
        break;
    }
    case WALK: {  // sideways, looking the same way
        Vec side = unit(vec(-away.y, away.x, 0));
        second = first + side * (distance * dice.uniform(-1, 1) * (0.1f + 0.5f * hard)) + vec(0, 0, dice.uniform(-1, 1) * 0.08f * distance);
        focus2 = focus + (second - first) * dice.uniform(0.4f, 1.0f);
        break;
    }
    case ADVANCE: second = focus + away * dice.uniform(0.9f - 0.6f * hard, 0.95f) + shift * (0.05f * distance); break;
    case TURN: {
        second = first + shift * (0.004f * distance);
        float angle = dice.uniform(-1, 1) * (0.1f + 0.5f * hard) / focal;
        focus2 = first - spin(away, angle) + vec(0, 0, dice.uniform(-1, 1) * 0.15f * distance);
        break;
    }
    case APART: focus2 = first + away; break;
    default: {  // anywhere else about it
        float azimuth2 = azimuth + dice.uniform(-1, 1) * 1.3f * hard, rise2 = dice.uniform(r.low, r.high);
        float distance2 = dice.log_uniform(r.near, r.far);
        second = focus + vec(cosf(azimuth2) * cosf(rise2), sinf(azimuth2) * cosf(rise2), sinf(rise2)) * distance2;
    }
    }
    second = held_inside(w, second);
    bool tilted = dice.chance(0.06f);
    Vec lean1 = dice.direction() * (dice.unit() * aside * distance), lean2 = dice.direction() * (dice.unit() * aside * distance);
    float roll = tilted ? dice.uniform(-1.6f, 1.6f) * hard : 0.0f;
    face(cameras[0], focus + lean1 - first, roll + 0.03f * dice.normal());
    face(cameras[1], focus2 + lean2 - second, roll + (0.02f + 0.06f * hard) * dice.normal());
    cameras[0].centre = first;
    cameras[1].centre = second;
    cameras[0].focal = focal;
    cameras[1].focal = focal2;
    if (dice.chance(0.5f)) {  // which of the two is the first makes no difference
        Camera other = cameras[0];
        for (int i = 0; i < 9; i++) { cameras[0].turn[i] = cameras[1].turn[i]; cameras[1].turn[i] = other.turn[i]; }
        cameras[0].centre = cameras[1].centre; cameras[1].centre = other.centre;
        cameras[0].focal = cameras[1].focal; cameras[1].focal = other.focal;
    }
}

constexpr int PROBES = 6;  // squared are the rays that judge a candidate
enum Count { SEEN, SEEN_FIRST, SHARED, CLOSE, CLOSE_FIRST, THINGS, THINGS_FIRST, COUNTS };

FN void add_to(float* sum, float value) {
#ifdef __CUDACC__
    atomicAdd(sum, value);
#else
    *sum += value;
#endif
}

// One ray of a candidate's judgement into `counts`.
BIG void probe(const Scenery& w, const Camera* cameras, int i, float* counts) {
    Hit hit;
    float x = ((i % PROBES) + 0.5f) / PROBES - 0.5f, y = ((i / PROBES) + 0.5f) / PROBES - 0.5f, reach = w.world->rig.reach;
    Vec d = times(cameras[1].turn, vec(x / cameras[1].focal, y / cameras[1].focal, 1.0f)), o = cameras[1].centre;
    int seen = nearest_hit(w, nullptr, w.world->count, 1, o, d, &hit);
    if (seen >= 0) {
        add_to(counts + SEEN, 1.0f);
        if (w.solids[seen].shape != CHAMBER && w.solids[seen].shape != PLANE) { add_to(counts + THINGS, 1.0f); }
        if (hit.t < reach) { add_to(counts + CLOSE, 1.0f); }
        Vec point = o + d * hit.t, from = point - cameras[0].centre, own = transposed_times(cameras[0].turn, from);
        float limit = 0.5f * own.z / cameras[0].focal;
        if (own.z > 0.0f && fabsf(own.x) < limit && fabsf(own.y) < limit) {
            int found = nearest_hit(w, nullptr, w.world->count, 0, cameras[0].centre, from, &hit);
            if (found >= 0 && fabsf(hit.t - 1.0f) < 0.02f) { add_to(counts + SHARED, 1.0f); }
        }
    }
    d = times(cameras[0].turn, vec(x / cameras[0].focal, y / cameras[0].focal, 1.0f));
    seen = nearest_hit(w, nullptr, w.world->count, 0, cameras[0].centre, d, &hit);
    if (seen >= 0) {
        add_to(counts + SEEN_FIRST, 1.0f);
        if (w.solids[seen].shape != CHAMBER && w.solids[seen].shape != PLANE) { add_to(counts + THINGS_FIRST, 1.0f); }
        if (hit.t < reach) { add_to(counts + CLOSE_FIRST, 1.0f); }
    }
}

FN float score(const World& w, const float* counts) {
    constexpr float ALL = PROBES * PROBES;
    float seen = counts[SEEN] / ALL, shared = counts[SHARED] / ALL, close = larger(counts[CLOSE], counts[CLOSE_FIRST]) / ALL;
    return -fabsf(shared / larger(seen, 0.1f) - w.overlap) 
           - 6.0f * larger(0.0f, close - 0.12f) - 2.0f * larger(0.0f, 0.4f - smaller(seen, counts[SEEN_FIRST] / ALL)) - 1.5f * larger(0.0f, 0.3f - smaller(counts[THINGS], counts[THINGS_FIRST]) / ALL);
}

// Options of a batch, for tests, measurements and the demonstration images.
enum Option { ONE_LIGHT = 1, PERFECT_LENSES = 2, NOTHING_MOVES = 4, CAMERAS_GIVEN = 8 };

// Some things stand elsewhere in the second view, or are in one view alone.
BIG void move_some(Builder& b, bool indoors, int count) {
    World& w = *b.w;
    Dice& dice = b.dice;
    const Rig& r = w.rig;
    for (int k = 0; k < count && w.count < MOST_SOLIDS - 1; k++) {
        int i = dice.whole(1, w.count);
        if (dice.chance(0.5f)) {  // somebody who walks by
            float x = r.focus.x + dice.uniform(-1, 1) * (r.spread.x + 0.2f * r.near), y = r.focus.y + dice.uniform(-1, 1) * (r.spread.y + 0.2f * r.near);
            i = (int)(&thing(b, x, y, indoors ? r.focus.z - r.spread.z : ground(b, x, y), r.near * dice.log_uniform(0.04f, 0.25f)) - b.solids);
        }
        Solid& s = b.solids[i];
        if (s.shape == EMPTY || (s.shape >= CHAMBER && s.shape != MESH) || s.views != 3 || s.radius > 0.5f * r.near) { continue; }
        Solid& twin = b.solids[w.count++];
        twin = s;
        s.views = 1;
        twin.views = dice.chance(0.3f) ? 0 : 2;
        float away = dice.uniform(0, 6.2832f);
        twin.centre = twin.centre + vec(cosf(away), sinf(away), 0.0f) * (s.radius * dice.uniform(1.5f, 6.0f));
    }
}

BIG void make_world(World* w, Solid* solids, const Packs* packs, uint32_t seed, float difficulty, int options) {
    Builder b = {w, solids, packs, {hash(seed)}};
    Dice& dice = b.dice;
    w->seed = seed;
    w->count = 0;
    w->difficulty = difficulty * sqrtf(dice.unit());
    w->land.style = FLAT;
    w->land.flat = 0.0f;
    w->rig.least = vec(-1e3f, -1e3f, 0.3f);
    w->rig.most = vec(1e3f, 1e3f, 1e3f);
    w->rig.eye = 0.3f;
    w->rig.reach = 1.0f;
    int materials = packs->material_count > 0 ? packs->material_count : 1;
    for (int i = 0; i < PALETTE; i++) { w->palette[i] = dice.any() % materials; }
    float shares[FAMILIES] = {0.2f, 0.08f, 0.08f, 0.12f, 0.1f, 0.05f, 0.04f, 0.07f, 0.05f, 0.1f, 0.05f, 0.06f};
    float pick = dice.unit();
    int family = 0;
    while (family < FAMILIES - 1 && pick >= shares[family]) { pick -= shares[family++]; }
    w->family = family;
    switch (family) {
    case ROOM_: make_room(b, false); break;
    case TABLE_: make_room(b, true); break;
    case PLANT_: make_plant(b); break;
    case STREET: make_street(b); break;
    case CASTLE: make_castle(b); break;
    case ARENA: make_arena(b); break;
    case PYRAMIDS: make_pyramids(b); break;
    case TOWER: make_tower(b); break;
    case TEMPLE: make_temple(b); break;
    case NATURE: make_nature(b); break;
    case CITY: make_city(b); break;
    default: make_abstract(b);
    }
    bool indoors = solids[0].shape == CHAMBER;
    float motion = dice.unit();
    w->motion = motion < 0.4f ? ORBIT : motion < 0.55f ? WALK : motion < 0.63f ? ADVANCE : motion < 0.69f ? TURN : motion < 0.97f ? FREE : APART;
    if (family == PLANT_ && dice.chance(0.5f)) { w->motion = WALK; }
    w->overlap = w->motion == APART ? 0.0f : mix(dice.uniform(0.5f, 0.95f), dice.uniform(0.05f, 0.75f), w->difficulty);

    float moved = dice.unit();
    if (!(options & NOTHING_MOVES) && moved < 0.35f) { move_some(b, indoors, 1 + (int)(moved * 20.0f)); }
    light_up(b, w->lights[0], indoors);
    Light other = w->lights[0];
    bool changes = dice.chance(0.35f), partly = dice.chance(0.5f);
    light_up(b, w->lights[1], indoors);
    if (!changes || (options & ONE_LIGHT)) {
        w->lights[1] = other;
    } else if (partly) {  // the same sky and sun, of another strength
        w->lights[1].sun = other.sun;
        w->lights[1].lamp = other.lamp;
        w->lights[1].dome = other.dome;
        w->lights[1].dome_turn = other.dome_turn;
        w->lights[1].zenith = other.zenith;
        w->lights[1].horizon = other.horizon;
        w->lights[1].haze = other.haze;
    }
    float same = 0.2f * dice.normal();
    lens(b, w->cameras[0], same);
    lens(b, w->cameras[1], same);
    if (dice.chance(0.5f) && !changes) {  // the same camera, its settings held
        Camera& a = w->cameras[0];
        Camera& c = w->cameras[1];
        c.gain = a.gain * dice.uniform(0.95f, 1.05f);
        c.held = dice.chance(0.5f);
        c.gamma = a.gamma; c.contrast = a.contrast; c.saturation = a.saturation; c.vignette = a.vignette; c.noise = a.noise;
    }
    if (options & PERFECT_LENSES) {
        for (int i = 0; i < 2; i++) {
            Camera& c = w->cameras[i];
            c = w->cameras[0];
            c.held = 1;
            c.gamma = 0.45f; c.contrast = 0.0f; c.saturation = 1.0f; c.vignette = c.noise = c.quality = 0.0f;
            c.blur_xx = c.blur_xy = c.blur_yy = 0.0f;
        }
        for (int i = 0; i < w->count; i++) { solids[i].gloss = 0.0f; if (solids[i].depth > 0.0f) { solids[i].glass = -2; } }
    }
}
