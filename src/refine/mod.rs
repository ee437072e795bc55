//! Cameras as accurate as the images allow: matches between the files at their full size, bundle
//! adjustment of all of them.
//!
//! ```text
//! files ── keypoints ──▶ matching ── pairs checked by epipolar geometry ──▶ tracks
//! where these are few: the network's matches ── patches ── checked likewise ──▶ tracks
//! aligned cameras ──▶ solve: triangulation, bundle adjustment, again and again ◀── tracks
//!                       │ cameras with lens distortion, points
//!                       ▼
//!                 the aligned frame and its scale; depth maps follow ──▶ Scene
//! ```
//!
//! A network sees 224 or 512 pixels of an image that has millions. After the
//! [alignment](crate::alignment) cameras are known to a few percent, from where bundle adjustment
//! converges. Deterministic for any number of threads.
//!
//! Images of one camera share their intrinsics: with a focal length for each, and without lens
//! distortion, the same procedure can settle at a focal length that is 20 % off with errors of half
//! a pixel.

mod bundle;
mod correspond;
mod epipolar;
mod follow;
mod guidance;
mod keypoints;
mod matching;
mod patches;
mod plane;
mod solve;
mod start;
#[cfg(test)]
mod tests;
mod tracks;

use std::path::PathBuf;

use crate::alignment::{AlignOptions, Alignment, Pair, components};
use crate::error::Result;
use crate::geometry::median;
use crate::progress::{Progress, Stage, Watch, tell};
use crate::scene::{Refined, SceneView};
use crate::views::View;

use bundle::Freedom;
use correspond::correspondences;
use follow::{depth_ratios, depths_by_view, follow, moved, refined_track, world_from_rig};
use start::{Sharing, exif_cameras, freedom, start};
use tracks::{Observation, Point, Rig, Tolerance, Track, join, triangulate_all};

/// How cameras are refined.
#[derive(Clone, Debug)]
pub struct RefineOptions {
    /// Radial terms of the lens distortion, 0 to 2.
    pub radial_terms: usize,
    /// Keypoints an image.
    pub keypoints: usize,
}

impl Default for RefineOptions {
    fn default() -> Self {
        Self {
            radial_terms: 1,
            keypoints: 5000,
        }
    }
}

/// What became of the refinement.
#[derive(Clone, Debug, Default)]
pub struct Refinement {
    /// Of each view.
    pub views: Vec<ViewRefinement>,
    /// Tracks that agree with the refined cameras.
    pub tracks: usize,
    /// Images that see a track, on average.
    pub mean_track_length: f64,
    /// Mean reprojection error of the tracks, pixels of the files.
    pub error_px: f64,
    /// Cameras with intrinsics of their own among the refined images.
    pub cameras: usize,
    /// Why nothing was refined, if nothing was.
    pub refused: Option<String>,
}

/// What became of a view.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ViewRefinement {
    /// Whether its camera was refined; one with too few tracks keeps its aligned camera.
    pub refined: bool,
    /// Whether the alignment had left it out: it has a camera now, but no points.
    pub registered: bool,
    /// Keypoints found in its file.
    pub keypoints: usize,
    /// Those that belong to tracks that agree with the cameras.
    pub tracks: usize,
    /// Median reprojection error of these, pixels of the file: with the aligned cameras and with
    /// the refined ones.
    pub before_px: Option<f64>,
    /// See above.
    pub after_px: Option<f64>,
}

/// Tracks that a refined image sees at least, and that it shares with another one.
const LEAST_TRACKS: usize = 30;
const LEAST_SHARED: usize = 12;
/// Images without EXIF data share a camera unless errors are smaller by this factor with cameras of
/// their own.
const LEAST_GAIN: f64 = 2.0;

