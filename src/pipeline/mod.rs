//! From views to a scene.
//!
//! [`TwoViewReconstructor`] takes two views, [`Reconstructor`] any number.

mod features;
mod fetch;
mod joint;
mod many;
mod progress;
mod seek;
mod work;

use std::time::Instant;

use candle_core::{Device, Tensor};
use custom_ops::{Downloader, Padding, grid_sample};
use nalgebra::Point3;
use rayon::prelude::*;

use crate::alignment::{Alignment, PictureSize};
use crate::geometry::consistency::{Region, SURFACE_CHANNELS, Witness};
use crate::geometry::{Camera, PairMaps, PointMap, TwoView, TwoViewOptions, two_view};
use crate::matching::{Match, MatchOptions, ViewMaps, reciprocal_matches};
use crate::model::{Features, Mast3r, PairPrediction};
use crate::scene::{Scene, SceneView};
use crate::views::View;
use crate::{Error, Result};

use self::fetch::{Arriving, Wanted, exactly};
use self::progress::tell;
pub use many::{Keep, PairChoice, ReconstructOptions, Reconstruction, Reconstructor, Times};
pub use progress::{Plan, Progress, Stage, Watch, unwatched};
pub(crate) use seek::DeviceSearch;
pub use work::{NetworkKey, WorkFolder};

/// How two views are reconstructed.
#[derive(Clone, Debug, Default)]
pub struct TwoViewReconstructOptions {
    /// Decode the pair in the other order too: the second view then has a map in its own frame,
    /// which improves its focal length and the pose, for half as much time again.
    pub symmetric: bool,
    /// The search for matches.
    pub matching: MatchOptions,
    /// The solution for cameras.
    pub two_view: TwoViewOptions,
    /// Have the descriptors in [`TwoViewReconstruction::maps`] even where the device sought the matches,
    /// so that they could stay there: of two views of 512x384 they are 38 MB.
    pub keep_descriptors: bool,
}

/// A reconstructed pair.
#[derive(Debug)]
pub struct TwoViewReconstruction {
    /// Cameras, points and colours in the first camera's frame, the matches, and how far these
    /// agree with the cameras.
    pub alignment: Alignment,
    /// What the network said of the two views, the second one's points in the first one's frame.
    /// Descriptors are missing where matches were sought on the device, unless
    /// [`TwoViewReconstructOptions::keep_descriptors`] asks for them.
    pub maps: [ViewMaps; 2],
    /// Pixels that show the same point.
    pub matches: Vec<Match>,
    /// The cameras' solution, or why there is none; the point maps do not depend on it.
    pub cameras: Result<TwoView>,
    /// Where the time went.
    pub times: Times,
}

/// Reconstructs pairs of views with a network.
#[derive(Clone, Debug)]
pub struct TwoViewReconstructor<'a> {
    model: &'a Mast3r,
    downloader: Downloader,
    /// How.
    pub options: TwoViewReconstructOptions,
}

impl<'a> TwoViewReconstructor<'a> {
    /// With default options.
    pub fn new(model: &'a Mast3r) -> Self {
        Self {
            model,
            downloader: Downloader::default(),
            options: TwoViewReconstructOptions::default(),
        }
    }

    /// Reconstructs two views; `watch` is told each stage as it starts, and may cancel the run.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if the network's output is not; errors of the device. That no camera
    /// could be solved is no error here, see [`TwoViewReconstruction::cameras`].
    pub fn run(&self, views: [&View; 2], watch: Watch<'_>) -> Result<TwoViewReconstruction> {
        let started = Instant::now();
        tell(watch, Progress::Begin(Stage::Encode, 1))?;
        let features = self.encode(views)?;
        let encode = started.elapsed();
        tell(watch, Progress::Begin(Stage::Decode, 1))?;
        let decode =
            |first: usize, second: usize| self.model.decode(&features[first], &features[second]);
        let forward = decode(0, 1)?;
        let reverse = if self.options.symmetric {
            Some(decode(1, 0)?)
        } else {
            None
        };
        drop(features);
        self.model.runtime().synchronize()?;
        let decode = started.elapsed() - encode;
        let mut result = self.complete(views, &forward, reverse.as_ref(), watch)?;
        let times = &mut result.times;
        (times.encode, times.decode, times.pairs) = (encode, decode, times.pairs + decode);
        Ok(result)
    }

