// What surfaces and the sky look like: photographs, paints, light. Colours are linear; files hold their square roots.
#pragma once
#include "shapes.cuh"

// Tiles of SIDE x SIDE RGBA bytes with mip levels down to 4 x 4, one tile after the other.
constexpr int SIDE = 256, LEVELS = 7, DOME_WIDTH = 512, DOME_HEIGHT = 256;
constexpr int TILE_BYTES = 4 * (SIDE * SIDE * 4 - 16) / 3;
constexpr float DOME_WHITE = 8.0f;  // linear value of a panorama's byte 255

FN Vec texel(const unsigned char* level, int n, int x, int y) {
#ifdef __CUDACC__
    uchar4 c = __ldg((const uchar4*)level + y * n + x);
    Vec v = vec(c.x, c.y, c.z);
#else
    const unsigned char* c = level + 4 * (y * n + x);
    Vec v = vec(c[0], c[1], c[2]);
#endif
    return v;
}

FN Vec bilinear(const unsigned char* level, int n, float u, float v) {
    float x = u * n - 0.5f, y = v * n - 0.5f, ix = floorf(x), iy = floorf(y), fx = x - ix, fy = y - iy;
    int x0 = folded((int)ix, n), x1 = folded((int)ix + 1, n), y0 = folded((int)iy, n), y1 = folded((int)iy + 1, n);
    return mix(mix(texel(level, n, x0, y0), texel(level, n, x1, y0), fx),
               mix(texel(level, n, x0, y1), texel(level, n, x1, y1), fx), fy);
}

// Photograph `tile` at (u, v), one side of it being 1, mirrored beyond; `footprint` is the pixel's size there.
BIG Vec photo(const Packs& packs, int tile, float u, float v, float footprint) {
    const unsigned char* p = packs.tiles + (size_t)(tile % packs.tile_count) * TILE_BYTES;
    float level = log2f(larger(footprint * SIDE, 1.0f));
    int whole = (int)smaller(level, LEVELS - 1.0f), n = SIDE;
    for (int i = 0; i < whole; i++) { p += 4 * n * n; n >>= 1; }
    Vec c = bilinear(p, n, u, v);
    float part = level - whole;
    if (whole < LEVELS - 1 && part > 0.0f) { c = mix(c, bilinear(p + 4 * n * n, n >> 1, u, v), part); }
    c = c * (1.0f / 255.0f);
    return c * c;
}

FN float grey(Vec c) { return 0.3f * c.x + 0.6f * c.y + 0.1f * c.z; }
FN Vec tinted(Vec c, Vec tint, float share) { return mix(c, tint * (0.3f + 2.2f * grey(c)), share); }

BIG Vec painted(const Solid& s, int kind, float u, float v, uint32_t seed, float pixel) {
    u += 31.0f + (seed & 255u);
    v += 57.0f + ((seed >> 8) & 255u);
    Paint p = paint(kind, u / s.cell, v / s.cell, seed, pixel / s.cell);
    Vec c = mix(s.a, s.b, clamp01(p.blend)) * p.tone;
    return c * c;
}

// ---- sky ----------------------------------------------------------------------------------------------------------

