"""Tests of bench_torch.py and its parts: python -m unittest discover scripts"""
import argparse
import json
import pathlib
import tempfile
import unittest

import numpy as np
import torch
from safetensors.torch import save_file

import bench_torch
from bench_torch import Case, Options, Report, Weights
from random_weights import random_tensor
from torch_networks import NETWORKS

MACHINE = {"cpu": "a", "gpu": None, "versions": {}}
OPTIONS = Options("random:0", "random, seed 0", "cpu", None, 0, 3, float("inf"))
CASE = Case("dune-small", 28, 42, 1, "f32", "tuned")


class RandomWeights(unittest.TestCase):
    def test_values_are_those_of_the_rust_program(self):
        # The values in the tests of src/model/checkpoint/random.rs: seed 0, indices 0, 1 and 5000.
        for name, shape, bits in [
            ("enc_blocks.0.attn.qkv.weight", (3072, 1024), [0x3D67C01D, 0x3D782590, 0x3B9CEF44]),
            ("dec_norm.weight", (5001,), [0x3F869AB3, 0x3F8C4C9C, 0x3F95D819]),
            ("downstream_head1.dpt.act_postprocess.0.1.weight", (96, 96, 4, 4), [0x3BC33FF7, 0x3C3EF689, 0x3BC9CA64]),
        ]:
            values = random_tensor("0", name, shape).reshape(-1)[[0, 1, 5000]]
            self.assertEqual(values.view(np.uint32).tolist(), bits, name)


class Networks(unittest.TestCase):
    def test_parameter_counts_are_the_published_ones_less_those_never_read(self):
        features = 2 * 2 * (256 * 256 * 9 + 256)
        for name, grid, published, unread in [
            ("dune-small", 24, 21_753_600, 384),
            ("dune-base", 32, 86_318_592, 768),
            ("mast3r", None, 688_638_856, 768 + features),
            ("dunemast3r-small", None, 345_405_520, 384 + 768 + features + 384 * (2 + 3 * 14 * 14 + 1 + 2)),
        ]:
            with torch.device("meta"):
                net = NETWORKS[name].build(True, grid)
            self.assertEqual(sum(p.numel() for p in net.parameters()), published - unread, name)

    def test_variants_compute_the_same_from_a_file_as_from_the_seed(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "w.safetensors"
            bench_torch.save_weights(path, [CASE], Weights("random:0"))
            images = bench_torch.generated_images(1, CASE.height, CASE.width)
            eager = bench_torch.build(CASE._replace(variant="eager"), Weights("random:0"), torch.device("cpu"))
            tuned = bench_torch.build(CASE, Weights(str(path)), torch.device("cpu"))
            with torch.inference_mode():
                first, second = eager(images)["features"], tuned(images)["features"]
            self.assertEqual(first.shape, (1, 6, 384))
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)

    @unittest.skipUnless(torch.cuda.is_available(), "a CUDA graph needs CUDA")
    def test_a_graph_computes_the_same_for_other_images(self):
        device = torch.device("cuda")
        net = bench_torch.build(CASE, Weights("random:0"), device)
        images = bench_torch.generated_images(1, CASE.height, CASE.width).to(device)
        with torch.inference_mode():
            replayed = bench_torch.captured(net, torch.zeros_like(images))(images)["features"].clone()
            torch.testing.assert_close(replayed, net(images)["features"])

    def test_a_file_without_all_tensors_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/w.safetensors"
            save_file({"cls_token": torch.zeros(1, 1, 384)}, path)
            with self.assertRaisesRegex(SystemExit, "w.safetensors: [0-9]+ tensors are missing, blocks.0.0"):
                bench_torch.checked_weights([CASE], OPTIONS._replace(weights=path))


class Cases(unittest.TestCase):
    def sizes(self, **given):
        empty = {"suite": False, "quick": False, "case": [], "model": [], "size": []}
        return bench_torch.named_sizes(argparse.Namespace(**(empty | given)))

    def test_cases_are_named_in_every_way_and_once(self):
        self.assertEqual(len(self.sizes(suite=True)), len(bench_torch.SUITE))
        self.assertEqual(self.sizes(model=["mast3r"]), [("mast3r", 512, 384), ("mast3r", 672, 512)])
        found = self.sizes(case=["mast3r@512x384"], size=["512x384", "mast3r@32x16"], model=["mast3r"])
        self.assertEqual(found, [("mast3r", 512, 384), ("mast3r", 32, 16)])

    def test_what_cannot_be_run_is_refused(self):
        for given, message in [
            ({}, "nothing to measure"),
            ({"case": ["mast4r@16x16"]}, "unknown model 'mast4r'; there are dune-small, "),
            ({"case": ["mast3r@512x380"]}, "sides must be multiples of 16"),
            ({"case": ["mast3r@512"]}, "a size is WIDTHxHEIGHT"),
            ({"size": ["16x16"]}, "of which network"),
        ]:
            with self.assertRaisesRegex(SystemExit, message):
                self.sizes(**given)


class Images(unittest.TestCase):
    def test_the_file_with_images_of_the_cases_size_is_taken(self):
        with tempfile.TemporaryDirectory() as folder:
            images = torch.rand(1, 3, 42, 28)
            save_file({"images": images[:, :, :, :14].contiguous()}, f"{folder}/dune-small-28x42-a.safetensors")
            with self.assertRaisesRegex(SystemExit, "1 files dune-small-28x42"):
                bench_torch.find_images(pathlib.Path(folder), CASE)
            save_file({"images": images}, f"{folder}/dune-small-28x42-b.safetensors")
            found = bench_torch.find_images(pathlib.Path(folder), CASE)
            self.assertTrue(bench_torch.read_images(found).equal(images))


class Reports(unittest.TestCase):
    def test_what_a_report_holds_is_not_measured_again(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "torch.json"
            row = bench_torch.measure(CASE, OPTIONS, None, f"{folder}/out.safetensors")
            self.assertIsNone(row["error"])
            self.assertEqual((len(row["runs_ms"]), row["batch"], row["stage"]), (3, 1, "full"))
            Report(path, MACHINE).add(row)
            again = Report(path, MACHINE)
            again.resume()
            self.assertTrue(again.holds(CASE, OPTIONS))
            self.assertFalse(again.holds(CASE._replace(variant="eager"), OPTIONS))
            self.assertEqual(json.loads(path.read_text()), again.content)
            with self.assertRaisesRegex(SystemExit, "its cpu is a, here it is b"):
                Report(path, MACHINE | {"cpu": "b"}).resume()
            self.assertEqual(sorted(p.name for p in pathlib.Path(folder).iterdir()), ["out.safetensors", "torch.json"])

    def test_a_case_that_fails_is_a_row(self):
        row = bench_torch.measure(CASE, OPTIONS._replace(weights="/nowhere.safetensors"), None, None)
        self.assertIn("nowhere", row["error"])
        self.assertNotIn("median_ms", row)


if __name__ == "__main__":
    unittest.main()
