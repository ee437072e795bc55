//! What one pair says alone: how its two views lie to one another, and how far its own maps and
//! matches agree with that.

use nalgebra::{Isometry3, Point3, Similarity3, Translation3, UnitQuaternion, Vector3};

use super::canonical::{
    CanonicalDepth, CanonicalView, DepthSample, confidence_weight, log_depths, log_focal, sampled,
};
use super::{AlignOptions, Pair, PairEvidence};
use crate::geometry::pnp::{self, PixelCorrespondence, Pose};
use crate::geometry::procrustes::{Correspondence, robust_similarity};
use crate::geometry::{Intrinsics, PointMap, median};
use crate::matching::{Match, PairMatches, Pixel};

/// Pixels that enter a similarity at most; their errors are alike near by, so more would tell
/// little more.
const MOST_CORRESPONDENCES: usize = 1500;
/// The same of a pose, which is wanted less exactly.
const MOST_OBSERVATIONS: usize = 600;
/// Rounds of reweighting of a similarity.
const SIMILARITY_ROUNDS: usize = 10;
/// A match agrees with a similarity if it brings its two points together within this share of their
/// depth.
const MATCH_TOLERANCE: f64 = 0.1;
/// Share of the matches, by weight, that must agree in a sound pair, and how many matches' weight.
const LEAST_SHARE: f64 = 0.2;
const LEAST_WEIGHT: f64 = 6.0;
/// Share of the pixels of a view whose depths must agree with those that all pairs give the view.
/// Small, as a network may have second thoughts; it is another image that has less in common.
const LEAST_MAP_AGREEMENT: f64 = 0.5;
/// The two decodes of a pair contradict one another beyond this angle, radians.
const LARGEST_DISAGREEMENT: f64 = 0.2;
/// Reprojection error at which a point stops counting in a pose, over the long side of the image,
/// and its least value in pixels.
const POSE_THRESHOLD: (f64, f64) = (0.01, 2.0);

/// Two pixels that show one point.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightedMatch {
    pub first: [f64; 2],
    pub second: [f64; 2],
    /// Indices of the same pixels.
    pub indices: [usize; 2],
    /// Above 0, 1 at most.
    pub weight: f64,
}

/// A camera's pose as one decode has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PosePrior {
    /// The view whose frame the decode's points are in, and the other one.
    pub base: usize,
    pub seen: usize,
    pub seen_from_base: Isometry3<f64>,
}

/// What one pair says alone, lengths in the canonical units of its views.
#[derive(Clone, Debug)]
pub(super) struct PairFit {
    pub pair: Pair,
    pub matches: Vec<WeightedMatch>,
    /// Of the views, pixels.
    pub widths: [usize; 2],
    /// `None` if the maps determine none.
    pub first_from_second: Option<Similarity3<f64>>,
    /// Whether its predictions are finite. If not, it says nothing.
    pub is_finite: bool,
    /// Whether maps and matches agree well enough to be used.
    pub is_sound: bool,
    /// Share of the matches, by weight, that agree with the similarity.
    pub inlier_share: f64,
    pub pose_priors: Vec<PosePrior>,
    /// How far the views' own maps agree with what all pairs say of the views: the smaller share of
    /// pixels.
    pub map_agreement: f64,
    /// Of both views' maps in their own frame.
    pub own_depths: [DepthSample; 2],
    /// What its maps have to say of its views, until that is added to the views'.
    pub maps: [ViewContribution; 2],
}

/// What the maps of a pair say of one of its views.
#[derive(Clone, Debug, Default)]
pub(super) struct ViewContribution {
    pub log_focal: Option<f64>,
    /// Logarithms of the depths, with confidences: from the view's own decode, and from the other
    /// one, brought to the view's frame.
    pub own: Option<[Vec<f32>; 2]>,
    pub across: Option<[Vec<f32>; 2]>,
}