    /// Reconstructs two views from the network's predictions for them, and for them in the other
    /// order where `reverse` is given; `watch` is told each stage as it starts.
    /// [`TwoViewReconstructOptions::symmetric`] plays no part.
    ///
    /// # Errors
    /// As [`TwoViewReconstructor::run`].
    pub fn complete(
        &self,
        views: [&View; 2],
        forward: &PairPrediction,
        reverse: Option<&PairPrediction>,
        watch: Watch<'_>,
    ) -> Result<TwoViewReconstruction> {
        let started = Instant::now();
        tell(watch, Progress::Begin(Stage::Match, 1))?;
        let [first, second] = views.map(|view| &*view.name);
        let named = |error: Error| error.of_images([first, second]);
        let (options, downloader) = (&self.options.matching, &self.downloader);
        let search = DeviceSearch::begin(self.model, forward, reverse, options, downloader)?;
        let leaves_descriptors = search.is_some() && !self.options.keep_descriptors;
        let wanted = if leaves_descriptors {
            Wanted::Confidences
        } else {
            Wanted::Descriptors
        };
        let pairs: Vec<&PairPrediction> = [forward].into_iter().chain(reverse).collect();
        let fetch = || Arriving::begin(&pairs, wanted, downloader)?.wait();
        let mut arrived = tracing::debug_span!("fetch")
            .in_scope(fetch)
            .map_err(named)?;
        let fetched = started.elapsed();
        let reverse = if reverse.is_some() {
            arrived.pop()
        } else {
            None
        };
        let [maps] = exactly(arrived)?;
        let mut matches = match search {
            Some(search) => search.wait(),
            None => {
                tracing::debug_span!("match").in_scope(|| self.matches(&maps, reverse.as_ref()))
            }
        }
        .map_err(named)?;
        matches.retain(|m| {
            views[0].counts(m.first.x, m.first.y) && views[1].counts(m.second.x, m.second.y)
        });
        let matched = started.elapsed();
        tell(watch, Progress::Begin(Stage::Align, 1))?;
        let (cameras, alignment) = tracing::debug_span!("solve").in_scope(|| {
            let cameras = self.solve(views, &maps, reverse.as_ref(), &matches);
            let mut scene = scene(views, &maps, reverse.as_ref(), cameras.as_ref().ok());
            scene.leave_out_masked(views.map(|view| view.mask.as_ref()));
            let cameras_error = match &cameras {
                Ok(_) => None,
                Err(Error::NoPose { reason }) => Some(reason.clone()),
                Err(error) => Some(error.to_string()),
            };
            (
                cameras,
                Alignment::of_two_views(scene, &matches, cameras_error),
            )
        });
        let times = Times {
            pairs: matched,
            fetch: fetched,
            matching: matched - fetched,
            align: started.elapsed() - matched,
            ..Times::default()
        };
        Ok(TwoViewReconstruction {
            alignment,
            maps,
            matches,
            cameras,
            times,
        })
    }

    fn encode(&self, views: [&View; 2]) -> Result<[Features; 2]> {
        let features = self.model.extractor().encode(&views, true)?;
        <[Features; 2]>::try_from(features).map_err(|features| {
            Error::Internal(format!(
                "two views gave {} sets of features",
                features.len()
            ))
        })
    }

    fn matches(&self, maps: &[ViewMaps; 2], reverse: Option<&[ViewMaps; 2]>) -> Result<Vec<Match>> {
        match reverse {
            None => {
                let [first, second] = maps.each_ref().map(ViewMaps::descriptor_map);
                reciprocal_matches(&first, &second, &self.options.matching)
            }
            Some(reverse) => ViewMaps::matches(maps, reverse, &self.options.matching),
        }
    }

