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
mod guidance;
mod keypoints;
mod matching;
mod patches;
mod plane;
mod solve;
#[cfg(test)]
mod tests;
mod tracks;

use std::collections::HashMap;
use std::path::PathBuf;

use nalgebra::{Isometry3, Similarity3, Translation3, UnitQuaternion, Vector3};
use rayon::prelude::*;

use crate::alignment::{AlignOptions, Alignment, KnownPoses, Pair, PrincipalPoint, components};
use crate::error::Result;
use crate::geometry::procrustes::{Correspondence, similarity};
use crate::geometry::{Camera, Intrinsics, LENS_PARAMETERS, Lens, median};
use crate::scene::{Refined, RefinedTrack, Scene, SceneView, TrackSighting, ViewMatches};
use crate::views::{self, ExifCamera, Limits, View};

use bundle::{Freedom, Priors};
use guidance::expected;
use keypoints::keypoints;
use matching::{Features, matches};
use patches::{PatchMatch, Patches, refined_matches, shrunk};
use plane::{Plane, Scaled};
use tracks::{PairMatches, Point, Rig, Sighting, Tolerance, Track, join, triangulate_all};

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
/// Images of which all pairs are matched; of more, those pairs that the network was asked about.
const MOST_COMPLETE: usize = 40;
/// Pairs with fewer matches of keypoints have the network's too, refined between the files; if
/// there are two images, always.
const FEW_MATCHES: usize = 300;
/// Files that are decoded at a time at most.
const MOST_AT_ONCE: usize = 4;
/// Images without EXIF data share a camera unless errors are smaller by this factor with cameras of
/// their own.
const LEAST_GAIN: f64 = 2.0;
/// EXIF focal lengths count if the aligned one is not farther off than by this factor.
const MOST_EXIF_FACTOR: f64 = 1.5;

