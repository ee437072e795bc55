//! Writes the pixels of image files to standard output, as the library decodes them: upright, 8-bit
//! RGB, without alpha.
//!
//! For each file a line of JSON, `{"file":…,"width":…,"height":…}` followed by its pixels, or
//! `{"file":…,"error":…}`. `scripts/compare_decoding.py` compares them with Pillow's.

use std::io::{self, Write as _};
use std::path::PathBuf;

use mast3r::views::{self, Limits};

fn main() -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for path in std::env::args_os().skip(1).map(PathBuf::from) {
        let file = path.to_string_lossy();
        match views::load_whole(&path, &Limits::default()) {
            Ok(rgb) => {
                let (width, height) = rgb.dimensions();
                writeln!(
                    out,
                    "{}",
                    serde_json::json!({ "file": file, "width": width, "height": height })
                )?;
                out.write_all(rgb.as_raw())?;
            }
            Err(error) => {
                writeln!(
                    out,
                    "{}",
                    serde_json::json!({ "file": file, "error": error.to_string() })
                )?;
            }
        }
    }
    out.flush()
}
