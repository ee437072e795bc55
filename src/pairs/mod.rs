//! Which pairs of many views to look at.
//!
//! ```text
//! PairGraph ── pairs ─────────▶ Vec<Pair>    a rule by its name, with a Similarity where it goes by likeness
//! text of a list ── parse_list ▶ Vec<Pair>    two names a line
//! GPS positions ─ spatial_pairs ▶ Vec<Pair>   those taken near one another
//! ```

mod list;
mod retrieval;
mod spatial;

use std::fmt;
use std::str::FromStr;

use crate::alignment::Pair;
use crate::error::{Error, Result};

pub use list::parse_list;
pub use retrieval::Similarity;
pub use spatial::spatial_pairs;

/// So many views are all paired with one another where nothing else is asked for: 66 pairs.
const MOST_COMPLETE: usize = 12;
/// What [`PairGraph::Retrieval`] is given where its name has no numbers.
const DEFAULT_ANCHORS: usize = 20;
const DEFAULT_NEIGHBOURS: usize = 10;
/// What windows are given where their names have no number.
const DEFAULT_WINDOW: usize = 3;
/// What [`PairGraph::Loop`] is given where its name has no numbers.
const DEFAULT_REACH: usize = 5;
const DEFAULT_CLOSURES: usize = 4;

/// A rule that says which views are paired. It reads and prints the names that the reference has
/// for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PairGraph {
    /// `auto`: all pairs of up to 12 views, `retrieval` of more.
    #[default]
    Auto,
    /// `complete`: all pairs.
    Complete,
    /// `swin-K`: each view with the K that follow it.
    Window {
        /// K.
        reach: usize,
        /// What follows the last view.
        ends: Ends,
    },
    /// `logwin-K`: each view with those 1, 2, 4, up to 2^(K-1) further.
    LogWindow {
        /// K.
        steps: usize,
        /// What follows the last view.
        ends: Ends,
    },
    /// `oneref-I`: the view I, counted from 0, with each of the others.
    Star {
        /// I.
        centre: usize,
    },
    /// `retrieval-NA-K`: NA views that differ most from one another are all paired, each other one
    /// is paired with the nearest of them, and every view with its K - 1 most similar ones.
    Retrieval {
        /// NA.
        anchors: usize,
        /// K, which counts the view itself.
        neighbours: usize,
    },
    /// `loop-K-L`, for frames of a video: each view with the K that follow it, and with the L most
    /// similar ones of those that are more than twice as far away, so that a path that comes back is
    /// closed.
    Loop {
        /// K.
        reach: usize,
        /// L.
        closures: usize,
    },
}

/// What follows the last view of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ends {
    /// The first one.
    #[default]
    Joined,
    /// Nothing; `-noncyclic` in the names.
    Open,
}

impl PairGraph {
    /// What suits this many views that are frames of a video, in order: as [`PairGraph::Auto`], but
    /// `loop` instead of `retrieval`.
    pub fn of_video(views: usize) -> Self {
        if views <= MOST_COMPLETE {
            Self::Complete
        } else {
            Self::Loop {
                reach: DEFAULT_REACH,
                closures: DEFAULT_CLOSURES,
            }
        }
    }

    /// The rule for this many views: [`PairGraph::Auto`] becomes one of the others.
    pub fn resolved(self, views: usize) -> Self {
        match self {
            Self::Auto if views <= MOST_COMPLETE => Self::Complete,
            Self::Auto => Self::Retrieval {
                anchors: DEFAULT_ANCHORS,
                neighbours: DEFAULT_NEIGHBOURS,
            },
            other => other,
        }
    }

    /// Whether [`PairGraph::pairs`] of this many views needs to know how similar they are.
    pub fn needs_similarity(self, views: usize) -> bool {
        matches!(
            self.resolved(views),
            Self::Retrieval { .. } | Self::Loop { .. }
        )
    }

