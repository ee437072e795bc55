//! The graph of views and pairs: what hangs together.

use std::collections::BTreeMap;

use super::Pair;

/// The views of each connected part, ascending; the largest first, then by the first view.
pub(crate) fn components(views: usize, pairs: impl IntoIterator<Item = Pair>) -> Vec<Vec<usize>> {
    let mut parent: Vec<usize> = (0..views).collect();
    for pair in pairs {
        join(&mut parent, pair);
    }
    let mut parts = BTreeMap::<usize, Vec<usize>>::new();
    for view in 0..views {
        parts.entry(root(&mut parent, view)).or_default().push(view);
    }
    let mut parts: Vec<Vec<usize>> = parts.into_values().collect();
    parts.sort_by_key(|part| (usize::MAX - part.len(), part[0]));
    parts
}

/// Joins the parts of a pair's views, in which each view has a parent and the first one of a part
/// itself. Returns whether they were apart.
pub(super) fn join(parent: &mut [usize], pair: Pair) -> bool {
    let (a, b) = (root(parent, pair.first), root(parent, pair.second));
    // The smaller index leads, so that the order of the pairs does not matter.
    parent[a.max(b)] = a.min(b);
    a != b
}

fn root(parent: &mut [usize], mut view: usize) -> usize {
    while parent[view] != view {
        parent[view] = parent[parent[view]];
        view = parent[view];
    }
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(first: usize, second: usize) -> Pair {
        Pair { first, second }
    }

    #[test]
    fn parts_are_listed_largest_first() {
        assert_eq!(
            components(6, [pair(4, 5), pair(1, 2), pair(1, 4)]),
            [vec![1, 2, 4, 5], vec![0], vec![3]]
        );
        assert_eq!(components(0, []), Vec::<Vec<usize>>::new());
    }
}
