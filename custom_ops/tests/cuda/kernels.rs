//! Kernels without a GPU: compiled as C++ and run thread by thread under sanitizers, against plain
//! loops in f64.
//!
//! What this cannot show: what only real warps get wrong, and how fast they are.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use crate::conv2d::implicit::{BLOCK_PIXELS, tiles};
use crate::outputs::{DescriptorMaps, descriptor_maps, geometry_maps};
use crate::random::normal;
use crate::sanitized::{Sanitized, include};

const KIND: &str = "cuda";

/// What the table of kernels needs of kernels.cpp, which comes after it.
const DECLARATIONS: &str = "
#include <vector>
template <typename T> T *buffer(std::size_t i);
template <typename T> T parameter();
extern std::vector<CUtensorMap> maps;
";

fn program(name: &str, source: &str, declarations: &str, kernels: &str) -> Sanitized {
    let table = format!("void (*const KERNELS[])() = {{{kernels}}};");
    let driver = include(KIND, "kernels.cpp");
    // Taken in first, so that no kernel's header takes in ours of that name.
    let units = "#include \"warpgroup.cuh\"";
    let text = format!("{units}\n{source}\n{declarations}\n{table}\n{driver}");
    let launch = concat!(env!("CARGO_MANIFEST_DIR"), "/src/launch");
    Sanitized::new(KIND, name, &text, &["-O1", "-idirafter", launch])
}

/// A launch, as kernels.cpp reads it.
#[derive(Default)]
struct Launch {
    kernel: u32,
    blocks: [u32; 3],
    threads: u32,
    shared: u32,
    parameters: Vec<u32>,
    /// Dims, box and buffer.
    maps: Vec<([u32; 4], [u32; 4], u32)>,
    /// After the result.
    inputs: Vec<Vec<u8>>,
}

impl Launch {
    fn run(&self, program: &Sanitized, result: usize) -> Vec<u8> {
        let mut request = Vec::new();
        let mut numbers = |numbers: &[u32]| {
            request.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
        };
        numbers(&[self.kernel]);
        numbers(&self.blocks);
        numbers(&[self.threads, self.shared]);
        numbers(&[4 * self.parameters.len() as u32]);
        numbers(&self.parameters);
        numbers(&[self.maps.len() as u32]);
        for (dims, of_box, buffer) in &self.maps {
            numbers(dims);
            numbers(of_box);
            numbers(&[*buffer]);
        }
        numbers(&[1 + self.inputs.len() as u32]);
        request.extend((result as u64).to_ne_bytes());
        request.extend(0u32.to_ne_bytes());
        for input in &self.inputs {
            request.extend((input.len() as u64).to_ne_bytes());
            request.extend(1u32.to_ne_bytes());
            request.extend(input);
        }
        program.run(&request, &[result]).remove(0)
    }
}

/// Numbers in the dtype, as bytes, and as they are then.
fn rounded(tensor: &Tensor, dtype: DType) -> (Vec<u8>, Vec<f64>) {
    let numbers = values(tensor);
    let bytes = match dtype {
        DType::F16 => numbers
            .iter()
            .flat_map(|&x| f16::from_f32(x).to_ne_bytes())
            .collect(),
        DType::F32 => numbers.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        _ => numbers
            .iter()
            .flat_map(|&x| bf16::from_f32(x).to_ne_bytes())
            .collect(),
    };
    let bytes: Vec<u8> = bytes;
    let read = read(&bytes, dtype);
    (bytes, read)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn read(bytes: &[u8], dtype: DType) -> Vec<f64> {
    if dtype == DType::F32 {
        return floats(bytes).into_iter().map(f64::from).collect();
    }
    let (pairs, _) = bytes.as_chunks::<2>();
    let number = |&two: &[u8; 2]| match dtype {
        DType::F16 => f16::from_ne_bytes(two).to_f64(),
        _ => bf16::from_ne_bytes(two).to_f64(),
    };
    pairs.iter().map(number).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|&word| f32::from_ne_bytes(word)).collect()
}

fn assert_close(what: &str, got: &[f64], want: &[f64], allowed: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let gap = (got - want).abs() / (1. + want.abs());
        assert!(gap <= allowed, "{what}: {got} at {index}, should be {want}");
    }
}

/// What a rounding to the dtype allows, and some for sums in float32 and rounded weights.
fn allowed(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 3e-6,
        DType::F16 => 2e-3,
        _ => 1.6e-2,
    }
}

/// Sizes of an attention: batch, queries, keys, heads.
type Sizes = [usize; 4];

