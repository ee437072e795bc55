//! Videos, formats of phones and cameras, and masks.
//!
//! Inputs are made by ffmpeg and heif-enc; see `tools` for what happens without them.

use std::fs;
use std::path::Path;
use std::process::Command;

use image::{Rgb, RgbImage, Rgba, RgbaImage};

#[cfg(feature = "tiny")]
use super::poses::{centre, dot, named_poses};
use super::sandbox::{Outcome, Sandbox, fixture, in_repository, ply, send};
use super::tools::{self, encode, ffmpeg};

pub const FFMPEG: [&str; 2] = ["ffmpeg", "ffprobe"];

/// The demonstration's images, from left to right.
fn demo() -> Vec<RgbImage> {
    let load = |number: u32| {
        let path = in_repository(&format!("assets/demo_{number}.jpg"));
        image::open(path).unwrap().into_rgb8()
    };
    [3, 1, 2, 4].map(load).into()
}

#[cfg(feature = "tiny")]
fn length(vector: [f64; 3]) -> f64 {
    dot(vector, vector).sqrt()
}

/// Frames that show nothing of a scene, but differ.
pub fn frames(count: u32) -> Vec<RgbImage> {
    let frame = |at: u32| {
        RgbImage::from_fn(160, 96, |x, y| {
            let cell =
                ((x + 9 * at) / 7).wrapping_mul(0x9E37_79B1) ^ (y / 5).wrapping_mul(0x85EB_CA77);
            Rgb([((cell ^ (cell >> 15)).wrapping_mul(0x2C1B_3C6D) >> 24) as u8; 3])
        })
    };
    (0..count).map(frame).collect()
}

pub fn folder(sandbox: &Sandbox) -> std::path::PathBuf {
    sandbox.path("")
}

#[cfg(feature = "tiny")]
#[test]
fn a_video_gives_the_scene_of_its_frames() {
    if !tools::are_there(&FFMPEG) {
        return;
    }
    let sandbox = Sandbox::new();
    let images = demo();
    fs::create_dir(sandbox.path("photos")).unwrap();
    for (at, image) in images.iter().enumerate() {
        image
            .save(sandbox.path(&format!("photos/{at}.png")))
            .unwrap();
    }
    encode(
        &folder(&sandbox),
        &images,
        "2 ; -c:v ffv1 -pix_fmt bgr0 walk.mkv",
    );
    encode(
        &folder(&sandbox),
        &images,
        "2 ; -c:v libx264 -crf 14 -pix_fmt yuv444p walk.mp4",
    );
    let run = |input: &str, name: &str| {
        let outcome = sandbox.succeed(&format!(
            "reconstruct {input} --model tiny --res 112 -o {name}.ply --cameras {name}.json -o {name}.txt --json"
        ));
        let cameras = named_poses(&sandbox.json(&format!("{name}.json")));
        (outcome, cameras, ply(&sandbox.read(&format!("{name}.ply"))))
    };
    let (_, of_photos, photos) = run("photos", "photos");
    let (outcome, of_lossless, lossless) = run("walk.mkv", "lossless");
    outcome.assert_says("walk.mkv: 4 of 4 frames used");
    // The refinement decoded the frames once more, at full size.
    assert!(outcome.json()["refinement"]["tracks"].as_u64().unwrap() > 50);
    assert!(
        photos.exact == lossless.exact,
        "the clouds of a lossless video and of its frames differ"
    );
    for ((_, photo), (name, frame)) in of_photos.iter().zip(&of_lossless) {
        assert_eq!(photo, frame, "{name}");
    }
    let names: Vec<&str> = of_lossless.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["walk.mkv@00000.000", "walk.mkv@00000.500"]);
    let (_, of_lossy, _) = run("walk.mp4", "lossy");
    let scale = length(centre(of_photos[3].1));
    for ((_, photo), (name, frame)) in of_photos.iter().zip(&of_lossy) {
        let (photo, frame) = (centre(*photo), centre(*frame));
        let gap = length([0, 1, 2].map(|axis| photo[axis] - frame[axis]));
        println!("{name}: {:.4} of the path", gap / scale);
        assert!(gap < 0.05 * scale, "{name}: {gap} of {scale}");
    }
    // Times of frames are those of the trajectory; what other programs read is images.
    sandbox.succeed(
        "reconstruct walk.mkv --model tiny --res 112 --no-refine -o path.tum --depth depth --work work",
    );
    let path = String::from_utf8(sandbox.read("path.tum")).unwrap();
    let times: Vec<&str> = path
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let seconds: Vec<f64> = times.iter().map(|time| time.parse().unwrap()).collect();
    assert_eq!(seconds, [0.0, 0.5, 1.0, 1.5]);
    assert!(
        sandbox.path("depth/walk.mkv@00000.500.depth.npy").exists(),
        "{:?}",
        sandbox.contents()
    );
    // An interrupted run goes on, and the work folder knows the frames.
    let again = sandbox.succeed(
        "reconstruct walk.mkv --model tiny --res 112 --no-refine -o scene --format colmap --work work --json",
    );
    assert_eq!(again.json()["computed"], 0);
    let written = image::open(sandbox.path("scene/images/walk.mkv@00000.500.png")).unwrap();
    assert!(written.into_rgb8() == images[1]);
    let aligned = sandbox.succeed("align work --images . -o aligned.ply --json");
    assert!(aligned.json()["refinement"]["tracks"].as_u64().unwrap() > 50);
}

