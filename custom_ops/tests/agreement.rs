//! Every op in every dtype on every device that this build has and this machine offers, against a
//! plain loop in f64.
//!
//! `cargo test -p mast3r-custom-ops --features cuda --test agreement -- --nocapture` says which
//! devices ran; with `MAST3R_REQUIRE_GPU=1` a GPU that does not answer fails the tests.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

mod common;
mod devices;

use candle_core::{DType, Device, IndexOp as _, Result, Tensor};
use common::{Expected, Source, Step};
use custom_ops::{
    HeadNorms, Padding, RopeTable, grid_sample, plain, rope2d, rope2d_pair,
    rope2d_pair_of_normalised, upsample_bilinear2d, upsample_bilinear2d_onto,
};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// The CPU and, under their features, the GPUs that answer.
fn devices() -> Vec<Device> {
    let mut found = vec![Device::Cpu];
    if cfg!(feature = "cuda") {
        found.extend(devices::gpu("CUDA", Device::new_cuda(0)));
    }
    if cfg!(feature = "metal") {
        found.extend(devices::gpu("Metal", Device::new_metal(0)));
    }
    println!("devices: {found:?}");
    found
}

/// The view that `source` describes, in `dtype` on `device`.
fn tensor(source: &Source, dtype: DType, device: &Device) -> Tensor {
    let whole = Tensor::from_slice(&source.values, source.shape.as_slice(), &Device::Cpu).unwrap();
    let whole = whole.to_dtype(dtype).unwrap().to_device(device).unwrap();
    let view = source.steps.iter().fold(whole, |tensor, step| {
        match *step {
            Step::Narrow {
                axis,
                start,
                length,
            } => tensor.narrow(axis, start, length),
            Step::Select { axis, index } => tensor
                .narrow(axis, index, 1)
                .and_then(|tensor| tensor.squeeze(axis)),
            Step::Transpose(a, b) => tensor.transpose(a, b),
            Step::Repeat { axis, count } => {
                let mut dims = tensor.dims().to_vec();
                dims[axis] = count;
                tensor.broadcast_as(dims)
            }
        }
        .unwrap()
    });
    let (_, layout) = view.storage_and_layout();
    let strided = source.view();
    assert_eq!(
        (layout.dims(), layout.start_offset()),
        (strided.dims.as_slice(), strided.offset),
        "{source:?}"
    );
    view
}

/// The values row major, from any device.
fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_device(&Device::Cpu)
        .unwrap()
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Fills memory of the next output's size with NaN and frees it, so that elements which a kernel
/// forgets to write are not right by chance.
fn poison(elements: usize, dtype: DType, device: &Device) {
    let poison = Tensor::full(f32::NAN, elements, &Device::Cpu).unwrap();
    drop(poison.to_dtype(dtype).unwrap().to_device(device).unwrap());
}

/// Half the distance between neighbouring values of `dtype` at `value`.
fn half_step(dtype: DType, value: f64) -> f64 {
    let (digits, smallest_exponent) = match dtype {
        DType::F32 => (24, -126),
        DType::F16 => (11, -14),
        _ => (8, -126),
    };
    let exponent = if value == 0. {
        smallest_exponent
    } else {
        (value.abs().log2().floor() as i32).max(smallest_exponent)
    };
    f64::from(exponent - digits).exp2()
}

/// Every breach of every case; fails at the end, so that one run shows the pattern.
#[derive(Default)]
struct Report {
    compared: usize,
    breaches: Vec<String>,
}

impl Report {
    /// `got` should have `dims` and the dtype of the input, and be no farther from `expected` than
    /// float32 arithmetic and one rounding to its dtype allow.
    fn compare(
        &mut self,
        case: &str,
        got: &Tensor,
        dtype: DType,
        dims: &[usize],
        expected: &[Expected],
    ) {
        let case = format!(
            "{case}, {} on {:?}",
            dtype.as_str(),
            got.device().location()
        );
        assert_eq!((got.dims(), got.dtype()), (dims, dtype), "{case}");
        assert!(
            got.is_contiguous(),
            "{case}: strides {:?} of {dims:?}",
            got.stride()
        );
        let got = flat(got);
        assert_eq!(got.len(), expected.len(), "{case}");
        self.compared += 1;
        let mut worst: Option<(f64, usize)> = None;
        for (index, (&got, want)) in got.iter().zip(expected).enumerate() {
            let excess = (got - want.value).abs() / allowed(dtype, want);
            // What is not a number is as far as can be.
            let excess = if excess.is_nan() {
                f64::INFINITY
            } else {
                excess
            };
            if excess > worst.map_or(1., |(most, _)| most) {
                worst = Some((excess, index));
            }
        }
        if let Some((_, index)) = worst {
            let want = expected[index];
            self.breaches.push(format!(
                "{case}: {} at {:?}, should be {} within {:.1e}",
                got[index],
                place(index, dims),
                want.value,
                allowed(dtype, &want)
            ));
        }
    }

