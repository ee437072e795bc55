//! Outputs: opened before anything expensive, each given its name once it is complete.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mast3r::export::{OutputFile, OutputFolder};
use mast3r::{Error, Result};
use serde_json::{Map, Value};

/// Refuses outputs that would overwrite each other or one of `inputs`.
pub fn check_apart<'a>(outputs: impl IntoIterator<Item = &'a Path>, inputs: &[PathBuf]) -> Result<()> {
    let inputs: Vec<PathBuf> = inputs.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let mut taken = Vec::new();
    for path in outputs.into_iter().filter(|path| is_overwritten(path)) {
        let place = place(path);
        if inputs.contains(&place) {
            return Err(Error::Usage(format!("cannot write {}: it is an input; name another file", path.display())));
        }
        if taken.contains(&place) {
            let reason = "it is named for two outputs; give each a path of its own";
            return Err(Error::Usage(format!("cannot write {}: {reason}", path.display())));
        }
        taken.push(place);
    }
    Ok(())
}

/// Whether writing to `path` takes its old content away: not so of standard output, pipes and devices.
fn is_overwritten(path: &Path) -> bool {
    path.as_os_str() != "-" && path.metadata().map_or(true, |kind| kind.is_file() || kind.is_dir())
}

/// One path for all spellings of `path`, whose last part need not exist yet.
fn place(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        folder.canonicalize().unwrap_or_default().join(path.file_name().unwrap_or_default())
    })
}

/// Opens a file that was asked for.
pub fn file(path: Option<&Path>) -> Result<Option<OutputFile>> {
    path.map(|path| not_stdout(path).and_then(OutputFile::create)).transpose()
}

/// Opens a PNG that was asked for; `what` says what it shows.
pub fn png(path: Option<&Path>, what: &str) -> Result<Option<OutputFile>> {
    if let Some(path) = path
        && path.extension().is_some_and(|extension| !extension.eq_ignore_ascii_case("png"))
    {
        return Err(Error::Usage(format!("{}: the {what} is a PNG; name it .png", path.display())));
    }
    file(path)
}

/// Opens a folder that was asked for.
pub fn folder(path: Option<&Path>) -> Result<Option<OutputFolder>> {
    path.map(|path| not_stdout(path).and_then(OutputFolder::create)).transpose()
}

/// Refuses the sign for standard output, which would become a file of that name.
pub fn not_stdout(path: &Path) -> Result<&Path> {
    match path.as_os_str() == "-" {
        true => Err(Error::Usage("only a point cloud goes to standard output, with -o -; name a file".into())),
        false => Ok(path),
    }
}

/// What was written where, in the order of writing.
#[derive(Debug, Default)]
pub struct Written(Vec<(&'static str, String, String)>);

impl Written {
    /// Notes that `what` went to `path`, with a word on it.
    pub fn add(&mut self, what: &'static str, path: &Path, detail: impl Into<String>) {
        self.0.push((what, path.display().to_string(), detail.into()));
    }

    /// Whether `what` was written.
    pub fn has(&self, what: &str) -> bool {
        self.0.iter().any(|(written, _, _)| *written == what)
    }

    /// Lines for a person.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(|(what, path, detail)| format!("  {what}: {path} ({detail})"))
    }

    /// Paths for a program: one by itself, several of a kind as a list.
    pub fn json(&self) -> Value {
        let mut paths = Map::new();
        for (what, path, _) in &self.0 {
            let path = Value::from(path.as_str());
            match paths.get_mut(*what) {
                None => drop(paths.insert((*what).into(), path)),
                Some(Value::Array(list)) => list.push(path),
                Some(one) => *one = Value::Array(vec![one.take(), path]),
            }
        }
        Value::Object(paths)
    }
}

/// Where a text goes.
#[derive(Debug)]
pub enum TextOutput {
    /// A file.
    File(OutputFile),
    /// Standard output.
    Stdout,
}

impl TextOutput {
    /// Opens `path`; `-` is standard output.
    pub fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" { Ok(Self::Stdout) } else { Ok(Self::File(OutputFile::create(path)?)) }
    }

    /// Whether this is standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self, Self::Stdout)
    }

    /// Writes the whole text.
    pub fn write(self, text: &str) -> anyhow::Result<()> {
        match self {
            Self::File(file) => Ok(file.write_with(|out| out.write_all(text.as_bytes()))?),
            Self::Stdout => Ok(print_text(text)?),
        }
    }
}

/// Prints on standard output.
pub fn print_text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints one JSON object on standard output.
pub fn print_json(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}
