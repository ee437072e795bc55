//! The two-view networks: MASt3R and DuneMASt3R.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::config::Config;
use super::decoder::{Decoder, GridTokens};
use super::features::{FeatureExtractor, Features};
use super::head::{Head, Prediction};
use crate::nn::{Builder, Observer, unobserved};
use crate::runtime::Runtime;
use crate::{Error, Result};

/// MASt3R or DuneMASt3R: two views to points, confidences and descriptors.
#[derive(Clone, Debug)]
pub struct Mast3r {
    extractor: FeatureExtractor,
    decoder: Decoder,
    heads: [Head; 2],
    runtime: Runtime,
}

/// What the network says of a pair of views.
#[derive(Clone, Debug)]
pub struct PairPrediction {
    /// Of the first view.
    pub first: Prediction,
    /// Of the second view, its points in the first view's camera frame.
    pub second_in_first: Prediction,
}

impl PairPrediction {
    /// One prediction of a batch.
    ///
    /// # Errors
    /// Of a batch that has none of this index.
    pub fn one(&self, index: usize) -> candle_core::Result<Self> {
        let one = |of: &Prediction| {
            Ok::<_, candle_core::Error>(Prediction {
                points: of.points.narrow(0, index, 1)?,
                confidence: of.confidence.narrow(0, index, 1)?,
                descriptors: of.descriptors.narrow(0, index, 1)?,
                descriptor_confidence: of.descriptor_confidence.narrow(0, index, 1)?,
            })
        };
        Ok(Self {
            first: one(&self.first)?,
            second_in_first: one(&self.second_in_first)?,
        })
    }
}

/// What the decoder says of a pair of views: what the heads read.
#[derive(Clone, Debug)]
pub struct DecoderTokens {
    /// Of each view the hooked entries of the token list, `(batch, rows * columns, channels)`.
    tokens: [[Tensor; 4]; 2],
    /// Of each view the rows and columns of patches.
    grids: [[usize; 2]; 2],
}

impl Mast3r {
    /// The network that `config` describes, from `vb`.
    ///
    /// # Errors
    /// [`Error::Usage`] if `config` is an encoder alone, [`Error::Tensor`] if a tensor is missing
    /// or misshapen.
    pub fn new(config: &Config, vb: &VarBuilder, runtime: &Runtime) -> Result<Self> {
        let Some(two_view) = &config.two_view else {
            return Err(Error::Usage(
                "this network is an encoder alone and predicts no points".into(),
            ));
        };
        let builder = Builder::new(vb.clone(), runtime.optimisations());
        let prefix = config.decoder_prefix().trim_end_matches('.');
        let decoder_vb = if prefix.is_empty() {
            builder
        } else {
            builder.pp(prefix)
        };
        let heads_vb = decoder_vb.in_float32();
        let head = |view: usize| {
            let vb = heads_vb.pp(format!("downstream_head{view}"));
            Head::new(view, config, &two_view.head, two_view.decoder.dim, vb)
        };
        Ok(Self {
            extractor: FeatureExtractor::new(config, vb, runtime)?,
            decoder: Decoder::new(config.encoder.stack.dim, two_view, decoder_vb)?,
            heads: [head(1)?, head(2)?],
            runtime: runtime.clone(),
        })
    }

    /// Where and how it runs.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The encoder.
    pub fn extractor(&self) -> &FeatureExtractor {
        &self.extractor
    }

    /// Predicts a pair from its views' features; both of one batch size, their grids may differ.
    pub fn decode(&self, first: &Features, second: &Features) -> Result<PairPrediction> {
        Ok(self.decode_observed(first, second, &mut unobserved())?)
    }

    /// As [`Mast3r::decode`] for several pairs. On a GPU those whose views have the same grids are
    /// decoded together, `most` at a time at most; a CPU decodes one at a time, because together
    /// they would fall out of its caches.
    pub fn decode_all(&self, pairs: &[[&Features; 2]], most: usize) -> Result<Vec<PairPrediction>> {
        let most = if self.runtime.device().is_cpu() {
            1
        } else {
            most.max(1)
        };
        let mut predictions: Vec<Option<PairPrediction>> = pairs.iter().map(|_| None).collect();
        for at in 0..pairs.len() {
            if predictions[at].is_some() {
                continue;
            }
            let grids = pairs[at].map(|view| view.grid);
            let alike =
                (at..pairs.len()).filter(|&other| pairs[other].map(|view| view.grid) == grids);
            let group: Vec<usize> = alike.take(most).collect();
            let joined = |view: usize| -> Result<Features> {
                let tokens: Vec<&Tensor> = group
                    .iter()
                    .map(|&pair| &pairs[pair][view].tokens)
                    .collect();
                Ok(Features {
                    tokens: Tensor::cat(&tokens, 0)?,
                    grid: grids[view],
                })
            };
            let predicted = self.decode(&joined(0)?, &joined(1)?)?;
            for (index, pair) in group.into_iter().enumerate() {
                predictions[pair] = Some(predicted.one(index)?);
            }
        }
        Ok(predictions.into_iter().flatten().collect())
    }

    /// As [`Mast3r::decode`], showing every intermediate result to `observe`, named with the view's
    /// number at the end.
    pub fn decode_observed(
        &self,
        first: &Features,
        second: &Features,
        observe: &mut Observer<'_>,
    ) -> candle_core::Result<PairPrediction> {
        let tokens = self.decoder_tokens(first, second, observe)?;
        self.predict(&tokens, observe)
    }

    /// The decoder alone.
    pub fn decoder_tokens(
        &self,
        first: &Features,
        second: &Features,
        observe: &mut Observer<'_>,
    ) -> candle_core::Result<DecoderTokens> {
        let tokens = self.decoder.forward(
            GridTokens {
                tokens: &first.tokens,
                grid: first.grid,
            },
            GridTokens {
                tokens: &second.tokens,
                grid: second.grid,
            },
            observe,
        )?;
        Ok(DecoderTokens {
            tokens,
            grids: [first.grid, second.grid],
        })
    }

    /// The heads alone.
    pub fn predict(
        &self,
        decoded: &DecoderTokens,
        observe: &mut Observer<'_>,
    ) -> candle_core::Result<PairPrediction> {
        let mut of_view = |view: usize| {
            let mut observe = observe.of_view(view + 1);
            self.heads[view].forward(&decoded.tokens[view], decoded.grids[view], &mut observe)
        };
        Ok(PairPrediction {
            first: of_view(0)?,
            second_in_first: of_view(1)?,
        })
    }
}
