//! Where a scene goes, and which of its points: what every command takes that makes one.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use mast3r::export::{
    CameraModels, ExportOptions, Format, ImageCounts, Images, SceneFormat, SceneOutput,
    SceneReport, write_to,
};
use mast3r::scene::{PointCounts, PointFilter, Scene};
use mast3r::{Error, Result};
use serde_json::{Value, json};

use crate::filter::FilterArgs;
use crate::outputs::{self, Written};

/// Outputs of a scene as they were asked for.
#[derive(Debug, Args)]
pub struct SceneArgs {
    /// Write the scene, in the format of the extension; repeatable; - writes PLY to standard output
    ///
    /// .ply, .glb, .las and .laz are point clouds, .html is a page to look at them with a browser, .txt
    /// is a TUM trajectory; other names need --format. An existing file is replaced once the new one
    /// is complete. Optional if another output is given.
    #[arg(short, long, value_name = "PATH")]
    output: Vec<PathBuf>,

    /// Format of outputs without a known extension: colmap, colmap-text, colmap-database,
    /// nerfstudio, ply, glb, las, laz, html or tum
    ///
    /// colmap: a folder with images/ and the binary model sparse/0/; colmap-text: the same with a
    /// text model; colmap-database: colmap, and database.db with keypoints, matches and two-view
    /// geometries; nerfstudio: a folder with images/, transforms.json and sparse_pc.ply. In a scene
    /// far from the world's origin, as in UTM coordinates, .ply has float64 coordinates, and .glb,
    /// .html and nerfstudio are relative to an origin that they state.
    #[arg(long, value_name = "FORMAT", requires = "output")]
    format: Option<SceneFormat>,

    /// Write undistorted images and PINHOLE cameras into COLMAP and nerfstudio folders
    ///
    /// For programs without lens distortion, such as most trainers of Gaussian splats. Undistorted
    /// images keep their size; JPEG stays JPEG (quality 95), other formats become PNG. The focal
    /// length is the shortest that leaves no pixel empty. Images whose cameras have no distortion,
    /// as with --no-refine, are linked or copied unchanged.
    #[arg(long, requires = "output")]
    undistort: bool,

    #[command(flatten)]
    filter: FilterArgs,

    /// Write surface normals into .ply files, from neighbouring points of each image
    #[arg(long, requires = "output")]
    normals: bool,

    /// Leave the cameras out of .html files, and their frustums out of .glb files
    #[arg(long, requires = "output")]
    no_frustums: bool,
}

/// Outputs of a scene, open.
#[derive(Debug)]
pub struct SceneOutputs {
    options: ExportOptions,
    files: Vec<(SceneFormat, SceneOutput)>,
    stdout: bool,
}

/// What became of them.
#[derive(Debug, Default)]
pub struct SceneReports(Vec<(SceneFormat, String, SceneReport)>);

/// Which points the views disagree about.
#[derive(Debug, Args)]
pub struct ConsistencyArgs {
    /// Drop points that another view contradicts by more than PIXELS
    ///
    /// Drops a point that floats in front of the surface that another view sees behind it, by more
    /// than PIXELS of reprojection error in its own image at the network's size, unless it is the
    /// more confident one. Points that are hidden in the other view or outside it stay. 1 to 3 is
    /// usual. Independent of the rules for confidence; applies to point clouds and the preview.
    /// Needs cameras.
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true)]
    consistency: Option<f32>,

    /// Drop points that another view contradicts: the same as --consistency 2
    #[arg(long, conflicts_with = "consistency")]
    clean: bool,
}

impl ConsistencyArgs {
    /// By how many pixels a view must contradict a point that is dropped, if any is.
    pub fn pixels(&self) -> Option<f32> {
        self.consistency.or(self.clean.then_some(2.0))
    }
}

