//! Views that a joint network predicts together: a scene without an alignment. More views than memory
//! allows are predicted in groups, each of which is moved onto the views that it shares with those
//! before it.

mod groups;

use std::borrow::Cow;

use candle_core::{DType, Tensor};
use nalgebra::{Isometry3, Similarity3};

use self::groups::Group;
use crate::alignment::{AlignOptions, Alignment, KnownCamera, KnownPoses, ViewReport};
use crate::geometry::procrustes::{Correspondence, robust_similarity};
use crate::geometry::{Camera, Intrinsics, PointMap};
use crate::model::{JointNetwork, ViewPrediction};
use crate::pairs::Similarity;
use crate::progress::{Progress, Stage, Watch, tell};
use crate::scene::{Scene, SceneView};
use crate::views::View;
use crate::{Error, Result};

/// Points of a shared view that the motion between two groups is found from, about.
const POINTS: usize = 2000;
const ROBUST_ROUNDS: usize = 10;

/// Predicts `views`, at most `bytes` of them at a time, and places them in the first one's frame, or
/// in that of known poses. Views of a sequence keep their order where they need several groups.
pub(super) fn reconstruct(
    network: &dyn JointNetwork,
    views: &[View],
    is_sequence: bool,
    options: &AlignOptions,
    bytes: u64,
    watch: Watch<'_>,
) -> Result<Alignment> {
    let known = Known::of(options, views)?;
    let groups = grouped(network, views, is_sequence, bytes, watch)?;
    tell(watch, Progress::Begin(Stage::Predict, groups.len()))?;
    let mut placed: Vec<Option<Placed>> = Vec::new();
    placed.resize_with(views.len(), || None);
    for group in groups {
        let arrived = predicted(network, views, &group, &known)?;
        let shared: Vec<_> = group
            .indices()
            .zip(&arrived)
            .filter_map(|(index, arrived)| Some((arrived, placed[index].as_ref()?)))
            .collect();
        let world_from_group = match (&known, arrived.first()) {
            (Known::Cameras(_), _) | (_, None) => Similarity3::identity(),
            (_, Some(first)) if shared.is_empty() => {
                Similarity3::from_isometry(first.camera.world_from_camera.inverse(), 1.0)
            }
            _ => motion(&shared).ok_or_else(|| {
                let names: Vec<&str> = group.new.iter().map(|&at| &*views[at].name).collect();
                Error::NoPose {
                    reason: format!(
                        "the images predicted before have no depth to join {} by",
                        names.join(", ")
                    ),
                }
            })?,
        };
        for (index, view) in group.indices().zip(arrived).skip(group.shared.len()) {
            placed[index] = Some(view.moved(&world_from_group));
        }
        tell(watch, Progress::Step)?;
    }
    tell(watch, Progress::Begin(Stage::Align, 1))?;
    let scene = Scene {
        views: views
            .iter()
            .zip(placed)
            .map(|(view, placed)| {
                let placed = placed
                    .ok_or_else(|| Error::Internal(format!("{}: a view of no group", view.name)))?;
                Ok(placed.into_scene(view))
            })
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

/// Groups of as many views as `bytes` of memory allow: of views that follow one another in a
/// sequence, else of those that are alike, as far as the network tells.
fn grouped(
    network: &dyn JointNetwork,
    views: &[View],
    is_sequence: bool,
    bytes: u64,
    watch: Watch<'_>,
) -> Result<Vec<Group>> {
    let largest = views
        .iter()
        .map(|view| view.rgb.dimensions())
        .max_by_key(|(width, height)| u64::from(*width) * u64::from(*height));
    let most = largest.map_or(usize::MAX, |(width, height)| {
        network.most_views([width, height], bytes)
    });
    let in_order = || Ok(groups::in_order(views.len(), most));
    if views.len() <= most {
        return in_order();
    }
    tracing::info!(
        "{} views in groups of {most} at most, which memory allows at a time",
        views.len()
    );
    if is_sequence {
        return in_order();
    }
    tell(watch, Progress::Begin(Stage::Encode, views.len()))?;
    let mut descriptors = Vec::with_capacity(views.len());
    for view in views {
        let Some(descriptor) = network.descriptor(view)? else {
            return in_order();
        };
        descriptors.push(descriptor);
        tell(watch, Progress::Step)?;
    }
    Ok(groups::by_likeness(&Similarity::of(&descriptors)?, most))
}

/// The views of a group, in its order, in its own world and unit.
fn predicted(
    network: &dyn JointNetwork,
    views: &[View],
    group: &Group,
    known: &Known,
) -> Result<Vec<Placed>> {
    let members: Cow<'_, [View]> = if group.indices().eq(0..views.len()) {
        views.into()
    } else {
        let members: Vec<View> = group.indices().map(|index| views[index].clone()).collect();
        members.into()
    };
    let predictions = match known {
        Known::Cameras(cameras) => {
            let cameras: Vec<Camera> = group.indices().map(|index| cameras[index]).collect();
            network.predict_posed(&members, &cameras)?
        }
        Known::Intrinsics(_) => network.predict(&members)?,
    };
    if predictions.len() != members.len() {
        return Err(Error::Internal(format!(
            "{} views were predicted as {}",
            members.len(),
            predictions.len()
        )));
    }
    members
        .iter()
        .zip(&predictions)
        .zip(group.indices())
        .map(|((view, prediction), index)| Placed::new(view, prediction, known.intrinsics(index)))
        .collect()
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
                confidence: self.confidence.into(),
            },
            depth: self.depth.into(),
            rgb: view.rgb.clone(),
            contradicted: None,
            masked: 0,
        }
    }
}

