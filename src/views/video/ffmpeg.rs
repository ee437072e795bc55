//! Images that `ffmpeg` decodes, with the times at which they are shown.
//!
//! Images come as a stream of PGM or PPM on standard output, times as lines of the filter
//! `showinfo` on standard error, one for each image and in the same order.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::super::content::Container;
use crate::error::{Error, Result};
use crate::programs::{Program, install_line};

/// How long ffmpeg may decode without giving an image. Where few are picked, it passes over the
/// others without a word.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// What shall be decoded.
pub(super) struct Request<'a> {
    pub path: &'a Path,
    pub container: Container,
    /// Where to begin, in seconds: at an image before it that depends on no earlier one.
    pub start: Option<f64>,
    /// What happens to the images, before they become grey or coloured ones.
    pub filters: String,
    pub is_grey: bool,
}

/// An 8-bit image with one channel or three.
pub(super) struct Image {
    pub width: u32,
    pub height: u32,
    pub samples: Vec<u8>,
}

/// The images that ffmpeg gives.
pub(super) struct Images<'a> {
    path: &'a Path,
    reader: BufReader<Program>,
    time_base: Option<f64>,
    is_grey: bool,
    /// The most samples that an image may have.
    most_samples: u64,
}

impl<'a> Images<'a> {
    /// Starts ffmpeg.
    pub fn decode(request: &Request<'a>, most_pixels: u64) -> Result<Self> {
        let mut command = Command::new("ffmpeg");
        harden(&mut command);
        command.args(["-hide_banner", "-nostdin", "-nostats", "-loglevel", "info"]);
        // Times as in the file, but for its start, wherever decoding begins.
        command.args(["-copyts", "-start_at_zero"]);
        if let Some(start) = request.start.filter(|start| *start > 0.0) {
            command.args(["-noaccurate_seek", "-ss", &format!("{start:.3}")]);
        }
        input(&mut command, request.path, request.container);
        let (codec, format, channels) = if request.is_grey {
            ("pgm", "gray", 1)
        } else {
            ("ppm", "rgb24", 3)
        };
        command.args(["-map", "0:V:0", "-an", "-sn", "-dn"]);
        command.arg("-vf");
        command.arg(format!("{},format={format}", request.filters));
        // Without it ffmpeg would repeat and drop images for a constant rate.
        command.args([sync_option()?, "passthrough"]);
        command.args(["-f", "image2pipe", "-c:v", codec, "-"]);
        let program = Program::start(command, None, PATIENCE, is_info)
            .map_err(|source| not_started("ffmpeg", request.path, source))?;
        Ok(Self {
            path: request.path,
            reader: BufReader::with_capacity(1 << 18, program),
            time_base: None,
            is_grey: request.is_grey,
            most_samples: most_pixels.saturating_mul(channels),
        })
    }

    /// The next image and its time in seconds; `None` at the end of what can be decoded.
    pub fn next(&mut self) -> Result<Option<(f64, Image)>> {
        loop {
            let image = self.read().map_err(|source| Error::io(self.path, source))?;
            let Some(image) = image else { return Ok(None) };
            // An image without a time cannot be asked for again.
            if let Some(time) = self.time()? {
                return Ok(Some((time, image)));
            }
        }
    }

    /// What ffmpeg said, once there are no more images.
    pub fn finish(self) -> Result<String> {
        let ending = self.reader.into_inner().finish();
        if ending.stalled {
            return Err(Error::input(self.path, stalled(PATIENCE)));
        }
        Ok(ending.talk)
    }

