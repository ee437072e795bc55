//! The Metal shaders without a Mac: every kernel compiled as C++ and run thread by thread over the
//! cases of the other devices, launched by the very tables and grids of the host code.
//!
//! Clang checks their types besides, address spaces among them. What all this cannot show: that
//! Apple's compiler takes the sources, and how fast they are.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

#[path = "../common/mod.rs"]
mod common;
mod declarations;
mod dense;
pub(crate) mod emulator;
mod goldens;
mod typed;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use self::common::{Expected, Source, Step};
use self::emulator::{Emulator, Requests, decode};
use crate::conv2d::taps::Taps;
use crate::grid_sample::{GridSample, Padding};
use crate::launch::shader::{Argument, Plan, Shader, Use};
use crate::launch::with_contiguous_channels;
use crate::rope2d::RopeTable;
use crate::upsample_bilinear2d::Upsample;
use crate::{conv2d, grid_sample, rope2d, taps3x3, upsample_bilinear2d};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
/// Threads of a threadgroup: more than any plan asks for, and few, so that large cases have many
/// groups.
pub(crate) const LIMITS: [usize; 2] = [1024, 48];
/// Two orders of the same float32 arithmetic; of the largest magnitude of the output.
const F32_GAP: f64 = 1e-6;
/// Outputs in half precision that may round to the other neighbour because of that gap.
const MOST_ROUNDED_OTHERWISE: f64 = 0.01;

