//! Cameras that are known beforehand: one for all images, or of each from a `cameras.json` as this
//! program writes it, a `transforms.json`, a TUM trajectory or a COLMAP model.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nalgebra::{Isometry3, Matrix3, Matrix4, Rotation3, Translation3, UnitQuaternion};
use serde_json::Value;

use crate::error::{Error, Result, Visible};
use crate::formats::{
    Inside, ListedCamera, ListedIntrinsics, cameras, colmap, trajectory, transforms,
};
use crate::geometry::Intrinsics;
use crate::input::read_text;
use crate::scene::Scene;
use crate::views::View;
use crate::views::names::{self, Ambiguity, Identity};

/// Files that stand for the COLMAP model that they are a part of.
const PARTS_OF_MODEL: [&str; 6] = [
    "cameras.bin",
    "images.bin",
    "points3D.bin",
    "cameras.txt",
    "images.txt",
    "points3D.txt",
];

/// How far a matrix may be from a rotation, per element.
const ROUNDING: f64 = 1e-3;

/// Focal lengths beyond these, in long sides of the image, are a mistake (175 and half a degree
/// wide).
const FOCAL_RANGE: [f64; 2] = [0.02, 100.0];
/// Principal points farther from the middle than so many sides of the image are one too.
const FARTHEST_PRINCIPAL_POINT: f64 = 5.0;

/// Largest relative difference of two proportions of width to height that are one and the same but
/// for whole pixels.
const SAME_PROPORTIONS: f64 = 0.01;

/// What is known of a view's camera.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KnownCamera {
    /// At the size of the view; they stay as they are given.
    pub intrinsics: Option<Intrinsics>,
    /// k1 and k2 of the lens distortion that belongs to `intrinsics`, see
    /// [`Lens`](crate::geometry::Lens). The refinement keeps to it; the alignment takes lenses to
    /// have none.
    pub radial: [f64; 2],
    /// In the world that the scene is to be in; where two views or more have one, they settle its
    /// scale too.
    pub world_from_camera: Option<Isometry3<f64>>,
    /// A focal length that is probable to some 3 percent, pixels at the size of the view. One that
    /// is more than a quarter off what the maps speak for is not believed.
    pub probable_focal: Option<f64>,
}

/// What is done with poses that are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KnownPoses {
    /// They stay as they are given.
    #[default]
    Fixed,
    /// They are where the optimisation starts; its result is moved to be nearest to them.
    Start,
}

/// One set of intrinsics for all images, pixels of the upright file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SharedIntrinsics {
    /// A focal length; the principal point is in the middle of the image.
    Focal(f64),
    /// Focal lengths and principal point. The centre of the top left pixel is (0, 0).
    Pinhole {
        /// Horizontal focal length.
        fx: f64,
        /// Vertical focal length.
        fy: f64,
        /// Column of the principal point.
        cx: f64,
        /// Row of the principal point.
        cy: f64,
    },
}

/// Cameras of images by name: the content of a `cameras.json`, a `transforms.json`, a trajectory or
/// a COLMAP model, as far as it is read.
#[derive(Debug)]
pub struct CameraList {
    path: PathBuf,
    images: Vec<ListedCamera>,
    naming: Naming,
}

/// How a list says which images it is about.
#[derive(Debug)]
enum Naming {
    /// By their paths.
    Paths,
    /// By their paths, whose extension may be missing.
    BarePaths,
    /// By the times that they are named after or by their indices, for each entry.
    Times(Vec<Duration>),
}

