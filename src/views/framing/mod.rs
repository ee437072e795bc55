//! From a file's size to the network's size: what to resize to and which box to cut out.

mod crop;
mod resolution;

use crate::error::{Error, Result};
pub use crop::Crop;
pub use resolution::Resolution;

/// Longest side of a framed image. Far above what any of the networks can attend to; it keeps a
/// slip of the finger from becoming an allocation of terabytes.
const LONGEST_SIDE: u32 = 16_384;

/// The long side that the reference takes for a square, since its networks of this size were
/// trained on squares.
const SQUARE_RESOLUTION: u32 = 224;

/// How images are resized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Resize {
    /// By Pillow's Lanczos and bicubic filters, then cut down to whole patches: MASt3R and DUNE.
    #[default]
    Pillow,
    /// By OpenCV's area and cubic interpolation to the long side, then again to the nearest whole
    /// patches, so that nothing is cut off: Depth Anything 3.
    OpenCv,
}

/// What a network asks of its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Framing {
    /// The size to bring them to.
    pub resolution: Resolution,
    /// Side of a patch in pixels: both sides of a framed image are multiples of it.
    pub patch: u32,
    /// How they are resized.
    pub resize: Resize,
    /// Whether a square image may stay square; otherwise it is cut to 4:3.
    pub square_allowed: bool,
    /// Whether a long side of 224 means a centred square of 224 x 224, as in the reference.
    pub square_at_224: bool,
}

impl Framing {
    /// Checks what can be checked without an image.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when no image could be framed so.
    pub fn check(&self) -> Result<()> {
        self.check_request().map_err(Error::Usage)
    }

    /// Places an upright image of `file_width` x `file_height` pixels.
    ///
    /// # Errors
    ///
    /// The reason, with a way out, when no whole patches fit: the image is too thin, or the
    /// resolution does not suit the network.
    pub fn place(&self, file_width: u32, file_height: u32) -> Result<Crop, String> {
        self.check_request()?;
        if file_width == 0 || file_height == 0 {
            return Err(format!(
                "the image has no pixels ({file_width}x{file_height})"
            ));
        }
        let crop = match self.resolution {
            Resolution::LongSide(side) => match self.resize {
                Resize::Pillow => self.place_by_long_side(side, file_width, file_height)?,
                Resize::OpenCv => self.place_on_patches(side, file_width, file_height)?,
            },
            Resolution::Exact { width, height } => {
                place_exactly(width, height, file_width, file_height)?
            }
        };
        self.check_patches(&crop)?;
        Ok(crop)
    }

    fn check_request(&self) -> Result<(), String> {
        let Self {
            resolution, patch, ..
        } = *self;
        let (shorter, longer) = match resolution {
            Resolution::LongSide(side) => (side, side),
            Resolution::Exact { width, height } => (width.min(height), width.max(height)),
        };
        if longer > LONGEST_SIDE {
            return Err(format!(
                "size {resolution} is above the limit of {LONGEST_SIDE} pixels a side"
            ));
        }
        if patch == 0 || shorter < patch {
            return Err(format!(
                "size {resolution} is less than one patch of {patch} pixels; ask for a larger size"
            ));
        }
        match resolution {
            Resolution::Exact { width, height } if width % patch != 0 || height % patch != 0 => {
                Err(format!(
                    "size {resolution} is not a multiple of the patch size {patch}; ask for a size such as {}x{}",
                    width / patch * patch,
                    height / patch * patch
                ))
            }
            _ => Ok(()),
        }
    }

