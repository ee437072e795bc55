//! `mast3r view`: a scene in the system's browser.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use clap::Args;
use mast3r::export::{CameraModels, ExportOptions, Images, SceneFormat, SceneOutput};
use mast3r::formats::clouds;
use mast3r::scene::Scene;
use mast3r::{Error, Result};

use crate::filter::FilterArgs;
use crate::{GlobalArgs, align, outputs, progress};

/// Show a scene in the browser
///
/// SCENE is a page that -o scene.html wrote, a point cloud (.ply, .glb), or a folder with scene.json,
/// such as that of reconstruct --work. A folder is aligned, without a network. The path of the page
/// goes to standard output.
#[derive(Debug, Args)]
pub struct ViewArgs {
    /// Page, point cloud or folder to show
    #[arg(value_name = "SCENE")]
    scene: PathBuf,

    /// Write the page here [default: a temporary file, which stays]
    #[arg(short, long, value_name = "PAGE")]
    output: Option<PathBuf>,

    /// Do not open the page in a browser
    #[arg(long)]
    no_open: bool,

    #[command(flatten)]
    filter: FilterArgs,
}

/// What SCENE is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Page,
    Cloud,
    Folder,
}

impl ViewArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let kind = kind(&self.scene)?;
        self.check(kind)?;
        let page = match kind {
            Kind::Page => self.scene.clone(),
            Kind::Cloud => self.write(|| clouds::read(&self.scene), global)?,
            Kind::Folder => self.write(|| aligned(&self.scene, global), global)?,
        };
        outputs::print_text(&format!("{}\n", page.display()))?;
        if self.no_open {
            return Ok(());
        }
        open(&page).with_context(|| {
            format!(
                "{}: no browser could be started; open the file by hand",
                page.display()
            )
        })
    }

    /// What the arguments alone show to be wrong.
    fn check(&self, kind: Kind) -> Result<()> {
        self.filter.check()?;
        if kind == Kind::Page && (self.output.is_some() || self.filter.is_given()) {
            let reason = "it is a page already; give the point cloud or folder that it was made of";
            return Err(Error::Usage(format!("{}: {reason}", self.scene.display())));
        }
        if let Some(output) = &self.output {
            if SceneFormat::of_output(output, None).ok() != Some(SceneFormat::HTML) {
                let reason = "a page ends in .html; name it so";
                return Err(Error::Usage(format!("{}: {reason}", output.display())));
            }
            outputs::check_apart([output.as_path()], std::slice::from_ref(&self.scene))?;
        }
        Ok(())
    }

    /// Writes the page of the scene that `load` gives, where it was asked for or in a folder of its
    /// own for temporary files.
    fn write(
        &self,
        load: impl FnOnce() -> Result<Scene>,
        global: &GlobalArgs,
    ) -> anyhow::Result<PathBuf> {
        let spinner = progress::spinner(global.quiet);
        progress::show(&spinner, "load");
        let (path, folder) = match &self.output {
            Some(path) => (path.clone(), None),
            None => {
                let folder = tempfile::Builder::new().prefix("mast3r-view-").tempdir();
                let folder = folder.context("no folder for the page; name one with -o")?;
                let name = match self.scene.is_dir() {
                    true => self.scene.file_name(),
                    false => self.scene.file_stem(),
                };
                // Of "..", for instance, there is no name.
                let name = name.unwrap_or(OsStr::new("scene"));
                let path = folder.path().join(name).with_added_extension("html");
                (path, Some(folder))
            }
        };
        let output = SceneOutput::create(&path, SceneFormat::HTML, &Images::OfScene)?;
        let scene = load()?;
        progress::show(&spinner, "write");
        let options = ExportOptions {
            filter: self.filter.rules(),
            cameras: CameraModels::Frustums,
            ..ExportOptions::default()
        };
        output.write(&scene, &options)?;
        spinner.finish_and_clear();
        if let Some(folder) = folder {
            let _ = folder.keep();
        }
        Ok(path)
    }
}

fn kind(scene: &Path) -> Result<Kind> {
    if scene.is_dir() {
        return Ok(Kind::Folder);
    }
    let extension = scene
        .extension()
        .map(|extension| extension.to_string_lossy().to_lowercase());
    let kind = match extension.as_deref() {
        Some("html" | "htm") => Kind::Page,
        Some(extension) if clouds::EXTENSIONS.contains(&extension) => Kind::Cloud,
        _ if scene.exists() => {
            let reason =
                "unknown kind of scene; expected .html, .ply, .glb or a folder with scene.json";
            return Err(Error::Usage(format!("{}: {reason}", scene.display())));
        }
        // To be refused as missing.
        _ => Kind::Page,
    };
    match std::fs::File::open(scene) {
        Ok(_) => Ok(kind),
        Err(error) => Err(Error::unreadable(scene, error)),
    }
}

/// The scene of a folder of predictions.
fn aligned(folder: &Path, global: &GlobalArgs) -> Result<Scene> {
    let alignment = align::without_refinement(folder)?;
    if let Some(reason) = &alignment.cameras_error {
        global.say(format_args!("{}: no cameras: {reason}", folder.display()));
    }
    Ok(alignment.scene)
}

/// Opens a file as the system does.
fn open(page: &Path) -> io::Result<()> {
    let (program, arguments): (&str, &[&str]) = if cfg!(target_os = "macos") {
        ("open", &[])
    } else if cfg!(windows) {
        // The empty text is the window's title.
        ("cmd", &["/C", "start", ""])
    } else {
        ("xdg-open", &[])
    };
    let page = std::path::absolute(page)?;
    let output = Command::new(program)
        .args(arguments)
        .arg(&page)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(format!("{program}: {}", said.trim())))
        }
    }
}
