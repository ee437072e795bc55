//! What is known of cameras beforehand: what every command takes that aligns pictures.

use std::path::PathBuf;

use clap::Args;
use mast3r::Result;
use mast3r::alignment::{AlignOptions, CameraList, KnownCamera};
use mast3r::views::View;

/// Known cameras as they were named.
#[derive(Debug, Args)]
pub struct KnownArgs {
    /// All pictures were taken with one camera at one zoom: give them one focal length
    #[arg(long)]
    shared_focal: bool,

    /// Known focal lengths and principal points, a file as --cameras writes it; they stay as they are
    ///
    /// Pictures are known by name; of those that the file lacks, focal lengths are found.
    #[arg(long, value_name = "FILE", conflicts_with = "shared_focal")]
    intrinsics: Option<PathBuf>,

    /// Known poses, a file as --cameras writes it; they stay as they are
    ///
    /// Pictures are known by name; of those that the file lacks, poses are found. The world is then the file's, and so is
    /// the scale if it places two pictures at least.
    #[arg(long, value_name = "FILE")]
    poses: Option<PathBuf>,
}

impl KnownArgs {
    /// Whether anything is known.
    pub fn is_given(&self) -> bool {
        self.shared_focal || self.intrinsics.is_some() || self.poses.is_some()
    }

    /// The files that are read.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.intrinsics, &self.poses].into_iter().flatten()
    }

    /// The alignment's options for these views.
    pub fn options(&self, views: &[View]) -> Result<AlignOptions> {
        let mut known = vec![KnownCamera::default(); views.len()];
        if let Some(path) = &self.intrinsics {
            CameraList::open(path)?.set_intrinsics(views, &mut known)?;
        }
        if let Some(path) = &self.poses {
            CameraList::open(path)?.set_poses(views, &mut known)?;
        }
        Ok(AlignOptions { shared_focal: self.shared_focal, known })
    }
}
