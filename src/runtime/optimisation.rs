//! What makes the networks fast, each switchable on its own.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

use super::Precision;

/// One thing that the program does for speed alone. Without it the results are the same up to
/// rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimisation {
    /// Attention without a score matrix in memory; else a product, a softmax and a product over
    /// contiguous copies. In bfloat16 on the CPU the plain products are float32.
    FusedAttention,
    /// Layer norm in one op; else one for each step of its formula, in float32.
    FusedLayerNorm,
    /// The rotary embedding in one op that reads strided channels in place, queries and keys
    /// together; else products and sums over contiguous copies.
    FusedRope,
    /// Products of our own over packed weights, on the CPU; else Candle's, for which half-precision
    /// weights are stored as they are, float32 activations cast to their dtype and results cast
    /// back.
    PackedLinear,
    /// Bias, activation and residual as a product is written, or in one pass after a library's;
    /// else a pass each. On the CPU only our own products have such an end, and they add the bias
    /// always.
    FusedEpilogue,
    /// On CUDA the fastest of the library's kernels for a product, measured when a forward pass is
    /// captured, of those that give the same bits; else the one that the library suggests. Needs
    /// [`Self::CapturedGraphs`].
    MeasuredProducts,
    /// On GPUs a head's maps from its last numbers in one pass each; else an op for each step.
    FusedOutputs,
    /// 3x3 convolutions over channels-last maps; else Candle's `conv2d` between copies to channels
    /// first and back.
    ChannelsLastConv,
    /// 3x3 convolutions in half precision on Hopper GPUs by a kernel whose copies find the taps; else
    /// a product of gathered taps. Needs [`Self::ChannelsLastConv`].
    ImplicitConv,
    /// Resampling of channels-last maps; else Candle's between copies to channels first and back.
    ChannelsLastUpsample,
    /// The 1x1 convolution that ends a fusion step before its upsampling, on a quarter of the
    /// pixels; else after it.
    EarlyProjection,
    /// Keys and values of cross-attention from one product; else from two.
    StackedKeyValue,
    /// DUNE's layer scale multiplied into the weights; else an op after the product.
    FoldedLayerScale,
    /// Tables of rotations and resampled positions kept for the images to come; else made for
    /// each.
    KeptPositions,
    /// Float32 heads multiply as TF32 on CUDA where the precision is not float32.
    TensorFloat32Heads,
    /// Heads are reduced where the rest is. On CUDA they are float16 with sums in float32 where the
    /// precision is not float32: as many digits as TF32, and numbers beyond 65504 saturate; else as
    /// [`Self::TensorFloat32Heads`] says. On the CPU they are as the rest in bfloat16 and int8; else
    /// float32.
    HalfHeads,
    /// One CUDA stream for everything, without events between its tensors, and a memory pool that
    /// keeps what is freed; else Candle's default.
    OwnStream,
    /// On CUDA a forward pass of sizes met before is captured as a graph and replayed with one
    /// launch; else every kernel is launched each time. Needs [`Self::OwnStream`].
    CapturedGraphs,
    /// On GPUs both views' decoders and heads run as one batch over stacked weights, where the views
    /// have one size; else one view after the other. Needs [`Self::ChannelsLastConv`].
    BatchedViews,
    /// A GPU matches, where the descriptors are; else the host does.
    DeviceMatching,
}

impl Optimisation {
    /// All of them, in the order of tables.
    pub const ALL: &[Self] = &[
        Self::FusedAttention,
        Self::FusedLayerNorm,
        Self::FusedRope,
        Self::PackedLinear,
        Self::FusedEpilogue,
        Self::MeasuredProducts,
        Self::FusedOutputs,
        Self::ChannelsLastConv,
        Self::ImplicitConv,
        Self::ChannelsLastUpsample,
        Self::EarlyProjection,
        Self::StackedKeyValue,
        Self::FoldedLayerScale,
        Self::KeptPositions,
        Self::TensorFloat32Heads,
        Self::HalfHeads,
        Self::OwnStream,
        Self::CapturedGraphs,
        Self::BatchedViews,
        Self::DeviceMatching,
    ];

