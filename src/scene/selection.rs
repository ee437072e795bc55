//! Which points of a scene a cloud of it shows.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use super::marks::Marks;
use super::percentile::least_of_most_confident;
use super::{Scene, ScenePoint, SceneView};
use crate::error::{Error, Result};

/// Which points of a scene are worth keeping.
///
/// Points whose position or confidence is not finite never are, nor are those marked in
/// [`SceneView::contradicted`]. Of the others a point stays if it meets every rule that is set.
/// Neither marks nor rules see each other, so their order does not matter, and a percentage means
/// the same points whether contradictions were sought or not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PointFilter {
    /// Keep points of at least this confidence.
    pub min_confidence: Option<f32>,
    /// Keep the most confident P percent, 0 < P <= 100, of all finite points of all views together,
    /// contradicted ones included: their number is rounded, one at least, and points that tie with
    /// the last one stay too.
    pub keep_percentile: Option<f32>,
    /// Which of the points that stay are left out because there are too many.
    pub thinning: Thinning,
}

/// A choice among points that are all worth keeping: for a cloud of them, not for what is measured
/// in single pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thinning {
    /// Keep the most confident point of each cube with sides of this length, in units of the scene;
    /// of equal ones the first. The cubes' corners are at multiples of it in the world.
    pub voxel: Option<f64>,
    /// Keep so many points at most, spread evenly over the rows of all views.
    pub most: Option<usize>,
}

/// What a [`PointFilter`] did. Every point counts once, under the first line that applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PointCounts {
    /// Points in the scene.
    pub total: usize,
    /// Dropped: a mask leaves the pixel out, see [`SceneView::masked`].
    pub masked: usize,
    /// Dropped: the position or the confidence is NaN or infinite.
    pub not_finite: usize,
    /// Dropped: another view contradicts the point, see [`SceneView::contradicted`].
    pub contradicted: usize,
    /// Dropped by [`PointFilter::min_confidence`].
    pub below_min_confidence: usize,
    /// Dropped by [`PointFilter::keep_percentile`].
    pub below_percentile: usize,
    /// Dropped by [`PointFilter::thinning`].
    pub thinned: usize,
    /// Points that stay.
    pub kept: usize,
}

/// The points of a scene that a [`PointFilter`] keeps; never empty.
#[derive(Clone, Debug)]
pub struct PointSelection<'a> {
    scene: &'a Scene,
    lowest_confidence: f32,
    /// Whether each point survived the thinning, in the order of [`Scene::points`], if there was
    /// one.
    thinned: Option<Marks>,
    counts: PointCounts,
}

impl Scene {
    /// Chooses the points that `filter` keeps.
    ///
    /// # Errors
    /// [`Error::Usage`] if the filter is out of range, a view is inconsistent or nothing is left;
    /// [`Error::NotFinite`] if not a single point is finite.
    pub fn select(&self, filter: &PointFilter) -> Result<PointSelection<'_>> {
        filter.check()?;
        self.check()?;
        let mut counts = PointCounts {
            masked: self.views.iter().map(|view| view.masked).sum(),
            ..PointCounts::default()
        };
        // Of all finite points, and of those that no view contradicts.
        let (mut finite, mut sound) = (0, 0);
        let mut largest = f32::NEG_INFINITY;
        for (point, contradicted) in self.points() {
            counts.total += 1;
            if !is_finite(&point) {
                counts.not_finite += 1;
                continue;
            }
            finite += 1;
            if !contradicted {
                sound += 1;
                largest = largest.max(point.confidence);
            }
        }
        counts.not_finite = counts.not_finite.saturating_sub(counts.masked);
        counts.contradicted = finite - sound;
        if counts.total == 0 {
            return Err(Error::Usage("the scene has no points to write".into()));
        }
        if counts.masked == counts.total {
            return Err(Error::Usage(format!(
                "the masks leave none of {} points; make white in them what is to be kept",
                counts.total
            )));
        }
        if finite == 0 && self.has_no_depths() {
            return Err(Error::NoCameras {
                what: "a point cloud".into(),
                reason: "no image has one".into(),
            });
        }
        if finite == 0 {
            return Err(Error::NotFinite {
                what: "the scene's points".into(),
                count: counts.not_finite,
                total: counts.total,
                hint: "the weights are probably damaged or of another network".into(),
            });
        }
        if sound == 0 {
            return Err(Error::Usage(format!(
                "other views contradict all of {finite} points; allow a larger reprojection error"
            )));
        }

        let floor = filter.min_confidence.unwrap_or(f32::NEG_INFINITY);
        if largest < floor {
            return Err(Error::Usage(format!(
                "a minimum confidence of {floor} keeps none of {sound} points: the most confident one has {largest:.3}; \
                 lower the minimum"
            )));
        }
        let percentile = match filter.keep_percentile {
            Some(percent) => {
                let points = self.points().filter(|(point, _)| is_finite(point));
                least_of_most_confident(
                    || points.clone().map(|(point, _)| point.confidence),
                    finite,
                    percent,
                )
            }
            None => f32::NEG_INFINITY,
        };
        if largest < percentile {
            return Err(Error::Usage(format!(
                "other views contradict all of the most confident {} percent of {finite} points; keep more of them",
                filter.keep_percentile.unwrap_or(100.0)
            )));
        }
        counts.kept = sound;
        if floor.max(percentile) > f32::NEG_INFINITY {
            for (point, contradicted) in self.points() {
                if contradicted || !is_finite(&point) {
                    continue;
                }
                match point.confidence {
                    below if below < floor => counts.below_min_confidence += 1,
                    below if below < percentile => counts.below_percentile += 1,
                    _ => {}
                }
            }
            counts.kept -= counts.below_min_confidence + counts.below_percentile;
        }
        let lowest_confidence = floor.max(percentile);
        let mut selection = PointSelection {
            scene: self,
            lowest_confidence,
            thinned: None,
            counts,
        };
        if filter.thinning != Thinning::default() {
            selection.thin(filter.thinning);
        }
        Ok(selection)
    }
}

