//! Similarity averaging: submaps in one world frame, from the views that they share.
//!
//! A view in two submaps measures the similarity transform between them. Gauss-Newton finds the
//! similarity transforms of all submaps with a Geman-McClure loss whose width shrinks from the largest
//! residual to the expected errors (graduated non-convexity: Blake and Zisserman, Visual
//! Reconstruction, 1987; Yang, Antonante, Tzoumas and Carlone 2020). Errors are thus distributed along
//! loops before a measurement is rejected as a false loop closure.

use std::collections::BTreeMap;

use crate::geometry::sparse::SymmetricTiles;
use nalgebra::{DVector, Matrix3, Similarity3, UnitQuaternion, Vector3};

/// Expected errors of a loop closure between two parts: radians, median depths, log scale. They
/// include the bending of parts, which are rigid here.
const ROTATION: f64 = 0.06;
const CENTRE: f64 = 0.2;
const SCALE: f64 = 0.12;
/// Consecutive parts of a sequence lie next to each other, so their links are more accurate. Inverse
/// variance relative to loop closures.
const CONSECUTIVE: f64 = 16.0;
/// Errors of the links between two parts are correlated: together they count as one measurement,
/// and less if there are fewer than this.
const FULL_COUNT: usize = 4;
/// Final width of the loss, in sigmas.
const WIDTH: f64 = 5.0;
/// Factor on the width per iteration, and iterations at the final width.
const SHRINKAGE: f64 = 0.7;
const LAST_ROUNDS: usize = 6;
const MOST_ROUNDS: usize = 60;
/// Links with a smaller weight are doubtful.
const LEAST_WEIGHT: f64 = 0.25;
const UNKNOWNS: usize = 7;

type Turn = UnitQuaternion<f64>;

/// A view in two parts.
pub struct Link {
    pub parts: [usize; 2],
    /// The view in the frame of each part, with scales of the same canonical units.
    pub frames: [Similarity3<f64>; 2],
    /// The view's median depth in the first part.
    pub unit: f64,
    /// Whether near frames of a sequence, and not loop closures, link it to the second part.
    pub is_consecutive: bool,
}

/// Result of the averaging.
pub struct Joined {
    /// World from part; `None` for parts outside the largest connected component.
    pub world_from: Vec<Option<Similarity3<f64>>>,
    /// Whether each link contradicts the others.
    pub is_doubtful: Vec<bool>,
}

/// Joins the largest connected component of parts; `sizes` has their numbers of views.
pub fn join(sizes: &[usize], links: &[Link]) -> Joined {
    let mut is_doubtful = vec![false; links.len()];
    let mut world_from = vec![None; sizes.len()];
    // Twice: the first start was chosen with doubtful links.
    for _ in 0..2 {
        let (root, start) = chained(sizes, links, &is_doubtful);
        let (moved, weights) = averaged(start, root, links, &is_doubtful);
        world_from = moved;
        for (doubtful, weight) in is_doubtful.iter_mut().zip(weights) {
            *doubtful |= weight < LEAST_WEIGHT;
        }
    }
    Joined {
        world_from: connected(world_from, sizes, links, &is_doubtful),
        is_doubtful,
    }
}

/// Keeps the parts that links other than doubtful ones connect to the largest component.
fn connected(
    world_from: Vec<Option<Similarity3<f64>>>,
    sizes: &[usize],
    links: &[Link],
    is_doubtful: &[bool],
) -> Vec<Option<Similarity3<f64>>> {
    let (_, reached) = chained(sizes, links, is_doubtful);
    let both = world_from.into_iter().zip(reached);
    both.map(|(moved, reached)| reached.and(moved)).collect()
}

/// First part from second.
fn relation(link: &Link) -> Similarity3<f64> {
    link.frames[0] * link.frames[1].inverse()
}

/// Residual of a link under a relation, in sigmas.
fn distance(one: &Similarity3<f64>, other: &Link) -> f64 {
    let [first, second] = &other.frames;
    errors(first, &(one * second), other.unit).norm()
}

/// Residuals in rotation, centre and scale, in sigmas.
fn errors(one: &Similarity3<f64>, two: &Similarity3<f64>, unit: f64) -> nalgebra::SVector<f64, 7> {
    let turn = (two.isometry.rotation * one.isometry.rotation.inverse()).scaled_axis() / ROTATION;
    let shift =
        (two.isometry.translation.vector - one.isometry.translation.vector) / (unit * CENTRE);
    let scale = (two.scaling() / one.scaling()).ln() / SCALE;
    nalgebra::SVector::<f64, 7>::from_iterator(turn.iter().chain(&shift).copied().chain([scale]))
}