/// Random queries, keys and values, as bytes, and what a plain loop makes of them.
fn attention_case([batch, queries, keys, heads]: Sizes, dtype: DType) -> ([Vec<u8>; 3], Vec<f64>) {
    const DIM: usize = 64;
    let drawn =
        |seed: u64, tokens: usize| rounded(&normal(seed, (batch, tokens, heads, DIM)), dtype);
    let ((q_bytes, q), (k_bytes, k), (v_bytes, v)) =
        (drawn(1, queries), drawn(2, keys), drawn(3, keys));
    let at = |tokens: usize, b: usize, t: usize, h: usize| ((b * tokens + t) * heads + h) * DIM;
    let mut want = Vec::with_capacity(q.len());
    for (b, t, h) in
        (0..batch * queries * heads).map(|i| (i / heads / queries, i / heads % queries, i % heads))
    {
        let score = |key: usize| {
            let (q, k) = (&q[at(queries, b, t, h)..], &k[at(keys, b, key, h)..]);
            (0..DIM).map(|d| q[d] * k[d]).sum::<f64>() / 8.
        };
        let scores: Vec<f64> = (0..keys).map(score).collect();
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - highest).exp()).collect();
        let total: f64 = weights.iter().sum();
        for d in 0..DIM {
            let sum = |key: usize| weights[key] * v[at(keys, b, key, h) + d];
            want.push((0..keys).map(sum).sum::<f64>() / total);
        }
    }
    ([q_bytes, k_bytes, v_bytes], want)
}

/// 1 / sqrt(64), in powers of two.
fn scale() -> u32 {
    (std::f32::consts::LOG2_E / 8.).to_bits()
}

/// The parameters of kernels that go by strides, of contiguous arguments.
fn by_strides([_, queries, keys, heads]: Sizes) -> Vec<u32> {
    let mut parameters = vec![queries as u32, keys as u32, heads as u32];
    for tokens in [queries, keys, keys] {
        let strides = [tokens * heads * 64, heads * 64, 64];
        parameters.extend(strides.map(|stride| stride as u32));
    }
    parameters.push(scale());
    parameters
}

/// One tile; a few rows and keys past a tile's end; three tiles of keys; one key; several blocks.
const ATTENTIONS: [Sizes; 5] = [
    [1, 64, 128, 1],
    [2, 67, 131, 2],
    [1, 3, 300, 1],
    [1, 65, 1, 1],
    [1, 200, 520, 1],
];

#[test]
fn split_attention_for_hopper_as_cpp_equals_a_plain_loop() {
    let kernels = [("f16", "__half"), ("bf16", "__nv_bfloat16")].map(|(name, t)| {
        let buffers: Vec<_> = (0..4).map(|i| format!("buffer<{t}>({i})")).collect();
        let arguments = buffers.join(", ");
        format!("[] {{ attention_split_sm90_{name}({arguments}, parameter<AttentionParams>()); }}")
    });
    let source = include_str!("../../src/attention/attention_split_sm90.cu");
    let program = program(
        "attention_split_sm90.cu",
        source,
        DECLARATIONS,
        &kernels.join(", "),
    );
    for sizes in ATTENTIONS {
        for (kernel, dtype) in [DType::F16, DType::BF16].into_iter().enumerate() {
            let [batch, queries, _, heads] = sizes;
            let (inputs, want) = attention_case(sizes, dtype);
            let launch = Launch {
                kernel: kernel as u32,
                blocks: [queries.div_ceil(64) as u32, (batch * heads) as u32, 1],
                threads: 256,
                shared: 8192 + 2 * 65536,
                parameters: by_strides(sizes),
                inputs: inputs.into(),
                ..Launch::default()
            };
            let got = read(&launch.run(&program, 2 * want.len()), dtype);
            assert_close(&format!("{sizes:?} {dtype:?}"), &got, &want, allowed(dtype));
        }
    }
}

#[test]
fn attention_in_float32_as_cpp_equals_a_plain_loop() {
    let kernel = "[] { attention_f32(buffer<float>(0), buffer<float>(1), buffer<float>(2), buffer<float>(3), \
                  parameter<AttentionParams>()); }";
    let source = include_str!("../../src/attention/attention_f32.cu");
    let program = program("attention_f32.cu", source, DECLARATIONS, kernel);
    for sizes in ATTENTIONS {
        let [batch, queries, _, heads] = sizes;
        let (inputs, want) = attention_case(sizes, DType::F32);
        let launch = Launch {
            blocks: [queries.div_ceil(64) as u32, (batch * heads) as u32, 1],
            threads: 128,
            shared: 69632,
            parameters: by_strides(sizes),
            inputs: inputs.into(),
            ..Launch::default()
        };
        let got = read(&launch.run(&program, 4 * want.len()), DType::F32);
        assert_close(&format!("{sizes:?}"), &got, &want, allowed(DType::F32));
    }
}

