//! A network with weights and images, ready to run a stage of it again and again.

use std::fmt;
use std::hint::black_box;
use std::str::FromStr;
use std::time::Instant;

use candle_core::Tensor;
use custom_ops::Downloader;
use image::RgbImage;

use mast3r::matching::{DescriptorMap, MatchOptions, reciprocal_matches};
use mast3r::model::checkpoint::Checkpoint;
use mast3r::model::config::Predicts;
use mast3r::model::input::{self, Normalisation};
use mast3r::model::{
    AnyViewMaps, DecoderTokens, DepthAnything, FeatureExtractor, Features, Mast3r, PairPrediction,
};
use mast3r::nn::unobserved;
use mast3r::pipeline::{DeviceSearch, RepeatedPairs};
use mast3r::runtime::Runtime;
use mast3r::views::{Crop, View};
use mast3r::{Error, Result};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Images as tensors to tokens: of both views at once for a two-view network.
    Encode,
    /// Tokens of a pair through the decoder.
    Decode,
    /// The decoder's tokens through both heads.
    Heads,
    /// Descriptors to matches, of one pair: on a GPU from where the heads leave them to
    /// matches on the host, else from descriptors on the host.
    Match,
    /// Pairs as a reconstruction computes them, once the views are encoded: decoded in both orders,
    /// matched, with points and matches on the host; shared by all devices.
    Pairs,
    /// The whole network: images as tensors to maps as tensors; for an encoder the same as
    /// [`Stage::Encode`].
    Full,
}

impl Stage {
    /// In the order of the data.
    pub const ALL: [Self; 6] = [
        Self::Encode,
        Self::Decode,
        Self::Heads,
        Self::Match,
        Self::Pairs,
        Self::Full,
    ];

    /// As `--stage` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Decode => "decode",
            Self::Heads => "heads",
            Self::Match => "match",
            Self::Pairs => "pairs",
            Self::Full => "full",
        }
    }

    /// Whether a network that is an encoder alone has it.
    pub fn is_of_encoders(self) -> bool {
        matches!(self, Self::Encode | Self::Full)
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|stage| stage.name() == text);
        found.ok_or_else(|| {
            format!(
                "unknown stage {text:?}; expected {}",
                Self::ALL.map(Self::name).join(", ")
            )
        })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A network with its weights on a device.
#[derive(Debug)]
pub struct LoadedNetwork {
    pub(super) network: Kind,
    /// A network of pairs on every device, the first one among them.
    models: Vec<Mast3r>,
    runtime: Runtime,
    load_ms: f64,
}

/// One of the ways to use a network.
#[derive(Debug)]
pub(super) enum Kind {
    Encoder(Box<FeatureExtractor>),
    Pair(Box<Mast3r>),
    Joint(Box<DepthAnything>),
}

impl LoadedNetwork {
    /// Builds the network of `checkpoint`, or its encoder alone, on the runtime's device.
    ///
    /// # Errors
    /// [`Error::Weights`] about the file; errors of the device.
    pub fn new(checkpoint: &Checkpoint, encoder_alone: bool, runtime: &Runtime) -> Result<Self> {
        let start = Instant::now();
        let (config, vb) = (
            checkpoint.config(),
            checkpoint.var_builder(runtime.precision().dtype(), runtime.device()),
        );
        let network = if encoder_alone || config.predicts() == Predicts::Features {
            let encoder = FeatureExtractor::new(config, &vb, runtime);
            Kind::Encoder(Box::new(
                encoder.map_err(|error| checkpoint.explain(error))?,
            ))
        } else if config.predicts() == Predicts::Scene {
            let network = DepthAnything::new(config, &vb, runtime);
            Kind::Joint(Box::new(
                network.map_err(|error| checkpoint.explain(error))?,
            ))
        } else {
            let model = Mast3r::new(config, &vb, runtime);
            Kind::Pair(Box::new(model.map_err(|error| checkpoint.explain(error))?))
        };
        runtime.synchronize()?;
        let models = match &network {
            Kind::Pair(model) => vec![(**model).clone()],
            Kind::Encoder(_) | Kind::Joint(_) => Vec::new(),
        };
        Ok(Self {
            network,
            models,
            runtime: runtime.clone(),
            load_ms: 1e3 * start.elapsed().as_secs_f64(),
        })
    }