impl SceneArgs {
    /// Checks what needs nothing but the arguments.
    pub fn check(&self) -> Result<()> {
        self.filter.check()?;
        let by_extension = |path: &Path| SceneFormat::of_output(path, None).is_ok();
        if let Some(format) = self.format.filter(|_| self.files().all(by_extension)) {
            let reason = "every output has a known extension; name a folder, or omit --format";
            return Err(Error::Usage(format!("--format {format}: {reason}")));
        }
        let formats: Vec<SceneFormat> = self
            .files()
            .map(|path| SceneFormat::of_output(path, self.format))
            .collect::<Result<_>>()?;
        if self.undistort && !formats.iter().any(|format| format.traits().images) {
            let reason = "no output is a folder with images; add one with --format colmap, colmap-text or nerfstudio";
            return Err(Error::Usage(format!("--undistort: {reason}")));
        }
        if self.normals && !self.has_stdout() && !formats.contains(&SceneFormat::PLY) {
            let reason = "no output is a .ply file, which alone has normals; add one";
            return Err(Error::Usage(format!("--normals: {reason}")));
        }
        Ok(())
    }

    /// Whether something goes to standard output.
    pub fn has_stdout(&self) -> bool {
        self.output.iter().any(|path| is_stdout(path))
    }

    /// Whether anything is asked for.
    pub fn is_given(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether a format with images is among what is asked for.
    pub fn has_images(&self) -> bool {
        self.files().any(|path| {
            SceneFormat::of_output(path, self.format).is_ok_and(|format| format.traits().images)
        })
    }

    /// The files and folders.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.output
            .iter()
            .map(PathBuf::as_path)
            .filter(|path| !is_stdout(path))
    }

    /// Opens all of them.
    pub fn open(&self, images: &Images) -> Result<SceneOutputs> {
        let cameras = if self.no_frustums {
            CameraModels::None
        } else {
            CameraModels::Frustums
        };
        let open = |path: &Path| {
            let format = SceneFormat::of_output(path, self.format)?;
            let output = SceneOutput::create(path, format, images)?;
            Ok((
                format,
                if self.undistort {
                    output.undistorted()?
                } else {
                    output
                },
            ))
        };
        let files = self.files().map(open).collect::<Result<_>>()?;
        let options = ExportOptions {
            filter: self.filter.rules(),
            cameras,
            normals: self.normals,
        };
        Ok(SceneOutputs {
            options,
            files,
            stdout: self.has_stdout(),
        })
    }
}

impl SceneOutputs {
    /// The points to keep.
    pub fn filter(&self) -> PointFilter {
        self.options.filter
    }

    /// Writes the files and folders, and after `others` standard output, because its reader may go
    /// away before the end. `checked` is whether points could be checked against other views: if
    /// not, nothing with points is written.
    pub fn write(
        self,
        scene: &Scene,
        checked: &Result<()>,
        written: &mut Written,
        others: impl FnOnce(&mut Written),
    ) -> SceneReports {
        let mut reports = SceneReports::default();
        let may_write = |format: SceneFormat| match format.traits().points {
            true => outputs::repeated(checked),
            false => Ok(()),
        };
        for (format, output) in self.files {
            let path = output.path().to_path_buf();
            let report = may_write(format).and_then(|()| output.write(scene, &self.options));
            reports.note(format, &path, &path.display().to_string(), report, written);
        }
        others(written);
        if self.stdout {
            let format = SceneFormat::PLY;
            let write = || write_to(scene, Format::Ply, &self.options, &mut io::stdout().lock());
            let report = may_write(format).and_then(|()| write());
            let report = report.map(|counts| SceneReport {
                cloud: Some(counts),
                ..SceneReport::default()
            });
            reports.note(format, Path::new(outputs::STDOUT), "-", report, written);
        }
        reports
    }
}

impl SceneReports {
    /// Notes what became of the output at `path`, which programs know by `name`.
    fn note(
        &mut self,
        format: SceneFormat,
        path: &Path,
        name: &str,
        report: Result<SceneReport>,
        written: &mut Written,
    ) {
        match report {
            Ok(report) => {
                written.add(format.kind(), path, detail(&report));
                self.0.push((format, name.into(), report));
            }
            Err(error) => written.fail(format.kind(), path, error),
        }
    }

    /// The first cloud's points.
    pub fn points(&self) -> Option<PointCounts> {
        self.0.iter().find_map(|(_, _, report)| report.cloud)
    }