/// Refines the cameras of `alignment`, of `views` with the files `paths`, and what depends on them:
/// depth maps, points, and [`Scene::refined`](crate::scene::Scene::refined). `options` are those of
/// the alignment: known cameras stay as they are.
///
/// The frame stays that of the first camera or of the known poses, with the scale of the aligned
/// depths. If the images do not suffice, the scene stays as it is, and [`Refinement::refused`] says
/// why.
///
/// # Errors
/// Those of reading the files.
pub fn refine(
    alignment: &mut Alignment,
    views: &[View],
    paths: &[PathBuf],
    options: &AlignOptions,
    settings: &RefineOptions,
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
    let (features, files): (Vec<Features>, Vec<Scaled>) =
        features(views, paths, settings)?.into_iter().unzip();
    report
        .views
        .iter_mut()
        .zip(&features)
        .for_each(|(view, found)| view.keypoints = found.pixels.len());
    let pairs: Vec<[usize; 2]> = match views.len() <= MOST_COMPLETE {
        true => (0..views.len())
            .flat_map(|two| (0..two).map(move |one| [one, two]))
            .collect(),
        false => alignment
            .pairs
            .iter()
            .map(|pair| [pair.pair.first, pair.pair.second])
            .collect(),
    };
    let cameras = exif_cameras(paths)?;
    let guide = start(&scene.views, &cameras, options, Sharing::None);
    let matched: Vec<PairMatches> = tracing::debug_span!("refine_match").in_scope(|| {
        let matched = |&[one, two]: &[usize; 2]| PairMatches {
            views: [one, two],
            matches: matches(
                &features[one],
                &features[two],
                &expected(&guide, [one, two], &scene.views, &features[one]),
            ),
        };
        pairs.par_iter().map(matched).collect()
    });
    let mut pixels: Vec<Vec<[f64; 2]>> = features
        .iter()
        .map(|features| features.pixels.clone())
        .collect();
    let patched = tracing::debug_span!("refine_patches")
        .in_scope(|| with_patches(scene, views, &features, files, &matched, &mut pixels));
    let matched: Vec<PairMatches> = matched.into_iter().chain(patched).collect();
    let mut tracks = join(&pixels, &matched);
    let seen = |seen: &mut Sighting| seen.depth = depth_at(&scene.views[seen.view], seen.pixel);
    tracks.iter_mut().flatten().for_each(seen);
    let solved = |sharing: Sharing| {
        let _span = tracing::debug_span!("refine_solve").entered();
        let start = start(&scene.views, &cameras, options, sharing);
        let freedom = freedom(&start, options, settings);
        let mut rig = start.clone();
        let points = solve::solve(&mut rig, &tracks, &freedom);
        Solution {
            points: largest_part(points, views.len()),
            start,
            freedom,
            rig,
        }
    };
    let shared = solved(Sharing::OfSize);
    // Images of one size may be of several cameras.
    let best = if options.separate_cameras || views.len() <= 2 {
        shared
    } else {
        let start = start(&scene.views, &cameras, options, Sharing::OfExif);
        let free = freedom(&start, options, settings);
        let gain = solve::gain_of_own_lenses(&shared.rig, &shared.points, &start.lens_of, &free);
        tracing::debug!(gain, "lenses of their own");
        if gain > LEAST_GAIN {
            solved(Sharing::OfExif)
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

/// Which images share a camera, besides those with the same known intrinsics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Those of one size and the same EXIF data, which may be none.
    OfSize,
    /// Those of one size and the same EXIF data.
    OfExif,
    None,
}

/// Cameras and points, and what they were solved from.
struct Solution {
    start: Rig,
    freedom: Freedom,
    rig: Rig,
    points: Vec<Point>,
}

fn exif_cameras(paths: &[PathBuf]) -> Result<Vec<ExifCamera>> {
    paths
        .iter()
        .map(|path| views::exif_camera(path, &Limits::default()))
        .collect()
}

fn mean(errors: &[Vec<f64>]) -> f64 {
    let all = || errors.iter().flatten();
    all().sum::<f64>() / all().count().max(1) as f64
}

/// Matches of the network's, refined between the files, of pairs with few matches of keypoints.
/// Their pixels are appended to those of the keypoints. `files` are the views' [`shrunk`] files.
fn with_patches(
    scene: &Scene,
    views: &[View],
    features: &[Features],
    files: Vec<Scaled<'static>>,
    matched: &[PairMatches],
    pixels: &mut [Vec<[f64; 2]>],
) -> Vec<PairMatches> {
    let few = if views.len() > 2 {
        FEW_MATCHES
    } else {
        usize::MAX
    };
    let known: HashMap<[usize; 2], usize> = matched
        .iter()
        .map(|pair| (pair.views, pair.matches.len()))
        .collect();
    let is_weak = |pair: &&ViewMatches| {
        let [one, two] = pair.views;
        let count = |views: [usize; 2]| known.get(&views).copied().unwrap_or(0);
        count([one, two]).max(count([two, one])) < few
    };
    let weak: Vec<&ViewMatches> = scene.matches.iter().filter(is_weak).collect();
    let mut is_needed = vec![false; views.len()];
    weak.iter()
        .flat_map(|pair| pair.views)
        .for_each(|view| is_needed[view] = true);
    let patches: Vec<Option<Patches>> = files
        .into_par_iter()
        .zip(views)
        .zip(is_needed)
        .map(|((file, view), is_needed)| is_needed.then(|| Patches::new(file, view)))
        .collect();
    let found: Vec<Vec<PatchMatch>> = weak
        .par_iter()
        .map(|pair| {
            let [one, two] = pair.views;
            let (Some(first), Some(second)) = (&patches[one], &patches[two]) else {
                return Vec::new();
            };
            let limit = features[one].epipolar_px().max(features[two].epipolar_px());
            refined_matches(
                [first, second],
                [&scene.views[one], &scene.views[two]],
                &pair.pixels,
                limit,
            )
        })
        .collect();
    let starts: Vec<usize> = pixels.iter().map(Vec::len).collect();
    let corners = |patches: &Option<Patches>| {
        patches
            .iter()
            .flat_map(Patches::corners)
            .collect::<Vec<_>>()
    };
    pixels
        .iter_mut()
        .zip(&patches)
        .for_each(|(pixels, patches)| pixels.extend(corners(patches)));
    let pairs = weak.iter().zip(found).map(|(pair, found)| {
        let [one, two] = pair.views;
        let matches = found.iter().map(|found| {
            pixels[two].push(found.pixel);
            [starts[one] + found.corner, pixels[two].len() - 1]
        });
        PairMatches {
            views: pair.views,
            matches: matches.collect(),
        }
    });
    pairs.collect()
}

/// Keypoints of the views' files, and the files shrunk for patches.
fn features(
    views: &[View],
    paths: &[PathBuf],
    settings: &RefineOptions,
) -> Result<Vec<(Features, Scaled<'static>)>> {
    let _span = tracing::debug_span!("refine_keypoints").entered();
    let of_view = |(view, path): (&View, &PathBuf)| {
        let long_side = f64::from(view.crop.file_width.max(view.crop.file_height));
        let image = Plane::of_rgb(&views::load_whole(path, &Limits::default())?);
        let counts = |pixel: [f64; 2]| {
            view.mask.is_none() || {
                let [x, y] = view.crop.to_framed(pixel);
                x > -0.5 && y > -0.5 && view.counts(x.round() as u32, y.round() as u32)
            }
        };
        let features = Features::new(&keypoints(&image, settings.keypoints, counts), long_side);
        Ok((features, shrunk(&image, views.len()).into_owned()))
    };
    let mut features = Vec::with_capacity(views.len());
    let all: Vec<_> = views.iter().zip(paths).collect();
    for some in all.chunks(rayon::current_num_threads().min(MOST_AT_ONCE)) {
        features.extend(
            some.par_iter()
                .map(|view| of_view(*view))
                .collect::<Result<Vec<_>>>()?,
        );
    }
    Ok(features)
}

/// The aligned cameras at the files' size, and which images share a lens. That of images without a
/// camera has the EXIF focal length, or the median of the others'.
fn start(
    views: &[SceneView],
    cameras: &[ExifCamera],
    options: &AlignOptions,
    sharing: Sharing,
) -> Rig {
    /// What images of one camera have in common.
    #[derive(PartialEq)]
    enum Kind<'a> {
        Known([f64; 6]),
        Own(usize),
        Same(&'a ExifCamera, [u32; 2]),
    }
    let mut kinds: Vec<Kind> = Vec::new();
    let mut focals: Vec<Vec<f64>> = Vec::new();
    let mut rig = Rig {
        camera_from_world: Vec::new(),
        lenses: Vec::new(),
        lens_of: Vec::new(),
    };
    let unknown = ExifCamera::default();
    for (index, (view, camera)) in views.iter().zip(cameras).enumerate() {
        let crop = &view.crop;
        let size = [crop.file_width, crop.file_height];
        let [kx, ky] = crop.scale_to_file();
        let known = options.known.get(index).copied().unwrap_or_default();
        let ([k1, k2], known) = (known.radial, known.intrinsics);
        let kind = match known {
            Some(inside) => Kind::Known([inside.fx, inside.fy, inside.cx, inside.cy, k1, k2]),
            None if options.separate_cameras || sharing == Sharing::None => Kind::Own(index),
            None if sharing == Sharing::OfExif && *camera == unknown => Kind::Own(index),
            None => Kind::Same(camera, [size[0].max(size[1]), size[0].min(size[1])]),
        };
        let upright = |lens: &Lens| [lens.width, lens.height] == size;
        let found = (0..kinds.len()).find(|&at| kinds[at] == kind && upright(&rig.lenses[at]));
        let lens = found.unwrap_or_else(|| {
            let inside = known.unwrap_or(Intrinsics::centred(crop.width, crop.height, 1.0));
            let middle = size.map(|side| (f64::from(side) - 1.0) / 2.0);
            let principal = if known.is_some() {
                crop.to_file([inside.cx, inside.cy])
            } else {
                middle
            };
            let focal = [inside.fx * kx, inside.fy * ky];
            rig.lenses.push(Lens {
                width: size[0],
                height: size[1],
                focal,
                principal,
                radial: [k1, k2],
            });
            kinds.push(kind);
            focals.push(Vec::new());
            kinds.len() - 1
        });
        rig.lens_of.push(lens);
        rig.camera_from_world.push(
            view.camera
                .as_ref()
                .map(|camera| camera.world_from_camera.inverse()),
        );
        focals[lens].extend(
            view.camera
                .as_ref()
                .map(|camera| 0.5 * (camera.intrinsics.fx * kx + camera.intrinsics.fy * ky)),
        );
    }
    let long_side = |lens: &Lens| f64::from(lens.width.max(lens.height));
    let aligned: Vec<Option<f64>> = focals
        .into_iter()
        .map(|focals| median(focals.into_iter()))
        .collect();
    let shares = rig
        .lenses
        .iter()
        .zip(&aligned)
        .filter_map(|(lens, focal)| Some((*focal)? / long_side(lens)));
    let usual_share = median(shares).unwrap_or(1.0);
    for ((lens, kind), aligned) in rig.lenses.iter_mut().zip(&kinds).zip(aligned) {
        let exif = match kind {
            Kind::Known(_) => continue,
            Kind::Own(_) => None,
            Kind::Same(camera, _) => camera.focal_px(lens.width, lens.height),
        };
        let is_near = |exif: &f64| {
            aligned.is_none_or(|aligned| (exif / aligned).ln().abs() < MOST_EXIF_FACTOR.ln())
        };
        let focal = exif
            .filter(is_near)
            .or(aligned)
            .unwrap_or(usual_share * long_side(lens));
        lens.focal = [focal; 2];
    }
    rig
}

/// What may change: all but what is known and, if no pose is, the first.
fn freedom(start: &Rig, options: &AlignOptions, settings: &RefineOptions) -> Freedom {
    let known = |view: usize| options.known.get(view);
    let is_placed = |view: usize| start.camera_from_world[view].is_some();
    let is_fixed = |view: usize| {
        options.known_poses == KnownPoses::Fixed
            && known(view).is_some_and(|known| known.world_from_camera.is_some())
    };
    let views = start.camera_from_world.len();
    // Images without a camera may get one.
    let mut poses: Vec<bool> = (0..views).map(|view| !is_fixed(view)).collect();
    if !(0..views).any(|view| is_placed(view) && is_fixed(view))
        && let Some(first) = (0..views).find(|&view| is_placed(view))
    {
        poses[first] = false;
    }
    let has_free_principal = options.principal_point == PrincipalPoint::Prior;
    let mut free = [false; LENS_PARAMETERS];
    free[0] = true;
    free[1..3]
        .iter_mut()
        .take(settings.radial_terms)
        .for_each(|term| *term = true);
    free[3..].fill(has_free_principal);
    let mut lenses = vec![free; start.lenses.len()];
    for view in
        (0..views).filter(|&view| known(view).is_some_and(|known| known.intrinsics.is_some()))
    {
        lenses[start.lens_of[view]] = [false; LENS_PARAMETERS];
    }
    Freedom {
        poses,
        lenses,
        priors: Priors::of(views),
    }
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

/// The points and sightings of the largest part of the views that share enough of them.
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
    let mut sightings = vec![0usize; parts.len()];
    points
        .iter()
        .flat_map(|point| &point.track)
        .for_each(|seen| sightings[part_of[seen.view]] += 1);
    let Some(largest) = (0..parts.len()).rev().max_by_key(|&part| sightings[part]) else {
        return points;
    };
    let inside: Vec<bool> = part_of.iter().map(|part| *part == largest).collect();
    of_views(points, &inside)
}

/// Points with their sightings by these views alone, two at least.
fn of_views(points: Vec<Point>, inside: &[bool]) -> Vec<Point> {
    let of_point = |mut point: Point| {
        point.track.retain(|seen| inside[seen.view]);
        (point.track.len() >= 2).then_some(point)
    };
    points.into_iter().filter_map(of_point).collect()
}

/// For each view the files' pixels of its tracks with their depths, in the units of the rig.
fn depths_by_view(rig: &Rig, points: &[Point], views: usize) -> Vec<Vec<([f64; 2], f64)>> {
    let mut depths = vec![Vec::new(); views];
    for point in points {
        for seen in &point.track {
            if let Some(local) = rig.local(seen.view, &point.position) {
                depths[seen.view].push((seen.pixel, local.z));
            }
        }
    }
    depths
}

/// The depth that a view has at a pixel of the file, if it has one there.
fn depth_at(view: &SceneView, pixel: [f64; 2]) -> Option<f64> {
    let [x, y] = view.crop.to_framed(pixel).map(f64::round);
    let (width, height) = (view.rgb.width() as usize, view.rgb.height() as usize);
    let is_inside = x >= 0.0 && y >= 0.0 && x < width as f64 && y < height as f64;
    let depth = is_inside.then(|| f64::from(view.depth[y as usize * width + x as usize]));
    depth.filter(|depth| depth.is_finite() && *depth > 0.0)
}

/// Ratios of the depths that a view has and those of its tracks.
fn depth_ratios(view: &SceneView, tracks: &[([f64; 2], f64)]) -> Vec<f64> {
    tracks
        .iter()
        .filter_map(|&(pixel, depth)| Some(depth_at(view, pixel)? / depth))
        .collect()
}

/// From the frame of the bundle adjustment to that of the scene; `ratios` are the [`depth_ratios`]
/// of each view.
///
/// Two fixed poses are the frame. Poses that were a start are moved back to. Else the first refined
/// camera, or the fixed one, stays where it is, and the scale is the one that aligned depths have.
fn world_from_rig(
    views: &[SceneView],
    rig: &Rig,
    ratios: &[Vec<f64>],
    is_refined: &[bool],
    options: &AlignOptions,
) -> Similarity3<f64> {
    let known = |view: &usize| {
        options
            .known
            .get(*view)
            .and_then(|known| known.world_from_camera)
            .is_some()
    };
    let refined: Vec<usize> = (0..views.len()).filter(|&view| is_refined[view]).collect();
    let known: Vec<usize> = refined.iter().copied().filter(known).collect();
    if known.len() >= 2 {
        if options.known_poses == KnownPoses::Fixed {
            return Similarity3::identity();
        }
        let pair = |&view: &usize| {
            let to = views[view]
                .camera
                .as_ref()?
                .world_from_camera
                .translation
                .vector;
            Some(Correspondence {
                from: rig.centre(view)?.into(),
                to: to.into(),
                weight: 1.0,
            })
        };
        let pairs: Vec<Correspondence> = known.iter().filter_map(pair).collect();
        if let Some(found) = similarity(&pairs) {
            return found;
        }
    }
    let scale = median(
        refined
            .iter()
            .flat_map(|&view| ratios[view].iter().copied()),
    )
    .unwrap_or(1.0);
    // One that the alignment left out has no place there.
    let aligned = || refined.iter().find(|&&view| views[view].camera.is_some());
    let anchor = known.first().or_else(aligned).copied().unwrap_or(0);
    let aligned = views[anchor]
        .camera
        .as_ref()
        .map(|camera| camera.world_from_camera);
    let (Some(to), Some(from)) = (aligned, rig.camera_from_world[anchor]) else {
        return Similarity3::identity();
    };
    Similarity3::from_isometry(to, 1.0) * Similarity3::from_scaling(scale) * from
}

/// The pose of a camera in the scene's frame.
fn moved(world_from_rig: &Similarity3<f64>, camera_from_rig: &Isometry3<f64>) -> Isometry3<f64> {
    let pose = world_from_rig * camera_from_rig.inverse();
    let mut rotation: UnitQuaternion<f64> = pose.isometry.rotation;
    rotation.renormalize();
    Isometry3::from_parts(
        Translation3::from(pose.isometry.translation.vector),
        rotation,
    )
}

/// Depths of tracks that a view's own depths are scaled by at least.
const LEAST_DEPTHS: usize = 10;

/// Gives a view its refined camera; its depths are scaled by their `ratios` to those of its tracks,
/// and its points follow.
fn follow(
    view: &mut SceneView,
    world_from_camera: Isometry3<f64>,
    lens: &Lens,
    known: Option<Intrinsics>,
    ratios: &[f64],
    units: f64,
) {
    let [kx, ky] = view.crop.scale_to_file();
    let [cx, cy] = view.crop.to_framed(lens.principal);
    let (width, height) = view.rgb.dimensions();
    let found = Intrinsics {
        width,
        height,
        fx: lens.focal[0] / kx,
        fy: lens.focal[1] / ky,
        cx,
        cy,
    };
    let camera = Camera {
        intrinsics: known.unwrap_or(found),
        world_from_camera,
    };
    let ratio = median(ratios.iter().copied()).filter(|_| ratios.len() >= LEAST_DEPTHS);
    let scale = ratio.map_or(1.0, |ratio| units / ratio);
    view.depth
        .iter_mut()
        .for_each(|depth| *depth = (f64::from(*depth) * scale) as f32);
    for (index, (point, depth)) in view.points.points.iter_mut().zip(&view.depth).enumerate() {
        let pixel = [index % width as usize, index / width as usize].map(|at| at as f64);
        let [x, y] = lens.unproject(view.crop.to_file(pixel));
        let depth = f64::from(*depth);
        let place = world_from_camera.rotation * Vector3::new(x * depth, y * depth, depth)
            + world_from_camera.translation.vector;
        *point = place.map(|value| value as f32).into();
    }
    view.camera = Some(camera);
}

fn refined_track(
    point: &Point,
    world_from_rig: &Similarity3<f64>,
    views: &[SceneView],
) -> RefinedTrack {
    let position = world_from_rig.transform_point(&point.position.into());
    let color = |seen: &Sighting| {
        let view = &views[seen.view];
        let limits = [view.rgb.width(), view.rgb.height()].map(|side| f64::from(side) - 1.0);
        let at = view.crop.to_framed(seen.pixel);
        let [x, y] = [0, 1].map(|axis| at[axis].round().clamp(0.0, limits[axis]) as u32);
        view.rgb.get_pixel(x, y).0
    };
    let colors: Vec<[u8; 3]> = point.track.iter().map(color).collect();
    let count = colors.len() as u32;
    let mean = |channel: usize| {
        (colors
            .iter()
            .map(|rgb| u32::from(rgb[channel]))
            .sum::<u32>()
            + count / 2)
            / count
    };
    RefinedTrack {
        position,
        rgb: [0, 1, 2].map(|channel| mean(channel) as u8),
        sightings: point
            .track
            .iter()
            .map(|seen| TrackSighting {
                view: seen.view,
                pixel: seen.pixel,
            })
            .collect(),
    }
}