impl PairFit {
    /// Fits a pair, in units of its own.
    pub fn new(evidence: &PairEvidence, options: &AlignOptions) -> Self {
        let PairEvidence {
            pair,
            forward: [first, second_in_first],
            reverse: [second, first_in_second],
            ..
        } = evidence;
        let matches = weighted_matches(evidence);
        let first_from_second = map_similarity(second, second_in_first);
        let second_from_first = map_similarity(first, first_in_second);
        let agreeing = |fit: &Similarity3<f64>| -> f64 {
            let agrees = |m: &&WeightedMatch| {
                let [from, to] =
                    [second.points[m.indices[1]], first.points[m.indices[0]]].map(to_point);
                (fit * from - to).norm() <= MATCH_TOLERANCE * to.z
            };
            matches.iter().filter(agrees).map(|m| m.weight).sum()
        };
        let fit = [
            first_from_second,
            second_from_first.map(|fit| fit.inverse()),
        ];
        let fit = match fit {
            [Some(one), Some(two)]
                if one.isometry.rotation.angle_to(&two.isometry.rotation)
                    < LARGEST_DISAGREEMENT =>
            {
                Some(middle(&one, &two))
            }
            [Some(one), Some(two)] if agreeing(&two) > agreeing(&one) => Some(two),
            [one, two] => one.or(two),
        };
        let inlier_weight = fit.as_ref().map_or(0.0, agreeing);
        let total: f64 = matches.iter().map(|m| m.weight).sum();
        let inlier_share = if total > 0.0 {
            inlier_weight / total
        } else {
            0.0
        };
        let is_sound =
            fit.is_some() && inlier_share >= LEAST_SHARE && inlier_weight >= LEAST_WEIGHT;

        let view_maps =
            |own: &PointMap, other: &PointMap, own_from_other: Option<Similarity3<f64>>| {
                let depths = |from: &Similarity3<f64>| {
                    // The third row of the similarity; of the others nothing is needed.
                    let row = from.isometry.rotation.to_rotation_matrix().matrix().row(2)
                        * from.scaling();
                    let shift = from.isometry.translation.z;
                    let depth = |point: &[f32; 3]| {
                        let [x, y, z] = point.map(f64::from);
                        (row[0] * x + row[1] * y + row[2] * z + shift) as f32
                    };
                    [
                        log_depths(other.points.iter().map(depth), &other.confidence),
                        other.confidence.to_vec(),
                    ]
                };
                ViewContribution {
                    log_focal: log_focal(own),
                    own: Some([
                        log_depths(own.points.iter().map(|point| point[2]), &own.confidence),
                        own.confidence.to_vec(),
                    ]),
                    across: own_from_other.as_ref().map(depths),
                }
            };
        // What an unsound pair says of a view beside the other one is not worth having.
        let to_own =
            |fit: Option<Similarity3<f64>>| fit.filter(|_| is_sound).map(|fit| fit.inverse());
        let maps = [
            view_maps(first, first_in_second, to_own(second_from_first)),
            view_maps(second, second_in_first, to_own(first_from_second)),
        ];
        let prior = |base: usize,
                     seen: usize,
                     similarity: Option<Similarity3<f64>>,
                     map: &PointMap,
                     focal: Option<f64>| {
            let inside = match options.known(seen).intrinsics {
                Some(known) => known,
                None => Intrinsics::centred(map.width as u32, map.height as u32, focal?.exp()),
            };
            let seen_from_base = pose_in_map(&similarity?, map, &inside)?;
            Some(PosePrior {
                base,
                seen,
                seen_from_base,
            })
        };
        let pose_priors = [
            prior(
                pair.first,
                pair.second,
                first_from_second,
                second_in_first,
                maps[1].log_focal,
            ),
            prior(
                pair.second,
                pair.first,
                second_from_first,
                first_in_second,
                maps[0].log_focal,
            ),
        ];
        Self {
            pair: *pair,
            first_from_second: fit,
            is_finite: true,
            is_sound,
            inlier_share,
            matches,
            widths: [first.width, second.width],
            pose_priors: pose_priors.into_iter().flatten().collect(),
            map_agreement: 1.0,
            own_depths: [DepthSample::new(first), DepthSample::new(second)],
            maps,
        }
    }

    /// Of a pair whose predictions are not finite.
    pub fn not_finite(pair: Pair) -> Self {
        Self {
            pair,
            first_from_second: None,
            is_finite: false,
            is_sound: false,
            inlier_share: 0.0,
            matches: Vec::new(),
            widths: [0; 2],
            pose_priors: Vec::new(),
            map_agreement: 0.0,
            own_depths: Default::default(),
            maps: Default::default(),
        }
    }

    /// Renumbers its views; their order must stay.
    pub fn rename(&mut self, name: impl Fn(usize) -> usize) {
        let Pair { first, second } = self.pair;
        self.pair = Pair {
            first: name(first),
            second: name(second),
        };
        for prior in &mut self.pose_priors {
            (prior.base, prior.seen) = (name(prior.base), name(prior.seen));
        }
    }

    /// Adds the pair's maps to what all pairs say of its views, and takes their units. Pairs come
    /// in their order: a view takes its units from its first one.
    pub fn add_maps(&mut self, views: &mut [CanonicalView]) {
        let Pair { first, second } = self.pair;
        let (before, after) = views.split_at_mut(second);
        let add = |view: &mut CanonicalView, maps: ViewContribution| {
            view.log_focals.extend(maps.log_focal);
            let mut add =
                |[depths, confidence]: [Vec<f32>; 2]| view.add_depths(&depths, &confidence);
            let ratio = maps.own.and_then(&mut add);
            maps.across.and_then(add);
            ratio.unwrap_or(0.0)
        };
        let [first_maps, second_maps] = std::mem::take(&mut self.maps);
        let (first_ratio, second_ratio) = rayon::join(
            || add(&mut before[first], first_maps),
            || add(&mut after[0], second_maps),
        );
        if let Some(fit) = &mut self.first_from_second {
            fit.isometry.translation.vector *= (-first_ratio).exp();
            fit.set_scaling(fit.scaling() * (second_ratio - first_ratio).exp());
        }
        for prior in &mut self.pose_priors {
            let ratio = if prior.base == first {
                first_ratio
            } else {
                second_ratio
            };
            prior.seen_from_base.translation.vector *= (-ratio).exp();
        }
    }

