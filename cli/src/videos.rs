//! Frames of videos among the images.

use std::path::{Path, PathBuf};

use clap::Args;
use mast3r::views::video::{Frames, Sampling, Video};
use mast3r::views::{self, Content, Limits, Source};
use mast3r::{Error, Result};

use crate::{GlobalArgs, progress};

/// Which frames of videos are used.
#[derive(Debug, Args)]
pub struct VideoArgs {
    /// Frames per second of a video: the sharpest of each interval [default: 2, at most 200 in all]
    ///
    /// Frames much less sharp than their neighbours, and frames without motion since the one before,
    /// are left out. Frames are chosen by their times, so the frame rate may vary.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    fps: Option<f64>,

    /// Use at most N frames of a video, evenly over its length
    #[arg(long, value_name = "N", value_parser = crate::at_least_one)]
    frames: Option<usize>,

    /// Use blurred and repeated frames of a video too
    #[arg(long)]
    all_frames: bool,
}

impl VideoArgs {
    /// The images, with the frames of each video in its place.
    pub fn frames(&self, images: Vec<PathBuf>, global: &GlobalArgs) -> Result<Vec<PathBuf>> {
        let videos: Vec<PathBuf> = images
            .iter()
            .filter(|path| is_video(path))
            .cloned()
            .collect();
        if videos.is_empty() {
            return match self.given() {
                Some(option) => Err(Error::Usage(format!(
                    "{option}: none of the inputs is a video"
                ))),
                None => Ok(images),
            };
        }
        let limits = Limits::default();
        // Every video before the first is decoded.
        let opened = Error::all(videos.iter().map(|path| Video::open(path, &limits)))?;
        let mut opened = videos.iter().zip(&opened).peekable();
        let mut found = Vec::new();
        for path in images {
            match opened.next_if(|(video, _)| **video == path) {
                Some((_, video)) => found.extend(self.frames_of(video, &path, global)?),
                None => found.push(path),
            }
        }
        Ok(found)
    }

    fn frames_of(&self, video: &Video, path: &Path, global: &GlobalArgs) -> Result<Vec<PathBuf>> {
        let sampling = Sampling {
            fps: self.fps,
            frames: self.frames,
            keep_all: self.all_frames,
        };
        let line = progress::stages(global.quiet);
        let seconds = video.duration().unwrap_or(0.0) as usize;
        progress::begin(&line, "seconds of video", seconds.max(1));
        let frames = video.choose(&sampling, &mut |seconds| line.set_position(seconds as u64));
        line.finish_and_clear();
        let frames = frames?;
        said(path, &frames).iter().for_each(|note| global.say(note));
        Ok(frames.paths)
    }

    /// An option that is given, if one is.
    fn given(&self) -> Option<&'static str> {
        let options = [
            ("--fps", self.fps.is_some()),
            ("--frames", self.frames.is_some()),
            ("--all-frames", self.all_frames),
        ];
        options
            .into_iter()
            .find_map(|(name, is_given)| is_given.then_some(name))
    }
}

/// Whether a file is a video by its content.
pub fn is_video(path: &Path) -> bool {
    path.is_file() && matches!(views::content(path), Ok(Content::Video))
}

/// Whether an image is a frame of a video.
pub fn is_frame(path: &Path) -> bool {
    matches!(Source::of(path), Source::Frame { .. })
}

/// For a person: how many frames are used, and whether some are missing.
fn said(path: &Path, frames: &Frames) -> Vec<String> {
    let Frames {
        paths,
        decoded,
        blurred,
        still,
        ends_early,
    } = frames;
    let left_out = match (blurred, still) {
        (0, 0) => String::new(),
        (blurred, 0) => format!("; {blurred} blurred left out"),
        (0, still) => format!("; {still} without motion left out"),
        _ => format!("; {blurred} blurred and {still} without motion left out"),
    };
    let mut lines = vec![format!(
        "{}: {} of {decoded} frames used{left_out}",
        path.display(),
        paths.len()
    )];
    if let Some([decoded, stated]) = ends_early {
        lines.push(format!(
            "{}: damaged or incomplete: only {decoded:.1} s of {stated:.1} s can be decoded, and these are used",
            path.display()
        ));
    }
    lines
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    let rate = text.parse().ok();
    rate.filter(|rate: &f64| rate.is_finite() && *rate > 0.0)
        .ok_or_else(|| "expected a number of frames per second above 0".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_said() {
        let mut frames = Frames {
            paths: vec![PathBuf::from("a.mp4@00000.000"); 36],
            decoded: 1042,
            blurred: 3,
            still: 0,
            ends_early: None,
        };
        let line = |frames: &Frames| said(Path::new("a.mp4"), frames).join("\n");
        assert_eq!(
            line(&frames),
            "a.mp4: 36 of 1042 frames used; 3 blurred left out"
        );
        (frames.still, frames.ends_early) = (5, Some([3.25, 10.0]));
        assert_eq!(
            line(&frames),
            "a.mp4: 36 of 1042 frames used; 3 blurred and 5 without motion left out\n\
             a.mp4: damaged or incomplete: only 3.2 s of 10.0 s can be decoded, and these are used"
        );
    }
}
