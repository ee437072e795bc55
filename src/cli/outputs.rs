//! Outputs, opened before anything expensive and given their names together at the end.

use std::io::{self, Write};
use std::path::Path;

use mast3r::Result;
use mast3r::export::{Format, OutputFile, OutputFolder};
use serde_json::{Map, Value};

/// Where a point cloud goes.
#[derive(Debug)]
pub enum CloudOutput {
    /// A file, in the format of its extension.
    File(Format, OutputFile),
    /// Standard output, as PLY.
    Stdout,
}

impl CloudOutput {
    /// Opens `path`; `-` is standard output.
    pub fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdout);
        }
        Ok(Self::File(Format::from_path(path)?, OutputFile::create(path)?))
    }
}

/// Opens a file that was asked for.
pub fn file(path: Option<&Path>) -> Result<Option<OutputFile>> {
    path.map(OutputFile::create).transpose()
}

/// Opens a folder that was asked for.
pub fn folder(path: Option<&Path>) -> Result<Option<OutputFolder>> {
    path.map(OutputFolder::create).transpose()
}

/// What was written where, in the order of writing.
#[derive(Debug, Default)]
pub struct Written(Vec<(&'static str, String, String)>);

impl Written {
    /// Notes that `what` went to `path`, with a word on it.
    pub fn add(&mut self, what: &'static str, path: &Path, detail: impl Into<String>) {
        self.0.push((what, path.display().to_string(), detail.into()));
    }

    /// Lines for a person.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(|(what, path, detail)| format!("  {what}: {path} ({detail})"))
    }

    /// Paths for a program.
    pub fn json(&self) -> Value {
        let paths: Map<String, Value> =
            self.0.iter().map(|(what, path, _)| (what.to_string(), Value::from(path.as_str()))).collect();
        Value::Object(paths)
    }
}

/// Prints one JSON object on standard output.
pub fn print_json(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}
