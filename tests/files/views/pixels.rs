//! Views of images: names, order, masks, transparency, remarks, memory.

use super::*;

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