impl CameraList {
    /// Reads a `cameras.json` as this program writes it, a `transforms.json` of nerfstudio or
    /// instant-ngp, or a TUM trajectory; of a folder the COLMAP model, `.bin` or `.txt`, in it or
    /// at the usual places below it, such as `sparse/0`, or else its `transforms.json`.
    ///
    /// Images are known by name: see [`names::assign`]. Poses of a trajectory belong to the images
    /// that are named after their times or, where these are whole numbers and images are not named
    /// after times, to those of that index.
    ///
    /// # Errors
    /// [`Error::Input`] if it is missing or no list of cameras; [`Error::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let list = |images, naming| {
            Ok(Self {
                path: path.to_path_buf(),
                images,
                naming,
            })
        };
        if path.is_dir() {
            let transforms = path.join(transforms::FILE);
            if transforms.is_file() && !colmap::is_model(path) {
                return Self::open(transforms);
            }
            return list(colmap::read(path)?, Naming::Paths);
        }
        let is_part_of_model = path
            .file_name()
            .is_some_and(|name| PARTS_OF_MODEL.iter().any(|part| name == *part));
        if is_part_of_model && path.is_file() {
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            return list(colmap::read(folder)?, Naming::Paths);
        }
        let text = read_text(path)?;
        if !text.trim_start().starts_with(['{', '[']) {
            let (images, times) = trajectory::read(&text, path)?;
            return list(images, Naming::Times(times));
        }
        let is_transforms =
            serde_json::from_str::<Value>(&text).is_ok_and(|value| value.get("frames").is_some());
        match is_transforms {
            true => list(transforms::read(&text, path)?, Naming::BarePaths),
            false => list(cameras::read(&text, path)?, Naming::Paths),
        }
    }

    /// The cameras of a scene, as its `cameras.json` lists them; messages call the list `path`.
    pub(crate) fn of_scene(scene: &Scene, path: &Path) -> Result<Self> {
        let mut text = Vec::new();
        cameras::CamerasFile::new(scene)?
            .write(&mut text)
            .map_err(|error| Error::io(path, error))?;
        Ok(Self {
            path: path.to_path_buf(),
            images: cameras::read(&String::from_utf8_lossy(&text), path)?,
            naming: Naming::Paths,
        })
    }

    /// The cameras as they are listed.
    pub(crate) fn entries(&self) -> &[ListedCamera] {
        &self.images
    }

    /// The times of the entries, where these are the poses of a trajectory.
    pub(crate) fn times(&self) -> Option<&[Duration]> {
        match &self.naming {
            Naming::Times(times) => Some(times),
            _ => None,
        }
    }

    /// The names of the list that are no image's among `views`.
    ///
    /// # Errors
    /// As [`Self::set_poses`] for names that could be several images'.
    pub fn unknown_names<'a>(&'a self, views: &[View]) -> Result<Vec<&'a str>> {
        // Of a trajectory's poses most are usually of other times.
        if let Naming::Times(_) = self.naming {
            return Ok(Vec::new());
        }
        let known: HashSet<usize> = self.assigned(views)?.into_iter().flatten().collect();
        let names = self
            .images
            .iter()
            .enumerate()
            .filter(|(index, _)| !known.contains(index));
        Ok(names.map(|(_, entry)| &*entry.name).collect())
    }

    /// Sets the intrinsics of `known`, one entry a view, of every view that the list knows by name,
    /// at the view's size. Returns how many there are.
    ///
    /// # Errors
    /// [`Error::Input`] for numbers that are no camera's, of a camera with distortion other than
    /// [`KnownCamera::radial`] or of an image of another shape, and if no view has any.
    pub fn set_intrinsics(&self, views: &[View], known: &mut [KnownCamera]) -> Result<usize> {
        self.set(views, known, |entry, view, known| {
            let sizes = match &entry.inside {
                Inside::Unknown => return Ok(false),
                Inside::Unusable(reason) => return Err(self.refusal(entry, reason)),
                Inside::FieldOfView(angle) => {
                    let (width, height) = (view.crop.file_width, view.crop.file_height);
                    let file = Intrinsics::centred(
                        width,
                        height,
                        f64::from(width) / 2.0 / (angle / 2.0).tan(),
                    );
                    if let Some(fault) = fault(&file) {
                        return Err(self.refusal(entry, &fault));
                    }
                    known.intrinsics = Some(at_view(&file, view));
                    return Ok(true);
                }
                Inside::Known(sizes) => sizes,
            };
            let found = sizes
                .iter()
                .find_map(|sized| sized.of_size(view))
                .or_else(|| sizes[0].of_proportions(view));
            let found = found.ok_or_else(|| {
                let (ListedIntrinsics { width, height, .. }, crop) = (sizes[0], view.crop);
                let image = format!("{}x{}", crop.file_width, crop.file_height);
                self.refusal(
                    entry,
                    &format!("its camera is of {width}x{height} pixels, and the image has {image}"),
                )
            })?;
            if let Some(fault) = fault(&found) {
                return Err(self.refusal(entry, &fault));
            }
            if !sizes[0].radial.iter().all(|term| term.is_finite()) {
                return Err(self.refusal(entry, "its lens distortion is not finite"));
            }
            (known.intrinsics, known.radial) = (Some(found), sizes[0].radial);
            Ok(true)
        })
    }

    /// Sets the poses of `known`, one entry a view, of every view that the list knows by name and
    /// has a pose of. Returns how many there are.
    ///
    /// # Errors
    /// [`Error::Input`] for a matrix that is not a pose, and if no view has one.
    pub fn set_poses(&self, views: &[View], known: &mut [KnownCamera]) -> Result<usize> {
        self.set(views, known, |entry, _, known| {
            let Some(rows) = entry.world_from_camera else {
                return Ok(false);
            };
            known.world_from_camera = Some(pose(&rows).ok_or_else(|| {
                self.refusal(entry, "its pose is not a rotation and translation")
            })?);
            Ok(true)
        })
    }

    fn set(
        &self,
        views: &[View],
        known: &mut [KnownCamera],
        set: impl Fn(&ListedCamera, &View, &mut KnownCamera) -> Result<bool>,
    ) -> Result<usize> {
        let mut count = 0;
        let assigned = self.assigned(views)?;
        for ((view, known), entry) in views.iter().zip(known).zip(&assigned) {
            if let Some(entry) = entry {
                count += usize::from(set(&self.images[*entry], view, known)?);
            }
        }
        if count == 0 {
            let names = |names: &mut dyn Iterator<Item = &str>| match (names.next(), names.count())
            {
                (None, _) => "none".into(),
                (Some(one), 0) => Visible(one).to_string(),
                (Some(one), more) => format!("{} and {more} more", Visible(one)),
            };
            let listed = names(&mut self.images.iter().map(|entry| &*entry.name));
            let given = names(&mut views.iter().map(|view| &*view.name));
            let reason = format!("it has nothing on these images ({given}); it lists {listed}");
            return Err(Error::input(&self.path, reason));
        }
        Ok(count)
    }

    /// The entry of each view.
    fn assigned(&self, views: &[View]) -> Result<Vec<Option<usize>>> {
        let images: Vec<Identity> = views.iter().map(Identity::of).collect();
        if let Naming::Times(times) = &self.naming {
            return trajectory::assigned(times, &images)
                .map_err(|reason| Error::input(&self.path, reason));
        }
        let entries: Vec<&str> = self.images.iter().map(|entry| &*entry.name).collect();
        let refuse = |ambiguity: Ambiguity| {
            let reason = ambiguity.describe(|at| entries[at], |at| &views[at].name);
            let reason = Visible(&reason).to_string();
            Error::input(
                &self.path,
                format!("{reason}; give images and entries distinct paths"),
            )
        };
        let mut assigned = names::assign(&entries, &images).map_err(refuse)?;
        if let Naming::BarePaths = self.naming {
            // Those that are left, by their names without extensions; nothing fits an empty name.
            let bare: Vec<Identity> = images.iter().map(Identity::without_extension).collect();
            let left = |at: usize| {
                if assigned.contains(&Some(at)) {
                    ""
                } else {
                    entries[at]
                }
            };
            let entries: Vec<&str> = (0..entries.len()).map(left).collect();
            let found = names::assign(&entries, &bare).map_err(refuse)?;
            assigned = assigned
                .into_iter()
                .zip(found)
                .map(|(whole, bare)| whole.or(bare))
                .collect();
        }
        Ok(assigned)
    }

    fn refusal(&self, entry: &ListedCamera, reason: &str) -> Error {
        Error::input(&self.path, format!("{}: {reason}", Visible(&entry.name)))
    }
}