/// The similarity that takes the points of views to where they lie already, by the same pixels of
/// both predictions.
fn motion(shared: &[(&Placed, &Placed)]) -> Option<Similarity3<f64>> {
    let mut pairs = Vec::new();
    for (from, to) in shared {
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
    use crate::pairs::PairGraph;
    use crate::pipeline::{PairChoice, Reconstructor, unwatched};
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
        /// Views along the path that show one place.
        reach: usize,
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
            let indices: Vec<usize> = views.iter().map(number).collect();
            let own = own_world(indices[0]);
            let span = indices.iter().max().unwrap() - indices.iter().min().unwrap();
            if span >= self.reach {
                return Err(Error::Usage(format!("{indices:?} show different places")));
            }
            let predict = |&index: &usize| {
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
            indices.iter().map(predict).collect()
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

        fn descriptor(&self, view: &View) -> Result<Option<Vec<f32>>> {
            let (sin, cos) = (0.1 * number(view) as f32).sin_cos();
            Ok(Some(vec![cos, sin]))
        }
    }

    /// Where on the path a view is.
    fn number(view: &View) -> usize {
        view.name.trim_end_matches(".png").parse().unwrap()
    }

    fn model(rows: usize) -> Model {
        model_of(Wall {
            rows,
            most: usize::MAX,
            reach: usize::MAX,
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
    fn groups_of_other_worlds_and_units_are_joined() {
        let model = model_of(Wall {
            rows: SIZE[1] as usize,
            most: 4,
            reach: 8,
        });
        let in_order = views(11);
        let mut mixed = views(11);
        mixed.sort_by_key(|view| 7 * number(view) % 11);
        let sequence = PairGraph::of_video(100);
        for (views, graph) in [(&in_order, sequence), (&mixed, PairGraph::Auto)] {
            let mut reconstructor = Reconstructor::new(&model);
            reconstructor.options.pairs = PairChoice::Graph(graph);
            let result = reconstructor.run(views, None, &unwatched).unwrap();
            let world_from_first = camera(0).world_from_camera;
            for (view, of) in result.alignment.scene.views.iter().zip(views) {
                let index = number(of);
                assert_eq!(view.name, of.name);
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
        // Taken for a sequence, mixed views have no place in common.
        let mut reconstructor = Reconstructor::new(&model);
        reconstructor.options.pairs = PairChoice::Graph(sequence);
        assert!(reconstructor.run(&mixed, None, &unwatched).is_err());
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
