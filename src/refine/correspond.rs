//! Matches between the files of all pairs: of keypoints, and of patches where these are few.

use std::collections::HashMap;
use std::path::PathBuf;

use image::RgbImage;
use rayon::prelude::*;

use super::RefineOptions;
use super::guidance::expected;
use super::keypoints::keypoints;
use super::matching::{FEW_MATCHES, Features, matches};
use super::patches::{PatchMatch, Patches, refined_matches, shrunk};
use super::plane::{Plane, Scaled};
use super::tracks::{KeypointMatches, Rig};
use crate::alignment::Pair;
use crate::error::Result;
use crate::matching::PairMatches;
use crate::progress::{Progress, Stage, Watch, tell};
use crate::scene::Scene;
use crate::views::{self, Limits, View};

/// Images of which all pairs are matched; of more, those pairs that the network was asked about.
const MOST_COMPLETE: usize = 40;
/// Files that are decoded at a time at most.
const MOST_AT_ONCE: usize = 4;

/// What the files have in common.
pub(super) struct Correspondences {
    /// Keypoints found in each file.
    pub keypoints: Vec<usize>,
    /// Of each file: the keypoints, then the patches.
    pub pixels: Vec<Vec<[f64; 2]>>,
    pub matched: Vec<KeypointMatches>,
}

/// Matches between the files of all pairs, or of many images of the pairs that the network was
/// asked about. `guide` has the aligned cameras.
pub(super) fn correspondences(
    scene: &Scene,
    views: &[View],
    paths: &[PathBuf],
    network_pairs: impl Iterator<Item = Pair>,
    guide: &Rig,
    settings: &RefineOptions,
    watch: Watch<'_>,
) -> Result<Correspondences> {
    let (features, files): (Vec<Features>, Vec<Scaled>) =
        features(views, paths, settings, watch)?.into_iter().unzip();
    let pairs: Vec<[usize; 2]> = if views.len() <= MOST_COMPLETE {
        (0..views.len())
            .flat_map(|two| (0..two).map(move |one| [one, two]))
            .collect()
    } else {
        network_pairs
            .map(|pair| [pair.first, pair.second])
            .collect()
    };
    tell(watch, Progress::Begin(Stage::Match, pairs.len()))?;
    let mut matched: Vec<KeypointMatches> =
        tracing::debug_span!("refine_match").in_scope(|| {
            let matched = |&[one, two]: &[usize; 2]| {
                let expected = expected(guide, [one, two], &scene.views, &features[one]);
                let found = KeypointMatches {
                    views: [one, two],
                    matches: matches(&features[one], &features[two], &expected),
                };
                tell(watch, Progress::Step).map(|()| found)
            };
            pairs.par_iter().map(matched).collect::<Result<_>>()
        })?;
    let mut pixels: Vec<Vec<[f64; 2]>> = features
        .iter()
        .map(|features| features.pixels.clone())
        .collect();
    let patched = tracing::debug_span!("refine_patches")
        .in_scope(|| with_patches(scene, views, &features, files, &matched, &mut pixels));
    matched.extend(patched);
    Ok(Correspondences {
        keypoints: features
            .iter()
            .map(|features| features.pixels.len())
            .collect(),
        pixels,
        matched,
    })
}

/// Matches of the network's, refined between the files, of pairs with few matches of keypoints.
/// Their pixels are appended to those of the keypoints. `files` are the views' [`shrunk`] files.
fn with_patches(
    scene: &Scene,
    views: &[View],
    features: &[Features],
    files: Vec<Scaled<'static>>,
    matched: &[KeypointMatches],
    pixels: &mut [Vec<[f64; 2]>],
) -> Vec<KeypointMatches> {
    let few = if views.len() > 2 {
        FEW_MATCHES
    } else {
        usize::MAX
    };
    let known: HashMap<[usize; 2], usize> = matched
        .iter()
        .map(|pair| (pair.views, pair.matches.len()))
        .collect();
    let is_weak = |pair: &&PairMatches| {
        let [one, two] = pair.views;
        let count = |views: [usize; 2]| known.get(&views).copied().unwrap_or(0);
        count([one, two]).max(count([two, one])) < few
    };
    let weak: Vec<&PairMatches> = scene.matches.iter().filter(is_weak).collect();
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
                &pair.matches,
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
        KeypointMatches {
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
    watch: Watch<'_>,
) -> Result<Vec<(Features, Scaled<'static>)>> {
    tell(watch, Progress::Begin(Stage::Keypoints, views.len()))?;
    let _span = tracing::debug_span!("refine_keypoints").entered();
    let of_view = |(view, rgb): (&View, RgbImage)| {
        let long_side = f64::from(view.crop.file_width.max(view.crop.file_height));
        let image = Plane::of_rgb(&rgb);
        drop(rgb);
        let counts = |pixel: [f64; 2]| {
            view.mask.is_none() || {
                let [x, y] = view.crop.to_framed(pixel);
                x > -0.5 && y > -0.5 && view.counts(x.round() as u32, y.round() as u32)
            }
        };
        let features = Features::new(&keypoints(&image, settings.keypoints, counts), long_side);
        let file = shrunk(&image, views.len()).into_owned();
        tell(watch, Progress::Step).map(|()| (features, file))
    };
    let mut features = Vec::with_capacity(views.len());
    let at_once = rayon::current_num_threads().min(MOST_AT_ONCE);
    for (views, paths) in views.chunks(at_once).zip(paths.chunks(at_once)) {
        let images = views::load_whole_all(paths, &Limits::default())?;
        let found = views.par_iter().zip(images).map(of_view);
        features.extend(found.collect::<Result<Vec<_>>>()?);
    }
    Ok(features)
}