impl PointFilter {
    /// Checks the rules themselves.
    ///
    /// # Errors
    /// [`Error::Usage`] for a minimum that is not a number or a percentage outside (0, 100].
    pub fn check(&self) -> Result<()> {
        if let Some(floor) = self.min_confidence
            && !floor.is_finite()
        {
            return Err(Error::Usage(format!(
                "the minimum confidence must be a finite number, got {floor}"
            )));
        }
        if let Some(percent) = self.keep_percentile
            && !(percent > 0.0 && percent <= 100.0)
        {
            return Err(Error::Usage(format!(
                "the percentage of points to keep must be above 0 and at most 100, got {percent}"
            )));
        }
        if let Some(side) = self.thinning.voxel
            && !(side.is_finite() && side > 0.0)
        {
            return Err(Error::Usage(format!(
                "the side of a voxel must be a finite number above 0, got {side}"
            )));
        }
        if self.thinning.most == Some(0) {
            return Err(Error::Usage(
                "the most points to keep must be at least 1, got 0".into(),
            ));
        }
        Ok(())
    }
}

impl<'a> PointSelection<'a> {
    /// The scene that the points are of.
    pub fn scene(&self) -> &'a Scene {
        self.scene
    }

    /// What was kept and what was dropped.
    pub fn counts(&self) -> PointCounts {
        self.counts
    }

    /// Each view with a mark for every pixel, row major, whose point is kept.
    pub fn masks(&self) -> impl Iterator<Item = (&'a SceneView, Vec<bool>)> + '_ {
        let mut start = 0;
        self.scene.views.iter().map(move |view| {
            let mask = view
                .scene_points()
                .zip(start..)
                .map(|(point, at)| self.is_kept(at, point))
                .collect();
            start += view.points.points.len();
            (view, mask)
        })
    }

    /// Whether the point of the pixel with this index, row by row, meets the rules, thinned out or
    /// not.
    pub(crate) fn keeps_pixel(&self, view: usize, index: usize) -> bool {
        self.meets_rules(&self.scene.views[view].point(index))
    }

    /// The points kept, view by view, row by row; [`PointCounts::kept`] of them.
    pub fn iter(&self) -> impl Iterator<Item = ScenePoint> + '_ {
        self.scene
            .points()
            .enumerate()
            .filter(|&(at, point)| self.is_kept(at, point))
            .map(|(_, (point, _))| point)
    }

    /// The same points with the indices of their views and, row by row, of their pixels.
    pub fn located(&self) -> impl Iterator<Item = (usize, usize, ScenePoint)> + '_ {
        let of_views = self
            .scene
            .views
            .iter()
            .enumerate()
            .flat_map(|(index, view)| {
                let points = view.scene_points().enumerate();
                points.map(move |(pixel, point)| (index, pixel, point))
            });
        of_views
            .enumerate()
            .filter(|(at, (_, _, point))| self.is_kept(*at, *point))
            .map(|(_, (view, pixel, (point, _)))| (view, pixel, point))
    }

    /// Whether the point at this place of [`Scene::points`] is kept, which another view contradicts
    /// or not.
    fn is_kept(&self, at: usize, point: (ScenePoint, bool)) -> bool {
        self.meets_rules(&point) && self.thinned.as_ref().is_none_or(|kept| kept.has(at))
    }

    fn meets_rules(&self, (point, contradicted): &(ScenePoint, bool)) -> bool {
        !contradicted && point.confidence >= self.lowest_confidence && is_finite(point)
    }

    /// Leaves out what is too much.
    fn thin(&mut self, thinning: Thinning) {
        let total = self.counts.total;
        let met = self.scene.points().enumerate();
        let met = met.filter(|(_, point)| self.meets_rules(point));
        let mut kept = match thinning.voxel {
            None => Marks::new(total, met.map(|(at, _)| at)),
            Some(side) => {
                let mut best: HashMap<[i64; 3], (f32, usize)> = HashMap::new();
                for (at, (point, _)) in met {
                    let position = self.scene.in_world(point.position);
                    let cube = position.map(|value| (value / side).floor() as i64);
                    let most = best.entry(cube).or_insert((point.confidence, at));
                    if point.confidence > most.0 {
                        *most = (point.confidence, at);
                    }
                }
                Marks::new(total, best.into_values().map(|(_, at)| at))
            }
        };
        let count = kept.count();
        if let Some(most) = thinning.most.filter(|most| *most < count) {
            // The k-th stays where k * most / count reaches the next whole number: so many in all,
            // evenly spread.
            let share = |number: usize| number as u128 * most as u128 / count as u128;
            let stays = |(number, _): &(usize, usize)| share(number + 1) > share(*number);
            let chosen = kept.iter().enumerate().filter(stays);
            kept = Marks::new(total, chosen.map(|(_, at)| at));
        }
        let left = kept.count();
        self.counts.thinned = self.counts.kept - left;
        self.counts.kept = left;
        self.thinned = Some(kept);
    }
}

fn is_finite(point: &ScenePoint) -> bool {
    point.confidence.is_finite() && point.position.iter().all(|value| value.is_finite())
}
