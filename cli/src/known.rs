//! What is known of cameras beforehand: what every command takes that aligns images.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use mast3r::alignment::{
    AlignOptions, CameraList, KnownCamera, KnownPoses, PrincipalPoint, SharedIntrinsics,
};
use mast3r::views::{Limits, View, exif_camera};
use mast3r::{Error, Result, Visible};

use crate::GlobalArgs;
use crate::images::named;

/// Known cameras as they were named.
#[derive(Debug, Args)]
pub struct KnownArgs {
    /// Use one focal length for all images: one camera, one zoom, one image size
    ///
    /// By default, images of one size share a focal length if their point maps agree on it to 28 %.
    #[arg(long)]
    shared_focal: bool,

    /// Estimate one focal length for each image, also for images of one size
    #[arg(long, conflicts_with = "shared_focal")]
    separate_cameras: bool,

    /// Known intrinsics, held fixed: F or FX,FY,CX,CY for all images, or a file or folder with one
    /// set for each image
    ///
    /// Numbers are pixels of the upright original images, which must have one size; the centre of
    /// the top left pixel is 0,0; with F alone the principal point is the image centre. A file has
    /// the layout of --cameras or is nerfstudio's transforms.json; a folder has a COLMAP model.
    /// Radial distortion k1, k2 is supported with the refinement only, other distortion is not.
    /// Images are named as for --poses. Intrinsics of images that are not listed are estimated. A
    /// file called 800 is ./800.
    #[arg(
        long,
        value_name = "F|FX,FY,CX,CY|PATH",
        conflicts_with = "shared_focal",
        allow_negative_numbers = true
    )]
    intrinsics: Option<KnownIntrinsics>,

    /// Known poses: a file with the layout of --cameras, transforms.json, a TUM trajectory or the
    /// folder of a COLMAP model
    ///
    /// The file names images by path or by the end of the path, such as left/0.jpg or 0.jpg; a name
    /// that fits several images is refused. The timestamps of a trajectory match image names
    /// (1403636579.7635.png, or in nanoseconds; to 1 ms), or else image indices from 0. Poses of
    /// images that are not listed are estimated. The world frame is the file's, and so is the scale
    /// if it lists two or more of the images. Its intrinsics are used only with --intrinsics.
    #[arg(long, value_name = "PATH")]
    poses: Option<PathBuf>,

    /// How to use --poses
    #[arg(
        long,
        alias = "poses-as",
        value_name = "MODE",
        value_enum,
        default_value_t,
        requires = "poses"
    )]
    pose_mode: PoseMode,

    /// Keep focal lengths near EXIF's, to about 3 %
    ///
    /// Focal length in pixels = FocalLengthIn35mmFilm / 43.27 mm times the image diagonal. Ignored
    /// where the network's estimate differs by more than a quarter, as for an image that was
    /// cropped. -v names images without it.
    #[arg(long)]
    exif_focal: bool,

    /// Estimate the principal point where --intrinsics does not give it, instead of the image centre
    ///
    /// One for all images of a size, near the centre (1.5 % of the long side): for cropped images or
    /// a shifted lens. Unreliable with few images.
    #[arg(long)]
    refine_principal_point: bool,
}

/// Where intrinsics come from.
#[derive(Clone, Debug, PartialEq)]
enum KnownIntrinsics {
    Shared(SharedIntrinsics),
    Listed(PathBuf),
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum PoseMode {
    /// Hold them fixed
    #[default]
    Fixed,
    /// Start the optimisation from them
    #[value(alias = "start")]
    Init,
}

impl FromStr for KnownIntrinsics {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers: Result<Vec<f64>, _> = text
            .split(',')
            .map(|number| number.trim().parse())
            .collect();
        match numbers.as_deref() {
            Err(_) => Ok(Self::Listed(text.into())),
            Ok(&[focal]) => Ok(Self::Shared(SharedIntrinsics::Focal(focal))),
            Ok(&[fx, fy, cx, cy]) => Ok(Self::Shared(SharedIntrinsics::Pinhole { fx, fy, cx, cy })),
            Ok(numbers) => Err(format!("{} numbers; give F or FX,FY,CX,CY", numbers.len())),
        }
    }
}

