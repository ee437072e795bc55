//! Loading images through the public interface: what is refused and how, and that no bytes bring
//! it down.

// In a test a panic is the report.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{
    DynamicImage, GrayImage, ImageBuffer, ImageEncoder, ImageFormat, Luma, Rgb, RgbImage, Rgba,
    RgbaImage,
};
use mast3r::views::{self, Framing, Limits, Mask, Resize, Resolution, View};
use mast3r::{Error, ErrorKind};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

const FRAMING: Framing = Framing {
    resolution: Resolution::LongSide(48),
    patch: 16,
    resize: Resize::Pillow,
    square_allowed: true,
    square_at_224: true,
};

fn load(path: &Path) -> Result<View, Error> {
    views::load_one(path, &FRAMING, &Limits::default())
}

/// The message of a file's refusal, without its path, after checking that the cheap check refuses
/// it alike.
fn refusal(path: &Path) -> String {
    let error = load(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input, "{error}");
    let message = error.to_string();
    assert_eq!(
        views::probe(path, &Limits::default())
            .unwrap_err()
            .to_string(),
        message
    );
    message
        .strip_prefix(&format!("{}: ", path.display()))
        .expect("the path comes first")
        .to_owned()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    // Never written over: some file systems flush to disk a file that is cut to nothing and filled
    // again.
    drop(fs::remove_file(&path));
    fs::write(&path, bytes).unwrap();
    path
}

fn committed(name: &str) -> Vec<u8> {
    fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/images")
            .join(name),
    )
    .unwrap()
}

fn drawing(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 7) as u8, (y * 9) as u8, (x * y) as u8])
    })
    .into()
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// The start of an EXIF block: little-endian, one entry, the orientation.
fn exif(orientation: u8) -> Vec<u8> {
    [
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0",
        &[orientation, 0, 0, 0][..],
        &[0; 4],
    ]
    .concat()
}

#[test]
fn files_that_are_no_images_are_refused_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| refusal(&write(folder.path(), name, bytes));

    assert!(refusal(&folder.path().join("missing.png")).starts_with("no such file"));
    assert!(refusal(folder.path()).starts_with("a folder"));
    assert!(file("empty.jpg", b"").starts_with("the file is empty (0 bytes)"));
    let text = file("notes.jpg", b"<html>\n<body>404 not found</body>");
    assert!(
        text.starts_with("a text file, not an image (it begins `<html>`)"),
        "{text}"
    );
    let long_text = "na\u{ef}ve ".repeat(100);
    assert!(file("long.png", long_text.as_bytes()).starts_with("a text file"));
    for (start, what) in [
        (
            &b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..],
            "damaged or incomplete HEIC file (it has no image)",
        ),
        (
            b"\0\0\0\x14ftypavif\0\0\0\0mif1",
            "damaged or incomplete AVIF file",
        ),
        (b"\0\0\0\x20ftypisom\0\0\x02\0", "a video, not an image"),
        (b"GIF89a\x01\0\x01\0\0\0\0;", "a GIF image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        (
            b"\x7fELF\x02\x01\x01\0\0",
            "not an image format that is read; convert it",
        ),
        (b"\x89PNG\r\n\x1a\n", "damaged or incomplete PNG file"),
        (
            b"\xff\xd8\xff",
            "damaged or incomplete JPEG file (it ends too early)",
        ),
    ] {
        let message = file("image.jpg", start);
        assert!(message.starts_with(what), "{message}");
    }
    let raw = file("photo.NEF", &encoded(&drawing(20, 20), ImageFormat::Tiff));
    assert!(raw.starts_with("a raw camera file"), "{raw}");
    assert!(
        raw.ends_with("or use the preview in it: photo.NEF@preview"),
        "{raw}"
    );
}

#[cfg(unix)]
#[test]
fn files_that_may_not_be_read_and_files_that_are_none_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let locked = write(
        folder.path(),
        "locked.png",
        &encoded(&drawing(20, 20), ImageFormat::Png),
    );
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    // The superuser reads everything.
    if fs::read(&locked).is_err() {
        assert!(refusal(&locked).starts_with("no permission to read it"));
    }
    assert!(refusal(Path::new("/dev/zero")).starts_with("not a regular file"));
}

