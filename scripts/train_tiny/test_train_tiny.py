"""Tests that need no GPU: python3 -m unittest discover scripts/train_tiny"""
import csv
import json
import math
import os
import pathlib
import tempfile
import types
import unittest

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import checkpoint
import demo
import eval_tool
import held_out
import losses
import network
import train
import verify
from renderer import Renderer
from scenes import about_z, sample


def trained(folder, steps, resume=None):
    line = f"{folder} --minutes 10 --until 0.5 --round-from 0.25 --steps {steps} --tokens 16 --device cpu --network tiny"
    line += f" --rate 1e-3 --packs {folder / 'none'}" + (f" --resume {resume}" if resume else "")
    args = train.arguments(line.split())
    trainer = train.Trainer(args, 0, 1)
    trainer.run()
    return trainer


class Scenes(unittest.TestCase):
    def test_both_views_show_one_scene(self):
        renderer, generator = Renderer("cpu"), torch.Generator().manual_seed(1)
        views = renderer(verify.without_cameras_own(sample(12, 1.0, generator)), 112, 140, samples=1)
        for name, (value, limit) in verify.measure(views).items():
            self.assertLessEqual(value, limit, name)

    def test_a_seed_makes_one_batch(self):
        first, second = (sample(3, 0.5, torch.Generator().manual_seed(7)) for _ in range(2))
        self.assertTrue(all(torch.equal(a, b) for a, b in zip(first, second)))

    def test_correspondences_of_a_view_with_itself_are_its_pixels(self):
        scenes = sample(2, 1.0, torch.Generator().manual_seed(3))
        views = scenes.views.clone()
        views[:, 1] = views[:, 0]
        rendered = Renderer("cpu")(scenes._replace(views=views), 56, 70, samples=1)
        match = losses.correspondences(rendered, 200, torch.Generator().manual_seed(1))
        self.assertTrue(torch.equal(match.pixels[:, 0][match.valid], match.pixels[:, 1][match.valid]))
        self.assertGreater(match.valid.float().mean().item(), 0.6)