impl SharedIntrinsics {
    /// Sets the intrinsics of `known`, one entry a view, at the views' sizes.
    ///
    /// # Errors
    /// [`Error::Usage`] for numbers that are no camera's, and for images of different sizes; but
    /// for [`Self::Focal`] also for images of one size of which some are held sideways.
    pub fn set(&self, views: &[View], known: &mut [KnownCamera]) -> Result<()> {
        let size = |view: &View| {
            let (width, height) = (view.crop.file_width, view.crop.file_height);
            match self {
                Self::Focal(_) => [width.max(height), width.min(height)],
                Self::Pinhole { .. } => [width, height],
            }
        };
        if let Some(two) = views.windows(2).find(|two| size(&two[0]) != size(&two[1])) {
            let describe = |view: &View| {
                format!(
                    "{} ({}x{})",
                    view.name, view.crop.file_width, view.crop.file_height
                )
            };
            return Err(Error::Usage(format!(
                "images of different sizes, as {} and {}, cannot share intrinsics in pixels",
                describe(&two[0]),
                describe(&two[1])
            )));
        }
        for (view, known) in views.iter().zip(known) {
            let (width, height) = (view.crop.file_width, view.crop.file_height);
            let file = match *self {
                Self::Focal(focal) => Intrinsics::centred(width, height, focal),
                Self::Pinhole { fx, fy, cx, cy } => Intrinsics {
                    width,
                    height,
                    fx,
                    fy,
                    cx,
                    cy,
                },
            };
            if let Some(fault) = fault(&file) {
                return Err(Error::Usage(fault));
            }
            known.intrinsics = Some(at_view(&file, view));
        }
        Ok(())
    }
}