impl KnownArgs {
    /// Whether the files of the images are read.
    pub fn needs_images(&self) -> bool {
        self.exif_focal
    }

    /// The files and folders that are read.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let intrinsics = match &self.intrinsics {
            Some(KnownIntrinsics::Listed(path)) => Some(path),
            _ => None,
        };
        [intrinsics, self.poses.as_ref()].into_iter().flatten()
    }

    /// The alignment's options for these views; `images` are their files, where they are needed.
    /// Lens distortion is an error unless the cameras are `refined`.
    pub fn options(
        &self,
        views: &[View],
        images: &[PathBuf],
        refined: bool,
        global: &GlobalArgs,
    ) -> Result<AlignOptions> {
        let mut known = vec![KnownCamera::default(); views.len()];
        match &self.intrinsics {
            Some(KnownIntrinsics::Shared(shared)) => {
                shared
                    .set(views, &mut known)
                    .map_err(|error| Error::Usage(format!("--intrinsics: {error}")))?;
            }
            Some(KnownIntrinsics::Listed(path)) => {
                let list = CameraList::open(path)?;
                list.set_intrinsics(views, &mut known)?;
                let bent = views
                    .iter()
                    .zip(&known)
                    .find(|(_, known)| known.radial != [0.0; 2]);
                if let (Some((view, _)), false) = (bent, refined) {
                    let reason = format!(
                        "{}: its camera has lens distortion, which the alignment takes images not to have; the \
                         refinement alone knows (align: --images, and no --no-refine), or undistort first",
                        Visible(&view.name)
                    );
                    return Err(Error::input(path, reason));
                }
                tell_unknown("--intrinsics", &list, views, global)?;
            }
            None => {}
        }
        if let Some(path) = &self.poses {
            let list = CameraList::open(path)?;
            list.set_poses(views, &mut known)?;
            tell_unknown("--poses", &list, views, global)?;
        }
        if self.exif_focal {
            set_exif_focals(views, images, &mut known, global)?;
        }
        let known_poses = match self.pose_mode {
            PoseMode::Fixed => KnownPoses::Fixed,
            PoseMode::Init => KnownPoses::Start,
        };
        let principal_point = if self.refine_principal_point {
            PrincipalPoint::Prior
        } else {
            PrincipalPoint::Middle
        };
        let (shared_focal, separate_cameras) = (self.shared_focal, self.separate_cameras);
        Ok(AlignOptions {
            shared_focal,
            separate_cameras,
            known,
            known_poses,
            principal_point,
            ..AlignOptions::default()
        })
    }
}

/// Names what a list has of images that are not given.
fn tell_unknown(flag: &str, list: &CameraList, views: &[View], global: &GlobalArgs) -> Result<()> {
    let names = list.unknown_names(views)?;
    if !names.is_empty() {
        global.say(format_args!(
            "{flag}: no image is named {}",
            named(names.into_iter().map(String::from))
        ));
    }
    Ok(())
}

fn set_exif_focals(
    views: &[View],
    images: &[PathBuf],
    known: &mut [KnownCamera],
    global: &GlobalArgs,
) -> Result<()> {
    let mut found = 0;
    for ((view, image), known) in views.iter().zip(images).zip(known) {
        let (width, height) = (view.crop.file_width, view.crop.file_height);
        match exif_camera(image, &Limits::default())?.focal_px(width, height) {
            Some(focal) => {
                known.probable_focal = Some(focal / view.crop.scale_to_file()[0]);
                found += 1;
            }
            None => tracing::info!(
                "{}: no FocalLengthIn35mmFilm in its EXIF data",
                image.display()
            ),
        }
    }
    if found == 0 {
        global.say("--exif-focal: no image has FocalLengthIn35mmFilm in its EXIF data");
    }
    Ok(())
}