/// Refines the cameras of `alignment`, of `views` with the files `paths`, and what depends on them:
/// depth maps, points, and [`Scene::refined`](crate::scene::Scene::refined). `options` are those of
/// the alignment: known cameras stay as they are.
///
/// The frame stays that of the first camera or of the known poses, with the scale of the aligned
/// depths. If the images do not suffice, the scene stays as it is, and [`Refinement::refused`] says
/// why.
///
/// `watch` is told of [`Stage::Keypoints`], [`Stage::Match`] and [`Stage::Refine`], and may end the
/// refinement, which leaves the scene as it was.
///
/// # Errors
/// Those of reading the files; [`Error::Cancelled`](crate::Error::Cancelled).
pub fn refine(
    alignment: &mut Alignment,
    views: &[View],
    paths: &[PathBuf],
    options: &AlignOptions,
    settings: &RefineOptions,
    watch: Watch<'_>,
) -> Result<Refinement> {
    let mut report = Refinement {
        views: vec![ViewRefinement::default(); views.len()],
        ..Refinement::default()
    };
    let scene = &mut alignment.scene;
    let placed: Vec<bool> = scene
        .views
        .iter()
        .map(|view| view.camera.is_some())
        .collect();
    if placed.iter().filter(|placed| **placed).count() < 2 {
        report.refused = Some("fewer than two images have a camera".into());
        return Ok(report);
    }
    let cameras = exif_cameras(paths)?;
    let guide = start(&scene.views, &cameras, options, Sharing::None);
    let network_pairs = alignment.pairs.iter().map(|pair| pair.pair);
    let found = correspondences(scene, views, paths, network_pairs, &guide, settings, watch)?;
    tell(watch, Progress::Begin(Stage::Refine, 1))?;
    report
        .views
        .iter_mut()
        .zip(&found.keypoints)
        .for_each(|(view, count)| view.keypoints = *count);
    let mut tracks = join(&found.pixels, &found.matched);
    let seen = |seen: &mut Observation| seen.depth = depth_at(&scene.views[seen.view], seen.pixel);
    tracks.iter_mut().flatten().for_each(seen);
    let started = |sharing: Sharing| {
        let start = start(&scene.views, &cameras, options, sharing);
        let freedom = freedom(&start, options, settings);
        (start, freedom)
    };
    let solved = |(start, freedom): (Rig, Freedom)| {
        let _span = tracing::debug_span!("refine_solve").entered();
        let mut rig = start.clone();
        let points = solve::solve(&mut rig, &tracks, &freedom);
        Solution {
            points: largest_part(points, views.len()),
            start,
            freedom,
            rig,
        }
    };
    let shared = solved(started(Sharing::OfSize));
    // Images of one size may be of several cameras.
    let best = if options.separate_cameras || views.len() <= 2 {
        shared
    } else {
        let own = started(Sharing::OfExif);
        let gain = solve::gain_of_own_lenses(&shared.rig, &shared.points, &own.0.lens_of, &own.1);
        tracing::debug!(gain, "lenses of their own");
        if gain > LEAST_GAIN {
            solved(own)
        } else {
            shared
        }
    };
    let Solution {
        start,
        freedom,
        rig,
        points,
    } = best;
    let before = aligned_errors(&start, &points, views.len());
    let after = solve::errors_px(&rig, &points, views.len());
    for ((view, placed), (before, after)) in report
        .views
        .iter_mut()
        .zip(placed)
        .zip(before.into_iter().zip(&after))
    {
        view.tracks = after.len();
        view.refined = after.len() >= LEAST_TRACKS;
        view.registered = view.refined && !placed;
        (view.before_px, view.after_px) =
            (median(before.into_iter()), median(after.iter().copied()));
    }
    let is_refined: Vec<bool> = report.views.iter().map(|view| view.refined).collect();
    let refined = is_refined.iter().filter(|refined| **refined).count();
    let overall =
        |of: fn(&ViewRefinement) -> Option<f64>| median(report.views.iter().filter_map(of));
    let (before_px, after_px) = (
        overall(|view| view.before_px),
        overall(|view| view.after_px),
    );
    if refined < 2 {
        report.refused = Some(format!("fewer than two images share {LEAST_TRACKS} tracks"));
        return Ok(report);
    }
    if let (Some(before), Some(after)) = (before_px, after_px)
        && before < after
    {
        report.refused = Some(format!(
            "the median reprojection error would grow from {before:.2} to {after:.2} px"
        ));
        return Ok(report);
    }
    let points = of_views(points, &is_refined);
    let after = solve::errors_px(&rig, &points, views.len());
    let count: usize = points.iter().map(|point| point.track.len()).sum();
    report.tracks = points.len();
    report.mean_track_length = count as f64 / points.len() as f64;
    report.error_px = mean(&after);
    let depths = depths_by_view(&rig, &points, views.len());
    let ratios: Vec<Vec<f64>> = scene
        .views
        .iter()
        .zip(&depths)
        .map(|(view, tracks)| depth_ratios(view, tracks))
        .collect();
    let world_from_rig = world_from_rig(&scene.views, &rig, &ratios, &is_refined, options);
    let mut used: Vec<usize> = (0..views.len())
        .filter(|&view| is_refined[view])
        .map(|view| rig.lens_of[view])
        .collect();
    used.sort_unstable();
    used.dedup();
    report.cameras = used.len();
    for (index, view) in scene
        .views
        .iter_mut()
        .enumerate()
        .filter(|(index, _)| is_refined[*index])
    {
        let Some(pose) = &rig.camera_from_world[index] else {
            continue;
        };
        let is_fixed = !freedom.poses[index];
        let aligned = view.camera.map(|camera| camera.world_from_camera);
        let moved = moved(&world_from_rig, pose);
        // What is held fixed is passed on exactly, free of rounding.
        let pose = if is_fixed {
            aligned.unwrap_or(moved)
        } else {
            moved
        };
        let known = options.known.get(index).and_then(|known| known.intrinsics);
        follow(
            view,
            pose,
            rig.lens(index),
            known,
            &ratios[index],
            world_from_rig.scaling(),
        );
    }
    let lenses = (0..views.len())
        .map(|view| is_refined[view].then(|| *rig.lens(view)))
        .collect();
    let tracks = points
        .iter()
        .map(|point| refined_track(point, &world_from_rig, &scene.views))
        .collect();
    scene.refined = Some(Refined { lenses, tracks });
    alignment
        .views
        .iter_mut()
        .zip(&is_refined)
        .for_each(|(view, refined)| view.placed |= refined);
    Ok(report)
}

