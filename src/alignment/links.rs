//! Fitted pairs as links of a view graph.

use super::Pair;
use super::canonical::CanonicalDepth;
use super::pair_fit::PairFit;
use super::spanning_tree::Link;

/// Where a pair's view is among `views`, ascending.
pub(super) fn place(views: &[usize], view: usize) -> usize {
    views
        .binary_search(&view)
        .expect("a pair's views are among them")
}

/// What sound pairs say of how their views, of which `views` has the indices, ascending, lie to one
/// another.
pub(super) fn links(views: &[usize], fits: &[&PairFit], depths: &[CanonicalDepth]) -> Vec<Link> {
    let link = |fit: &&PairFit| {
        let Pair { first, second } = fit.pair;
        Some(Link {
            pair: Pair {
                first: place(views, first),
                second: place(views, second),
            },
            first_from_second: fit.first_from_second?,
            // How much of it agrees, not how much there is: a wrong pair has as many matches as a
            // right one.
            weight: fit.inlier_share * fit.map_agreement,
            unit: depths[first].log_median.exp(),
        })
    };
    fits.iter().filter_map(link).collect()
}