    /// The name on command lines and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::FusedAttention => "fused-attention",
            Self::FusedLayerNorm => "fused-layer-norm",
            Self::FusedRope => "fused-rope",
            Self::PackedLinear => "packed-linear",
            Self::FusedEpilogue => "fused-epilogue",
            Self::MeasuredProducts => "measured-products",
            Self::FusedOutputs => "fused-outputs",
            Self::ChannelsLastConv => "channels-last-conv",
            Self::ImplicitConv => "implicit-conv",
            Self::ChannelsLastUpsample => "channels-last-upsample",
            Self::EarlyProjection => "early-projection",
            Self::StackedKeyValue => "stacked-key-value",
            Self::FoldedLayerScale => "folded-layer-scale",
            Self::KeptPositions => "kept-positions",
            Self::TensorFloat32Heads => "tf32-heads",
            Self::HalfHeads => "half-heads",
            Self::OwnStream => "own-stream",
            Self::CapturedGraphs => "captured-graphs",
            Self::BatchedViews => "batched-views",
            Self::DeviceMatching => "device-matching",
        }
    }

    /// A few words for a table.
    pub fn title(self) -> &'static str {
        match self {
            Self::FusedAttention => "fused attention",
            Self::FusedLayerNorm => "fused layer norm",
            Self::FusedRope => "fused 2D rotary embedding",
            Self::PackedLinear => "products over packed weights",
            Self::FusedEpilogue => "bias, activation and residual fused into products",
            Self::MeasuredProducts => "the library's fastest kernels for products",
            Self::FusedOutputs => "a head's maps in one pass each",
            Self::ChannelsLastConv => "channels-last 3x3 convolutions",
            Self::ImplicitConv => "3x3 convolutions without gathered taps",
            Self::ChannelsLastUpsample => "channels-last upsampling",
            Self::EarlyProjection => "1x1 convolutions before upsampling",
            Self::StackedKeyValue => "keys and values from one product",
            Self::FoldedLayerScale => "layer scale folded into weights",
            Self::KeptPositions => "position tables kept between images",
            Self::TensorFloat32Heads => "TF32 in the heads",
            Self::HalfHeads => "heads in reduced precision",
            Self::OwnStream => "a CUDA stream and memory pool of our own",
            Self::CapturedGraphs => "forward passes captured as CUDA graphs",
            Self::BatchedViews => "both views as one batch",
            Self::DeviceMatching => "matching on the GPU",
        }
    }

    /// Whether it changes anything on `device` in `precision`, for a network that has the layers in
    /// question.
    pub fn applies(self, device: &Device, precision: Precision) -> bool {
        let reduced = if device.is_cpu() {
            matches!(precision, Precision::Bf16 | Precision::Int8)
        } else {
            precision != Precision::F32
        };
        let in_precision = match self {
            Self::TensorFloat32Heads | Self::HalfHeads | Self::ImplicitConv => reduced,
            _ => true,
        };
        in_precision && self.runs_on(device)
    }

    /// Whether there is such a thing on `device` at all.
    pub(crate) fn runs_on(self, device: &Device) -> bool {
        match self {
            Self::PackedLinear => device.is_cpu(),
            Self::HalfHeads => !device.is_metal(),
            Self::TensorFloat32Heads
            | Self::ImplicitConv
            | Self::MeasuredProducts
            | Self::OwnStream
            | Self::CapturedGraphs => device.is_cuda(),
            Self::FusedOutputs | Self::BatchedViews | Self::DeviceMatching => !device.is_cpu(),
            Self::FusedAttention
            | Self::FusedLayerNorm
            | Self::FusedRope
            | Self::FusedEpilogue
            | Self::ChannelsLastConv
            | Self::ChannelsLastUpsample
            | Self::EarlyProjection
            | Self::StackedKeyValue
            | Self::FoldedLayerScale
            | Self::KeptPositions => true,
        }
    }
}

impl fmt::Display for Optimisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Optimisation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .copied()
            .find(|optimisation| optimisation.name() == text)
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL
                    .iter()
                    .map(|optimisation| optimisation.name())
                    .collect();
                format!(
                    "unknown optimisation {text:?}; expected {}",
                    names.join(", ")
                )
            })
    }
}

/// A set of optimisations.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Optimisations {
    /// Bit `i` stands for the variant of discriminant `i`.
    bits: u32,
}

impl Optimisations {
    /// Every optimisation.
    pub const fn all() -> Self {
        Self {
            bits: (1 << Optimisation::ALL.len()) - 1,
        }
    }

    /// No optimisation.
    pub const fn none() -> Self {
        Self { bits: 0 }
    }

    /// The set without one.
    #[must_use]
    pub const fn without(self, optimisation: Optimisation) -> Self {
        Self {
            bits: self.bits & !(1 << optimisation as u32),
        }
    }

    /// The set with one more.
    #[must_use]
    pub const fn with(self, optimisation: Optimisation) -> Self {
        Self {
            bits: self.bits | 1 << optimisation as u32,
        }
    }

    /// Whether the set has it.
    pub const fn has(self, optimisation: Optimisation) -> bool {
        self.bits & 1 << optimisation as u32 != 0
    }

    /// The members, in the order of [`Optimisation::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Optimisation> {
        Optimisation::ALL
            .iter()
            .copied()
            .filter(move |&optimisation| self.has(optimisation))
    }
}

impl Default for Optimisations {
    fn default() -> Self {
        Self::all()
    }
}

impl fmt::Debug for Optimisations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_optimisation_reads_back_what_it_prints() {
        for &optimisation in Optimisation::ALL {
            assert_eq!(optimisation.to_string().parse(), Ok(optimisation));
        }
        assert!(
            "fused"
                .parse::<Optimisation>()
                .unwrap_err()
                .contains("fused-attention, fused-layer-norm")
        );
    }

    #[test]
    fn a_set_loses_and_gains_one_at_a_time() {
        let all = Optimisations::all();
        assert_eq!(all.iter().collect::<Vec<_>>(), Optimisation::ALL);
        assert_eq!(Optimisations::none().iter().count(), 0);
        for &optimisation in Optimisation::ALL {
            let rest = all.without(optimisation);
            assert!(!rest.has(optimisation) && rest.iter().count() == Optimisation::ALL.len() - 1);
            assert_eq!(rest.with(optimisation), all);
        }
    }
}
