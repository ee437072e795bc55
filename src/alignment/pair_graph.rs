//! The graph of views and pairs: what hangs together, and which pairs contradict their neighbours.

use std::collections::BTreeMap;

use nalgebra::UnitQuaternion;

use super::Pair;

/// Rotations around a triangle of sound pairs come back to where they began within this angle, radians.
const CONSISTENT: f64 = 0.21;

/// An edge between two views.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub pair: Pair,
    pub first_from_second: UnitQuaternion<f64>,
    /// How much to trust it; above 0.
    pub weight: f64,
}

/// The views of each connected part, ascending; the largest first, then by the first view.
pub(crate) fn components(views: usize, pairs: impl IntoIterator<Item = Pair>) -> Vec<Vec<usize>> {
    let mut parent: Vec<usize> = (0..views).collect();
    for pair in pairs {
        let (a, b) = (root(&mut parent, pair.first), root(&mut parent, pair.second));
        // The smaller index leads, so that the order of the pairs does not matter.
        parent[a.max(b)] = a.min(b);
    }
    let mut parts = BTreeMap::<usize, Vec<usize>>::new();
    for view in 0..views {
        parts.entry(root(&mut parent, view)).or_default().push(view);
    }
    let mut parts: Vec<Vec<usize>> = parts.into_values().collect();
    parts.sort_by_key(|part| (usize::MAX - part.len(), part[0]));
    parts
}

fn root(parent: &mut [usize], mut view: usize) -> usize {
    while parent[view] != view {
        parent[view] = parent[parent[view]];
        view = parent[view];
    }
    view
}

/// Indices of the edges that contradict more triangles than they agree with, in the order they are given up: the worst
/// first, judging the others anew without it. An edge whose loss would take the graph apart stays.
pub(super) fn contradicting_triangles(views: usize, edges: &[Edge]) -> Vec<usize> {
    let triangles = triangles(views, edges);
    let (mut balance, mut of_edge) = (vec![0i64; edges.len()], vec![Vec::new(); edges.len()]);
    let says = |consistent: bool| if consistent { -1 } else { 1 };
    for (index, (triangle, consistent)) in triangles.iter().enumerate() {
        for &edge in triangle {
            balance[edge] += says(*consistent);
            of_edge[edge].push(index);
        }
    }
    let (mut dropped, mut is_kept) = (Vec::new(), vec![true; edges.len()]);
    let mut counts = vec![true; triangles.len()];
    // Without others an edge that joins two parts alone does so all the more.
    let mut is_needed = vec![false; edges.len()];
    loop {
        let worst = (0..edges.len()).filter(|&edge| is_kept[edge] && balance[edge] > 0 && !is_needed[edge]);
        let worst = worst.max_by(|&a, &b| {
            balance[a].cmp(&balance[b]).then(edges[b].weight.total_cmp(&edges[a].weight)).then(b.cmp(&a))
        });
        let Some(worst) = worst else { return dropped };
        if is_bridge(views, edges, &is_kept, worst) {
            is_needed[worst] = true;
            continue;
        }
        is_kept[worst] = false;
        dropped.push(worst);
        for &triangle in &of_edge[worst] {
            if std::mem::take(&mut counts[triangle]) {
                let (edges, consistent) = triangles[triangle];
                edges.iter().for_each(|&edge| balance[edge] -= says(consistent));
            }
        }
    }
}

/// Whether the views that `edge` joins hang together by kept edges only through it.
pub(super) fn is_bridge(views: usize, edges: &[Edge], is_kept: &[bool], edge: usize) -> bool {
    let mut parent: Vec<usize> = (0..views).collect();
    for (other, kept) in edges.iter().zip(is_kept).enumerate().filter(|(index, _)| *index != edge).map(|(_, both)| both)
    {
        if *kept {
            let (a, b) = (root(&mut parent, other.pair.first), root(&mut parent, other.pair.second));
            parent[a.max(b)] = a.min(b);
        }
    }
    let Pair { first, second } = edges[edge].pair;
    root(&mut parent, first) != root(&mut parent, second)
}

/// Every three edges that close, and whether their rotations do so too.
fn triangles(views: usize, edges: &[Edge]) -> Vec<([usize; 3], bool)> {
    let index: BTreeMap<Pair, usize> = edges.iter().enumerate().map(|(index, edge)| (edge.pair, index)).collect();
    let mut later = vec![Vec::new(); views];
    index.keys().for_each(|pair| later[pair.first].push(pair.second));
    let mut found = Vec::new();
    for (&Pair { first, second }, &one) in &index {
        for &third in later[second].iter() {
            let Some(&three) = index.get(&Pair { first, second: third }) else { continue };
            let two = index[&Pair { first: second, second: third }];
            let [a, b, c] = [one, two, three].map(|edge| edges[edge].first_from_second);
            found.push(([one, two, three], (a * b).angle_to(&c) <= CONSISTENT));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use nalgebra::Vector3;

    use super::*;

    fn pair(first: usize, second: usize) -> Pair {
        Pair { first, second }
    }

    /// Edges of a complete graph, exact but for those `wrong`, which are a quarter turn off.
    fn edges(views: usize, wrong: &[Pair]) -> Vec<Edge> {
        let world_from = |view: usize| UnitQuaternion::from_scaled_axis(Vector3::new(0.3, 0.1, -0.2) * view as f64);
        let pairs = (0..views).flat_map(|second| (0..second).map(move |first| pair(first, second)));
        let turn = UnitQuaternion::from_scaled_axis(Vector3::y() * 1.57);
        let edge = |pair: Pair| Edge {
            pair,
            first_from_second: world_from(pair.first).inverse()
                * world_from(pair.second)
                * if wrong.contains(&pair) { turn } else { UnitQuaternion::identity() },
            weight: 1.0,
        };
        pairs.map(edge).collect()
    }

    #[test]
    fn parts_are_listed_largest_first() {
        assert_eq!(components(6, [pair(4, 5), pair(1, 2), pair(1, 4)]), [vec![1, 2, 4, 5], vec![0], vec![3]]);
        assert_eq!(components(0, []), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn pairs_that_contradict_their_triangles_are_found() {
        let wrong = [pair(0, 4), pair(1, 3)];
        let edges = edges(6, &wrong);
        let mut found: Vec<Pair> =
            contradicting_triangles(6, &edges).into_iter().map(|edge| edges[edge].pair).collect();
        found.sort_unstable();
        assert_eq!(found, wrong);
    }

    #[test]
    fn of_one_contradicting_triangle_the_weakest_edge_goes_and_no_view_is_cut_off() {
        let mut edges = edges(3, &[pair(0, 2)]);
        edges[1].weight = 0.5;
        assert_eq!(edges[1].pair, pair(0, 2));
        assert_eq!(contradicting_triangles(3, &edges), [1]);
        assert!(is_bridge(3, &edges, &[true, false, true], 0));
        assert!(!is_bridge(3, &edges, &[true, true, true], 0));
    }
}
