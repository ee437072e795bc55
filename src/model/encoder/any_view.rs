//! Depth Anything 3's encoder: DINOv2's, whose later blocks attend in turn to the tokens of one
//! view and to those of all views.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};

use super::croco::ROPE_BASE;
use super::position::StoredPositions;
use crate::model::config::{AnyViewConfig, EncoderConfig, Stack};
use crate::nn::passes::{gathered, joined};
use crate::nn::{Builder, EncoderBlock, LayerNorm, Observer, PatchEmbed, Rope, Ropes};
use crate::runtime::Optimisation;

/// Epsilon of the final norm, PyTorch's default; that of blocks is 1e-6.
const NORM_EPS: f32 = 1e-5;

/// Which view of three or more is the reference, whose camera token differs from the others'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReferenceChoice {
    /// The one whose class token is in the middle of the others' by three measures: similarity,
    /// length and variance.
    #[default]
    Balanced,
    /// The first.
    First,
    /// That of index `views / 2`.
    Middle,
}

/// Tokens that the encoder makes of the views of a scene.
#[derive(Clone, Debug)]
pub struct AnyViewTokens {
    /// Four lists of patch tokens, each `(views, rows * columns, 2 dim)`: of a local block, then of
    /// the block after it, the latter normalised.
    pub levels: [Tensor; 4],
    /// `(views, 2 dim)`: the last level's first token, not normalised.
    pub cameras: Tensor,
    /// Rows and columns of patches.
    pub grid: [usize; 2],
}

/// Depth Anything 3's encoder.
#[derive(Clone, Debug)]
pub struct AnyViewEncoder {
    patch_embed: PatchEmbed,
    /// `(1, 1, dim)`.
    class_token: Tensor,
    /// `(1, 2, dim)`: of the reference view, and of all others.
    camera_tokens: Tensor,
    positions: StoredPositions,
    blocks: Vec<EncoderBlock>,
    norm: LayerNorm,
    ropes: Ropes,
    /// Of the views and the grid met last, if they are to be kept. Clones share them.
    kept: Option<Arc<Mutex<Option<Rotations>>>>,
    alternate_from: usize,
    hooks: [usize; 4],
}

/// The rotations for a number of views with one patch grid.
#[derive(Clone, Debug)]
struct Rotations {
    views: usize,
    grid: [usize; 2],
    local: Rope,
    global: Rope,
}

impl AnyViewEncoder {
    /// Reads `patch_embed.*`, `cls_token`, `camera_token`, `pos_embed`, `blocks.*` and `norm.*`.
    pub fn new(config: &EncoderConfig, any_view: &AnyViewConfig, vb: Builder<'_>) -> Result<Self> {
        let Stack {
            depth,
            dim,
            heads,
            mlp_dim,
        } = config.stack;
        let block = |i: usize| {
            let vb = vb.pp("blocks").pp(i);
            let block = EncoderBlock::new(dim, heads, mlp_dim, true, vb.clone())?;
            if i < any_view.alternate_from {
                Ok(block)
            } else {
                block.with_head_norms(dim, vb)
            }
        };
        let activations = |shape: (usize, usize, usize), name: &str| {
            vb.float32(shape, name)?.to_dtype(vb.activations())
        };
        Ok(Self {
            patch_embed: PatchEmbed::new(config.patch, dim, vb.pp("patch_embed"))?,
            class_token: activations((1, 1, dim), "cls_token")?,
            camera_tokens: activations((1, 2, dim), "camera_token")?,
            positions: StoredPositions::new(any_view.position_grid, dim, &vb)?,
            blocks: (0..depth).map(block).collect::<Result<_>>()?,
            norm: LayerNorm::new(dim, NORM_EPS, vb.pp("norm"))?,
            ropes: Ropes::new(dim / heads.max(1), ROPE_BASE, &vb),
            kept: vb.has(Optimisation::KeptPositions).then(Arc::default),
            alternate_from: any_view.alternate_from,
            hooks: any_view.hooks,
        })
    }

    /// The tokens of all views of a scene: of ImageNet-normalised `images` `(views, 3, height,
    /// width)`.
    ///
    /// `cameras` `(views, dim)` are the tokens of given cameras; without them one view is the
    /// reference: the first of one or two, of more the one that `reference` chooses.
    pub fn forward(
        &self,
        images: &Tensor,
        cameras: Option<&Tensor>,
        reference: ReferenceChoice,
        observe: &mut Observer<'_>,
    ) -> Result<AnyViewTokens> {
        let x = self.started(images, observe)?;
        let order = match cameras {
            None => self.order(&x, reference, observe)?,
            Some(_) => None,
        };
        let start = match (cameras, &order) {
            (Some(cameras), _) => Start::Given(cameras),
            (None, Some(Order { views, places })) => Start::Chosen { views, places },
            (None, None) => Start::First,
        };
        self.finished(&x, self.grid(images)?, start, observe)
    }