    /// Whether it takes the views for frames in order.
    pub fn is_sequence(self) -> bool {
        matches!(
            self,
            Self::Window { .. } | Self::LogWindow { .. } | Self::Loop { .. }
        )
    }

    /// The least number of pairs of `views` views, and the most: they differ where the rule goes by
    /// similarity.
    ///
    /// # Errors
    /// As [`PairGraph::pairs`].
    pub fn count(self, views: usize) -> Result<[usize; 2]> {
        let all = views * views.saturating_sub(1) / 2;
        // Of each view so many others; two views may choose one another.
        let chosen = |each: usize| {
            let most = views * each.min(views.saturating_sub(1));
            [most.div_ceil(2), most.min(all)]
        };
        Ok(match self.resolved(views) {
            Self::Retrieval {
                anchors,
                neighbours,
            } => {
                let anchors = anchors.min(views);
                let [least, most] = chosen(neighbours.saturating_sub(1));
                let joined = anchors * anchors.saturating_sub(1) / 2 + views - anchors;
                [least, (most + joined).min(all)]
            }
            Self::Loop { reach, closures } => {
                let reach = reach.min(views.saturating_sub(1));
                let near = reach * views - reach * (reach + 1) / 2;
                let [least, most] = chosen(closures);
                [(near + least).min(all), (near + most).min(all)]
            }
            other => [other.pairs(views, None)?.len(); 2],
        })
    }

    /// The pairs of `views` views, sorted, each once.
    ///
    /// # Errors
    /// [`Error::Usage`] for a centre that is no view, a rule that gives no pair at all, and a
    /// missing similarity.
    pub fn pairs(self, views: usize, similarity: Option<&Similarity>) -> Result<Vec<Pair>> {
        let steps =
            |steps: &mut dyn Iterator<Item = usize>, ends: Ends| window_pairs(views, steps, ends);
        let known = || {
            let known = similarity.filter(|similarity| similarity.views() == views);
            known.ok_or_else(|| {
                Error::Usage(format!(
                    "graph {self}: the similarity of the {views} views is missing"
                ))
            })
        };
        let mut pairs = match self.resolved(views) {
            Self::Auto | Self::Complete => steps(&mut (1..views), Ends::Open),
            Self::Window { reach, ends } => steps(&mut (1..=reach.min(views)), ends),
            Self::LogWindow { steps: count, ends } => steps(
                &mut (0..count.min(usize::BITS as usize - 1)).map(|step| 1 << step),
                ends,
            ),
            Self::Star { centre } if centre < views => {
                (0..views).filter_map(|view| pair(centre, view)).collect()
            }
            Self::Star { centre } => {
                let reason =
                    format!("there is no view {centre}: the {views} views are counted from 0");
                return Err(Error::Usage(format!("graph {self}: {reason}")));
            }
            Self::Retrieval {
                anchors,
                neighbours,
            } => retrieval::pairs(known()?, anchors, neighbours),
            Self::Loop { reach, closures } => {
                let mut pairs = steps(&mut (1..=reach.min(views)), Ends::Open);
                pairs.extend(retrieval::closures(known()?, 2 * reach, closures));
                pairs
            }
        };
        pairs.sort_unstable();
        pairs.dedup();
        if pairs.is_empty() {
            return Err(Error::Usage(format!(
                "graph {self}: it has no pairs of {views} views; try complete"
            )));
        }
        Ok(pairs)
    }
}

/// The pair of two views, unless they are one.
fn pair(a: usize, b: usize) -> Option<Pair> {
    (a != b).then(|| Pair {
        first: a.min(b),
        second: a.max(b),
    })
}

/// Each view with those that follow it at the given steps.
fn window_pairs(views: usize, steps: &mut dyn Iterator<Item = usize>, ends: Ends) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for step in steps {
        for view in 0..views {
            match (view + step, ends) {
                (next, _) if next < views => pairs.extend(pair(view, next)),
                (next, Ends::Joined) => pairs.extend(pair(view, next % views)),
                (_, Ends::Open) => {}
            }
        }
    }
    pairs
}

