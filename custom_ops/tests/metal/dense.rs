//! The kernels between the products, run as C++: against plain loops in f64 and the CPU's ops.

use candle_core::{DType, Device, IndexOp as _, Tensor};

use super::common::Expected;
use super::{Batch, DTYPES, Want, flat};
use crate::layer_norm::LayerNorm;
use crate::linear::Activation;
use crate::linear::finish::Finish;
use crate::outputs::{DescriptorMaps, GeometryMaps, descriptor_maps, geometry_maps};
use crate::random::normal;
use crate::{conv2d, every_second_taps3x3, layer_norm, layer_norm_both, linear, outputs, plain};

/// Of float32.
const ROUNDING: f64 = f32::EPSILON as f64 / 2.;

/// Random numbers that do not start where their memory does: at a multiple of four, or not.
fn shifted(seed: u64, shape: &[usize], offset: usize, dtype: DType) -> Tensor {
    around(0., seed, shape, offset, dtype)
}

/// The same around a mean.
fn around(mean: f64, seed: u64, shape: &[usize], offset: usize, dtype: DType) -> Tensor {
    let count: usize = shape.iter().product();
    (normal(seed, count + offset) + mean)
        .unwrap()
        .to_dtype(dtype)
        .unwrap()
        .narrow(0, offset, count)
        .unwrap()
        .reshape(shape)
        .unwrap()
}

fn expected(values: impl IntoIterator<Item = (f64, f64)>) -> Vec<Expected> {
    values
        .into_iter()
        .map(|(value, slack)| Expected { value, slack })
        .collect()
}

fn in_f32(tensor: &Tensor) -> Tensor {
    tensor.to_dtype(DType::F32).unwrap().contiguous().unwrap()
}

/// What the CPU makes in float32, rounded once.
fn rounded(tensor: &Tensor, dtype: DType) -> Vec<f64> {
    flat(&tensor.to_dtype(dtype).unwrap())
}

/// By the definition: of every row with its scale and shift, and what float32 may lose.
fn normalised(rows: &[f64], scale: &[f64], shift: &[f64], eps: f64) -> Vec<(f64, f64)> {
    let dim = scale.len();
    let row = |row: &[f64]| -> Vec<(f64, f64)> {
        let mean = row.iter().sum::<f64>() / dim as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / dim as f64;
        let inverse = 1. / (variance + eps).sqrt();
        let largest = row.iter().fold(0f64, |most, x| most.max(x.abs()));
        let value = |(i, x): (usize, &f64)| {
            let value = (x - mean) * inverse * scale[i] + shift[i];
            // A mean that is off by a few roundings of its largest term moves every value.
            let slack = ROUNDING * (16. * largest * inverse * scale[i].abs() + 8. * value.abs());
            (value, slack + ROUNDING * shift[i].abs())
        };
        row.iter().enumerate().map(value).collect()
    };
    rows.chunks_exact(dim).flat_map(row).collect()
}

#[test]
fn layer_norms_of_every_width_run_alone_and_of_both_halves() {
    let shader = &layer_norm::shader::SHADER;
    let mut batch = Batch::default();
    // Shorter than a SIMD group; no multiple of four; more than a lane keeps, single and by four.
    for (rows, dim) in [(1, 4), (5, 31), (7, 768), (3, 300), (40, 64), (2, 1540)] {
        for dtype in DTYPES {
            for (parts, turn, offset) in [(1, 0, 0), (1, 0, 3), (2, 0, 4), (2, 1, 0)] {
                // Far from zero, where one pass would lose the variance.
                let x = around(3., rows as u64, &[parts, rows, dim], offset, dtype);
                let scale = normal(1, (parts, 1, dim));
                let shift = normal(2, (parts, 1, dim));
                let op = LayerNorm {
                    eps: 1e-6,
                    parts,
                    turn,
                };
                let wide = in_f32(&x);
                let cpu = if parts == 1 {
                    let of_one = |t: &Tensor| t.i((0, 0)).unwrap();
                    layer_norm(&wide, &of_one(&scale), &of_one(&shift), op.eps)
                } else {
                    layer_norm_both(&wide, &scale, &shift, op.eps, turn == 1)
                };
                let eps = f64::from(op.eps);
                let of_part = |part: usize| {
                    let rows = flat(&x.get((part + turn) % parts).unwrap());
                    let of = |t: &Tensor| flat(&t.get(part).unwrap());
                    normalised(&rows, &of(&scale), &of(&shift), eps)
                };
                let plan = layer_norm::shader::plan(
                    &op,
                    x.layout(),
                    scale.layout(),
                    shift.layout(),
                    dtype,
                )
                .unwrap();
                let want = Want {
                    name: format!("layer_norm {parts}x{rows}x{dim} turn {turn} {dtype:?}"),
                    dtype,
                    expected: expected((0..parts).flat_map(of_part)),
                    cpu: rounded(&cpu.unwrap(), dtype),
                };
                let reads = [("x", &x), ("scale", &scale), ("shift", &shift)];
                batch.add(shader, &plan, &reads, want);
            }
        }
    }
    batch.finish(shader);
}

