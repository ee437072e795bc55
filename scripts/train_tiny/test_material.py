"""Tests of the material packs on images and models that they make themselves: no downloads."""

import importlib.util
import pathlib
import struct
import tempfile
import unittest
import zlib

import numpy as np
from PIL import Image

from material import packs, posters, qt_resources, sources, tiles


def noise(seed, size=512, cell=1):
    """A detailed picture: coloured noise at several scales."""
    dice = np.random.default_rng(seed)
    out = np.zeros((size, size, 3))
    while cell <= size:
        small = dice.uniform(0, 255, (-(-size // cell), -(-size // cell), 3))
        out += np.repeat(np.repeat(small, cell, 0), cell, 1)[:size, :size]
        cell *= 4
    out -= out.min()
    return (255 * out / out.max()).astype(np.uint8)


class Atlas(unittest.TestCase):
    def test_keeps_pixels_kinds_and_alpha(self):
        cutout = np.dstack([noise(1, 256), np.where(np.arange(256)[:, None] < 100, 255, 0) * np.ones((1, 256))]).astype(np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "atlas.bin"
            packs.save_atlas(path, [packs.encode(noise(2, 256), 90), packs.encode(cutout, 90)], [packs.MATERIAL, packs.CUTOUT])
            atlas = packs.load_atlas(path)
            self.assertEqual(atlas["kinds"].tolist(), [packs.MATERIAL, packs.CUTOUT])
            self.assertLess(np.abs(atlas["tiles"][0, ..., :3].astype(float) - noise(2, 256)).mean(), 25)
            self.assertTrue((atlas["tiles"][0, ..., 3] == 255).all())
            np.testing.assert_array_equal(atlas["tiles"][1, ..., 3], cutout[..., 3])
            path.write_bytes(path.read_bytes()[:-1])
            with self.assertRaises(ValueError):
                packs.load_atlas(path)


class Tiles(unittest.TestCase):
    def test_judges_tiles(self):
        good = noise(3, 256)
        self.assertTrue(tiles.is_worth_it(good))
        blurred = np.asarray(Image.fromarray(good).resize((32, 32), Image.BOX).resize((256, 256), Image.BICUBIC))
        self.assertFalse(tiles.is_worth_it(blurred))
        flat = good.copy()
        flat[:200] = 90
        self.assertFalse(tiles.is_worth_it(flat))
        bumps = np.clip(np.array([128, 128, 250]) + (good.astype(int) - good.mean((0, 1)).astype(int)) // 4, 0, 255)
        self.assertTrue(tiles.is_normal_map(bumps.astype(np.uint8)))
        self.assertFalse(tiles.is_normal_map(good))

    def test_recognizes_even_materials(self):
        brick = np.tile(noise(4, 64), (4, 4, 1))
        self.assertTrue(tiles.is_even(brick))
        sky_over_grass = brick.copy()
        sky_over_grass[:128] = 230
        self.assertFalse(tiles.is_even(sky_over_grass))

    def test_leaves_out_copies(self):
        seen = tiles.Seen()
        self.assertTrue(seen.is_new(noise(5, 256)))
        self.assertFalse(seen.is_new(np.clip(noise(5, 256) * 0.9 + 9, 0, 255).astype(np.uint8)))
        self.assertTrue(seen.is_new(noise(6, 256)))

    def test_crops_are_inside_and_not_smaller_than_allowed(self):
        for width, height in ((720, 360), (300, 1300), (200, 200)):
            boxes = list(tiles.squares(width, height))
            self.assertTrue(boxes)
            for x0, y0, x1, y1 in boxes:
                self.assertGreaterEqual(min(x0, y0), 0)
                self.assertLessEqual(x1, width + 1e-6)
                self.assertLessEqual(y1, height + 1e-6)
                self.assertGreaterEqual(round(x1 - x0), tiles.LEAST)

    def test_cuts_out_by_alpha_and_reads_photographs(self):
        with tempfile.TemporaryDirectory() as folder:
            leaf = np.zeros((256, 256, 4), np.uint8)
            leaf[40:200, 60:180, :3], leaf[40:200, 60:180, 3] = noise(7, 256)[40:200, 60:180], 255
            Image.fromarray(leaf).save(f"{folder}/leaf.png")
            self.assertEqual([kind for _, kind in tiles.tiles_of(f"{folder}/leaf.png", sources.TEXTURE)], [packs.CUTOUT])
            Image.fromarray(noise(8, 700)).save(f"{folder}/photo.png")
            image = sources.Image(pathlib.Path(folder) / "photo.png", "p", "CC0-1.0", "", sources.PHOTO)
            made = list(tiles.collect([image]))
            self.assertGreater(len(made), 2)
            self.assertLessEqual(len(made), tiles.MOST_CROPS)
            first = tiles.fingerprint(made[0][0])
            again = list(tiles.collect([image], {first}))
            self.assertNotIn(first, [tiles.fingerprint(tile) for tile, _, _ in again])


class Licences(unittest.TestCase):
    COPYRIGHT = """Format: x

Files: *
Copyright: A
License: GPL-3+

Files: images/*
Copyright: B
License: public-domain
 Text of the licence.

Files:
 images/shared*
 images/two?words.jpg
Copyright: C
License: CC-BY-SA-4.0

Files: images/shared-free.png
Copyright: D <d@example.org>
License: CC-BY-4.0
"""

    def test_last_matching_rule_counts_and_copyleft_is_left_out(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "copyright"
            path.write_text(self.COPYRIGHT)
            rules = sources.copyright_rules(path)
        self.assertIsNone(sources.licence_of(rules, ["code.c"]))
        self.assertEqual(sources.licence_of(rules, ["images/a.jpg"]), ("public domain", "B"))
        self.assertIsNone(sources.licence_of(rules, ["images/shared.jpg"]))
        self.assertIsNone(sources.licence_of(rules, ["images/two words.jpg"]))
        self.assertEqual(sources.licence_of(rules, ["images/shared-free.webp", "images/shared-free.png"]),
                         ("CC-BY-4.0", "D <d@example.org>"))

    @unittest.skipUnless(importlib.util.find_spec("fast_simplification") and importlib.util.find_spec("OpenEXR"), "needs both")
    def test_attribution_names_each_file_once_with_author_and_licence(self):
        from material import pack
        oak, ash = (["wood-data", "CC-BY-4.0", "Ann", path] for path in ("a/b/oak.jpg", "a/c/ash.jpg"))
        text = pack.attribution({"atlas": [oak, ash], "panoramas": [oak], "meshes": [
            ["wood-data", "CC0-1.0", "", "chair.obj"], ["vpython", "MIT", "Bob", "x/y.png"]]})
        for line in ("## Debian, wood-data", "**CC-BY-4.0**, Ann", "a: b/oak.jpg, c/ash.jpg", "**CC0-1.0**", "chair.obj", "**MIT**, Bob"):
            self.assertEqual(text.split("\n").count(line), 1, line)

    def test_no_copyleft_licence_is_accepted(self):
        for name in list(sources.LICENCES) + list(sources.LICENCES.values()):
            self.assertNotRegex(name, "GPL|-SA|-NC|-ND|FAL|GFDL")


class QtResources(unittest.TestCase):
    def test_reads_plain_and_compressed_files(self):
        plain, text = b"plain bytes", b"compressed " * 20
        packed = struct.pack(">I", len(text)) + zlib.compress(text)
        names, offsets = b"", []
        for name in ("a.png", "b.png"):
            offsets.append(len(names))
            names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        contents = struct.pack(">I", len(plain)) + plain
        second = len(contents)
        contents += struct.pack(">I", len(packed)) + packed
        tree = struct.pack(">IHII", 0, qt_resources.FOLDER, 2, 1)
        tree += struct.pack(">IHHHI", offsets[0], 0, 0, 0, 0)
        tree += struct.pack(">IHHHI", offsets[1], qt_resources.COMPRESSED, 0, 0, second)
        data = b"qres" + struct.pack(">4I", 1, 20, 20 + len(tree), 20 + len(tree) + len(contents)) + tree + contents + names
        self.assertEqual(dict(qt_resources.entries(data)), {"/a.png": plain, "/b.png": text})
        with self.assertRaises(ValueError):
            list(qt_resources.entries(b"PK\x03\x04" + data))


def traced(pack, mesh, origin, direction):
    """Distance along a ray by walking the BVH, and the number of boxes on the way."""
    nodes, triangles, best = pack["nodes"], pack["triangles"], np.inf
    stack, deepest = [(int(pack["meshes"][mesh, 0]), 1)], 0
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (nodes[node, :3] - origin) / direction, (nodes[node, 3:6] - origin) / direction
        if max(np.fmin(a, b).max(), 0) > min(np.fmax(a, b).min(), best) + 1e-4:
            continue
        link, count = int(nodes[node, 6]), int(nodes[node, 7])
        if count < 0:
            stack += [(link, depth + 1), (link + 1, depth + 1)]
        else:
            best = min(best, nearest(triangles[link:link + count], origin, direction))
    return best, deepest


def nearest(triangles, origin, direction):
    p = np.cross(direction, triangles[:, 6:9])
    det = (triangles[:, 3:6] * p).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = origin - triangles[:, :3]
        u = (s * p).sum(1) / det
        q = np.cross(s, triangles[:, 3:6])
        v, t = (q @ direction) / det, (triangles[:, 6:9] * q).sum(1) / det
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
    return t[hit].min() if hit.any() else np.inf


@unittest.skipUnless(importlib.util.find_spec("fast_simplification"), "needs fast-simplification")
class Meshes(unittest.TestCase):
    def sphere(self, rings=60):
        """A sphere of two materials, in two halves, 2 wide, with many triangles."""
        e, a = np.linspace(-np.pi / 2, np.pi / 2, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)
        grid = np.stack([np.cos(e)[:, None] * np.cos(a), np.cos(e)[:, None] * np.sin(a), np.sin(e)[:, None] + 0 * a], -1)
        faces, groups = [], []
        for i in range(rings):
            for j in range(2 * rings):
                c = [i * 2 * rings + j, i * 2 * rings + (j + 1) % (2 * rings)]
                d = [x + 2 * rings for x in c]
                faces += [(c[0], c[1], d[1]), (c[0], d[1], d[0])]
                groups += [int(i >= rings // 2)] * 2
        return grid.reshape(-1, 3), np.array(faces), np.array(groups)

    def test_reduces_and_traces_a_sphere_like_all_its_triangles(self):
        from material import meshes
        vertices, faces, groups = self.sphere()
        looks = [(np.array([1.0, 0, 0]), 1.0), (np.array([0, 0, 1.0]), 1.0)]
        mesh = meshes.mesh_of(vertices, faces, groups, looks, size=np.array([1.0, 1.0, 0.5]), limit=1500)
        small = meshes.mesh_of(*self.sphere(6), looks, person=True)
        with tempfile.TemporaryDirectory() as folder:
            packs.save_meshes(f"{folder}/meshes.npz", [small, mesh])
            pack = packs.load_meshes(f"{folder}/meshes.npz")
        self.assertEqual(len(pack["meshes"]), 2)
        self.assertEqual(pack["meshes"][:, 1].sum(), len(pack["triangles"]))
        self.assertTrue(800 < pack["meshes"][1, 1] < 1700)
        np.testing.assert_allclose(pack["meshes"][1, 2:5], [1, 1, 0.5], atol=0.01)
        np.testing.assert_allclose(pack["meshes"][:, 6], [1.0, 0.5], atol=0.01)
        self.assertEqual(pack["meshes"][:, 7].tolist(), [1, 0])
        self.assertEqual(pack["meshes"][:, 5].tolist(), [2, 2])
        last = pack["triangles"][int(pack["meshes"][0, 1]):]
        dice = np.random.default_rng(0)
        for _ in range(60):
            origin, target = dice.normal(size=3) * 3, dice.uniform(-0.7, 0.7, 3)
            direction = (target - origin) / np.linalg.norm(target - origin)
            distance, depth = traced(pack, 1, origin, direction)
            self.assertEqual(distance, nearest(last, origin, direction))
            self.assertLessEqual(depth, packs.MAX_DEPTH)
        # The ray from above meets the blue half at the top of the flattened sphere, the one from below the red half.
        top, _ = traced(pack, 1, np.array([0.01, 0.02, 2.0]), np.array([0, 0, -1.0]))
        self.assertAlmostEqual(top, 1.5, delta=0.02)
        colours = pack["colours"][int(pack["meshes"][0, 1]):]
        middles = last[:, 2] + (last[:, 5] + last[:, 8]) / 3
        self.assertGreater(colours[middles > 0.05, 2].min(), 0.9)
        self.assertGreater(colours[middles < -0.05, 0].min(), 0.9)

    def test_deep_trees_stay_within_the_stack(self):
        from material import meshes
        corner = 2.0 ** -np.arange(900.0)[:, None].clip(max=40) * np.ones(3)  # every split by area takes off one triangle
        order, links, counts = meshes.build_bvh(corner, corner * 1.01)
        self.assertEqual(sorted(order), list(range(900)))
        depth = np.ones(len(links), int)
        for node in range(len(links)):
            if counts[node] < 0:
                depth[links[node]:links[node] + 2] = depth[node] + 1
        self.assertLessEqual(depth.max(), packs.MAX_DEPTH)

    def test_reads_obj_with_materials_and_leaves_out_glass(self):
        from material import meshes
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "m.mtl").write_text("newmtl wood\nKd 0.5 0.25 0.1\nnewmtl glass\nKd 1 1 1\nd 0.1\n")
            corners = "".join(f"v {x} {y} {z}\n" for x in (0, 1) for y in (0, 2) for z in (0, 3))
            sides = ["1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "-7 -3 -1 -5"]
            faces = "usemtl wood\n" + "".join("f " + " ".join(f"{c}/1/1" for c in side.split()) + "\n" for side in sides)
            (folder / "box.obj").write_text(f"mtllib m.mtl\n{corners}{faces}usemtl glass\nf 1 2 8\n")
            vertices, triangles, groups, looks = meshes.read_obj(folder / "box.obj")
        self.assertEqual(triangles.shape, (13, 3))
        mesh = meshes.mesh_of(vertices, triangles, groups, looks)
        self.assertEqual(len(mesh["faces"]), 12)
        self.assertEqual(mesh["group_colours"].tolist(), [[128, 64, 26]])
        np.testing.assert_allclose(mesh["extents"], [1 / 3, 2 / 3, 1, 1.5, 0], atol=1e-3)
        self.assertIsNone(meshes.mesh_of(vertices, triangles[12:], groups[12:], looks))


@unittest.skipUnless(importlib.util.find_spec("OpenEXR"), "needs OpenEXR")
class Panoramas(unittest.TestCase):
    def test_finds_the_sun_and_keeps_radiance(self):
        from material import panoramas
        rays, solid = panoramas.directions(256, 512)
        self.assertAlmostEqual(float((solid * np.ones((256, 512))).sum()), 4 * np.pi, places=3)
        sun = np.array([0.6, -0.48, 0.64])
        radiance = np.where(rays[..., 2:] > 0, [0.3, 0.5, 0.9], [0.2, 0.2, 0.1]).astype(float)
        radiance[rays @ sun > np.cos(np.radians(2))] = 3000.0
        packed = panoramas.packed(radiance, packs.OUTDOOR)
        with tempfile.TemporaryDirectory() as folder:
            packs.save_panoramas(f"{folder}/p.npz", [packed, panoramas.packed(radiance[:, ::-1], packs.INDOOR)])
            loaded = packs.load_panoramas(f"{folder}/p.npz")
        np.testing.assert_allclose(loaded["sun"][0], sun, atol=0.02)
        np.testing.assert_allclose(loaded["sun"][1], sun * [1, -1, 1], atol=0.02)
        decoded = loaded["scale"][0] * (loaded["images"][0] / 255.0) ** 2
        mean = (decoded * solid[..., None]).sum((0, 1)).mean() / (4 * np.pi)
        self.assertAlmostEqual(mean, 0.5, delta=0.03)
        np.testing.assert_allclose(decoded[100, 10] / decoded[100, 10].sum(), np.array([0.3, 0.5, 0.9]) / 1.7, atol=0.03)
        unit = decoded[100, 10].sum() / 1.7
        disc = 2 * np.pi * (1 - np.cos(np.radians(2)))
        np.testing.assert_allclose(loaded["sun_power"][0], (3000 * unit - loaded["scale"][0]) * disc, rtol=0.1)
        self.assertEqual(loaded["kind"].tolist(), [packs.OUTDOOR, packs.INDOOR])

    def test_mends_overflowed_suns(self):
        from material import panoramas
        radiance = np.full((64, 128, 3), 0.2)
        radiance[20:27, 40:47] = [500.0, 400.0, 0.0]  # a channel is lost
        radiance[23, 43] = np.nan
        radiance[22, 43] = 0.0
        mended = panoramas.without_faults(radiance)
        self.assertTrue(np.isfinite(mended).all())
        self.assertGreater(mended[20:27, 40:47].min(), 250)
        np.testing.assert_array_equal(mended[50], radiance[50])

    def test_views_look_where_they_should(self):
        from material import panoramas
        rays, _ = panoramas.directions(256, 512)
        radiance = np.where(rays[..., 2:] > 0, [0.1, 0.2, 0.9], [0.3, 0.2, 0.1])
        seen = panoramas.view(radiance, yaw=30, pitch=0).astype(int)
        self.assertTrue((seen[:120, :, 2] > seen[:120, :, 0]).all())
        self.assertTrue((seen[136:, :, 0] > seen[136:, :, 2]).all())
        self.assertTrue((panoramas.view(radiance, yaw=30, pitch=60).astype(int)[..., 2] > 100).all())


class Posters(unittest.TestCase):
    def test_are_drawn_alike_each_time_and_differ(self):
        if not posters.FONTS.is_dir():
            self.skipTest("needs the DejaVu fonts")
        made = [posters.poster(seed) for seed in range(10)]
        np.testing.assert_array_equal(posters.poster(3), made[3])
        self.assertEqual(len({tiles.fingerprint(tile) for tile in made}), 10)
        for tile in made:
            self.assertEqual(tile.shape, (256, 256, 3))
            self.assertGreater(tile.std(), 8)


if __name__ == "__main__":
    unittest.main()