    fn read(&mut self) -> io::Result<Option<Image>> {
        if self.reader.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let odd = |what: &str| io::Error::other(format!("ffmpeg gave {what}"));
        let mut words = Vec::new();
        while words.len() < 4 {
            let mut word = String::new();
            loop {
                let mut byte = [0];
                match self.reader.read_exact(&mut byte) {
                    // The last image may be cut off.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                    read => read?,
                }
                match byte[0] {
                    byte if byte.is_ascii_whitespace() => break,
                    byte if word.len() < 16 => word.push(byte.into()),
                    _ => return Err(odd("no image")),
                }
            }
            words.push(word);
        }
        let magic = if self.is_grey { "P5" } else { "P6" };
        let side = |word: &String| word.parse::<u32>().map_err(|_| odd("no size"));
        let (width, height) = (side(&words[1])?, side(&words[2])?);
        if words[0] != magic || words[3] != "255" {
            return Err(odd("another kind of image"));
        }
        let channels = if self.is_grey { 1 } else { 3 };
        let count = u64::from(width) * u64::from(height) * channels;
        if count > self.most_samples {
            return Err(odd("an image larger than the limit"));
        }
        let mut samples = Vec::new();
        (&mut self.reader).take(count).read_to_end(&mut samples)?;
        Ok((samples.len() as u64 == count).then_some(Image {
            width,
            height,
            samples,
        }))
    }

    /// The time of the image that was read last.
    fn time(&mut self) -> Result<Option<f64>> {
        loop {
            let Some(line) = self.reader.get_ref().line() else {
                let reason = "ffmpeg gave an image without a time; update ffmpeg";
                return Err(Error::input(self.path, reason));
            };
            match Info::of(&line) {
                // It may change with the size of the images.
                Some(Info::TimeBase(base)) => self.time_base = Some(base),
                Some(Info::Time(ticks)) => {
                    return Ok(ticks.zip(self.time_base).map(|(ticks, base)| ticks * base));
                }
                None => {}
            }
        }
    }
}

/// What a line of `showinfo` says.
#[derive(Debug, PartialEq)]
enum Info {
    /// Seconds in a tick.
    TimeBase(f64),
    /// Of an image, in ticks.
    Time(Option<f64>),
}

impl Info {
    fn of(line: &str) -> Option<Self> {
        let (_, line) = line.split_once("Parsed_showinfo")?;
        let (_, line) = line.split_once("] ")?;
        if let Some(base) = line.strip_prefix("config in time_base: ") {
            let (numerator, denominator) = base.split_once(',')?.0.split_once('/')?;
            let [numerator, denominator]: [f64; 2] =
                [numerator.parse().ok()?, denominator.parse().ok()?];
            return Some(Self::TimeBase(numerator / denominator));
        }
        // Ticks, since the seconds that follow have six digits in all.
        let ticks = line
            .strip_prefix("n:")?
            .split_once(" pts:")?
            .1
            .split_whitespace()
            .next()?;
        Some(Self::Time(ticks.parse().ok()))
    }
}

fn is_info(line: &str) -> bool {
    Info::of(line).is_some()
}

/// Keeps settings of the environment away that change what ffmpeg writes.
pub(in crate::views) fn harden(command: &mut Command) {
    command
        .env("AV_LOG_FORCE_NOCOLOR", "1")
        .env_remove("AV_LOG_FORCE_COLOR")
        .env_remove("FFREPORT");
}

/// Names the input: a file and nothing else, whatever its name looks like.
pub(in crate::views) fn input(command: &mut Command, path: &Path, container: Container) {
    command.args(["-protocol_whitelist", "file,pipe", "-f", container.0, "-i"]);
    let mut name = OsString::from("file:");
    name.push(path);
    command.arg(name);
}

/// The option for images as they come: another one until ffmpeg 5.0.
fn sync_option() -> Result<&'static str> {
    static OPTION: OnceLock<&str> = OnceLock::new();
    if let Some(option) = OPTION.get() {
        return Ok(option);
    }
    let mut command = Command::new("ffmpeg");
    harden(&mut command);
    command.arg("-version");
    let mut program = Program::start(command, None, PATIENCE, |_| false)
        .map_err(|source| not_started("ffmpeg", Path::new("video"), source))?;
    let mut text = Vec::new();
    let read = (&mut program).take(1 << 16).read_to_end(&mut text);
    read.map_err(|source| Error::io("ffmpeg", source))?;
    let is_old = is_old(&String::from_utf8_lossy(&text));
    Ok(OPTION.get_or_init(|| if is_old { "-vsync" } else { "-fps_mode" }))
}

