//! Cameras of two sources, and which of their images are the same.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nalgebra::Isometry3;

use crate::alignment::CameraList;
use crate::error::{Error, Result, Visible};
use crate::formats::{Inside, ListedCamera, trajectory};
use crate::scene::Scene;
use crate::views::names::{self, Ambiguity, Identity};

/// Largest relative difference of two proportions of width to height that are one and the same but
/// for whole pixels.
const SAME_PROPORTIONS: f64 = 0.01;
/// How far apart the times of two trajectories' poses may be.
const SAME_TIME: Duration = Duration::from_millis(10);

/// Camera poses and intrinsics by image name, to be compared.
#[derive(Debug)]
pub struct Cameras {
    path: PathBuf,
    pub(super) images: Vec<Camera>,
    /// Of a trajectory: the times of its poses.
    times: Option<Vec<Duration>>,
}

#[derive(Clone, Debug)]
pub(super) struct Camera {
    pub name: String,
    pub world_from_camera: Option<Isometry3<f64>>,
    /// At every size that is known of the image.
    focals: Vec<Focal>,
}

/// A horizontal focal length; of an angle of view the width is 1 and the height unknown.
#[derive(Clone, Copy, Debug)]
struct Focal {
    width: f64,
    height: Option<f64>,
    focal: f64,
}

impl Cameras {
    /// Reads a `cameras.json`, a `transforms.json`, a TUM trajectory or a COLMAP model, see
    /// [`CameraList::open`].
    ///
    /// # Errors
    /// [`Error::Input`] if it is missing, not a list of cameras, or has a pose that is none;
    /// [`Error::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::of_list(&CameraList::open(path)?, path)
    }

    /// The cameras of a scene; messages call them `path`.
    ///
    /// # Errors
    /// [`Error::Usage`] if a view is inconsistent, see [`Scene::check`].
    pub fn of_scene(scene: &Scene, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::of_list(&CameraList::of_scene(scene, path)?, path)
    }

    fn of_list(list: &CameraList, path: &Path) -> Result<Self> {
        let image = |entry: &ListedCamera| {
            let world_from_camera = match &entry.world_from_camera {
                None => None,
                Some(rows) => Some(crate::alignment::pose(rows).ok_or_else(|| {
                    let name = Visible(&entry.name);
                    let reason = "its pose is not a rotation and a translation";
                    Error::input(path, format!("{name}: {reason}"))
                })?),
            };
            Ok(Camera {
                name: entry.name.clone(),
                world_from_camera,
                focals: focals(&entry.inside),
            })
        };
        Ok(Self {
            path: path.to_path_buf(),
            images: list.entries().iter().map(image).collect::<Result<_>>()?,
            times: list.times().map(<[_]>::to_vec),
        })
    }

    /// Where they come from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many images are listed, with a pose or without.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether no image is listed.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Whether these are poses by time, of which a reference has more than there are images.
    pub(super) fn is_trajectory(&self) -> bool {
        self.times.is_some()
    }

    /// For each of these images its index in `others`: the one of the same name, with other folders
    /// before it or another extension if need be, or of the same time.
    pub(super) fn find_in(&self, others: &Self) -> Result<Vec<Option<usize>>> {
        let refuse = |reason: String| Err(Error::input(&others.path, reason));
        match (&self.times, &others.times) {
            (Some(own), Some(times)) => Ok(nearest(own, times)),
            (None, Some(times)) => trajectory::assigned(times, &self.identities()).or_else(refuse),
            (Some(times), None) => {
                let found = trajectory::assigned(times, &others.identities())
                    .map_err(|reason| Error::input(&self.path, reason))?;
                let mut indices = vec![None; self.len()];
                for (other, own) in found.into_iter().enumerate() {
                    if let Some(own) = own {
                        indices[own] = Some(other);
                    }
                }
                Ok(indices)
            }
            (None, None) => self.find_by_name(others),
        }
    }

    fn find_by_name(&self, others: &Self) -> Result<Vec<Option<usize>>> {
        let assign = |entries: &[&str], images: &[Identity], names: &[&str]| {
            names::assign(entries, images).map_err(|ambiguity: Ambiguity| {
                let reason = ambiguity.describe(|at| entries[at], |at| names[at]);
                let way_out = "give images distinct paths";
                Error::input(&others.path, format!("{}; {way_out}", Visible(&reason)))
            })
        };
        let own: Vec<&str> = self.images.iter().map(|image| &*image.name).collect();
        let entries: Vec<&str> = others.images.iter().map(|image| &*image.name).collect();
        let mut found = assign(&entries, &self.identities(), &own)?;
        // What is left, without extensions.
        let left: Vec<usize> = (0..own.len()).filter(|at| found[*at].is_none()).collect();
        let spare: Vec<usize> = (0..entries.len())
            .filter(|at| !found.contains(&Some(*at)))
            .collect();
        let stems: Vec<String> = spare.iter().map(|at| stem(entries[*at])).collect();
        let stems: Vec<&str> = stems.iter().map(String::as_str).collect();
        let images: Vec<Identity> = left
            .iter()
            .map(|at| Identity::new(own[*at], Path::new(own[*at])).without_extension())
            .collect();
        let names: Vec<&str> = left.iter().map(|at| own[*at]).collect();
        for (at, entry) in left.iter().zip(assign(&stems, &images, &names)?) {
            found[*at] = entry.map(|entry| spare[entry]);
        }
        Ok(found)
    }

    fn identities(&self) -> Vec<Identity> {
        self.images
            .iter()
            .map(|image| Identity::new(&image.name, Path::new(&image.name)))
            .collect()
    }
}