    /// `(batch, 3, height, width)` to the last level's tokens `(batch, rows * columns, 2 dim)`, each
    /// image being a scene of its own.
    pub fn features(&self, images: &Tensor, observe: &mut Observer<'_>) -> Result<Tensor> {
        let x = self.started(images, observe)?;
        let tokens = self.finished(&x, self.grid(images)?, Start::Apart, observe)?;
        let [.., last] = tokens.levels;
        Ok(last)
    }

    /// The tokens `(views, 1 + rows * columns, dim)` of each view after the blocks before the
    /// reference is chosen.
    pub(crate) fn started(&self, images: &Tensor, observe: &mut Observer<'_>) -> Result<Tensor> {
        let grid = self.patch_embed.grid(images)?;
        let patches = self.patch_embed.forward(images)?;
        observe.see("vit.patch_embed", &patches)?;
        let mut x = self.positions.tokens(
            &self.class_token,
            None,
            patches,
            grid,
            "vit.pos_embed",
            observe,
        )?;
        observe.see("vit.tokens", &x)?;
        for (i, block) in self.blocks[..self.choice()].iter().enumerate() {
            let _span = tracing::debug_span!("enc_block", index = i).entered();
            x = block.forward(&x, None)?;
            observe.see(format_args!("vit.block{i}"), &x)?;
        }
        Ok(x)
    }

    /// Rows and columns of patches of images `(views, 3, height, width)`.
    pub(crate) fn grid(&self, images: &Tensor) -> Result<[usize; 2]> {
        self.patch_embed.grid(images)
    }

    /// The block before which the reference is chosen.
    fn choice(&self) -> usize {
        self.alternate_from - 1
    }

    /// The rest of [`AnyViewEncoder::forward`], of what is [started](AnyViewEncoder::started).
    /// `start` says which view is the reference, of several in one scene without given cameras.
    pub(crate) fn finished(
        &self,
        started: &Tensor,
        grid: [usize; 2],
        start: Start<'_>,
        observe: &mut Observer<'_>,
    ) -> Result<AnyViewTokens> {
        let (views, tokens, dim) = started.dims3()?;
        let together = !matches!(start, Start::Apart);
        let rotations = self.rotations(if together { views } else { 1 }, grid)?;
        let (mut x, places) = match start {
            Start::Chosen { views, places } => {
                (gathered(started)?.index_select(views, 0)?, Some(places))
            }
            _ => (started.clone(), None),
        };
        let mut local = x.clone();
        let (mut levels, mut camera_features) = (Vec::with_capacity(4), None);
        for (i, block) in self.blocks.iter().enumerate().skip(self.choice()) {
            let _span = tracing::debug_span!("enc_block", index = i).entered();
            if i == self.alternate_from {
                let first = match start {
                    Start::Given(cameras) => cameras.to_dtype(x.dtype())?.unsqueeze(1)?,
                    _ => self.camera_tokens(views, together)?,
                };
                x = joined(&[&first, &x.narrow(1, 1, tokens - 1)?], 1)?;
            }
            let rotated = i >= self.alternate_from;
            if rotated && i % 2 == 1 {
                let scene = if together { 1 } else { views };
                let all = x.reshape((scene, (), dim))?;
                x = block
                    .forward(&all, Some(&rotations.global))?
                    .reshape((views, tokens, dim))?;
            } else {
                x = block.forward(&x, rotated.then_some(&rotations.local))?;
                local = x.clone();
            }
            observe.see(format_args!("vit.block{i}"), &x)?;
            let in_order = |x: &Tensor| match places {
                Some(places) => gathered(x)?.index_select(places, 0),
                None => gathered(x),
            };
            for _ in self.hooks.iter().filter(|hook| **hook == i) {
                let both = in_order(&joined(&[&local, &self.norm.forward(&x)?], 2)?)?;
                let level = gathered(&both.narrow(1, 1, tokens - 1)?)?;
                observe.see(format_args!("vit.out.{}", levels.len()), &level)?;
                levels.push(level);
                let firsts = [local.narrow(1, 0, 1)?, x.narrow(1, 0, 1)?];
                let firsts = joined(&[&firsts[0], &firsts[1]], 2)?.squeeze(1)?;
                camera_features = Some(in_order(&firsts)?);
            }
        }
        let (Ok(levels), Some(cameras)) = (<[Tensor; 4]>::try_from(levels), camera_features) else {
            candle_core::bail!("an any-view encoder takes out four levels")
        };
        observe.see("vit.cam", &cameras)?;
        Ok(AnyViewTokens {
            levels,
            cameras,
            grid,
        })
    }

    /// The first tokens `(views, 1, dim)` where no cameras are given: those of a scene's first view
    /// and of all others, or of scenes of one view.
    fn camera_tokens(&self, views: usize, together: bool) -> Result<Tensor> {
        let token = |index: usize| self.camera_tokens.narrow(1, index, 1);
        if !together {
            return token(0)?.repeat((views, 1, 1));
        }
        if views == 1 {
            return token(0);
        }
        Tensor::cat(&[token(0)?, token(1)?.repeat((views - 1, 1, 1))?], 0)
    }

