//! What is written of a scene's images, one by one and pair by pair: cameras, depths, matches.

use std::path::{Path, PathBuf};

use clap::Args;
use mast3r::export::{
    CamerasFile, MatchedImage, OutputFile, OutputFolder, depth_files, match_tensors, write_depth,
    write_depth_tensors, write_matches, write_pair_matches,
};
use mast3r::matching::{Match, PairMatches};
use mast3r::scene::Scene;
use mast3r::{Error, Result};

use crate::outputs::{self, Written};

/// Outputs of a scene's images as they were asked for.
#[derive(Debug, Args)]
pub struct MapArgs {
    /// Write camera poses and intrinsics as JSON
    #[arg(long, value_name = "FILE")]
    cameras: Option<PathBuf>,

    /// Write keypoint matches of all pairs: .safetensors, or else CSV
    ///
    /// In pixels at the network's size and in pixels of the upright files; the centre of the top
    /// left pixel is 0,0. Includes pairs that the alignment left out. Of more than two images,
    /// lines of the CSV end with the images' names. A .safetensors file has {i}-{j}.first, .second
    /// (x, y), .confidence, .first_file and .second_file for each pair of images i, j, counted from
    /// 0.
    #[arg(long, value_name = "FILE")]
    matches: Option<PathBuf>,

    /// Write depth and confidence maps of all images into a folder
    ///
    /// For each image: depth as 16-bit PNG in millimetres (0: unknown), depth and confidence as
    /// .npy and together as .exr, and a coloured preview. Files are named after the image without
    /// its extension, numbered where names collide; --cameras and --json list them.
    #[arg(long, value_name = "FOLDER")]
    depth: Option<PathBuf>,

    /// Write depth and confidence maps of all images as one safetensors file, which --cameras then
    /// refers to
    #[arg(long, value_name = "FILE")]
    depth_tensors: Option<PathBuf>,
}

/// Outputs of a scene's images, open.
#[derive(Debug)]
pub struct MapOutputs {
    cameras: Option<OutputFile>,
    matches: Option<OutputFile>,
    depth: Option<OutputFolder>,
    depth_tensors: Option<OutputFile>,
}

/// The matches that there are to be written.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// Of a scene of two images.
    Two(&'a [Match]),
    /// Of pairs of any number of images.
    Pairs(&'a [PairMatches]),
}

impl MapArgs {
    /// The files and folders.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [
            &self.cameras,
            &self.matches,
            &self.depth,
            &self.depth_tensors,
        ]
        .into_iter()
        .flatten()
        .map(PathBuf::as_path)
    }

    /// Whether matches are asked for.
    pub fn wants_matches(&self) -> bool {
        self.matches.is_some()
    }

    /// Opens all of them.
    pub fn open(&self) -> Result<MapOutputs> {
        Ok(MapOutputs {
            cameras: outputs::file(self.cameras.as_deref())?,
            matches: outputs::file(self.matches.as_deref())?,
            depth: outputs::folder(self.depth.as_deref())?,
            depth_tensors: outputs::file(self.depth_tensors.as_deref())?,
        })
    }
}

