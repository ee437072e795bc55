//! The refinement of cameras on the images themselves: what `reconstruct` and `align` have in
//! common.

use std::path::PathBuf;

use clap::Args;
use mast3r::Result;
use mast3r::alignment::{AlignOptions, Alignment};
use mast3r::refine::{RefineOptions, Refinement, refine};
use mast3r::views::View;
use serde_json::{Value, json};

use crate::GlobalArgs;
use crate::images::named;
use crate::progress::Line;

/// Whether cameras are refined.
#[derive(Debug, Args)]
pub struct RefineArgs {
    /// Keep the aligned cameras: no bundle adjustment on the image files
    ///
    /// The refinement matches keypoints at the files' full size; where they are few, and for two
    /// images, it refines the network's matches to subpixels of the files too. Images of one size,
    /// EXIF camera model and focal length share a focal length and a radial distortion. Known
    /// intrinsics and fixed poses do not change. Depth maps and points follow the cameras. Images
    /// with too few tracks keep their aligned camera and are named. COLMAP models have the refined
    /// tracks at the size of the files, and cameras with the radial distortion (SIMPLE_RADIAL, or
    /// RADIAL and OPENCV where it was given so).
    #[arg(long, conflicts_with = "refine")]
    no_refine: bool,

    /// Refine the cameras by bundle adjustment on the image files, which is the default; see
    /// --no-refine
    #[arg(long)]
    refine: bool,
}

impl RefineArgs {
    /// Whether the refinement was asked for, not just not refused.
    pub fn is_given(&self) -> bool {
        self.refine
    }

    /// Whether cameras are refined, which needs the images' files.
    pub fn is_on(&self) -> bool {
        !self.no_refine
    }

    /// Refines the cameras if that is wanted, with `line` showing how far it is. `paths` are the
    /// files of `views`; without two of them cameras stay.
    pub fn run(
        &self,
        alignment: &mut Alignment,
        views: &[View],
        paths: &[PathBuf],
        options: &AlignOptions,
        line: &Line,
    ) -> Result<Option<Refinement>> {
        let settings = RefineOptions::default();
        let watch = |event| line.follow(event);
        let refined = || refine(alignment, views, paths, options, &settings, &watch);
        (self.is_on() && paths.len() > 1).then(refined).transpose()
    }
}

/// For a person: what the refinement came to, and the images that keep their aligned cameras.
pub fn say(refinement: &Refinement, alignment: &Alignment, global: &GlobalArgs) {
    if let Some(reason) = &refinement.refused {
        global.say(format_args!("cameras are not refined: {reason}"));
        return;
    }
    let refined = refinement.views.iter().filter(|view| view.refined).count();
    global.say(format_args!(
        "{refined} cameras refined by {} tracks of {:.1} images; reprojection error {:.2} px on average",
        refinement.tracks, refinement.mean_track_length, refinement.error_px
    ));
    let views = || alignment.scene.views.iter().zip(&refinement.views);
    let registered: Vec<String> = views()
        .filter(|(_, report)| report.registered)
        .map(|(view, _)| view.name.clone())
        .collect();
    if !registered.is_empty() {
        global.say(format_args!(
            "  placed by the tracks of the others, without points of their own: {}",
            named(registered)
        ));
    }
    let kept: Vec<String> = views()
        .filter(|(view, report)| view.camera.is_some() && !report.refined)
        .map(|(view, report)| format!("{} ({} tracks)", view.name, report.tracks))
        .collect();
    if !kept.is_empty() {
        global.say(format_args!(
            "  too few tracks, so the aligned cameras stay: {}",
            named(kept)
        ));
    }
}

/// For a program.
pub fn summary(refinement: &Refinement) -> Value {
    let views = refinement.views.iter().map(|view| {
        json!({
            "refined": view.refined,
            "registered": view.registered,
            "keypoints": view.keypoints,
            "tracks": view.tracks,
            "before_px": view.before_px,
            "after_px": view.after_px,
        })
    });
    json!({
        "refused": refinement.refused,
        "tracks": refinement.tracks,
        "mean_track_length": refinement.mean_track_length,
        "mean_error_px": refinement.error_px,
        "cameras": refinement.cameras,
        "views": views.collect::<Vec<_>>(),
    })
}
