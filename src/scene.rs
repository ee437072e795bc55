//! A reconstructed scene: cameras, point maps, depth and colours in one world frame, and the choice of points to keep.

use std::collections::HashMap;

use image::RgbImage;
use nalgebra::{Isometry3, Point3, Translation3, Vector3};

use crate::error::{Error, Result};
use crate::geometry::{Camera, Lens, PointMap, median};
use crate::views::{Crop, Mask};

/// One picture of a scene. All per-pixel data is row major at the size that the network saw.
#[derive(Clone, Debug)]
pub struct SceneView {
    /// The picture's file name.
    pub name: String,
    /// Where in its file the picture lies.
    pub crop: Crop,
    /// The camera at the network's size, in the scene's frame; `None` where the picture could not be placed.
    pub camera: Option<Camera>,
    /// Points in the scene's frame, with their confidence.
    pub points: PointMap,
    /// Depth along z in the view's own camera, in the units of the points; NaN where unknown.
    pub depth: Vec<f32>,
    /// The picture's colours, sRGB.
    pub rgb: RgbImage,
    /// Whether another view contradicts a point, by the rule of [`consistency`](crate::geometry::consistency); `None`
    /// where that was not checked.
    pub contradicted: Option<Vec<bool>>,
    /// Number of pixels whose point and depth a mask made unknown.
    pub masked: usize,
}

/// A reconstruction. The world is the first camera's frame, or that of known poses: OpenCV axes (x right, y down,
/// z forward), in the units that the network predicts (metres for the metric checkpoints) or of the known poses.
///
/// Cameras and points are in the scene's frame, whose axes are the world's and whose origin lies at [`Self::origin`] of
/// the world. Points are float32, which cannot hold a scene far from the world's origin, such as one in UTM or ECEF
/// coordinates; relative to an origin nearby it can.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// Origin of the scene's frame in the world: zero unless the scene lies far from the world's origin, see
    /// [`FAR_EXTENTS`].
    pub origin: Vector3<f64>,
    /// The pictures, in the order given.
    pub views: Vec<SceneView>,
    /// Which of their pixels show the same points, for the pairs of views that the cameras were found by.
    pub matches: Vec<ViewMatches>,
    /// What keypoints of the images' files added, where the module `refine` refined cameras.
    pub refined: Option<Refined>,
}

/// Cameras with lens distortion and the points that they were found by.
#[derive(Clone, Debug, Default)]
pub struct Refined {
    /// Of each view that was refined, at the size of its file; [`SceneView::camera`] is the same without distortion.
    pub lenses: Vec<Option<Lens>>,
    /// Points that two views or more agree on.
    pub tracks: Vec<RefinedTrack>,
}

/// A point and the keypoints that show it.
#[derive(Clone, Debug, PartialEq)]
pub struct RefinedTrack {
    /// In the scene's frame.
    pub position: Point3<f64>,
    /// sRGB, the mean of its pixels.
    pub rgb: [u8; 3],
    /// Two at least, by ascending view, one of each view at most.
    pub sightings: Vec<TrackSighting>,
}

/// A keypoint of a track.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrackSighting {
    /// Index of the view.
    pub view: usize,
    /// Pixels of the upright file; the centre of the top left one is (0, 0).
    pub pixel: [f64; 2],
}

/// A scene has an origin of its own where it lies farther than so many of its extents from the world's origin. Nearer
/// ones lose less than 1.5e-5 of their extent to the rounding of float32: a hundredth of a pixel.
pub const FAR_EXTENTS: f64 = 256.0;

/// Pixels of two views of a scene that show the same points, as the descriptors have it: some may be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewMatches {
    /// Indices of two different views.
    pub views: [usize; 2],
    /// A pixel `[x, y]` of the first view and one of the second, at the size that the network saw.
    pub pixels: Vec<[[u32; 2]; 2]>,
}

/// One coloured point of a scene.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScenePoint {
    /// Coordinates in the scene's frame; [`Scene::in_world`] gives those in the world.
    pub position: [f32; 3],
    /// sRGB.
    pub rgb: [u8; 3],
    /// The network's confidence, 1 at least.
    pub confidence: f32,
}

