//! What is refused, and how.

use super::*;

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