impl Camera {
    /// The focal lengths of this camera and of a reference at a common size, in pixels of the
    /// reference where that has a size.
    pub fn focals(&self, reference: &Self) -> Option<[f64; 2]> {
        let pairs = || {
            reference
                .focals
                .iter()
                .flat_map(|of| self.focals.iter().map(move |own| (own, of)))
        };
        let same_size =
            |(own, of): &(&Focal, &Focal)| own.width == of.width && own.height == of.height;
        let same_shape = |(own, of): &(&Focal, &Focal)| match (own.height, of.height) {
            (Some(own_height), Some(of_height)) => {
                (own.width / own_height * of_height / of.width - 1.0).abs() < SAME_PROPORTIONS
            }
            _ => true,
        };
        let (own, of) = pairs()
            .find(same_size)
            .or_else(|| pairs().find(same_shape))?;
        Some([own.focal / own.width * of.width, of.focal])
    }
}

/// Larger sizes first.
fn focals(inside: &Inside) -> Vec<Focal> {
    let mut found: Vec<Focal> = match inside {
        Inside::Unknown | Inside::Unusable(_) => Vec::new(),
        Inside::FieldOfView(angle) => vec![Focal {
            width: 1.0,
            height: None,
            focal: 0.5 / (angle / 2.0).tan(),
        }],
        Inside::Known(sizes) => sizes
            .iter()
            .map(|sized| Focal {
                width: sized.width,
                height: Some(sized.height),
                focal: sized.fx,
            })
            .collect(),
    };
    found.retain(|focal| {
        [focal.width, focal.height.unwrap_or(1.0), focal.focal]
            .iter()
            .all(|value| value.is_finite() && *value > 0.0)
    });
    found.sort_by(|one, two| two.width.total_cmp(&one.width));
    found
}

fn stem(name: &str) -> String {
    let path = Path::new(name).with_extension("");
    path.to_string_lossy().into_owned()
}

/// For each time the index of the nearest of `times`, each of which is taken once, by the nearest.
fn nearest(own: &[Duration], times: &[Duration]) -> Vec<Option<usize>> {
    let mut taken: HashMap<usize, (Duration, usize)> = HashMap::new();
    for (index, time) in own.iter().enumerate() {
        let near = (0..times.len()).min_by_key(|at| times[*at].abs_diff(*time));
        let Some(near) = near.filter(|at| times[*at].abs_diff(*time) <= SAME_TIME) else {
            continue;
        };
        let gap = times[near].abs_diff(*time);
        let entry = taken.entry(near).or_insert((gap, index));
        if gap < entry.0 {
            *entry = (gap, index);
        }
    }
    let mut found = vec![None; own.len()];
    for (near, (_, index)) in taken {
        found[index] = Some(near);
    }
    found
}
