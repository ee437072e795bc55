//! Image preparation against Pillow: the same bytes.

use std::collections::BTreeMap;
use std::path::Path;

use image::RgbImage;
use image::buffer::ConvertBuffer as _;
use mast3r::views::{self, Framing, Limits, Resize, Resolution};
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::common::{golden_dir, hex_sha256, read};

#[derive(Deserialize)]
struct Summary {
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    file_size_wh: [u32; 2],
    exif_orientation: Option<u8>,
    sha256_file: String,
    variants: BTreeMap<String, Variant>,
}

#[derive(Deserialize)]
struct Variant {
    size: u32,
    patch_size: u32,
    square_ok: bool,
    true_shape: [u32; 2],
    multiple_of_patch: bool,
    sha256_u8: String,
    sha256_f32: String,
}

#[test]
fn images_are_prepared_like_the_reference_does() {
    let folder = golden_dir().join("preprocess");
    let summary: Summary = serde_json::from_slice(&read(&folder.join("summary.json"))).unwrap();
    assert!(!summary.cases.is_empty(), "{}: no cases", folder.display());
    let mut failures = Vec::new();
    for (file, case) in &summary.cases {
        let path = golden_dir().join("../images").join(file);
        assert_eq!(
            hex_sha256(&read(&path)),
            case.sha256_file,
            "{}: not the recorded image",
            path.display()
        );
        let arrays = folder.join(file).with_extension("safetensors");
        let arrays = if arrays.exists() {
            read(&arrays)
        } else {
            Vec::new()
        };
        let arrays = (!arrays.is_empty()).then(|| SafeTensors::deserialize(&arrays).unwrap());
        for (name, variant) in &case.variants {
            if let Err(what) = check(&path, case, name, variant, arrays.as_ref()) {
                failures.push(format!("{file} {name}: {what}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check(
    path: &Path,
    case: &Case,
    name: &str,
    variant: &Variant,
    arrays: Option<&SafeTensors<'_>>,
) -> Result<(), String> {
    let framing = Framing {
        resolution: Resolution::LongSide(variant.size),
        patch: variant.patch_size,
        resize: Resize::Pillow,
        square_allowed: variant.square_ok,
        square_at_224: true,
    };
    let [height, width] = variant.true_shape;
    let limits = Limits::default();
    let view = match (
        views::load_one(path, &framing, &limits),
        variant.multiple_of_patch,
    ) {
        (Ok(view), true) => view,
        (Err(_), false) => return Ok(()),
        (Ok(_), false) => {
            return Err("accepted, though it is not a multiple of the patch".to_owned());
        }
        (Err(error), true) => return Err(error.to_string()),
    };
    let [mut file_width, mut file_height] = case.file_size_wh;
    if case
        .exif_orientation
        .is_some_and(|orientation| orientation >= 5)
    {
        (file_width, file_height) = (file_height, file_width);
    }
    assert_eq!(
        (view.crop.file_width, view.crop.file_height),
        (file_width, file_height)
    );
    assert_eq!(
        views::framed_size(path, &framing, &limits).unwrap(),
        view.crop
    );
    assert_eq!(view.rgb.dimensions(), (view.crop.width, view.crop.height));
    if view.rgb.dimensions() != (width, height) {
        return Err(format!(
            "size {:?}, recorded {:?}",
            view.rgb.dimensions(),
            (width, height)
        ));
    }

    let gap = arrays.and_then(|arrays| Gap::of(&view.rgb.convert(), name, arrays));
    let planar: Vec<u8> = (0..3)
        .flat_map(|c| view.rgb.pixels().map(move |pixel| pixel.0[c]))
        .collect();
    if hex_sha256(&planar) != variant.sha256_u8 {
        return Err(gap.map_or_else(
            || "other pixels than recorded".to_owned(),
            |gap| gap.to_string(),
        ));
    }
    let normalised: Vec<u8> = planar
        .iter()
        .flat_map(|&level| ((f32::from(level) / 255.0 - 0.5) / 0.5).to_le_bytes())
        .collect();
    assert_eq!(
        hex_sha256(&normalised),
        variant.sha256_f32,
        "the recording contradicts itself"
    );
    Ok(())
}

/// How far an image is from its recorded pixels.
struct Gap {
    mean: f64,
    largest: u8,
    /// Channel, row and column of the largest.
    at: [usize; 3],
}

impl Gap {
    /// Compares with what is recorded: every pixel, those of every fourth row and column, or
    /// nothing.
    fn of(rgb: &RgbImage, name: &str, arrays: &SafeTensors<'_>) -> Option<Self> {
        let recorded = |suffix: &str, step: usize| {
            Some((arrays.tensor(&format!("{name}.{suffix}")).ok()?, step))
        };
        let (tensor, step) = recorded("u8", 1).or_else(|| recorded("u8_every4", 4))?;
        let [3, rows, columns] = *tensor.shape() else {
            panic!("{name}: shape {:?}", tensor.shape())
        };
        assert_eq!(
            [rows, columns],
            [rgb.height(), rgb.width()].map(|side| (side as usize).div_ceil(step))
        );
        let mut gap = Self {
            mean: 0.0,
            largest: 0,
            at: [0; 3],
        };
        for (index, &expected) in tensor.data().iter().enumerate() {
            let [c, y, x] = [
                index / (rows * columns),
                index / columns % rows * step,
                index % columns * step,
            ];
            let difference = rgb.get_pixel(x as u32, y as u32).0[c].abs_diff(expected);
            gap.mean += f64::from(difference) / tensor.data().len() as f64;
            if difference > gap.largest {
                (gap.largest, gap.at) = (difference, [c, y, x]);
            }
        }
        Some(gap)
    }
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            mean,
            largest,
            at: [c, y, x],
        } = self;
        write!(
            f,
            "largest gap {largest} grey levels at ({c}, {y}, {x}), mean {mean:.3}"
        )
    }
}