#[test]
fn the_format_is_told_by_content() {
    let folder = tempfile::tempdir().unwrap();
    let image = drawing(48, 32);
    for format in [
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
        ImageFormat::WebP,
    ] {
        let path = write(folder.path(), "named.jpg", &encoded(&image, format));
        views::probe(&path, &Limits::default()).unwrap();
        let view = load(&path).unwrap();
        assert_eq!(view.name, "named.jpg");
        assert_eq!(view.rgb, views::pixels(image.to_rgb8()), "{format:?}");
    }
    let jpeg = write(
        folder.path(),
        "named.png",
        &encoded(&image, ImageFormat::Jpeg),
    );
    assert_eq!(load(&jpeg).unwrap().rgb.dimensions(), (48, 32));
}

#[test]
fn exif_orientation_is_applied_in_every_format_that_has_it() {
    let folder = tempfile::tempdir().unwrap();
    // Red only in the first stored row, green only in the first stored column.
    let stored = RgbImage::from_fn(48, 32, |x, y| {
        Rgb([if y < 8 { 255 } else { 0 }, if x < 8 { 255 } else { 0 }, 0])
    });
    // Where the stored first row and column go, as the EXIF standard words it.
    let sides = [
        "",
        "top left",
        "top right",
        "bottom right",
        "bottom left",
        "left top",
        "right top",
        "right bottom",
    ];
    for (tag, meaning) in sides.into_iter().chain(["left bottom"]).enumerate().skip(1) {
        let mut files = [Vec::new(), Vec::new(), Vec::new()];
        let [png, jpeg, webp] = &mut files;
        let mut encoder = PngEncoder::new(png);
        encoder.set_exif_metadata(exif(tag as u8)).unwrap();
        encoder
            .write_image(&stored, 48, 32, image::ExtendedColorType::Rgb8)
            .unwrap();
        let mut encoder = JpegEncoder::new_with_quality(jpeg, 100);
        encoder.set_exif_metadata(exif(tag as u8)).unwrap();
        encoder
            .write_image(&stored, 48, 32, image::ExtendedColorType::Rgb8)
            .unwrap();
        let mut encoder = WebPEncoder::new_lossless(webp);
        encoder.set_exif_metadata(exif(tag as u8)).unwrap();
        encoder
            .write_image(&stored, 48, 32, image::ExtendedColorType::Rgb8)
            .unwrap();
        for bytes in &files {
            let path = write(folder.path(), "turned", bytes);
            let view = load(&path).unwrap();
            let crop = views::framed_size(&path, &FRAMING, &Limits::default()).unwrap();
            assert_eq!(crop, view.crop);
            let (width, height) = view.rgb.dimensions();
            assert_eq!((width, height), if tag < 5 { (48, 32) } else { (32, 48) });
            let middle_of = |side: &str| match side {
                "top" => (width / 2, 3),
                "bottom" => (width / 2, height - 4),
                "left" => (3, height / 2),
                _ => (width - 4, height / 2),
            };
            let (row_side, column_side) = meaning.split_once(' ').unwrap();
            let (row, column) = (middle_of(row_side), middle_of(column_side));
            assert!(
                view.rgb.get_pixel(row.0, row.1).0[0] > 200,
                "tag {tag}: the first row is not {row_side}"
            );
            assert!(
                view.rgb.get_pixel(column.0, column.1).0[1] > 200,
                "tag {tag}: not {column_side}"
            );
        }
    }
}

