//! Views that a joint network predicts together: a scene without an alignment. More views than memory
//! allows are predicted in groups, each of which is moved onto the views that it shares with those
//! before it.

use std::iter;
use std::ops::Range;

use candle_core::{DType, Tensor};
use nalgebra::{Isometry3, Similarity3};

use crate::alignment::{AlignOptions, Alignment, KnownCamera, KnownPoses, ViewReport};
use crate::geometry::procrustes::{Correspondence, robust_similarity};
use crate::geometry::{Camera, Intrinsics, PointMap};
use crate::model::{JointNetwork, ViewPrediction};
use crate::progress::{Progress, Stage, Watch, tell};
use crate::scene::{Scene, SceneView};
use crate::views::View;
use crate::{Error, Result};

/// Of a group, the share of views that the next one predicts again, and at most so many.
const SHARED_OF: usize = 4;
const MOST_SHARED: usize = 8;
/// Points of a shared view that the motion between two groups is found from, about.
const POINTS: usize = 2000;
const ROBUST_ROUNDS: usize = 10;

/// Predicts `views`, at most `bytes` of them at a time, and places them in the first one's frame, or
/// in that of known poses.
pub(super) fn reconstruct(
    network: &dyn JointNetwork,
    views: &[View],
    options: &AlignOptions,
    bytes: u64,
    watch: Watch<'_>,
) -> Result<Alignment> {
    let known = Known::of(options, views)?;
    let largest = views
        .iter()
        .map(|view| view.rgb.dimensions())
        .max_by_key(|(width, height)| u64::from(*width) * u64::from(*height));
    let most = largest.map_or(usize::MAX, |(width, height)| {
        network.most_views([width, height], bytes)
    });
    let groups = groups(views.len(), most);
    if groups.len() > 1 {
        tracing::info!(
            "{} views in {} groups of {} at most, which memory allows at a time",
            views.len(),
            groups.len(),
            groups[0].len()
        );
    }
    tell(watch, Progress::Begin(Stage::Predict, groups.len()))?;
    let mut placed: Vec<Placed> = Vec::with_capacity(views.len());
    for group in groups {
        let members = &views[group.clone()];
        let predictions = match &known {
            Known::Cameras(cameras) => network.predict_posed(members, &cameras[group.clone()])?,
            Known::Intrinsics(_) => network.predict(members)?,
        };
        if predictions.len() != members.len() {
            return Err(Error::Internal(format!(
                "{} views were predicted as {}",
                members.len(),
                predictions.len()
            )));
        }
        let arrived = members
            .iter()
            .zip(&predictions)
            .zip(group.clone())
            .map(|((view, prediction), index)| {
                Placed::new(view, prediction, known.intrinsics(index))
            })
            .collect::<Result<Vec<_>>>()?;
        let shared = placed.len() - group.start;
        let world_from_group = match (&known, arrived.first()) {
            (Known::Cameras(_), _) | (_, None) => Similarity3::identity(),
            (_, Some(first)) if shared == 0 => {
                Similarity3::from_isometry(first.camera.world_from_camera.inverse(), 1.0)
            }
            _ => motion(&arrived[..shared], &placed[group.start..]).ok_or_else(|| {
                let names = [&members[0].name, &views[group.end - 1].name];
                Error::NoPose {
                    reason: format!(
                        "the views {} to {} share no predicted depth with those before them",
                        names[0], names[1]
                    ),
                }
            })?,
        };
        placed.extend(
            arrived
                .into_iter()
                .skip(shared)
                .map(|view| view.moved(&world_from_group)),
        );
        tell(watch, Progress::Step)?;
    }
    tell(watch, Progress::Begin(Stage::Align, 1))?;
    let scene = Scene {
        views: views
            .iter()
            .zip(placed)
            .map(|(view, placed)| placed.into_scene(view))
            .collect(),
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

/// What is known of the cameras.
enum Known {
    /// All of them.
    Cameras(Vec<Camera>),
    /// Intrinsics of some.
    Intrinsics(Vec<Option<Intrinsics>>),
}

impl Known {
    fn of(options: &AlignOptions, views: &[View]) -> Result<Self> {
        let mut known = options.known.clone();
        known.resize(views.len(), KnownCamera::default());
        let posed = known.iter().filter(|one| one.world_from_camera.is_some());
        let posed = posed.count();
        if posed == 0 {
            return Ok(Self::Intrinsics(
                known.into_iter().map(|one| one.intrinsics).collect(),
            ));
        }
        let cameras: Vec<Camera> = known
            .iter()
            .filter_map(|one| {
                Some(Camera {
                    intrinsics: one.intrinsics?,
                    world_from_camera: one.world_from_camera?,
                })
            })
            .collect();
        let refuse = |reason: String| Err(Error::Usage(format!("known poses: {reason}")));
        if posed < views.len() {
            let missing = known.iter().position(|one| one.world_from_camera.is_none());
            let name = missing.map_or("", |index| &views[index].name);
            return refuse(format!(
                "a joint network takes those of all images or of none; {name} has none"
            ));
        }
        if cameras.len() < views.len() {
            let missing = known.iter().position(|one| one.intrinsics.is_none());
            let name = missing.map_or("", |index| &views[index].name);
            return refuse(format!(
                "a joint network takes them with intrinsics; those of {name} are missing"
            ));
        }
        if options.known_poses == KnownPoses::Start {
            return refuse("a joint network keeps them as they are; it has no optimisation that they could start".into());
        }
        Ok(Self::Cameras(cameras))
    }

    fn intrinsics(&self, view: usize) -> Option<Intrinsics> {
        match self {
            Self::Cameras(_) => None,
            Self::Intrinsics(known) => known[view],
        }
    }
}

/// Ranges of views of `most` at most, two at least, each of which shares views with the one before.
fn groups(count: usize, most: usize) -> Vec<Range<usize>> {
    let most = most.max(2);
    if count <= most {
        return iter::once(0..count).collect();
    }
    let step = most - (most / SHARED_OF).clamp(1, MOST_SHARED);
    let mut groups: Vec<Range<usize>> = Vec::new();
    while groups.last().is_none_or(|last| last.end < count) {
        let start = (groups.len() * step).min(count - most);
        groups.push(start..start + most);
    }
    groups
}

/// A view on the host, in the world of its group or of the scene.
struct Placed {
    width: usize,
    height: usize,
    camera: Camera,
    /// NaN where it is unknown.
    depth: Vec<f32>,
    confidence: Vec<f32>,
}

impl Placed {
    fn new(
        view: &View,
        prediction: &ViewPrediction,
        intrinsics: Option<Intrinsics>,
    ) -> Result<Self> {
        let (width, height) = (view.rgb.width() as usize, view.rgb.height() as usize);
        let mut depth = values(&prediction.depth, [height, width], &view.name)?;
        for depth in &mut depth {
            if !(depth.is_finite() && *depth > 0.0) {
                *depth = f32::NAN;
            }
        }
        Ok(Self {
            width,
            height,
            camera: Camera {
                intrinsics: intrinsics.unwrap_or(prediction.camera.intrinsics),
                ..prediction.camera
            },
            depth,
            confidence: values(&prediction.confidence, [height, width], &view.name)?,
        })
    }

    fn point(&self, index: usize) -> nalgebra::Point3<f64> {
        let pixel = [index % self.width, index / self.width].map(|place| place as f64);
        self.camera.unproject(pixel, f64::from(self.depth[index]))
    }

    fn moved(mut self, by: &Similarity3<f64>) -> Self {
        let pose = &self.camera.world_from_camera;
        self.camera.world_from_camera = Isometry3::from_parts(
            (by * nalgebra::Point3::from(pose.translation.vector)).into(),
            by.isometry.rotation * pose.rotation,
        );
        let scale = by.scaling() as f32;
        self.depth.iter_mut().for_each(|depth| *depth *= scale);
        self
    }

    fn into_scene(self, view: &View) -> SceneView {
        let points = (0..self.depth.len())
            .map(|index| self.point(index).coords.map(|value| value as f32).into())
            .collect();
        SceneView {
            name: view.name.clone(),
            crop: view.crop,
            camera: Some(self.camera),
            points: PointMap {
                width: self.width,
                height: self.height,
                points,
                confidence: self.confidence,
            },
            depth: self.depth,
            rgb: view.rgb.clone(),
            contradicted: None,
            masked: 0,
        }
    }
}

/// The similarity that takes the points of views to where they lie already, by the same pixels of
/// both predictions.
fn motion(from: &[Placed], to: &[Placed]) -> Option<Similarity3<f64>> {
    let mut pairs = Vec::new();
    for (from, to) in from.iter().zip(to) {
        let step = (from.depth.len() / POINTS).max(1);
        for index in (0..from.depth.len()).step_by(step) {
            if from.depth[index].is_nan() || to.depth[index].is_nan() {
                continue;
            }
            // An error of depth grows with depth.
            let confidence = from.confidence[index].min(to.confidence[index]);
            pairs.push(Correspondence {
                from: from.point(index),
                to: to.point(index),
                weight: f64::from(confidence / to.depth[index]),
            });
        }
    }
    robust_similarity(&pairs, ROBUST_ROUNDS)
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
    use crate::network::Model;
    use crate::pipeline::{Reconstructor, unwatched};
    use crate::views::{Crop, Framing, Resize, Resolution};

    const SIZE: [u32; 2] = [12, 8];
    /// The wall z = 4 of the network's world.
    const WALL: f64 = 4.0;

    /// Knows cameras that face a wall, and so its depth at every pixel.
    #[derive(Debug)]
    struct Wall {
        /// Rows of the maps that it predicts.
        rows: usize,
        /// Views at a time.
        most: usize,
    }

    /// The world and the unit of a group that begins with view `first`: others for every group.
    fn own_world(first: usize) -> Similarity3<f64> {
        let turn = UnitQuaternion::from_euler_angles(0.1 * first as f64, 0.2, -0.3);
        let shift = Translation3::new(first as f64, -0.5, 0.25);
        Similarity3::from_parts(shift, turn, 1.0 + 0.5 * first as f64)
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
            let first: usize = views[0].name.trim_end_matches(".png").parse().unwrap();
            let own = own_world(first);
            let predict = |index: usize| {
                let index = first + index;
                let camera = camera(index);
                let pixels = (0..self.rows * SIZE[0] as usize)
                    .map(|at| [at % SIZE[0] as usize, at / SIZE[0] as usize].map(|at| at as f64));
                let mut depths: Vec<f32> =
                    pixels.map(|pixel| depth(&camera, pixel) as f32).collect();
                // Sky.
                depths[1] = 0.0;
                let size = (self.rows, SIZE[0] as usize);
                let depth = Tensor::from_vec(depths, size, &Device::Cpu)?;
                let pose = camera.world_from_camera;
                Ok(ViewPrediction {
                    confidence: (depth.ones_like()? * 2.0)?,
                    depth: (depth * own.scaling())?,
                    camera: Camera {
                        world_from_camera: Isometry3::from_parts(
                            (own * Point3::from(pose.translation.vector)).into(),
                            own.isometry.rotation * pose.rotation,
                        ),
                        ..camera
                    },
                })
            };
            (0..views.len()).map(predict).collect()
        }

        fn predict_posed(&self, views: &[View], cameras: &[Camera]) -> Result<Vec<ViewPrediction>> {
            let mut predictions = self.predict(views)?;
            for (prediction, camera) in predictions.iter_mut().zip(cameras) {
                prediction.camera = *camera;
            }
            Ok(predictions)
        }

        fn most_views(&self, _: [u32; 2], _: u64) -> usize {
            self.most
        }
    }

    fn model(rows: usize) -> Model {
        model_of(Wall {
            rows,
            most: usize::MAX,
        })
    }

    fn model_of(wall: Wall) -> Model {
        let framing = Framing {
            resolution: Resolution::LongSide(12),
            patch: 4,
            resize: Resize::Pillow,
            square_allowed: true,
            square_at_224: false,
        };
        Model::joint("wall", framing, Arc::new(wall))
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
    fn groups_cover_all_views_and_share_some() {
        for (count, most) in [(1, 5), (5, 5), (7, 3), (40, 8), (40, 1), (9, 8), (100, 30)] {
            let groups = groups(count, most);
            assert_eq!((groups[0].start, groups[groups.len() - 1].end), (0, count));
            assert!(groups.iter().all(|group| group.len() <= most.max(2)));
            for two in groups.windows(2) {
                assert!(
                    two[1].start < two[0].end && two[1].end > two[0].end,
                    "{groups:?}"
                );
            }
        }
    }

    #[test]
    fn groups_of_other_worlds_and_units_are_joined() {
        let (views, model) = (
            views(11),
            model_of(Wall {
                rows: SIZE[1] as usize,
                most: 4,
            }),
        );
        let result = Reconstructor::new(&model)
            .run(&views, None, &unwatched)
            .unwrap();
        let world_from_first = camera(0).world_from_camera;
        for (index, view) in result.alignment.scene.views.iter().enumerate() {
            let found = world_from_first * view.camera.unwrap().world_from_camera;
            let gap = camera(index).world_from_camera.inverse() * found;
            assert!(gap.translation.vector.norm() < 1e-5, "{index}: {gap}");
            assert!(gap.rotation.angle() < 1e-5, "{index}: {gap}");
            let place = [5.0, 3.0];
            let wanted = depth(&camera(index), place);
            let got = f64::from(view.depth[3 * SIZE[0] as usize + 5]);
            assert!(
                (got / wanted - 1.0).abs() < 1e-5,
                "{index}: {got}, {wanted}"
            );
        }
    }

    #[test]
    fn known_poses_stay_and_are_refused_in_part() {
        let (views, model) = (views(3), model(SIZE[1] as usize));
        let mut reconstructor = Reconstructor::new(&model);
        let known = |index: usize| KnownCamera {
            intrinsics: Some(camera(index).intrinsics),
            world_from_camera: Some(camera(index + 1).world_from_camera),
            ..KnownCamera::default()
        };
        reconstructor.options.align.known = (0..3).map(known).collect();
        let result = reconstructor.run(&views, None, &unwatched).unwrap();
        for (index, view) in result.alignment.scene.views.iter().enumerate() {
            let pose = view.camera.unwrap().world_from_camera;
            assert_eq!(pose, camera(index + 1).world_from_camera);
        }
        let run = |change: fn(&mut AlignOptions)| {
            let mut changed = Reconstructor::new(&model);
            changed.options = reconstructor.options.clone();
            change(&mut changed.options.align);
            changed.run(&views, None, &unwatched)
        };
        let refused: [fn(&mut AlignOptions); 3] = [
            |options| options.known[1].world_from_camera = None,
            |options| options.known[2].intrinsics = None,
            |options| options.known_poses = KnownPoses::Start,
        ];
        for change in refused {
            assert!(matches!(run(change), Err(Error::Usage(_))));
        }
        // Intrinsics alone are taken for what they are.
        let alone = run(|options| {
            for (index, known) in options.known.iter_mut().enumerate() {
                known.world_from_camera = None;
                known.intrinsics =
                    (index == 1).then(|| Intrinsics::centred(SIZE[0], SIZE[1], 21.0));
            }
        });
        let scene = alone.unwrap().alignment.scene;
        let focal = |view: usize| scene.views[view].camera.unwrap().intrinsics.fx;
        assert_eq!([focal(0), focal(1), focal(2)], [15.0, 21.0, 15.0]);
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
