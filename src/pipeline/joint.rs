//! Views that a joint network predicts together: a scene without an alignment.

use candle_core::{DType, Tensor};
use nalgebra::Isometry3;

use crate::alignment::{Alignment, ViewReport};
use crate::geometry::{Camera, PointMap};
use crate::model::{JointNetwork, ViewPrediction};
use crate::progress::{Progress, Stage, Watch, tell};
use crate::scene::{Scene, SceneView};
use crate::views::View;
use crate::{Error, Result};

/// Predicts `views` and places them in the first one's frame.
pub(super) fn reconstruct(
    network: &dyn JointNetwork,
    views: &[View],
    watch: Watch<'_>,
) -> Result<Alignment> {
    tell(watch, Progress::Begin(Stage::Predict, 1))?;
    let predictions = network.predict(views)?;
    if predictions.len() != views.len() {
        return Err(Error::Internal(format!(
            "{} views were predicted as {}",
            views.len(),
            predictions.len()
        )));
    }
    tell(watch, Progress::Begin(Stage::Align, 1))?;
    let first_from_world = match predictions.first() {
        Some(first) => first.camera.world_from_camera.inverse(),
        None => Isometry3::identity(),
    };
    let scene = Scene {
        views: views
            .iter()
            .zip(&predictions)
            .map(|(view, prediction)| scene_view(view, prediction, &first_from_world))
            .collect::<Result<_>>()?,
        ..Scene::default()
    };
    scene.check()?;
    let report = ViewReport {
        placed: true,
        inlier_share: 0.0,
        reprojection_px: None,
        overruled_focal: None,
    };
    Ok(Alignment {
        views: vec![report; scene.views.len()],
        scene,
        pairs: Vec::new(),
        cameras_error: None,
    })
}

fn scene_view(
    view: &View,
    prediction: &ViewPrediction,
    first_from_world: &Isometry3<f64>,
) -> Result<SceneView> {
    let (width, height) = (view.rgb.width() as usize, view.rgb.height() as usize);
    let camera = Camera {
        world_from_camera: first_from_world * prediction.camera.world_from_camera,
        ..prediction.camera
    };
    let mut depth = values(&prediction.depth, [height, width], &view.name)?;
    let confidence = values(&prediction.confidence, [height, width], &view.name)?;
    let mut points = Vec::with_capacity(depth.len());
    for (index, depth) in depth.iter_mut().enumerate() {
        if !(depth.is_finite() && *depth > 0.0) {
            *depth = f32::NAN;
        }
        let pixel = [index % width, index / width].map(|place| place as f64);
        let point = camera.unproject(pixel, f64::from(*depth));
        points.push(point.coords.map(|value| value as f32).into());
    }
    Ok(SceneView {
        name: view.name.clone(),
        crop: view.crop,
        camera: Some(camera),
        points: PointMap {
            width,
            height,
            points,
            confidence,
        },
        depth,
        rgb: view.rgb.clone(),
        contradicted: None,
        masked: 0,
    })
}