/// Which points of a scene are worth keeping.
///
/// Points whose position or confidence is not finite never are, nor are those marked in [`SceneView::contradicted`]. Of
/// the others a point stays if it meets every rule that is set. Neither marks nor rules see each other, so their order
/// does not matter, and a percentage means the same points whether contradictions were sought or not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PointFilter {
    /// Keep points of at least this confidence.
    pub min_confidence: Option<f32>,
    /// Keep the most confident P percent, 0 < P <= 100, of all finite points of all views together, contradicted ones
    /// included: their number is rounded, one at least, and points that tie with the last one stay too.
    pub keep_percentile: Option<f32>,
    /// Which of the points that stay are left out because there are too many.
    pub thinning: Thinning,
}

/// A choice among points that are all worth keeping: for a cloud of them, not for what is measured in single pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thinning {
    /// Keep the most confident point of each cube with sides of this length, in units of the scene; of equal ones the
    /// first. The cubes' corners are at multiples of it in the world.
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
    /// Whether each point survived the thinning, in the order of [`Scene::points`], if there was one.
    thinned: Option<Vec<bool>>,
    counts: PointCounts,
}

impl SceneView {
    /// Checks that the sizes of points, confidence, depth, marks and colours agree and that the camera is usable.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the view and both sizes.
    pub fn check(&self) -> Result<()> {
        let (width, height) = (self.rgb.width() as usize, self.rgb.height() as usize);
        if (self.points.width, self.points.height) != (width, height) {
            return Err(Error::Usage(format!(
                "{}: the point map is {}x{} and the picture {width}x{height}",
                self.name, self.points.width, self.points.height
            )));
        }
        let lengths = [
            ("points", self.points.points.len()),
            ("confidences", self.points.confidence.len()),
            ("depths", self.depth.len()),
            ("marks of contradiction", self.contradicted.as_ref().map_or(width * height, Vec::len)),
        ];
        for (what, length) in lengths {
            if length != width * height {
                return Err(Error::Usage(format!(
                    "{}: {length} {what} for {width}x{height} = {} pixels",
                    self.name,
                    width * height
                )));
            }
        }
        self.camera.as_ref().map_or(Ok(()), |camera| check_camera(&self.name, camera))
    }

    /// Every pixel's point and whether another view contradicts it, row by row, not filtered.
    fn scene_points(&self) -> impl Iterator<Item = (ScenePoint, bool)> + '_ {
        (0..self.points.points.len()).map(|index| self.point(index))
    }

    /// The point of the pixel with this index, row by row, and whether another view contradicts it.
    fn point(&self, index: usize) -> (ScenePoint, bool) {
        let position = self.points.points[index];
        let rgb = [0, 1, 2].map(|channel| self.rgb.as_raw()[3 * index + channel]);
        let contradicted = self.contradicted.as_ref().is_some_and(|marks| marks[index]);
        (ScenePoint { position, rgb, confidence: self.points.confidence[index] }, contradicted)
    }
}

