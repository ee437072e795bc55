//! The dense prediction head: four levels of tokens fused into one map at the image's size.

use candle_core::{Result, Tensor};
use custom_ops::{plain, upsample_bilinear2d, upsample_bilinear2d_onto};

use super::passes::{gathered, sum};
use super::{Builder, Conv3x3, Linear, Observer, PixelShuffleConv, StridedConv3x3, work};
use crate::runtime::Optimisation;

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
    upsample: Upsample,
}

/// `x + conv2(relu(conv1(relu(x))))`.
#[derive(Clone, Debug)]
struct ResidualUnit {
    conv1: Conv3x3,
    conv2: Conv3x3,
}

impl ResidualUnit {
    fn new(features: usize, vb: Builder<'_>) -> Result<Self> {
        Ok(Self {
            conv1: Conv3x3::new(features, features, vb.pp("conv1"))?,
            conv2: Conv3x3::new(features, features, vb.pp("conv2"))?,
        })
    }

    fn of_view(&self, view: usize) -> Result<Self> {
        Ok(Self {
            conv1: self.conv1.of_view(view)?,
            conv2: self.conv2.of_view(view)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.conv1.ends_with_relu() {
            let inner = self.conv1.forward_between_relus(x)?;
            return self.conv2.forward_onto(x, &inner);
        }
        self.conv2
            .forward_after_relu_onto(x, &self.conv1.forward_after_relu(x)?)
    }
}

/// One step of the fusion.
#[derive(Clone, Debug)]
pub(crate) struct Refine {
    /// Absent at the coarsest level, which has nothing to be added to.
    unit1: Option<ResidualUnit>,
    unit2: ResidualUnit,
    out_conv: Linear,
    /// A 1x1 convolution and an interpolation commute: before it there are a quarter of the pixels.
    project_first: bool,
    upsample: Upsample,
}

impl Refine {
    pub(crate) fn new(features: usize, coarsest: bool, vb: Builder<'_>) -> Result<Self> {
        let unit1 = (!coarsest)
            .then(|| ResidualUnit::new(features, vb.pp("resConfUnit1")))
            .transpose()?;
        Ok(Self {
            unit1,
            unit2: ResidualUnit::new(features, vb.pp("resConfUnit2"))?,
            out_conv: Linear::conv1x1(features, features, vb.pp("out_conv"))?,
            project_first: vb.has(Optimisation::EarlyProjection),
            upsample: Upsample::new(&vb),
        })
    }

    fn of_view(&self, view: usize) -> Result<Self> {
        let unit1 = self.unit1.as_ref().map(|unit| unit.of_view(view));
        Ok(Self {
            unit1: unit1.transpose()?,
            unit2: self.unit2.of_view(view)?,
            out_conv: self.out_conv.of_view(view)?,
            ..*self
        })
    }

    /// `coarser` is the previous step's result, at this level's size; the result has `size` rows
    /// and columns.
    pub(crate) fn forward(
        &self,
        coarser: Option<&Tensor>,
        level: &Tensor,
        [height, width]: [usize; 2],
    ) -> Result<Tensor> {
        let mut x = level.clone();
        if let Some(unit1) = &self.unit1 {
            x = unit1.forward(level)?;
        }
        if let Some(coarser) = coarser {
            x = sum(&x, coarser)?;
        }
        let x = self.unit2.forward(&x)?;
        let enlarged = |x: &Tensor| self.upsample.forward(x, height, width);
        if self.project_first {
            enlarged(&self.out_conv.forward(&x)?)
        } else {
            self.out_conv.forward(&enlarged(&x)?)
        }
    }
}

/// Bilinear, corners aligned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upsample {
    channels_last: bool,
}

impl Upsample {
    pub(crate) fn new(vb: &Builder<'_>) -> Self {
        Self {
            channels_last: vb.has(Optimisation::ChannelsLastUpsample),
        }
    }

    /// `base` `(1, height, width, channels)` and `x` at its size.
    pub(crate) fn forward_onto(self, base: &Tensor, x: &Tensor) -> Result<Tensor> {
        let (_, height, width, _) = base.dims4()?;
        if !self.channels_last {
            return self.forward(x, height, width)?.broadcast_add(base);
        }
        let _span = Self::span(x, height, width, work::bytes(base)).entered();
        upsample_bilinear2d_onto(base, x, true)
    }

    fn span(x: &Tensor, height: usize, width: usize, more: u64) -> tracing::Span {
        let sides = x.dim(1).unwrap_or(1) * x.dim(2).unwrap_or(1);
        let outputs = || work::elements(x) / sides.max(1) as u64 * (height * width) as u64;
        let bytes = || work::bytes(x) + more + outputs() * x.dtype().size_in_bytes() as u64;
        tracing::trace_span!(
            "upsample",
            flop = work::UPSAMPLE * outputs(),
            bytes = bytes()
        )
    }

