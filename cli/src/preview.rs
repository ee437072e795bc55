//! A drawing of the scene: what every command takes that makes one.

use std::path::{Path, PathBuf};

use clap::Args;
use mast3r::export::{OutputFile, PreviewOptions, draw_preview, write_rgb_png};
use mast3r::scene::{PointCounts, PointFilter, Scene, Thinning};
use mast3r::{Error, Result};

use crate::outputs;

/// The preview's size and angle without their options: [`PreviewOptions`]' own.
const SIZE: &str = "1280x960";
const ANGLE: &str = "35,20";

/// The preview as it was asked for.
#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// Draw the point cloud and the cameras as a PNG
    ///
    /// Draws the points that are kept, and each camera as a frustum with its image; only the first
    /// if cameras cannot be solved. Points that float between a near and a far surface are not
    /// drawn.
    #[arg(long, value_name = "PNG")]
    preview: Option<PathBuf>,

    /// Size of the preview
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = SIZE, value_parser = size, requires = "preview")]
    preview_size: [u32; 2],

    /// Viewpoint of the preview, in degrees
    ///
    /// Azimuth 0 is behind the cameras, looking where they look; 90 is to the right of the scene,
    /// 180 faces the cameras. Elevation 0 is level with the middle of the scene, 90 looks straight
    /// down.
    #[arg(
        long, value_name = "AZIMUTH,ELEVATION", default_value = ANGLE, value_parser = angle,
        allow_hyphen_values = true, requires = "preview"
    )]
    preview_angle: [f64; 2],
}

/// The preview, open.
#[derive(Debug)]
pub struct PreviewOutput {
    file: OutputFile,
    options: PreviewOptions,
}

impl PreviewArgs {
    /// Checks what needs nothing but the arguments.
    pub fn check(&self) -> Result<()> {
        self.options()
            .check()
            .map_err(|error| Error::Usage(format!("--preview: {error}")))
    }

    /// The file, if it is asked for.
    pub fn file(&self) -> Option<&Path> {
        self.preview.as_deref()
    }

    /// How it is drawn.
    pub fn options(&self) -> PreviewOptions {
        let ([width, height], [azimuth, elevation]) = (self.preview_size, self.preview_angle);
        PreviewOptions {
            width,
            height,
            azimuth,
            elevation,
            ..PreviewOptions::default()
        }
    }

    /// Opens it.
    pub fn open(&self) -> Result<Option<PreviewOutput>> {
        let file = outputs::png(self.file(), "preview")?;
        Ok(file.map(|file| PreviewOutput {
            file,
            options: self.options(),
        }))
    }
}

impl PreviewOutput {
    /// The path as it was given.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Draws the points of `scene` that `filter` keeps, and tells their counts and a word on the
    /// file.
    pub fn write(self, scene: &Scene, filter: &PointFilter) -> Result<(PointCounts, String)> {
        // Surfaces are drawn whole, however few points of them go into a cloud.
        let whole = PointFilter {
            thinning: Thinning::default(),
            ..*filter
        };
        let points = scene.select(&whole)?;
        let image = draw_preview(&points, &self.options)?;
        self.file.write_with(|out| write_rgb_png(&image, out))?;
        Ok((
            points.counts(),
            format!("{}x{}", image.width(), image.height()),
        ))
    }
}

fn size(text: &str) -> Result<[u32; 2], String> {
    let sides = text
        .split_once(['x', 'X', '×'])
        .and_then(|(width, height)| {
            let side = |digits: &str| digits.parse::<u32>().ok();
            Some([side(width)?, side(height)?])
        });
    sides.ok_or_else(|| format!("expected WIDTHxHEIGHT such as {SIZE}"))
}

fn angle(text: &str) -> Result<[f64; 2], String> {
    let angles = text.split_once(',').and_then(|(azimuth, elevation)| {
        let angle = |digits: &str| digits.trim().parse::<f64>().ok();
        Some([angle(azimuth)?, angle(elevation)?])
    });
    angles.ok_or_else(|| format!("expected AZIMUTH,ELEVATION in degrees, such as {ANGLE}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        preview: PreviewArgs,
    }

    fn options(line: &str) -> PreviewOptions {
        Line::parse_from(format!("program {line}").split_whitespace())
            .preview
            .options()
    }

    #[test]
    fn draws_by_default_as_the_library_does() {
        assert_eq!(options(""), PreviewOptions::default());
        let options = options("--preview p.png --preview-size 640x480 --preview-angle -120.5,-15");
        assert_eq!(
            (
                options.width,
                options.height,
                options.azimuth,
                options.elevation
            ),
            (640, 480, -120.5, -15.0)
        );
    }
}
