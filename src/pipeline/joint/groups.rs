//! Groups of views that fit into memory together, each sharing views with those before it.

use crate::pairs::Similarity;

/// Of a group, the share of views that groups before it hold too, and at most so many.
const SHARED_OF: usize = 4;
const MOST_SHARED: usize = 8;

/// Views that are predicted together, by their indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Views of earlier groups; none of the first group.
    pub(super) shared: Vec<usize>,
    /// Views of no earlier group.
    pub(super) new: Vec<usize>,
}

impl Group {
    /// All views: those that are shared first.
    pub(super) fn indices(&self) -> impl Iterator<Item = usize> {
        self.shared.iter().chain(&self.new).copied()
    }
}

/// Views of a group of `most` that are shared.
fn shared_of(most: usize) -> usize {
    (most / SHARED_OF).clamp(1, MOST_SHARED)
}

/// Groups of `most` views at most, two at least, that follow the order of the views.
pub(super) fn in_order(views: usize, most: usize) -> Vec<Group> {
    let most = most.max(2);
    let first = Group {
        shared: Vec::new(),
        new: (0..views.min(most)).collect(),
    };
    let step = most - shared_of(most);
    let later = (most..views).step_by(step).map(|start| {
        let end = (start + step).min(views);
        Group {
            shared: (end - most..start).collect(),
            new: (start..end).collect(),
        }
    });
    std::iter::once(first).chain(later).collect()
}

/// Groups of `most` views at most, two at least, of views that are alike. The first one grows from
/// view 0; each later one from the view most like those of earlier groups, and shares those of them
/// most like it. A group takes the view most like any of its own, until it is full.
pub(super) fn by_likeness(similarity: &Similarity, most: usize) -> Vec<Group> {
    let (views, most) = (similarity.views(), most.max(2));
    // Of each view the largest similarity to any of a set, after `view` joined the set.
    let join = |largest: &mut Vec<f64>, view: usize| {
        for (other, largest) in largest.iter_mut().enumerate() {
            *largest = largest.max(similarity.cosine(view, other));
        }
    };
    let mut placed: Vec<usize> = Vec::new();
    let mut left: Vec<usize> = (0..views).collect();
    let mut to_placed = vec![f64::NEG_INFINITY; views];
    let mut groups = Vec::new();
    while let Some(seed) = most_alike(&left, &to_placed) {
        let mut shared = placed.clone();
        let to_seed = |view: &usize| similarity.cosine(seed, *view);
        shared.sort_by(|a, b| to_seed(b).total_cmp(&to_seed(a)));
        // Places that there are no new views for are not left empty.
        shared.truncate(shared_of(most).max(most.saturating_sub(left.len())));
        let mut to_group = vec![f64::NEG_INFINITY; views];
        shared.iter().for_each(|&view| join(&mut to_group, view));
        let mut new = Vec::new();
        let mut next = Some(seed);
        while let Some(view) = next {
            new.push(view);
            left.retain(|&other| other != view);
            join(&mut to_group, view);
            join(&mut to_placed, view);
            next = if shared.len() + new.len() < most {
                most_alike(&left, &to_group)
            } else {
                None
            };
        }
        placed.extend(&new);
        groups.push(Group { shared, new });
    }
    groups
}

/// Of `views` the one of the largest similarity, the first of equal ones.
fn most_alike(views: &[usize], similarity: &[f64]) -> Option<usize> {
    views.iter().copied().reduce(|best, view| {
        if similarity[view] > similarity[best] {
            view
        } else {
            best
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every view is new in one group, what a group shares is in groups before it, and no group is
    /// too large.
    fn check(groups: &[Group], views: usize, most: usize) {
        let mut placed = Vec::new();
        for group in groups {
            assert!(group.indices().count() <= most.max(2), "{groups:?}");
            assert_eq!(group.shared.is_empty(), placed.is_empty(), "{groups:?}");
            assert!(group.shared.iter().all(|view| placed.contains(view)));
            placed.extend(&group.new);
        }
        assert_eq!(groups[0].new[0], 0);
        placed.sort_unstable();
        assert!(placed.into_iter().eq(0..views), "{groups:?}");
    }

    /// Directions on a half circle, a degree apart, in the order of 7 times their number.
    fn shuffled(views: usize) -> (Vec<usize>, Similarity) {
        let place = |view: usize| 7 * view % views;
        let direction = |view: usize| {
            let (sin, cos) = (place(view) as f32).to_radians().sin_cos();
            vec![cos, sin]
        };
        let directions: Vec<_> = (0..views).map(direction).collect();
        (
            (0..views).map(place).collect(),
            Similarity::of(&directions).unwrap(),
        )
    }

    #[test]
    fn groups_hold_every_view_and_share_some() {
        for (views, most) in [(1, 5), (5, 5), (7, 3), (40, 8), (40, 1), (9, 8), (100, 30)] {
            check(&in_order(views, most), views, most);
            check(&by_likeness(&shuffled(views).1, most), views, most);
        }
    }

    #[test]
    fn a_sequence_is_cut_in_order() {
        let groups = in_order(8, 5);
        let group = |shared: &[usize], new: &[usize]| Group {
            shared: shared.to_vec(),
            new: new.to_vec(),
        };
        assert_eq!(
            groups,
            [group(&[], &[0, 1, 2, 3, 4]), group(&[3, 4], &[5, 6, 7])]
        );
    }

    #[test]
    fn neighbours_are_together_in_whichever_order_they_come() {
        let (views, most) = (60, 12);
        let (places, similarity) = shuffled(views);
        for group in by_likeness(&similarity, most) {
            let places: Vec<usize> = group.indices().map(|view| places[view]).collect();
            let (first, last) = (places.iter().min(), places.iter().max());
            let (first, last) = (*first.unwrap(), *last.unwrap());
            // Growing to either side, a group of neighbours has no gap.
            assert!(last - first <= 2 * most, "{places:?}");
            let gap = |place: usize| !places.contains(&place) && !places.contains(&(place + 1));
            assert!(!(first..last).any(gap), "{places:?}");
        }
    }
}