    fn finish(self, least: usize) {
        assert!(
            self.compared >= least,
            "{} comparisons, {least} expected",
            self.compared
        );
        let shown = self
            .breaches
            .iter()
            .take(20)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n");
        assert!(
            self.breaches.is_empty(),
            "{} of {} wrong:\n{shown}",
            self.breaches.len(),
            self.compared
        );
    }
}

/// The rounding of float32 arithmetic, then one to the nearest value of `dtype`.
fn allowed(dtype: DType, want: &Expected) -> f64 {
    want.slack + half_step(dtype, want.value.abs() + want.slack)
}

/// The indices along `dims` of an element counted row major.
fn place(mut index: usize, dims: &[usize]) -> Vec<usize> {
    let mut place = vec![0; dims.len()];
    for (axis, &dim) in dims.iter().enumerate().rev() {
        place[axis] = index % dim;
        index /= dim;
    }
    place
}

#[test]
fn tokens_turn_by_the_angles_of_their_places() {
    let (cases, devices, mut report) = (common::rope2d::cases(), devices(), Report::default());
    for case in &cases {
        let dims = case.q.dims();
        for device in &devices {
            let table = RopeTable::new(&case.positions, dims[3], case.base, device).unwrap();
            for dtype in DTYPES {
                let q = tensor(&case.q, dtype, device);
                poison(q.elem_count(), dtype, device);
                let got = rope2d(&q, &table).unwrap();
                report.compare(
                    &format!("rope2d {}", case.name),
                    &got,
                    dtype,
                    &dims,
                    &case.expected(&flat(&q)),
                );
            }
        }
    }
    report.finish(cases.len() * devices.len() * DTYPES.len());
}

#[test]
fn a_pair_turns_as_two_single_tensors_do_bit_for_bit() {
    let devices = devices();
    for case in common::rope2d::cases() {
        let dim = case.q.dims()[3];
        for device in &devices {
            let table = RopeTable::new(&case.positions, dim, case.base, device).unwrap();
            for dtype in DTYPES {
                let (q, k) = (
                    tensor(&case.q, dtype, device),
                    tensor(&case.k, dtype, device),
                );
                let singles = [rope2d(&q, &table).unwrap(), rope2d(&k, &table).unwrap()];
                poison(2 * q.elem_count(), dtype, device);
                let pair = rope2d_pair(&q, &k, &table).unwrap();
                for (name, pair, single) in
                    [("q", &pair.0, &singles[0]), ("k", &pair.1, &singles[1])]
                {
                    assert!(pair.is_contiguous());
                    assert_eq!((pair.dims(), pair.dtype()), (q.dims(), dtype));
                    // Equal values are equal bits: no sum here is a negative zero in one form only.
                    assert_eq!(
                        flat(pair),
                        flat(single),
                        "{name} of {} in {dtype:?} on {device:?}",
                        case.name
                    );
                }
            }
        }
    }
}