    fn solve(
        &self,
        views: [&View; 2],
        maps: &[ViewMaps; 2],
        reverse: Option<&[ViewMaps; 2]>,
        matches: &[Match],
    ) -> Result<TwoView> {
        let pairs: Vec<_> = matches
            .iter()
            .map(|m| {
                let at = |pixel: crate::matching::Pixel| [f64::from(pixel.x), f64::from(pixel.y)];
                (at(m.first), at(m.second), f64::from(m.confidence))
            })
            .collect();
        let [first, second] = views.map(PictureSize::new);
        // Images of one size are probably of one camera.
        let shared_focal = self.options.two_view.shared_focal || first == second;
        let options = TwoViewOptions {
            shared_focal,
            ..self.options.two_view.clone()
        };
        two_view(pair_maps(maps), reverse.map(pair_maps), &pairs, &options)
    }
}

/// Predictions of pairs, brought to the host together: of each pair the first view and the second.
///
/// # Errors
/// [`Error::NotFinite`] if one is not finite; errors of the device.
pub fn fetch_pairs(pairs: &[&PairPrediction]) -> Result<Vec<[ViewMaps; 2]>> {
    let _span = tracing::debug_span!("fetch").entered();
    Arriving::begin(pairs, Wanted::Descriptors, &Downloader::default())?.wait()
}

/// As [`fetch_pairs`], of one pair.
///
/// # Errors
/// As [`fetch_pairs`].
pub fn fetch(pair: &PairPrediction) -> Result<[ViewMaps; 2]> {
    let [maps] = exactly(fetch_pairs(&[pair])?)?;
    Ok(maps)
}

fn pair_maps([first, second]: &[ViewMaps; 2]) -> PairMaps<'_> {
    PairMaps {
        first: &first.points,
        second: &second.points,
    }
}

/// The scene in the first camera's frame, which is the frame of both point maps.
///
/// With both decodes and solved cameras the points are those of the fused depths, else the
/// network's own.
fn scene(
    views: [&View; 2],
    maps: &[ViewMaps; 2],
    reverse: Option<&[ViewMaps; 2]>,
    cameras: Option<&TwoView>,
) -> Scene {
    let [first, second] = match (cameras, reverse) {
        (Some(solved), Some(reverse)) => {
            solved.point_maps(pair_maps(maps), Some(pair_maps(reverse)))
        }
        _ => [0, 1].map(|index| {
            let points = &maps[index].points;
            (
                points.clone(),
                depths(points, index, cameras.map(|solved| &solved.cameras[index])),
            )
        }),
    };
    let view = |index: usize, (points, depth): (PointMap, Vec<f32>)| SceneView {
        name: views[index].name.clone(),
        crop: views[index].crop,
        camera: cameras.map(|solved| solved.cameras[index]),
        points,
        depth,
        rgb: views[index].rgb.clone(),
        contradicted: None,
        masked: 0,
    };
    Scene {
        views: vec![view(0, first), view(1, second)],
        ..Scene::default()
    }
}

/// Depths along z in the view's own camera; unknown for a second view without one.
fn depths(points: &PointMap, index: usize, camera: Option<&Camera>) -> Vec<f32> {
    match camera {
        Some(camera) => points
            .points
            .iter()
            .map(|p| camera.depth(&Point3::from(p.map(f64::from))) as f32)
            .collect(),
        // The first camera is the world, solved or not.
        None if index == 0 => points.points.iter().map(|p| p[2]).collect(),
        None => vec![f32::NAN; points.points.len()],
    }
}

