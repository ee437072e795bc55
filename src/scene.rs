//! A reconstructed scene: cameras, point maps, depth and colours in one world frame, and the choice
//! of points to keep.

#[cfg(test)]
pub(crate) mod fixtures;
mod marks;
mod percentile;
mod selection;

use nalgebra::{Isometry3, Point3, Similarity3, Translation3, Vector3};

use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::geometry::{Camera, Geodetic, Lens, PointMap, median};
use crate::matching::{PairMatches, Pixel};
use crate::views::{Crop, Mask, Pixels};

pub use selection::{PointCounts, PointFilter, PointSelection, Thinning};

/// One image of a scene. All per-pixel data is row major at the size that the network saw.
#[derive(Clone, Debug)]
pub struct SceneView {
    /// The image's file name.
    pub name: String,
    /// Where in its file the image lies.
    pub crop: Crop,
    /// The camera at the network's size, in the scene's frame; `None` where the image could not
    /// be placed.
    pub camera: Option<Camera>,
    /// Points in the scene's frame, with their confidence.
    pub points: PointMap,
    /// Depth along z in the view's own camera, in the units of the points; NaN where unknown.
    pub depth: Buffer<f32>,
    /// The image's colours, sRGB.
    pub rgb: Pixels,
    /// Whether another view contradicts a point, by the rule of
    /// [`consistency`](crate::geometry::consistency); `None` where that was not checked.
    pub contradicted: Option<Vec<bool>>,
    /// Number of pixels whose point and depth a mask made unknown.
    pub masked: usize,
}

/// A reconstruction. The world is the first camera's frame, or that of known poses: OpenCV axes (x
/// right, y down, z forward), in the units that the network predicts (metres for the metric
/// checkpoints) or of the known poses.
///
/// Cameras and points are in the scene's frame, whose axes are the world's and whose origin lies at
/// [`Self::origin`] of the world. Points are float32, which cannot hold a scene far from the
/// world's origin, such as one in UTM or ECEF coordinates; relative to an origin nearby it can.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// Origin of the scene's frame in the world: zero unless the scene lies far from the world's
    /// origin, see [`FAR_EXTENTS`].
    pub origin: Vector3<f64>,
    /// Whether the units are metres; otherwise the scale is unknown, or that of given poses.
    pub metric: bool,
    /// The images, in the order given.
    pub views: Vec<SceneView>,
    /// Pixels that show the same points, at the size that the network saw, for the pairs of views
    /// that the cameras were found by. Some may be wrong.
    pub matches: Vec<PairMatches>,
    /// What keypoints of the images' files added, where the module `refine` refined cameras.
    pub refined: Option<Refined>,
    /// Where the world's origin lies on the Earth, if that is known: x is east, y north and z up
    /// then, in metres. See the module
    /// `georeference`.
    pub georeference: Option<Geodetic>,
}

/// Cameras with lens distortion and the points that they were found by.
#[derive(Clone, Debug, Default)]
pub struct Refined {
    /// Of each view that was refined, at the size of its file; [`SceneView::camera`] is the same
    /// without distortion.
    pub lenses: Vec<Option<Lens>>,
    /// Points that two views or more agree on, seen at pixels of the upright files.
    pub tracks: Vec<Track>,
}

/// A point and the pixels that show it.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    /// In the scene's frame.
    pub position: Point3<f64>,
    /// sRGB, the mean of its pixels.
    pub rgb: [u8; 3],
    /// Two at least, by ascending view, one of each view at most.
    pub observations: Vec<Observation>,
}

/// A pixel of a view that shows a track's point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// Index of the view.
    pub view: usize,
    /// Column and row; the centre of the top left pixel is (0, 0).
    pub pixel: [f64; 2],
}

/// A scene has an origin of its own where it lies farther than so many of its extents from the
/// world's origin. Nearer ones lose less than 1.5e-5 of their extent to the rounding of float32: a
/// hundredth of a pixel.
pub const FAR_EXTENTS: f64 = 256.0;

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

