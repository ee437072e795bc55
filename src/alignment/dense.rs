//! Scenes from solved views.

use nalgebra::Vector3;

use super::options::mean_and_spread;
use super::solved::SolvedView;
use crate::buffer::Buffers;
use crate::error::Result;
use crate::geometry::{PointMap, median};
use crate::scene::{FAR_EXTENTS, Scene, SceneView};
use crate::views::{self, Pixels, View};

impl Scene {
    /// Takes the points of two views without cameras from `maps`, which are in the first one's
    /// frame; the second one's depths stay unknown.
    pub(super) fn set_maps_of_two(&mut self, maps: [PointMap; 2]) {
        for (index, (view, map)) in self.views.iter_mut().zip(maps).enumerate() {
            if index == 0 {
                view.depth = map.points.iter().map(|point| point[2]).collect();
            }
            view.points = map;
        }
    }

    /// The scene, which is in a frame with its origin at `origin`, as it is kept: in that frame if
    /// that lies far from the world's, for the extent of cameras and depths, and else in the world
    /// itself.
    pub(super) fn with_origin(mut self, origin: Vector3<f64>) -> Self {
        if origin == Vector3::zeros() {
            return self;
        }
        let placed = || {
            self.views
                .iter()
                .filter_map(|view| Some((view.camera.as_ref()?, view)))
        };
        let centres: Vec<_> = placed()
            .map(|(camera, _)| camera.world_from_camera.translation.vector)
            .collect();
        let spread = mean_and_spread(&centres).map_or(0.0, |(_, spread)| spread);
        let depths = |view: &SceneView| {
            let depths = view.depth.iter().map(|depth| f64::from(*depth));
            let median = median(depths.filter(|d| d.is_finite()));
            view.release();
            median
        };
        let depth = median(placed().filter_map(|(_, view)| depths(view))).unwrap_or(0.0);
        if origin.amax() > FAR_EXTENTS * spread.max(depth) {
            return Self { origin, ..self };
        }
        for view in &mut self.views {
            if let Some(camera) = &mut view.camera {
                camera.world_from_camera.translation.vector += origin;
            }
            for point in &mut view.points.points {
                *point = std::array::from_fn(|axis| (f64::from(point[axis]) + origin[axis]) as f32);
            }
            view.release();
        }
        self
    }
}

/// Builds the views of a scene, in a temporary file if they are large.
pub(super) struct SceneBuilder(Buffers);

/// Bytes of a pixel: point, confidence, depth and colour.
pub(crate) const PIXEL_BYTES: u64 = 23;

impl SceneBuilder {
    pub fn new(views: &[View]) -> Result<Self> {
        let pixels = |view: &View| u64::from(view.rgb.width()) * u64::from(view.rgb.height());
        Buffers::for_bytes(PIXEL_BYTES * views.iter().map(pixels).sum::<u64>()).map(Self)
    }

    /// A view as it was found; without a camera and points if it was not.
    pub fn view(&mut self, view: &View, found: Option<SolvedView>) -> Result<SceneView> {
        let (width, height) = (view.rgb.width() as usize, view.rgb.height() as usize);
        let (camera, depth, points) = match found {
            Some(SolvedView {
                camera,
                depth,
                points,
            }) => (Some(camera), depth, points),
            None => {
                let points = PointMap {
                    width,
                    height,
                    points: vec![[f32::NAN; 3]; width * height].into(),
                    confidence: vec![1.0; width * height].into(),
                };
                (None, vec![f32::NAN; width * height].into(), points)
            }
        };
        Ok(SceneView {
            name: view.name.clone(),
            crop: view.crop,
            camera,
            points: PointMap {
                points: self.0.put(points.points)?,
                confidence: self.0.put(points.confidence)?,
                ..points
            },
            depth: self.0.put(depth)?,
            rgb: self.pixels(view)?,
            contradicted: None,
            masked: 0,
        })
    }

    fn pixels(&mut self, view: &View) -> Result<Pixels> {
        let (width, height) = view.rgb.dimensions();
        let bytes = self.0.put(view.rgb.as_raw().clone())?;
        view.rgb.as_raw().release();
        Ok(views::within(width, height, bytes))
    }
}

/// A scene of the views, of which those in `placed` were found.
pub(super) fn scene(views: &[View], placed: Vec<usize>, solved: Vec<SolvedView>) -> Result<Scene> {
    let mut found: Vec<Option<SolvedView>> = views.iter().map(|_| None).collect();
    for (view, solved) in placed.into_iter().zip(solved) {
        found[view] = Some(solved);
    }
    let mut builder = SceneBuilder::new(views)?;
    let views = views.iter().zip(found);
    Ok(Scene {
        views: views
            .map(|(view, found)| builder.view(view, found))
            .collect::<Result<_>>()?,
        ..Scene::default()
    })
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};
    use nalgebra::{Isometry3, Similarity3};

    use super::*;
    use crate::geometry::{Camera, Intrinsics};
    use crate::scene::{PointFilter, ScenePoint, Thinning};
    use crate::views::Crop;

    fn made(buffers: Buffers) -> Scene {
        let mut builder = SceneBuilder(buffers);
        let rgb = RgbImage::from_fn(8, 6, |x, y| Rgb([x as u8, y as u8, 7]));
        let view = View::new("a", rgb, Crop::whole(8, 6));
        let camera = Camera {
            intrinsics: Intrinsics::centred(8, 6, 9.0),
            world_from_camera: Isometry3::translation(1.0, 2.0, 3.0),
        };
        let log_depths = (0..48).map(|at| 0.01 * f64::from(at));
        let confidence = (0..48).map(|at| 1.0 + (at * 5 % 48) as f32).collect();
        let solved = SolvedView::new(camera, 0.5, log_depths, confidence);
        let views = vec![
            builder.view(&view, Some(solved)).unwrap(),
            builder.view(&view, None).unwrap(),
        ];
        let scene = Scene {
            views,
            ..Scene::default()
        };
        let mut scene = scene.with_origin(Vector3::new(0.25, 0.0, 0.0));
        scene.transform(&Similarity3::from_scaling(1.5));
        scene
    }

    #[test]
    #[cfg(unix)]
    fn scenes_in_a_file_have_the_points_of_those_in_memory() {
        let (memory, file) = (
            made(Buffers::for_bytes(0).unwrap()),
            made(Buffers::in_file(1 << 14).unwrap()),
        );
        for view in &file.views {
            assert!(view.points.points.is_in_file() && view.points.confidence.is_in_file());
            assert!(view.depth.is_in_file() && view.rgb.as_raw().is_in_file());
        }
        assert!(!memory.views[0].depth.is_in_file());
        for (one, two) in memory.views.iter().zip(&file.views) {
            let bits =
                |view: &SceneView| view.depth.iter().map(|d| d.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(one), bits(two));
        }
        let filter = PointFilter {
            keep_percentile: Some(60.0),
            thinning: Thinning {
                voxel: Some(0.2),
                most: Some(12),
            },
            ..PointFilter::default()
        };
        let chosen = |scene: &Scene| {
            let chosen = scene.select(&filter).unwrap();
            (chosen.counts(), chosen.iter().collect::<Vec<ScenePoint>>())
        };
        assert_eq!(chosen(&memory), chosen(&file));
        assert_eq!(chosen(&file).1.len(), 12);
    }
}