/// Poses along the maximum spanning tree, and its root. Between two parts the link counts that most
/// other links agree with.
fn chained(
    sizes: &[usize],
    links: &[Link],
    is_doubtful: &[bool],
) -> (usize, Vec<Option<Similarity3<f64>>>) {
    let mut between = BTreeMap::<[usize; 2], Vec<usize>>::new();
    for (index, link) in links
        .iter()
        .enumerate()
        .filter(|(index, _)| !is_doubtful[*index])
    {
        between.entry(link.parts).or_default().push(index);
    }
    // Consecutive parts come first in the tree, however many loop closures there are.
    let weight = |link: &Link| if link.is_consecutive { 1e3 } else { 1.0 };
    let mut ties: Vec<(f64, [usize; 2], Similarity3<f64>)> = Vec::new();
    for (parts, found) in &between {
        let score = |&index: &usize| -> f64 {
            let relation = relation(&links[index]);
            let share = |&other: &usize| {
                let far = distance(&relation, &links[other]) / WIDTH;
                weight(&links[other]) / (1.0 + far * far)
            };
            found.iter().map(share).sum()
        };
        let best = found.iter().map(|index| (score(index), *index));
        if let Some((score, index)) = best.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))) {
            ties.push((score, *parts, relation(&links[index])));
        }
    }
    ties.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut component: Vec<usize> = (0..sizes.len()).collect();
    let mut tree = vec![Vec::new(); sizes.len()];
    for (_, [first, second], relation) in ties {
        let (one, two) = (component[first], component[second]);
        if one != two {
            component
                .iter_mut()
                .filter(|at| **at == two)
                .for_each(|at| *at = one);
            tree[first].push((second, relation));
            tree[second].push((first, relation.inverse()));
        }
    }
    let mut views = BTreeMap::<usize, usize>::new();
    for (part, size) in sizes.iter().enumerate() {
        *views.entry(component[part]).or_default() += size;
    }
    let largest = views
        .iter()
        .max_by_key(|(component, size)| (**size, usize::MAX - **component));
    let largest = largest.map_or(0, |(component, _)| *component);
    let members = (0..sizes.len()).filter(|&part| component[part] == largest);
    let root = members
        .max_by_key(|&part| (sizes[part], usize::MAX - part))
        .unwrap_or(0);
    let mut world_from = vec![None; sizes.len()];
    let mut queue = vec![(root, Similarity3::identity())];
    queue.truncate(sizes.len());
    while let Some((part, moved)) = queue.pop() {
        world_from[part] = Some(moved);
        for (next, relation) in &tree[part] {
            if world_from[*next].is_none() {
                queue.push((*next, moved * relation));
            }
        }
    }
    (root, world_from)
}

/// Inverse variance of each link, relative to a loop closure between two parts.
fn precisions(links: &[Link], is_doubtful: &[bool]) -> Vec<f64> {
    let mut counts = BTreeMap::<([usize; 2], bool), usize>::new();
    for (link, _) in links
        .iter()
        .zip(is_doubtful)
        .filter(|(_, doubtful)| !**doubtful)
    {
        *counts.entry((link.parts, link.is_consecutive)).or_default() += 1;
    }
    let precision = |link: &Link| {
        let count = *counts.get(&(link.parts, link.is_consecutive)).unwrap_or(&1);
        let together = count.min(FULL_COUNT) as f64 / FULL_COUNT as f64;
        let consecutive = if link.is_consecutive {
            CONSECUTIVE
        } else {
            1.0
        };
        consecutive * together / count as f64
    };
    links.iter().map(precision).collect()
}