impl fmt::Display for PairGraph {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = |ends: &Ends| {
            if *ends == Ends::Open {
                "-noncyclic"
            } else {
                ""
            }
        };
        match self {
            Self::Auto => out.write_str("auto"),
            Self::Complete => out.write_str("complete"),
            Self::Window { reach, ends } => write!(out, "swin-{reach}{}", suffix(ends)),
            Self::LogWindow { steps, ends } => write!(out, "logwin-{steps}{}", suffix(ends)),
            Self::Star { centre } => write!(out, "oneref-{centre}"),
            Self::Retrieval {
                anchors,
                neighbours,
            } => write!(out, "retrieval-{anchors}-{neighbours}"),
            Self::Loop { reach, closures } => write!(out, "loop-{reach}-{closures}"),
        }
    }
}

impl FromStr for PairGraph {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || {
            format!(
                "{text:?} is not a graph; give auto, complete, swin-K, swin-K-noncyclic, logwin-K, logwin-K-noncyclic, \
                 oneref-I, retrieval-NA-K or loop-K-L"
            )
        };
        let mut parts: Vec<&str> = text.split('-').collect();
        let ends = if parts.len() > 1 && parts.last() == Some(&"noncyclic") {
            Ends::Open
        } else {
            Ends::Joined
        };
        if ends == Ends::Open {
            parts.pop();
        }
        let numbers: Vec<usize> = parts[1..]
            .iter()
            .map(|part| part.parse())
            .collect::<Result<_, _>>()
            .map_err(|_| unknown())?;
        let at_least_one = |number: usize| match number {
            0 => Err(format!("{text:?}: its number must be at least 1")),
            number => Ok(number),
        };
        match (parts[0], &numbers[..], ends) {
            ("auto", [], Ends::Joined) => Ok(Self::Auto),
            ("complete", [], Ends::Joined) => Ok(Self::Complete),
            ("swin", [], _) => Ok(Self::Window {
                reach: DEFAULT_WINDOW,
                ends,
            }),
            ("swin", &[reach], _) => Ok(Self::Window {
                reach: at_least_one(reach)?,
                ends,
            }),
            ("logwin", [], _) => Ok(Self::LogWindow {
                steps: DEFAULT_WINDOW,
                ends,
            }),
            ("logwin", &[steps], _) => Ok(Self::LogWindow {
                steps: at_least_one(steps)?,
                ends,
            }),
            ("oneref", [], Ends::Joined) => Ok(Self::Star { centre: 0 }),
            ("oneref", &[centre], Ends::Joined) => Ok(Self::Star { centre }),
            ("retrieval", [], Ends::Joined) => Ok(Self::Retrieval {
                anchors: DEFAULT_ANCHORS,
                neighbours: DEFAULT_NEIGHBOURS,
            }),
            ("retrieval", &[anchors, neighbours], Ends::Joined) => Ok(Self::Retrieval {
                anchors,
                neighbours,
            }),
            ("loop", [], Ends::Joined) => Ok(Self::Loop {
                reach: DEFAULT_REACH,
                closures: DEFAULT_CLOSURES,
            }),
            ("loop", &[reach, closures], Ends::Joined) => Ok(Self::Loop {
                reach: at_least_one(reach)?,
                closures,
            }),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(name: &str, views: usize) -> Vec<[usize; 2]> {
        let pairs = name
            .parse::<PairGraph>()
            .unwrap()
            .pairs(views, None)
            .unwrap();
        pairs
            .into_iter()
            .map(|pair| [pair.first, pair.second])
            .collect()
    }

    #[test]
    fn names_are_the_pairs_that_a_person_would_list() {
        assert_eq!(
            pairs("complete", 4),
            [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
        );
        assert_eq!(pairs("auto", 3), [[0, 1], [0, 2], [1, 2]]);
        assert_eq!(pairs("swin-1", 4), [[0, 1], [0, 3], [1, 2], [2, 3]]);
        assert_eq!(pairs("swin-1-noncyclic", 4), [[0, 1], [1, 2], [2, 3]]);
        let by_two = [
            [0, 1],
            [0, 2],
            [0, 4],
            [0, 5],
            [1, 2],
            [1, 3],
            [1, 5],
            [2, 3],
            [2, 4],
            [3, 4],
            [3, 5],
            [4, 5],
        ];
        assert_eq!(pairs("swin-2", 6), by_two);
        assert_eq!(
            pairs("swin-2-noncyclic", 5),
            [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3], [2, 4], [3, 4]]
        );
        assert_eq!(
            pairs("logwin-3-noncyclic", 6),
            [
                [0, 1],
                [0, 2],
                [0, 4],
                [1, 2],
                [1, 3],
                [1, 5],
                [2, 3],
                [2, 4],
                [3, 4],
                [3, 5],
                [4, 5]
            ]
        );
        assert_eq!(pairs("logwin-2", 5), pairs("complete", 5));
        assert_eq!(pairs("oneref-2", 4), [[0, 2], [1, 2], [2, 3]]);
        assert_eq!(pairs("oneref", 3), [[0, 1], [0, 2]]);
        assert_eq!(pairs("swin", 9).len(), 27);
    }

    #[test]
    fn a_window_wider_than_the_sequence_is_complete() {
        for name in ["swin-9", "swin-9-noncyclic", "logwin-70", "swin-4"] {
            assert_eq!(
                pairs(name, 4),
                if name == "logwin-70" {
                    pairs("logwin-3", 4)
                } else {
                    pairs("complete", 4)
                }
            );
        }
        assert_eq!(pairs("swin-3", 2), [[0, 1]]);
    }

    #[test]
    fn graphs_read_back_what_they_print() {
        for name in [
            "auto",
            "complete",
            "swin-3",
            "swin-5-noncyclic",
            "logwin-4",
            "logwin-1-noncyclic",
            "oneref-7",
            "retrieval-20-10",
            "loop-5-4",
        ] {
            assert_eq!(name.parse::<PairGraph>().unwrap().to_string(), name);
        }
        assert_eq!(
            "retrieval".parse::<PairGraph>().unwrap().to_string(),
            "retrieval-20-10"
        );
        assert_eq!(
            "logwin-noncyclic".parse::<PairGraph>().unwrap().to_string(),
            "logwin-3-noncyclic"
        );
    }

    #[test]
    fn names_of_no_graph_are_refused() {
        for name in [
            "",
            "all",
            "swin-x",
            "swin-2-3",
            "swin--2",
            "complete-3",
            "auto-noncyclic",
            "oneref-1-noncyclic",
            "retrieval-3",
            "loop-3",
        ] {
            let error = name.parse::<PairGraph>().unwrap_err();
            assert!(
                error.contains("is not a graph; give auto, complete"),
                "{name}: {error}"
            );
        }
        assert_eq!(
            "swin-0".parse::<PairGraph>().unwrap_err(),
            "\"swin-0\": its number must be at least 1"
        );
    }

    #[test]
    fn graphs_that_views_cannot_have_are_refused() {
        let refusal = |graph: PairGraph, views| graph.pairs(views, None).unwrap_err().to_string();
        let star = PairGraph::Star { centre: 4 };
        assert_eq!(
            refusal(star, 4),
            "graph oneref-4: there is no view 4: the 4 views are counted from 0"
        );
        assert_eq!(
            refusal(PairGraph::Complete, 1),
            "graph complete: it has no pairs of 1 views; try complete"
        );
        assert!(refusal(PairGraph::Auto, 13).contains("the similarity of the 13 views is missing"));
        assert!(PairGraph::Auto.needs_similarity(13) && !PairGraph::Auto.needs_similarity(12));
    }
}
