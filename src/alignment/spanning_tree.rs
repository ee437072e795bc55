//! First poses: rotations chained along spanning trees, and all averaged over all pairs.
//!
//! Averaging solves, for rotations, logarithms of scales and centres in turn, for the values at the
//! views whose differences are nearest to those that the pairs ask for. All three are the same
//! linear system, a weighted Laplacian of the graph, with robust weights; rotations go to first
//! order around what they are, several times.

use std::collections::VecDeque;

use nalgebra::{DMatrix, Isometry3, Matrix3, Similarity3, Translation3, UnitQuaternion, Vector3};

use super::{Pair, pair_graph};
use crate::geometry::procrustes::nearest_rotation;
use crate::geometry::ransac::SplitMix;

/// Error at which a pair counts half: radians, a factor, depths. It begins wide, so that a wrong
/// pair does not win by having been in the tree, and shrinks with each round.
const WIDEST: f64 = 1.0;
const NARROWEST: f64 = 0.02;
const SHRINKAGE: f64 = 0.7;
/// Rounds of reweighting, some of them at the narrowest.
const ROUNDS: usize = 16;
/// Where a tree has been found that much agrees with, averaging begins no wider than this, radians.
const NEAR: f64 = 0.4;
/// Random trees that are tried. Of a few views with some wrong pairs between them many have right
/// ones alone.
const TREES: usize = 64;
/// A link agrees half with rotations that are so far off, radians: a coarse network's, far apart.
const AGREEMENT: f64 = 0.2;

/// Two views and the similarity between their canonical frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub pair: Pair,
    pub first_from_second: Similarity3<f64>,
    /// Above 0.
    pub weight: f64,
    /// A length that errors of the translation are measured by, in the first view's units: its
    /// median depth.
    pub unit: f64,
}

/// A view's frame in the world.
pub(super) type Frame = Similarity3<f64>;

/// The frames of `views` views, which `links` must connect, in that of the view `root`.
pub(super) fn frames(views: usize, links: &[Link], root: usize) -> Vec<Frame> {
    let rotations = rotations(views, links, root).into_iter();
    let mut frames: Vec<Frame> = rotations
        .map(|rotation| Similarity3::from_parts(Translation3::identity(), rotation, 1.0))
        .collect();
    average_scales(&mut frames, links, root);
    average_centres(&mut frames, links, root);
    frames
}

/// The rotations of `views` views, which `links` must connect, in the frame of the view `root`:
/// averaged from where the maximum spanning tree has them, or from those of a random tree that more
/// of the links' weight agrees with.
pub(super) fn rotations(views: usize, links: &[Link], root: usize) -> Vec<UnitQuaternion<f64>> {
    let agreeing = |rotations: &[UnitQuaternion<f64>]| -> f64 {
        let share =
            |link: &Link| 1.0 / (1.0 + (rotation_error(link, rotations) / AGREEMENT).powi(2));
        links.iter().map(|link| link.weight * share(link)).sum()
    };
    let mut best = averaged(
        chain(views, links, root, |link| link.weight),
        links,
        root,
        WIDEST,
    );
    let mut most = agreeing(&best);
    let mut random = SplitMix::new();
    for _ in 0..TREES {
        let found = chain(views, links, root, |link| link.weight * random.uniform());
        let weight = agreeing(&found);
        if weight > most {
            (best, most) = (found, weight);
        }
    }
    averaged(best, links, root, NEAR)
}

/// How far a link's rotation is from that between its views, radians.
pub(super) fn rotation_error(link: &Link, rotations: &[UnitQuaternion<f64>]) -> f64 {
    let Pair { first, second } = link.pair;
    (rotations[first] * link.first_from_second.isometry.rotation).angle_to(&rotations[second])
}

/// Rotations along the spanning tree of largest weights. What is not connected to the root stays at
/// the identity.
fn chain(
    views: usize,
    links: &[Link],
    root: usize,
    weight: impl FnMut(&Link) -> f64,
) -> Vec<UnitQuaternion<f64>> {
    let weights = links.iter().map(weight);
    let mut order: Vec<(f64, &Link)> = weights.zip(links).collect();
    order.sort_by(|(a, one), (b, two)| b.total_cmp(a).then(one.pair.cmp(&two.pair)));
    let mut parent: Vec<usize> = (0..views).collect();
    let mut tree = vec![Vec::new(); views];
    for (_, link) in order {
        if pair_graph::join(&mut parent, link.pair) {
            let rotation = link.first_from_second.isometry.rotation;
            tree[link.pair.first].push((link.pair.second, rotation));
            tree[link.pair.second].push((link.pair.first, rotation.inverse()));
        }
    }
    let mut rotations = vec![UnitQuaternion::identity(); views];
    let mut queue = VecDeque::from([(root, root)]);
    while let Some((view, from)) = queue.pop_front() {
        for &(next, view_from_next) in tree[view].iter().filter(|(next, _)| *next != from) {
            rotations[next] = rotations[view] * view_from_next;
            queue.push_back((next, view));
        }
    }
    rotations
}