    pub(crate) fn forward(self, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        let _span = Self::span(x, height, width, 0).entered();
        if self.channels_last {
            upsample_bilinear2d(x, height, width, true)
        } else {
            plain::upsample_bilinear2d(x, height, width, true)
        }
    }
}

impl Dpt {
    /// Reads `act_postprocess.*`, `scratch.*` and `head.*`.
    pub fn new(dims: &DptDims, vb: Builder<'_>) -> Result<Self> {
        let act = vb.pp("act_postprocess");
        let scratch = vb.pp("scratch");
        let adapt = |k: usize| Linear::conv1x1(dims.inputs[k], dims.levels[k], act.pp(k).pp(0));
        let project = |k: usize| {
            Conv3x3::without_bias(
                dims.levels[k],
                dims.features,
                scratch.pp(format!("layer{}_rn", k + 1)),
            )
        };
        let refine =
            |k: usize| Refine::new(dims.features, k == 4, scratch.pp(format!("refinenet{k}")));
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
            upsample: Upsample::new(&vb),
        })
    }

    /// The head of one view of a head of both.
    pub(crate) fn of_view(&self, view: usize) -> Result<Self> {
        let [a, b, c, d] = &self.adapt;
        let [e, f, g, h] = &self.project;
        let [i, j, k, l] = &self.refine;
        let linear = |layer: &Linear| layer.of_view(view);
        let conv = |layer: &Conv3x3| layer.of_view(view);
        let refine = |step: &Refine| step.of_view(view);
        Ok(Self {
            adapt: [linear(a)?, linear(b)?, linear(c)?, linear(d)?],
            open4: self.open4.of_view(view)?,
            open2: self.open2.of_view(view)?,
            shrink: self.shrink.of_view(view)?,
            project: [conv(e)?, conv(f)?, conv(g)?, conv(h)?],
            refine: [refine(i)?, refine(j)?, refine(k)?, refine(l)?],
            head0: conv(&self.head0)?,
            head2: conv(&self.head2)?,
            head4: linear(&self.head4)?,
            upsample: self.upsample,
        })
    }

    /// `tokens` are four lists `(batch, rows * columns, channels)` over a `grid` of `[rows,
    /// columns]`. Returns `(batch, height, width, output)`, float32.
    pub fn forward(
        &self,
        tokens: [&Tensor; 4],
        grid: [usize; 2],
        size: [usize; 2],
        observe: &mut Observer<'_>,
    ) -> Result<Tensor> {
        let _span = tracing::debug_span!("dpt").entered();
        let levels = self.levels(tokens, grid)?;
        let projected = self.projected(levels, observe)?;
        let fused = self.fused(&projected, observe)?;
        drop(projected);
        let _span = tracing::debug_span!("dpt_stage", stage = "output").entered();
        let x = self.head0.forward(&fused)?;
        drop(fused);
        observe.see("dpt.head0", &x)?;
        let x = self.upsample.forward(&x, size[0], size[1])?;
        observe.see("dpt.head_up", &x)?;
        let x = self.head4.forward_wide(&self.head2.forward_relu(&x)?)?;
        observe.see("dpt.out", &x)?;
        Ok(x)
    }

    /// The token lists as maps of four sizes, fine to coarse.
    fn levels(&self, tokens: [&Tensor; 4], grid: [usize; 2]) -> Result<[Tensor; 4]> {
        let _span = tracing::debug_span!("dpt_stage", stage = "act").entered();
        let adapted = |k: usize| {
            let (batch, _, channels) = tokens[k].dims3()?;
            self.adapt[k].forward(&tokens[k].reshape((batch, grid[0], grid[1], channels))?)
        };
        Ok([
            self.open4.forward(&adapted(0)?)?,
            self.open2.forward(&adapted(1)?)?,
            adapted(2)?,
            self.shrink.forward(&adapted(3)?)?,
        ])
    }

    /// The levels with the channels of the fusion.
    fn projected(&self, levels: [Tensor; 4], observe: &mut Observer<'_>) -> Result<Vec<Tensor>> {
        let _span = tracing::debug_span!("dpt_stage", stage = "project").entered();
        let mut projected = Vec::with_capacity(4);
        for (k, level) in levels.iter().enumerate() {
            observe.see(format_args!("dpt.act.{k}"), level)?;
            projected.push(self.project[k].forward(level)?);
            observe.see(format_args!("dpt.rn.{k}"), &projected[k])?;
        }
        Ok(projected)
    }

    /// The levels from coarse to fine in one map.
    fn fused(&self, projected: &[Tensor], observe: &mut Observer<'_>) -> Result<Tensor> {
        let mut fused: Option<Tensor> = None;
        for ((refine, stage), k) in self.refine.iter().zip(REFINE).zip((0..4).rev()) {
            let _span = tracing::debug_span!("dpt_stage", stage).entered();
            let level = &projected[k];
            // The coarsest level has ceil(n / 2) pixels a side: doubled, it may be one too large.
            let (_, height, width, _) = level.dims4()?;
            let coarser = fused
                .map(|x| gathered(&x.narrow(1, 0, height)?.narrow(2, 0, width)?))
                .transpose()?;
            let x = refine.forward(coarser.as_ref(), level, [2 * height, 2 * width])?;
            observe.see(format_args!("dpt.fuse.{}", k + 1), &x)?;
            fused = Some(x);
        }
        let Some(fused) = fused else {
            candle_core::bail!("a DPT has four levels")
        };
        Ok(fused)
    }
}

/// The steps of the fusion as traces call them.
const REFINE: [&str; 4] = ["refine4", "refine3", "refine2", "refine1"];