#[test]
fn a_pair_is_normalised_before_it_turns() {
    const EPS: f32 = 1e-5;
    for case in common::rope2d::cases() {
        let dim = case.q.dims()[3];
        for device in &devices() {
            let part = |from: f64| {
                let values = (0..dim).map(|i| (from + i as f64).sin() as f32);
                Tensor::from_vec(values.collect::<Vec<_>>(), dim, device).unwrap()
            };
            let parts = [1., 2., 3., 4.].map(part);
            let [a, b, c, d] = &parts;
            let norms = HeadNorms::new([a, b], [c, d], EPS).unwrap();
            let table = RopeTable::new(&case.positions, dim, case.base, device).unwrap();
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 4e-3), (DType::BF16, 3e-2)]
            {
                // On a CPU norms are float32, as its activations.
                if device.is_cpu() && dtype != DType::F32 {
                    continue;
                }
                let sources = [&case.q, &case.k].map(|source| tensor(source, dtype, device));
                poison(2 * sources[0].elem_count(), dtype, device);
                let got = rope2d_pair_of_normalised(&sources[0], &sources[1], &norms, &table);
                let got: [Tensor; 2] = got.unwrap().into();
                for ((got, source), (scale, shift)) in
                    got.iter().zip(&sources).zip([(a, b), (c, d)])
                {
                    let wide = source.to_dtype(DType::F32).unwrap();
                    let normal = plain::layer_norm(&wide, scale, shift, EPS).unwrap();
                    let factors = plain::RopeFactors::new(&table, DType::F32).unwrap();
                    let want = flat(&plain::rope2d(&normal, &factors).unwrap());
                    assert_eq!((got.dims(), got.dtype()), (source.dims(), dtype));
                    let largest = want.iter().map(|x| x.abs()).fold(0., f64::max);
                    for (got, want) in flat(got).iter().zip(&want) {
                        assert!(
                            (got - want).abs() <= tolerance * largest,
                            "{got} and {want}: {} in {dtype:?} on {device:?}",
                            case.name
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_pair_may_lie_in_two_ways() {
    let (device, mut report) = (Device::Cpu, Report::default());
    let cases = common::rope2d::cases();
    for pair in cases
        .chunks(2)
        .filter(|pair| pair.len() == 2 && pair[0].q.dims() == pair[1].q.dims())
    {
        let table = RopeTable::new(
            &pair[0].positions,
            pair[0].q.dims()[3],
            pair[0].base,
            &device,
        )
        .unwrap();
        for dtype in DTYPES {
            let (q, k) = (
                tensor(&pair[0].q, dtype, &device),
                tensor(&pair[1].q, dtype, &device),
            );
            let (turned_q, turned_k) = rope2d_pair(&q, &k, &table).unwrap();
            let name = |case: &common::rope2d::Case| format!("rope2d_pair {}", case.name);
            report.compare(
                &name(&pair[0]),
                &turned_q,
                dtype,
                q.dims(),
                &pair[0].expected(&flat(&q)),
            );
            report.compare(
                &name(&pair[1]),
                &turned_k,
                dtype,
                k.dims(),
                &pair[0].expected(&flat(&k)),
            );
        }
    }
    report.finish(2 * DTYPES.len());
}

#[test]
fn maps_of_any_size_are_resampled_in_both_conventions() {
    let (cases, devices, mut report) = (
        common::upsample_bilinear2d::cases(),
        devices(),
        Report::default(),
    );
    for case in &cases {
        let mut dims = case.input.dims();
        dims[1..3].copy_from_slice(&case.to);
        for device in &devices {
            for dtype in DTYPES {
                let input = tensor(&case.input, dtype, device);
                poison(dims.iter().product(), dtype, device);
                let got = upsample_bilinear2d(&input, case.to[0], case.to[1], case.align_corners)
                    .unwrap();
                let name = format!("upsample_bilinear2d {}", case.name);
                report.compare(&name, &got, dtype, &dims, &case.expected(&flat(&input)));
            }
        }
    }
    report.finish(cases.len() * devices.len() * DTYPES.len());
}

#[test]
fn samples_on_between_and_outside_pixels_fade_or_repeat() {
    let (cases, devices, mut report) = (common::grid_sample::cases(), devices(), Report::default());
    for case in &cases {
        let mut dims = case.input.dims();
        dims[1..3].copy_from_slice(&case.grid.dims()[1..3]);
        let padding = if case.border {
            Padding::Border
        } else {
            Padding::Zeros
        };
        for device in &devices {
            let grid = tensor(&case.grid, DType::F32, device);
            for dtype in DTYPES {
                let input = tensor(&case.input, dtype, device);
                poison(dims.iter().product(), dtype, device);
                let got = grid_sample(&input, &grid, padding, case.align_corners).unwrap();
                let name = format!("grid_sample {}", case.name);
                report.compare(&name, &got, dtype, &dims, &case.expected(&flat(&input)));
            }
        }
    }
    report.finish(cases.len() * devices.len() * DTYPES.len());
}

#[test]
fn what_is_not_a_number_stays_so_and_what_is_too_large_does_not_wrap() {
    for device in devices() {
        for dtype in DTYPES {
            let values =
                Tensor::from_slice(&[1f32, f32::NAN, -2., 0.5], (1, 1, 4, 1), &Device::Cpu)
                    .unwrap();
            let map = values.to_dtype(dtype).unwrap().to_device(&device).unwrap();
            let grid =
                Tensor::from_slice(&[-1f32, 0., -1. / 3., 0., 1., 0.], (1, 1, 3, 2), &device)
                    .unwrap();
            let resampled = flat(&upsample_bilinear2d(&map, 1, 4, true).unwrap());
            let sampled = flat(&grid_sample(&map, &grid, Padding::Border, true).unwrap());
            assert!(
                resampled[1].is_nan() && resampled[3] == 0.5,
                "{resampled:?} in {dtype:?} on {device:?}"
            );
            assert!(
                sampled[1].is_nan() && sampled[2] == 0.5,
                "{sampled:?} in {dtype:?} on {device:?}"
            );

            // Turned by a radian, the first of two that turn together shrinks, the second outgrows
            // the dtype.
            let largest = if dtype == DType::F16 {
                65504f32
            } else {
                3.3e38
            };
            let tokens = Tensor::full(largest, (1, 1, 1, 4), &Device::Cpu).unwrap();
            let tokens = tokens.to_dtype(dtype).unwrap().to_device(&device).unwrap();
            let table = RopeTable::new(&[[1., 1.]], 4, 100., &device).unwrap();
            let turned = flat(&rope2d(&tokens, &table).unwrap());
            // CUDA's kernels keep float16 finite, whose range residual streams can outgrow.
            let too_large = match device.is_cuda() && dtype == DType::F16 {
                true => 65504.0,
                false => f64::INFINITY,
            };
            assert!(
                turned[0].is_finite() && turned[1] == too_large,
                "{turned:?} in {dtype:?} on {device:?}"
            );
        }
    }
}

/// The message of a refusal, which must hold every part.
#[track_caller]
fn refused<T>(result: Result<T>, parts: &[&str]) {
    let Err(error) = result else {
        panic!("accepted, should be refused with {parts:?}")
    };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

fn zeros(dims: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(dims, dtype, &Device::Cpu).unwrap()
}

#[test]
fn rope2d_refuses_what_it_cannot_turn() {
    let table = RopeTable::grid(2, 3, 8, 100., &Device::Cpu).unwrap();
    let good = zeros(&[1, 6, 2, 8], DType::F32);
    let turn = |dims: &[usize], dtype| rope2d(&zeros(dims, dtype), &table);
    refused(
        turn(&[6, 2, 8], DType::F32),
        &[
            "rope2d",
            "tokens",
            "(batch, tokens, heads, dim)",
            "[6, 2, 8]",
        ],
    );
    refused(
        turn(&[0, 6, 2, 8], DType::F32),
        &["rope2d", "tokens", "[0, 6, 2, 8]", "empty"],
    );
    refused(
        turn(&[1, 6, 2, 8], DType::F64),
        &["rope2d", "tokens", "f16", "f64"],
    );
    refused(
        turn(&[1, 6, 2, 8], DType::U32),
        &["rope2d", "tokens", "f16", "u32"],
    );
    refused(
        turn(&[1, 5, 2, 8], DType::F32),
        &["rope2d", "tokens", "5 tokens of dim 8", "6 of dim 8"],
    );
    refused(
        turn(&[1, 6, 2, 4], DType::F32),
        &["rope2d", "tokens", "6 tokens of dim 4", "6 of dim 8"],
    );
    let pair = |dims: &[usize], dtype| rope2d_pair(&good, &zeros(dims, dtype), &table);
    refused(
        pair(&[1, 6, 3, 8], DType::F32),
        &["rope2d", "q [1, 6, 2, 8]", "k [1, 6, 3, 8]"],
    );
    refused(
        pair(&[1, 6, 2, 8], DType::F16),
        &["rope2d", "q [1, 6, 2, 8] f32", "k [1, 6, 2, 8] f16"],
    );
    refused(
        rope2d_pair(&zeros(&[1, 4, 2, 8], DType::F32), &good, &table),
        &["rope2d", "q", "4 tokens", "6 of dim 8"],
    );
}

#[test]
fn a_map_is_resampled_onto_what_a_batch_shares() {
    for case in &common::upsample_bilinear2d::cases() {
        for device in &devices() {
            for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F16, 2e-3), (DType::BF16, 2e-2)]
            {
                let x = tensor(&case.input, dtype, device);
                let (channels, [height, width]) = (x.dims()[3], case.to);
                let base = Tensor::arange(0f32, (height * width * channels) as f32, device)
                    .and_then(|values| values.sin()?.reshape((1, height, width, channels)))
                    .and_then(|values| values.to_dtype(dtype))
                    .unwrap();
                let alone = upsample_bilinear2d(&x, height, width, true).unwrap();
                poison(alone.elem_count(), dtype, device);
                let got = upsample_bilinear2d_onto(&base, &x, true).unwrap();
                assert_eq!((got.dims(), got.dtype()), (alone.dims(), dtype));
                let base = flat(&base);
                for (at, (got, alone)) in flat(&got).iter().zip(flat(&alone)).enumerate() {
                    let want = alone + base[at % base.len()];
                    assert!(
                        (got - want).abs() <= tolerance * (1.0 + alone.abs()),
                        "{got} and {want}: {} in {dtype:?} on {device:?}",
                        case.name
                    );
                }
            }
        }
    }
    let onto = |dims: &[usize], dtype| {
        upsample_bilinear2d_onto(&zeros(dims, dtype), &zeros(&[2, 3, 3, 4], DType::F32), true)
    };
    refused(onto(&[2, 6, 6, 4], DType::F32), &["[2, 6, 6, 4]"]);
    refused(onto(&[1, 6, 6, 5], DType::F32), &["[1, 6, 6, 5]"]);
    refused(onto(&[1, 6, 6, 4], DType::F16), &["f32", "f16"]);
}

#[test]
fn upsample_bilinear2d_refuses_what_it_cannot_resample() {
    let to = |dims: &[usize], dtype, height, width| {
        upsample_bilinear2d(&zeros(dims, dtype), height, width, true)
    };
    let op = "upsample_bilinear2d";
    refused(
        to(&[2, 3, 4], DType::F32, 2, 2),
        &[op, "input", "(batch, height, width, channels)", "[2, 3, 4]"],
    );
    refused(
        to(&[1, 0, 3, 4], DType::F32, 2, 2),
        &[op, "input", "[1, 0, 3, 4]", "empty"],
    );
    refused(
        to(&[1, 2, 3, 4], DType::F64, 2, 2),
        &[op, "input", "bf16", "f64"],
    );
    refused(
        to(&[1, 2, 3, 4], DType::F32, 0, 5),
        &[op, "input", "[1, 2, 3, 4]", "0x5", "empty"],
    );
    refused(
        to(&[1, 2, 3, 4], DType::F32, 5, 0),
        &[op, "input", "[1, 2, 3, 4]", "5x0", "empty"],
    );
    refused(
        to(&[1, 2, 3, 4], DType::F32, 1 << 15, 1 << 15),
        &[op, "input", "[1, 2, 3, 4]", "32768x32768", "large"],
    );
}

#[test]
fn grid_sample_refuses_what_it_cannot_sample() {
    let sample = |input: &[usize], dtype, grid: &Tensor| {
        grid_sample(&zeros(input, dtype), grid, Padding::Zeros, false)
    };
    let (op, map) = ("grid_sample", [2, 3, 4, 5]);
    let grid = |dims: &[usize]| zeros(dims, DType::F32);
    let good = grid(&[2, 6, 7, 2]);
    refused(
        sample(&[3, 4, 5], DType::F32, &good),
        &[op, "input", "(batch, height, width, channels)", "[3, 4, 5]"],
    );
    refused(
        sample(&[2, 3, 0, 5], DType::F32, &good),
        &[op, "input", "[2, 3, 0, 5]", "empty"],
    );
    refused(
        sample(&map, DType::F64, &good),
        &[op, "input", "bf16", "f64"],
    );
    refused(
        sample(&map, DType::F32, &grid(&[2, 6, 2])),
        &[op, "grid", "(batch, to_height, to_width, 2)", "[2, 6, 2]"],
    );
    refused(
        sample(&map, DType::F32, &grid(&[2, 6, 7, 3])),
        &[op, "grid", "2)", "[2, 6, 7, 3]"],
    );
    refused(
        sample(&map, DType::F32, &grid(&[2, 0, 7, 2])),
        &[op, "grid", "[2, 0, 7, 2]", "empty"],
    );
    refused(
        sample(&map, DType::F32, &grid(&[1, 6, 7, 2])),
        &[op, "batch", "[2, 3, 4, 5]", "[1, 6, 7, 2]"],
    );
    refused(
        sample(&map, DType::F16, &zeros(&[2, 6, 7, 2], DType::F16)),
        &[op, "grid", "f32", "f16"],
    );
    let everywhere = grid(&[2, 1, 1, 2])
        .broadcast_as((2, 1 << 14, 1 << 14, 2))
        .unwrap();
    refused(
        sample(&map, DType::F32, &everywhere),
        &[op, "[2, 3, 4, 5]", "[2, 16384, 16384, 2]", "too large"],
    );
    // A part of a grid that is accepted, so that none of the above is refused for another reason.
    assert!(sample(&map, DType::F32, &good.i((.., 1..3, ..4)).unwrap()).is_ok());
}