impl Scene {
    /// Makes points and depth unknown where the views' masks say that pixels do not count; `masks` are in their order.
    pub(crate) fn leave_out_masked<'a>(&mut self, masks: impl IntoIterator<Item = Option<&'a Mask>>) {
        for (view, mask) in self.views.iter_mut().zip(masks) {
            view.masked = 0;
            let masked = mask.into_iter().flat_map(Mask::kept).enumerate().filter(|(_, kept)| !**kept);
            for (pixel, _) in masked {
                view.points.points[pixel] = [f32::NAN; 3];
                view.depth[pixel] = f32::NAN;
                view.masked += 1;
            }
        }
    }

    /// Checks every view, see [`SceneView::check`], and that matches are of pixels that there are.
    ///
    /// # Errors
    /// [`Error::Usage`] for the first view or match that is inconsistent.
    pub fn check(&self) -> Result<()> {
        if !self.origin.iter().all(|value| value.is_finite()) {
            return Err(Error::Usage(format!("the scene's origin is not finite: {:?}", self.origin.as_slice())));
        }
        self.views.iter().try_for_each(SceneView::check)?;
        self.matches.iter().try_for_each(|matches| self.check_matches(matches))
    }

    /// The refined camera of a view with its lens distortion, at the size of the file, if there is one.
    pub fn lens(&self, view: usize) -> Option<&Lens> {
        self.refined.as_ref()?.lenses.get(view)?.as_ref()
    }

    /// Whether no view has a camera, and so not even one that stands in for it, or a depth.
    pub fn has_no_depths(&self) -> bool {
        let is_unknown = |view: &SceneView| view.camera.is_none() && view.depth.iter().all(|depth| depth.is_nan());
        self.views.iter().all(is_unknown)
    }

    /// World coordinates of a point of the scene's frame.
    pub fn in_world(&self, position: [f32; 3]) -> [f64; 3] {
        std::array::from_fn(|axis| f64::from(position[axis]) + self.origin[axis])
    }

    /// The pose in the world of a camera of the scene's frame.
    pub fn world_from_camera(&self, camera: &Camera) -> Isometry3<f64> {
        Translation3::from(self.origin) * camera.world_from_camera
    }

    /// Whether the scene has an origin of its own, so that its points need float64 in the world.
    pub fn is_far(&self) -> bool {
        self.origin != Vector3::zeros()
    }

    /// The median distance from a camera to the one nearest to it; infinite for fewer than two cameras.
    pub(crate) fn camera_gap(&self) -> f64 {
        let cameras = self.views.iter().filter_map(|view| view.camera.as_ref());
        let centres: Vec<Vector3<f64>> = cameras.map(|camera| camera.world_from_camera.translation.vector).collect();
        let nearest = centres.iter().enumerate().map(|(own, centre)| {
            let others = centres.iter().enumerate().filter(|(other, _)| *other != own);
            others.map(|(_, other)| (other - centre).norm()).fold(f64::INFINITY, f64::min)
        });
        median(nearest).unwrap_or(f64::INFINITY)
    }

    fn check_matches(&self, matches: &ViewMatches) -> Result<()> {
        let [first, second] = matches.views;
        if first == second || first.max(second) >= self.views.len() {
            let count = self.views.len();
            return Err(Error::Usage(format!("matches of the views {first} and {second} of {count}")));
        }
        let sizes = [first, second].map(|view| self.views[view].rgb.dimensions());
        let outside = |([x, y], (width, height)): ([u32; 2], (u32, u32))| x >= width || y >= height;
        match matches.pixels.iter().find(|[a, b]| outside((*a, sizes[0])) || outside((*b, sizes[1]))) {
            None => Ok(()),
            Some([a, b]) => Err(Error::Usage(format!(
                "a match of pixel {a:?} of {} and pixel {b:?} of {}, which have {}x{} and {}x{} pixels",
                self.views[first].name, self.views[second].name, sizes[0].0, sizes[0].1, sizes[1].0, sizes[1].1
            ))),
        }
    }

    /// Chooses the points that `filter` keeps.
    ///
    /// # Errors
    /// [`Error::Usage`] if the filter is out of range, a view is inconsistent or nothing is left;
    /// [`Error::NotFinite`] if not a single point is finite.
    pub fn select(&self, filter: &PointFilter) -> Result<PointSelection<'_>> {
        filter.check()?;
        self.check()?;
        let mut counts =
            PointCounts { masked: self.views.iter().map(|view| view.masked).sum(), ..PointCounts::default() };
        // Of all finite points, and of those that no view contradicts.
        let (mut finite, mut sound) = (Vec::new(), Vec::new());
        for (point, contradicted) in self.points() {
            counts.total += 1;
            if !is_finite(&point) {
                counts.not_finite += 1;
                continue;
            }
            finite.push(point.confidence);
            if !contradicted {
                sound.push(point.confidence);
            }
        }
        counts.not_finite = counts.not_finite.saturating_sub(counts.masked);
        counts.contradicted = finite.len() - sound.len();
        if counts.total == 0 {
            return Err(Error::Usage("the scene has no points to write".into()));
        }
        if finite.is_empty() && self.has_no_depths() {
            return Err(Error::NoCameras { what: "a point cloud".into(), reason: "no image has one".into() });
        }
        if counts.masked == counts.total {
            return Err(Error::Usage(format!("the masks leave none of {} points", counts.total)));
        }
        if finite.is_empty() {
            return Err(Error::NotFinite {
                what: "the scene's points".into(),
                count: counts.not_finite,
                total: counts.total,
                hint: "the weights are probably damaged or of another network".into(),
            });
        }
        if sound.is_empty() {
            return Err(Error::Usage(format!(
                "other views contradict all of {} points; allow a larger reprojection error",
                finite.len()
            )));
        }

        let largest = sound.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let floor = filter.min_confidence.unwrap_or(f32::NEG_INFINITY);
        if largest < floor {
            return Err(Error::Usage(format!(
                "a minimum confidence of {floor} keeps none of {} points: the most confident one has {largest:.3}; \
                 lower the minimum",
                sound.len()
            )));
        }
        let percentile = match filter.keep_percentile {
            Some(percent) => least_of_most_confident(&mut finite, percent),
            None => f32::NEG_INFINITY,
        };
        if largest < percentile {
            return Err(Error::Usage(format!(
                "other views contradict all of the most confident {} percent of {} points; keep more of them",
                filter.keep_percentile.unwrap_or(100.0),
                finite.len()
            )));
        }
        for confidence in sound {
            match confidence {
                below if below < floor => counts.below_min_confidence += 1,
                below if below < percentile => counts.below_percentile += 1,
                _ => counts.kept += 1,
            }
        }
        let lowest_confidence = floor.max(percentile);
        let mut selection = PointSelection { scene: self, lowest_confidence, thinned: None, counts };
        if filter.thinning != Thinning::default() {
            selection.thin(filter.thinning);
        }
        Ok(selection)
    }

    /// Every pixel's point and whether another view contradicts it, view by view, row by row, not filtered.
    fn points(&self) -> impl Iterator<Item = (ScenePoint, bool)> + '_ {
        self.views.iter().flat_map(SceneView::scene_points)
    }
}

