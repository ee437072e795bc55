//! Outputs: opened before anything expensive, each given its name once it is complete.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mast3r::export::{OutputFile, OutputFolder};
use mast3r::nalgebra::Matrix4;
use mast3r::{Error, Result, Visible};
use serde_json::{Map, Value, json};

/// What messages call standard output.
pub const STDOUT: &str = "standard output";

/// Refuses outputs that would overwrite each other or one of `inputs`.
pub fn check_apart<'a>(
    outputs: impl IntoIterator<Item = &'a Path>,
    inputs: &[PathBuf],
) -> Result<()> {
    let inputs: Vec<PathBuf> = inputs
        .iter()
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    let mut taken = Vec::new();
    for path in outputs.into_iter().filter(|path| is_overwritten(path)) {
        let place = place(path);
        if inputs.contains(&place) {
            return Err(Error::Usage(format!(
                "cannot write {}: it is an input; name another file",
                path.display()
            )));
        }
        if taken.contains(&place) {
            let reason = "it is named for two outputs; give each a path of its own";
            return Err(Error::Usage(format!(
                "cannot write {}: {reason}",
                path.display()
            )));
        }
        taken.push(place);
    }
    Ok(())
}

/// Whether writing to `path` takes its old content away: not so of standard output, pipes and
/// devices.
fn is_overwritten(path: &Path) -> bool {
    path.as_os_str() != "-"
        && path
            .metadata()
            .map_or(true, |kind| kind.is_file() || kind.is_dir())
}

/// One path for all spellings of `path`, whose last part need not exist yet.
fn place(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        folder
            .canonicalize()
            .unwrap_or_default()
            .join(path.file_name().unwrap_or_default())
    })
}

/// Opens a file that was asked for.
pub fn file(path: Option<&Path>) -> Result<Option<OutputFile>> {
    path.map(|path| not_stdout(path).and_then(OutputFile::create))
        .transpose()
}

/// Opens a PNG that was asked for; `what` says what it shows.
pub fn png(path: Option<&Path>, what: &str) -> Result<Option<OutputFile>> {
    if let Some(path) = path
        && path
            .extension()
            .is_some_and(|extension| !extension.eq_ignore_ascii_case("png"))
    {
        return Err(Error::Usage(format!(
            "{}: the {what} is a PNG; name it .png",
            path.display()
        )));
    }
    file(path)
}

/// A 4x4 matrix for a program, row by row.
pub fn rows(matrix: &Matrix4<f64>) -> Vec<Vec<f64>> {
    matrix
        .row_iter()
        .map(|row| row.iter().copied().collect())
        .collect()
}

/// Opens a folder that was asked for.
pub fn folder(path: Option<&Path>) -> Result<Option<OutputFolder>> {
    path.map(|path| not_stdout(path).and_then(OutputFolder::create))
        .transpose()
}

/// Refuses the sign for standard output, which would become a file of that name.
pub fn not_stdout(path: &Path) -> Result<&Path> {
    match path.as_os_str() == "-" {
        true => Err(Error::Usage(
            "only a point cloud goes to standard output, with -o -; name a file".into(),
        )),
        false => Ok(path),
    }
}

/// What was written where, in the order of writing, and what could not be.
#[derive(Debug, Default)]
pub struct Written {
    outputs: Vec<(&'static str, String, String)>,
    failures: Failures,
}

/// What a run could not do, though it did the rest; one message each.
#[derive(Debug, Default)]
pub struct Failures(Vec<Failure>);

#[derive(Debug)]
struct Failure {
    what: &'static str,
    /// The output's path, if it is about one.
    path: Option<String>,
    error: anyhow::Error,
}

impl Written {
    /// Notes that `what` went to `path`, with a word on it.
    pub fn add(&mut self, what: &'static str, path: &Path, detail: impl Into<String>) {
        self.outputs
            .push((what, path.display().to_string(), detail.into()));
    }

    /// Notes that the output `what` could not be written to `path`.
    pub fn fail(&mut self, what: &'static str, path: &Path, error: impl Into<anyhow::Error>) {
        self.failures.0.push(Failure {
            what,
            path: Some(path.display().to_string()),
            error: error.into(),
        });
    }