impl SceneView {
    /// Checks that the sizes of points, confidence, depth, marks and colours agree and that the
    /// camera is usable.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the view and both sizes.
    pub fn check(&self) -> Result<()> {
        let (width, height) = (self.rgb.width() as usize, self.rgb.height() as usize);
        if (self.points.width, self.points.height) != (width, height) {
            return Err(Error::Usage(format!(
                "{}: the point map is {}x{} and the image {width}x{height}",
                self.name, self.points.width, self.points.height
            )));
        }
        let lengths = [
            ("points", self.points.points.len()),
            ("confidences", self.points.confidence.len()),
            ("depths", self.depth.len()),
            (
                "marks of contradiction",
                self.contradicted.as_ref().map_or(width * height, Vec::len),
            ),
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
        self.camera
            .as_ref()
            .map_or(Ok(()), |camera| check_camera(&self.name, camera))
    }

    /// Lets go of the memory of what is in a temporary file, until it is used again.
    pub(crate) fn release(&self) {
        self.points.points.release();
        self.points.confidence.release();
        self.depth.release();
        self.rgb.as_raw().release();
    }

    /// Every pixel's point and whether another view contradicts it, row by row, not filtered.
    /// Afterwards the view is [released](Self::release).
    fn scene_points(&self) -> impl Iterator<Item = (ScenePoint, bool)> + Clone + '_ {
        let count = self.points.points.len();
        (0..count).map(move |index| {
            let point = self.point(index);
            if index + 1 == count {
                self.release();
            }
            point
        })
    }

    /// The point of the pixel with this index, row by row, and whether another view contradicts it.
    fn point(&self, index: usize) -> (ScenePoint, bool) {
        let position = self.points.points[index];
        let rgb = [0, 1, 2].map(|channel| self.rgb.as_raw()[3 * index + channel]);
        let contradicted = self.contradicted.as_ref().is_some_and(|marks| marks[index]);
        (
            ScenePoint {
                position,
                rgb,
                confidence: self.points.confidence[index],
            },
            contradicted,
        )
    }
}

impl Scene {
    /// Makes points and depth unknown where the views' masks say that pixels do not count; `masks`
    /// are in their order.
    pub(crate) fn leave_out_masked<'a>(
        &mut self,
        masks: impl IntoIterator<Item = Option<&'a Mask>>,
    ) {
        for (view, mask) in self.views.iter_mut().zip(masks) {
            view.masked = 0;
            let masked = mask
                .into_iter()
                .flat_map(Mask::kept)
                .enumerate()
                .filter(|(_, kept)| !**kept);
            for (pixel, _) in masked {
                view.points.points[pixel] = [f32::NAN; 3];
                view.depth[pixel] = f32::NAN;
                view.masked += 1;
            }
            view.release();
        }
    }

    /// Checks every view, see [`SceneView::check`], and that matches are of pixels that there are.
    ///
    /// # Errors
    /// [`Error::Usage`] for the first view or match that is inconsistent.
    pub fn check(&self) -> Result<()> {
        if !self.origin.iter().all(|value| value.is_finite()) {
            return Err(Error::Usage(format!(
                "the scene's origin is not finite: {:?}",
                self.origin.as_slice()
            )));
        }
        self.views.iter().try_for_each(SceneView::check)?;
        self.matches
            .iter()
            .try_for_each(|matches| self.check_matches(matches))
    }

    /// The refined camera of a view with its lens distortion, at the size of the file, if there is
    /// one.
    pub fn lens(&self, view: usize) -> Option<&Lens> {
        self.refined.as_ref()?.lenses.get(view)?.as_ref()
    }

    /// Whether no view has a camera, and so not even one that stands in for it, or a depth.
    pub fn has_no_depths(&self) -> bool {
        let is_unknown = |view: &SceneView| {
            view.camera.is_none() && view.depth.iter().all(|depth| depth.is_nan())
        };
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

    /// Moves the whole scene into another world, whose units are `similarity.scaling()` times
    /// smaller. Its frame is the world's then, without an origin of its own, and where the world
    /// lies on the Earth is forgotten.
    pub fn transform(&mut self, similarity: &Similarity3<f64>) {
        let (origin, scale) = (self.origin, similarity.scaling());
        let moved = |point: Vector3<f64>| similarity * Point3::from(point + origin);
        for view in &mut self.views {
            if let Some(camera) = &mut view.camera {
                let pose = &camera.world_from_camera;
                camera.world_from_camera = Isometry3::from_parts(
                    moved(pose.translation.vector).coords.into(),
                    similarity.isometry.rotation * pose.rotation,
                );
            }
            for point in &mut view.points.points {
                *point = moved(Vector3::from(*point).cast())
                    .coords
                    .cast::<f32>()
                    .into();
            }
            if scale != 1.0 {
                let depths = view.depth.iter_mut();
                depths.for_each(|depth| *depth = (f64::from(*depth) * scale) as f32);
            }
            view.release();
        }
        for track in self
            .refined
            .iter_mut()
            .flat_map(|refined| &mut refined.tracks)
        {
            track.position = moved(track.position.coords);
        }
        self.origin = Vector3::zeros();
        self.georeference = None;
    }

    /// Whether the scene has an origin of its own, so that its points need float64 in the world.
    pub fn is_far(&self) -> bool {
        self.origin != Vector3::zeros()
    }

    /// The median distance from a camera to the one nearest to it; infinite for fewer than two
    /// cameras.
    pub(crate) fn camera_gap(&self) -> f64 {
        let cameras = self.views.iter().filter_map(|view| view.camera.as_ref());
        let centres: Vec<Vector3<f64>> = cameras
            .map(|camera| camera.world_from_camera.translation.vector)
            .collect();
        let nearest = centres.iter().enumerate().map(|(own, centre)| {
            let others = centres
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != own);
            others
                .map(|(_, other)| (other - centre).norm())
                .fold(f64::INFINITY, f64::min)
        });
        median(nearest).unwrap_or(f64::INFINITY)
    }

    fn check_matches(&self, matches: &PairMatches) -> Result<()> {
        let [first, second] = matches.views;
        if first == second || first.max(second) >= self.views.len() {
            let count = self.views.len();
            return Err(Error::Usage(format!(
                "matches of the views {first} and {second} of {count}"
            )));
        }
        let sizes = [first, second].map(|view| self.views[view].rgb.dimensions());
        let outside = |pixel: Pixel, (width, height)| pixel.x >= width || pixel.y >= height;
        match matches
            .matches
            .iter()
            .find(|m| outside(m.first, sizes[0]) || outside(m.second, sizes[1]))
        {
            None => Ok(()),
            Some(m) => Err(Error::Usage(format!(
                "a match of pixel {},{} of {} and pixel {},{} of {}, which have {}x{} and {}x{} pixels",
                m.first.x,
                m.first.y,
                self.views[first].name,
                m.second.x,
                m.second.y,
                self.views[second].name,
                sizes[0].0,
                sizes[0].1,
                sizes[1].0,
                sizes[1].1
            ))),
        }
    }

    /// Every pixel's point and whether another view contradicts it, view by view, row by row, not
    /// filtered.
    fn points(&self) -> impl Iterator<Item = (ScenePoint, bool)> + Clone + '_ {
        self.views.iter().flat_map(SceneView::scene_points)
    }
}