/// What a listed camera is at the size of a view.
impl ListedIntrinsics {
    /// The camera at the size of the view, where these are of the view's size or of its file's.
    fn of_size(self, view: &View) -> Option<Intrinsics> {
        let (width, height) = view.rgb.dimensions();
        if [self.width, self.height] == [width, height].map(f64::from) {
            let Self { fx, fy, cx, cy, .. } = self;
            return Some(Intrinsics {
                width,
                height,
                fx,
                fy,
                cx,
                cy,
            });
        }
        let file = [view.crop.file_width, view.crop.file_height].map(f64::from);
        ([self.width, self.height] == file).then(|| self.scaled(view))
    }

    /// The camera at the size of the view, where these are of the whole image at whatever size.
    fn of_proportions(self, view: &View) -> Option<Intrinsics> {
        let [kx, ky] = self.to_file(view);
        ((kx / ky - 1.0).abs() < SAME_PROPORTIONS).then(|| self.scaled(view))
    }

    fn to_file(self, view: &View) -> [f64; 2] {
        [
            f64::from(view.crop.file_width) / self.width,
            f64::from(view.crop.file_height) / self.height,
        ]
    }

    fn scaled(self, view: &View) -> Intrinsics {
        let [kx, ky] = self.to_file(view);
        let file = Intrinsics {
            width: view.crop.file_width,
            height: view.crop.file_height,
            fx: self.fx * kx,
            fy: self.fy * ky,
            // Images scale about their corner, half a pixel off the centre of the first pixel.
            cx: (self.cx + 0.5) * kx - 0.5,
            cy: (self.cy + 0.5) * ky - 0.5,
        };
        at_view(&file, view)
    }
}

/// The camera of a view whose upright file has this one.
fn at_view(file: &Intrinsics, view: &View) -> Intrinsics {
    let [kx, ky] = view.crop.scale_to_file();
    let [cx, cy] = view.crop.to_framed([file.cx, file.cy]);
    let (width, height) = view.rgb.dimensions();
    Intrinsics {
        width,
        height,
        fx: file.fx / kx,
        fy: file.fy / ky,
        cx,
        cy,
    }
}

/// Why numbers are no camera's, if they are not.
fn fault(inside: &Intrinsics) -> Option<String> {
    let Intrinsics {
        width,
        height,
        fx,
        fy,
        cx,
        cy,
    } = *inside;
    let [least, most] = FOCAL_RANGE.map(|share| share * f64::from(width.max(height)));
    if let Some(focal) = [fx, fy]
        .into_iter()
        .find(|focal| !(least..=most).contains(focal))
    {
        return Some(format!(
            "focal lengths are numbers of pixels, for {width}x{height} from {least:.0} to {most:.0}; got {focal}"
        ));
    }
    let is_near =
        |at: f64, size: u32| (at / f64::from(size) - 0.5).abs() <= FARTHEST_PRINCIPAL_POINT;
    let is_sound = is_near(cx, width) && is_near(cy, height);
    (!is_sound).then(|| {
        format!(
            "the principal point ({cx}, {cy}) is nowhere near an image of {width}x{height} pixels"
        )
    })
}