/// Rotations that are robustly near to what the links ask for, with errors that count half at a
/// width that begins with `widest`.
fn averaged(
    mut rotations: Vec<UnitQuaternion<f64>>,
    links: &[Link],
    root: usize,
    widest: f64,
) -> Vec<UnitQuaternion<f64>> {
    for round in 0..ROUNDS {
        // In the world: what the second view's rotation should be, after what it is.
        let errors = links.iter().map(|link| {
            let [first, second] = [link.pair.first, link.pair.second].map(|view| rotations[view]);
            (first * link.first_from_second.isometry.rotation * second.inverse()).scaled_axis()
        });
        let errors: Vec<Vector3<f64>> = errors.collect();
        let weights: Vec<f64> = links
            .iter()
            .zip(&errors)
            .map(|(link, error)| robust(link.weight, error.norm(), width(widest, round)))
            .collect();
        let Some(turns) = potentials(rotations.len(), links, &weights, &errors, root) else {
            break;
        };
        for (rotation, turn) in rotations.iter_mut().zip(turns) {
            let turned = UnitQuaternion::from_scaled_axis(turn) * *rotation;
            *rotation = UnitQuaternion::new_normalize(turned.into_inner());
        }
    }
    rotations
}

fn average_scales(frames: &mut [Frame], links: &[Link], root: usize) {
    let wanted: Vec<Vector3<f64>> = links
        .iter()
        .map(|link| Vector3::x() * link.first_from_second.scaling().ln())
        .collect();
    let found = robust_potentials(frames.len(), links, &wanted, root, |_| 1.0);
    for (frame, found) in frames.iter_mut().zip(found.into_iter().flatten()) {
        frame.set_scaling(found.x.exp());
    }
}

fn average_centres(frames: &mut [Frame], links: &[Link], root: usize) {
    let wanted: Vec<Vector3<f64>> = links
        .iter()
        .map(|link| {
            let frame = &frames[link.pair.first];
            frame.isometry.rotation
                * link.first_from_second.isometry.translation.vector
                * frame.scaling()
        })
        .collect();
    let units: Vec<f64> = links
        .iter()
        .map(|link| link.unit * frames[link.pair.first].scaling())
        .collect();
    let found = robust_potentials(frames.len(), links, &wanted, root, |link| units[link]);
    for (frame, found) in frames.iter_mut().zip(found.into_iter().flatten()) {
        frame.isometry.translation.vector = found;
    }
}

/// Values at the views, zero at the root, whose differences, second less first, are robustly near
/// to `wanted`, in `unit`s.
fn robust_potentials(
    views: usize,
    links: &[Link],
    wanted: &[Vector3<f64>],
    root: usize,
    unit: impl Fn(usize) -> f64,
) -> Option<Vec<Vector3<f64>>> {
    let mut weights: Vec<f64> = links.iter().map(|link| link.weight).collect();
    let mut found = potentials(views, links, &weights, wanted, root)?;
    for round in 0..ROUNDS {
        for (index, (weight, link)) in weights.iter_mut().zip(links).enumerate() {
            let error = found[link.pair.second] - found[link.pair.first] - wanted[index];
            *weight = robust(
                link.weight,
                error.norm() / unit(index),
                width(WIDEST, round),
            );
        }
        found = potentials(views, links, &weights, wanted, root)?;
    }
    Some(found)
}

fn width(widest: f64, round: usize) -> f64 {
    (widest * SHRINKAGE.powi(round as i32)).max(NARROWEST)
}

fn robust(weight: f64, error: f64, width: f64) -> f64 {
    weight / (1.0 + (error / width).powi(2))
}