class Network(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.net = network.Tiny().eval()
        self.images = torch.rand(4, 3, 70, 84) * 2 - 1

    def test_upsampling_is_bilinear_with_corners_aligned(self):
        x = torch.randn(2, 3, 4, 5)
        expected = F.interpolate(x, (7, 9), mode="bilinear", align_corners=True)
        torch.testing.assert_close(network.upsample(x, 7, 9), expected)

    def test_the_exported_file_means_the_same_to_the_plain_network(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "tiny.safetensors"
            checkpoint.export(self.net, dict(self.net.named_parameters()), path)
            self.assertLess(path.stat().st_size, 16 * 2**20)
            weights = {name: t.float() for name, t in load_file(path).items()}
            net = checkpoint.exported(path, "cpu")
        second = {name.replace("dec_blocks.", "dec_blocks2."): t for name, t in weights.items()}
        plain = network.plain_network().eval()
        plain.load_state_dict({**weights, **second})
        plain.prepare(5, 6, "cpu")
        with torch.no_grad():
            expected = plain(self.images)
            tokens = net.trunk(self.images)
            points, confidence = net.points(tokens)
            pixels = torch.randint(0, 70 * 84, (2, 2, 50))
            descriptors, certainty = net.descriptors(tokens, pixels)
        for view in (0, 1):
            close = lambda a, name: torch.testing.assert_close(a, expected[f"{name}.{view + 1}"], rtol=2e-4, atol=2e-5)
            close(points[:, view], "pts3d")
            close(confidence[:, view], "conf")
            at = pixels[:, view, :, None]
            chosen = expected[f"desc.{view + 1}"].flatten(1, 2).gather(1, at.expand(-1, -1, 24))
            torch.testing.assert_close(descriptors[:, view], chosen, rtol=2e-4, atol=2e-5)
            chosen = expected[f"desc_conf.{view + 1}"].flatten(1).gather(1, at[..., 0])
            torch.testing.assert_close(certainty[:, view], chosen, rtol=2e-4, atol=2e-5)


class Fused(unittest.TestCase):
    """The kernels of fused.py, in Triton's interpreter unless there is a GPU, against network.py."""

    @classmethod
    def setUpClass(cls):
        cls.device = "cuda" if torch.cuda.is_available() else "cpu"
        if cls.device == "cpu":
            os.environ["TRITON_INTERPRET"] = "1"
        try:
            import fused
        except ImportError as error:
            raise unittest.SkipTest(f"no Triton: {error}")
        cls.fused = fused

    def both(self, function, fused, inputs):
        """Checks that both functions give the same results and gradients for `inputs`."""
        made = []
        for f in (function, fused):
            own = [t.clone().requires_grad_() if t is not None else None for t in inputs]
            results = [r for r in f(*own) if r is not None]
            torch.manual_seed(1)
            sum((r.float() * torch.randn_like(r.float())).sum() for r in results).backward()
            made.append(results + [t.grad for t in own if t is not None])
        for a, b in zip(*made, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

    def test_the_norm_of_a_sum(self):
        torch.manual_seed(0)
        for width, rows in ((64, 5), (96, 11)):
            x, delta = (torch.randn(2, rows, width, device=self.device) for _ in range(2))
            gamma, *affine = (torch.rand(width, device=self.device) + 0.5 for _ in range(5))
            norm = lambda w, b: types.SimpleNamespace(weight=w, bias=b, eps=1e-6, normalized_shape=(width,))
            one = lambda module: lambda x, d, g, w, b: module.add_norm(x, d, g, norm(w, b))
            two = lambda module: lambda x, d, g, w, b, v, c: module.add_norm(x, d, g, norm(w, b), norm(v, c))
            for d, g in ((delta, gamma), (delta, None), (None, None)):
                self.both(one(network), one(self.fused), [x, d, g, *affine[:2]])
                self.both(two(network), two(self.fused), [x, d, g, *affine])

    def test_rotations_of_parts_of_rows(self):
        torch.manual_seed(0)
        cos, sin = network.rotation_table(2, 3, torch.device(self.device))
        turned = lambda module: lambda x: [module.rotate(part, cos, sin) for part in x.chunk(3, 2)[:2]] + [x.chunk(3, 2)[2]]
        self.both(turned(network), turned(self.fused), [torch.randn(2, 6, 3 * 128, device=self.device)])


class Demo(unittest.TestCase):
    def setUp(self):
        self.file = json.loads((eval_tool.ROOT / "assets" / "demo_cameras.json").read_text())

    def test_the_committed_cameras_are_those_of_the_scene(self):
        names = [image["name"] for image in self.file["images"]]
        made = demo.cameras(demo.poses(demo.CAMERAS), names, demo.WIDTH, demo.HEIGHT)
        for image, expected in zip(made["images"], self.file["images"], strict=True):
            poses = [torch.tensor(entry.pop("world_from_camera")) for entry in (image, expected)]
            torch.testing.assert_close(*poses, rtol=0, atol=2e-6)  # the file has six digits
        self.assertEqual(made, self.file)

    def test_a_walk_has_a_camera_for_each_frame_and_they_look_at_one_point(self):
        names = [f"frame_{number}.jpg" for number in range(6)]
        made = demo.cameras(demo.poses(demo.walk(6)), names, demo.FRAME_WIDTH, demo.FRAME_HEIGHT)["images"]
        self.assertEqual([image["name"] for image in made], names)
        poses = torch.tensor([image["world_from_camera"] for image in made], dtype=torch.float64)
        towards = torch.eye(3, dtype=torch.float64) - poses[:, :3, 2:3] * poses[:, None, :3, 2]
        nearest = torch.linalg.solve(towards.sum(0), (towards @ poses[:, :3, 3:]).sum(0)[:, 0])
        gaps = (towards @ (nearest - poses[:, :3, 3])[..., None]).norm(dim=1)
        self.assertLess(gaps.max().item(), 1e-4)

    def test_the_first_two_look_at_one_point_from_well_apart(self):
        axes = [torch.tensor(image["world_from_camera"])[:3, 2] for image in self.file["images"][:2]]
        self.assertGreater(eval_tool.angle_between(*axes), 20)
        self.assertLess(eval_tool.angle_between(*axes), 30)

    def test_points_of_one_view_project_onto_their_pixels_of_the_other(self):
        width, height = demo.WIDTH // 4, demo.HEIGHT // 4
        views = Renderer("cpu")(demo.worlds(demo.poses(demo.CAMERAS), width, height), height, width, samples=1)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        for pair in (0, 1):
            solid = views.kind[pair] == 1
            self.assertTrue((solid.float().mean((1, 2)) > 0.6).all(), "a camera looks past the house")
            first, second = self.file["images"][2 * pair:2 * pair + 2]
            world_from = [torch.tensor(image["world_from_camera"]) for image in (first, second)]
            second_from_first = world_from[1].inverse() @ world_from[0]
            points = views.points[pair] @ second_from_first[:3, :3].T + second_from_first[:3, 3]
            z = points[..., 2]
            column = second["fx"] / 4 * points[..., 0] / z + (width - 1) / 2
            row = second["fy"] / 4 * points[..., 1] / z + (height - 1) / 2
            self.assertLess((column[1] - columns)[solid[1]].abs().max().item(), 0.02)
            self.assertLess((row[1] - rows)[solid[1]].abs().max().item(), 0.02)

            inside = (solid & (z > 0) & (column > 0) & (column < width - 1) & (row > 0) & (row < height - 1))[0]
            shown = views.depth[pair, 1][row[0][inside].round().long(), column[0][inside].round().long()]
            ratio = z[0][inside] / shown
            self.assertGreater(inside.float().mean().item(), 0.4)
            self.assertGreater(((ratio - 1).abs() < 0.03).float().mean().item(), 0.75)
            self.assertLess((ratio < 0.97).float().mean().item(), 0.02)


class Tool(unittest.TestCase):
    """What eval_tool.py makes of the program's outputs."""

    def setUp(self):
        self.views = Renderer("cpu")(sample(2, 0.2, torch.Generator().manual_seed(2)), 56, 70, samples=1)

    def images(self, pair, turn=0.0, scale=1.0):
        """The camera file's entries of the true cameras, moved as one, the second turned by `turn` radians."""
        world_from_first, first_from_second = torch.eye(4), torch.eye(4)
        world_from_first[:3, :3], world_from_first[:3, 3] = about_z(torch.tensor(0.7)), torch.tensor([1.0, -2.0, 0.5])
        first_from_second[:3, :3] = self.views.rotation[pair] @ about_z(torch.tensor(turn))
        first_from_second[:3, 3] = scale * self.views.centre[pair]
        poses = world_from_first, world_from_first @ first_from_second
        return [{"world_from_camera": pose.tolist(), "fx": self.views.focal[pair, view].item()}
                for view, pose in enumerate(poses)]

    def test_the_area_under_the_curve_of_known_errors(self):
        errors = torch.tensor([0.0, 2.5, 7.0, 180.0])
        self.assertAlmostEqual(eval_tool.area_under_curve(errors, 5), (1 + 0.5) / 4, places=6)
        self.assertAlmostEqual(eval_tool.area_under_curve(errors, 10), (1 + 0.75 + 0.3) / 4, places=6)
        errors = 30 * torch.rand(200, generator=torch.Generator().manual_seed(1))
        places = torch.linspace(0, 20, 4001)
        curve = (errors[:, None] < places).float().mean(0)
        self.assertAlmostEqual(eval_tool.area_under_curve(errors, 20), torch.trapezoid(curve, places).item() / 20, 4)

    def test_angles_are_those_turned_by(self):
        for angle in (0.0, 1e-4, 0.5, 3.0):
            turned = about_z(torch.tensor(angle, dtype=torch.float64))
            base = self.views.rotation[0].double()
            self.assertAlmostEqual(eval_tool.rotation_angle(base, base @ turned), math.degrees(angle), places=4)
            x = torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64)
            self.assertAlmostEqual(eval_tool.angle_between(x, 3 * turned @ x), math.degrees(angle), places=6)
        self.assertTrue(math.isnan(eval_tool.angle_between(x, 0 * x)))

    def test_true_cameras_have_no_error_in_any_frame_at_any_scale(self):
        pose = eval_tool.pose_of(self.images(1, scale=3.0), self.views, 1)
        self.assertLess(max(pose), 0.01)

    def test_a_turned_camera_has_the_error_of_its_angle(self):
        images = self.images(0, turn=0.1)
        images[1]["fx"] *= 1.5
        pose = eval_tool.pose_of(images, self.views, 0)
        self.assertAlmostEqual(pose.rotation, math.degrees(0.1), places=2)
        self.assertLess(pose.translation, 0.01)
        self.assertAlmostEqual(pose.focal, 0.25, places=5)

    def test_a_camera_that_stays_in_place_has_no_right_direction(self):
        still = {"world_from_camera": torch.eye(4).tolist(), "fx": 60.0}
        pose = eval_tool.pose_of([still, still], self.views, 0)
        self.assertEqual(pose.translation, eval_tool.UNSOLVED)

    def test_matches_are_right_within_two_pixels(self):
        width = self.views.depth.shape[3]
        seconds = torch.arange(0, 56 * 70, 7)[None]
        one = type(self.views)(*(part[1:] for part in self.views))
        _, _, firsts, valid = losses.seen_in_first(one, seconds)
        valid &= firsts % width + 3 < width  # to stay inside when shifted
        pixels = torch.stack([firsts % width, firsts // width, seconds % width, seconds // width], -1)[valid]
        self.assertGreater(len(pixels), 100)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "matches.csv"
            for shift, share in ((0, 1.0), (1, 1.0), (3, 0.0)):
                rows = [f"{x1 + shift},{y1},{x2},{y2},1.0" for x1, y1, x2, y2 in pixels.tolist()]
                path.write_text("\n".join(["x1,y1,x2,y2,confidence", *rows]) + "\n")
                self.assertEqual(eval_tool.right_of(path, self.views, 1).float().mean().item(), share, shift)
            path.write_text("x1,y1,x2,y2,confidence\n")
            self.assertEqual(len(eval_tool.right_of(path, self.views, 1)), 0)

    def test_a_table_counts_unsolved_cameras_as_wrong(self):
        error = torch.full((3, 2, 4, 4), 0.04)
        error[:, 1], error[:, :, 0] = 0.07, math.nan
        poses = [eval_tool.Pose(1.0, 2.5, 0.1), None, eval_tool.Pose(4.0, 3.0, 0.3)]
        right = [torch.tensor([True, False]), torch.zeros(0, dtype=torch.bool), torch.tensor([True])]
        table = eval_tool.summary([eval_tool.Batch(held_out.point_measures(error), poses, right)])
        expected = {"pairs": 3, "median_error_view1": 0.04, "median_error_view2": 0.07, "within_5_percent_view1": 1,
                    "within_5_percent_view2": 0, "within_10_percent_view1": 1, "within_10_percent_view2": 1,
                    "rotation_error": 4.0, "translation_error": 3.0, "focal_error": 0.1, "auc_5": (0.5 + 0.2) / 3,
                    "auc_10": (0.75 + 0.6) / 3, "auc_20": (0.875 + 0.8) / 3, "cameras_failed": 1,
                    "matching_precision_2px": 2 / 3, "matches": 1}
        self.assertEqual(list(table), list(expected))
        for key, value in expected.items():
            self.assertAlmostEqual(table[key], value, places=5, msg=key)
        self.assertIn("| pose AUC@10° | 45.0% |", eval_tool.markdown({"all": table}))


class Training(unittest.TestCase):
    def test_a_resumed_run_goes_on_where_the_first_ended(self):
        with tempfile.TemporaryDirectory() as folder:
            first, second = pathlib.Path(folder) / "first", pathlib.Path(folder) / "second"
            first.mkdir(), second.mkdir()
            before = trained(first, 2)
            after = trained(second, 1, first / "state.pt")
            rows = list(csv.DictReader((second / "log.csv").read_text().splitlines()))
        self.assertEqual((before.progress.step, after.progress.step), (2, 3))
        self.assertEqual([int(row["step"]) for row in rows], [1, 2, 3])
        self.assertTrue(all(float(row["loss_points"]) < 20 and row["skipped"] == "0" for row in rows))
        moved = (after.optimizer.values - before.optimizer.values).abs().max().item()
        self.assertGreater(moved, 0)
        self.assertLess(moved, 0.01)

    def test_a_further_round_begins_with_the_exported_weights(self):
        with tempfile.TemporaryDirectory() as folder:
            first, second = pathlib.Path(folder) / "first", pathlib.Path(folder) / "second"
            first.mkdir(), second.mkdir()
            before = trained(first, 2)
            checkpoint.export(before.net, before.optimizer.average_of(before.net), first / "tiny.safetensors")
            after = trained(second, 1, first / "tiny.safetensors")
            rows = list(csv.DictReader((second / "log.csv").read_text().splitlines()))
        self.assertEqual([int(row["step"]) for row in rows], [1, 2, 3])
        self.assertEqual(after.progress.pairs - before.progress.pairs, before.progress.pairs // 2)
        self.assertEqual(float(rows[-1]["share"]), 0.25)
        moved = (after.optimizer.values - before.optimizer.average).abs().max().item()
        self.assertGreater(moved, 0)
        self.assertLess(moved, 0.01)


if __name__ == "__main__":
    unittest.main()