    /// A list for a program.
    pub fn json(&self) -> Value {
        let report = |(format, path, report): &(SceneFormat, String, SceneReport)| {
            let mut value = facts(report);
            value["format"] = format.name().into();
            value["path"] = path.as_str().into();
            value
        };
        self.0.iter().map(report).collect()
    }
}

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The facts of a report for a program, those that there are.
fn facts(report: &SceneReport) -> Value {
    let SceneReport {
        cloud,
        images,
        cameras,
        points,
        observations,
        mean_error_px,
        poses,
    } = report;
    let of_images = |count: fn(&ImageCounts) -> usize| images.as_ref().map(count);
    let points = points.or(cloud.map(|cloud| cloud.kept));
    let facts = [
        ("images", json!(of_images(|counts| counts.total))),
        ("images_turned", json!(of_images(|counts| counts.turned))),
        (
            "images_undistorted",
            json!(of_images(|counts| counts.undistorted)),
        ),
        ("cameras", json!(cameras)),
        ("points", json!(points)),
        ("observations", json!(observations)),
        ("mean_error_px", json!(mean_error_px)),
        ("poses", json!(poses)),
    ];
    let known = facts.into_iter().filter(|(_, value)| !value.is_null());
    known
        .map(|(name, value)| (name.to_string(), value))
        .collect()
}

/// A word on an output, for a person.
fn detail(report: &SceneReport) -> String {
    let mut parts = Vec::new();
    parts.extend(report.cloud.as_ref().map(cloud_detail));
    let of_one = if report.cameras == Some(1) {
        " of one camera"
    } else {
        ""
    };
    parts.extend(
        report
            .images
            .as_ref()
            .map(|counts| of_images(counts, of_one)),
    );
    parts.extend(report.points.map(|points| match report.observations {
        Some(observations) => format!("{points} points seen {observations} times"),
        None => format!("{points} points"),
    }));
    parts.extend(
        report
            .mean_error_px
            .map(|error| format!("{error:.2} px on average")),
    );
    parts.extend(report.poses.map(|poses| format!("{poses} poses")));
    parts.join(", ")
}

/// `, COUNT WHAT`, or nothing where there are none.
fn some(count: usize, what: &str) -> String {
    match count {
        0 => String::new(),
        count => format!(", {count} {what}"),
    }
}

/// How many points a cloud has, for a person.
fn cloud_detail(counts: &PointCounts) -> String {
    let contradicted = some(counts.contradicted, "contradicted by another view");
    format!(
        "{} of {} points{contradicted}{}",
        counts.kept,
        counts.total,
        some(counts.thinned, "thinned out")
    )
}

/// What became of a cloud's points: all numbers but the first add up to it.
pub fn points_json(counts: &PointCounts) -> Value {
    json!({
        "total": counts.total,
        "masked": counts.masked,
        "not_finite": counts.not_finite,
        "contradicted": counts.contradicted,
        "below_min_confidence": counts.below_min_confidence,
        "below_percentile": counts.below_percentile,
        "thinned": counts.thinned,
        "kept": counts.kept,
    })
}

/// How many images a folder has, `of` what camera, and how many of them are not their files.
fn of_images(counts: &ImageCounts, of: &str) -> String {
    let turned = some(counts.turned, "of them written upright as EXIF has them");
    format!(
        "{} images{of}{turned}{}",
        counts.total,
        some(counts.undistorted, "of them undistorted")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_accounted_for_once() {
        let counts = PointCounts {
            total: 100,
            masked: 5,
            not_finite: 1,
            contradicted: 7,
            below_min_confidence: 15,
            below_percentile: 30,
            thinned: 12,
            kept: 30,
        };
        assert_eq!(
            cloud_detail(&counts),
            "30 of 100 points, 7 contradicted by another view, 12 thinned out"
        );
        let plain = PointCounts {
            contradicted: 0,
            thinned: 0,
            ..counts
        };
        assert_eq!(cloud_detail(&plain), "30 of 100 points");
        let points = points_json(&counts);
        assert_eq!(
            (&points["contradicted"], &points["kept"]),
            (&7.into(), &30.into())
        );
        let all: u64 = points
            .as_object()
            .unwrap()
            .values()
            .map(|count| count.as_u64().unwrap())
            .sum();
        assert_eq!(all, 2 * 100);
    }
}
