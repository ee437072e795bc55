//! Which pairs contradict the others.

use super::pair_graph::components;
use super::spanning_tree::{Link, rotation_error, rotations};

/// A pair's rotation is this far at least from what the others say, radians, if it is of another
/// thing that looks alike. One of a coarse network that sees the same thing from far apart may be
/// off by 0.3; another side of a building is off by 0.7 and more.
const CONTRADICTION: f64 = 0.45;

/// Indices of the links whose rotations contradict those that most of the others agree on, the
/// worst first. A link whose loss would take the graph apart stays; it must hang together.
pub(super) fn contradicting(views: usize, links: &[Link]) -> Vec<usize> {
    let rotations = rotations(views, links, 0);
    let errors: Vec<f64> = links
        .iter()
        .map(|link| rotation_error(link, &rotations))
        .collect();
    let mut order: Vec<usize> = (0..links.len())
        .filter(|&link| errors[link] > CONTRADICTION)
        .collect();
    order.sort_by(|&a, &b| errors[b].total_cmp(&errors[a]).then(a.cmp(&b)));
    let mut is_kept = vec![true; links.len()];
    // What is needed stays so without others.
    order.retain(|&link| {
        is_kept[link] = false;
        let kept = links
            .iter()
            .zip(&is_kept)
            .filter(|(_, kept)| **kept)
            .map(|(link, _)| link.pair);
        is_kept[link] = components(views, kept).len() > 1;
        !is_kept[link]
    });
    order
}

#[cfg(test)]
mod tests {
    use nalgebra::{Isometry3, Similarity3, UnitQuaternion, Vector3};

    use super::super::Pair;
    use super::*;
    use crate::geometry::ransac::SplitMix;

    fn pair(first: usize, second: usize) -> Pair {
        Pair { first, second }
    }

    fn turn(scaled_axis: Vector3<f64>) -> UnitQuaternion<f64> {
        UnitQuaternion::from_scaled_axis(scaled_axis)
    }

    /// Links of a complete graph, whose rotations `spoil` multiplies.
    fn links(views: usize, mut spoil: impl FnMut(Pair) -> UnitQuaternion<f64>) -> Vec<Link> {
        let world_from = |view: usize| turn(Vector3::new(0.3, 0.1, -0.2) * view as f64);
        let pairs = (0..views).flat_map(|second| (0..second).map(move |first| pair(first, second)));
        let link = |pair: Pair| {
            let rotation = world_from(pair.first).inverse() * world_from(pair.second) * spoil(pair);
            let pose = Isometry3::from_parts(Vector3::x().into(), rotation);
            Link {
                pair,
                first_from_second: Similarity3::from_isometry(pose, 1.0),
                weight: 1.0,
                unit: 1.0,
            }
        };
        pairs.map(link).collect()
    }

    fn found(views: usize, links: &[Link]) -> Vec<Pair> {
        let mut found: Vec<Pair> = contradicting(views, links)
            .into_iter()
            .map(|link| links[link].pair)
            .collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn pairs_that_contradict_the_others_are_found() {
        let wrong = [pair(0, 4), pair(1, 3)];
        let quarter = |pair| {
            if wrong.contains(&pair) {
                turn(Vector3::y() * 1.57)
            } else {
                UnitQuaternion::identity()
            }
        };
        assert_eq!(found(6, &links(6, quarter)), wrong);
    }

    /// Five views of a tower with wide baselines: what is right is off by a sixth of a radian, so
    /// that few triangles close, and what is wrong is off by 0.7 or 1.4. Counting triangles that do
    /// not close within 0.21 finds just the wrong ones in 3 cases of 100.
    #[test]
    fn wrong_pairs_are_told_from_coarse_ones() {
        let mut random = SplitMix::new();
        let (rounds, mut right) = (100, 0);
        for _ in 0..rounds {
            let mut direction = || Vector3::from_fn(|_, _| random.uniform() - 0.5).normalize();
            let wrong = [pair(0, 1), pair(1, 4)];
            let spoil = |pair: Pair| match pair {
                Pair {
                    first: 0,
                    second: 1,
                } => turn(direction() * 0.7),
                Pair {
                    first: 1,
                    second: 4,
                } => turn(direction() * 1.4),
                _ => turn(direction() / 6.0),
            };
            right += usize::from(found(5, &links(5, spoil)) == wrong);
        }
        assert!(right * 10 >= rounds * 8, "{right} of {rounds}");
    }

    #[test]
    fn of_a_contradicting_triangle_one_pair_goes_and_no_view_is_cut_off() {
        let mut links = links(3, |pair| {
            turn(
                Vector3::y()
                    * if pair.first == 0 && pair.second == 2 {
                        1.57
                    } else {
                        0.0
                    },
            )
        });
        links[1].weight = 0.5;
        assert_eq!(found(3, &links), [pair(0, 2)]);
        assert!(found(3, &links[..2]).is_empty());
    }
}