    fn rotations(&self, views: usize, grid: [usize; 2]) -> Result<Rotations> {
        let make = || {
            let [rows, columns] = grid;
            let of_view = |patch: &dyn Fn(usize) -> [f32; 2]| {
                let patches: Vec<[f32; 2]> = (0..rows * columns).map(patch).collect();
                [&[[0.0; 2]][..], &patches].concat()
            };
            let local = of_view(&|at| [(at / columns + 1) as f32, (at % columns + 1) as f32]);
            // Among all views patches are told from camera tokens alone.
            let global = of_view(&|_| [1.0; 2]).repeat(views);
            Ok::<_, candle_core::Error>(Rotations {
                views,
                grid,
                local: self.ropes.at(&local)?,
                global: self.ropes.at(&global)?,
            })
        };
        let Some(kept) = &self.kept else {
            return make();
        };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let rotations = match &*kept {
            Some(known) if (known.views, known.grid) == (views, grid) => known.clone(),
            _ => kept.insert(make()?).clone(),
        };
        rotations.local.keep_captured();
        rotations.global.keep_captured();
        Ok(rotations)
    }

    /// The reference before the other views, if it is to be chosen among the views of `x`: of one or
    /// two it is the first.
    pub(crate) fn order(
        &self,
        x: &Tensor,
        reference: ReferenceChoice,
        observe: &mut Observer<'_>,
    ) -> Result<Option<Order>> {
        let views = x.dim(0)?;
        if views < 3 {
            return Ok(None);
        }
        let chosen = match reference {
            ReferenceChoice::First => 0,
            ReferenceChoice::Middle => views / 2,
            ReferenceChoice::Balanced => {
                let classes: Vec<Vec<f32>> = x
                    .narrow(1, 0, 1)?
                    .squeeze(1)?
                    .to_dtype(DType::F32)?
                    .to_vec2()?;
                let measures = measures(&classes);
                observe.see_made("ref.scores", || {
                    Tensor::new(measures.concat(), &Device::Cpu)?.reshape((4, views))
                })?;
                measures[3]
                    .iter()
                    .enumerate()
                    .min_by(|(_, a), (_, b)| a.total_cmp(b))
                    .map_or(0, |(view, _)| view)
            }
        };
        observe.see_made("ref.index", || Tensor::new(&[chosen as u32], &Device::Cpu))?;
        Order::new(chosen, views, x.device()).map(Some)
    }
}

/// Which of a scene's views the network looks at first.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    /// Each view is a scene of its own.
    Apart,
    /// The first one.
    First,
    /// The reference that was chosen: an [`Order`].
    Chosen {
        views: &'a Tensor,
        places: &'a Tensor,
    },
    /// None: there are tokens `(views, dim)` of given cameras.
    Given(&'a Tensor),
}

/// The views' order within the network.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// `(views)`: the view at each place, the reference first.
    pub(crate) views: Tensor,
    /// `(views)`: the place of each view.
    pub(crate) places: Tensor,
}

impl Order {
    fn new(first: usize, views: usize, device: &Device) -> Result<Self> {
        let place = |view: usize| match view.cmp(&first) {
            Ordering::Less => view + 1,
            Ordering::Equal => 0,
            Ordering::Greater => view,
        };
        let places: Vec<u32> = (0..views).map(|view| place(view) as u32).collect();
        let mut order: Vec<u32> = (0..views as u32).collect();
        order.sort_by_key(|&view| places[view as usize]);
        Ok(Self {
            views: Tensor::new(order, device)?,
            places: Tensor::new(places, device)?,
        })
    }
}

/// Of the class token of each view: mean similarity to the others, length, variance, and how far
/// the three are from the middle between the smallest and the largest.
fn measures(tokens: &[Vec<f32>]) -> [Vec<f64>; 4] {
    let lengths: Vec<f64> = tokens
        .iter()
        .map(|token| {
            token
                .iter()
                .map(|&x| f64::from(x).powi(2))
                .sum::<f64>()
                .sqrt()
        })
        .collect();
    let units: Vec<Vec<f64>> = tokens
        .iter()
        .zip(&lengths)
        .map(|(token, length)| token.iter().map(|&x| f64::from(x) / length).collect())
        .collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let others = (tokens.len() - 1) as f64;
    let similarities: Vec<f64> = units
        .iter()
        .map(|one| (units.iter().map(|other| dot(one, other)).sum::<f64>() - 1.0) / others)
        .collect();
    let variances: Vec<f64> = units
        .iter()
        .map(|unit| {
            let mean = unit.iter().sum::<f64>() / unit.len() as f64;
            let squares: f64 = unit.iter().map(|x| (x - mean).powi(2)).sum();
            squares / (unit.len() - 1) as f64
        })
        .collect();
    let measures = [similarities, lengths, variances];
    let mut distances = vec![0.0; tokens.len()];
    for measure in &measures {
        let least = measure.iter().copied().fold(f64::INFINITY, f64::min);
        let most = measure.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for (distance, value) in distances.iter_mut().zip(measure) {
            *distance += ((value - least) / (most - least + 1e-8) - 0.5).abs();
        }
    }
    let [a, b, c] = measures;
    [a, b, c, distances]
}