/// The error function by its power series; of large arguments 1.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.2 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2. * n + 1.);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

#[test]
fn products_are_finished_in_place_in_every_combination() {
    let shader = &linear::shader::SHADER;
    let mut batch = Batch::default();
    let activations = [Activation::Identity, Activation::Relu, Activation::Gelu];
    for (parts, rows, columns) in [(1, 1, 1), (1, 9, 12), (2, 5, 30), (2, 3, 64), (1, 70, 256)] {
        for (dtype, activation) in DTYPES
            .into_iter()
            .flat_map(|dtype| activations.map(|activation| (dtype, activation)))
        {
            for (bias, residual) in [(true, true), (true, false), (false, true)] {
                let shape = [parts, rows, columns];
                let product = (shifted(1, &shape, 0, dtype) * 2.).unwrap();
                let biases = shifted(2, &[parts, 1, columns], 4, dtype);
                let residuals = shifted(3, &shape, 4, dtype);
                let op = Finish {
                    activation,
                    bias,
                    residual,
                };
                let wide = plain::finish(
                    in_f32(&product),
                    bias.then(|| in_f32(&biases)).as_ref(),
                    activation,
                    residual.then(|| in_f32(&residuals)).as_ref(),
                );
                let (added, onto) = (flat(&biases), flat(&residuals));
                let value = |(index, x): (usize, f64)| {
                    let part = index / columns / rows;
                    let own = added[part * columns + index % columns];
                    let x = x + if bias { own } else { 0. };
                    let y = match activation {
                        Activation::Identity => x,
                        Activation::Relu => x.max(0.),
                        Activation::Gelu => 0.5 * x * (1. + erf(x / 2f64.sqrt())),
                    };
                    let value = y + if residual { onto[index] } else { 0. };
                    // The error function is good to 4e-7.
                    let slack = 8. * ROUNDING * (x.abs() + value.abs()) + 4e-7 * x.abs();
                    (value, slack)
                };
                let plan = linear::shader::plan(
                    &op,
                    product.layout(),
                    biases.layout(),
                    residuals.layout(),
                    dtype,
                )
                .unwrap();
                let want = Want {
                    name: format!("finish {shape:?} {activation:?} {bias} {residual} {dtype:?}"),
                    dtype,
                    expected: expected(flat(&product).into_iter().enumerate().map(value)),
                    cpu: rounded(&wide.unwrap(), dtype),
                };
                let reads = [
                    ("product", &product),
                    ("bias", &biases),
                    ("residual", &residuals),
                ];
                batch.add(shader, &plan, &reads, want);
            }
        }
    }
    batch.finish(shader);
}

