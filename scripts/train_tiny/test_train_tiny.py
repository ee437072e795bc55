"""Tests that need no GPU: python3 -m unittest discover scripts/train_tiny"""
import argparse
import csv
import pathlib
import tempfile
import unittest

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import checkpoint
import losses
import network
import train
import verify
from renderer import Renderer
from scenes import sample


def trained(folder, steps, resume=None):
    args = argparse.Namespace(out=folder, minutes=10.0, resume=resume, until=0.5, tokens=16, steps=steps, device="cpu",
                              compile=False)
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
            checkpoint.export(self.net, [p.detach() for p in self.net.parameters()], path)
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
        moved = [(a - b).abs().max().item() for a, b in zip(after.parameters, before.parameters)]
        self.assertGreater(max(moved), 0)
        self.assertLess(max(moved), 0.01)


if __name__ == "__main__":
    unittest.main()