    /// The same network on more devices, for [`Stage::Pairs`].
    ///
    /// # Errors
    /// As [`LoadedNetwork::new`].
    pub fn share(&mut self, checkpoint: &Checkpoint, others: &[Runtime]) -> Result<()> {
        for runtime in others {
            let other = Self::new(checkpoint, false, runtime)?;
            self.models.extend(other.models);
        }
        Ok(())
    }

    /// How long reading or making the weights and building the network took, in milliseconds.
    pub fn load_ms(&self) -> f64 {
        self.load_ms
    }

    /// Where it computes.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn extractor(&self) -> Result<&FeatureExtractor> {
        match &self.network {
            Kind::Encoder(extractor) => Ok(extractor),
            Kind::Pair(model) => Ok(model.extractor()),
            Kind::Joint(_) => Err(Error::Usage(
                "a joint network runs as a whole: give stage full".into(),
            )),
        }
    }
}

/// A stage of a network with all that it reads.
#[derive(Debug)]
pub struct Workload<'a> {
    loaded: &'a LoadedNetwork,
    input: Input,
    grid: [usize; 2],
}

/// What a stage reads.
#[derive(Debug)]
enum Input {
    /// `(images, 3, height, width)`.
    Images(Tensor),
    Features([Features; 2]),
    Tokens(Box<DecoderTokens>),
    /// On the host, where the search is the host's.
    Descriptors([HostDescriptors; 2]),
    /// One pair's maps, on the device that seeks.
    Maps(Box<PairPrediction>, Downloader),
    Pairs(Box<RepeatedPairs>),
}

#[derive(Debug)]
struct HostDescriptors {
    /// Height, width and channels.
    size: [usize; 3],
    descriptors: Vec<f32>,
    confidence: Vec<f32>,
}

/// What a stage makes.
#[derive(Debug)]
pub enum Output {
    /// `(images, rows * columns, channels)`.
    Features(Tensor),
    /// What the decoder says.
    Tokens(Box<DecoderTokens>),
    /// Maps of both views.
    Maps(Box<PairPrediction>),
    /// Maps and cameras of all views.
    Scene(Box<AnyViewMaps>),
    /// How many matches there are.
    Matches(usize),
}

impl<'a> Workload<'a> {
    /// `images` of one size are the views of one pair, or one image for an encoder; each is
    /// taken `batch` times, a two-view network's first views before its second ones. For a joint
    /// network the first image, taken so often, is the views of one scene. What comes before the
    /// stage is computed here.
    ///
    /// # Errors
    /// [`Error::Usage`] for a stage that the network has not, or too few images; errors of the
    /// device.
    pub fn new(
        loaded: &'a LoadedNetwork,
        images: &[RgbImage],
        batch: usize,
        stage: Stage,
    ) -> Result<Self> {
        if matches!(loaded.network, Kind::Joint(_)) {
            return Self::of_scene(loaded, images, batch, stage);
        }
        let views = if matches!(loaded.network, Kind::Pair(_)) {
            2
        } else {
            1
        };
        let Some(images) = images.get(..views) else {
            return Err(Error::Usage(format!(
                "{views} images are needed, got {}",
                images.len()
            )));
        };
        if let (Stage::Pairs, [first, second]) = (stage, images) {
            return Self::of_pairs(loaded, [first, second], batch);
        }
        let repeated: Vec<&RgbImage> = images
            .iter()
            .flat_map(|image| std::iter::repeat_n(image, batch))
            .collect();
        let extractor = loaded.extractor()?;
        let normalisation = extractor.normalisation();
        let images = input::images(&repeated, normalisation, loaded.runtime.device())?;
        let (_, _, height, width) = images.dims4()?;
        let grid = [height, width].map(|side| side / extractor.patch());
        let mut workload = Self {
            loaded,
            input: Input::Images(images),
            grid,
        };
        let model = match &loaded.network {
            Kind::Encoder(_) if !stage.is_of_encoders() => {
                return Err(Error::Usage(format!(
                    "stage {stage}: an encoder alone has none; give encode or full"
                )));
            }
            Kind::Encoder(_) | Kind::Joint(_) => return Ok(workload),
            Kind::Pair(model) => model,
        };
        if matches!(stage, Stage::Encode | Stage::Full) {
            return Ok(workload);
        }
        let features = workload.features(&workload.encode()?)?;
        if stage == Stage::Decode {
            workload.input = Input::Features(features);
            return Ok(workload);
        }
        let tokens = model.decoder_tokens(&features[0], &features[1], &mut unobserved())?;
        workload.input = match stage {
            Stage::Match => {
                let pair = model.predict(&tokens, &mut unobserved())?.one(0)?;
                let downloader = Downloader::default();
                match DeviceSearch::begin(
                    model,
                    &pair,
                    None,
                    &MatchOptions::default(),
                    &downloader,
                )? {
                    Some(search) => {
                        search.wait()?;
                        Input::Maps(Box::new(pair), downloader)
                    }
                    None => Input::Descriptors([
                        HostDescriptors::new(&pair, 0)?,
                        HostDescriptors::new(&pair, 1)?,
                    ]),
                }
            }
            _ => Input::Tokens(Box::new(tokens)),
        };
        loaded.runtime.synchronize()?;
        Ok(workload)
    }