#[test]
fn a_focal_length_is_read_from_exif_and_is_one_along_the_diagonal() {
    let folder = tempfile::tempdir().unwrap();
    // One entry that leads to a directory of one, the focal length in 35 mm film: 26 mm.
    let exif = b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x1a\0\0\0\0\0\0\0\
        \x01\0\x05\xa4\x03\0\x01\0\0\0\x1a\0\0\0\0\0\0\0";
    let file = committed("exif_6.jpg");
    let start = file
        .windows(2)
        .position(|marker| marker == b"\xff\xe1")
        .unwrap();
    let end = start + 2 + usize::from(u16::from_be_bytes([file[start + 2], file[start + 3]]));
    let length = u16::try_from(2 + 6 + exif.len()).unwrap().to_be_bytes();
    // In the place of the file's own EXIF, which says no more than how to turn it.
    let stated = [
        &file[..start],
        b"\xff\xe1",
        &length,
        b"Exif\0\0",
        exif,
        &file[end..],
    ]
    .concat();
    let focal = |path: &Path| {
        let header = views::file_header(path, &Limits::default()).unwrap();
        let camera = views::exif_camera(path, &Limits::default()).unwrap();
        camera.focal_px(header.width, header.height)
    };
    let path = write(folder.path(), "stated.jpg", &stated);
    let header = views::file_header(&path, &Limits::default()).unwrap();
    let diagonal = f64::from(header.width).hypot(f64::from(header.height));
    assert!(
        (focal(&path).unwrap() - 26.0 / 43.27 * diagonal).abs() < 1e-9,
        "{:?}",
        focal(&path)
    );
    assert_eq!(focal(&write(folder.path(), "plain.jpg", &file)), None);

    let mut png = Vec::new();
    let mut encoder = PngEncoder::new(&mut png);
    encoder.set_exif_metadata(exif.to_vec()).unwrap();
    encoder
        .write_image(
            &drawing(30, 40).into_rgb8(),
            30,
            40,
            image::ExtendedColorType::Rgb8,
        )
        .unwrap();
    assert!(
        (focal(&write(folder.path(), "a.png", &png)).unwrap() - 26.0 / 43.27 * 50.0).abs() < 1e-9
    );
}

#[test]
fn limits_hold_before_pixels_are_touched() {
    let folder = tempfile::tempdir().unwrap();
    let mut png = encoded(&drawing(20, 10), ImageFormat::Png);
    png[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    let mut jpeg = encoded(&drawing(20, 10), ImageFormat::Jpeg);
    let frame = jpeg
        .windows(2)
        .position(|pair| pair == [0xFF, 0xC0])
        .unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
    let mut bmp = encoded(&drawing(20, 10), ImageFormat::Bmp);
    bmp[18..26].copy_from_slice(&[0x60, 0xEA, 0, 0, 0x60, 0xEA, 0, 0]);
    for bytes in [png, jpeg, bmp] {
        let message = refusal(&write(folder.path(), "huge", &bytes));
        assert!(
            message.starts_with("60000x60000 pixels, the limit is 32768x32768"),
            "{message}"
        );
    }

    let path = write(
        folder.path(),
        "small.png",
        &encoded(&drawing(20, 10), ImageFormat::Png),
    );
    let refused = |limits: Limits| views::probe(&path, &limits).unwrap_err().to_string();
    let limits = Limits::default();
    assert!(
        refused(Limits {
            max_height: 9,
            ..limits
        })
        .contains("20x10 pixels, the limit is 32768x9")
    );
    assert!(
        refused(Limits {
            max_pixels: 199,
            ..limits
        })
        .contains("20x10 is 200 pixels, the limit is 199")
    );
    assert!(
        refused(Limits {
            max_alloc: 2000,
            ..limits
        })
        .contains("decoding 20x10 pixels may take")
    );
    assert!(
        refused(Limits {
            max_alloc: 20,
            ..limits
        })
        .contains("the file has")
    );
    assert!(
        views::probe(
            &path,
            &Limits {
                max_width: 20,
                max_height: 10,
                max_pixels: 200,
                ..limits
            }
        )
        .is_ok()
    );
}

#[test]
fn shapes_without_a_whole_patch_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(
        folder.path(),
        "thin.png",
        &encoded(&drawing(300, 2), ImageFormat::Png),
    );
    let message = load(&path).unwrap_err().to_string();
    assert!(
        message.starts_with(&format!("{}: at size 48 the 300x2 image", path.display())),
        "{message}"
    );
    assert!(views::framed_size(&path, &FRAMING, &Limits::default()).is_err());
    assert!(views::probe(&path, &Limits::default()).is_ok());

    // A size that suits no image is not this one's fault.
    let framing = Framing {
        resolution: "50x48".parse().unwrap(),
        ..FRAMING
    };
    let error = views::load_one(&path, &framing, &Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(
        error
            .to_string()
            .starts_with("size 50x48 is not a multiple of the patch size 16"),
        "{error}"
    );
}

#[test]
fn views_keep_their_order_and_get_names_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let image = encoded(&drawing(20, 20), ImageFormat::Png);
    let paths = [
        "a/x.png",
        "b/x.png",
        "c/x-2.png",
        "c/x.png",
        "a/plain",
        "b/plain",
    ]
    .map(|name| {
        fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        write(folder.path(), name, &image)
    });
    let views = views::load(&paths, &FRAMING, &Limits::default()).unwrap();
    let names: Vec<&str> = views.iter().map(|view| view.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "a/x.png",
            "b/x.png",
            "c/x-2.png",
            "c/x.png",
            "a/plain",
            "b/plain"
        ]
    );
    assert_eq!(views[1].path, paths[1]);
    // By their file names where these are enough.
    let views = views::load(&paths[2..5], &FRAMING, &Limits::default()).unwrap();
    assert_eq!(
        views
            .iter()
            .map(|view| view.name.as_str())
            .collect::<Vec<_>>(),
        ["x-2.png", "x.png", "plain"]
    );

    let missing = [folder.path().join("1.png"), folder.path().join("2.png")];
    let error = views::load(&missing, &FRAMING, &Limits::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("1.png") && error.contains("2.png"),
        "{error}"
    );
}

