//! Cuts the view graph into overlapping submaps.
//!
//! Clusters are merged by average linkage (Sokal and Michener 1958) up to a maximum size. Each cluster
//! is then extended by views of other clusters such that every pair lies in a submap. Edge weights come
//! from the graph alone, because no prediction has been read yet: a pair is stronger the more
//! neighbours its views have in common. In sequences loop closures are weak, because a false one inside
//! a submap could not be detected.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::alignment::Pair;

/// Images form a sequence if at least this share of the consecutive ones are pairs.
const IN_ORDER: f64 = 0.8;
/// Weight of a loop closure in a sequence, relative to a pair of near frames.
const LOOP: f64 = 0.02;
/// Smaller clusters are merged even if the result exceeds the maximum size.
const SMALLEST: usize = 12;

/// A submap: views, and the pairs that determine them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submap {
    /// Ascending.
    pub views: Vec<usize>,
    /// For each view, whether this is its home; otherwise it belongs to another submap and is
    /// shared.
    pub is_own: Vec<bool>,
    /// Indices of the pairs inside the submap with at least one view at home, ascending.
    pub pairs: Vec<usize>,
}

/// The window of a sequence: the largest index distance up to which at least half of the pairs
/// exist. `None` if the images are not a sequence.
pub fn window(views: usize, pairs: &[Pair]) -> Option<usize> {
    let mut apart = BTreeMap::<usize, usize>::new();
    for pair in pairs {
        *apart.entry(pair.second - pair.first).or_default() += 1;
    }
    let share = |gap: usize| {
        *apart.get(&gap).unwrap_or(&0) as f64 / views.saturating_sub(gap).max(1) as f64
    };
    (share(1) >= IN_ORDER).then(|| (1..).take_while(|&gap| share(gap) >= 0.5).count())
}

/// Submaps of about `most` views plus shared ones, which together have every pair.
pub fn submaps(views: usize, pairs: &[Pair], most: usize) -> Vec<Submap> {
    let groups = groups(views, pairs, most);
    let mut group_of = vec![usize::MAX; views];
    for (group, members) in groups.iter().enumerate() {
        members.iter().for_each(|&view| group_of[view] = group);
    }
    let mut taken: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); groups.len()];
    let mut crossing = BTreeMap::<(usize, usize), Vec<Pair>>::new();
    for &pair in pairs {
        let (one, two) = (group_of[pair.first], group_of[pair.second]);
        if one != two {
            crossing
                .entry((one.min(two), one.max(two)))
                .or_default()
                .push(pair);
        }
    }
    let window = window(views, pairs).unwrap_or(0);
    for ((one, two), pairs) in crossing {
        for view in cover(&pairs, window) {
            let other = if group_of[view] == one { two } else { one };
            taken[other].insert(view);
        }
    }
    let mut submaps: Vec<Submap> = groups
        .iter()
        .zip(&taken)
        .map(|(members, taken)| {
            let mut views: Vec<usize> = members.iter().chain(taken).copied().collect();
            views.sort_unstable();
            let is_own = views.iter().map(|view| !taken.contains(view)).collect();
            Submap {
                views,
                is_own,
                pairs: Vec::new(),
            }
        })
        .collect();
    for (index, pair) in pairs.iter().enumerate() {
        let (one, two) = (group_of[pair.first], group_of[pair.second]);
        if one == two || taken[one].contains(&pair.second) {
            submaps[one].pairs.push(index);
        }
        if one != two && taken[two].contains(&pair.first) {
            submaps[two].pairs.push(index);
        }
    }
    submaps.retain(|submap| !submap.pairs.is_empty());
    submaps
}

/// Views of which every one of the pairs, which join two groups, has one: all that have two pairs
/// or more with near-by images in order, and of the others few.
fn cover(pairs: &[Pair], window: usize) -> Vec<usize> {
    let degrees = |pairs: &mut dyn Iterator<Item = &Pair>| {
        let mut degrees = BTreeMap::<usize, usize>::new();
        for pair in pairs {
            *degrees.entry(pair.first).or_default() += 1;
            *degrees.entry(pair.second).or_default() += 1;
        }
        degrees
    };
    let mut near = pairs
        .iter()
        .filter(|pair| pair.second - pair.first <= window);
    let near = degrees(&mut near)
        .into_iter()
        .filter(|(_, degree)| *degree > 1);
    let mut chosen: Vec<usize> = near.map(|(view, _)| view).collect();
    let mut left: Vec<Pair> = pairs.to_vec();
    left.retain(|pair| !chosen.contains(&pair.first) && !chosen.contains(&pair.second));
    while !left.is_empty() {
        let best = degrees(&mut left.iter())
            .into_iter()
            .max_by_key(|&(view, degree)| (degree, Reverse(view)))
            .map(|(view, _)| view);
        let Some(best) = best else { break };
        chosen.push(best);
        left.retain(|pair| pair.first != best && pair.second != best);
    }
    chosen
}

