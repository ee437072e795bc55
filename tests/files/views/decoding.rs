//! Every format and kind of file: pixels, orientation, focal length.

use super::*;

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