#[test]
fn points_and_confidences_come_of_a_heads_numbers() {
    let shader = &outputs::shader::GEOMETRY;
    let mut batch = Batch::default();
    for (pixels, scale) in [(1, 1.), (300, 0.01), (513, 1.), (64, 4.), (40, 1e-6)] {
        let raw = (normal(pixels as u64, (1, pixels, 1, 4)) * scale).unwrap();
        // A distance of nothing, and one where the series ends.
        let mut values = flat(&raw);
        values[..3].fill(0.);
        if pixels > 2 {
            values[4..7].copy_from_slice(&[1., 0., 0.]);
        }
        let values: Vec<f32> = values.into_iter().map(|x| x as f32).collect();
        let raw = Tensor::from_vec(values, (1, pixels, 1, 4), &Device::Cpu).unwrap();
        let [points, confidence] = geometry_maps(&raw).unwrap();
        let numbers = flat(&raw);
        let (four, _) = numbers.as_chunks::<4>();
        let points_of = |&[x, y, z, _]: &[f64; 4]| {
            let d = (x * x + y * y + z * z).sqrt();
            let scale = if d > 0. { d.exp_m1() / d } else { 1. };
            [x, y, z].map(|x| {
                let value = x * scale;
                (value, 16. * ROUNDING * value.abs() * (1. + d))
            })
        };
        let confidence_of = |[.., raw]: &[f64; 4]| {
            let value = 1. + raw.exp();
            (value, 8. * ROUNDING * value * (1. + raw.abs()))
        };
        let all = four
            .iter()
            .flat_map(points_of)
            .chain(four.iter().map(confidence_of));
        let plan = outputs::shader::geometry(&GeometryMaps { pixels }, raw.layout()).unwrap();
        let want = Want {
            name: format!("geometry_maps of {pixels} times {scale}"),
            dtype: DType::F32,
            expected: expected(all),
            cpu: [flat(&points), flat(&confidence)].concat(),
        };
        batch.add(shader, &plan, &[("geometry", &raw)], want);
    }
    batch.finish(shader);
}

#[test]
fn tokens_open_into_descriptors_of_unit_length() {
    let shader = &outputs::shader::DESCRIPTORS;
    let mut batch = Batch::default();
    for (images, grid, patch, channels, confidence_floor) in [
        (1, [1, 1], 1, 1, None),
        (2, [2, 3], 4, 24, Some(0.5)),
        (1, [3, 2], 5, 7, Some(0.)),
        (1, [4, 5], 16, 24, None),
    ] {
        let maps = DescriptorMaps {
            grid,
            patch,
            channels,
            confidence_floor,
        };
        let count = grid[0] * grid[1];
        let shape = [images, count, maps.numbers() * patch * patch];
        let tokens = shifted(7, &shape, 5, DType::F32);
        let (descriptors, confidence) = descriptor_maps(&tokens, maps).unwrap();
        let mut cpu = flat(&descriptors);
        cpu.extend(confidence.iter().flat_map(flat));
        // The CPU's op is itself held against the plain expression, and has float32's roundings too.
        let slack = |&value: &f64| (value, 8. * ROUNDING * (1. + value.abs()));
        let plan = outputs::shader::descriptors(&maps, tokens.layout()).unwrap();
        let want = Want {
            name: format!("descriptor_maps {maps:?}"),
            dtype: DType::F32,
            expected: expected(cpu.iter().map(slack)),
            cpu,
        };
        batch.add(shader, &plan, &[("tokens", &tokens)], want);
    }
    batch.finish(shader);
}

#[test]
fn taps_of_every_second_pixel_are_gathered() {
    let shader = &conv2d::shader::SHADER;
    let mut batch = Batch::default();
    for dims in [[1, 1, 1, 4], [2, 3, 5, 3], [2, 4, 6, 8], [1, 5, 4, 12]] {
        for dtype in DTYPES {
            let x = shifted(5, &dims, 4, dtype);
            let taps = flat(&every_second_taps3x3(&x).unwrap());
            let op = conv2d::taps::Taps {
                first_row: 0,
                rows: dims[0] * dims[1].div_ceil(2),
                step: 2,
                relu: false,
            };
            let plan = conv2d::shader::plan(&op, x.layout(), dtype).unwrap();
            let want = Want {
                name: format!("every second taps {dims:?} {dtype:?}"),
                dtype,
                expected: expected(taps.iter().map(|&tap| (tap, 0.))),
                cpu: taps,
            };
            batch.add(shader, &plan, &[("x", &x)], want);
        }
    }
    batch.finish(shader);
}
