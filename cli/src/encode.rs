//! `mast3r encode`: images to patch features.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use mast3r::Error;
use mast3r::export::{
    FeatureSink, OutputFile, Pca, PcaBuilder, TensorMetadata, TensorSpec, TokenGrid,
    WrittenTensors, draw_token_grids, image_metadata, write_rgb_png,
};
use mast3r::model::FeatureExtractor;
use mast3r::network::ChosenModel;
use mast3r::pipeline::{EncodedImage, encode_images};
use mast3r::views::names::unique_names;
use mast3r::views::{self, Crop, Framing, Limits};
use mast3r_measure::MemoryAdvice;
use serde_json::json;

use crate::GlobalArgs;
use crate::images::ImageArgs;
use crate::network::NetworkArgs;
use crate::outputs::{self, Written};
use crate::progress;

/// The network without `--model` and without a file that says otherwise.
const DEFAULT_NETWORK: &str = "mast3r-encoder";
/// Side of a token in the preview, in pixels.
const TOKEN_PIXELS: u32 = 12;

/// Encode images as patch features
///
/// Writes one float32 tensor (rows, columns, channels) an image, under the image's name. Memory use
/// does not depend on the number of images.
#[derive(Debug, Args)]
pub struct EncodeArgs {
    #[command(flatten)]
    images: ImageArgs,

    /// Write the features into a .safetensors file, or as .npy files and index.json into a folder
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,

    /// Apply DUNE's final layer norm (the default)
    #[arg(long, overrides_with = "no_norm")]
    norm: bool,

    /// Skip DUNE's final layer norm
    #[arg(long)]
    no_norm: bool,

    /// Draw the features' first three principal components as colours
    #[arg(long, value_name = "PNG")]
    pca: Option<PathBuf>,

    /// Print a JSON summary on standard output
    #[arg(long)]
    json: bool,

    // Last, because its heading would go on to what follows.
    #[command(flatten)]
    network: NetworkArgs,
}

impl EncodeArgs {
    pub fn run(&self, global: &GlobalArgs) -> anyhow::Result<()> {
        let started = Instant::now();
        let limits = Limits::default();
        let images = self.images.expand(global)?;
        let files = [Some(&self.output), self.pca.as_ref()];
        let inputs = [&images, self.network.files()].concat();
        outputs::check_apart(files.into_iter().flatten().map(PathBuf::as_path), &inputs)?;
        let images = self.images.frames(images, global)?;
        let output = outputs::not_stdout(&self.output)?;
        let pca_file = outputs::png(self.pca.as_deref(), "preview")?;
        // A sink knows its tensors only once the framing is known; that its place can be written is
        // checked now.
        if output
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors"))
        {
            drop(OutputFile::create(output)?);
        }
        views::probe_all(
            &images,
            self.network.early_framing(DEFAULT_NETWORK)?.as_ref(),
            &limits,
        )?;
        let runtimes = global.runtimes()?;
        let chosen = self.network.choose(DEFAULT_NETWORK)?;
        let crops = crops(&images, &chosen.framing, &limits)?;
        let names = unique_names(&images);
        let sink = self.sink(&chosen, &names, &crops)?;

        progress::advise_to_start_over(global.quiet);
        let spinner = progress::spinner(global.quiet);
        progress::show(&spinner, "load weights");
        let memory = MemoryAdvice::new(chosen.checkpoint.config(), &runtimes[0])?;
        let extractors = chosen
            .load_encoders(&runtimes)
            .with_context(|| format!("cannot load {}", chosen.checkpoint.describe()))?;
        spinner.finish_and_clear();
        let load = started.elapsed().as_secs_f64();

        let channels = chosen.checkpoint.config().encoder.channels();
        let mut pca = pca_file.as_ref().map(|_| PcaBuilder::new(channels));
        let mut sink = Ok(sink);
        let encoder = Encoder {
            images: &images,
            framing: &chosen.framing,
            extractors,
            norm: !self.no_norm,
        };
        let encoded = encoder.run(global, |EncodedImage { index, tokens, .. }| {
            if let Some(pca) = &mut pca {
                pca.add(&tokens)?;
            }
            if let Ok(open) = &mut sink
                && let Err(error) = open.write(&names[index], &tokens)
            {
                sink = Err(error);
            }
            // Without a preview there is no use in going on.
            Ok(sink.is_ok() || pca.is_some())
        });
        let largest = crops
            .iter()
            .map(|crop| [crop.width, crop.height])
            .max_by_key(|[width, height]| width * height);
        encoded.map_err(|error| memory.explain(error, largest.unwrap_or_default()))?;
        let tensors = sink.and_then(FeatureSink::commit);
        let mut written = Written::default();
        let detail = || format!("{}, {channels} channels", counted(names.len()));
        let tensors = tensors
            .map_err(|error| written.fail("features", &self.output, error))
            .ok();
        if tensors.is_some() {
            written.add("features", &self.output, detail());
        }
        if let (Some(file), Some(pca)) = (pca_file, pca) {
            let path = file.path().to_path_buf();
            let grids = encoder.grids(&pca.finish()?, &crops, tensors.as_ref(), global)?;
            let drawn = draw_token_grids(&grids, TOKEN_PIXELS)
                .and_then(|image| file.write_with(|out| write_rgb_png(&image, out)));
            written.note(
                "pca",
                &path,
                drawn.map(|()| "first three components".into()),
            );
        }
        self.report(
            global,
            names.len(),
            &chosen,
            written,
            [load, started.elapsed().as_secs_f64()],
        )
    }

