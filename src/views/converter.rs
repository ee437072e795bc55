//! HEIC and AVIF images as an installed program decodes them.
//!
//! Which programs there are differs from system to system; the first that gives an image of the
//! size that the file states is used, and named in a remark. They are handed the file by an
//! absolute path or through a pipe, so that no name is an option to them.

use std::io::{self, Read as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::content::Container;
use super::header::{Format, Pixels};
use super::heif::Layout;
use super::video;
use crate::error::{Error, Result};
use crate::files::TemporaryFolder;
use crate::programs::{Ending, Program, install_line};

/// How long a program may take for one image.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program that decodes images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Converter {
    /// Of libheif; its older name is `heif-convert`.
    Libheif(&'static str),
    /// Of macOS.
    Sips,
    ImageMagick,
    Ffmpeg,
}

const CONVERTERS: [Converter; 5] = [
    Converter::Libheif("heif-dec"),
    Converter::Libheif("heif-convert"),
    Converter::Sips,
    Converter::ImageMagick,
    Converter::Ffmpeg,
];

/// What is to be decoded.
pub(super) struct Request<'a> {
    pub path: &'a Path,
    pub format: Format,
    pub layout: Layout,
    /// Decodes what a program has written.
    pub read: &'a dyn Fn(&Path) -> Result<Pixels>,
}

/// Decodes an image by the first program that can.
pub(super) fn decode(request: &Request<'_>) -> Result<Pixels> {
    let mut refusals = Vec::new();
    for converter in CONVERTERS {
        if !converter.takes(request.layout) {
            continue;
        }
        match converter.run(request)? {
            Outcome::Missing => {}
            Outcome::Pixels(mut pixels) => {
                pixels.decoded_by = Some(converter.name());
                return Ok(pixels);
            }
            Outcome::Refused(reason) => refusals.push(format!("{}: {reason}", converter.name())),
        }
    }
    let name = request.format.name();
    let reason = if refusals.is_empty() {
        let packages = ["libheif-examples", "libheif", "ImageMagick.ImageMagick"];
        format!(
            "an image in {name}, which needs heif-dec, heif-convert, magick or a new ffmpeg, and none of them that \
             can decode it is on the PATH; install one: {}; or convert it to JPEG or PNG",
            install_line(packages)
        )
    } else {
        format!(
            "damaged or incomplete {name} file, or of a kind that no installed program decodes ({}); copy it again \
             from its source, or convert it to JPEG or PNG",
            refusals.join("; ")
        )
    };
    Err(Error::input(request.path, reason))
}

enum Outcome {
    /// The program is not installed.
    Missing,
    Pixels(Pixels),
    Refused(String),
}

impl Converter {
    fn name(self) -> &'static str {
        match self {
            Self::Libheif(name) => name,
            Self::Sips => "sips",
            Self::ImageMagick => "magick",
            Self::Ffmpeg => "ffmpeg",
        }
    }

    /// Whether it can decode what is stored so. Until version 7.1 ffmpeg decoded one tile instead of
    /// all and turned nothing, without a word.
    fn takes(self, layout: Layout) -> bool {
        match self {
            Self::Ffmpeg => layout == Layout::default(),
            Self::Sips => cfg!(target_os = "macos"),
            _ => true,
        }
    }

    fn run(self, request: &Request<'_>) -> Result<Outcome> {
        let folder = TemporaryFolder::new()?;
        let output = folder.path().join("image.png");
        let input =
            std::path::absolute(request.path).map_err(|source| Error::io(request.path, source))?;
        let mut command = Command::new(self.name());
        let mut stdin = None;
        match self {
            Self::Libheif(_) => {
                command.arg(&input).arg(&output);
            }
            Self::Sips => {
                command.args(["-s", "format", "png"]);
                command.arg(&input).arg("--out").arg(&output);
            }
            Self::ImageMagick => {
                let bytes = std::fs::read(&input);
                stdin = Some(bytes.map_err(|source| Error::unreadable(&input, source))?);
                let kind = if request.format == Format::Avif {
                    "avif:-"
                } else {
                    "heic:-"
                };
                command.args([kind, "-strip"]).arg(&output);
            }
            Self::Ffmpeg => {
                video::harden(&mut command);
                command.args(["-hide_banner", "-nostdin", "-loglevel", "error"]);
                video::input(&mut command, &input, Container("mov"));
                command.args(["-frames:v", "1", "-update", "1"]);
                command.args(["-f", "image2", "-c:v", "png", "-pix_fmt", "rgb24"]);
                command.arg(&output);
            }
        }
        let mut program = match Program::start(command, stdin, PATIENCE, |_| false) {
            Ok(program) => program,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Missing),
            Err(error) => return Err(Error::io(self.name(), error)),
        };
        // What it says is nothing but a sign of life.
        io::copy(&mut program.by_ref(), &mut io::sink())
            .map_err(|source| Error::io(self.name(), source))?;
        let Ending {
            success,
            stalled,
            talk,
        } = program.finish();
        let refuse = |reason: String| Ok(Outcome::Refused(reason));
        if stalled {
            return refuse(format!("it took more than {} s", PATIENCE.as_secs()));
        }
        if !success || !output.is_file() {
            let last = talk.lines().last().unwrap_or("it gives no reason");
            return refuse(last.replace(&*input.to_string_lossy(), "the file"));
        }
        match (request.read)(&output) {
            Ok(pixels) => Ok(Outcome::Pixels(pixels)),
            Err(error) => refuse(error.to_string()),
        }
    }
}