    /// Notes something that failed and is not an output.
    pub fn fail_run(&mut self, what: &'static str, error: impl Into<anyhow::Error>) {
        self.failures.0.push(Failure {
            what,
            path: None,
            error: error.into(),
        });
    }

    /// Notes the output `what` at `path` with the word on it that `written` has, or that it could
    /// not be written.
    pub fn note(&mut self, what: &'static str, path: &Path, written: Result<String>) {
        match written {
            Ok(detail) => self.add(what, path, detail),
            Err(error) => self.fail(what, path, error),
        }
    }

    /// Whether nothing at all was written, though something should have been.
    pub fn is_in_vain(&self) -> bool {
        self.outputs.is_empty() && !self.failures.0.is_empty()
    }

    /// Ends a run that went as far as it could: an error if anything failed.
    pub fn finish(self) -> anyhow::Result<()> {
        let Self {
            failures: Failures(mut failures),
            ..
        } = self;
        // A reader that goes away is not an error.
        failures.retain(|failure| !is_broken_pipe(&failure.error));
        if failures.is_empty() {
            Ok(())
        } else {
            Err(Failures(failures).into())
        }
    }

    /// Whether `what` was written.
    pub fn has(&self, what: &str) -> bool {
        self.outputs.iter().any(|(written, _, _)| *written == what)
    }

    /// Lines for a person.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.outputs
            .iter()
            .map(|(what, path, detail)| format!("  {what}: {path} ({detail})"))
    }

    /// What could not be written, for a program.
    pub fn failed_json(&self) -> Value {
        let failure = |failure: &Failure| json!({ "what": failure.what, "path": failure.path, "error": failure.to_string() });
        self.failures.0.iter().map(failure).collect()
    }

    /// Paths for a program: one by itself, several of a kind as a list.
    pub fn json(&self) -> Value {
        let mut paths = Map::new();
        for (what, path, _) in &self.outputs {
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

impl Failures {
    /// The first of them, which determines the exit code.
    pub fn first(&self) -> Option<&anyhow::Error> {
        self.0.first().map(|failure| &failure.error)
    }

    /// A message for each.
    pub fn messages(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(Failure::to_string)
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.messages().collect::<Vec<_>>().join("; "))
    }
}

impl std::error::Error for Failures {}

impl fmt::Display for Failure {
    /// Begins with the output's path, which errors of the system name themselves.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = format!("{:#}", self.error);
        match self.path.as_deref().map(|path| Visible(path).to_string()) {
            Some(path)
                if !(message.starts_with(&path)
                    || message.contains(&format!("cannot write {path}"))) =>
            {
                write!(out, "{path}: {message}")
            }
            _ => out.write_str(&message),
        }
    }
}

/// A result on which several outputs depend, for one of them.
pub fn repeated(result: &Result<()>) -> Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(error.repeated()),
    }
}

/// Whether the error is that a reader went away, which is not an error of ours.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let cause = match cause.downcast_ref::<Error>() {
            Some(Error::Io { cause, .. }) => Some(cause),
            _ => cause.downcast_ref::<io::Error>(),
        };
        cause.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
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
        if path.as_os_str() == "-" {
            Ok(Self::Stdout)
        } else {
            Ok(Self::File(OutputFile::create(path)?))
        }
    }

    /// Whether this is standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self, Self::Stdout)
    }

    /// Writes the whole text, and notes a file with a word on it, or what failed.
    pub fn write(
        self,
        text: &str,
        what: &'static str,
        detail: impl FnOnce() -> String,
        written: &mut Written,
    ) {
        match self {
            Self::File(file) => {
                let path = file.path().to_path_buf();
                let done = file.write_with(|out| out.write_all(text.as_bytes()));
                written.note(what, &path, done.map(|()| detail()));
            }
            Self::Stdout => {
                if let Err(error) = print_text(text) {
                    written.fail(what, Path::new(STDOUT), error);
                }
            }
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
