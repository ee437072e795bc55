//! The two-view networks: MASt3R and DuneMASt3R.

use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::config::Config;
use super::decoder::{Decoder, GridTokens, Hooked};
use super::features::{FeatureExtractor, Features};
use super::head::{Head, Prediction};
use crate::nn::{Builder, Captured, Observer, unobserved};
use crate::runtime::Runtime;
use crate::{Error, Result};

/// MASt3R or DuneMASt3R: two views to points, confidences and descriptors.
#[derive(Clone, Debug)]
pub struct Mast3r {
    extractor: FeatureExtractor,
    decoder: Decoder,
    heads: [Head; 2],
    /// The same heads as one, where the device gains by it.
    both_heads: Option<Head>,
    runtime: Runtime,
    captured: Arc<Captured>,
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
        Ok(Self {
            first: self.first.narrow(index, 1)?,
            second_in_first: self.second_in_first.narrow(index, 1)?,
        })
    }
}

impl PairPrediction {
    fn into_tensors(self) -> Vec<Tensor> {
        let maps = |of: Prediction| {
            [
                of.points,
                of.confidence,
                of.descriptors,
                of.descriptor_confidence,
            ]
        };
        [maps(self.first), maps(self.second_in_first)].concat()
    }

    fn from_tensors(tensors: Vec<Tensor>) -> candle_core::Result<Self> {
        let mut tensors = tensors.into_iter();
        let mut next = || {
            let missing = || candle_core::Error::Msg("a pair has eight maps".into());
            tensors.next().ok_or_else(missing)
        };
        let mut view = || {
            Ok::<_, candle_core::Error>(Prediction {
                points: next()?,
                confidence: next()?,
                descriptors: next()?,
                descriptor_confidence: next()?,
            })
        };
        Ok(Self {
            first: view()?,
            second_in_first: view()?,
        })
    }
}

/// What the decoder says of a pair of views: what the heads read.
#[derive(Clone, Debug)]
pub struct DecoderTokens {
    tokens: Hooked,
    /// Of each view the rows and columns of patches.
    grids: [[usize; 2]; 2],
}

impl DecoderTokens {
    /// Of the first view's four, then the second's.
    fn new(tokens: Vec<Tensor>, grids: [[usize; 2]; 2]) -> candle_core::Result<Self> {
        match <[Tensor; 8]>::try_from(tokens) {
            Ok([a, b, c, d, e, f, g, h]) => Ok(Self {
                tokens: Hooked::Apart([[a, b, c, d], [e, f, g, h]]),
                grids,
            }),
            Err(tokens) => candle_core::bail!("{} token lists in place of eight", tokens.len()),
        }
    }
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
        let builder =
            Builder::new(vb.clone(), runtime.optimisations()).in_precision(runtime.precision());
        let prefix = config.decoder_prefix().trim_end_matches('.');
        let decoder_vb = if prefix.is_empty() {
            builder
        } else {
            builder.pp(prefix)
        };
        let heads_vb = decoder_vb.in_float32();
        let of_view = |view: usize| heads_vb.pp(format!("downstream_head{view}"));
        let head = |view, vb| Head::new(view, config, &two_view.head, two_view.decoder.dim, vb);
        let (heads, both_heads) = if decoder_vb.batches_views() {
            let both = head(0, Builder::both(&of_view(1), &of_view(2)))?;
            ([both.of_view(0)?, both.of_view(1)?], Some(both))
        } else {
            ([head(1, of_view(1))?, head(2, of_view(2))?], None)
        };
        Ok(Self {
            extractor: FeatureExtractor::new(config, vb, runtime)?,
            decoder: Decoder::new(config.encoder.stack.dim, two_view, decoder_vb)?,
            heads,
            both_heads,
            runtime: runtime.clone(),
            captured: Arc::default(),
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
        let grids = [first.grid, second.grid];
        let pass = |inputs: &[Tensor]| {
            let tokens = self.decoded([&inputs[0], &inputs[1]], grids, &mut unobserved())?;
            Ok(self.predicted(&tokens, &mut unobserved())?.into_tensors())
        };
        let inputs = [&first.tokens, &second.tokens];
        let maps = self
            .captured
            .run("decoder and heads", &self.runtime, &inputs, &grids, pass)?;
        Ok(PairPrediction::from_tensors(maps)?)
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
        let tokens = [&first.tokens, &second.tokens];
        let decoded = self.decoded(tokens, [first.grid, second.grid], observe)?;
        self.predicted(&decoded, observe)
    }

    /// The decoder alone.
    pub fn decoder_tokens(
        &self,
        first: &Features,
        second: &Features,
        observe: &mut Observer<'_>,
    ) -> candle_core::Result<DecoderTokens> {
        let (inputs, grids) = ([&first.tokens, &second.tokens], [first.grid, second.grid]);
        if observe.looks() {
            return self.decoded(inputs, grids, observe);
        }
        let pass = |inputs: &[Tensor]| {
            let decoded = self.decoded([&inputs[0], &inputs[1]], grids, &mut unobserved())?;
            Ok(decoded.tokens.apart()?.concat())
        };
        let tokens = self
            .captured
            .run("decoder", &self.runtime, &inputs, &grids, pass)?;
        DecoderTokens::new(tokens, grids)
    }

    fn decoded(
        &self,
        tokens: [&Tensor; 2],
        grids: [[usize; 2]; 2],
        observe: &mut Observer<'_>,
    ) -> candle_core::Result<DecoderTokens> {
        let view = |index: usize| GridTokens {
            tokens: tokens[index],
            grid: grids[index],
        };
        let tokens = self.decoder.forward(view(0), view(1), observe)?;
        Ok(DecoderTokens { tokens, grids })
    }

    /// The heads alone.
    pub fn predict(
        &self,
        decoded: &DecoderTokens,
        observe: &mut Observer<'_>,
    ) -> candle_core::Result<PairPrediction> {
        if observe.looks() {
            return self.predicted(decoded, observe);
        }
        let grids = decoded.grids;
        let pass = |inputs: &[Tensor]| {
            let decoded = DecoderTokens::new(inputs.to_vec(), grids)?;
            Ok(self.predicted(&decoded, &mut unobserved())?.into_tensors())
        };
        let tokens = decoded.tokens.clone().apart()?.concat();
        let inputs: Vec<&Tensor> = tokens.iter().collect();
        let maps = self
            .captured
            .run("heads", &self.runtime, &inputs, &grids, pass)?;
        PairPrediction::from_tensors(maps)
    }

    fn predicted(
        &self,
        decoded: &DecoderTokens,
        observe: &mut Observer<'_>,
    ) -> candle_core::Result<PairPrediction> {
        let [grid, second_grid] = decoded.grids;
        if let Some(head) = &self.both_heads
            && grid == second_grid
            && !observe.looks()
        {
            let tokens = decoded.tokens.clone().both()?;
            let maps = head.forward(&tokens, grid, &mut unobserved())?;
            let half = maps.points.dim(0)? / 2;
            return Ok(PairPrediction {
                first: maps.narrow(0, half)?,
                second_in_first: maps.narrow(half, half)?,
            });
        }
        let tokens = decoded.tokens.clone().apart()?;
        let mut of_view = |view: usize| {
            let mut observe = observe.of_view(view + 1);
            self.heads[view].forward(&tokens[view], decoded.grids[view], &mut observe)
        };
        Ok(PairPrediction {
            first: of_view(0)?,
            second_in_first: of_view(1)?,
        })
    }
}