impl PointFilter {
    /// Checks the rules themselves.
    ///
    /// # Errors
    /// [`Error::Usage`] for a minimum that is no number or a percentage outside (0, 100].
    pub fn check(&self) -> Result<()> {
        if let Some(floor) = self.min_confidence
            && !floor.is_finite()
        {
            return Err(Error::Usage(format!("the minimum confidence must be a finite number, got {floor}")));
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
            return Err(Error::Usage(format!("the side of a voxel must be a finite number above 0, got {side}")));
        }
        if self.thinning.most == Some(0) {
            return Err(Error::Usage("the most points to keep must be at least 1, got 0".into()));
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
            let mask = view.scene_points().zip(start..).map(|(point, at)| self.is_kept(at, point)).collect();
            start += view.points.points.len();
            (view, mask)
        })
    }

    /// Whether the point of the pixel with this index, row by row, meets the rules, thinned out or not.
    pub(crate) fn keeps_pixel(&self, view: usize, index: usize) -> bool {
        self.meets_rules(&self.scene.views[view].point(index))
    }

    /// The points kept, view by view, row by row; [`PointCounts::kept`] of them.
    pub fn iter(&self) -> impl Iterator<Item = ScenePoint> + '_ {
        self.scene.points().enumerate().filter(|&(at, point)| self.is_kept(at, point)).map(|(_, (point, _))| point)
    }

    /// Whether the point at this place of [`Scene::points`] is kept, which another view contradicts or not.
    fn is_kept(&self, at: usize, point: (ScenePoint, bool)) -> bool {
        self.meets_rules(&point) && self.thinned.as_ref().is_none_or(|kept| kept[at])
    }

    fn meets_rules(&self, (point, contradicted): &(ScenePoint, bool)) -> bool {
        !contradicted && point.confidence >= self.lowest_confidence && is_finite(point)
    }

    /// Leaves out what is too much.
    fn thin(&mut self, thinning: Thinning) {
        let mut kept: Vec<bool> = self.scene.points().enumerate().map(|(at, point)| self.is_kept(at, point)).collect();
        if let Some(side) = thinning.voxel {
            let mut best: HashMap<[i64; 3], (f32, usize)> = HashMap::new();
            for (at, (point, _)) in self.scene.points().enumerate().filter(|(at, _)| kept[*at]) {
                let cube = self.scene.in_world(point.position).map(|value| (value / side).floor() as i64);
                let most = best.entry(cube).or_insert((point.confidence, at));
                if point.confidence > most.0 {
                    *most = (point.confidence, at);
                }
            }
            kept.fill(false);
            best.into_values().for_each(|(_, at)| kept[at] = true);
        }
        let count = kept.iter().filter(|kept| **kept).count();
        if let Some(most) = thinning.most.filter(|most| *most < count) {
            // The k-th stays where k * most / count reaches the next whole number: so many in all, evenly spread.
            let share = |number: usize| number as u128 * most as u128 / count as u128;
            for (number, kept) in kept.iter_mut().filter(|kept| **kept).enumerate() {
                *kept = share(number + 1) > share(number);
            }
        }
        let left = kept.iter().filter(|kept| **kept).count();
        self.counts.thinned = self.counts.kept - left;
        self.counts.kept = left;
        self.thinned = Some(kept);
    }
}