impl MapOutputs {
    /// Writes all of them; one that cannot be written does not keep the rest from it.
    pub fn write(self, scene: &Scene, found: Found<'_>, written: &mut Written) {
        let Self {
            cameras,
            matches,
            depth,
            depth_tensors,
        } = self;
        let has_depths = || match scene.has_no_depths() {
            false => Ok(()),
            true => Err(Error::NoCameras {
                what: "depth".into(),
                reason: "no image has one".into(),
            }),
        };
        let (mut depths, mut depth_folder) = (None, None);
        if let Some(file) = depth_tensors {
            let path = file.path().to_path_buf();
            let count = has_depths().and_then(|()| write_depth_tensors(scene, file));
            let is_written = count.is_ok();
            written.note(
                "depth_tensors",
                &path,
                count.map(|count| format!("{count} maps")),
            );
            depths = is_written.then_some(path);
        }
        if let Some(file) = matches {
            let path = file.path().to_path_buf();
            written.note("matches", &path, found.write(scene, file));
        }
        if let Some(folder) = depth {
            let path = folder.path().to_path_buf();
            let detail = has_depths()
                .and_then(|()| write_depth(scene, folder))
                .map(|reports| {
                    let unknown: usize = reports.iter().map(|report| report.unknown).sum();
                    let saturated: usize = reports.iter().map(|report| report.saturated).sum();
                    format!("{unknown} unknown, {saturated} beyond 16 bits")
                });
            let is_written = detail.is_ok();
            written.note("depth", &path, detail);
            depth_folder = is_written.then_some(path);
        }
        // Last, because it names the others.
        if let Some(file) = cameras {
            let path = file.path().to_path_buf();
            let detail = write_cameras(scene, [depths.as_deref(), depth_folder.as_deref()], file);
            written.note("cameras", &path, detail);
        }
    }
}

impl Found<'_> {
    /// Writes the matches in the format that the file's name says, and tells how many they are.
    fn write(self, scene: &Scene, file: OutputFile) -> Result<String> {
        let views = &scene.views;
        let images: Vec<MatchedImage<'_>> = views
            .iter()
            .map(|view| MatchedImage {
                name: &view.name,
                crop: &view.crop,
            })
            .collect();
        let as_tensors = file
            .path()
            .extension()
            .is_some_and(|kind| kind.eq_ignore_ascii_case("safetensors"));
        let own;
        let (pairs, detail) = match self {
            Self::Two(matches) if !as_tensors => {
                file.write_with(|out| write_matches(matches, &views[0].crop, &views[1].crop, out))?;
                return Ok(format!("{} matches", matches.len()));
            }
            Self::Two(matches) => {
                own = [PairMatches {
                    views: [0, 1],
                    matches: matches.to_vec(),
                }];
                (&own[..], format!("{} matches", matches.len()))
            }
            Self::Pairs(pairs) => {
                let total: usize = pairs.iter().map(|pair| pair.matches.len()).sum();
                (pairs, format!("{total} matches of {} pairs", pairs.len()))
            }
        };
        if as_tensors {
            let bytes = match_tensors(pairs, &images)?;
            file.write_with(|out| out.write_all(&bytes))?;
        } else {
            file.write_with(|out| write_pair_matches(pairs, &images, out))?;
        }
        Ok(detail)
    }
}

/// Writes the cameras, and tells how many have poses.
fn write_cameras(
    scene: &Scene,
    [depths, depth_folder]: [Option<&Path>; 2],
    file: OutputFile,
) -> Result<String> {
    let path = file.path().to_path_buf();
    let mut cameras = CamerasFile::new(scene)?;
    cameras.depths = depths.map(|depths| beside(depths, &path)).transpose()?;
    if let Some(folder) = depth_folder {
        cameras.set_depth_folder(beside(folder, &path)?, depth_files(scene));
    }
    file.write_with(|out| cameras.write(out))?;
    let unplaced = scene
        .views
        .iter()
        .filter(|view| view.camera.is_none())
        .count();
    Ok(match unplaced {
        0 => "poses and intrinsics".into(),
        all if all == scene.views.len() => "without poses".into(),
        some => format!("poses and intrinsics, {some} without"),
    })
}

/// How the file `of` names `path`: by its name alone if they lie in one folder.
fn beside(path: &Path, of: &Path) -> Result<String> {
    let whole = |path: &Path| path.canonicalize().map_err(|error| Error::io(path, error));
    let (path, folder) = (
        whole(path)?,
        of.parent().filter(|folder| !folder.as_os_str().is_empty()),
    );
    let folder = whole(folder.unwrap_or(Path::new(".")))?;
    let name = if path.parent() == Some(&folder) {
        Path::new(path.file_name().unwrap_or_default())
    } else {
        &path
    };
    Ok(name.to_string_lossy().into_owned())
}