/// The pose with these rows, if it is one.
pub(crate) fn pose(rows: &[[f64; 4]; 4]) -> Option<Isometry3<f64>> {
    let matrix = Matrix4::from_fn(|row, column| rows[row][column]);
    let rotation: Matrix3<f64> = matrix.fixed_view::<3, 3>(0, 0).into_owned();
    let off = (rotation * rotation.transpose() - Matrix3::identity()).amax();
    let sound = matrix.iter().all(|value| value.is_finite())
        && off < ROUNDING
        && rotation.determinant() > 0.0;
    let turn = UnitQuaternion::from_rotation_matrix(&Rotation3::from_matrix_unchecked(rotation));
    let shift = Translation3::from(matrix.fixed_view::<3, 1>(0, 3).into_owned());
    sound.then(|| Isometry3::from_parts(shift, UnitQuaternion::new_normalize(turn.into_inner())))
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;
    use crate::views::Crop;

    /// A view of 16x16 pixels, cut out of a file of 100x54 pixels at a fifth and a third of its
    /// sides.
    fn view(name: &str) -> View {
        let crop = Crop {
            file_width: 100,
            file_height: 54,
            resized_width: 20,
            resized_height: 18,
            left: 2,
            top: 1,
            width: 16,
            height: 16,
        };
        View::new(name, RgbImage::new(16, 16), crop)
    }

    fn list(text: &str) -> Result<CameraList> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cameras.json");
        std::fs::write(&path, text).unwrap();
        CameraList::open(&path)
    }

    fn values(known: &KnownCamera) -> [f64; 4] {
        let Intrinsics { fx, fy, cx, cy, .. } = known.intrinsics.unwrap();
        [fx, fy, cx, cy]
    }

    #[test]
    fn intrinsics_of_the_file_are_scaled_and_the_crop_is_taken_off() {
        let mut known = [KnownCamera::default(); 2];
        let views = [view("a.png"), view("b.png")];
        SharedIntrinsics::Pinhole {
            fx: 50.0,
            fy: 60.0,
            cx: 49.5,
            cy: 29.5,
        }
        .set(&views, &mut known)
        .unwrap();
        // (49.5 + 0.5) / 5 - 0.5 - 2 and (29.5 + 0.5) / 3 - 0.5 - 1.
        assert_eq!(values(&known[1]), [10.0, 20.0, 7.5, 8.5]);
        assert_eq!(known[0], known[1]);
        let text = r#"{"images": [{"name": "sub/a.png", "width": 50, "height": 27, "fx": 25, "fy": 30, "cx": 24.5,
            "cy": 14.5}]}"#;
        let mut listed = [KnownCamera::default(); 2];
        assert_eq!(
            list(text)
                .unwrap()
                .set_intrinsics(&views, &mut listed)
                .unwrap(),
            1
        );
        assert_eq!((listed[0], listed[1]), (known[0], KnownCamera::default()));
        let bent = text.replace(r#""cy": 14.5"#, r#""cy": 14.5, "radial": [0.1, 0.2]"#);
        list(&bent)
            .unwrap()
            .set_intrinsics(&views, &mut listed)
            .unwrap();
        assert_eq!(
            listed[0],
            KnownCamera {
                radial: [0.1, 0.2],
                ..known[0]
            }
        );
        let other = text.replace("27", "40");
        let message = list(&other)
            .unwrap()
            .set_intrinsics(&views, &mut listed)
            .unwrap_err()
            .to_string();
        assert!(
            message.ends_with("sub/a.png: its camera is of 50x40 pixels, and the image has 100x54"),
            "{message}"
        );
    }

    #[test]
    fn one_focal_length_is_for_images_of_one_size_held_either_way() {
        let mut views = [view("a.png"), view("b.png")];
        let mut known = [KnownCamera::default(); 2];
        SharedIntrinsics::Focal(50.0)
            .set(&views, &mut known)
            .unwrap();
        // The middle of the file, (49.5, 26.5), is at column 9.5 - 2 and row 8.5 - 1.
        assert_eq!(values(&known[0]), [10.0, 50.0 / 3.0, 7.5, 7.5]);
        (views[1].crop.file_width, views[1].crop.file_height) = (54, 100);
        SharedIntrinsics::Focal(50.0)
            .set(&views, &mut known)
            .unwrap();
        let pinhole = SharedIntrinsics::Pinhole {
            fx: 50.0,
            fy: 60.0,
            cx: 49.5,
            cy: 29.5,
        };
        let message = pinhole.set(&views, &mut known).unwrap_err().to_string();
        assert!(
            message.contains("a.png (100x54) and b.png (54x100)"),
            "{message}"
        );
        assert!(
            SharedIntrinsics::Focal(0.0)
                .set(&views, &mut known)
                .is_err()
        );
    }

    #[test]
    fn a_name_that_could_be_two_images_is_refused_and_unknown_ones_are_listed() {
        let entry = |name: &str| format!(r#"{{"name": "{name}", "width": 1, "height": 1}}"#);
        let text = format!(
            r#"{{"images": [{}, {}, {}]}}"#,
            entry("l/a.png"),
            entry("r/a.png"),
            entry("c.png")
        );
        let list = list(&text).unwrap();
        let message = list
            .set_poses(&[view("a.png")], &mut [KnownCamera::default()])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("a.png may be l/a.png or r/a.png"),
            "{message}"
        );
        assert_eq!(
            list.unknown_names(&[View {
                path: "r/a.png".into(),
                ..view("a.png")
            }])
            .unwrap(),
            ["l/a.png", "c.png"]
        );
    }
}