BIG Vec sky(const Scenery& w, int view, Vec towards, float pixel) {
    const Light& l = w.world->lights[view];
    float turn = atan2f(towards.y, towards.x) - l.dome_turn, rise = asinf(larger(-1.0f, smaller(1.0f, towards.z)));
    if (l.dome >= 0) {
        const unsigned char* dome = w.packs->domes + (size_t)l.dome * DOME_WIDTH * DOME_HEIGHT * 4;
        float x = (0.5f - turn * 0.15915494f) * DOME_WIDTH - 0.5f, y = (0.5f - rise * 0.31830989f) * DOME_HEIGHT - 0.5f;
        float ix = floorf(x), iy = floorf(y), fx = x - ix, fy = y - iy;
        int x0 = (int)ix & (DOME_WIDTH - 1), x1 = ((int)ix + 1) & (DOME_WIDTH - 1);
        int y0 = iy < 0 ? 0 : iy > DOME_HEIGHT - 1 ? DOME_HEIGHT - 1 : (int)iy;
        int y1 = y0 < DOME_HEIGHT - 1 ? y0 + 1 : y0;
        Vec c = mix(mix(texel(dome, DOME_WIDTH, x0, y0), texel(dome, DOME_WIDTH, x1, y0), fx),
                    mix(texel(dome, DOME_WIDTH, x0, y1), texel(dome, DOME_WIDTH, x1, y1), fx), fy) * (1.0f / 255.0f);
        return c * c * DOME_WHITE;
    }
    Vec air = mix(l.horizon, l.zenith, sqrtf(clamp01(towards.z + 0.02f)));
    if (l.dome == -2 && w.packs->tile_count) {  // a photograph about the horizon
        float v = rise * 0.9f;
        Vec c = photo(*w.packs, (int)(w.world->seed & 0xfffffu), turn * 0.9f, 0.6f - v, pixel * 0.9f) * grey(l.sky);
        return mix(c, air, clamp01(6.0f * (v - 0.45f)));
    }
    float spread = 3.0f / (fabsf(towards.z) + 0.2f);
    float cover = fractal(spread * towards.x + l.dome_turn, spread * towards.y, w.world->seed + 3u, 0.0f);
    cover = clamp01(3.0f * (cover - 1.0f + l.clouds)) * clamp01(8.0f * towards.z);
    float glow = larger(dot(towards, l.sun), 0.0f);
    if (l.lamp) { glow = 0.0f; }
    glow *= glow; glow *= glow; glow *= glow; glow *= glow;
    return mix(air, l.horizon * 1.1f, cover) + l.colour * (0.25f * glow);
}

// ---- surfaces -----------------------------------------------------------------------------------------------------