/// Views by their groups, ascending; none without a pair.
fn groups(views: usize, pairs: &[Pair], most: usize) -> Vec<Vec<usize>> {
    let mut around: Vec<Vec<usize>> = vec![Vec::new(); views];
    for pair in pairs {
        around[pair.first].push(pair.second);
        around[pair.second].push(pair.first);
    }
    around.iter_mut().for_each(|list| {
        list.sort_unstable();
        list.dedup();
    });
    let window = window(views, pairs);
    let strength = |pair: &Pair| {
        let (one, two) = (&around[pair.first], &around[pair.second]);
        let common = one
            .iter()
            .filter(|view| two.binary_search(view).is_ok())
            .count();
        let is_loop = window.is_some_and(|window| pair.second - pair.first > window);
        (1 + common) as f64 * if is_loop { LOOP } else { 1.0 }
    };
    let mut members: Vec<Vec<usize>> = (0..views).map(|view| vec![view]).collect();
    let mut ties: Vec<BTreeMap<usize, f64>> = vec![BTreeMap::new(); views];
    for pair in pairs {
        let strength = strength(pair);
        *ties[pair.first].entry(pair.second).or_default() += strength;
        *ties[pair.second].entry(pair.first).or_default() += strength;
    }
    // Positive numbers are ordered as their bits are.
    let key =
        |tie: f64, one: &[usize], two: &[usize]| (tie / (one.len() * two.len()) as f64).to_bits();
    let mut queue = BinaryHeap::new();
    for (one, around) in ties.iter().enumerate() {
        for (&two, &tie) in around.range(one + 1..) {
            queue.push((key(tie, &members[one], &members[two]), Reverse((one, two))));
        }
    }
    while let Some((found, Reverse((one, two)))) = queue.pop() {
        let Some(&tie) = ties[one].get(&two) else {
            continue;
        };
        let (a, b) = (&members[one], &members[two]);
        if a.is_empty() || b.is_empty() || found != key(tie, a, b) {
            continue;
        }
        let fits = a.len() + b.len() <= most;
        let is_small = a.len().min(b.len()) < SMALLEST && a.len().max(b.len()) <= most;
        // A rest that nothing else takes in: all its neighbours are full.
        let has_room = |group: usize| {
            ties[group]
                .keys()
                .any(|other| members[*other].len() + members[group].len() <= most)
        };
        let smaller = if a.len() < b.len() { one } else { two };
        if !fits && (!is_small || has_room(smaller)) {
            continue;
        }
        let moved = std::mem::take(&mut members[two]);
        members[one].extend(moved);
        ties[one].remove(&two);
        ties[two].remove(&one);
        for (other, tie) in std::mem::take(&mut ties[two]) {
            ties[other].remove(&two);
            *ties[one].entry(other).or_default() += tie;
            let sum = ties[one][&other];
            ties[other].insert(one, sum);
        }
        for (&other, &tie) in &ties[one] {
            let key = key(tie, &members[one], &members[other]);
            queue.push((key, Reverse((one.min(other), one.max(other)))));
        }
    }
    members
        .into_iter()
        .filter(|group| {
            group.len() > 1 || group.first().is_some_and(|&view| !around[view].is_empty())
        })
        .map(|mut group| {
            group.sort_unstable();
            group
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(views: usize) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for first in 0..views {
            let loops = (first + 100 < views && first % 3 == 0).then_some(first + 100);
            let near = (first + 1..views.min(first + 4)).chain(loops);
            pairs.extend(near.map(|second| Pair { first, second }));
        }
        pairs
    }

    #[test]
    fn every_pair_lies_in_a_group_and_groups_are_of_one_size_and_have_views_in_common() {
        let pairs = walk(300);
        let submaps = submaps(300, &pairs, 40);
        let mut is_covered = vec![false; pairs.len()];
        let mut owners = vec![0; 300];
        for submap in &submaps {
            let own = submap.is_own.iter().filter(|own| **own).count();
            assert!(
                (12..=52).contains(&own) && submap.views.len() < 120,
                "{own}"
            );
            submap
                .pairs
                .iter()
                .for_each(|&pair| is_covered[pair] = true);
            for (&view, is_own) in submap.views.iter().zip(&submap.is_own) {
                owners[view] += usize::from(*is_own);
            }
        }
        assert!(is_covered.into_iter().all(|covered| covered));
        assert_eq!(owners, vec![1; 300]);
        let shared: usize = submaps.iter().map(|submap| submap.views.len()).sum();
        assert!(shared > 300 + 3 * submaps.len(), "{shared}");
    }

    #[test]
    fn frames_in_order_stay_together_whatever_loops_there_are() {
        let pairs = walk(300);
        assert_eq!(window(300, &pairs), Some(3));
        for submap in submaps(300, &pairs, 40) {
            let own: Vec<usize> = (submap.views.iter().zip(&submap.is_own))
                .filter_map(|(view, own)| own.then_some(*view))
                .collect();
            let steps = own.windows(2).filter(|two| two[1] - two[0] > 3).count();
            assert_eq!(steps, 0, "{own:?}");
        }
        let star: Vec<Pair> = (1..9).map(|second| Pair { first: 0, second }).collect();
        assert_eq!(window(9, &star), None);
    }

    #[test]
    fn few_views_are_one_group_and_one_without_pairs_is_in_none() {
        let pairs = walk(20);
        let found = submaps(21, &pairs, 40);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].views, (0..20).collect::<Vec<_>>());
        assert_eq!(found[0].pairs.len(), pairs.len());
    }
}