fn check_camera(name: &str, camera: &Camera) -> Result<()> {
    let inside = &camera.intrinsics;
    if !camera
        .world_from_camera
        .to_homogeneous()
        .iter()
        .all(|value| value.is_finite())
    {
        return Err(Error::Usage(format!(
            "{name}: the camera's pose is not finite; leave out a camera not placed"
        )));
    }
    if ![inside.fx, inside.fy]
        .iter()
        .all(|focal| focal.is_finite() && *focal > 0.0)
    {
        return Err(Error::Usage(format!(
            "{name}: focal lengths must be finite and positive, got {} and {}",
            inside.fx, inside.fy
        )));
    }
    if ![inside.cx, inside.cy]
        .iter()
        .all(|centre| centre.is_finite())
        || inside.width == 0
        || inside.height == 0
    {
        return Err(Error::Usage(format!(
            "{name}: a camera of {}x{} pixels with its centre at ({}, {}) is not a valid camera",
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
        let points = (0..width).map(|x| [x as f32, 0.0, 1.0]);
        let mut view = fixtures::view("row.png", [width as u32, 1], None, points);
        view.points.confidence = confidences.to_vec().into();
        let color = |x, _| image::Rgb([x as u8, 0, 255]);
        view.rgb = crate::views::pixels(image::RgbImage::from_fn(width as u32, 1, color));
        view
    }

    pub fn scene(rows: &[&[f32]]) -> Scene {
        Scene {
            views: rows.iter().map(|confidences| row(confidences)).collect(),
            ..Scene::default()
        }
    }

    #[test]
    fn a_view_whose_sizes_disagree_is_refused() {
        let mut short = scene(&[&[1.0, 2.0]]);
        short.views[0].points.confidence = vec![1.0].into();
        assert_eq!(
            short.check().unwrap_err().to_string(),
            "row.png: 1 confidences for 2x1 = 2 pixels"
        );
        let mut unmarked = scene(&[&[1.0, 2.0]]);
        unmarked.views[0].contradicted = Some(vec![true]);
        let message = unmarked.check().unwrap_err().to_string();
        assert_eq!(
            message,
            "row.png: 1 marks of contradiction for 2x1 = 2 pixels"
        );
        let mut wide = scene(&[&[1.0, 2.0]]);
        wide.views[0].points.width = 3;
        assert_eq!(
            wide.check().unwrap_err().to_string(),
            "row.png: the point map is 3x1 and the image 2x1"
        );
    }
}