    fn place_by_long_side(
        &self,
        side: u32,
        file_width: u32,
        file_height: u32,
    ) -> Result<Crop, String> {
        let (width1, height1) = (f64::from(file_width), f64::from(file_height));
        let square = self.square_at_224 && side == SQUARE_RESOLUTION;
        let target = match square {
            true => (f64::from(side) * (width1 / height1).max(height1 / width1)).round_ties_even(),
            false => f64::from(side),
        };
        let longer = width1.max(height1);
        let resized_width = whole(
            (width1 * target / longer).round_ties_even(),
            file_width,
            file_height,
        )?;
        let resized_height = whole(
            (height1 * target / longer).round_ties_even(),
            file_width,
            file_height,
        )?;

        // An odd side is halved downwards, so its box starts a pixel before the exact centre.
        let (center_x, center_y) = (resized_width / 2, resized_height / 2);
        let (half_width, half_height) = if square {
            let half = f64::from(center_x.min(center_y));
            (half, half)
        } else {
            let patches = |center: u32| f64::from(2 * center / self.patch * self.patch) / 2.0;
            let half_width = patches(center_x);
            let cut_to_landscape = resized_width == resized_height && !self.square_allowed;
            (
                half_width,
                if cut_to_landscape {
                    3.0 * half_width / 4.0
                } else {
                    patches(center_y)
                },
            )
        };
        let (left, width) = span(center_x, half_width);
        let (top, height) = span(center_y, half_height);
        Ok(Crop {
            file_width,
            file_height,
            resized_width,
            resized_height,
            left,
            top,
            width,
            height,
        })
    }

    /// The whole image on the nearest whole patches.
    fn place_on_patches(
        &self,
        side: u32,
        file_width: u32,
        file_height: u32,
    ) -> Result<Crop, String> {
        let sides = first_size(side, file_width, file_height)
            .ok_or_else(|| too_thin(file_width, file_height))?;
        let [width, height] = sides.map(|side| nearest_multiple(side, self.patch));
        Ok(Crop {
            file_width,
            file_height,
            ..Crop::whole(width, height)
        })
    }

    /// Refuses a box that is not made of whole patches.
    fn check_patches(&self, crop: &Crop) -> Result<(), String> {
        let Self {
            resolution, patch, ..
        } = *self;
        let Crop {
            file_width,
            file_height,
            resized_width,
            resized_height,
            width,
            height,
            ..
        } = *crop;
        if width == 0 || height == 0 {
            return Err(format!(
                "at size {resolution} the {file_width}x{file_height} image becomes {resized_width}x{resized_height}, \
                 less than one patch of {patch} pixels; crop it to a less extreme shape or ask for a larger size"
            ));
        }
        if width % patch == 0 && height % patch == 0 {
            return Ok(());
        }
        let longer = resized_width.max(resized_height);
        Err(if resized_width == resized_height && width != height {
            // 4:3 in whole patches needs a multiple of four of them along the width.
            let side = longer.div_ceil(4 * patch).max(1) * 4 * patch;
            format!(
                "square image: its 4:3 crop at size {resolution} is {width}x{height}, not a multiple of the patch \
                 size {patch}; ask for size {side}, or {side}x{}, or crop the image to another shape",
                side / 4 * 3
            )
        } else {
            format!(
                "size {resolution} gives {width}x{height}, not a multiple of the patch size {patch}; \
                 ask for a size such as {}",
                longer / patch * patch
            )
        })
    }
}

/// Scales until `width` x `height` is just covered, then cuts it out of the centre.
fn place_exactly(
    width: u32,
    height: u32,
    file_width: u32,
    file_height: u32,
) -> Result<Crop, String> {
    let (width1, height1) = (f64::from(file_width), f64::from(file_height));
    let (width_f, height_f) = (f64::from(width), f64::from(height));
    // The side with the larger scale lands exactly; dividing last keeps the other one's ties exact.
    let (resized_width, resized_height) = if width_f * height1 >= height_f * width1 {
        (
            width,
            whole(
                (height1 * width_f / width1).round_ties_even(),
                file_width,
                file_height,
            )?
            .max(height),
        )
    } else {
        (
            whole(
                (width1 * height_f / height1).round_ties_even(),
                file_width,
                file_height,
            )?
            .max(width),
            height,
        )
    };
    let (left, top) = ((resized_width - width) / 2, (resized_height - height) / 2);
    Ok(Crop {
        file_width,
        file_height,
        resized_width,
        resized_height,
        left,
        top,
        width,
        height,
    })
}

fn too_thin(file_width: u32, file_height: u32) -> String {
    format!("the {file_width}x{file_height} image is too thin; crop it to a less extreme shape")
}

/// A resized side as an integer, or the reason why there is none.
fn whole(side: f64, file_width: u32, file_height: u32) -> Result<u32, String> {
    if side > f64::from(i32::MAX) {
        return Err(too_thin(file_width, file_height));
    }
    Ok(side as u32)
}