/// The view that `source` describes.
fn tensor(source: &Source, dtype: DType) -> Tensor {
    let whole = Tensor::from_slice(&source.values, source.shape.as_slice(), &Device::Cpu).unwrap();
    source
        .steps
        .iter()
        .fold(whole.to_dtype(dtype).unwrap(), |tensor, step| match *step {
            Step::Narrow {
                axis,
                start,
                length,
            } => tensor.narrow(axis, start, length).unwrap(),
            Step::Select { axis, index } => tensor
                .narrow(axis, index, 1)
                .unwrap()
                .squeeze(axis)
                .unwrap(),
            Step::Transpose(a, b) => tensor.transpose(a, b).unwrap(),
            Step::Repeat { axis, count } => {
                let mut dims = tensor.dims().to_vec();
                dims[axis] = count;
                tensor.broadcast_as(dims).unwrap()
            }
        })
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// The distance between neighbouring values of `dtype` around `value`.
fn step(dtype: DType, value: f64) -> f64 {
    let (digits, smallest) = match dtype {
        DType::F32 => (23, -126),
        DType::F16 => (10, -14),
        _ => (7, -126),
    };
    f64::from((value.abs().log2().floor() as i32).max(smallest) - digits).exp2()
}

/// What a launch should have computed.
struct Want {
    name: String,
    dtype: DType,
    expected: Vec<Expected>,
    /// The CPU op's.
    cpu: Vec<f64>,
}

/// Launches and what should come of them.
#[derive(Default)]
struct Batch {
    requests: Requests,
    wants: Vec<Want>,
    /// Kernels that were launched.
    kernels: Vec<String>,
}

impl Batch {
    fn add<P>(&mut self, shader: &Shader, plan: &Plan<P>, reads: &[(&str, &Tensor)], want: Want) {
        let limit = LIMITS[self.wants.len() % LIMITS.len()];
        self.requests.add(shader, plan, reads, want.dtype, limit);
        self.kernels.push(plan.kernel.clone());
        self.wants.push(want);
    }

    /// Runs everything, and holds it against the exact results and the CPU's.
    fn finish(self, shader: &Shader) {
        for (kernel, _) in emulator::kernels(shader.source) {
            assert!(
                self.kernels.iter().any(|launched| launched == kernel),
                "no case launches {kernel}"
            );
        }
        let outputs = Emulator::new(shader.op, shader.source).run(&self.requests);
        let mut breaches = Vec::new();
        for dtype in DTYPES {
            let (mut gap, mut differ, mut all) = (0f64, 0, 0);
            let of_dtype = outputs
                .iter()
                .zip(&self.wants)
                .filter(|(_, want)| want.dtype == dtype);
            for (output, want) in of_dtype {
                let got = decode(output, dtype);
                assert_eq!(
                    (got.len(), got.len()),
                    (want.expected.len(), want.cpu.len()),
                    "{}",
                    want.name
                );
                let largest = want
                    .cpu
                    .iter()
                    .fold(0f64, |most, value| most.max(value.abs()));
                let values = got.iter().zip(&want.expected).zip(&want.cpu).enumerate();
                for (index, ((&got, expected), &cpu)) in values {
                    // What is not a number fails both.
                    let rounding = step(dtype, expected.value.abs() + expected.slack) / 2.;
                    let exact = (got - expected.value).abs() <= expected.slack + rounding;
                    let steps = if dtype == DType::F32 {
                        0.
                    } else {
                        step(dtype, cpu)
                    };
                    let same = (got - cpu).abs() <= F32_GAP * largest + steps;
                    gap = gap.max((got - cpu).abs() / largest.max(f64::MIN_POSITIVE));
                    differ += usize::from(got != cpu);
                    if !(exact && same) {
                        breaches.push(format!(
                            "{}[{index}]: {got}, exact {expected:?}, CPU {cpu}",
                            want.name
                        ));
                    }
                }
                all += got.len();
            }
            // Some operations have float32 alone.
            if all == 0 {
                continue;
            }
            println!(
                "{} {}: {differ} of {all} differ from the CPU's, at most by {gap:.1e} of the largest value",
                shader.op,
                dtype.as_str()
            );
            let rounded = if dtype == DType::F32 {
                0.
            } else {
                differ as f64 / all as f64
            };
            assert!(
                rounded <= MOST_ROUNDED_OTHERWISE,
                "{}: {differ} of {all} round otherwise",
                dtype.as_str()
            );
        }
        let shown = breaches
            .iter()
            .take(20)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n");
        assert!(
            breaches.is_empty(),
            "{} wrong values:\n{shown}",
            breaches.len()
        );
    }
}

#[test]
fn the_rotation_runs_alone_and_in_pairs() {
    let shader = &rope2d::shader::SHADER;
    let mut batch = Batch::default();
    for case in common::rope2d::cases() {
        let table =
            RopeTable::new(&case.positions, case.q.dims()[3], case.base, &Device::Cpu).unwrap();
        for dtype in DTYPES {
            let (q, k) = (tensor(&case.q, dtype), tensor(&case.k, dtype));
            let mut expected = case.expected(&flat(&q));
            let mut cpu = flat(&rope2d(&q, &table).unwrap());
            let dense = [
                with_contiguous_channels(&q).unwrap(),
                with_contiguous_channels(&k).unwrap(),
            ];
            for sources in [&dense[..1], &dense[..]] {
                let layouts: Vec<_> = sources.iter().map(Tensor::layout).collect();
                let plan = rope2d::shader::plan(&layouts, dtype).unwrap();
                let reads = [
                    ("first", &sources[0]),
                    ("second", &sources[sources.len() - 1]),
                    ("table", table.tensor()),
                ];
                let name = format!(
                    "rope2d {} of {} {}",
                    case.name,
                    sources.len(),
                    dtype.as_str()
                );
                batch.add(
                    shader,
                    &plan,
                    &reads,
                    Want {
                        name,
                        dtype,
                        expected: expected.clone(),
                        cpu: cpu.clone(),
                    },
                );
                expected.extend(case.expected(&flat(&k)));
                cpu.extend(flat(&rope2d(&k, &table).unwrap()));
            }
        }
    }
    batch.finish(shader);
}

#[test]
fn the_resampling_runs_to_every_size() {
    let shader = &upsample_bilinear2d::shader::SHADER;
    let mut batch = Batch::default();
    for case in common::upsample_bilinear2d::cases() {
        for dtype in DTYPES {
            let x = tensor(&case.input, dtype);
            let (expected, [height, width]) = (case.expected(&flat(&x)), case.to);
            let cpu = flat(&upsample_bilinear2d(&x, height, width, case.align_corners).unwrap());
            let x = with_contiguous_channels(&x).unwrap();
            let op = Upsample {
                to: case.to,
                align_corners: case.align_corners,
                base: None,
            };
            let plan = upsample_bilinear2d::shader::plan(&op, x.layout(), dtype).unwrap();
            let name = format!("upsample_bilinear2d {} {}", case.name, dtype.as_str());
            batch.add(
                shader,
                &plan,
                &[("x", &x)],
                Want {
                    name,
                    dtype,
                    expected,
                    cpu,
                },
            );
        }
    }
    batch.finish(shader);
}

#[test]
fn the_sampling_runs_at_every_place() {
    let shader = &grid_sample::shader::SHADER;
    let mut batch = Batch::default();
    for case in common::grid_sample::cases() {
        for dtype in DTYPES {
            let (x, grid) = (tensor(&case.input, dtype), tensor(&case.grid, DType::F32));
            let expected = case.expected(&flat(&x));
            let padding = if case.border {
                Padding::Border
            } else {
                Padding::Zeros
            };
            let cpu = flat(&grid_sample(&x, &grid, padding, case.align_corners).unwrap());
            let (x, grid) = (
                with_contiguous_channels(&x).unwrap(),
                grid.contiguous().unwrap(),
            );
            let op = GridSample {
                to: [grid.dims()[1], grid.dims()[2]],
                padding,
                align_corners: case.align_corners,
            };
            let plan = grid_sample::shader::plan(&op, x.layout(), dtype).unwrap();
            let name = format!("grid_sample {} {}", case.name, dtype.as_str());
            batch.add(
                shader,
                &plan,
                &[("x", &x), ("grid", &grid)],
                Want {
                    name,
                    dtype,
                    expected,
                    cpu,
                },
            );
        }
    }
    batch.finish(shader);
}

#[test]
fn the_taps_of_every_band_of_rows_are_gathered() {
    let shader = &conv2d::shader::SHADER;
    let mut batch = Batch::default();
    let mut random = common::Random::new(11);
    for dims in [
        [1, 1, 1, 1],
        [2, 3, 5, 3],
        [3, 4, 2, 4],
        [1, 1, 6, 8],
        [2, 5, 1, 12],
        [1, 9, 11, 64],
    ] {
        let [images, height, width, channels] = dims;
        let rows = images * height;
        for (first_row, count, relu) in [
            (0, rows, false),
            (0, rows, true),
            (rows - 1, 1, false),
            (rows / 3, rows / 2, true),
        ] {
            for dtype in DTYPES.into_iter().filter(|_| count > 0) {
                // An entry more in front: the images do not start where their memory does.
                let source = random.values((rows * width + 1) * channels, 2.);
                let all = Tensor::from_slice(&source, (rows * width + 1, channels), &Device::Cpu)
                    .unwrap();
                let x = all
                    .to_dtype(dtype)
                    .unwrap()
                    .narrow(0, 1, rows * width)
                    .unwrap()
                    .reshape(&dims)
                    .unwrap();
                let want = flat(&taps3x3(&x, first_row, count, relu).unwrap());
                let plan = conv2d::shader::plan(
                    &Taps {
                        first_row,
                        rows: count,
                        step: 1,
                        relu,
                    },
                    x.layout(),
                    dtype,
                )
                .unwrap();
                let name = format!(
                    "taps3x3 {dims:?} rows {first_row}+{count} relu={relu} {}",
                    dtype.as_str()
                );
                let expected = want
                    .iter()
                    .map(|&value| Expected { value, slack: 0. })
                    .collect();
                batch.add(
                    shader,
                    &plan,
                    &[("x", &x)],
                    Want {
                        name,
                        dtype,
                        expected,
                        cpu: want,
                    },
                );
            }
        }
    }
    batch.finish(shader);
}

/// The emulation's own half and bfloat: exact one way, rounded to the nearest, ties to even, the
/// other way.
#[test]
fn numbers_of_sixteen_bits_convert_as_ieee_says() {
    const SOURCE: &str = "
        #include <metal_stdlib>
        using namespace metal;
        template <typename T> [[kernel]] void convert(
            device const float* from [[buffer(0)]], device T* out [[buffer(1)]], constant uint& count [[buffer(2)]],
            uint3 position [[thread_position_in_grid]]
        ) { if (position.x < count) out[position.x] = T(float(T(from[position.x]))); }
        template [[host_name(\"convert_f16\")]] [[kernel]] decltype(convert<half>) convert<half>;
        template [[host_name(\"convert_bf16\")]] [[kernel]] decltype(convert<bfloat>) convert<bfloat>;";
    const ARGUMENTS: &[Argument] = &[
        Argument::new("from", Use::Read, "float"),
        Argument::new("out", Use::Written, "T"),
        Argument::new("count", Use::Params, "uint"),
    ];
    let shader = Shader {
        op: "convert",
        source: SOURCE,
        arguments: ARGUMENTS,
    };
    // Every value of both kinds, the middles between neighbours, and just beside them; both signs.
    let exact = (0..=u16::MAX).flat_map(|bits| {
        [
            f16::from_bits(bits).to_f32(),
            bf16::from_bits(bits).to_f32(),
        ]
    });
    let near = |x: f32| {
        let middle = [12, 15].map(|bit| f32::from_bits(x.to_bits() ^ (1 << bit)));
        [
            x,
            middle[0],
            middle[1],
            middle[0].next_up(),
            middle[0].next_down(),
            middle[1].next_up(),
            middle[1].next_down(),
        ]
    };
    let mut values: Vec<f32> = exact.flat_map(near).collect();
    // Around the subnormal numbers of half, whose steps are 2^-24.
    values.extend((0..5000).flat_map(|i| {
        [
            i as f32 / 4. * 2f32.powi(-24),
            -(i as f32) / 4. * 2f32.powi(-24),
        ]
    }));
    let from = Tensor::from_slice(&values, values.len(), &Device::Cpu).unwrap();
    let mut requests = Requests::default();
    for dtype in [DType::F16, DType::BF16] {
        let plan = Plan {
            kernel: shader.kernel(dtype, 1).unwrap(),
            params: values.len() as u32,
            threads: [values.len(), 1, 1],
            elements: values.len(),
        };
        requests.add(&shader, &plan, &[("from", &from)], dtype, 256);
    }
    let outputs = Emulator::new(shader.op, SOURCE).run(&requests);
    for (output, dtype) in outputs.iter().zip([DType::F16, DType::BF16]) {
        for (got, &value) in decode(output, dtype).into_iter().zip(&values) {
            let want = if dtype == DType::F16 {
                f16::from_f32(value).to_f64()
            } else {
                bf16::from_f32(value).to_f64()
            };
            let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
            assert!(
                same,
                "{value:e} as {}: {got:e}, should be {want:e}",
                dtype.as_str()
            );
        }
    }
}
