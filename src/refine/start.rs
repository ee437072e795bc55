//! The cameras that the refinement starts from, which of them share a lens, and what may change.

use std::path::PathBuf;

use super::RefineOptions;
use super::bundle::{Freedom, Priors};
use super::tracks::Rig;
use crate::alignment::{AlignOptions, KnownPoses, PrincipalPoint};
use crate::error::Result;
use crate::geometry::{Intrinsics, LENS_PARAMETERS, Lens, median};
use crate::scene::SceneView;
use crate::views::{self, ExifCamera, Limits};

/// EXIF focal lengths count if the aligned one is not farther off than by this factor.
const MOST_EXIF_FACTOR: f64 = 1.5;

/// Which images share a camera, besides those with the same known intrinsics.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Those of one size with the same EXIF data, or all without.
    OfSize,
    /// Those of one size with the same EXIF data; each one without has a camera of its own.
    OfExif,
    /// Each has a camera of its own.
    None,
}

pub(super) fn exif_cameras(paths: &[PathBuf]) -> Result<Vec<ExifCamera>> {
    paths
        .iter()
        .map(|path| views::exif_camera(path, &Limits::default()))
        .collect()
}

/// The aligned cameras at the files' size, and which images share a lens. That of images without a
/// camera has the EXIF focal length, or the median of the others'.
pub(super) fn start(
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
pub(super) fn freedom(start: &Rig, options: &AlignOptions, settings: &RefineOptions) -> Freedom {
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
