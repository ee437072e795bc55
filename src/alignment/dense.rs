//! Scenes from solved views.

use nalgebra::Vector3;

use super::options::mean_and_spread;
use super::solved::SolvedView;
use crate::geometry::{PointMap, median};
use crate::scene::{FAR_EXTENTS, Scene, SceneView};
use crate::views::View;

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
            median(
                view.depth
                    .iter()
                    .map(|depth| f64::from(*depth))
                    .filter(|d| d.is_finite()),
            )
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
        }
        self
    }
}

pub(super) fn scene(views: &[View], placed: Vec<usize>, solved: Vec<SolvedView>) -> Scene {
    let mut found: Vec<Option<SolvedView>> = views.iter().map(|_| None).collect();
    for (view, solved) in placed.into_iter().zip(solved) {
        found[view] = Some(solved);
    }
    let view = |(view, found): (&View, Option<SolvedView>)| {
        let (width, height) = (view.rgb.width() as usize, view.rgb.height() as usize);
        let (camera, depth, points) = match found {
            Some(SolvedView {
                camera,
                depth,
                points,
            }) => (Some(camera), depth, points),
            None => {
                let points = vec![[f32::NAN; 3]; width * height];
                let points = PointMap {
                    width,
                    height,
                    points,
                    confidence: vec![1.0; width * height],
                };
                (None, vec![f32::NAN; width * height], points)
            }
        };
        SceneView {
            name: view.name.clone(),
            crop: view.crop,
            camera,
            points,
            depth,
            rgb: view.rgb.clone(),
            contradicted: None,
            masked: 0,
        }
    };
    Scene {
        views: views.iter().zip(found).map(view).collect(),
        ..Scene::default()
    }
}
