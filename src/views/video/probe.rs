//! What `ffprobe` says of a video.

use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::super::content::Container;
use super::ffmpeg;
use crate::error::{Error, Result};
use crate::programs::Program;

/// How long a file may be looked at.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest description that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// A video's first stream of moving images.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stream {
    /// Width in square pixels, upright.
    pub width: u32,
    /// Height in square pixels, upright.
    pub height: u32,
    /// Whether stored pixels are not square.
    pub is_anamorphic: bool,
    pub duration: Option<f64>,
}

#[derive(Deserialize)]
struct Description {
    #[serde(default)]
    streams: Vec<DescribedStream>,
    #[serde(default)]
    format: DescribedFormat,
}

#[derive(Default, Deserialize)]
struct DescribedFormat {
    duration: Option<String>,
}

#[derive(Deserialize)]
struct DescribedStream {
    codec_type: Option<String>,
    codec_name: Option<String>,
    #[serde(default)]
    width: u32,
    #[serde(default)]
    height: u32,
    sample_aspect_ratio: Option<String>,
    duration: Option<String>,
    #[serde(default)]
    disposition: Disposition,
    #[serde(default)]
    side_data_list: Vec<SideData>,
}

#[derive(Default, Deserialize)]
struct Disposition {
    #[serde(default)]
    attached_pic: u8,
    #[serde(default)]
    timed_thumbnails: u8,
}

#[derive(Deserialize)]
struct SideData {
    rotation: Option<f64>,
}

/// Asks `ffprobe` about a file that is a video by its first bytes.
pub(super) fn probe(path: &Path, container: Container) -> Result<Stream> {
    let mut command = Command::new("ffprobe");
    ffmpeg::harden(&mut command);
    command.args(["-v", "error", "-hide_banner"]);
    command.args(["-show_streams", "-show_format", "-print_format", "json"]);
    ffmpeg::input(&mut command, path, container);
    let mut program = Program::start(command, None, PATIENCE, |_| false)
        .map_err(|source| ffmpeg::not_started("ffprobe", path, source))?;
    let mut text = Vec::new();
    let read = (&mut program).take(LONGEST).read_to_end(&mut text);
    read.map_err(|source| Error::io(path, source))?;
    let ending = program.finish();
    if ending.stalled {
        return Err(Error::input(path, ffmpeg::stalled(PATIENCE)));
    }
    if !ending.success {
        return Err(Error::input(path, unreadable(&ending.talk)));
    }
    let description: Description = serde_json::from_slice(&text).map_err(|error| {
        Error::input(
            path,
            format!("ffprobe described the video in an unknown way ({error}); update ffmpeg"),
        )
    })?;
    description
        .stream()
        .map_err(|reason| Error::input(path, reason))
}

/// Why a video cannot be opened, by what ffprobe said.
fn unreadable(talk: &str) -> String {
    if talk.contains("moov atom not found") {
        // The index of an MP4 is written last.
        return "damaged or incomplete video (its index, the moov atom, is missing, as after a \
                recording or copy that was cut off); copy it again from its source"
            .into();
    }
    format!(
        "damaged or incomplete video ({}); copy it again from its source",
        ffmpeg::last_words(talk)
    )
}

impl Description {
    fn stream(&self) -> Result<Stream, String> {
        let is_video = |stream: &&DescribedStream| {
            let Disposition {
                attached_pic,
                timed_thumbnails,
            } = stream.disposition;
            // The cover of a piece of music is a video to ffmpeg.
            stream.codec_type.as_deref() == Some("video") && attached_pic + timed_thumbnails == 0
        };
        let Some(stream) = self.streams.iter().find(is_video) else {
            let kinds = self.streams.iter().map(|stream| &stream.codec_type);
            if self.streams.is_empty() {
                return Err(
                    "damaged or incomplete video (it has neither images nor sound); copy it again from its source"
                        .into(),
                );
            }
            let has_audio = kinds.flatten().any(|kind| kind == "audio");
            let what = if has_audio { "audio only" } else { "no video" };
            return Err(format!(
                "{what}: the file has no images; give a video or image files"
            ));
        };
        if stream.width == 0 || stream.height == 0 {
            let codec = stream.codec_name.as_deref().unwrap_or("unknown");
            return Err(format!(
                "the size of the video's images is unknown (codec {codec}); convert it to H.264, or copy it again"
            ));
        }
        let (numerator, denominator) = stream
            .sample_aspect_ratio
            .as_deref()
            .and_then(|ratio| ratio.split_once(':'))
            .and_then(|(a, b)| Some((a.parse::<f64>().ok()?, b.parse::<f64>().ok()?)))
            .filter(|(a, b)| *a > 0.0 && *b > 0.0)
            .unwrap_or((1.0, 1.0));
        let is_anamorphic = numerator != denominator;
        let wide = (f64::from(stream.width) * numerator / denominator)
            .round()
            .clamp(1.0, f64::from(u32::MAX)) as u32;
        let turns = stream.side_data_list.iter().find_map(|data| data.rotation);
        let is_on_its_side = turns.is_some_and(|degrees| (degrees / 90.0).round() % 2.0 != 0.0);
        let (width, height) = if is_on_its_side {
            (stream.height, wide)
        } else {
            (wide, stream.height)
        };
        let seconds = |text: &Option<String>| text.as_ref()?.parse::<f64>().ok();
        Ok(Stream {
            width,
            height,
            is_anamorphic,
            duration: seconds(&stream.duration)
                .or(seconds(&self.format.duration))
                .filter(|seconds| seconds.is_finite() && *seconds > 0.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(text: &str) -> Result<Stream, String> {
        serde_json::from_str::<Description>(text).unwrap().stream()
    }

    #[test]
    fn sizes_are_upright_and_of_square_pixels() {
        let found = stream(
            r#"{"streams": [
                {"codec_type": "audio", "duration": "9.0"},
                {"codec_type": "video", "width": 600, "height": 600, "disposition": {"attached_pic": 1}},
                {"codec_type": "video", "width": 1440, "height": 1080, "sample_aspect_ratio": "4:3",
                 "side_data_list": [{"side_data_type": "other"}, {"rotation": -90}]}
            ], "format": {"duration": "8.5"}}"#,
        );
        let expected = Stream {
            width: 1080,
            height: 1920,
            is_anamorphic: true,
            duration: Some(8.5),
        };
        assert_eq!(found, Ok(expected));
        let upside_down = stream(
            r#"{"streams": [{"codec_type": "video", "width": 64, "height": 48, "duration": "N/A",
                "sample_aspect_ratio": "0:1", "side_data_list": [{"rotation": 180}]}]}"#,
        )
        .unwrap();
        assert_eq!((upside_down.width, upside_down.height), (64, 48));
        assert_eq!(upside_down.duration, None);
    }

    #[test]
    fn files_without_images_are_refused() {
        let music = r#"{"streams": [{"codec_type": "audio"},
            {"codec_type": "video", "width": 600, "height": 600, "disposition": {"attached_pic": 1}}]}"#;
        assert!(stream(music).unwrap_err().starts_with("audio only"));
        assert!(
            stream("{}")
                .unwrap_err()
                .starts_with("damaged or incomplete")
        );
        let subtitles = r#"{"streams": [{"codec_type": "subtitle"}]}"#;
        assert!(stream(subtitles).unwrap_err().starts_with("no video"));
    }
}