/// A map's numbers, row by row.
fn values(map: &Tensor, size: [usize; 2], name: &str) -> Result<Vec<f32>> {
    if map.dims() != size {
        return Err(Error::Internal(format!(
            "{name}: a map of {:?} was predicted for an image of {size:?} rows and columns",
            map.dims()
        )));
    }
    Ok(map.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::Arc;

    use candle_core::Device;
    use image::RgbImage;
    use nalgebra::{Point3, Translation3, UnitQuaternion, Vector3};

    use super::*;
    use crate::geometry::Intrinsics;
    use crate::network::Model;
    use crate::pipeline::{Reconstructor, unwatched};
    use crate::views::{Crop, Framing, Resolution};

    const SIZE: [u32; 2] = [12, 8];
    /// The wall z = 4 of the network's world.
    const WALL: f64 = 4.0;

    /// Knows cameras that face a wall, and so its depth at every pixel.
    #[derive(Debug)]
    struct Wall {
        /// Rows of the maps that it predicts.
        rows: usize,
    }

    fn camera(index: usize) -> Camera {
        let turn = UnitQuaternion::from_euler_angles(0.02 * index as f64, -0.1, 0.05);
        Camera {
            intrinsics: Intrinsics::centred(SIZE[0], SIZE[1], 15.0),
            world_from_camera: Translation3::new(0.3 * index as f64, 0.1, 0.2) * turn,
        }
    }

    /// Depth of the wall at a pixel.
    fn depth(camera: &Camera, pixel: [f64; 2]) -> f64 {
        let (near, far) = (camera.unproject(pixel, 1.0), camera.unproject(pixel, 2.0));
        1.0 + (WALL - near.z) / (far.z - near.z)
    }

    impl JointNetwork for Wall {
        fn predict(&self, views: &[View]) -> Result<Vec<ViewPrediction>> {
            let predict = |index: usize| {
                let camera = camera(index);
                let pixels = (0..self.rows * SIZE[0] as usize)
                    .map(|at| [at % SIZE[0] as usize, at / SIZE[0] as usize].map(|at| at as f64));
                let mut depths: Vec<f32> =
                    pixels.map(|pixel| depth(&camera, pixel) as f32).collect();
                // Sky.
                depths[1] = 0.0;
                let size = (self.rows, SIZE[0] as usize);
                let depth = Tensor::from_vec(depths, size, &Device::Cpu)?;
                Ok(ViewPrediction {
                    confidence: (depth.ones_like()? * 2.0)?,
                    depth,
                    camera,
                })
            };
            (0..views.len()).map(predict).collect()
        }
    }

    fn model(rows: usize) -> Model {
        let framing = Framing {
            resolution: Resolution::LongSide(12),
            patch: 4,
            square_allowed: true,
            square_at_224: false,
        };
        Model::joint("wall", framing, Arc::new(Wall { rows }))
    }

    fn views(count: usize) -> Vec<View> {
        let view = |index| {
            let [width, height] = SIZE;
            let rgb = RgbImage::new(width, height);
            View::new(format!("{index}.png"), rgb, Crop::whole(width, height))
        };
        (0..count).map(view).collect()
    }

    #[test]
    fn a_joint_network_gives_a_scene_in_the_first_view_s_frame() {
        for count in [1, 2, 5] {
            let (model, views) = (model(SIZE[1] as usize), views(count));
            let result = Reconstructor::new(&model)
                .run(&views, None, &unwatched)
                .unwrap();
            let alignment = result.alignment;
            assert!(alignment.views.iter().all(|view| view.placed));
            let world_from_first = camera(0).world_from_camera;
            for (index, view) in alignment.scene.views.iter().enumerate() {
                let found = world_from_first * view.camera.unwrap().world_from_camera;
                let gap =
                    found.translation.vector - camera(index).world_from_camera.translation.vector;
                assert!(gap.norm() < 1e-9, "{index}: {gap}");
                for (at, point) in view.points.points.iter().enumerate() {
                    assert_eq!(point[0].is_nan(), at == 1);
                    assert_eq!(view.depth[at].is_nan(), at == 1);
                    let point =
                        world_from_first * Point3::from(Vector3::from(*point).cast::<f64>());
                    assert!(
                        at == 1 || (point.z - WALL).abs() < 1e-5,
                        "{index}, {at}: {point}"
                    );
                }
            }
        }
    }

    #[test]
    fn maps_of_another_size_and_a_cancelled_run_are_errors() {
        let views = views(2);
        let run = |model: &Model, watch: Watch<'_>| {
            let result = Reconstructor::new(model).run(&views, None, watch);
            result.unwrap_err()
        };
        let error = run(&model(3), &unwatched);
        assert!(matches!(error, Error::Internal(_)), "{error}");
        let cancelled = run(&model(SIZE[1] as usize), &|event| match event {
            Progress::Begin(Stage::Predict, _) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        assert!(matches!(cancelled, Error::Cancelled), "{cancelled}");
    }
}
