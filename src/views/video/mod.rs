//! Frames of videos, as `ffmpeg` and `ffprobe` on the path decode them.
//!
//! ```text
//! walk.mp4 ── Video::open ── choose: all frames, small and grey, once ──▶ walk.mp4@00012.500, …
//!                                                                          │ paths, as of image files
//! views::load, load_whole_all: the frames that are asked for, at full size ◀┘
//! ```
//!
//! A frame is named by the time at which it is shown and not by its number, so a variable frame
//! rate does not matter. Nothing but such names is kept: whoever needs a frame's pixels has it
//! decoded again. Frames that are near one another are decoded by one run of ffmpeg that starts at
//! the nearest frame that depends on no earlier one, so memory holds one of them at a time.
//!
//! ```no_run
//! use mast3r::views::video::{Sampling, Video};
//! use mast3r::views::{self, Limits};
//! # let framing = mast3r::views::Framing {
//! #     resolution: "512".parse()?, patch: 16, resize: Default::default(), square_allowed: false, square_at_224: true };
//!
//! let limits = Limits::default();
//! let frames = Video::open("walk.mp4", &limits)?.choose(&Sampling::default(), &mut |_| {})?;
//! let views = views::load(&frames.paths, &framing, &limits)?;
//! # Ok::<(), mast3r::Error>(())
//! ```

mod choice;
mod ffmpeg;
mod probe;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use image::RgbImage;

use super::content::{Container, Kind, start_of};
use super::header::{Limits, check_sides};
use super::source::Source;
use crate::error::{Error, Result};
use choice::{Choice, LONG_SIDE, Luma};
use ffmpeg::{Images, Request};
pub(super) use ffmpeg::{harden, input};
use probe::Stream;

/// Frames a second where nothing else is asked for, and the most of them.
const DEFAULT_FPS: f64 = 2.0;
const DEFAULT_MOST: usize = 200;
/// Frames that are farther apart are not decoded in one run, in seconds.
const FAR: f64 = 10.0;
/// Frames of one run at most, so that the command line does not grow too long.
const MOST_AT_ONCE: usize = 256;
/// Decoding starts so much earlier than the first frame, in seconds: where a decoder can start is
/// known by the order of decoding, which is not quite that of showing.
const MARGIN: f64 = 1.0;
/// A video that ends so much earlier than it states is incomplete, in seconds.
const SHORTFALL: f64 = 1.0;
/// How colours are converted: without shortcuts.
const CONVERSION: &str = "accurate_rnd+full_chroma_int+full_chroma_inp";

/// A video file whose description was read and found within the limits.
#[derive(Clone, Debug)]
pub struct Video {
    path: PathBuf,
    container: Container,
    stream: Stream,
}

/// Which frames of a video are used: the sharpest of each interval, without those that are blurred
/// beside their neighbours or in which the camera has not moved since the one before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// Intervals in a second. `None` is 2, or follows from `frames`.
    pub fps: Option<f64>,
    /// Frames at most. `None` is 200 where `fps` is not given, and otherwise any number.
    pub frames: Option<usize>,
    /// Whether blurred and repeated frames are used too.
    pub keep_all: bool,
}

/// The frames of a video that are used.
#[derive(Clone, Debug, PartialEq)]
pub struct Frames {
    /// Paths that name them in the order of their times, see [`Source`].
    pub paths: Vec<PathBuf>,
    /// Frames that the video has.
    pub decoded: usize,
    /// Frames that are left out because they are blurred beside their neighbours.
    pub blurred: usize,
    /// Frames that are left out because they look as the one before.
    pub still: usize,
    /// Of a video that ends too early: the seconds that could be decoded, and those that it states.
    pub ends_early: Option<[f64; 2]>,
}

impl Video {
    /// Looks at a video without decoding it. Its frames must be within `limits`.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is missing, empty, not readable, no video, without images,
    /// damaged at its beginning or above `limits`, and where ffmpeg is not installed.
    pub fn open(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let path = path.as_ref();
        let start = start_of(path, u64::MAX)?;
        let Kind::Video(container) = Kind::of(&start, path) else {
            return Err(Error::input(
                path,
                "not a video that is read; convert it to MP4, or give image files",
            ));
        };
        let video = Self {
            path: path.to_owned(),
            container,
            stream: probe::probe(path, container)?,
        };
        check_sides(video.stream.width, video.stream.height, limits)
            .map_err(|reason| Error::input(path, reason))?;
        Ok(video)
    }

