//! Where networks run, in which precision and with which optimisations.

mod devices;
mod optimisation;
mod together;

use std::fmt;
use std::str::FromStr;

/// Where tensors are: Candle's own type.
pub use candle_core::Device;
use candle_core::{DType, DeviceLocation};

/// The CPU's instruction set that products use, for reports.
pub use custom_ops::instruction_set;
pub use devices::DeviceList;
pub use optimisation::{Optimisation, Optimisations};
pub(crate) use together::Together;

use crate::{Error, Result};

/// The device asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU where this build and this machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU by number; needs the feature `cuda`.
    Cuda(usize),
    /// An Apple GPU by number; needs the feature `metal`.
    Metal(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => (kind, Some(index)),
            None => (text, None),
        };
        let number = || match index {
            None => Ok(0),
            Some(index) => index
                .parse()
                .map_err(|_| format!("{text:?}: {index:?} is not a device number")),
        };
        match (kind, index) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(number()?)),
            ("metal", _) => Ok(Self::Metal(number()?)),
            _ => Err(format!(
                "unknown device {text:?}; expected auto, cpu, cuda, cuda:N, metal or metal:N"
            )),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Metal(index) => write!(f, "metal:{index}"),
        }
    }
}

/// The precision of weights and products.
///
/// Heads are float32, as in the reference, except in reduced precision with
/// [`Optimisation::HalfHeads`]: on NVIDIA GPUs they multiply in float16 then, on the CPU in
/// bfloat16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// float32 throughout.
    #[default]
    F32,
    /// float32 whose products have operands of eleven binary digits on NVIDIA GPUs, with sums in
    /// float32: TF32, and float16 in attention and heads, which saturates at 65504. Elsewhere as
    /// [`Precision::F32`].
    Tf32,
    /// float16; on the CPU weights are stored so and multiplied in float32.
    F16,
    /// bfloat16; on the CPU products of bfloat16 are summed in float32, the rest is float32.
    Bf16,
    /// On the CPU: linear layers multiply int8, weights in a unit for each output channel and
    /// activations in one for each token, with exact sums; attention and heads are those of
    /// [`Precision::Bf16`], the rest is float32.
    Int8,
}