/// Whether this is the version of an ffmpeg before 5.1. Builds between releases are taken for new.
fn is_old(version: &str) -> bool {
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit());
        text[..end.unwrap_or(text.len())].parse::<u32>().ok()
    };
    version
        .strip_prefix("ffmpeg version ")
        .map(|text| text.strip_prefix('n').unwrap_or(text))
        .and_then(|text| Some((number(text)?, text.split_once('.')?.1)))
        .is_some_and(|(major, rest)| (major, number(rest).unwrap_or(0)) < (5, 1))
}

/// Why ffmpeg or ffprobe did not start.
pub(super) fn not_started(program: &str, path: &Path, source: io::Error) -> Error {
    if source.kind() != io::ErrorKind::NotFound {
        return Error::io(program, source);
    }
    let install = install_line(["ffmpeg", "ffmpeg", "Gyan.FFmpeg"]);
    Error::input(
        path,
        format!(
            "a video, which needs {program}, and that is not on the PATH; install it: {install}"
        ),
    )
}

pub(super) fn stalled(patience: Duration) -> String {
    format!(
        "ffmpeg gave nothing for {} s and was ended; try a copy of the video, or convert it",
        patience.as_secs()
    )
}

/// The last line of what ffmpeg said, without where in its code that was.
pub(super) fn last_words(talk: &str) -> &str {
    let line = talk.lines().last().unwrap_or("ffmpeg gives no reason");
    match line.split_once("] ") {
        Some((place, rest)) if place.starts_with('[') => rest,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_what_showinfo_writes() {
        let base =
            "[Parsed_showinfo_1 @ 0x5561bfcf6540] config in time_base: 1/15360, frame_rate: 30/1";
        assert_eq!(Info::of(base), Some(Info::TimeBase(1.0 / 15360.0)));
        let time = "[Parsed_showinfo_1 @ 0x55] n:   0 pts:  38400 pts_time:2.5     pos:   265015 fmt:yuv420p";
        assert_eq!(Info::of(time), Some(Info::Time(Some(38400.0))));
        let none = "[Parsed_showinfo_1 @ 0x55] n:   3 pts:  NOPTS pts_time:NOPTS pos:   265015";
        assert_eq!(Info::of(none), Some(Info::Time(None)));
        for other in [
            "[Parsed_showinfo_1 @ 0x55] config out time_base: 0/0, frame_rate: 0/0",
            "[Parsed_showinfo_1 @ 0x55] color_range:unknown color_space:unknown",
            "Stream #0:0 -> #0:0 (h264 (native) -> ppm (native))",
        ] {
            assert_eq!(Info::of(other), None, "{other}");
        }
    }

    #[test]
    fn versions_are_told_apart() {
        for old in ["4.4.2-0ubuntu0.22.04.1", "5.0.1", "n4.4", "3.2.19"] {
            assert!(is_old(&format!("ffmpeg version {old} Copyright")), "{old}");
        }
        for new in [
            "5.1.9-0+deb12u1",
            "n7.1",
            "8.0",
            "N-109542-g2d202985b7",
            "git-2020",
        ] {
            assert!(!is_old(&format!("ffmpeg version {new} Copyright")), "{new}");
        }
    }

    #[test]
    fn reasons_are_given_without_places_in_code() {
        assert_eq!(
            last_words("file:a.mp4: x\n[mov,mp4 @ 0x55] moov atom not found"),
            "moov atom not found"
        );
        assert_eq!(last_words("a: Invalid data"), "a: Invalid data");
        assert_eq!(last_words(""), "ffmpeg gives no reason");
    }
}