// A solid's own colour at local point q; `pixel` is the pixel's size there in metres.
FN Vec albedo(const Scenery& w, const Solid& s, const Hit& hit, Vec q, Vec world, Vec n, float pixel) {
    const World& world_ = *w.world;
    Vec size = vec(fabsf(hit.normal.x), fabsf(hit.normal.y), fabsf(hit.normal.z));
    int axis = size.x > size.y ? (size.x > size.z ? 0 : 2) : (size.y > size.z ? 1 : 2);
    uint32_t seed = s.seed;
    int tile = s.tile, kind = s.paint;
    float u, v, hu = s.half.x, hv = s.half.z, metres = s.metres, tint = s.tint;
    Vec colour = s.a;
    switch (s.shape) {
    case ROUND:
        u = hit.part >= 4 && hit.part < 6 ? q.x : atan2f(q.y, q.x) * s.half.x;
        v = hit.part >= 4 && hit.part < 6 ? q.y : q.z;
        hu = 3.1416f * s.half.x;
        break;
    case BALL:
        u = atan2f(q.y / s.half.y, q.x / s.half.x) * s.half.x;
        v = asinf(larger(-1.0f, smaller(1.0f, q.z / s.half.z))) * s.half.z;
        hu = 3.1416f * s.half.x;
        hv = 1.5708f * s.half.z;
        break;
    case LAND: {
        q = world;
        // Steep parts are of another stuff, as rock is, and so are the lowest of a canyon.
        float steep = 1.0f / sqrtf(dot(hit.normal, hit.normal));
        float border = 0.8f + 0.3f * (fractal(q.x / s.cell, q.y / s.cell, seed + 2u, pixel / s.cell) - 0.5f);
        if (steep < border) { tile = world_.palette[1]; seed += 1u; kind = (kind + 5) % 12; }
        colour = mix(s.b, s.a, clamp01(0.5f + 8.0f * (steep - border)));
        if (world_.land.style == CANYON && q.z < world_.land.level + 0.04f * world_.land.height) {
            tile = world_.palette[2];
            seed += 2u;
            colour = vec(0.3f, 0.4f, 0.5f);
            tint = 0.7f;
        }
        axis = steep < 0.5f ? (size.x > size.y ? 0 : 1) : 2;
    }  // falls through
    default:
        u = axis == 0 ? q.y : q.x;
        v = axis == 2 ? q.y : q.z;
        hu = axis == 0 ? s.half.y : s.half.x;
        hv = axis == 2 ? s.half.y : s.half.z;
    }
    if (s.shape == CHAMBER) {  // each wall its own
        seed = hash(seed + hit.part);
        tile = world_.palette[seed % PALETTE];
        kind = (int)(hash(seed + 1u) % 12u);
        metres *= 0.5f + in_unit(hash(seed + 2u));
        if (hit.part == FRAME) { return s.b * s.b; }
        if (in_unit(hash(seed + 3u)) < 0.4f && hit.part != 4) { tile = -2; colour = mix(colour, vec(0.88f, 0.86f, 0.82f), 0.75f); }  // plaster
    }
    if (s.shape == MESH) {
        size_t triangle = ~hit.part;
        Vec kd = at(w.packs->colours + 3 * triangle);
        uint32_t group = hash(seed + (uint32_t)w.packs->triangles[12 * triangle + 9]);
        seed = group;
        tile = (group & 3u) == 0u ? -2 : (int)(hash(group) & 0xfffffu);
        colour = kd * (0.8f + 0.4f * in_unit(hash(group + 1u)));
        tint = 0.85f * in_unit(hash(group + 2u));
        metres *= 0.3f + in_unit(hash(group + 3u));
    }
    if (hit.part == FRAME) { colour = s.b; tile = -2; }
    if (hit.part == GLASS) { tile = s.glass; metres = 1.3f * s.cell_u; tint = 0.0f; }
    float broad = fractal(u / s.cell * 0.11f + 57.0f, v / s.cell * 0.11f + 57.0f, seed + 9u, pixel / s.cell * 0.11f);
    float wear = 1.0f + s.wear * (2.0f * broad - 1.0f);
    Vec c;
    if (tile == -2) {
        float fine = fractal(u / 0.05f, v / 0.05f, seed + 8u, pixel / 0.05f);
        c = colour * colour * (0.85f + 0.3f * fine);
    } else if (tile < 0 || w.packs->tile_count == 0) {
        c = painted(s, kind, u, v, seed, pixel);
    } else {
        float su = metres, sv = metres, ou = in_unit(hash(seed + 6u)), ov = in_unit(hash(seed + 7u));
        if (s.stretched && hit.part != GLASS && s.shape != LAND && s.shape != PLANE) {
            su = 2.0f * hu;
            sv = 2.0f * hv;
            ou = ov = 0.5f;
            float ratio = su / sv;  // stretched no more than by two thirds
            if (ratio > 1.7f) { su = sv * 1.7f; }
            if (ratio < 0.6f) { sv = su * 1.7f; }
        }
        float pu = u / su + ou, pv = -v / sv + ov;
        if (!s.stretched && in_unit(hash(seed + 8u)) > 0.7f) { float t = pu; pu = pv; pv = t; }
        c = photo(*w.packs, tile, pu, pv, pixel / smaller(su, sv));
        if (s.shape == LAND || s.shape == PLANE) {  // the same photograph again, larger, hides that it repeats
            Vec large = photo(*w.packs, tile, pv * 0.13f + 0.3f, pu * 0.13f, 0.13f * pixel / smaller(su, sv));
            c = mix(c, large, 0.45f);
        }
        c = tinted(c, colour * colour, tint);
    }
    if (hit.part == GLASS) { c = c * 0.25f; }
    if (hit.part == REVEAL) { c = c * 0.8f; }
    return c * wear;
}

