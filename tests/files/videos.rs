//! Frames of videos as a program gets them: the pixels that were encoded, upright, by their times,
//! however they are asked for. The videos are made by ffmpeg.

use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use mast3r::Result;
use mast3r::views::video::{Frames, Sampling, Video};
use mast3r::views::{self, Limits, Source};
use tempfile::TempDir;

use crate::tools::{self, encode, ffmpeg};

/// Frames of a camera that moves to the right past something with structure at all scales.
fn walk(count: u32, [width, height]: [u32; 2]) -> Vec<RgbImage> {
    let level = |x: u32, y: u32| {
        let cell = |size: u32| {
            let hash = (x / size).wrapping_mul(0x9E37_79B1) ^ (y / size).wrapping_mul(0x85EB_CA77);
            (hash ^ (hash >> 15)).wrapping_mul(0x2C1B_3C6D) >> 26
        };
        (cell(3) + cell(8) + cell(20)) as u8
    };
    let frame = |at: u32| {
        RgbImage::from_fn(width, height, |x, y| {
            let x = x + 6 * at;
            Rgb([level(x, y), level(x + 90, y), 255 - level(x, y)])
        })
    };
    (0..count).map(frame).collect()
}

fn open(folder: &Path, name: &str) -> Result<Video> {
    Video::open(folder.join(name), &Limits::default())
}

fn choose(folder: &Path, name: &str, fps: f64) -> Frames {
    let sampling = Sampling {
        fps: Some(fps),
        ..Sampling::default()
    };
    let video = open(folder, name).unwrap();
    video.choose(&sampling, &mut |_| {}).unwrap()
}

/// The names of frames from the time on.
fn times(frames: &Frames) -> Vec<String> {
    let time = |path: &PathBuf| {
        let path = path.to_str().unwrap();
        path.rsplit_once('@').unwrap().1.to_owned()
    };
    frames.paths.iter().map(time).collect()
}

fn pixels(paths: &[PathBuf]) -> Vec<RgbImage> {
    views::load_whole_all(paths, &Limits::default()).unwrap()
}

/// A folder to make videos in, where ffmpeg is there.
fn video_folder() -> Option<TempDir> {
    tools::are_there(&["ffmpeg", "ffprobe"]).then(|| tempfile::tempdir().unwrap())
}

/// Codecs without loss, and files for them.
const LOSSLESS: [(&str, &str); 3] = [
    ("a.mkv", "-c:v ffv1 -pix_fmt bgr0"),
    ("b.mp4", "-c:v libx264rgb -qp 0 -g 12 -bf 3"),
    ("c.avi", "-c:v ffv1 -pix_fmt bgr0"),
];

#[test]
fn lossless_frames_are_what_was_encoded_however_they_are_asked_for() {
    let Some(folder) = video_folder() else { return };
    let folder = folder.path();
    let frames = walk(50, [160, 96]);
    for (name, codec) in LOSSLESS {
        // 2 a second, so that frames are farther apart than one run of ffmpeg reaches.
        encode(folder, &frames, &format!("2 ; {codec} {name}"));
        let found = choose(folder, name, 2.0);
        assert_eq!(found.paths.len(), 50, "{name}: {found:?}");
        assert_eq!(times(&found)[3], "00001.500");
        assert_eq!((found.decoded, found.ends_early), (50, None), "{name}");
        assert!(pixels(&found.paths) == frames, "{name}: all of them");
        // In no order, one twice, far apart.
        let order = [49, 0, 30, 7, 30, 29];
        let some: Vec<PathBuf> = order.iter().map(|&at| found.paths[at].clone()).collect();
        let expected: Vec<RgbImage> = order.iter().map(|&at| frames[at].clone()).collect();
        assert!(pixels(&some) == expected, "{name}: some");
        for at in [0, 1, 13, 24, 48, 49] {
            assert!(
                pixels(&found.paths[at..=at])[0] == frames[at],
                "{name}: {at}"
            );
        }
    }
}

#[test]
fn a_frame_alone_is_the_same_as_in_the_stream_where_frames_depend_on_others() {
    let Some(folder) = video_folder() else { return };
    let folder = folder.path();
    let frames = walk(90, [160, 96]);
    for (name, codec) in [
        ("a.mp4", "-c:v libx264 -crf 30 -pix_fmt yuv420p -bf 3"),
        (
            "open.mkv",
            "-c:v libx264 -crf 30 -pix_fmt yuv420p -g 20 -x264opts open-gop=1",
        ),
        (
            "b.ts",
            "-c:v libx264 -crf 30 -pix_fmt yuv420p -g 15 -output_ts_offset 1000",
        ),
        (
            "c.webm",
            "-c:v libvpx-vp9 -b:v 200k -g 30 -deadline realtime -cpu-used 8",
        ),
        (
            "d.mp4",
            "-c:v libx265 -crf 30 -pix_fmt yuv420p -x265-params log-level=error",
        ),
    ] {
        encode(folder, &frames, &format!("15 ; {codec} {name}"));
        let found = choose(folder, name, 15.0);
        assert!(found.paths.len() > 85, "{name}: {found:?}");
        let all = pixels(&found.paths);
        for at in [0, 1, 16, 33, 47, 59, 75, all.len() - 1] {
            let alone = pixels(&found.paths[at..=at]);
            assert!(alone[0] == all[at], "{name}: frame {at} differs alone");
        }
    }
}