#[test]
fn videos_and_images_are_mixed_and_encoded() {
    if !tools::are_there(&FFMPEG) {
        return;
    }
    let sandbox = Sandbox::new();
    encode(
        &folder(&sandbox),
        &frames(6),
        "2 ; -c:v ffv1 -pix_fmt bgr0 one.mkv",
    );
    encode(
        &folder(&sandbox),
        &frames(3),
        "2 ; -c:v libx264rgb -qp 0 two.mp4",
    );
    let dune = "--weights dune.pth --res 56x42";
    let outcome = sandbox.succeed(&format!(
        "encode two.mp4 a.png one.mkv {dune} --frames 3 -o features --json"
    ));
    assert_eq!(outcome.json()["images"], 7);
    let index = sandbox.json("features/index.json");
    let text = index.to_string();
    assert!(text.contains("view.a.png"), "{text}");
    for (video, count) in [("two.mp4", 3), ("one.mkv", 3)] {
        let found = text.matches(&format!("\"view.{video}@0000")).count();
        assert_eq!(found, count, "{video}: {text}");
    }
    outcome.assert_says("one.mkv: 3 of 6 frames used");
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_ends_ffmpeg() {
    if !tools::are_there(&FFMPEG) {
        return;
    }
    let sandbox = Sandbox::new();
    // Long enough to be at it.
    ffmpeg(
        &folder(&sandbox),
        "-f lavfi -i testsrc2=size=1280x720:rate=30:duration=60 -c:v libx264 -preset ultrafast long.mp4",
    );
    let name = sandbox.path("").file_name().unwrap().to_owned();
    let is_ours = |process: &fs::DirEntry| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let here = fs::read_link(process.path().join("cwd")).unwrap_or_default();
        line.starts_with(b"ffmpeg") && here.file_name() == Some(&name)
    };
    let running = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes.filter(|process| is_ours(process)).count()
    };
    let child = sandbox.start("reconstruct long.mp4 --weights net.pth --res 56x42 -o c.ply");
    let started = std::time::Instant::now();
    while running() == 0 {
        assert!(started.elapsed().as_secs() < 60, "ffmpeg did not start");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    send("-INT", &child);
    let outcome = Outcome::of(child);
    assert_eq!(outcome.code, Some(130), "{}", outcome.stderr);
    let ended = std::time::Instant::now();
    while running() > 0 {
        assert!(ended.elapsed().as_secs() < 5, "ffmpeg goes on");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A HEIC or AVIF file, as good as lossless.
pub fn heif(folder: &Path, from: &str, to: &str) {
    let mut command = Command::new("heif-enc");
    command.args(["-q", "95", from, "-o", to]);
    if to.ends_with(".avif") {
        command.arg("--avif");
    }
    let output = command.current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && folder.join(to).exists(),
        "heif-enc {to}: {said}"
    );
}

#[test]
fn phone_formats_are_read_upright_by_the_program_that_is_named() {
    if !tools::are_there(&["heif-enc", "heif-convert"]) {
        return;
    }
    let sandbox = Sandbox::new();
    // Its EXIF orientation is 6, which turns nothing in HEIC and AVIF. Some encoders turn the image
    // by a property of the file instead.
    sandbox.copy("images/exif_6.jpg", "photo.jpg");
    let load = |name: &str| mast3r::views::load_whole(&sandbox.path(name), &Default::default());
    let upright = load("photo.jpg").unwrap();
    let stored = image::imageops::rotate270(&upright);
    stored.save(sandbox.path("stored.png")).unwrap();
    for extension in ["heic", "avif"] {
        let carried = format!("photo.{extension}");
        heif(&folder(&sandbox), "photo.jpg", &carried);
        let found = load(&carried).unwrap();
        let expected = if found.dimensions() == stored.dimensions() {
            &stored
        } else {
            &upright
        };
        check_likeness(&carried, &found, expected);
        let camera =
            |name: &str| mast3r::views::exif_camera(&sandbox.path(name), &Default::default());
        assert_eq!(camera(&carried).unwrap(), camera("photo.jpg").unwrap());
        // Turned by the file: a quarter clockwise, in the place of a property that only describes.
        let turned = format!("turned.{extension}");
        heif(&folder(&sandbox), "stored.png", &turned);
        let mut bytes = sandbox.read(&turned);
        let at = bytes.windows(4).position(|kind| kind == b"pixi").unwrap();
        bytes[at..at + 5].copy_from_slice(b"irot\x03");
        sandbox.write(&turned, bytes);
        check_likeness(&turned, &load(&turned).unwrap(), &upright);
    }
    // By content, not by extension.
    fs::rename(sandbox.path("photo.heic"), sandbox.path("photo2.jpg")).unwrap();
    let outcome =
        sandbox.succeed("encode photo2.jpg photo.avif a.png --weights dune.pth --res 56x42 -o f");
    outcome.assert_lacks("error");
}

/// Checks that two images show the same, and not upside down.
fn check_likeness(name: &str, found: &RgbImage, expected: &RgbImage) {
    assert_eq!(found.dimensions(), expected.dimensions(), "{name}");
    let gap = |other: &RgbImage| {
        let pairs = found.as_raw().iter().zip(other.as_raw());
        let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        sum as f64 / found.as_raw().len() as f64
    };
    let (right, wrong) = (gap(expected), gap(&image::imageops::rotate180(expected)));
    println!("{name}: {right:.2} levels off, upside down {wrong:.2}");
    assert!(
        right < 6.0 && wrong > 2.0 * right,
        "{name}: {right} and {wrong}"
    );
}

#[test]
fn the_largest_preview_of_a_raw_file_is_used() {
    let sandbox = Sandbox::new();
    // A DNG that is stored on its side: version, orientation 6, previews after it.
    let jpeg = |name: &str| {
        let mut bytes = Vec::new();
        let image = image::open(fixture(name)).unwrap().into_rgb8();
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95)
            .encode_image(&image)
            .unwrap();
        bytes
    };
    let main = b"II\x2a\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\
        \x12\xc6\x01\0\x04\0\0\0\x01\x04\0\0\0\0\0\0";
    let file = [
        &main[..],
        &jpeg("images/portrait.png"),
        &jpeg("images/odd_161x107.png"),
    ]
    .concat();
    // By content: no raw file is called so.
    sandbox.write("photo.tif", file);
    let dune = "--weights dune.pth --res 56x42 -o f";
    sandbox.refuse(
        &format!("encode photo.tif {dune}"),
        3,
        &["photo.tif: a raw camera file", "--raw-preview"],
    );
    let outcome = sandbox.succeed(&format!(
        "encode photo.tif a.png --raw-preview {dune} --json"
    ));
    assert_eq!(outcome.json()["images"], 2);
    let path = sandbox.path("photo.tif@preview");
    let header = mast3r::views::file_header(&path, &Default::default()).unwrap();
    assert_eq!((header.width, header.height), (107, 161));
}

#[test]
fn transparency_is_a_mask_unless_it_is_ignored() {
    let sandbox = Sandbox::new();
    let image = RgbaImage::from_fn(160, 120, |x, y| {
        Rgba([
            (x * 3) as u8,
            (y * 5) as u8,
            (x * y) as u8,
            if x < 60 { 0 } else { 255 },
        ])
    });
    image.save(sandbox.path("cut.png")).unwrap();
    let line = "reconstruct cut.png a.png --weights net.pth --res 56x42 -o c.ply";
    let said = "transparent pixels (alpha below half), which are masked out";
    let masked = sandbox.run(line);
    masked.assert_says(said);
    let ignored = sandbox.run(&format!("{line} --ignore-alpha"));
    ignored.assert_lacks("transparent");
}