#[test]
fn attention_for_hopper_as_cpp_equals_a_plain_loop() {
    let all = [2, 3].map(|groups| {
        [("f16", "__half"), ("bf16", "__nv_bfloat16")].map(|(name, t)| {
            format!(
                "[] {{ attention_sm90_{name}_{groups}(maps[0], maps[1], maps[2], buffer<{t}>(0), \
                 parameter<BoxedAttentionParams>()); }}"
            )
        })
    });
    let source = include_str!("../../src/attention/attention_sm90.cu");
    let program = program(
        "attention_sm90.cu",
        source,
        DECLARATIONS,
        &all.concat().join(", "),
    );
    for sizes in ATTENTIONS {
        for (kernel, (groups, dtype)) in [2, 3]
            .into_iter()
            .flat_map(|groups| [(groups, DType::F16), (groups, DType::BF16)])
            .enumerate()
        {
            let [batch, queries, keys, heads] = sizes.map(|size| size as u32);
            let (inputs, want) = attention_case(sizes, dtype);
            let map = |tokens, rows, buffer| ([64, heads, tokens, batch], [64, 1, rows, 1], buffer);
            let stages = if groups == 2 { 3 } else { 2 };
            let launch = Launch {
                kernel: kernel as u32,
                blocks: [queries.div_ceil(64 * groups), batch * heads, 1],
                threads: 128 * (groups + 1),
                shared: groups * 8192 + 2 * stages * 16384,
                parameters: vec![queries, keys, heads, scale()],
                maps: vec![map(queries, 64, 1), map(keys, 128, 2), map(keys, 128, 3)],
                inputs: inputs.into(),
            };
            let got = read(&launch.run(&program, 2 * want.len()), dtype);
            let what = format!("{sizes:?} {dtype:?} by {groups}");
            assert_close(&what, &got, &want, allowed(dtype));
        }
    }
}

/// A convolution's sizes and what ends it.
struct Conv {
    size: [usize; 3],
    input: usize,
    output: usize,
    parts: usize,
    /// Output channels of a block.
    columns: usize,
    ends: bool,
}

#[test]
fn convolution_for_hopper_as_cpp_equals_a_plain_loop() {
    let kernel = |name: &str, t: &str| {
        format!(
            "[] {{ conv3x3_sm90_{name}(maps[0], maps[1], buffer<{t}>(0), buffer<{t}>(3), buffer<{t}>(4), \
             parameter<ConvParams>()); }}"
        )
    };
    let kernels = [
        kernel("f16_64", "__half"),
        kernel("bf16_64", "__nv_bfloat16"),
        kernel("f16_128", "__half"),
        kernel("bf16_128", "__nv_bfloat16"),
    ];
    let source = include_str!("../../src/conv2d/conv3x3_sm90.cu");
    let program = program("conv3x3_sm90.cu", source, DECLARATIONS, &kernels.join(", "));
    let cases = [
        // More than one block, whose pixels end outside of the map; a part of a step of channels.
        Conv {
            size: [2, 9, 19],
            input: 96,
            output: 64,
            parts: 2,
            columns: 64,
            ends: true,
        },
        Conv {
            size: [1, 3, 5],
            input: 8,
            output: 128,
            parts: 1,
            columns: 128,
            ends: false,
        },
        Conv {
            size: [2, 8, 16],
            input: 128,
            output: 128,
            parts: 1,
            columns: 64,
            ends: true,
        },
    ];
    for case in &cases {
        for dtype in [DType::F16, DType::BF16] {
            check_conv(&program, case, dtype);
        }
    }
}

