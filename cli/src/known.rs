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
    /// Give all images one focal length: they were taken with one camera at one zoom and have one
    /// size
    ///
    /// By default, images of one size share a focal length where their point maps agree on it to 28
    /// %.
    #[arg(long)]
    shared_focal: bool,

    /// Estimate a focal length for each image: images of one size are not of one camera or zoom
    #[arg(long, conflicts_with = "shared_focal")]
    separate_cameras: bool,

    /// Known intrinsics, held fixed: F or FX,FY,CX,CY for all images, or a file or folder with
    /// those of each
    ///
    /// Numbers are pixels of the original images, held upright, which must then have one size; the
    /// centre of the top left pixel is 0,0, and with F alone the principal point is in the middle.
    /// A file is one as --cameras writes it or nerfstudio's transforms.json, a folder has a COLMAP
    /// model. Cameras that are refined may have the radial distortion k1 and k2, and none any
    /// other. They state their image size and name images as --poses explains. Intrinsics of images
    /// that are not listed are estimated. ./800 is a file.
    #[arg(
        long,
        value_name = "F|FX,FY,CX,CY|PATH",
        conflicts_with = "shared_focal",
        allow_negative_numbers = true
    )]
    intrinsics: Option<KnownIntrinsics>,

    /// Known poses: a file as --cameras writes it, transforms.json, a TUM trajectory or the folder
    /// of a COLMAP model
    ///
    /// A list names images by their paths or by the ends of these, such as left/0.jpg or 0.jpg, and
    /// may have other folders before them; names that fit several images alike are refused. A
    /// trajectory's timestamps are the times that images are named after (1403636579.7635.png, or
    /// by nanoseconds; to 1 ms), or else their indices, from 0. Poses of images that are not listed
    /// are estimated. The world is the file's, and so is the scale if it has two of the images.
    /// Intrinsics of the file are used with --intrinsics alone.
    #[arg(long, value_name = "PATH")]
    poses: Option<PathBuf>,

    /// What is done with --poses
    #[arg(
        long,
        value_name = "USE",
        value_enum,
        default_value_t,
        requires = "poses"
    )]
    poses_as: PosesAs,

    /// Hold focal lengths to what the images' EXIF says, to some 3 %
    ///
    /// It is FocalLengthIn35mmFilm over the diagonal of that film, 43.27 mm, times the image's
    /// diagonal. Where the network's maps speak for one that is more than a quarter off, as of an
    /// image that was cut or zoomed into since, it does not count. Images without one are named
    /// with -v.
    #[arg(long)]
    exif_focal: bool,

    /// Where the principal points are that --intrinsics does not give
    #[arg(long, value_name = "WHERE", value_enum, default_value_t)]
    principal_point: PrincipalPointAt,
}

/// Where intrinsics come from.
#[derive(Clone, Debug, PartialEq)]
enum KnownIntrinsics {
    Shared(SharedIntrinsics),
    Listed(PathBuf),
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum PosesAs {
    /// They stay as they are given
    #[default]
    Fixed,
    /// The optimisation starts there and moves them
    Start,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, ValueEnum)]
enum PrincipalPointAt {
    /// In the middle of the image
    #[default]
    Middle,
    /// Found, one for all images of a size, and held to the middle by 1.5 % of the long side: for
    /// images that were cut, or of a camera whose lens is not quite before the middle; from few
    /// images it is found badly
    Prior,
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
        let known_poses = match self.poses_as {
            PosesAs::Fixed => KnownPoses::Fixed,
            PosesAs::Start => KnownPoses::Start,
        };
        let principal_point = match self.principal_point {
            PrincipalPointAt::Middle => PrincipalPoint::Middle,
            PrincipalPointAt::Prior => PrincipalPoint::Prior,
        };
        let (shared_focal, separate_cameras) = (self.shared_focal, self.separate_cameras);
        Ok(AlignOptions {
            shared_focal,
            separate_cameras,
            known,
            known_poses,
            principal_point,
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