/// Marks the points of each view that any other view contradicts by more than `px` pixels of the
/// picture that they are of, as [`SceneView::contradicted`]; marks of an earlier check are
/// replaced. The rule is stated in [`geometry::consistency`](crate::geometry::consistency). Views
/// are sampled on `device`; the rest runs on the host. Views without a camera neither judge nor are
/// judged.
///
/// # Errors
/// As [`check_consistency`]; [`Error::Usage`] for a view whose sizes disagree; [`Error::NoCameras`]
/// for a view without a camera where not even two have one; errors of the device.
pub fn mark_contradicted(scene: &mut Scene, px: f32, device: &Device) -> Result<()> {
    check_consistency(px)?;
    scene.check()?;
    let _span = tracing::debug_span!("check").entered();
    let placed: Vec<(usize, &SceneView, &Camera)> = scene
        .views
        .iter()
        .enumerate()
        .filter_map(|(index, view)| Some((index, view, view.camera.as_ref()?)))
        .collect();
    if placed.len() < 2
        && let Some(view) = scene.views.iter().find(|view| view.camera.is_none())
    {
        let what = "the check of views against one another".into();
        return Err(Error::NoCameras {
            what,
            reason: format!("{} has none", view.name),
        });
    }
    let regions: Vec<Vec<Region>> = placed
        .par_iter()
        .map(|(_, view, _)| Region::all(&view.points))
        .collect();
    let mut marks: Vec<(usize, Vec<bool>)> = placed
        .iter()
        .map(|(index, view, _)| (*index, vec![false; view.depth.len()]))
        .collect();
    for (number, &(_, view, camera)) in placed.iter().enumerate() {
        let witness = Witness {
            camera,
            points: &view.points,
            depth: &view.depth,
        };
        let size = (1, view.points.height, view.points.width, SURFACE_CHANNELS);
        let surface = Tensor::from_vec(witness.surface(), size, device)?;
        let judge = |other: usize| -> Result<Vec<usize>> {
            let (_, own, own_camera) = placed[other];
            let seen = regions[other]
                .iter()
                .filter(|region| witness.may_show(region));
            let pixels: Vec<usize> = seen
                .flat_map(|region| region.pixels.iter().copied())
                .collect();
            if pixels.is_empty() {
                return Ok(pixels);
            }
            let points = PointMap {
                width: pixels.len(),
                height: 1,
                points: pixels
                    .iter()
                    .map(|&pixel| own.points.points[pixel])
                    .collect(),
                confidence: pixels
                    .iter()
                    .map(|&pixel| own.points.confidence[pixel])
                    .collect(),
            };
            let places = Tensor::from_vec(
                witness.places(&points.points),
                (1, 1, pixels.len(), 2),
                device,
            )?;
            // Zeros outside make what a sample knows less than 1 there, which is no opinion.
            let samples = grid_sample(&surface, &places, Padding::Zeros, false)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            let judged = witness.contradicted(own_camera, &points, &samples, px.into());
            Ok(pixels
                .into_iter()
                .zip(judged)
                .filter(|(_, judged)| *judged)
                .map(|(pixel, _)| pixel)
                .collect())
        };
        let others: Vec<usize> = (0..placed.len()).filter(|other| *other != number).collect();
        // A GPU samples for one thread at a time.
        let found: Vec<Result<Vec<usize>>> = match device.is_cpu() {
            true => others.par_iter().map(|&other| judge(other)).collect(),
            false => others.iter().map(|&other| judge(other)).collect(),
        };
        for (other, found) in others.into_iter().zip(found) {
            found?
                .into_iter()
                .for_each(|pixel| marks[other].1[pixel] = true);
        }
    }
    for (index, marks) in marks {
        scene.views[index].contradicted = Some(marks);
    }
    Ok(())
}

/// Checks the limit of [`mark_contradicted`].
///
/// # Errors
/// [`Error::Usage`] unless `px` is finite and above zero.
pub fn check_consistency(px: f32) -> Result<()> {
    if px.is_finite() && px > 0.0 {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "the largest reprojection error must be a finite number of pixels above 0, got {px}"
    )))
}
