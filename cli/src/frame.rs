//! The frame that a scene is written in: what every command takes that makes one.

use std::path::PathBuf;

use clap::Args;
use mast3r::alignment::Alignment;
use mast3r::geometry::UpDirection;
use mast3r::georeference::{Georeference, check_positions, upright};
use mast3r::nalgebra::{Similarity3, Translation3, Vector3};
use mast3r::views::{GpsPosition, Limits, gps_position};
use mast3r::{Error, Result, Visible};
use serde_json::{Value, json};

use crate::GlobalArgs;

/// Images whose residuals are listed, unless all are asked for.
const MOST_LISTED: usize = 12;

/// The frame as it was asked for.
#[derive(Debug, Args)]
pub struct FrameArgs {
    /// Turn the scene upright, by how the cameras are held: y points down along gravity
    ///
    /// Estimate the vertical from the rows of the images, which are assumed horizontal (robust to
    /// outliers). If all cameras have the same heading, zero pitch is assumed. z is then the
    /// horizontal direction that the first camera looks in. Formats with y or z up stand upright.
    #[arg(long, conflicts_with = "poses")]
    upright: bool,

    /// Move the scene to where the images were taken, by the GPS positions in their EXIF data
    ///
    /// x is east, y north and z up, in metres (WGS84), with the origin at the median position, which
    /// outputs state where their format can; .las and .laz are in UTM. At least three images need a
    /// position with an altitude, and if they lie on a line, the images must have different
    /// headings. The residual of each image is reported.
    #[arg(long, conflicts_with_all = ["poses", "upright"])]
    georeference: bool,
}

/// What is known of the frame before anything is computed.
#[derive(Debug)]
pub enum Frame {
    /// The first camera's, or that of given poses.
    Own,
    Upright,
    /// With the position of each image.
    Georeferenced(Vec<Option<GpsPosition>>),
}

/// What became of it.
#[derive(Debug)]
pub enum Framed {
    Own,
    Upright(UpDirection),
    Georeferenced(Box<Georeference>),
    /// The scene stays in its own frame; the reason, until it is taken.
    Failed(Option<Error>),
}

impl FrameArgs {
    /// The option that reads the images' files, if one does.
    pub fn reads_images(&self) -> bool {
        self.georeference
    }

    /// Reads the positions of `images`, and refuses those that cannot do.
    pub fn prepare(&self, images: &[PathBuf]) -> Result<Frame> {
        if self.upright {
            return Ok(Frame::Upright);
        }
        if !self.georeference {
            return Ok(Frame::Own);
        }
        let position = |path: &PathBuf| gps_position(path, &Limits::default());
        let positions = Error::all(images.iter().map(position))?;
        check_positions(&positions)?;
        Ok(Frame::Georeferenced(positions))
    }
}

impl Frame {
    /// Moves the scene. One that cannot be moved stays, and the run's error says why.
    pub fn apply(&self, alignment: &mut Alignment) -> Framed {
        let scene = &mut alignment.scene;
        match self {
            // That there are no cameras is told anyway.
            _ if alignment.cameras_error.is_some() => Framed::Own,
            Self::Own => Framed::Own,
            Self::Upright => match upright(scene) {
                Ok((turn, found)) => {
                    let still = Translation3::identity();
                    scene.transform(&Similarity3::from_parts(still, turn, 1.0));
                    Framed::Upright(found)
                }
                Err(error) => Framed::Failed(Some(error)),
            },
            Self::Georeferenced(positions) => match Georeference::fit(scene, positions) {
                Ok(found) => {
                    found.apply(scene);
                    Framed::Georeferenced(Box::new(found))
                }
                Err(error) => Framed::Failed(Some(error)),
            },
        }
    }
}

impl Framed {
    /// For a person.
    pub fn say(&self, alignment: &Alignment, global: &GlobalArgs) {
        match self {
            Self::Own => {}
            Self::Failed(_) => global.say("  the scene stays in the frame of its first camera"),
            Self::Upright(found) => {
                let roll = found.roll.to_degrees();
                let pitch = match found.is_determined {
                    true => "",
                    false => "; all cameras head the same way, so their pitch is taken to be level",
                };
                global.say(format_args!(
                    "upright: images are level to {roll:.1} degrees (median){pitch}"
                ));
            }
            Self::Georeferenced(found) => say_georeference(found, alignment, global),
        }
    }

    /// For a program.
    pub fn json(&self) -> Value {
        match self {
            Self::Own | Self::Failed(_) => Value::Null,
            Self::Upright(found) => json!({
                "kind": "upright",
                "roll_deg": found.roll.to_degrees(),
                "pitch_is_determined": found.is_determined,
            }),
            Self::Georeferenced(found) => json!({
                "kind": "georeferenced",
                "latitude": found.origin.latitude,
                "longitude": found.origin.longitude,
                "altitude": found.origin.altitude,
                "median_residual_m": found.median_residual,
                "residuals_m": found
                    .residuals
                    .iter()
                    .map(|residual| residual.map(|off| [off.x, off.y, off.z]))
                    .collect::<Vec<_>>(),
                "on_a_line": found.is_on_a_line,
            }),
        }
    }

    /// Why the scene could not be moved, once.
    pub fn take_error(&mut self) -> Option<Error> {
        match self {
            Self::Failed(error) => error.take(),
            _ => None,
        }
    }
}

/// The fit as a whole, and the residuals of images, the largest first.
fn say_georeference(found: &Georeference, alignment: &Alignment, global: &GlobalArgs) {
    let mut listed: Vec<(&str, Vector3<f64>)> = alignment
        .scene
        .views
        .iter()
        .zip(&found.residuals)
        .filter_map(|(view, residual)| Some((view.name.as_str(), (*residual)?)))
        .collect();
    let line = match found.is_on_a_line {
        true => {
            "; the cameras lie on a line, about which the vertical of the images turns the scene"
        }
        false => "",
    };
    let origin = found.origin;
    global.say(format_args!(
        "georeferenced by {} GPS positions to latitude {:.7}, longitude {:.7}, altitude {:.1} m; median residual {:.2} m{line}",
        listed.len(), origin.latitude, origin.longitude, origin.altitude, found.median_residual
    ));
    listed.sort_by(|one, two| two.1.norm().total_cmp(&one.1.norm()));
    let shown = match global.verbose {
        0 => listed.len().min(MOST_LISTED),
        _ => listed.len(),
    };
    for (name, off) in &listed[..shown] {
        global.say(format_args!(
            "  {}: {:.2} m off its GPS position (east {:+.2}, north {:+.2}, up {:+.2})",
            Visible(name),
            off.norm(),
            off.x,
            off.y,
            off.z
        ));
    }
    if listed.len() > shown {
        let rest = listed.len() - shown;
        global.say(format_args!(
            "  {rest} smaller residuals; -v or --json names them"
        ));
    }
}