/// Values at the views, zero at the root, whose differences, second less first, are nearest to
/// `wanted` by weighted least squares; `None` if the graph does not hang together.
fn potentials(
    views: usize,
    links: &[Link],
    weights: &[f64],
    wanted: &[Vector3<f64>],
    root: usize,
) -> Option<Vec<Vector3<f64>>> {
    let mut matrix = DMatrix::<f64>::zeros(views, views);
    let mut right = DMatrix::<f64>::zeros(views, 3);
    for ((link, &weight), wanted) in links.iter().zip(weights).zip(wanted) {
        let Pair { first, second } = link.pair;
        matrix[(first, first)] += weight;
        matrix[(second, second)] += weight;
        matrix[(first, second)] -= weight;
        matrix[(second, first)] -= weight;
        for axis in 0..3 {
            right[(second, axis)] += weight * wanted[axis];
            right[(first, axis)] -= weight * wanted[axis];
        }
    }
    matrix.row_mut(root).fill(0.0);
    matrix.column_mut(root).fill(0.0);
    matrix[(root, root)] = 1.0;
    right.row_mut(root).fill(0.0);
    let solved = matrix.cholesky()?.solve(&right);
    Some(
        (0..views)
            .map(|view| Vector3::from_fn(|axis, _| solved[(view, axis)]))
            .collect(),
    )
}

/// Moves all frames so that they are near to the known poses.
pub(super) fn move_to_known(frames: &mut [Frame], known: &[(usize, Isometry3<f64>)]) {
    if known.is_empty() {
        return;
    }
    let rotations = known.iter().fold(Matrix3::zeros(), |sum, (view, pose)| {
        let from = frames[*view].isometry.rotation.to_rotation_matrix();
        sum + pose.rotation.to_rotation_matrix().matrix() * from.matrix().transpose()
    });
    let rotation = nearest_rotation(rotations).unwrap_or_default();
    let from = known
        .iter()
        .map(|(view, _)| rotation * frames[*view].isometry.translation.vector)
        .collect::<Vec<_>>();
    let to = known
        .iter()
        .map(|(_, pose)| pose.translation.vector)
        .collect::<Vec<_>>();
    let mean =
        |centres: &[Vector3<f64>]| centres.iter().sum::<Vector3<f64>>() / centres.len() as f64;
    let (from_mean, to_mean) = (mean(&from), mean(&to));
    let spread = |centres: &[Vector3<f64>], mean: Vector3<f64>| {
        centres
            .iter()
            .map(|centre| (centre - mean).norm_squared())
            .sum::<f64>()
            .sqrt()
    };
    let scale = spread(&to, to_mean) / spread(&from, from_mean);
    let scale = if scale.is_finite() && scale > 0.0 {
        scale
    } else {
        1.0
    };
    let to_world = Similarity3::from_parts(
        Translation3::from(to_mean - from_mean * scale),
        rotation,
        scale,
    );
    frames
        .iter_mut()
        .for_each(|frame| *frame = to_world * *frame);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(view: usize) -> Frame {
        let t = view as f64;
        if view == 0 {
            return Similarity3::identity();
        }
        Similarity3::new(
            Vector3::new(t.sin(), 0.3 * t, t.cos() - 1.0),
            Vector3::new(0.1 * t, 0.4 * t, -0.05 * t),
            1.0 + 0.1 * t,
        )
    }

    fn links(views: usize) -> Vec<Link> {
        let mut found = Vec::new();
        for second in 0..views {
            for first in second.saturating_sub(3)..second {
                let first_from_second = truth(first).inverse() * truth(second);
                found.push(Link {
                    pair: Pair { first, second },
                    first_from_second,
                    weight: 1.0,
                    unit: 3.0,
                });
            }
        }
        found
    }

    fn gap(frames: &[Frame]) -> f64 {
        let gaps = frames.iter().enumerate();
        gaps.map(|(view, frame)| {
            (frame.to_homogeneous() - truth(view).to_homogeneous())
                .abs()
                .max()
        })
        .fold(0.0, f64::max)
    }

    #[test]
    fn exact_pairs_give_the_exact_frames() {
        let found = frames(7, &links(7), 0);
        assert!(gap(&found) < 1e-9, "{}", gap(&found));
    }

    #[test]
    fn a_wrong_link_hardly_moves_the_frames() {
        let mut links = links(7);
        let wrong = Similarity3::new(
            Vector3::new(1.0, 0.0, 0.5),
            Vector3::new(0.0, 0.4, 0.0),
            1.3,
        );
        let at = links
            .iter()
            .position(|link| {
                link.pair
                    == Pair {
                        first: 2,
                        second: 4,
                    }
            })
            .unwrap();
        links[at].first_from_second *= wrong;
        // The strongest link, so that the tree goes through it.
        links[at].weight = 1.5;
        let chained = chain(7, &links, 0, |link| link.weight);
        assert!(chained[4].angle_to(&truth(4).isometry.rotation) > 0.3);
        let found = frames(7, &links, 0);
        assert!(gap(&found) < 0.02, "{}", gap(&found));
    }
}