// Whether a point in a relief is in the shadow of what stands out beside it; towards the light in the local frame.
FN bool relief_shadow(const Solid& s, Vec q, int face, Vec light) {
    Spot start = spot_of(s, face, q), end = spot_of(s, face, q + light * 0.01f);
    float rate = (start.inward - end.inward) * 100.0f;  // outward metres per unit
    if (rate < 0.05f) { return false; }
    float way = start.inward / rate;
    for (int i = 1; i <= 5; i++) {
        Spot at = spot_of(s, face, q + light * (way * i / 5.2f));
        int part;
        if (relief_depth(s, at.u, at.v, half_width(s, face, at.v - s.half.z), &part) < at.inward - 0.02f * s.depth) { return true; }
    }
    return false;
}

// Linear colour of what the ray o + t d shows, `found` and `hit` told already. `pixel`: a pixel's angle.
BIG Vec shade(const Scenery& w, int view, int found, const Hit& hit, Vec o, Vec d, float pixel) {
    Vec towards = unit(d);
    if (found < 0) { return sky(w, view, towards, pixel); }
    const Solid& s = w.solids[found];
    const Light& l = w.world->lights[view];
    Vec world = o + d * hit.t, local = transposed_times(s.turn, world - s.centre), n = unit(times(s.turn, hit.normal));
    if (dot(n, towards) > 0.0f) { n = n * -1.0f; }
    float slant = larger(-dot(n, towards), 0.05f), distance = hit.t * sqrtf(dot(d, d));
    Vec colour = albedo(w, s, hit, local, world, n, distance * pixel * powf(slant, -0.6f));
    Vec to_light = l.lamp ? l.sun - world : l.sun * 500.0f, direction = unit(to_light);
    float lit = larger(dot(n, direction), 0.0f);
    if (s.cut != WHOLE) { lit = 0.4f * lit + 0.3f; }  // leaves let light through
    if (l.lamp) { float far2 = dot(to_light, to_light); lit *= 9.0f / (4.0f + far2); }
    if (grey(l.colour) > 0.02f && lit > 0.0f) {
        float bias = 2e-3f + 1e-3f * distance;
        float reach = l.lamp ? 1.0f : 1e3f;
        bool dark = in_shadow(w, found, world + n * bias, l.lamp ? to_light : direction, reach);
        if (!dark && s.relief != SMOOTH && hit.part >= WALL) {
            int face = 0;
            if (s.shape == HULL) {  // the face that is nearest
                float least = 1e9f;
                for (int i = 0; i < 4; i++) {
                    float inward = fabsf(spot_of(s, i, local).inward);
                    if (inward < least) { least = inward; face = i; }
                }
            }
            dark = relief_shadow(s, local, face, transposed_times(s.turn, direction));
        }
        if (dark) { lit = 0.0f; }
    }
    // Less light from the sky near the ground, in recesses and inside foliage.
    float open = 1.0f;
    if (s.shape != LAND && s.shape != PLANE && s.shape != CHAMBER) {
        open = 0.65f + 0.35f * clamp01((local.z + s.half.z) / larger(0.5f * s.half.z, 0.3f));
        if (hit.part == GLASS || hit.part == REVEAL) { open *= 0.75f; }
    }
    float up = 0.5f + 0.5f * n.z;
    Vec light = mix(l.ground, l.sky, up) * open + l.colour * lit;
    Vec result = colour * light;
    float mirror = hit.part == GLASS ? 0.12f + 0.75f * powf(1.0f - slant, 4.0f) : s.gloss * (0.15f + 0.85f * powf(1.0f - slant, 4.0f));
    if (mirror > 0.01f) {
        Vec r = towards + n * (2.0f * slant);
        Vec seen = l.lamp ? mix(l.ground, l.sky, 0.5f + 0.5f * r.z) * 0.5f : sky(w, view, unit(vec(r.x, r.y, fabsf(r.z) + 0.02f)), 0.05f);
        result = mix(result, seen, smaller(mirror, 0.8f));
        float shine = larger(dot(r, direction), 0.0f);
        shine *= shine; shine *= shine; shine *= shine; shine *= shine; shine *= shine;
        if (lit > 0.0f) { result = result + l.colour * (mirror * 2.0f * shine); }
    }
    return mix(result, l.horizon, 1.0f - expf(-l.haze * distance));
}
