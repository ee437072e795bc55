//! From views to a scene: [`Reconstructor`].

mod device_match;
mod encode;
mod features;
mod fetch;
pub mod jobs;
mod joint;
mod key;
mod needs;
mod reconstruct;
mod sharing;
mod work;

use candle_core::{Device, Tensor};
use custom_ops::{Downloader, Padding, grid_sample};
use rayon::prelude::*;

use crate::alignment::{Pair, PairEvidence};
use crate::geometry::consistency::{ReferenceView, Region, SURFACE_CHANNELS};
use crate::geometry::{Camera, PointMap};
use crate::matching::{MatchOptions, ViewMaps};
use crate::model::{Mast3r, PairPrediction};
use crate::scene::{Scene, SceneView};
use crate::{Error, Result};

use self::fetch::{Arriving, Wanted, exactly};
use self::reconstruct::Decoded;
pub use crate::progress::{Plan, Progress, Stage, Watch, unwatched};
pub use device_match::DeviceSearch;
pub use encode::{EncodedImage, encode_images};
pub use key::{DeviceKind, NetworkKey};
pub use needs::Needs;
pub use reconstruct::{
    Keep, MOST_PAIRS_TOGETHER, PairChoice, ReconstructOptions, Reconstruction, Reconstructor,
    RepeatedPairs, Times,
};
pub use work::WorkFolder;

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

/// The evidence of a pair for an alignment, from its predictions in both orders.
///
/// # Errors
/// [`Error::NotFinite`] if they are not finite; errors of the device.
pub fn pair_evidence(
    model: &Mast3r,
    pair: Pair,
    [forward, reverse]: [&PairPrediction; 2],
    matching: &MatchOptions,
) -> Result<PairEvidence> {
    Decoded::new(model, forward, reverse, matching, &Downloader::default())?.evidence(
        pair,
        matching,
        || {},
    )
}

/// Marks the points of each view that any other view contradicts by more than `px` pixels of the
/// image that they are of, as [`SceneView::contradicted`]; marks of an earlier check are
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
        let reference = ReferenceView {
            camera,
            points: &view.points,
            depth: &view.depth,
        };
        let size = (1, view.points.height, view.points.width, SURFACE_CHANNELS);
        let surface = Tensor::from_vec(reference.surface(), size, device)?;
        let judge = |other: usize| -> Result<Vec<usize>> {
            let (_, own, own_camera) = placed[other];
            let seen = regions[other]
                .iter()
                .filter(|region| reference.may_show(region));
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
                reference.places(&points.points),
                (1, 1, pixels.len(), 2),
                device,
            )?;
            // Zeros outside make what a sample knows less than 1 there, which is no opinion.
            let samples = grid_sample(&surface, &places, Padding::Zeros, false)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            let judged = reference.contradicted(own_camera, &points, &samples, px.into());
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