    fn sink(
        &self,
        chosen: &ChosenModel,
        names: &[String],
        crops: &[Crop],
    ) -> mast3r::Result<FeatureSink> {
        let channels = chosen.checkpoint.config().encoder.channels();
        let patch = chosen.framing.patch;
        let tensors = names
            .iter()
            .zip(crops)
            .map(|(name, crop)| {
                let (rows, columns) = (crop.height / patch, crop.width / patch);
                TensorSpec::new(name.clone(), &[rows as usize, columns as usize, channels])
            })
            .collect();
        let mut metadata = TensorMetadata::from([
            ("model".to_string(), chosen.name.clone()),
            ("patch".to_string(), patch.to_string()),
            ("norm".to_string(), (!self.no_norm).to_string()),
        ]);
        for (name, crop) in names.iter().zip(crops) {
            metadata.insert(format!("view.{name}"), image_metadata(name, crop));
        }
        FeatureSink::create(&self.output, tensors, metadata)
    }

    fn report(
        &self,
        global: &GlobalArgs,
        count: usize,
        chosen: &ChosenModel,
        written: Written,
        [load, total]: [f64; 2],
    ) -> anyhow::Result<()> {
        if written.is_in_vain() {
            return written.finish();
        }
        let rate = count as f64 / (total - load).max(1e-9);
        global.say(format_args!(
            "{}: {} in {total:.2} s (load {load:.2}, {rate:.2} images per second)",
            chosen.name,
            counted(count)
        ));
        written.lines().for_each(|line| global.say(line));
        if self.json {
            outputs::print_json(&json!({
                "model": chosen.name,
                "weights": chosen.checkpoint.describe(),
                "precision": global.precision()?.to_string(),
                "images": count,
                "outputs": written.json(),
                "failed": written.failed_json(),
                "seconds": { "load": load, "total": total },
            }))?;
        }
        written.finish()
    }
}

/// What encodes the images.
struct Encoder<'a> {
    images: &'a [PathBuf],
    framing: &'a Framing,
    /// One on each device.
    extractors: Vec<FeatureExtractor>,
    norm: bool,
}

impl Encoder<'_> {
    /// Encodes all images and hands each one's tokens to `take`, until that returns false.
    fn run(
        &self,
        global: &GlobalArgs,
        mut take: impl FnMut(EncodedImage) -> mast3r::Result<bool>,
    ) -> mast3r::Result<()> {
        let (images, count) = (self.images, self.images.len());
        let bar = progress::bar(global.quiet, count);
        let load =
            |range: Range<usize>| views::load(&images[range], self.framing, &Limits::default());
        encode_images(&self.extractors, count, self.norm, load, |image| {
            let goes_on = take(image)?;
            bar.inc(1);
            Ok(goes_on)
        })?;
        bar.finish_and_clear();
        Ok(())
    }

    /// The components of every image's tokens, which are read back or, where they could not be
    /// written, encoded again.
    fn grids(
        &self,
        pca: &Pca,
        crops: &[Crop],
        tensors: Option<&WrittenTensors>,
        global: &GlobalArgs,
    ) -> mast3r::Result<Vec<TokenGrid>> {
        let (mut grids, patch) = (Vec::new(), self.framing.patch);
        let mut add = |index: usize, tokens: &[f32]| {
            let [rows, columns] =
                [crops[index].height, crops[index].width].map(|side| (side / patch) as usize);
            grids.push(TokenGrid {
                rows,
                columns,
                components: pca.project(tokens)?,
            });
            Ok(())
        };
        match tensors {
            Some(tensors) => {
                (0..crops.len()).try_for_each(|index| add(index, &tensors.read(index)?))?
            }
            None => self.run(global, |image| {
                add(image.index, &image.tokens).map(|()| true)
            })?,
        }
        Ok(grids)
    }
}

fn crops(images: &[PathBuf], framing: &Framing, limits: &Limits) -> mast3r::Result<Vec<Crop>> {
    Error::all(
        images
            .iter()
            .map(|image| views::framed_size(image, framing, limits)),
    )
}

pub(crate) fn counted(count: usize) -> String {
    format!("{count} image{}", if count == 1 { "" } else { "s" })
}