#[test]
fn frames_are_chosen_by_the_times_of_a_variable_rate() {
    let Some(folder) = video_folder() else { return };
    let folder = folder.path();
    let frames = walk(40, [160, 96]);
    // Ten frames in less than a second, the others 0.4 s apart.
    let times_of = "setpts='if(lt(N,10),N*0.08,0.8+(N-10)*0.4)/TB'";
    let line =
        format!("25 ; -vf settb=1/1000,{times_of} -vsync vfr -c:v ffv1 -pix_fmt bgr0 vfr.mkv");
    encode(folder, &frames, &line);
    let found = choose(folder, "vfr.mkv", 1.0);
    // One in each of the 13 seconds that have some, whatever their number is.
    assert_eq!(found.paths.len(), 13, "{:?}", times(&found));
    let all = choose(folder, "vfr.mkv", 100.0);
    assert_eq!(all.paths.len(), 40);
    assert_eq!(times(&all)[9..12], ["00000.720", "00000.800", "00001.200"]);
    assert!(pixels(&all.paths) == frames);
}

#[test]
fn frames_are_upright_once() {
    let Some(folder) = video_folder() else { return };
    let folder = folder.path();
    let frames = walk(4, [160, 96]);
    encode(folder, &frames, "2 ; -c:v libx264rgb -qp 0 stored.mp4");
    let stored = "-i stored.mp4 -c copy";
    for degrees in [90, 180, 270] {
        let name = format!("{degrees}.mp4");
        ffmpeg(folder, &format!("{stored} {name}"));
        turn(&folder.join(&name), degrees);
        let found = choose(folder, &name, 2.0);
        let turned = pixels(&found.paths);
        // As the tag of a phone: how far the stored image is turned clockwise to be upright.
        let expected = match degrees {
            90 => image::imageops::rotate90(&frames[2]),
            180 => image::imageops::rotate180(&frames[2]),
            _ => image::imageops::rotate270(&frames[2]),
        };
        assert!(turned[2] == expected, "{degrees} degrees");
        let header = views::file_header(&found.paths[2], &Limits::default()).unwrap();
        assert_eq!((header.width, header.height), expected.dimensions());
        assert!(!header.stored_upright);
    }
}

/// Writes a rotation into the track header of an MP4 file that has none: ffmpeg's option for it
/// depends on its version.
fn turn(path: &Path, degrees: u32) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = |bytes: &[u8]| bytes.windows(4).position(|word| word == b"tkhd").unwrap();
    // Past the name, the version 0 and flags, five times, twice reserved, four 16-bit fields.
    let matrix = at(&bytes) + 4 + 4 + 20 + 8 + 8;
    let one = 0x0001_0000_i32;
    let [a, b, c, d] = match degrees {
        90 => [0, one, -one, 0],
        180 => [-one, 0, 0, -one],
        _ => [0, -one, one, 0],
    };
    for (place, value) in [(0, a), (1, b), (3, c), (4, d)] {
        bytes[matrix + 4 * place..][..4].copy_from_slice(&value.to_be_bytes());
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn pixels_that_are_not_square_become_square() {
    let Some(folder) = video_folder() else { return };
    let folder = folder.path();
    let line = "2 ; -c:v libx264rgb -qp 0 -vf setsar=4/3 wide.mp4";
    encode(folder, &walk(3, [144, 108]), line);
    let video = open(folder, "wide.mp4").unwrap();
    assert_eq!(video.size(), [192, 108]);
    let found = choose(folder, "wide.mp4", 2.0);
    assert_eq!(pixels(&found.paths)[0].dimensions(), (192, 108));
}

#[test]
fn what_is_left_of_a_truncated_video_is_used_and_its_end_is_stated() {
    let Some(folder) = video_folder() else { return };
    let folder = folder.path();
    let frames = walk(40, [160, 96]);
    for (name, codec) in [
        ("a.mkv", "-c:v ffv1 -pix_fmt bgr0"),
        ("b.mp4", "-c:v libx264rgb -qp 0 -g 5 -movflags +faststart"),
    ] {
        encode(folder, &frames, &format!("4 ; {codec} {name}"));
        let bytes = std::fs::read(folder.join(name)).unwrap();
        std::fs::write(folder.join(name), &bytes[..bytes.len() * 6 / 10]).unwrap();
        let found = choose(folder, name, 4.0);
        let count = found.paths.len();
        assert!((15..30).contains(&count), "{name}: {found:?}");
        let [decoded, stated] = found.ends_early.unwrap();
        assert!(
            (3.5..7.5).contains(&decoded) && (stated - 10.0).abs() < 0.3,
            "{name}"
        );
        assert!(pixels(&found.paths[..10]) == frames[..10], "{name}");
    }
}

#[test]
fn names_are_never_options_patterns_or_protocols() {
    let Some(folder) = video_folder() else { return };
    let frames = walk(3, [160, 96]);
    encode(folder.path(), &frames, "2 ; -c:v ffv1 -pix_fmt bgr0 a.mkv");
    let names = [
        "-y.mkv",
        "%03d.mkv",
        "concat:a|b.mkv",
        "http:a.mkv",
        "a@b'c;d.mkv",
    ];
    for name in names.iter().filter(|_| !cfg!(windows)) {
        std::fs::copy(folder.path().join("a.mkv"), folder.path().join(name)).unwrap();

        let sampling = Sampling::default();
        let video = Video::open(folder.path().join(name), &Limits::default()).unwrap();
        let found = video.choose(&sampling, &mut |_| {}).unwrap();
        assert!(pixels(&found.paths) == frames, "{name}");
    }
}

#[test]
fn a_frame_that_is_not_there_is_named() {
    let Some(folder) = video_folder() else { return };
    encode(
        folder.path(),
        &walk(3, [160, 96]),
        "2 ; -c:v ffv1 -pix_fmt bgr0 a.mkv",
    );
    let path = folder.path().join("a.mkv@00000.700");
    assert!(matches!(Source::of(&path), Source::Frame { .. }));
    let error = views::load_whole(&path, &Limits::default()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("no frame at 0.700 s can be decoded"),
        "{message}"
    );
}