fn check_conv(program: &Sanitized, case: &Conv, dtype: DType) {
    let &Conv {
        size: [batch, height, width],
        input,
        output,
        parts,
        columns,
        ends,
    } = case;
    let (x_bytes, x) = rounded(&normal(1, (batch, height, width, input)), dtype);
    let weight = (normal(2, (parts, 9, output, input)) * 0.1).unwrap();
    let (weight_bytes, weight) = rounded(&weight, dtype);
    let (bias_bytes, bias) = rounded(&normal(3, (parts, output)), dtype);
    let (residual_bytes, residual) = rounded(&normal(4, (batch, height, width, output)), dtype);
    let (log_width, tiles) = tiles(height, width);
    let of_box = [1 << log_width, BLOCK_PIXELS as u32 >> log_width];
    let is_wide = columns == 128;
    let flag = u32::from(ends);
    let launch = Launch {
        kernel: 2 * u32::from(is_wide) + u32::from(dtype == DType::BF16),
        blocks: [(output / columns) as u32, tiles as u32, batch as u32],
        threads: 288,
        shared: ((if is_wide { 3 } else { 4 }) * (BLOCK_PIXELS + columns) * 128) as u32,
        parameters: vec![
            height as u32,
            width as u32,
            output as u32,
            input.div_ceil(64) as u32,
            log_width,
            (batch / parts) as u32,
            flag,
            flag,
            flag,
        ],
        maps: vec![
            (
                [input as u32, width as u32, height as u32, batch as u32],
                [64, of_box[0], of_box[1], 1],
                1,
            ),
            (
                [input as u32, (parts * 9 * output) as u32, 1, 1],
                [64, columns as u32, 1, 1],
                2,
            ),
        ],
        inputs: vec![x_bytes, weight_bytes, bias_bytes, residual_bytes],
    };
    let got = read(&launch.run(program, 2 * residual.len()), dtype);
    let mut want = Vec::with_capacity(residual.len());
    for (index, residual) in residual.iter().enumerate() {
        let (channel, pixel) = (index % output, index / output);
        let (column, row, map) = (
            pixel % width,
            pixel / width % height,
            pixel / width / height,
        );
        let part = map / (batch / parts);
        let mut sum = 0.;
        for tap in 0..9 {
            let (y, z) = (row + tap / 3, column + tap % 3);
            if (1..=height).contains(&y) && (1..=width).contains(&z) {
                let seen = &x[((map * height + y - 1) * width + z - 1) * input..][..input];
                let weights = &weight[((part * 9 + tap) * output + channel) * input..][..input];
                sum += seen.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>();
            }
        }
        want.push(if ends {
            (sum + bias[part * output + channel]).max(0.) + residual
        } else {
            sum
        });
    }
    let what = format!(
        "{:?} {input} to {output} by {columns}, {dtype:?}",
        case.size
    );
    assert_close(&what, &got, &want, allowed(dtype));
}

#[test]
fn a_heads_maps_as_cpp_equal_the_ops() {
    let kernels = "[] { geometry_maps(buffer<float>(0), buffer<float>(1), parameter<unsigned>()); }, \
                   [] { descriptor_maps(buffer<float>(0), buffer<float>(1), parameter<Both>().params, \
                   parameter<Both>().pixels); }";
    let declarations = "
template <typename T> T *buffer(std::size_t i);
template <typename T> T parameter();
struct Both { DescriptorParams params; unsigned pixels; };
";
    let source = include_str!("../../src/outputs/outputs.cu");
    let program = program("outputs.cu", source, declarations, kernels);
    let bytes = |tensor: &Tensor| {
        values(tensor)
            .into_iter()
            .flat_map(f32::to_ne_bytes)
            .collect()
    };
    let close = |what: &str, got: &[f32], parts: &[Tensor]| {
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let want: Vec<f32> = parts.iter().flat_map(values).collect();
        assert_close(what, &wide(got), &wide(&want), 1e-5);
    };

    let geometry = normal(1, (2, 7, 50, 4));
    // Points at the origin and near to it.
    let near = (normal(2, (2, 1, 50, 4)) * 1e-6).unwrap();
    let zeros = Tensor::zeros((2, 1, 50, 4), DType::F32, &Device::Cpu).unwrap();
    let geometry = Tensor::cat(&[geometry, near, zeros], 1).unwrap();
    let pixels: u32 = 2 * 9 * 50;
    let launch = Launch {
        blocks: [pixels.div_ceil(256), 1, 1],
        threads: 256,
        parameters: vec![pixels],
        inputs: vec![bytes(&geometry)],
        ..Launch::default()
    };
    let got = floats(&launch.run(&program, 16 * pixels as usize));
    close("geometry", &got, &geometry_maps(&geometry).unwrap());

    for confidence_floor in [None, Some(0.), Some(1.)] {
        let maps = DescriptorMaps {
            grid: [3, 5],
            patch: 7,
            channels: 6,
            confidence_floor,
        };
        let numbers = 6 + usize::from(confidence_floor.is_some());
        let tokens = normal(3, (2, 15, numbers * 49));
        let pixels: u32 = 2 * 15 * 49;
        let launch = Launch {
            kernel: 1,
            blocks: [pixels.div_ceil(256), 1, 1],
            threads: 256,
            parameters: vec![
                3,
                5,
                7,
                6,
                confidence_floor.is_some().into(),
                confidence_floor.unwrap_or_default().to_bits(),
                pixels,
            ],
            inputs: vec![bytes(&tokens)],
            ..Launch::default()
        };
        let got = floats(&launch.run(&program, 4 * numbers * pixels as usize));
        let (descriptors, confidence) = descriptor_maps(&tokens, maps).unwrap();
        let parts: Vec<Tensor> = [descriptors].into_iter().chain(confidence).collect();
        close("descriptors", &got, &parts);
    }
}
