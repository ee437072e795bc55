//! The dense prediction head: four levels of tokens fused into one map at the picture's size.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use custom_ops::upsample_bilinear2d;

use super::{Conv3x3, Linear, Observer, PixelShuffleConv, StridedConv3x3};

/// Dimensions of a [`Dpt`].
#[derive(Clone, Debug)]
pub struct DptDims {
    /// Channels of the four token lists it reads.
    pub inputs: [usize; 4],
    /// Channels of the four levels.
    pub levels: [usize; 4],
    /// Channels of the fusion.
    pub features: usize,
    /// Channels after the first output convolution.
    pub head: usize,
    /// Channels after the second.
    pub last: usize,
    /// Channels of the result.
    pub output: usize,
}

/// Tokens to a map: adapters, fusion from coarse to fine, output convolutions.
#[derive(Clone, Debug)]
pub struct Dpt {
    adapt: [Linear; 4],
    open4: PixelShuffleConv,
    open2: PixelShuffleConv,
    shrink: StridedConv3x3,
    project: [Conv3x3; 4],
    /// Coarse to fine: refinenet4 to refinenet1.
    refine: [Refine; 4],
    head0: Conv3x3,
    head2: Conv3x3,
    head4: Linear,
}

/// `x + conv2(relu(conv1(relu(x))))`.
#[derive(Clone, Debug)]
struct ResidualUnit {
    conv1: Conv3x3,
    conv2: Conv3x3,
}

impl ResidualUnit {
    fn new(features: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            conv1: Conv3x3::new(features, features, vb.pp("conv1"))?,
            conv2: Conv3x3::new(features, features, vb.pp("conv2"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.conv2.forward_after_relu_onto(x, &self.conv1.forward_after_relu(x)?)
    }
}

/// One step of the fusion.
#[derive(Clone, Debug)]
struct Refine {
    /// Absent at the coarsest level, which has nothing to be added to.
    unit1: Option<ResidualUnit>,
    unit2: ResidualUnit,
    out_conv: Linear,
}

impl Refine {
    fn new(features: usize, coarsest: bool, vb: VarBuilder) -> Result<Self> {
        let unit1 = (!coarsest).then(|| ResidualUnit::new(features, vb.pp("resConfUnit1"))).transpose()?;
        Ok(Self {
            unit1,
            unit2: ResidualUnit::new(features, vb.pp("resConfUnit2"))?,
            out_conv: Linear::conv1x1(features, features, vb.pp("out_conv"))?,
        })
    }

    /// `coarser` is the previous step's result, at this level's size.
    fn forward(&self, coarser: Option<&Tensor>, level: &Tensor) -> Result<Tensor> {
        let mut x = level.clone();
        if let Some(unit1) = &self.unit1 {
            x = unit1.forward(level)?;
        }
        if let Some(coarser) = coarser {
            x = (x + coarser)?;
        }
        let x = self.out_conv.forward(&self.unit2.forward(&x)?)?;
        // A 1x1 convolution and an interpolation commute: a quarter of the pixels before it.
        let (_, height, width, _) = x.dims4()?;
        upsampled(&x, 2 * height, 2 * width)
    }
}

fn upsampled(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let _span = tracing::trace_span!("upsample").entered();
    upsample_bilinear2d(x, height, width, true)
}

impl Dpt {
    /// Reads `act_postprocess.*`, `scratch.*` and `head.*`.
    pub fn new(dims: &DptDims, vb: VarBuilder) -> Result<Self> {
        let act = vb.pp("act_postprocess");
        let scratch = vb.pp("scratch");
        let adapt = |k: usize| Linear::conv1x1(dims.inputs[k], dims.levels[k], act.pp(k).pp(0));
        let project =
            |k: usize| Conv3x3::without_bias(dims.levels[k], dims.features, scratch.pp(format!("layer{}_rn", k + 1)));
        let refine = |k: usize| Refine::new(dims.features, k == 4, scratch.pp(format!("refinenet{k}")));
        let head = vb.pp("head");
        Ok(Self {
            adapt: [adapt(0)?, adapt(1)?, adapt(2)?, adapt(3)?],
            open4: PixelShuffleConv::new(dims.levels[0], dims.levels[0], 4, act.pp(0).pp(1))?,
            open2: PixelShuffleConv::new(dims.levels[1], dims.levels[1], 2, act.pp(1).pp(1))?,
            shrink: StridedConv3x3::new(dims.levels[3], dims.levels[3], act.pp(3).pp(1))?,
            project: [project(0)?, project(1)?, project(2)?, project(3)?],
            refine: [refine(4)?, refine(3)?, refine(2)?, refine(1)?],
            head0: Conv3x3::new(dims.features, dims.head, head.pp(0))?,
            head2: Conv3x3::new(dims.head, dims.last, head.pp(2))?,
            head4: Linear::conv1x1(dims.last, dims.output, head.pp(4))?,
        })
    }

    /// `tokens` are four lists `(batch, rows * columns, channels)` over a `grid` of `[rows, columns]`. Returns
    /// `(batch, height, width, output)`.
    pub fn forward(
        &self,
        tokens: [&Tensor; 4],
        grid: [usize; 2],
        size: [usize; 2],
        observe: &mut Observer<'_>,
    ) -> Result<Tensor> {
        let _span = tracing::trace_span!("dpt").entered();
        let adapted = |k: usize| {
            let (batch, _, channels) = tokens[k].dims3()?;
            self.adapt[k].forward(&tokens[k].reshape((batch, grid[0], grid[1], channels))?)
        };
        let levels = [
            self.open4.forward(&adapted(0)?)?,
            self.open2.forward(&adapted(1)?)?,
            adapted(2)?,
            self.shrink.forward(&adapted(3)?)?,
        ];
        let mut projected = Vec::with_capacity(4);
        for (k, level) in levels.iter().enumerate() {
            observe(&format!("dpt.act.{k}"), level)?;
            projected.push(self.project[k].forward(level)?);
            observe(&format!("dpt.rn.{k}"), &projected[k])?;
        }
        drop(levels);
        let mut fused: Option<Tensor> = None;
        for (refine, k) in self.refine.iter().zip((0..4).rev()) {
            let level = &projected[k];
            // The coarsest level has ceil(n / 2) pixels a side: doubled, it may be one too large.
            let (_, height, width, _) = level.dims4()?;
            let coarser = fused.map(|x| x.narrow(1, 0, height)?.narrow(2, 0, width)?.contiguous()).transpose()?;
            let x = refine.forward(coarser.as_ref(), level)?;
            observe(&format!("dpt.fuse.{}", k + 1), &x)?;
            fused = Some(x);
        }
        let Some(fused) = fused else { candle_core::bail!("a DPT has four levels") };
        drop(projected);
        let x = self.head0.forward(&fused)?;
        drop(fused);
        observe("dpt.head0", &x)?;
        let x = upsampled(&x, size[0], size[1])?;
        observe("dpt.head_up", &x)?;
        let x = self.head4.forward(&self.head2.forward_relu(&x)?)?;
        observe("dpt.out", &x)?;
        Ok(x)
    }
}