    fn of_scene(
        loaded: &'a LoadedNetwork,
        images: &[RgbImage],
        views: usize,
        stage: Stage,
    ) -> Result<Self> {
        if stage != Stage::Full {
            return Err(Error::Usage(format!(
                "stage {stage}: a joint network runs as a whole; give full"
            )));
        }
        let first = images
            .first()
            .ok_or_else(|| Error::Usage("an image is needed".into()))?;
        let repeated = vec![first; views];
        let device = loaded.runtime.device();
        Ok(Self {
            loaded,
            input: Input::Images(input::images(&repeated, Normalisation::ImageNet, device)?),
            grid: [0, 0],
        })
    }

    fn of_pairs(loaded: &'a LoadedNetwork, images: [&RgbImage; 2], count: usize) -> Result<Self> {
        let views = images.map(|rgb| {
            let (width, height) = rgb.dimensions();
            View::new("measured", rgb.clone(), Crop::whole(width, height))
        });
        let pairs = RepeatedPairs::new(&loaded.models, &views, count)?;
        Ok(Self {
            loaded,
            input: Input::Pairs(Box::new(pairs)),
            // Of what is run as it is encoded.
            grid: [0, 0],
        })
    }

    /// Runs `stage` once, to the end on the device. It must be the one that the workload was made
    /// for, or [`Stage::Encode`] for [`Stage::Full`].
    ///
    /// # Errors
    /// Of the device.
    pub fn run(&self, stage: Stage) -> Result<Output> {
        let output = match (&self.loaded.network, &self.input) {
            (Kind::Pair(model), Input::Images(_)) if stage == Stage::Full => {
                let [first, second] = self.features(&self.encode()?)?;
                Output::Maps(Box::new(model.decode(&first, &second)?))
            }
            (Kind::Joint(network), Input::Images(images)) => Output::Scene(Box::new(
                network.forward(images, None, &mut unobserved())?,
            )),
            (_, Input::Images(_)) => Output::Features(self.encode()?),
            (Kind::Pair(model), Input::Features([first, second])) => Output::Tokens(Box::new(
                model.decoder_tokens(first, second, &mut unobserved())?,
            )),
            (Kind::Pair(model), Input::Tokens(tokens)) => {
                Output::Maps(Box::new(model.predict(tokens, &mut unobserved())?))
            }
            (_, Input::Descriptors([first, second])) => {
                let matches =
                    reciprocal_matches(&first.map(), &second.map(), &MatchOptions::default())?;
                Output::Matches(matches.len())
            }
            (Kind::Pair(model), Input::Maps(pair, downloader)) => {
                let search =
                    DeviceSearch::begin(model, pair, None, &MatchOptions::default(), downloader)?;
                let matches = search.map(DeviceSearch::wait).transpose()?;
                Output::Matches(matches.map_or(0, |matches| matches.len()))
            }
            (_, Input::Pairs(pairs)) => Output::Matches(pairs.run(&self.loaded.models)?),
            (Kind::Encoder(_) | Kind::Joint(_), _) => {
                return Err(Error::Usage("this network has no decoder".into()));
            }
        };
        self.loaded.runtime.synchronize()?;
        Ok(black_box(output))
    }