/// The pixels that Pillow gives, by `scripts/make_decoding_cases.py`.
#[test]
fn images_decode_to_the_same_pixels_as_with_pillow() {
    #[derive(Deserialize)]
    struct Summary {
        files: BTreeMap<String, Recorded>,
    }
    #[derive(Deserialize)]
    struct Recorded {
        width: u32,
        height: u32,
        sha256: String,
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/decoding");
    let summary: Summary = serde_json::from_slice(&committed("decoding/summary.json")).unwrap();
    assert!(summary.files.len() > 80);
    let mut failures = Vec::new();
    for (name, recorded) in &summary.files {
        match views::load_whole(&folder.join(name), &Limits::default()) {
            Err(error) => failures.push(error.to_string()),
            Ok(rgb) if rgb.dimensions() != (recorded.width, recorded.height) => {
                failures.push(format!(
                    "{name}: {:?}, recorded {}x{}",
                    rgb.dimensions(),
                    recorded.width,
                    recorded.height
                ));
            }
            Ok(rgb) => {
                let digest: String = Sha256::digest(rgb.as_raw())
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                if digest != recorded.sha256 {
                    failures.push(format!("{name}: other pixels than recorded"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn jpeg_files_of_12_bits_become_8_bits() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/decoding");
    let [twelve, eight] = ["twelve_bit.jpg", "twelve_bit.png"]
        .map(|name| views::load_whole(&folder.join(name), &Limits::default()).unwrap());
    assert_eq!(twelve.dimensions(), eight.dimensions());
    // Luma and chroma are rounded to 8 bits before they become RGB, there afterwards.
    let gaps = twelve
        .as_raw()
        .iter()
        .zip(eight.as_raw())
        .map(|(twelve, eight)| twelve.abs_diff(*eight));
    assert!(gaps.clone().all(|gap| gap <= 3), "{:?}", gaps.max());
}

#[test]
fn samples_that_end_early_are_not_made_up() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "lossless_1.jpg",
        "lossless_sampled.jpg",
        "lossless_separate.jpg",
        "ls_line.jls",
        "ls_none.jls",
    ] {
        let whole = committed(&format!("decoding/{name}"));
        for part in [3, 2] {
            let path = write(
                folder.path(),
                "cut",
                &whole[..whole.len() * (part - 1) / part],
            );
            let message = views::load_whole(&path, &Limits::default())
                .unwrap_err()
                .to_string();
            assert!(message.contains("it ends too early"), "{name}: {message}");
        }
    }
}

#[test]
fn kinds_that_are_not_read_are_refused_by_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let with_frame = |marker: u8, precision: u8| {
        let mut jpeg = encoded(&drawing(20, 10), ImageFormat::Jpeg);
        let frame = jpeg
            .windows(2)
            .position(|pair| pair == [0xFF, 0xC0])
            .unwrap();
        (jpeg[frame + 1], jpeg[frame + 4]) = (marker, precision);
        jpeg
    };
    // A directory of width, height and one more entry of a SHORT.
    let tiff = |tag: u16, value: u16| {
        let entry = |tag: u16, value: u16| {
            [
                &tag.to_le_bytes()[..],
                &[3, 0, 1, 0, 0, 0],
                &value.to_le_bytes(),
                &[0, 0],
            ]
            .concat()
        };
        [
            b"II*\0\x08\0\0\0\x03\0",
            &entry(256, 8)[..],
            &entry(257, 8),
            &entry(tag, value),
            &[0; 4],
        ]
        .concat()
    };
    for (bytes, what) in [
        (with_frame(0xCB, 8), "lossless JPEG with arithmetic coding"),
        (with_frame(0xC1, 10), "10-bit JPEG"),
        (with_frame(0xC5, 8), "hierarchical JPEG"),
        (tiff(258, 12), "12-bit samples"),
        (tiff(339, 3), "floating-point samples"),
        (tiff(259, 50_000), "Zstandard compression"),
        (tiff(259, 6), "old-style JPEG compression"),
        (tiff(262, 8), "Lab colors"),
        (tiff(262, 32_803), "raw sensor data"),
    ] {
        let message = refusal(&write(folder.path(), "kind", &bytes));
        assert!(
            message.contains(what)
                && message.contains("convert it")
                && !message.contains("damaged"),
            "{message}"
        );
    }
}

#[test]
fn every_bad_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(
        folder.path(),
        "good.png",
        &encoded(&drawing(20, 20), ImageFormat::Png),
    );
    let missing = folder.path().join("missing.png");
    let empty = write(folder.path(), "empty.png", b"");
    let paths = [good, missing, empty];
    let errors = [
        views::load(&paths, &FRAMING, &Limits::default()).unwrap_err(),
        views::probe_all(&paths, None, &Limits::default()).unwrap_err(),
        views::probe_all(&paths, Some(&FRAMING), &Limits::default()).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Input);
        let message = error.to_string();
        assert!(
            message.contains("missing.png: no such file")
                && message.contains("empty.png: the file is empty")
        );
        assert!(!message.contains("good.png"), "{message}");
    }
}

/// A PNG whose left half has the alpha `left` and whose right half is opaque.
fn half_transparent(left: u8) -> Vec<u8> {
    let mut image = drawing(48, 48).into_rgba8();
    image
        .enumerate_pixels_mut()
        .filter(|(x, ..)| *x < 24)
        .for_each(|(.., pixel)| pixel.0[3] = left);
    encoded(&image.into(), ImageFormat::Png)
}

#[test]
fn transparent_pixels_do_not_count_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    for (left, masked) in [(0, true), (100, true), (200, false), (255, false)] {
        let view = load(&write(folder.path(), "half.png", &half_transparent(left))).unwrap();
        assert_eq!(
            view.rgb,
            views::pixels(drawing(48, 48).into_rgb8()),
            "colors are what they were"
        );
        assert_eq!(view.mask.is_some(), masked, "alpha {left}");
        assert_eq!((view.counts(5, 5), view.counts(40, 5)), (!masked, true));
        let said = views::remarks(&[view]);
        assert_eq!(
            said.iter()
                .any(|line| line.starts_with("half.png has transparent pixels")),
            masked,
            "{said:?}"
        );
    }
    let clear = encoded(
        &RgbaImage::from_pixel(48, 48, Rgba([9, 9, 9, 0])).into(),
        ImageFormat::Png,
    );
    let view = load(&write(folder.path(), "clear.png", &clear)).unwrap();
    assert!(view.mask.is_none() && views::remarks(&[view])[0].contains("wholly transparent"));
}

#[test]
fn masks_count_from_half_of_their_highest_level_on() {
    let folder = tempfile::tempdir().unwrap();
    let view = load(&write(
        folder.path(),
        "a.png",
        &encoded(&drawing(48, 48), ImageFormat::Png),
    ))
    .unwrap();
    let grey =
        |white: u8| GrayImage::from_fn(48, 48, |x, _| Luma([if x < 24 { 0 } else { white }]));
    let deep = |white: u16| {
        let mask = ImageBuffer::from_fn(48, 48, |x, _| Luma([if x < 24 { 0u16 } else { white }]));
        DynamicImage::ImageLuma16(mask)
    };
    let mut masks: Vec<DynamicImage> = [1, 2, 100, 255].map(|white| grey(white).into()).to_vec();
    masks.extend([1, 255, 4095, 65_535].map(deep));
    masks.push(
        RgbaImage::from_fn(48, 48, |x, _| Rgba([0, 0, 0, if x < 24 { 0 } else { 255 }])).into(),
    );
    masks.push(
        RgbaImage::from_fn(48, 48, |x, _| {
            Rgba([255, 255, 255, if x < 24 { 0 } else { 255 }])
        })
        .into(),
    );
    for (index, mask) in masks.iter().enumerate() {
        for format in [ImageFormat::Png, ImageFormat::Tiff] {
            let path = write(folder.path(), "mask", &encoded(mask, format));
            let mask = Mask::load(&path, &view, &FRAMING, &Limits::default()).unwrap();
            assert!(
                !mask.keeps(10, 20) && mask.keeps(40, 20),
                "mask {index} as {format:?}"
            );
        }
    }
    let black = write(
        folder.path(),
        "mask",
        &encoded(&grey(0).into(), ImageFormat::Png),
    );
    assert!(
        Mask::load(&black, &view, &FRAMING, &Limits::default())
            .unwrap()
            .hides_all()
    );
}

#[test]
fn dark_small_and_cropped_images_are_mentioned() {
    let folder = tempfile::tempdir().unwrap();
    let deep = |white: u16| {
        DynamicImage::ImageLuma16(ImageBuffer::from_fn(48, 48, |x, _| {
            Luma([(x * u32::from(white) / 48) as u16])
        }))
    };
    let said = |name: &str, image: &DynamicImage, format: ImageFormat| {
        let view = load(&write(folder.path(), name, &encoded(image, format))).unwrap();
        views::remarks(&[view]).join("; ")
    };
    for format in [ImageFormat::Png, ImageFormat::Tiff] {
        assert!(
            said("dark", &deep(4095), format)
                .contains("dark has 16-bit levels that end at or below 4095")
        );
        assert_eq!(said("bright", &deep(65_535), format), "");
    }
    assert!(
        said("small.png", &drawing(20, 20), ImageFormat::Png).contains("small.png is smaller than")
    );
    let exact = Framing {
        resolution: "48x16".parse().unwrap(),
        ..FRAMING
    };
    let path = write(
        folder.path(),
        "cut.png",
        &encoded(&drawing(48, 48), ImageFormat::Png),
    );
    let views = [0, 1].map(|_| views::load_one(&path, &exact, &Limits::default()).unwrap());
    let lines = views::remarks(&views);
    assert!(
        lines[0]
            .starts_with("2 of 2 images, cut.png the first, are cropped to the network's shape"),
        "{lines:?}"
    );
}

#[test]
fn images_larger_than_the_shared_budget_are_decoded_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let image = encoded(&drawing(64, 64), ImageFormat::Png);
    let paths: Vec<PathBuf> = (0..20)
        .map(|i| write(folder.path(), &format!("{i}.png"), &image))
        .collect();
    // Enough for one at a time.
    let limits = Limits {
        max_alloc: 64 * 64 * 12 + image.len() as u64,
        ..Limits::default()
    };
    assert_eq!(views::load(&paths, &FRAMING, &limits).unwrap().len(), 20);
}

