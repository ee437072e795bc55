//! Pairs of images that were taken near one another.

use rayon::prelude::*;

use super::pair;
use crate::alignment::Pair;
use crate::geometry::Geodetic;
use crate::views::GpsPosition;

/// Each view with the `neighbours` nearest to it by its position, and the nearest two views of
/// parts that are not joined so, until all positions are in one part. A view without a position is
/// paired with so many views around it in order, half of them before it. Sorted, each pair once.
///
/// Distances are horizontal, as heights of GPS are several times less certain. Time grows with the
/// square of the views: some seconds for 10 000.
pub fn spatial_pairs(positions: &[Option<GpsPosition>], neighbours: usize) -> Vec<Pair> {
    let located: Vec<(usize, [f64; 3])> = positions
        .iter()
        .enumerate()
        .filter_map(|(view, position)| Some((view, place((*position)?))))
        .collect();
    let nearest = |&(view, place): &(usize, [f64; 3])| {
        let mut others: Vec<(f64, usize)> = located
            .iter()
            .filter(|(other, _)| *other != view)
            .map(|(other, at)| (square(place, *at), *other))
            .collect();
        let count = neighbours.min(others.len());
        let order = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if count < others.len() {
            others.select_nth_unstable_by(count, order);
            others.truncate(count);
        }
        others
            .into_iter()
            .filter_map(|(_, other)| pair(view, other))
            .collect::<Vec<_>>()
    };
    let mut pairs: Vec<Pair> = located.par_iter().flat_map(nearest).collect();
    pairs.extend(joins(&located, positions.len(), &pairs));
    let last = positions.len().saturating_sub(1);
    for view in (0..positions.len()).filter(|view| positions[*view].is_none()) {
        let reach = neighbours.div_ceil(2);
        let around = view.saturating_sub(reach)..=(view + reach).min(last);
        pairs.extend(around.filter_map(|other| pair(view, other)));
    }
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

/// Metres in a frame of the Earth, at sea level.
fn place(position: GpsPosition) -> [f64; 3] {
    let GpsPosition {
        latitude,
        longitude,
        ..
    } = position;
    Geodetic {
        latitude,
        longitude,
        altitude: 0.0,
    }
    .to_ecef()
    .into()
}

fn square(a: [f64; 3], b: [f64; 3]) -> f64 {
    [0, 1, 2]
        .map(|axis| (a[axis] - b[axis]).powi(2))
        .iter()
        .sum()
}

/// The shortest pairs that join the parts of the located views: each part with its nearest, until
/// there is one.
fn joins(located: &[(usize, [f64; 3])], views: usize, pairs: &[Pair]) -> Vec<Pair> {
    let mut parts: Vec<usize> = (0..views).collect();
    for pair in pairs {
        union(&mut parts, pair.first, pair.second);
    }
    let mut joins = Vec::new();
    loop {
        let part: Vec<usize> = located
            .iter()
            .map(|(view, _)| root(&parts, *view))
            .collect();
        if part.windows(2).all(|two| two[0] == two[1]) {
            return joins;
        }
        // From each view the nearest one of another part, then of each part the best.
        let nearest: Vec<Option<(f64, Pair)>> = (0..located.len())
            .into_par_iter()
            .map(|at| {
                let (view, place) = located[at];
                let others = (0..located.len()).filter(|other| part[*other] != part[at]);
                let distance = |other: usize| {
                    let (other, there) = located[other];
                    Some((square(place, there), pair(view, other)?))
                };
                others
                    .filter_map(distance)
                    .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
            })
            .collect();
        let mut found: Vec<(f64, Pair)> = nearest.into_iter().flatten().collect();
        found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        // The shortest first: what joins two parts that another one has joined is left out.
        for (_, pair) in found {
            if root(&parts, pair.first) != root(&parts, pair.second) {
                union(&mut parts, pair.first, pair.second);
                joins.push(pair);
            }
        }
    }
}

fn root(parts: &[usize], view: usize) -> usize {
    let mut view = view;
    while parts[view] != view {
        view = parts[view];
    }
    view
}

fn union(parts: &mut [usize], a: usize, b: usize) {
    let [a, b] = [root(parts, a), root(parts, b)];
    parts[a.max(b)] = a.min(b);
    // Short ways to the root.
    let mut view = a.max(b);
    while parts[view] != view {
        let next = parts[view];
        parts[view] = a.min(b);
        view = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metres north of a place, about.
    fn north(metres: f64) -> Option<GpsPosition> {
        Some(GpsPosition {
            latitude: 48.0 + metres / 111_200.0,
            longitude: 11.0,
            altitude: Some(metres * 100.0),
        })
    }

    fn pairs(positions: &[Option<GpsPosition>], neighbours: usize) -> Vec<[usize; 2]> {
        let pairs = spatial_pairs(positions, neighbours);
        pairs
            .into_iter()
            .map(|pair| [pair.first, pair.second])
            .collect()
    }

    #[test]
    fn nearest_positions_are_paired_whatever_their_heights() {
        let places = [0.0, 100.0, 1.0, 101.5, 2.5].map(north);
        assert_eq!(
            pairs(&places, 2),
            [[0, 2], [0, 4], [1, 3], [1, 4], [2, 4], [3, 4]]
        );
    }

    #[test]
    fn parts_are_joined_by_their_nearest_positions() {
        let places = [0.0, 1.0, 50.0, 51.0, 200.0, 203.0].map(north);
        assert_eq!(pairs(&places, 1), [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]);
    }

    #[test]
    fn images_without_a_position_are_paired_with_those_around_them() {
        let places = [north(0.0), None, north(1.0), north(30.0), None];
        assert_eq!(
            pairs(&places, 2),
            [[0, 1], [0, 2], [0, 3], [1, 2], [2, 3], [3, 4]]
        );
        assert_eq!(pairs(&[None, None, None], 2), [[0, 1], [1, 2]]);
        assert!(pairs(&[], 3).is_empty());
    }

    #[test]
    fn many_positions_on_a_grid_make_one_part() {
        let positions: Vec<_> = (0..900)
            .map(|at| {
                Some(GpsPosition {
                    latitude: 48.0 + f64::from(at / 30) * 1e-4,
                    longitude: 11.0 + f64::from(at % 30) * 1e-4,
                    altitude: None,
                })
            })
            .collect();
        let found = spatial_pairs(&positions, 4);
        let mut parts: Vec<usize> = (0..900).collect();
        for pair in &found {
            union(&mut parts, pair.first, pair.second);
        }
        assert!((0..900).all(|view| root(&parts, view) == 0));
        assert!(found.len() >= 900 * 4 / 2 && found.len() <= 900 * 4 + 900);
    }
}
