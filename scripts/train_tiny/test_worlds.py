"""Tests of the worlds that resemble photographs; they need no GPU: python3 -m unittest discover scripts/train_tiny"""
import unittest

import torch

import eval_tool
import losses
import packs
import stand_ins
import verify
import worlds
from renderer import MOVED, SKY, STATIC, Renderer


class Worlds(unittest.TestCase):
    """Pictures that resemble photographs, with small made-up packs."""

    @classmethod
    def setUpClass(cls):
        cls.renderer = Renderer("cpu", stand_ins.packs())
        cls.drawn = worlds.sample(24, 1.0, torch.Generator().manual_seed(4))
        cls.alike = cls.renderer(verify.without_cameras_own(cls.drawn), 70, 84)
        cls.views = cls.renderer(cls.drawn, 70, 84)

    def test_both_views_show_one_world(self):
        for name, (value, limit) in verify.measure(self.alike).items():
            self.assertLessEqual(value, limit, name)

    def test_a_seed_makes_one_pair_whatever_stands_beside_it(self):
        alone = self.drawn._replace(seeds=self.drawn.seeds[5:6], hardest=self.drawn.hardest[5:6])
        for part, whole in zip(self.renderer(alone, 70, 84), self.views):
            self.assertTrue(torch.equal(part[0], whole[5]))

    def test_pairs_differ(self):
        rgb = self.views.rgb.float()
        self.assertGreater((rgb[1:] - rgb[:-1]).abs().mean((1, 2, 3, 4)).min().item(), 5)

    def test_the_sky_has_no_depth_and_moved_things_have_one(self):
        kind, depth = self.views.kind, self.views.depth
        self.assertTrue(torch.equal(kind == SKY, depth == 0))
        self.assertEqual(sorted(kind.unique().tolist()), [SKY, STATIC, MOVED])
        self.assertFalse((self.alike.kind == MOVED).any())

    def test_most_of_what_moved_is_where_the_other_view_does_not_show_it(self):
        views = self.renderer(worlds.sample(96, 1.0, torch.Generator().manual_seed(8)), 42, 56, samples=1)
        moved = (views.kind == MOVED).flatten(2)
        everywhere = torch.arange(42 * 56).expand(96, -1)
        _, _, first, valid = losses.seen_in_first(views._replace(kind=torch.full_like(views.kind, STATIC)), everywhere)
        wrong = valid & (moved[:, 1] | moved[:, 0].gather(1, first))
        self.assertGreater(moved.sum().item(), 500)
        self.assertLess(wrong.sum().item(), 0.5 * moved[:, 1].sum().item())

    def test_difficulty_brings_views_apart(self):
        def turned(difficulty):
            drawn = worlds.sample(64, difficulty, torch.Generator().manual_seed(6))
            rotation = self.renderer(drawn, 14, 14, samples=1).rotation.double()
            return torch.tensor([eval_tool.rotation_angle(torch.eye(3).double(), one) for one in rotation]).median().item()

        self.assertLess(turned(torch.tensor(0.05)), 0.5 * turned(1.0))

    def test_without_packs_surfaces_are_painted(self):
        views = Renderer("cpu")(self.drawn._replace(seeds=self.drawn.seeds[:4], hardest=self.drawn.hardest[:4]), 42, 56)
        self.assertGreater(views.rgb.float().std((2, 3, 4)).min().item(), 3)

    def test_mip_levels_keep_the_mean_of_the_light(self):
        tiles = torch.from_numpy(stand_ins.atlas(3)["tiles"])
        levels = packs.with_mips(tiles)
        self.assertEqual(levels.shape[1], 4 * sum(side * side for side in (256, 128, 64, 32, 16, 8, 4)))
        light = lambda pixels: (pixels.reshape(3, -1, 4)[..., :3].float() / 255).square().mean(1)
        torch.testing.assert_close(light(levels[:, -64:]), light(tiles), rtol=0.03, atol=0.01)


if __name__ == "__main__":
    unittest.main()