/// Small files of every format, and of the kinds of each that take another way through its decoder.
fn specimens() -> Vec<(&'static str, Vec<u8>)> {
    let image = drawing(40, 30);
    let grey = DynamicImage::from(image.to_luma8());
    let deep = DynamicImage::from(image.to_rgba16());
    vec![
        ("baseline JPEG", encoded(&image, ImageFormat::Jpeg)),
        ("JPEG with EXIF", committed("exif_6.jpg")),
        ("CMYK JPEG", committed("cmyk.jpg")),
        ("progressive JPEG", committed("grey_progressive.jpg")),
        ("PNG", encoded(&image, ImageFormat::Png)),
        ("grey PNG", encoded(&grey, ImageFormat::Png)),
        ("16-bit PNG", encoded(&deep, ImageFormat::Png)),
        ("palette PNG", committed("one_bit.png")),
        ("lossless WebP", committed("lossless_exif_7.webp")),
        ("TIFF", encoded(&grey, ImageFormat::Tiff)),
        ("deflated TIFF", committed("deflate.tif")),
        ("BMP", encoded(&image, ImageFormat::Bmp)),
    ]
}

/// A file that was cut short must not pass for an image: it is refused, or what is missing was not
/// part of it.
#[test]
fn cut_files_are_refused_or_complete() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, bytes) in specimens() {
        let whole = load(&write(folder.path(), "whole", &bytes))
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
        for part in 1..60 {
            let length = bytes.len() * part / 60;
            if let Ok(view) = load(&write(folder.path(), "cut", &bytes[..length])) {
                assert_eq!(
                    view.rgb,
                    whole.rgb,
                    "{kind}: {length} of {} bytes passed",
                    bytes.len()
                );
            }
        }
    }
}