fn is_finite(point: &ScenePoint) -> bool {
    point.confidence.is_finite() && point.position.iter().all(|value| value.is_finite())
}

/// The smallest confidence among the most confident `percent` of `confidences` (not empty); reorders them.
fn least_of_most_confident(confidences: &mut [f32], percent: f32) -> f32 {
    let total = confidences.len();
    let wanted = (f64::from(percent) * total as f64 / 100.0).round() as usize;
    let wanted = wanted.clamp(1, total);
    *confidences.select_nth_unstable_by(total - wanted, f32::total_cmp).1
}

fn check_camera(name: &str, camera: &Camera) -> Result<()> {
    let inside = &camera.intrinsics;
    if !camera.world_from_camera.to_homogeneous().iter().all(|value| value.is_finite()) {
        return Err(Error::Usage(format!("{name}: the camera's pose is not finite; leave out a camera not placed")));
    }
    if ![inside.fx, inside.fy].iter().all(|focal| focal.is_finite() && *focal > 0.0) {
        return Err(Error::Usage(format!(
            "{name}: focal lengths must be finite and positive, got {} and {}",
            inside.fx, inside.fy
        )));
    }
    if ![inside.cx, inside.cy].iter().all(|centre| centre.is_finite()) || inside.width == 0 || inside.height == 0 {
        return Err(Error::Usage(format!(
            "{name}: a camera of {}x{} pixels with its centre at ({}, {}) is no camera",
            inside.width, inside.height, inside.cx, inside.cy
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row of pixels with the given confidences, x counting up.
    fn row(confidences: &[f32]) -> SceneView {
        let width = confidences.len();
        let points = (0..width).map(|x| [x as f32, 0.0, 1.0]).collect();
        let side = width as u32;
        SceneView {
            name: "row.png".into(),
            crop: Crop {
                file_width: side,
                file_height: 1,
                resized_width: side,
                resized_height: 1,
                left: 0,
                top: 0,
                width: side,
                height: 1,
            },
            camera: None,
            points: PointMap { width, height: 1, points, confidence: confidences.to_vec() },
            depth: vec![1.0; width],
            rgb: RgbImage::from_fn(side, 1, |x, _| image::Rgb([x as u8, 0, 255])),
            contradicted: None,
            masked: 0,
        }
    }

    fn scene(rows: &[&[f32]]) -> Scene {
        Scene { views: rows.iter().map(|confidences| row(confidences)).collect(), ..Scene::default() }
    }

    fn kept(scene: &Scene, filter: PointFilter) -> Vec<f32> {
        let selection = scene.select(&filter).unwrap();
        let kept: Vec<f32> = selection.iter().map(|point| point.confidence).collect();
        let counts = selection.counts();
        assert_eq!(counts.kept, kept.len());
        let views = selection.masks().flat_map(|(view, mask)| {
            assert_eq!(mask.len(), view.points.confidence.len());
            view.points.confidence.iter().copied().zip(mask).filter(|(_, kept)| *kept).map(|(confidence, _)| confidence)
        });
        assert_eq!(views.collect::<Vec<f32>>(), kept, "by the masks");
        let rules = counts.below_min_confidence + counts.below_percentile;
        let dropped = counts.masked + counts.not_finite + counts.contradicted + rules + counts.thinned;
        assert_eq!(counts.total, counts.kept + dropped);
        kept
    }

    #[test]
    fn no_rule_keeps_every_finite_point_with_its_colour() {
        let mut scene = scene(&[&[1.0, 2.0, f32::NAN], &[f32::INFINITY, 3.0]]);
        scene.views[0].points.points[0][1] = f32::INFINITY;
        let selection = scene.select(&PointFilter::default()).unwrap();
        let points: Vec<ScenePoint> = selection.iter().collect();
        assert_eq!(
            points,
            [
                ScenePoint { position: [1.0, 0.0, 1.0], rgb: [1, 0, 255], confidence: 2.0 },
                ScenePoint { position: [1.0, 0.0, 1.0], rgb: [1, 0, 255], confidence: 3.0 },
            ]
        );
        assert_eq!(selection.counts(), PointCounts { total: 5, not_finite: 3, kept: 2, ..PointCounts::default() });
    }

    #[test]
    fn the_minimum_is_inclusive() {
        let scene = scene(&[&[1.0, 2.0, 3.0]]);
        assert_eq!(kept(&scene, PointFilter { min_confidence: Some(2.0), ..PointFilter::default() }), [2.0, 3.0]);
    }

    #[test]
    fn the_percentile_counts_over_all_views_together_and_keeps_ties() {
        let scene = scene(&[&[1.0, 5.0, 2.0, f32::NAN], &[6.0, 7.0, 8.0], &[5.0, 1.5]]);
        let percent = |percent| PointFilter { keep_percentile: Some(percent), ..PointFilter::default() };
        assert_eq!(kept(&scene, percent(25.0)), [7.0, 8.0]);
        assert_eq!(kept(&scene, percent(50.0)), [5.0, 6.0, 7.0, 8.0, 5.0]);
        assert_eq!(kept(&scene, percent(0.001)), [8.0]);
        assert_eq!(kept(&scene, percent(100.0)).len(), 8);
    }

    #[test]
    fn both_rules_apply_and_each_point_counts_once() {
        let scene = scene(&[&[1.0, 2.0, 3.0, 4.0, f32::NAN]]);
        let filter = PointFilter { min_confidence: Some(2.0), keep_percentile: Some(50.0), ..PointFilter::default() };
        assert_eq!(kept(&scene, filter), [3.0, 4.0]);
        let counts = scene.select(&filter).unwrap().counts();
        assert_eq!(
            counts,
            PointCounts {
                total: 5,
                not_finite: 1,
                below_min_confidence: 1,
                below_percentile: 1,
                kept: 2,
                ..PointCounts::default()
            }
        );
    }

    #[test]
    fn contradicted_points_go_first_and_do_not_move_the_percentile() {
        let mut scene = scene(&[&[1.0, 2.0, 3.0, 4.0, f32::NAN], &[5.0]]);
        scene.views[0].contradicted = Some(vec![true, false, false, true, true]);
        assert_eq!(kept(&scene, PointFilter::default()), [2.0, 3.0, 5.0]);
        let filter = PointFilter { min_confidence: Some(1.5), keep_percentile: Some(60.0), ..PointFilter::default() };
        assert_eq!(kept(&scene, filter), [3.0, 5.0]);
        let counts = scene.select(&filter).unwrap().counts();
        let expected = PointCounts {
            total: 6,
            masked: 0,
            not_finite: 1,
            contradicted: 2,
            below_min_confidence: 0,
            below_percentile: 1,
            thinned: 0,
            kept: 2,
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn one_point_a_voxel_stays_the_most_confident() {
        // Two views with points at x = 0, 1, 2, ...: three to a cube of side 3 in each.
        let scene = scene(&[&[1.0, 5.0, 5.0, 2.0, 2.5, f32::NAN], &[6.0, 7.0, 1.0, 2.0]]);
        let thinned = |thinning| PointFilter { thinning, ..PointFilter::default() };
        assert_eq!(kept(&scene, thinned(Thinning { voxel: Some(3.0), most: None })), [2.5, 7.0]);
        assert_eq!(kept(&scene, thinned(Thinning { voxel: Some(0.5), most: None })).len(), 5);
        let confident = PointFilter { min_confidence: Some(2.0), ..thinned(Thinning { voxel: Some(9.0), most: None }) };
        assert_eq!(kept(&scene, confident), [7.0]);
        let counts = scene.select(&confident).unwrap().counts();
        assert_eq!((counts.below_min_confidence, counts.thinned, counts.kept), (2, 6, 1));
    }

    #[test]
    fn of_too_many_points_an_even_choice_stays() {
        let scene = scene(&[&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]]);
        let most =
            |most| PointFilter { thinning: Thinning { voxel: None, most: Some(most) }, ..PointFilter::default() };
        assert_eq!(kept(&scene, most(4)), [2.0, 4.0, 6.0, 8.0]);
        assert_eq!(kept(&scene, most(3)), [3.0, 6.0, 8.0]);
        assert_eq!(kept(&scene, most(1)), [8.0]);
        assert_eq!(kept(&scene, most(8)).len(), 8);
        let both = Thinning { voxel: Some(2.0), most: Some(1) };
        assert_eq!(kept(&scene, PointFilter { thinning: both, ..PointFilter::default() }), [8.0]);
    }

    #[test]
    fn an_empty_choice_says_what_to_change() {
        let message = |scene: &Scene, filter| scene.select(&filter).unwrap_err().to_string();
        let filter = PointFilter { min_confidence: Some(50.0), ..PointFilter::default() };
        assert_eq!(
            message(&scene(&[&[1.0, 12.25]]), filter),
            "a minimum confidence of 50 keeps none of 2 points: the most confident one has 12.250; lower the minimum"
        );
        assert_eq!(message(&Scene::default(), PointFilter::default()), "the scene has no points to write");
        let error = scene(&[&[f32::NAN, f32::NAN]]).select(&PointFilter::default()).unwrap_err();
        assert!(matches!(error, Error::NotFinite { count: 2, total: 2, .. }), "{error}");

        let mut marked = scene(&[&[1.0, 12.25]]);
        marked.views[0].contradicted = Some(vec![false, true]);
        assert_eq!(
            message(&marked, PointFilter { min_confidence: Some(2.0), ..PointFilter::default() }),
            "a minimum confidence of 2 keeps none of 1 points: the most confident one has 1.000; lower the minimum"
        );
        assert_eq!(
            message(&marked, PointFilter { keep_percentile: Some(50.0), ..PointFilter::default() }),
            "other views contradict all of the most confident 50 percent of 2 points; keep more of them"
        );
        marked.views[0].contradicted = Some(vec![true, true]);
        assert_eq!(
            message(&marked, PointFilter::default()),
            "other views contradict all of 2 points; allow a larger reprojection error"
        );
    }

    #[test]
    fn a_filter_out_of_range_is_refused() {
        let scene = scene(&[&[1.0]]);
        for percent in [0.0, -1.0, 100.5, f32::NAN] {
            let filter = PointFilter { keep_percentile: Some(percent), ..PointFilter::default() };
            assert!(matches!(scene.select(&filter), Err(Error::Usage(_))), "{percent}");
        }
        let filter = PointFilter { min_confidence: Some(f32::NAN), ..PointFilter::default() };
        assert!(matches!(scene.select(&filter), Err(Error::Usage(_))));
        for (voxel, most) in [(Some(0.0), None), (Some(f64::INFINITY), None), (None, Some(0))] {
            let filter = PointFilter { thinning: Thinning { voxel, most }, ..PointFilter::default() };
            assert!(matches!(scene.select(&filter), Err(Error::Usage(_))), "{voxel:?} {most:?}");
        }
    }

    #[test]
    fn a_view_whose_sizes_disagree_is_refused() {
        let mut short = scene(&[&[1.0, 2.0]]);
        short.views[0].points.confidence.pop();
        assert_eq!(short.check().unwrap_err().to_string(), "row.png: 1 confidences for 2x1 = 2 pixels");
        let mut unmarked = scene(&[&[1.0, 2.0]]);
        unmarked.views[0].contradicted = Some(vec![true]);
        let message = unmarked.check().unwrap_err().to_string();
        assert_eq!(message, "row.png: 1 marks of contradiction for 2x1 = 2 pixels");
        let mut wide = scene(&[&[1.0, 2.0]]);
        wide.views[0].points.width = 3;
        assert_eq!(wide.check().unwrap_err().to_string(), "row.png: the point map is 3x1 and the picture 2x1");
    }
}