impl Precision {
    /// The tensor type that holds it, or what is not int8.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Tf32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 | Self::Int8 => DType::BF16,
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "tf32" => Ok(Self::Tf32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            _ => Err(format!(
                "unknown precision {text:?}; expected f32, tf32, f16, bf16 or int8"
            )),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

/// A device, a precision and a set of optimisations, shared by the networks loaded with it.
#[derive(Clone, Debug)]
pub struct Runtime {
    device: Device,
    precision: Precision,
    optimisations: Optimisations,
}

impl Runtime {
    /// Opens `device` for networks with every optimisation.
    ///
    /// # Errors
    /// [`Error::Usage`] if this build has no support for the device, the machine has none of that
    /// number or the device does not compute in this precision, and if the environment variable
    /// `MAST3R_INSTRUCTIONS` names an instruction set that the processor lacks.
    pub fn new(device: DeviceChoice, precision: Precision) -> Result<Self> {
        Self::with_optimisations(device, precision, Optimisations::all())
    }

    /// Opens `device` for networks with the optimisations of a set: for measuring what each of them
    /// is worth.
    ///
    /// # Errors
    /// As [`Runtime::new`].
    pub fn with_optimisations(
        device: DeviceChoice,
        precision: Precision,
        optimisations: Optimisations,
    ) -> Result<Self> {
        custom_ops::check_instruction_set().map_err(Error::Usage)?;
        let cuda = |index| cuda(index, optimisations.has(Optimisation::OwnStream));
        let device = match device {
            DeviceChoice::Cpu => Device::Cpu,
            DeviceChoice::Cuda(index) => open("cuda", cfg!(feature = "cuda"), index, cuda)?,
            DeviceChoice::Metal(index) => {
                open("metal", cfg!(feature = "metal"), index, Device::new_metal)?
            }
            DeviceChoice::Auto if cfg!(feature = "cuda") => gpu_or_cpu("cuda", cuda(0)),
            DeviceChoice::Auto if cfg!(feature = "metal") => {
                gpu_or_cpu("metal", Device::new_metal(0))
            }
            DeviceChoice::Auto => Device::Cpu,
        };
        check_precision(&device, precision)?;
        Ok(Self {
            device,
            precision,
            optimisations,
        })
    }

    /// The same device in another precision.
    pub fn in_precision(&self, precision: Precision) -> Self {
        Self {
            precision,
            ..self.clone()
        }
    }

    /// The same device in another precision and with other optimisations; opened anew if they
    /// differ in [`Optimisation::OwnStream`], which is the device's own matter.
    ///
    /// # Errors
    /// As [`Runtime::new`].
    pub fn configured(&self, precision: Precision, optimisations: Optimisations) -> Result<Self> {
        check_precision(&self.device, precision)?;
        let own_stream = Optimisation::OwnStream;
        match self.device.location() {
            DeviceLocation::Cuda { gpu_id }
                if optimisations.has(own_stream) != self.optimisations.has(own_stream) =>
            {
                Self::with_optimisations(DeviceChoice::Cuda(gpu_id), precision, optimisations)
            }
            _ => Ok(Self {
                device: self.device.clone(),
                precision,
                optimisations,
            }),
        }
    }

    /// The device that networks run on.
    ///
    /// With [`Optimisation::OwnStream`] on CUDA all of its work is ordered by the one stream that
    /// it has; who makes another stream of its context has to synchronise it.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The precision asked for.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The optimisations that networks are built with.
    pub fn optimisations(&self) -> Optimisations {
        self.optimisations
    }

    /// The device's name as [`DeviceChoice`] reads it.
    pub fn device_name(&self) -> String {
        match self.device.location() {
            DeviceLocation::Cpu => "cpu".into(),
            DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        }
    }

    /// Waits until everything sent to the device is done.
    pub fn synchronize(&self) -> Result<()> {
        Ok(self.device.synchronize()?)
    }
}

/// Products of int8 are the CPU's alone.
fn check_precision(device: &Device, precision: Precision) -> Result<()> {
    if precision == Precision::Int8 && !device.is_cpu() {
        return Err(Error::Usage(
            "precision int8: is for the device cpu; take f16 or bf16 on a GPU".into(),
        ));
    }
    Ok(())
}

/// An NVIDIA GPU, all of whose work goes through one stream that is its own, or as Candle opens it.
fn cuda(index: usize, own_stream: bool) -> candle_core::Result<Device> {
    #[cfg(feature = "cuda")]
    if own_stream {
        return custom_ops::open_cuda(index);
    }
    let _ = own_stream;
    Device::new_cuda(index)
}

/// The first GPU, or the CPU with a word on why.
fn gpu_or_cpu(kind: &str, device: candle_core::Result<Device>) -> Device {
    device.unwrap_or_else(|error| {
        // Candle's text goes on with a backtrace.
        let text = error.to_string();
        tracing::warn!(
            "no {kind} device, using the CPU: {}",
            text.lines().next().unwrap_or_default()
        );
        Device::Cpu
    })
}

fn open(
    kind: &str,
    built_in: bool,
    index: usize,
    device: impl Fn(usize) -> candle_core::Result<Device>,
) -> Result<Device> {
    if !built_in {
        return Err(Error::Usage(format!(
            "device {kind}: this build has no {kind} support; build with the feature {kind}, or use the device cpu"
        )));
    }
    device(index)
        .map_err(|e| Error::Usage(format!("device {kind}:{index}: {e}; use the device cpu")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_precisions_read_back_what_they_print() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3", "metal:1"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert_eq!(
            "cuda".parse::<DeviceChoice>().unwrap(),
            DeviceChoice::Cuda(0)
        );
        for text in ["f32", "tf32", "f16", "bf16", "int8"] {
            assert_eq!(text.parse::<Precision>().unwrap().to_string(), text);
        }
        for text in ["gpu", "cuda:x", "cpu:1", ""] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }
}
