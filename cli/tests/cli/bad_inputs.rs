//! Thirty inputs that do not work, each with a message that names it and the way out.
//!
//! Inputs are made by ffmpeg and heif-enc; see `tools` for what happens without them.

use std::fs;

use image::RgbImage;

use super::feed::{FFMPEG, folder, frames, heif};
use super::sandbox::Sandbox;
use super::tools::{self, encode, ffmpeg};

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
