//! What the reader of a file should know of it, though it is no error.

use std::collections::BTreeSet;

use super::View;

/// Levels of 16 bits that end here or below look black: a sixteenth of the range, as of 12 bits
/// that were not scaled.
pub(super) const DARK: u16 = 0x0FFF;

/// Something about one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remark {
    /// Some pixels are transparent and do not count.
    Transparent,
    /// Every pixel is transparent, so that alpha was taken for a mistake and ignored.
    AllTransparent,
    /// This program decoded it.
    DecodedBy(&'static str),
    /// The levels of 16 bits end at this one, so that the image is almost black.
    Dark(u16),
}

/// One line for each thing that is to be known of `views`, with how many it concerns and the first
/// of them.
pub fn remarks(views: &[View]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |concerns: &dyn Fn(&View) -> bool, one: &str, several: &str, rest: &str| {
        let mut concerned = views.iter().filter(|view| concerns(view));
        let Some(first) = concerned.next() else {
            return;
        };
        lines.push(match concerned.count() {
            0 => format!("{} {one} {rest}", first.name),
            others => format!(
                "{} of {} images, {} the first, {several} {rest}",
                others + 1,
                views.len(),
                first.name
            ),
        });
    };
    let has = |remark: Remark| move |view: &View| view.remarks.contains(&remark);
    let decoders = views.iter().flat_map(|view| &view.remarks);
    let decoders: BTreeSet<&str> = decoders
        .filter_map(|remark| match remark {
            Remark::DecodedBy(program) => Some(*program),
            _ => None,
        })
        .collect();
    for program in decoders {
        let by = format!("decoded by {program}");
        let concerns = |view: &View| {
            view.remarks
                .iter()
                .any(|remark| matches!(remark, Remark::DecodedBy(name) if *name == program))
        };
        add(&concerns, "is", "are", &by);
    }
    add(
        &has(Remark::Transparent),
        "has",
        "have",
        "transparent pixels (alpha below half), which are masked out: no matches, no points",
    );
    add(
        &has(Remark::AllTransparent),
        "is",
        "are",
        "wholly transparent; the alpha channel is ignored and all pixels count",
    );
    add(
        &|view| {
            view.remarks
                .iter()
                .any(|remark| matches!(remark, Remark::Dark(_)))
        },
        "has",
        "have",
        "16-bit levels that end at or below 4095 of 65535 and look black; if fewer bits are used, scale them to 16",
    );
    add(
        &|view| {
            view.crop.resized_width > view.crop.file_width
                || view.crop.resized_height > view.crop.file_height
        },
        "is",
        "are",
        "smaller than the network's size and enlarged",
    );
    add(
        &is_cut,
        "is",
        "are",
        "cropped to the network's shape; what lies outside is not reconstructed",
    );
    lines
}

/// Whether a tenth of a side or more is cut off, and not only what exceeds whole patches.
fn is_cut(view: &View) -> bool {
    let crop = &view.crop;
    let cut = |whole: u32, kept: u32| 10 * whole.saturating_sub(kept) >= whole;
    cut(crop.resized_width, crop.width) || cut(crop.resized_height, crop.height)
}