/// Robust least squares over all links, and the final weight of each.
fn averaged(
    mut world_from: Vec<Option<Similarity3<f64>>>,
    root: usize,
    links: &[Link],
    is_doubtful: &[bool],
) -> (Vec<Option<Similarity3<f64>>>, Vec<f64>) {
    let distances = |world_from: &[Option<Similarity3<f64>>]| -> Vec<f64> {
        let distance = |(index, link): (usize, &Link)| {
            let [one, two] = link.parts.map(|part| world_from[part]);
            let (Some(one), Some(two)) = (one, two) else {
                return 0.0;
            };
            if is_doubtful[index] {
                return f64::INFINITY;
            }
            let unit = link.unit * one.scaling();
            errors(&(one * link.frames[0]), &(two * link.frames[1]), unit).norm()
        };
        links.iter().enumerate().map(distance).collect()
    };
    let farthest = |found: &[f64]| {
        found
            .iter()
            .copied()
            .filter(|far| far.is_finite())
            .fold(WIDTH, f64::max)
    };
    let mut found = distances(&world_from);
    let mut width = 2.0 * farthest(&found);
    let mut weights = vec![1.0; links.len()];
    let mut last = 0;
    let precisions = precisions(links, is_doubtful);
    for _ in 0..MOST_ROUNDS {
        for (weight, far) in weights.iter_mut().zip(&found) {
            *weight = (1.0 + (far / width).powi(2)).powi(-2);
        }
        let scaled: Vec<f64> = weights
            .iter()
            .zip(&precisions)
            .map(|(a, b)| a * b)
            .collect();
        if !step(&mut world_from, root, links, &scaled) {
            break;
        }
        found = distances(&world_from);
        if width <= WIDTH {
            last += 1;
        }
        if last > LAST_ROUNDS {
            break;
        }
        width = (width * SHRINKAGE).max(WIDTH);
    }
    (world_from, weights)
}