    /// The images as `(images, 3, height, width)` in [-1, 1], whatever the network wants,
    /// float32 on the host.
    ///
    /// # Errors
    /// Of the device; none for a workload of images.
    pub fn images(images: &[RgbImage]) -> Result<Tensor> {
        input::images(
            &images.iter().collect::<Vec<_>>(),
            Normalisation::MinusOneToOne,
            &candle_core::Device::Cpu,
        )
    }

    fn encode(&self) -> Result<Tensor> {
        match &self.input {
            Input::Images(images) => {
                Ok(self
                    .loaded
                    .extractor()?
                    .forward(images, true, &mut unobserved())?)
            }
            _ => Err(Error::Internal(
                "the images of this stage were encoded before".into(),
            )),
        }
    }

    fn features(&self, tokens: &Tensor) -> Result<[Features; 2]> {
        let batch = tokens.dim(0)? / 2;
        let view = |index| -> Result<Features> {
            Ok(Features {
                tokens: tokens.narrow(0, index * batch, batch)?.contiguous()?,
                grid: self.grid,
            })
        };
        Ok([view(0)?, view(1)?])
    }
}

impl Output {
    /// The outputs by the names of the reference, of the first image or pair of the batch:
    /// `features`, `depth` and `conf` of the first view of a joint network, or `pts3d.1`, `conf.1`,
    /// `desc.1`, `desc_conf.1` and the same with `.2`. Float32 on the host; none for other stages.
    ///
    /// # Errors
    /// Of the device.
    pub fn named(&self) -> Result<Vec<(String, Tensor)>> {
        let first = |tensor: &Tensor| -> Result<Tensor> {
            let one = tensor.narrow(0, 0, 1)?.to_dtype(candle_core::DType::F32)?;
            Ok(one.to_device(&candle_core::Device::Cpu)?.contiguous()?)
        };
        match self {
            Self::Features(tokens) => Ok(vec![("features".into(), first(tokens)?)]),
            Self::Scene(maps) => Ok(vec![
                ("depth".into(), first(&maps.depth)?),
                ("conf".into(), first(&maps.confidence)?),
            ]),
            Self::Maps(pair) => {
                let mut named = Vec::with_capacity(8);
                for (view, prediction) in [(1, &pair.first), (2, &pair.second_in_first)] {
                    named.push((format!("pts3d.{view}"), first(&prediction.points)?));
                    named.push((format!("conf.{view}"), first(&prediction.confidence)?));
                    named.push((format!("desc.{view}"), first(&prediction.descriptors)?));
                    named.push((
                        format!("desc_conf.{view}"),
                        first(&prediction.descriptor_confidence)?,
                    ));
                }
                Ok(named)
            }
            Self::Tokens(_) | Self::Matches(_) => Ok(Vec::new()),
        }
    }
}

impl HostDescriptors {
    /// Of a view of one pair.
    fn new(pair: &PairPrediction, view: usize) -> Result<Self> {
        let prediction = if view == 0 {
            &pair.first
        } else {
            &pair.second_in_first
        };
        let (_, height, width, channels) = prediction.descriptors.dims4()?;
        let values =
            |tensor: &Tensor| -> Result<Vec<f32>> { Ok(tensor.get(0)?.flatten_all()?.to_vec1()?) };
        Ok(Self {
            size: [height, width, channels],
            descriptors: values(&prediction.descriptors)?,
            confidence: values(&prediction.descriptor_confidence)?,
        })
    }

    fn map(&self) -> DescriptorMap<'_> {
        let [height, width, channels] = self.size;
        DescriptorMap {
            width,
            height,
            channels,
            descriptors: &self.descriptors,
            confidence: &self.confidence,
        }
    }
}
