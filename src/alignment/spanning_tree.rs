//! First poses: chained along a maximum spanning tree, then averaged over all pairs.
//!
//! Averaging solves, for rotations, logarithms of scales and centres in turn, for the values at the views whose
//! differences are nearest to those that the pairs ask for. All three are the same linear system, a weighted Laplacian
//! of the graph, with robust weights; rotations go to first order around what they are, several times.

use std::collections::VecDeque;

use nalgebra::{DMatrix, Similarity3, UnitQuaternion, Vector3};

use super::Pair;

/// Error at which a pair counts half: radians, a factor, depths. It begins wide, so that a wrong pair does not win by
/// having been in the tree, and shrinks with each round.
const WIDEST: f64 = 1.0;
const NARROWEST: f64 = 0.02;
const SHRINKAGE: f64 = 0.7;
/// Rounds of reweighting, some of them at the narrowest.
const ROUNDS: usize = 16;

/// Two views and the similarity between their canonical frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub pair: Pair,
    pub first_from_second: Similarity3<f64>,
    /// Above 0.
    pub weight: f64,
    /// A length that errors of the translation are measured by, in the first view's units: its median depth.
    pub unit: f64,
}

/// A view's frame in the world.
pub(super) type Frame = Similarity3<f64>;

/// The frames of `views` views, which `links` must connect, in that of the view `root`.
pub(super) fn frames(views: usize, links: &[Link], root: usize) -> Vec<Frame> {
    let mut frames = chain(views, links, root);
    average_rotations(&mut frames, links, root);
    average_scales(&mut frames, links, root);
    average_centres(&mut frames, links, root);
    frames
}

/// Frames along the maximum spanning tree. What is not connected to the root stays at the identity.
fn chain(views: usize, links: &[Link], root: usize) -> Vec<Frame> {
    let mut order: Vec<&Link> = links.iter().collect();
    order.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(a.pair.cmp(&b.pair)));
    let mut part: Vec<usize> = (0..views).collect();
    let mut tree = vec![Vec::new(); views];
    for link in order {
        let (a, b) = (part[link.pair.first], part[link.pair.second]);
        if a != b {
            part.iter_mut().filter(|part| **part == b).for_each(|part| *part = a);
            tree[link.pair.first].push((link.pair.second, link.first_from_second));
            tree[link.pair.second].push((link.pair.first, link.first_from_second.inverse()));
        }
    }
    let mut frames = vec![None; views];
    frames[root] = Some(Similarity3::identity());
    let mut queue = VecDeque::from([(root, Similarity3::identity())]);
    while let Some((view, frame)) = queue.pop_front() {
        for &(next, view_from_next) in &tree[view] {
            if frames[next].is_none() {
                let found: Frame = frame * view_from_next;
                frames[next] = Some(found);
                queue.push_back((next, found));
            }
        }
    }
    frames.into_iter().map(|frame| frame.unwrap_or_else(Similarity3::identity)).collect()
}

fn average_rotations(frames: &mut [Frame], links: &[Link], root: usize) {
    for round in 0..ROUNDS {
        // In the world: what the second view's rotation should be, after what it is.
        let errors = links.iter().map(|link| {
            let [first, second] = [link.pair.first, link.pair.second].map(|view| frames[view].isometry.rotation);
            (first * link.first_from_second.isometry.rotation * second.inverse()).scaled_axis()
        });
        let errors: Vec<Vector3<f64>> = errors.collect();
        let weights: Vec<f64> =
            links.iter().zip(&errors).map(|(link, error)| robust(link.weight, error.norm(), round)).collect();
        let Some(turns) = potentials(frames.len(), links, &weights, &errors, root) else { return };
        for (frame, turn) in frames.iter_mut().zip(turns) {
            let turned = UnitQuaternion::from_scaled_axis(turn) * frame.isometry.rotation;
            frame.isometry.rotation = UnitQuaternion::new_normalize(turned.into_inner());
        }
    }
}

fn average_scales(frames: &mut [Frame], links: &[Link], root: usize) {
    let wanted: Vec<Vector3<f64>> =
        links.iter().map(|link| Vector3::x() * link.first_from_second.scaling().ln()).collect();
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
            frame.isometry.rotation * link.first_from_second.isometry.translation.vector * frame.scaling()
        })
        .collect();
    let units: Vec<f64> = links.iter().map(|link| link.unit * frames[link.pair.first].scaling()).collect();
    let found = robust_potentials(frames.len(), links, &wanted, root, |link| units[link]);
    for (frame, found) in frames.iter_mut().zip(found.into_iter().flatten()) {
        frame.isometry.translation.vector = found;
    }
}

/// Values at the views, zero at the root, whose differences, second less first, are robustly near to `wanted`, in
/// `unit`s.
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
            *weight = robust(link.weight, error.norm() / unit(index), round);
        }
        found = potentials(views, links, &weights, wanted, root)?;
    }
    Some(found)
}

fn robust(weight: f64, error: f64, round: usize) -> f64 {
    let width = (WIDEST * SHRINKAGE.powi(round as i32)).max(NARROWEST);
    weight / (1.0 + (error / width).powi(2))
}

/// Values at the views, zero at the root, whose differences, second less first, are nearest to `wanted` by weighted
/// least squares; `None` if the graph does not hang together.
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
    Some((0..views).map(|view| Vector3::from_fn(|axis, _| solved[(view, axis)])).collect())
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
                found.push(Link { pair: Pair { first, second }, first_from_second, weight: 1.0, unit: 3.0 });
            }
        }
        found
    }

    fn gap(frames: &[Frame]) -> f64 {
        let gaps = frames.iter().enumerate();
        gaps.map(|(view, frame)| (frame.to_homogeneous() - truth(view).to_homogeneous()).abs().max())
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
        let wrong = Similarity3::new(Vector3::new(1.0, 0.0, 0.5), Vector3::new(0.0, 0.4, 0.0), 1.3);
        let at = links.iter().position(|link| link.pair == Pair { first: 2, second: 4 }).unwrap();
        links[at].first_from_second *= wrong;
        // The strongest link, so that the tree goes through it.
        links[at].weight = 1.5;
        assert!(gap(&chain(7, &links, 0)) > 0.3);
        let found = frames(7, &links, 0);
        assert!(gap(&found) < 0.02, "{}", gap(&found));
    }
}