/// Whatever the bytes, there is an image or an error that names the file.
#[test]
fn damaged_files_never_bring_it_down() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_width: 4096,
        max_height: 4096,
        max_pixels: 1 << 18,
        max_alloc: 16 << 20,
    };
    // A linear congruential generator (Knuth's MMIX constants): the same damage on every machine.
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for (kind, bytes) in specimens() {
        for _ in 0..250 {
            let mut bytes = bytes.clone();
            for _ in 0..=random(4) {
                // Headers are where decoders decide: half of the hits go there.
                let reach = if random(2) == 0 {
                    bytes.len().min(80)
                } else {
                    bytes.len()
                };
                let at = random(reach);
                match random(4) {
                    0 => bytes[at] = random(256) as u8,
                    1 => bytes[at] ^= 1 << random(8),
                    2 => bytes[at] = [0, 0xFF, 0x7F, 0x80][random(4)],
                    _ => drop(bytes.splice(at..(at + random(8)).min(bytes.len()), [0xFF; 3])),
                }
            }
            let path = write(folder.path(), "damaged", &bytes);
            match views::load_one(&path, &FRAMING, &limits) {
                Ok(view) => assert_eq!(view.rgb.dimensions(), (view.crop.width, view.crop.height)),
                Err(error) => assert!(error.to_string().contains("damaged: "), "{kind}: {error}"),
            }
        }
    }
}

