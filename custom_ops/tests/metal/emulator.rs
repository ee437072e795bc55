//! Metal shaders compiled as C++ and run on the CPU, as the host code would launch them.

#![allow(unsafe_code)] // A parameter block is passed on as bytes.

use candle_core::{CpuStorage, DType, Storage, Tensor};
use half::{bf16, f16};

use crate::launch::shader::{Argument, Grid, Plan, Shader, Use};
use crate::sanitized::{Sanitized, include_driver};

const KIND: &str = "metal";

/// One shader with all of its kernels, as a program.
pub struct Emulator(Sanitized);

/// Launches of a shader's kernels, in the driver's encoding.
#[derive(Default)]
pub struct Requests {
    bytes: Vec<u8>,
    outputs: Vec<usize>,
}

/// The names of a source's kernels and the functions behind them: `host_name("NAME") …
/// decltype(FUNCTION)`.
pub fn kernels(source: &str) -> Vec<(&str, &str)> {
    let mut kernels = Vec::new();
    for declaration in source.split("[[host_name(\"").skip(1) {
        let (name, rest) = declaration.split_once("\")]]").expect("host_name(\"…\")]]");
        let function = rest
            .split_once("decltype(")
            .and_then(|(_, rest)| rest.split_once(')'))
            .expect("decltype(…)");
        kernels.push((name, function.0));
    }
    kernels
}

impl Emulator {
    /// Compiles a Metal source, with checks of every address and its alignment.
    pub fn new(name: &str, source: &str) -> Self {
        let listed: String = kernels(source)
            .iter()
            .map(|(name, function)| format!("    {{\"{name}\", {}}},\n", runner(function)))
            .collect();
        assert!(!listed.is_empty(), "{name}: a source without kernels");
        let in_step = source.contains("simd_sum(");
        let driver = include_driver(KIND);
        let program = format!(
            "{source}\nconstexpr bool IN_STEP = {in_step};\n{driver}const std::vector<Kernel> KERNELS = {{\n{listed}}};\n"
        );
        Self(Sanitized::new(
            KIND,
            name,
            &program,
            &["-O1", "-Wno-attributes"],
        ))
    }

    /// What all launches wrote and changed, in order.
    pub fn run(&self, requests: &Requests) -> Vec<Vec<u8>> {
        self.0.run(&requests.bytes, &requests.outputs)
    }
}

fn runner(function: &str) -> String {
    format!(
        "[](std::vector<Buffer> &buffers, const Threads &threads) {{ run({function}, buffers, threads); }}"
    )
}

/// What a launch gets for an argument other than the parameters.
pub enum Memory {
    /// Bytes, and how many of them come before what the kernel sees.
    Read(Vec<u8>, usize),
    /// As many bytes.
    Written(usize),
    /// As what is read.
    Changed(Vec<u8>, usize),
}

impl Requests {
    /// A launch as `launch::metal` makes it: `reads` by the names of the arguments, bound in the
    /// shader's order, at most `limit` threads in a threadgroup.
    pub fn add<P>(
        &mut self,
        shader: &Shader,
        plan: &Plan<P>,
        reads: &[(&str, &Tensor)],
        dtype: DType,
        limit: usize,
    ) {
        self.launch(shader, plan, limit, |argument| {
            if argument.used == Use::Written {
                return Memory::Written(plan.elements * dtype.size_in_bytes());
            }
            let (_, tensor) = reads
                .iter()
                .find(|(name, _)| *name == argument.name)
                .expect("an argument");
            let offset = tensor.layout().start_offset() * tensor.dtype().size_in_bytes();
            match argument.used {
                Use::Changed => Memory::Changed(bytes(tensor), offset),
                _ => Memory::Read(bytes(tensor), offset),
            }
        });
    }

    /// A launch with `memory` for every argument but the parameters.
    pub fn launch<P>(
        &mut self,
        shader: &Shader,
        plan: &Plan<P>,
        limit: usize,
        mut memory: impl FnMut(&Argument) -> Memory,
    ) {
        let grid = Grid::covering(plan.threads, limit);
        self.number(plan.kernel.len());
        self.bytes.extend(plan.kernel.as_bytes());
        for n in grid
            .groups
            .into_iter()
            .chain(grid.threads)
            .chain([shader.arguments.len()])
        {
            self.number(n);
        }
        for argument in shader.arguments {
            if argument.used == Use::Params {
                // SAFETY: the block is alive, and of numbers of four bytes without gaps.
                let bytes = unsafe {
                    std::slice::from_raw_parts(
                        (&raw const plan.params).cast::<u8>(),
                        std::mem::size_of::<P>(),
                    )
                };
                self.buffer(2, 0, bytes);
                continue;
            }
            match memory(argument) {
                Memory::Read(bytes, offset) => self.buffer(0, offset, &bytes),
                Memory::Written(length) => {
                    self.outputs.push(length);
                    self.header(1, 0, length);
                }
                Memory::Changed(bytes, offset) => {
                    self.outputs.push(bytes.len());
                    self.buffer(3, offset, &bytes);
                }
            }
        }
    }

    fn number(&mut self, n: usize) {
        self.bytes.extend(u32::try_from(n).unwrap().to_ne_bytes());
    }

    fn header(&mut self, role: usize, offset: usize, length: usize) {
        self.number(role);
        for n in [offset, length] {
            self.bytes.extend((n as u64).to_ne_bytes());
        }
    }

    fn buffer(&mut self, role: usize, offset: usize, bytes: &[u8]) {
        self.header(role, offset, bytes.len());
        self.bytes.extend(bytes);
    }
}

/// The whole storage behind a tensor on the CPU.
fn bytes(tensor: &Tensor) -> Vec<u8> {
    let (storage, _) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        panic!("a tensor on the CPU expected")
    };
    match storage {
        CpuStorage::F32(values) => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        CpuStorage::F16(values) => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        CpuStorage::BF16(values) => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        _ => panic!("no kernel takes this dtype"),
    }
}

/// An output's values.
pub fn decode(bytes: &[u8], dtype: DType) -> Vec<f64> {
    let halves = || {
        bytes
            .chunks_exact(2)
            .map(|two| u16::from_ne_bytes([two[0], two[1]]))
    };
    match dtype {
        DType::F16 => halves().map(|bits| f16::from_bits(bits).to_f64()).collect(),
        DType::BF16 => halves()
            .map(|bits| bf16::from_bits(bits).to_f64())
            .collect(),
        _ => bytes
            .chunks_exact(4)
            .map(|four| f32::from_ne_bytes(four.try_into().unwrap()).into())
            .collect(),
    }
}