/// A Gauss-Newton step; false if the system is singular.
fn step(
    world_from: &mut [Option<Similarity3<f64>>],
    root: usize,
    links: &[Link],
    weights: &[f64],
) -> bool {
    let mut fresh = 0..;
    let places: Vec<Option<usize>> = (world_from.iter().enumerate())
        .map(|(part, moved)| moved.filter(|_| part != root).and_then(|_| fresh.next()))
        .collect();
    let size = UNKNOWNS * fresh.start;
    let (mut matrix, mut gradient) = (SymmetricTiles::zeros(size), DVector::<f64>::zeros(size));
    for (link, &weight) in links.iter().zip(weights) {
        let [Some(one), Some(two)] = link.parts.map(|part| world_from[part]) else {
            continue;
        };
        if weight <= 1e-9 {
            continue;
        }
        let unit = link.unit * one.scaling();
        let [first, second] = [one * link.frames[0], two * link.frames[1]];
        let errors = errors(&first, &second, unit);
        let rows = |frame: &Similarity3<f64>, part: &Similarity3<f64>, sign: f64| {
            let arm = frame.isometry.translation.vector - part.isometry.translation.vector;
            let mut rows = nalgebra::SMatrix::<f64, 7, 7>::zeros();
            let by_centre = sign / (unit * CENTRE);
            rows.fixed_view_mut::<3, 3>(0, 0)
                .copy_from(&(Matrix3::identity() * (sign / ROTATION)));
            rows.fixed_view_mut::<3, 3>(3, 0)
                .copy_from(&(-arm.cross_matrix() * by_centre));
            rows.fixed_view_mut::<3, 3>(3, 3)
                .copy_from(&(Matrix3::identity() * by_centre));
            rows.fixed_view_mut::<3, 1>(3, 6)
                .copy_from(&(arm * by_centre));
            rows[(6, 6)] = sign / SCALE;
            rows
        };
        let ends = [
            (link.parts[0], rows(&first, &one, -1.0)),
            (link.parts[1], rows(&second, &two, 1.0)),
        ];
        for (at, (part, own)) in ends.iter().enumerate() {
            let Some(place) = places[*part] else { continue };
            let pull = own.transpose() * errors * weight;
            let square = own.transpose() * own * weight;
            for row in 0..UNKNOWNS {
                gradient[UNKNOWNS * place + row] += pull[row];
                for column in 0..=row {
                    let [row_at, column_at] = [row, column].map(|at| UNKNOWNS * place + at);
                    matrix.add(row_at, column_at, square[(row, column)]);
                }
            }
            if at == 0
                && let Some(other) = places[ends[1].0]
            {
                let mixed = own.transpose() * ends[1].1 * weight;
                for row in 0..UNKNOWNS {
                    for column in 0..UNKNOWNS {
                        matrix.add(
                            UNKNOWNS * place + row,
                            UNKNOWNS * other + column,
                            mixed[(row, column)],
                        );
                    }
                }
            }
        }
    }
    for (at, value) in matrix.diagonal().iter().enumerate() {
        matrix.add(at, at, 1e-9 * value + 1e-12);
    }
    let Some(solved) = matrix.cholesky().and_then(|factor| factor.solve(&gradient)) else {
        return false;
    };
    if solved.iter().any(|value| !value.is_finite()) {
        return false;
    }
    for (moved, place) in world_from.iter_mut().zip(&places) {
        let (Some(moved), Some(place)) = (moved, place) else {
            continue;
        };
        let by = -solved.fixed_rows::<UNKNOWNS>(UNKNOWNS * place).into_owned();
        let turn = Turn::from_scaled_axis(Vector3::new(by[0], by[1], by[2]));
        moved.isometry.rotation =
            Turn::new_normalize((turn * moved.isometry.rotation).into_inner());
        moved.isometry.translation.vector += Vector3::new(by[3], by[4], by[5]);
        moved.set_scaling(moved.scaling() * by[6].exp());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(part: usize) -> Similarity3<f64> {
        let t = part as f64;
        Similarity3::new(
            Vector3::new((0.5 * t).sin(), (0.5 * t).cos() - 1.0, 0.05 * t) * 12.0,
            Vector3::new(0.0, 0.0, -0.5 * t),
            1.0 + 0.05 * (t * 0.7).sin(),
        )
    }

    /// Parts along a circle, each with views in common with the next and the last with the first;
    /// `drift` is how much each relation is turned.
    fn links(parts: usize, drift: f64) -> Vec<Link> {
        let mut links = Vec::new();
        for part in 0..parts {
            let next = (part + 1) % parts;
            for view in 0..4 {
                let t = 0.3 * view as f64;
                let world = truth(part)
                    * Similarity3::new(Vector3::new(t, 4.0 - t, 1.0), Vector3::x() * t, 1.0);
                let spoil =
                    Similarity3::new(Vector3::zeros(), Vector3::z() * drift, 1.0 + drift / 2.0);
                links.push(Link {
                    parts: [part, next],
                    frames: [
                        truth(part).inverse() * world,
                        spoil * (truth(next).inverse() * world),
                    ],
                    unit: 3.0,
                    is_consecutive: next != 0,
                });
            }
        }
        links
    }

    fn gap(joined: &Joined, parts: usize) -> f64 {
        let root = joined.world_from.iter().position(|part| {
            part.is_some_and(|part| {
                (part.to_homogeneous() - Similarity3::<f64>::identity().to_homogeneous()).amax()
                    < 1e-12
            })
        });
        let root = root.unwrap();
        let gap = |part: usize| {
            let wanted = truth(root).inverse() * truth(part);
            (joined.world_from[part].unwrap().to_homogeneous() - wanted.to_homogeneous()).amax()
        };
        (0..parts).map(gap).fold(0.0, f64::max)
    }

    #[test]
    fn exact_links_give_exact_parts() {
        let joined = join(&[5; 12], &links(12, 0.0));
        assert!(gap(&joined, 12) < 1e-6, "{}", gap(&joined, 12));
        assert!(!joined.is_doubtful.contains(&true));
    }

    #[test]
    fn a_loop_that_does_not_quite_close_is_shared_out_and_none_is_doubted() {
        let joined = join(&[5; 12], &links(12, 0.01));
        assert!(!joined.is_doubtful.contains(&true));
        assert!(gap(&joined, 12) < 2.5, "{}", gap(&joined, 12));
    }

    #[test]
    fn a_false_loop_is_named_and_moves_nothing() {
        let mut all = links(12, 0.001);
        for view in 0..4 {
            let t = 0.3 * view as f64;
            let frame = Similarity3::new(Vector3::new(t, 1.0, 0.0), Vector3::y() * t, 1.0);
            all.push(Link {
                parts: [2, 6],
                frames: [frame, frame],
                unit: 3.0,
                is_consecutive: false,
            });
        }
        let joined = join(&[5; 12], &all);
        let doubtful: Vec<usize> = (0..all.len())
            .filter(|&link| joined.is_doubtful[link])
            .collect();
        assert_eq!(doubtful, [48, 49, 50, 51]);
        assert!(gap(&joined, 12) < 0.5, "{}", gap(&joined, 12));
    }

    #[test]
    fn parts_that_nothing_joins_stay_out() {
        let mut all = links(6, 0.0);
        all.retain(|link| !link.parts.contains(&3));
        let joined = join(&[5; 6], &all);
        let placed: Vec<bool> = joined.world_from.iter().map(Option::is_some).collect();
        assert_eq!(placed, [true, true, true, false, true, true]);
        assert!(join(&[], &[]).world_from.is_empty());
    }
}