#[test]
fn a_webp_file_cannot_claim_more_than_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let plain = encoded(&drawing(16, 8), ImageFormat::WebP);
    let extended = |canvas: [u8; 2], exif: &[u8]| {
        let canvas = [
            b"VP8X\x0a\0\0\0\x08\0\0\0",
            &[canvas[0], 0, 0, canvas[1], 0, 0][..],
        ]
        .concat();
        let content = [b"WEBP", &canvas[..], &plain[12..], exif].concat();
        [b"RIFF", &(content.len() as u32).to_le_bytes()[..], &content].concat()
    };
    let whole = write(
        folder.path(),
        "whole.webp",
        &extended([15, 7], b"EXIF\x04\0\0\0II*\0"),
    );
    load(&whole).unwrap();
    // A gigabyte of EXIF data, and a frame beyond its canvas: found by fuzzing, which took the
    // memory for both.
    let lying = write(
        folder.path(),
        "exif.webp",
        &extended([15, 7], b"EXIF\x18\0\x22\x3eII*\0"),
    );
    assert!(
        refusal(&lying).contains("it ends too early"),
        "{}",
        refusal(&lying)
    );
    let larger = write(folder.path(), "frame.webp", &extended([7, 3], b""));
    assert!(
        refusal(&larger).contains("a frame of 16x8 pixels in an image of 8x4"),
        "{}",
        refusal(&larger)
    );
}

#[test]
fn pixels_in_memory_are_framed_as_their_file_is() {
    let folder = tempfile::tempdir().unwrap();
    for (width, height) in [(161, 107), (61, 90), (64, 64)] {
        let image = drawing(width, height);
        let path = write(
            folder.path(),
            "drawing.png",
            &encoded(&image, ImageFormat::Png),
        );
        for resolution in [
            Resolution::LongSide(48),
            Resolution::LongSide(224),
            Resolution::Exact {
                width: 32,
                height: 48,
            },
        ] {
            let framing = Framing {
                resolution,
                ..FRAMING
            };
            let file = views::load_one(&path, &framing, &Limits::default()).unwrap();
            let memory = View::from_rgb("frame 7", &image.to_rgb8(), &framing).unwrap();
            assert_eq!((file.crop, &file.rgb), (memory.crop, &memory.rgb));
            assert_eq!(memory.name, "frame 7");
        }
    }
    let thin = RgbImage::new(400, 3);
    let error = View::from_rgb("thin", &thin, &FRAMING).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().starts_with("thin: "), "{error}");
}
