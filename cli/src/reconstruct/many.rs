//! Which pairs are predicted, what is kept of them, and what is known of cameras.

use std::path::{Path, PathBuf};

use clap::Args;
use mast3r::Error;
use mast3r::pipeline::Plan;
use mast3r::views::names::unique_names;
use mast3r::views::{Framing, Limits, Mask, View};

use crate::known::KnownArgs;
use crate::masks;
use crate::pairs::PairArgs;
use crate::refine::RefineArgs;
use crate::{GlobalArgs, progress};

/// The arguments that matter most to more than two images.
#[derive(Debug, Args)]
#[command(next_help_heading = "Pairs and intermediate results")]
pub struct ManyArgs {
    #[command(flatten)]
    pub(super) pairs: PairArgs,

    /// Keep intermediate results in a folder, and reuse those that it has
    ///
    /// An interrupted run continues; a run with more images computes only the new pairs; other
    /// outputs need no network. Results are found by the images' pixels, the weights, the
    /// precision, the kind of device, --res and --match-step, not by names. Damaged files are
    /// computed again. Takes 64 bytes a pixel and pair (12.6 MB at 512x384); nothing is ever
    /// removed. `mast3r align` reads the folder too, and refines cameras with --images.
    #[arg(long, value_name = "FOLDER")]
    pub(super) work: Option<PathBuf>,

    /// Memory for the encoder's features, in GiB; the rest goes to a temporary folder or that of
    /// --work
    ///
    /// An image of 512x384 takes 3 MB. da3-small and da3-base predict so many images at a time as fit
    /// (da3-base: about 20 at 504x378 in 2 GiB); more are predicted in overlapping groups, which are
    /// joined by the images that they share.
    #[arg(long, value_name = "GIB", default_value_t = 2.0, value_parser = gibibytes, allow_negative_numbers = true)]
    pub(super) memory: f64,

    /// Ignore what masks hide (black): a folder of masks named after the images, or one mask for
    /// all images
    ///
    /// The mask of left/a.jpg is left/a.png or left/a.jpg.png, or a.png if that is unambiguous. A
    /// mask has the size or the shape of its upright image, and is resized with it. Pixels at least
    /// half as bright as the mask's brightest pixel and not transparent are used, so that 0 and 1
    /// mean the same as 0 and 255. All others have no matches, no points and no depth. An image
    /// without a mask is used whole.
    #[arg(long, visible_alias = "mask", value_name = "PATH")]
    pub(super) masks: Option<PathBuf>,

    /// Use transparent pixels too; by default, pixels with an alpha below half are masked
    #[arg(long)]
    pub(super) ignore_alpha: bool,

    #[command(flatten)]
    pub(super) refine: RefineArgs,

    #[command(flatten)]
    pub(super) known: KnownArgs,
}

impl ManyArgs {
    /// The files that are read.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.pairs
            .file()
            .into_iter()
            .chain(&self.masks)
            .chain(self.known.files())
    }

    /// Most bytes of features in memory.
    pub(super) fn feature_bytes(&self) -> u64 {
        bytes(self.memory)
    }

    /// Refuses what a network of all views together has no use for.
    pub(super) fn check_joint(&self, name: &str) -> mast3r::Result<()> {
        let work = [("--work", self.work.is_some())];
        match self
            .pairs
            .given()
            .into_iter()
            .chain(work)
            .find(|(_, given)| *given)
        {
            Some((option, _)) => Err(Error::Usage(format!(
                "{option} is for networks of image pairs; {name} predicts all images together, so leave it out"
            ))),
            None => Ok(()),
        }
    }

    /// What a run will take, as far as it is known before it.
    pub(super) fn cost(&self, plan: &Plan) -> String {
        let Plan {
            views,
            pairs,
            new_pairs,
            disk_bytes,
        } = *plan;
        let new = match new_pairs {
            0 => "all of them computed before".into(),
            new if new == pairs => "all to be computed".into(),
            new => format!("{new} of them to be computed"),
        };
        let disk = match &self.work {
            Some(folder) if new_pairs > 0 => {
                format!(
                    "; about {} of disk space in {}",
                    progress::bytes_text(disk_bytes),
                    folder.display()
                )
            }
            _ => String::new(),
        };
        let time = if new_pairs > 0 {
            "; the time left is estimated once the first pairs are done"
        } else {
            ""
        };
        format!("{views} images, {pairs} pairs, {new}{disk}{time}")
    }

    /// The masks of the images, where there are some.
    pub(super) fn find_masks(
        &self,
        images: &[PathBuf],
        global: &GlobalArgs,
    ) -> mast3r::Result<Vec<Option<PathBuf>>> {
        let Some(path) = &self.masks else {
            return Ok(Vec::new());
        };
        let names = unique_names(images);
        let named: Vec<_> = images.iter().cloned().zip(names).collect();
        masks::find(path, &named, global)
    }
}

/// Leaves out what `masks` hide of `views`.
pub(super) fn hide(
    views: &mut [View],
    masks: &[Option<PathBuf>],
    framing: &Framing,
    global: &GlobalArgs,
) -> mast3r::Result<()> {
    let of_views = masks
        .iter()
        .zip(0..)
        .filter_map(|(path, at)| path.as_ref().map(|path| (path, at)));
    let loaded = of_views.map(|(path, at)| {
        Mask::load(path, &views[at], framing, &Limits::default()).map(|mask| (path, at, mask))
    });
    for (path, at, mask) in Error::all(loaded)? {
        let view = &mut views[at];
        if mask.hides_all() {
            global.say(format_args!(
                "{}: the mask hides the whole of {}",
                path.display(),
                view.name
            ));
        }
        view.restrict(mask);
    }
    Ok(())
}

/// What to do after an interrupt.
pub(super) fn advice(work: Option<&Path>) -> String {
    match work {
        Some(folder) => format!(
            "interrupted; run the same command again to go on: {} keeps what was computed",
            folder.display()
        ),
        None => {
            "interrupted; nothing is kept: with --work FOLDER the same command can go on where it was ended".into()
        }
    }
}

/// Bytes of so many GiB.
pub(crate) fn bytes(gibibytes: f64) -> u64 {
    (gibibytes * f64::from(1u32 << 30)) as u64
}

pub(crate) fn gibibytes(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "expected a number of GiB, 0 or more".into())
}
