//! Which points of a scene are shown or written.

use clap::Args;
use mast3r::scene::{PointFilter, Thinning};
use mast3r::{Error, Result};

/// Rules for points.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Keep points of at least this confidence (1 is the lowest)
    #[arg(long, value_name = "CONFIDENCE", allow_negative_numbers = true)]
    min_confidence: Option<f32>,

    /// Keep the most confident PERCENT of all points (above 0, to 100)
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    keep_percentile: Option<f32>,

    /// Keep the most confident point in each cube of this size, in scene units
    ///
    /// Overlapping images see most surfaces several times. Applies to point clouds, not to the
    /// tracks of models.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    voxel: Option<f64>,

    /// Keep at most N points, spread evenly over the images
    ///
    /// Applied after all other rules, to point clouds only.
    #[arg(long, value_name = "N")]
    max_points: Option<usize>,
}

impl FilterArgs {
    /// Checks what needs nothing but the arguments.
    pub fn check(&self) -> Result<()> {
        let PointFilter {
            min_confidence,
            keep_percentile,
            thinning: Thinning { voxel, most },
        } = self.rules();
        let thinned = |voxel, most| PointFilter {
            thinning: Thinning { voxel, most },
            ..PointFilter::default()
        };
        for (flag, filter) in [
            (
                "--min-confidence",
                PointFilter {
                    min_confidence,
                    ..PointFilter::default()
                },
            ),
            (
                "--keep-percentile",
                PointFilter {
                    keep_percentile,
                    ..PointFilter::default()
                },
            ),
            ("--voxel", thinned(voxel, None)),
            ("--max-points", thinned(None, most)),
        ] {
            filter
                .check()
                .map_err(|error| Error::Usage(format!("{flag}: {error}")))?;
        }
        Ok(())
    }

    /// Whether any rule is given.
    pub fn is_given(&self) -> bool {
        self.rules() != PointFilter::default()
    }

    /// The points to keep.
    pub fn rules(&self) -> PointFilter {
        PointFilter {
            min_confidence: self.min_confidence,
            keep_percentile: self.keep_percentile,
            thinning: Thinning {
                voxel: self.voxel,
                most: self.max_points,
            },
        }
    }
}