    /// The matches as a scene has them, with their weights as confidences.
    pub fn pair_matches(&self) -> PairMatches {
        let pixel = |[x, y]: [f64; 2]| Pixel {
            x: x as u32,
            y: y as u32,
        };
        let matches = self.matches.iter().map(|m| Match {
            first: pixel(m.first),
            second: pixel(m.second),
            confidence: m.weight as f32,
        });
        PairMatches {
            views: [self.pair.first, self.pair.second],
            matches: matches.collect(),
        }
    }

    /// Compares the pair's own maps with what all pairs say of its views.
    pub fn judge(&mut self, depths: &[CanonicalDepth]) {
        let [first, second] = &self.own_depths;
        let agreement = [
            first.agreement(&depths[self.pair.first]),
            second.agreement(&depths[self.pair.second]),
        ];
        self.map_agreement = agreement[0].min(agreement[1]);
        self.is_sound &= self.map_agreement >= LEAST_MAP_AGREEMENT;
    }
}

/// Matches with weights that no few of them dominate.
fn weighted_matches(evidence: &PairEvidence) -> Vec<WeightedMatch> {
    let usable = |confidence: f32| confidence.is_finite() && confidence > 0.0;
    let confidences = evidence
        .matches
        .iter()
        .map(|m| m.confidence)
        .filter(|confidence| usable(*confidence));
    let Some(typical) = median(confidences.map(f64::from)) else {
        return Vec::new();
    };
    let weighted = |m: &crate::matching::Match| {
        let at = |pixel: crate::matching::Pixel| [f64::from(pixel.x), f64::from(pixel.y)];
        let indices = [
            evidence.forward[0].index(at(m.first))?,
            evidence.reverse[0].index(at(m.second))?,
        ];
        let weight = (f64::from(m.confidence) / typical).min(1.0);
        usable(m.confidence).then_some(WeightedMatch {
            first: at(m.first),
            second: at(m.second),
            indices,
            weight,
        })
    };
    evidence.matches.iter().filter_map(weighted).collect()
}

fn to_point(point: [f32; 3]) -> Point3<f64> {
    Point3::from(point.map(f64::from))
}

/// The similarity between two maps of one view, `from` in its own frame.
fn map_similarity(from: &PointMap, to: &PointMap) -> Option<Similarity3<f64>> {
    let pairs: Vec<Correspondence> = sampled(from.points.len(), MOST_CORRESPONDENCES)
        .map(|index| Correspondence {
            from: to_point(from.points[index]),
            to: to_point(to.points[index]),
            weight: f64::from(
                confidence_weight(from.confidence[index]) * confidence_weight(to.confidence[index]),
            )
            .ln_1p(),
        })
        .filter(|pair| {
            let finite = |point: &Point3<f64>| point.iter().all(|value| value.is_finite());
            finite(&pair.from) && finite(&pair.to) && pair.weight.is_finite()
        })
        .collect();
    robust_similarity(&pairs, SIMILARITY_ROUNDS)
}

/// The pose for which the points of `map` project nearest to their own pixels, from a similarity
/// that takes the view's frame to the map's.
fn pose_in_map(
    map_from_view: &Similarity3<f64>,
    map: &PointMap,
    inside: &Intrinsics,
) -> Option<Isometry3<f64>> {
    let observations: Vec<PixelCorrespondence> = sampled(map.points.len(), MOST_OBSERVATIONS)
        .filter(|&index| {
            map.points[index].iter().all(|value| value.is_finite())
                && map.confidence[index].is_finite()
        })
        .map(|index| PixelCorrespondence {
            point: to_point(map.points[index]),
            pixel: map.pixel(index),
            weight: f64::from(map.confidence[index])
                .clamp(1.0, 1e3)
                .ln()
                .max(1e-3),
        })
        .collect();
    let start = Pose {
        camera_from_world: map_from_view.isometry.inverse(),
        focal: inside.fx,
    };
    let threshold = (POSE_THRESHOLD.0 * map.width.max(map.height) as f64).max(POSE_THRESHOLD.1);
    let pose = pnp::refine(
        &observations,
        [inside.cx, inside.cy],
        start,
        false,
        threshold,
    )?;
    Some(pose.camera_from_world)
}

/// The similarity half way between two that are near to one another.
fn middle(one: &Similarity3<f64>, two: &Similarity3<f64>) -> Similarity3<f64> {
    let turn: Vector3<f64> = one
        .isometry
        .rotation
        .rotation_to(&two.isometry.rotation)
        .scaled_axis();
    let rotation = UnitQuaternion::from_scaled_axis(turn / 2.0) * one.isometry.rotation;
    let translation = (one.isometry.translation.vector + two.isometry.translation.vector) / 2.0;
    Similarity3::from_parts(
        Translation3::from(translation),
        rotation,
        (one.scaling() * two.scaling()).sqrt(),
    )
}
