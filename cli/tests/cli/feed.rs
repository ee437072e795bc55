//! Videos, formats of phones and cameras, and masks: what works, and thirty inputs that do not,
//! each with a message that names it and the way out.
//!
//! Inputs are made by ffmpeg and heif-enc; see `tools` for what happens without them.

use std::fs;
use std::path::Path;
use std::process::Command;

use image::{Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::Value;

use super::sandbox::{Outcome, Sandbox, fixture, in_repository, ply};
use super::tools::{self, encode, ffmpeg};

const FFMPEG: [&str; 2] = ["ffmpeg", "ffprobe"];

/// The demonstration's images, from left to right.
fn demo() -> Vec<RgbImage> {
    let load = |number: u32| {
        let path = in_repository(&format!("assets/demo_{number}.jpg"));
        image::open(path).unwrap().into_rgb8()
    };
    [3, 1, 2, 4].map(load).into()
}

/// Frames that show nothing of a scene, but differ.
fn frames(count: u32) -> Vec<RgbImage> {
    let frame = |at: u32| {
        RgbImage::from_fn(160, 96, |x, y| {
            let cell =
                ((x + 9 * at) / 7).wrapping_mul(0x9E37_79B1) ^ (y / 5).wrapping_mul(0x85EB_CA77);
            Rgb([((cell ^ (cell >> 15)).wrapping_mul(0x2C1B_3C6D) >> 24) as u8; 3])
        })
    };
    (0..count).map(frame).collect()
}

fn folder(sandbox: &Sandbox) -> std::path::PathBuf {
    sandbox.path("")
}

/// Names and camera centres of `cameras.json`.
fn centres(cameras: &Value) -> Vec<(String, [f64; 3])> {
    let centre = |image: &Value| {
        let pose = &image["world_from_camera"];
        let at = |row: usize| pose[row][3].as_f64().unwrap();
        (
            image["name"].as_str().unwrap().into(),
            [at(0), at(1), at(2)],
        )
    };
    cameras["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(centre)
        .collect()
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
        let cameras = centres(&sandbox.json(&format!("{name}.json")));
        (outcome, cameras, ply(&sandbox.read(&format!("{name}.ply"))))
    };
    let (_, of_photos, photos) = run("photos", "photos");
    let (outcome, of_lossless, lossless) = run("walk.mkv", "lossless");
    assert!(
        outcome.stderr.contains("walk.mkv: 4 of 4 frames used"),
        "{}",
        outcome.stderr
    );
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
    let scale = of_photos[3].1.iter().map(|x| x * x).sum::<f64>().sqrt();
    for ((_, photo), (name, frame)) in of_photos.iter().zip(&of_lossy) {
        let gap = (0..3)
            .map(|axis| (photo[axis] - frame[axis]).powi(2))
            .sum::<f64>()
            .sqrt();
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
    assert!(
        outcome.stderr.contains("one.mkv: 3 of 6 frames used"),
        "{}",
        outcome.stderr
    );
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
    let child = sandbox
        .command("reconstruct long.mp4 --weights net.pth --res 56x42 -o c.ply")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let started = std::time::Instant::now();
    while running() == 0 {
        assert!(started.elapsed().as_secs() < 60, "ffmpeg did not start");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupt.unwrap().success());
    let outcome = Outcome::new(child.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(130), "{}", outcome.stderr);
    let ended = std::time::Instant::now();
    while running() > 0 {
        assert!(ended.elapsed().as_secs() < 5, "ffmpeg goes on");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A copy of a file without its end.
fn cut(sandbox: &Sandbox, name: &str, of: &str, share: f64) {
    let bytes = sandbox.read(of);
    sandbox.write(name, &bytes[..(bytes.len() as f64 * share) as usize]);
}

#[test]
fn thirty_bad_inputs_are_named_with_a_way_out() {
    if !tools::are_there(&[&FFMPEG[..], &["heif-enc"]].concat()) {
        return;
    }
    let sandbox = Sandbox::new();
    let place = folder(&sandbox);
    encode(&place, &frames(8), "2 ; -c:v libx264rgb -qp 0 good.mp4");
    cut(&sandbox, "no-index.mp4", "good.mp4", 0.6);
    encode(&place, &frames(1), "2 ; -c:v libx264rgb -qp 0 single.mp4");
    encode(
        &place,
        &vec![frames(1).remove(0); 9],
        "2 ; -c:v ffv1 -pix_fmt bgr0 tripod.mkv",
    );
    let sound = "-f lavfi -i sine=duration=1";
    ffmpeg(&place, &format!("{sound} sound.mp4"));
    ffmpeg(&place, &format!("{sound} sound.mkv"));
    ffmpeg(&place, &format!("{sound} sound.wav"));
    ffmpeg(
        &place,
        &format!("{sound} -i a.png -map 0 -map 1 -c:v png -disposition:v attached_pic cover.m4a"),
    );
    sandbox.write("empty.mp4", "");
    sandbox.write("playlist.mp4", "ffconcat version 1.0\nfile /etc/passwd\n");
    sandbox.write("stream.mp4", "#EXTM3U\nhttp://127.0.0.1/a.ts\n");
    sandbox.write(
        "noise.mp4",
        [&b"\0\0\0\x18ftypisom"[..], &[0x5A; 4000]].concat(),
    );
    sandbox.write(
        "noise.mkv",
        [&b"\x1a\x45\xdf\xa3"[..], &[0x5A; 4000]].concat(),
    );
    sandbox.write(
        "noise.ts",
        [[0x47; 1].as_slice(), &[0xFF; 187]].concat().repeat(30),
    );
    sandbox.write(
        "noise.avi",
        [&b"RIFF\xff\0\0\0AVI "[..], &[0x5A; 400]].concat(),
    );
    heif(&place, "a.png", "good.heic");
    cut(&sandbox, "cut.heic", "good.heic", 0.7);
    cut(&sandbox, "stub.heic", "good.heic", 0.05);
    sandbox.write("empty.avif", "");
    sandbox.write(
        "noise.avif",
        [&b"\0\0\0\x18ftypavif"[..], &[0; 400]].concat(),
    );
    let raw = b"II\x2a\0\x08\0\0\0\0\0\0\0\0\0";
    sandbox.write("a.dng", raw);
    sandbox.write("b.cr3", b"\0\0\0\x18ftypcrx \0\0\0\0");
    sandbox.write("c.raf", b"FUJIFILMCCD-RAW 0201");
    sandbox.write("d.gif", b"GIF89a\x01\0\x01\0\0\0\0;");
    sandbox.write("e.jp2", b"\0\0\0\x0cjP  \r\n\x87\n");
    RgbImage::new(80, 80)
        .save(sandbox.path("square.png"))
        .unwrap();
    RgbImage::new(161, 107)
        .save(sandbox.path("black.png"))
        .unwrap();
    sandbox.write("mask.png", "");
    fs::create_dir(sandbox.path("masks")).unwrap();
    fs::create_dir(sandbox.path("films")).unwrap();
    fs::copy(sandbox.path("good.mp4"), sandbox.path("films/b.mp4")).unwrap();

    let net = "--weights net.pth --res 56x42 -o c.ply";
    let cases: &[(&str, i32, &[&str])] = &[
        (
            "empty.mp4",
            3,
            &["empty.mp4: the file is empty (0 bytes)", "copy it again"],
        ),
        (
            "playlist.mp4",
            3,
            &["a text file, not an image (it begins `ffconcat"],
        ),
        (
            "stream.mp4",
            3,
            &["a text file, not an image (it begins `#EXTM3U`)"],
        ),
        (
            "no-index.mp4",
            3,
            &[
                "no-index.mp4: damaged or incomplete video",
                "moov atom",
                "cut off",
                "copy it again",
            ],
        ),
        (
            "noise.mp4",
            3,
            &["noise.mp4: damaged or incomplete video", "copy it again"],
        ),
        (
            "noise.mkv",
            3,
            &["noise.mkv: damaged or incomplete video", "copy it again"],
        ),
        ("noise.ts", 3, &["noise.ts: "]),
        (
            "noise.avi",
            3,
            &["noise.avi: damaged or incomplete video", "copy it again"],
        ),
        (
            "sound.mp4",
            3,
            &["sound.mp4: audio only: the file has no images"],
        ),
        (
            "sound.mkv",
            3,
            &["sound.mkv: audio only: the file has no images"],
        ),
        (
            "cover.m4a",
            3,
            &["cover.m4a: audio only: the file has no images"],
        ),
        (
            "sound.wav a.png",
            3,
            &["sound.wav: an audio file, without images"],
        ),
        (
            "single.mp4",
            3,
            &["single.mp4: only 1 frame of it is used", "--fps"],
        ),
        (
            "tripod.mkv",
            3,
            &[
                "tripod.mkv: 1 of 9 frames used; 8 without motion left out",
                "only 1 frame of it is used",
                "move the camera",
            ],
        ),
        (
            "films",
            3,
            &["films: no images", "1 video (b.mp4)", "name a video itself"],
        ),
        ("good.mp4 --fps 0", 2, &["--fps", "above 0"]),
        ("good.mp4 --fps nan", 2, &["--fps", "above 0"]),
        ("good.mp4 --frames 0", 2, &["--frames", "1 or more"]),
        (
            "a.png b.png --fps 2",
            2,
            &["--fps: none of the inputs is a video"],
        ),
        (
            "good.mp4 --predictions p.safetensors",
            2,
            &["--predictions", "two images alone"],
        ),
        (
            "good.mp4@00099.000 a.png",
            3,
            &["good.mp4", "no frame at 99.000 s", "4.000 s"],
        ),
        (
            "missing.mp4@00001.000 a.png",
            3,
            &["missing.mp4@00001.000: no such file"],
        ),
        (
            "cut.heic a.png",
            3,
            &["cut.heic: damaged or incomplete HEIC file", "copy it again"],
        ),
        (
            "stub.heic a.png",
            3,
            &[
                "stub.heic: damaged or incomplete HEIC file",
                "copy it again",
            ],
        ),
        ("empty.avif a.png", 3, &["empty.avif: the file is empty"]),
        (
            "noise.avif a.png",
            3,
            &["noise.avif: damaged or incomplete AVIF file"],
        ),
        (
            "a.dng a.png",
            3,
            &["a.dng: a raw camera file", "develop it", "--raw-preview"],
        ),
        (
            "b.cr3 a.png",
            3,
            &["b.cr3: a raw camera file", "--raw-preview"],
        ),
        (
            "c.raf a.png",
            3,
            &["c.raf: a raw camera file", "--raw-preview"],
        ),
        (
            "a.dng a.png --raw-preview",
            3,
            &[
                "a.dng: a raw camera file without a JPEG preview",
                "develop it",
            ],
        ),
        ("d.gif a.png", 3, &["d.gif: a GIF image, which is not read"]),
        (
            "e.jp2 a.png",
            3,
            &["e.jp2: a JPEG 2000 image, which is not read"],
        ),
        (
            "a.png b.png --mask square.png",
            3,
            &[
                "square.png: the mask has 80x80 pixels",
                "161x107",
                "size or shape",
            ],
        ),
        (
            "a.png b.png --mask mask.png",
            3,
            &["mask.png: the file is empty"],
        ),
        (
            "a.png b.png --mask good.mp4",
            3,
            &["good.mp4: a video, not an image"],
        ),
        (
            "a.png b.png --masks masks",
            3,
            &["no masks are in this folder"],
        ),
        ("a.png b.png --masks missing", 3, &["missing: no such file"]),
    ];
    assert!(cases.len() >= 30);
    for (inputs, code, parts) in cases {
        let line = format!("reconstruct {inputs} {net}");
        let before = sandbox.contents();
        let outcome = sandbox.run(&line);
        let stderr = &outcome.stderr;
        assert_eq!(outcome.code, Some(*code), "{line}\n{stderr}");
        assert!(
            stderr.contains("error: ") && !stderr.contains("panicked"),
            "{line}\n{stderr}"
        );
        for part in *parts {
            assert!(stderr.contains(part), "{line}\nlacks {part:?}: {stderr}");
        }
        assert_eq!(sandbox.contents(), before, "{line}\nleft something behind");
    }
}

#[cfg(unix)]
#[test]
fn missing_programs_are_named_with_the_line_that_installs_them() {
    let sandbox = Sandbox::new();
    sandbox.write("walk.mp4", [&b"\0\0\0\x18ftypisom"[..], &[0; 400]].concat());
    sandbox.write("phone.heic", tiny_heic());
    let install = if cfg!(target_os = "macos") {
        "`brew install "
    } else {
        "`sudo apt install "
    };
    for (inputs, parts) in [
        (
            "walk.mp4",
            ["walk.mp4: a video, which needs ffprobe", "not on the PATH"],
        ),
        (
            "phone.heic a.png",
            [
                "phone.heic: an image in HEIC, which needs heif-dec",
                "is on the PATH",
            ],
        ),
    ] {
        let line = format!("reconstruct {inputs} --weights net.pth --res 56x42 -o c.ply");
        let mut command = sandbox.command(&line);
        command.env("PATH", sandbox.path("nowhere"));
        let parts = [&parts[..], &[install]].concat();
        sandbox.refuse_run(&line, &mut command, 3, &parts);
    }
}

/// The description of a HEIC image of 64x48 pixels, without them.
fn tiny_heic() -> Vec<u8> {
    let part = |kind: &[u8], content: &[u8]| {
        let length = (content.len() as u32 + 8).to_be_bytes();
        [&length[..], kind, content].concat()
    };
    let size = part(b"ispe", &[0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 48]);
    let association = part(b"ipma", &[0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1, 1]);
    let properties = [part(b"ipco", &size), association].concat();
    let item = part(b"infe", b"\x02\0\0\0\0\x01\0\0hvc1\0");
    let meta = [
        vec![0; 4],
        part(b"pitm", &[0, 0, 0, 0, 0, 1]),
        part(b"iinf", &[&[0, 0, 0, 0, 0, 1], &item[..]].concat()),
        part(b"iprp", &properties),
    ];
    [
        part(b"ftyp", b"heic\0\0\0\0heic"),
        part(b"meta", &meta.concat()),
    ]
    .concat()
}

/// A HEIC or AVIF file, as good as lossless.
fn heif(folder: &Path, from: &str, to: &str) {
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
    assert!(!outcome.stderr.contains("error"), "{}", outcome.stderr);
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
    assert!(masked.stderr.contains(said), "{}", masked.stderr);
    let ignored = sandbox.run(&format!("{line} --ignore-alpha"));
    assert!(
        !ignored.stderr.contains("transparent"),
        "{}",
        ignored.stderr
    );
}
