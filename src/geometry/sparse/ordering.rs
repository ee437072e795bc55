//! Elimination order of a sparse symmetric matrix with little fill-in.
//!
//! Minimum degree (Tinney and Walker 1967), followed by a postorder of the elimination tree (Liu, The
//! Role of Elimination Trees in Sparse Factorization, 1990). The postorder has the same fill-in and
//! keeps subtrees contiguous, which the storage in tiles needs.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// Elimination order of the nodes of a graph, given by its adjacency.
pub fn elimination_order(neighbours: Vec<BTreeSet<usize>>) -> Vec<usize> {
    let nodes = neighbours.len();
    let mut around: Vec<Vec<usize>> = neighbours
        .into_iter()
        .enumerate()
        .map(|(node, list)| list.into_iter().filter(|other| *other != node).collect())
        .collect();
    let mut queue: BinaryHeap<Reverse<(usize, usize)>> = around
        .iter()
        .enumerate()
        .map(|(node, list)| Reverse((list.len(), node)))
        .collect();
    let mut place = vec![usize::MAX; nodes];
    let mut order = Vec::with_capacity(nodes);
    let mut fronts: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    while let Some(Reverse((degree, node))) = queue.pop() {
        if place[node] != usize::MAX || degree != around[node].len() {
            continue;
        }
        place[node] = order.len();
        order.push(node);
        let front = std::mem::take(&mut around[node]);
        for &other in &front {
            let list = &mut around[other];
            let mut merged = Vec::with_capacity(list.len() + front.len());
            let (mut one, mut two) = (list.iter().peekable(), front.iter().peekable());
            loop {
                let next = match (one.peek(), two.peek()) {
                    (Some(a), Some(b)) if a == b => {
                        two.next();
                        continue;
                    }
                    (Some(a), Some(b)) if a < b => one.next(),
                    (Some(_), None) => one.next(),
                    (_, Some(_)) => two.next(),
                    (None, None) => break,
                };
                merged.extend(next.copied().filter(|next| *next != node && *next != other));
            }
            *list = merged;
            queue.push(Reverse((list.len(), other)));
        }
        fronts[node] = front;
    }
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    let mut roots = Vec::new();
    for &node in &order {
        match fronts[node].iter().min_by_key(|other| place[**other]) {
            Some(&parent) => children[parent].push(node),
            None => roots.push(node),
        }
    }
    let mut after = Vec::with_capacity(nodes);
    // Parents before children, from the end, is children before parents.
    let mut stack = roots;
    while let Some(node) = stack.pop() {
        after.push(node);
        stack.extend(&children[node]);
    }
    after.reverse();
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries below the diagonal that elimination in this order fills.
    fn filled(mut around: Vec<BTreeSet<usize>>, order: &[usize]) -> usize {
        let mut count = 0;
        for &node in order {
            let front = std::mem::take(&mut around[node]);
            count += front.len();
            for &other in &front {
                around[other].remove(&node);
                around[other].extend(front.iter().filter(|next| **next != other));
            }
        }
        count
    }

    fn grid(side: usize) -> Vec<BTreeSet<usize>> {
        let mut around = vec![BTreeSet::new(); side * side];
        for at in 0..side * side {
            let beside = (at % side + 1 < side).then_some(at + 1);
            for other in beside
                .into_iter()
                .chain((at + side < side * side).then_some(at + side))
            {
                around[at].insert(other);
                around[other].insert(at);
            }
        }
        around
    }

    #[test]
    fn every_node_has_one_place_and_little_is_filled() {
        let around = grid(20);
        let order = elimination_order(around.clone());
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..400).collect::<Vec<_>>());
        let rows: Vec<usize> = (0..400).collect();
        let (found, by_rows) = (filled(around.clone(), &order), filled(around, &rows));
        assert!(2 * found < by_rows, "{found} of {by_rows}");
    }

    #[test]
    fn a_line_is_not_filled_at_all() {
        let line: Vec<BTreeSet<usize>> = (0..50)
            .map(|at: usize| {
                [at.saturating_sub(1), (at + 1).min(49)]
                    .into_iter()
                    .filter(|other| *other != at)
                    .collect()
            })
            .collect();
        assert_eq!(filled(line.clone(), &elimination_order(line)), 49);
    }
}