/// First pixel and length of the box `center - half .. center + half`, each end rounded, ties to
/// even.
fn span(center: u32, half: f64) -> (u32, u32) {
    let first = (f64::from(center) - half).round_ties_even() as u32;
    let end = (f64::from(center) + half).round_ties_even() as u32;
    (first, end - first)
}

/// The size whose long side is `side` as OpenCV has it, as 64-bit floating point numbers round it; `None` if it does
/// not fit.
pub(super) fn first_size(side: u32, width: u32, height: u32) -> Option<[u32; 2]> {
    let longer = width.max(height);
    if longer == side {
        return Some([width, height]);
    }
    let scale = f64::from(side) / f64::from(longer);
    let scaled = |side: u32| (f64::from(side) * scale).round_ties_even().max(1.0);
    let [width, height] = [scaled(width), scaled(height)];
    let fits = |side: f64| side <= f64::from(i32::MAX);
    (fits(width) && fits(height)).then_some([width as u32, height as u32])
}

/// The multiple of `patch` nearest to `side`, the larger one of two; 0 below half a patch.
fn nearest_multiple(side: u32, patch: u32) -> u32 {
    (side + patch / 2) / patch * patch
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAST3R: Framing = Framing {
        resolution: Resolution::LongSide(512),
        patch: 16,
        resize: Resize::Pillow,
        square_allowed: false,
        square_at_224: true,
    };
    const DUNE: Framing = Framing {
        resolution: Resolution::LongSide(448),
        patch: 14,
        resize: Resize::Pillow,
        square_allowed: true,
        square_at_224: true,
    };

    fn at(framing: Framing, size: &str) -> Framing {
        Framing {
            resolution: size.parse().unwrap(),
            ..framing
        }
    }

    #[test]
    fn sides_are_rounded_to_even_and_cut_to_whole_patches() {
        let crop = MAST3R.place(1000, 1334).unwrap();
        assert_eq!((crop.resized_width, crop.resized_height), (384, 512));
        assert_eq!(
            (crop.left, crop.top, crop.width, crop.height),
            (0, 0, 384, 512)
        );
        // 512 * 427 / 641 = 341.07: an odd height, whose box starts a pixel early.
        let crop = MAST3R.place(641, 427).unwrap();
        assert_eq!((crop.resized_width, crop.resized_height), (512, 341));
        assert_eq!(
            (crop.left, crop.top, crop.width, crop.height),
            (0, 2, 512, 336)
        );
        // Ties: 499.5 and 502.5.
        assert_eq!(MAST3R.place(1024, 999).unwrap().resized_height, 500);
        assert_eq!(MAST3R.place(1024, 1005).unwrap().resized_height, 502);
    }

    #[test]
    fn squares_become_landscape_only_where_they_must() {
        let crop = MAST3R.place(300, 300).unwrap();
        assert_eq!(
            (crop.left, crop.top, crop.width, crop.height),
            (0, 64, 512, 384)
        );
        let crop = DUNE.place(300, 300).unwrap();
        assert_eq!(
            (crop.left, crop.top, crop.width, crop.height),
            (0, 0, 448, 448)
        );
    }

    #[test]
    fn size_224_is_a_centred_square() {
        for patch in [14, 16] {
            for (width, height) in [
                (641, 427),
                (427, 641),
                (300, 300),
                (57, 90),
                (5000, 3),
                (225, 224),
            ] {
                let crop = Framing {
                    patch,
                    ..at(MAST3R, "224")
                }
                .place(width, height)
                .unwrap();
                assert_eq!((crop.width, crop.height), (224, 224));
                assert_eq!(crop.resized_width.min(crop.resized_height), 224);
                assert_eq!(
                    crop,
                    Framing {
                        patch,
                        ..at(MAST3R, "224x224")
                    }
                    .place(width, height)
                    .unwrap()
                );
            }
        }
    }

    #[test]
    fn exact_sizes_are_covered_and_cut_centrally() {
        let framing = at(MAST3R, "512x384");
        let crop = framing.place(4000, 3000).unwrap();
        assert_eq!(
            (crop.resized_width, crop.resized_height, crop.left, crop.top),
            (512, 384, 0, 0)
        );
        let crop = framing.place(4000, 2000).unwrap();
        assert_eq!(
            (crop.resized_width, crop.resized_height, crop.left, crop.top),
            (768, 384, 128, 0)
        );
        let crop = framing.place(30, 40).unwrap();
        assert_eq!(
            (crop.resized_width, crop.resized_height, crop.left, crop.top),
            (512, 683, 0, 149)
        );
        for width in 1..80 {
            for height in 1..80 {
                let crop = framing.place(width, height).unwrap();
                assert!(
                    crop.left + crop.width <= crop.resized_width
                        && crop.top + crop.height <= crop.resized_height
                );
                assert_eq!((crop.width, crop.height), (512, 384));
            }
        }
    }

    #[test]
    fn boxes_of_every_shape_stay_inside_and_on_whole_patches() {
        for framing in [
            MAST3R,
            DUNE,
            at(MAST3R, "500"),
            at(DUNE, "100"),
            at(MAST3R, "224"),
        ] {
            for width in (1..1200).step_by(37) {
                for height in (1..1200).step_by(41) {
                    let Ok(crop) = framing.place(width, height) else {
                        continue;
                    };
                    assert!(crop.left + crop.width <= crop.resized_width);
                    assert!(crop.top + crop.height <= crop.resized_height);
                    assert_eq!(
                        (crop.width % framing.patch, crop.height % framing.patch),
                        (0, 0)
                    );
                }
            }
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let thin = MAST3R.place(10_000, 100).unwrap_err();
        assert!(
            thin.contains("10000x100 image becomes 512x5, less than one patch of 16"),
            "{thin}"
        );
        let square = at(MAST3R, "336").place(50, 50).unwrap_err();
        assert!(
            square.contains("336x252") && square.contains("ask for size 384, or 384x288"),
            "{square}"
        );
        assert!(
            at(MAST3R, "384").place(50, 50).is_ok() && at(MAST3R, "384x288").place(50, 50).is_ok()
        );
        let exact = at(MAST3R, "518x392").place(640, 480).unwrap_err();
        assert!(
            exact.contains("not a multiple of the patch size 16") && exact.ends_with("512x384"),
            "{exact}"
        );
        assert!(
            at(MAST3R, "8")
                .place(640, 480)
                .unwrap_err()
                .contains("larger size")
        );
        assert!(
            at(MAST3R, "224")
                .place(u32::MAX, 1)
                .unwrap_err()
                .contains("too thin")
        );
        assert!(
            at(MAST3R, "512x384")
                .place(1, u32::MAX)
                .unwrap_err()
                .contains("too thin")
        );
        assert!(MAST3R.place(0, 5).unwrap_err().contains("no pixels"));
        let huge = Framing {
            resolution: Resolution::LongSide(u32::MAX),
            ..MAST3R
        };
        assert!(
            huge.place(640, 480)
                .unwrap_err()
                .contains("above the limit")
        );
        assert!(Framing { patch: 0, ..MAST3R }.place(640, 480).is_err());
        assert!(
            Framing {
                patch: u32::MAX,
                ..MAST3R
            }
            .place(640, 480)
            .is_err()
        );
        assert!(
            Framing {
                patch: 18,
                ..at(MAST3R, "224")
            }
            .place(640, 480)
            .unwrap_err()
            .contains("such as 288")
        );
        assert!(MAST3R.check().is_ok());
        assert!(matches!(
            at(MAST3R, "518x392").check(),
            Err(Error::Usage(_))
        ));
    }

    #[test]
    fn corners_of_the_whole_image_map_to_the_files_corners() {
        let crop = MAST3R.place(1000, 1334).unwrap();
        // Corner to corner: half a pixel outside the first and the last centre.
        let [x, y] = crop.to_file([-0.5, -0.5]);
        assert!((x + 0.5).abs() < 1e-12 && (y + 0.5).abs() < 1e-12);
        let [x, y] = crop.to_file([383.5, 511.5]);
        assert!((x - 999.5).abs() < 1e-9 && (y - 1333.5).abs() < 1e-9);
        // A box that is cut out: its first corner lies `top` resized pixels down.
        let crop = MAST3R.place(641, 427).unwrap();
        let [kx, ky] = crop.scale_to_file();
        assert_eq!([kx, ky], [641.0 / 512.0, 427.0 / 341.0]);
        let [x, y] = crop.to_file([-0.5, -0.5]);
        assert!((x + 0.5).abs() < 1e-12 && (y + 0.5 - 2.0 * ky).abs() < 1e-12);
    }
}