    /// As [`Video::open`], but a video that is as it was is not looked at again: every frame's
    /// header asks for it.
    pub(super) fn known(path: &Path, limits: &Limits) -> Result<Arc<Self>> {
        type Known = HashMap<PathBuf, ((u64, Option<SystemTime>), Arc<Video>)>;
        static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
        let metadata = fs::metadata(path).map_err(|source| Error::unreadable(path, source))?;
        let state = (metadata.len(), metadata.modified().ok());
        let lock = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, video)) = lock().as_ref().and_then(|known| known.get(path))
            && *at == state
        {
            return Ok(video.clone());
        }
        let video = Arc::new(Self::open(path, limits)?);
        lock()
            .get_or_insert_default()
            .insert(path.to_owned(), (state, video.clone()));
        Ok(video)
    }

    /// Width and height of a frame, upright and of square pixels.
    pub fn size(&self) -> [u32; 2] {
        [self.stream.width, self.stream.height]
    }

    /// The length in seconds, if the file states it.
    pub fn duration(&self) -> Option<f64> {
        self.stream.duration
    }

    /// Chooses frames, for which all of them are decoded. `progress` is told the time of each, in
    /// seconds.
    ///
    /// # Errors
    /// [`Error::Input`] for a video of which nothing can be decoded; [`Error::Usage`] for a rate or
    /// number that is not above 0.
    pub fn choose(&self, sampling: &Sampling, progress: &mut dyn FnMut(f64)) -> Result<Frames> {
        let Sampling {
            fps,
            frames,
            keep_all,
        } = *sampling;
        if frames == Some(0) || fps.is_some_and(|fps| !fps.is_finite() || fps <= 0.0) {
            return Err(Error::Usage(
                "the frames of a video: their rate and number must be above 0".into(),
            ));
        }
        let most = frames.or(fps.is_none().then_some(DEFAULT_MOST));
        // So long an interval that the number suffices for the whole video.
        let evenly = most
            .zip(self.stream.duration)
            .map(|(most, duration)| duration / most as f64);
        let interval = match (fps, frames) {
            (None, Some(_)) => evenly.unwrap_or(1.0 / DEFAULT_FPS),
            _ => (1.0 / fps.unwrap_or(DEFAULT_FPS)).max(evenly.unwrap_or(0.0)),
        };
        let mut images = Images::decode(
            &Request {
                path: &self.path,
                container: self.container,
                start: None,
                filters: format!(
                    "showinfo,scale={LONG_SIDE}:{LONG_SIDE}:force_original_aspect_ratio=decrease:flags=area"
                ),
                is_grey: true,
            },
            u64::from(LONG_SIDE * LONG_SIDE),
        )?;
        let mut choice = Choice::new(interval);
        while let Some((seconds, image)) = images.next()? {
            let luma = Luma {
                width: image.width as usize,
                levels: image.samples,
            };
            choice.add(seconds, &luma);
            progress(seconds);
        }
        let talk = images.finish()?;
        let (decoded, last) = (choice.seen, choice.last_seconds);
        let chosen = choice.finish(most, keep_all);
        if chosen.millis.is_empty() {
            let reason = format!(
                "damaged or incomplete video (no frame of it can be decoded: {}); copy it again from its source",
                ffmpeg::last_words(&talk)
            );
            return Err(Error::input(&self.path, reason));
        }
        let path = |millis: &u64| {
            let frame = Source::Frame {
                video: self.path.clone(),
                time: Duration::from_millis(*millis),
            };
            frame.path()
        };
        Ok(Frames {
            paths: chosen.millis.iter().map(path).collect(),
            decoded,
            blurred: chosen.blurred,
            still: chosen.still,
            ends_early: self
                .stream
                .duration
                .filter(|stated| last + SHORTFALL < *stated)
                .map(|stated| [last, stated]),
        })
    }

    /// Decodes the frames at `times` at full size, upright, and gives each to `take` with its index
    /// among them, in the order of time.
    pub(super) fn frames(
        &self,
        times: &[Duration],
        take: &mut dyn FnMut(usize, RgbImage) -> Result<()>,
    ) -> Result<()> {
        let mut wanted: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (at, time) in times.iter().enumerate() {
            let millis = time.as_millis() as u64;
            wanted.entry(millis).or_default().push(at);
        }
        let all: Vec<u64> = wanted.keys().copied().collect();
        let mut give = |millis: u64, image: RgbImage| {
            let indices = &wanted[&millis];
            for &at in &indices[1..] {
                take(at, image.clone())?;
            }
            take(indices[0], image)
        };
        for run in self.runs(&all) {
            let mut missing = run.to_vec();
            if self.container.has_index() {
                self.run(&mut missing, true, &mut give)?;
            }
            // An index may be wrong.
            if !missing.is_empty() {
                self.run(&mut missing, false, &mut give)?;
            }
            if let Some(millis) = missing.first() {
                let seconds = *millis as f64 / 1000.0;
                let length = match self.stream.duration {
                    Some(duration) => format!(", which has {duration:.3} s"),
                    None => String::new(),
                };
                let reason = format!(
                    "no frame at {seconds:.3} s can be decoded of the video{length}; was it changed since its frames were chosen?"
                );
                return Err(Error::input(&self.path, reason));
            }
        }
        Ok(())
    }

    /// Cuts increasing times into those that are decoded in one run each.
    fn runs<'a>(&self, all: &'a [u64]) -> Vec<&'a [u64]> {
        let is_near =
            |a: &u64, b: &u64| !self.container.has_index() || (b - a) as f64 / 1000.0 <= FAR;
        all.chunk_by(is_near)
            .flat_map(|run| run.chunks(MOST_AT_ONCE))
            .collect()
    }

    /// Decodes the frames of one run, and takes off `missing` those that were found.
    fn run(
        &self,
        missing: &mut Vec<u64>,
        seek: bool,
        give: &mut dyn FnMut(u64, RgbImage) -> Result<()>,
    ) -> Result<()> {
        let Stream {
            width,
            height,
            is_anamorphic,
            ..
        } = self.stream;
        let first = missing.first().map_or(0.0, |first| *first as f64 / 1000.0);
        // Half a millisecond to either side, and a little for rounding.
        let around = missing.iter().map(|millis| {
            let seconds = *millis as f64 / 1000.0;
            format!("between(t,{:.4},{:.4})", seconds - 0.0006, seconds + 0.0006)
        });
        let picked = around.collect::<Vec<_>>().join("+");
        // A scaling that changes no size leaves the pixels as they are.
        let scale = if is_anamorphic {
            format!("{width}:{height}:flags=bicubic+{CONVERSION}")
        } else {
            format!("flags=bicubic+{CONVERSION}")
        };
        let mut images = Images::decode(
            &Request {
                path: &self.path,
                container: self.container,
                start: seek.then_some(first - MARGIN),
                filters: format!("select='{picked}',showinfo,scale={scale}"),
                is_grey: false,
            },
            u64::from(width) * u64::from(height),
        )?;
        while !missing.is_empty() {
            let Some((seconds, image)) = images.next()? else {
                images.finish()?;
                break;
            };
            let millis = (seconds * 1000.0).round().max(0.0) as u64;
            // The first of those that have one name.
            let Some(at) = missing.iter().position(|wanted| *wanted == millis) else {
                continue;
            };
            if [image.width, image.height] != [width, height] {
                let reason = format!(
                    "the frame at {seconds:.3} s has {}x{} pixels, and the video states {width}x{height}; convert it to one size",
                    image.width, image.height
                );
                return Err(Error::input(&self.path, reason));
            }
            missing.remove(at);
            let pixels = RgbImage::from_raw(width, height, image.samples)
                .ok_or_else(|| Error::Internal("a frame has too few pixels".into()))?;
            give(millis, pixels)?;
        }
        Ok(())
    }
}