/// Cameras and points, and what they were solved from.
struct Solution {
    start: Rig,
    freedom: Freedom,
    rig: Rig,
    points: Vec<Point>,
}

fn mean(errors: &[Vec<f64>]) -> f64 {
    let all = || errors.iter().flatten();
    all().sum::<f64>() / all().count().max(1) as f64
}

/// Errors of the points' tracks with the aligned cameras, for each view, pixels.
fn aligned_errors(start: &Rig, points: &[Point], views: usize) -> Vec<Vec<f64>> {
    let tracks: Vec<Track> = points.iter().map(|point| point.track.clone()).collect();
    let anywhere = Tolerance {
        share: 0.5,
        px: 0.0,
    };
    solve::errors_px(start, &triangulate_all(start, &tracks, anywhere), views)
}

/// The points and observations of the largest part of the views that share enough of them.
fn largest_part(points: Vec<Point>, views: usize) -> Vec<Point> {
    let mut shared = vec![0usize; views * views];
    for point in &points {
        for (at, one) in point.track.iter().enumerate() {
            point.track[..at]
                .iter()
                .for_each(|two| shared[one.view * views + two.view] += 1);
        }
    }
    let is_link = |pair: &Pair| shared[pair.second * views + pair.first] >= LEAST_SHARED;
    let pairs = (0..views).flat_map(|second| (0..second).map(move |first| Pair { first, second }));
    let parts = components(views, pairs.filter(is_link));
    let mut part_of = vec![0; views];
    parts
        .iter()
        .enumerate()
        .for_each(|(part, members)| members.iter().for_each(|&view| part_of[view] = part));
    let mut observations = vec![0usize; parts.len()];
    points
        .iter()
        .flat_map(|point| &point.track)
        .for_each(|seen| observations[part_of[seen.view]] += 1);
    let Some(largest) = (0..parts.len())
        .rev()
        .max_by_key(|&part| observations[part])
    else {
        return points;
    };
    let inside: Vec<bool> = part_of.iter().map(|part| *part == largest).collect();
    of_views(points, &inside)
}

/// Points with their observations by these views alone, two at least.
fn of_views(points: Vec<Point>, inside: &[bool]) -> Vec<Point> {
    let of_point = |mut point: Point| {
        point.track.retain(|seen| inside[seen.view]);
        (point.track.len() >= 2).then_some(point)
    };
    points.into_iter().filter_map(of_point).collect()
}

/// The depth that a view has at a pixel of the file, if it has one there.
fn depth_at(view: &SceneView, pixel: [f64; 2]) -> Option<f64> {
    let [x, y] = view.crop.to_framed(pixel).map(f64::round);
    let (width, height) = (view.rgb.width() as usize, view.rgb.height() as usize);
    let is_inside = x >= 0.0 && y >= 0.0 && x < width as f64 && y < height as f64;
    let depth = is_inside.then(|| f64::from(view.depth[y as usize * width + x as usize]));
    depth.filter(|depth| depth.is_finite() && *depth > 0.0)
}
