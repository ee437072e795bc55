//! Matches as CSV.

use std::io::{self, Write};

use crate::matching::Match;
use crate::views::Crop;

/// The columns: pixels of the pictures that the network saw, the confidence, and pixels of the upright files.
///
/// The centre of the top left pixel is (0, 0) in both.
pub const MATCHES_HEADER: &str = "x1,y1,x2,y2,confidence,file_x1,file_y1,file_x2,file_y2";

/// Writes one line per match below [`MATCHES_HEADER`]; `first` and `second` are the crops of the two pictures.
///
/// # Errors
/// Only the writer's own.
pub fn write_matches(matches: &[Match], first: &Crop, second: &Crop, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{MATCHES_HEADER}")?;
    for pair in matches {
        let (a, b) = (pair.first, pair.second);
        let [file_x1, file_y1] = first.to_file([f64::from(a.x), f64::from(a.y)]);
        let [file_x2, file_y2] = second.to_file([f64::from(b.x), f64::from(b.y)]);
        writeln!(
            out,
            "{},{},{},{},{},{file_x1:.3},{file_y1:.3},{file_x2:.3},{file_y2:.3}",
            a.x, a.y, b.x, b.y, pair.confidence
        )?;
    }
    Ok(())
}
