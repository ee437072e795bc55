//! The kernels around a library's matrix product on a GPU, against plain expressions in float32 on
//! the CPU: attention, layer norm, the finish of a product and the taps of a convolution, in every
//! dtype, at every edge.
//!
//! Without the feature `cuda` or `metal` or without a GPU there is nothing to compare, and the test
//! says so, or fails if `MAST3R_REQUIRE_GPU=1` asks for one. On the CPU these ops have tests of their own
//! beside them.

#![cfg(any(feature = "cuda", feature = "metal"))]
// A panic is how a test fails, in its helpers too.
#![allow(clippy::unwrap_used)]

mod devices;

use candle_core::{DType, Device, Tensor};
use custom_ops::{
    Activation, DescriptorMaps, GPU_HEAD_DIM, Numbers, Storage, attention, descriptor_maps,
    every_second_taps3x3, finish, geometry_maps, has_attention, has_implicit_conv3x3,
    implicit_conv3x3, layer_norm, layer_norm_both, measuring_products, plain, product, taps3x3,
};

/// Every test's device, opened as the program does it.
fn gpu() -> Option<Device> {
    #[cfg(feature = "cuda")]
    return devices::gpu("CUDA", custom_ops::open_cuda(0));
    #[cfg(not(feature = "cuda"))]
    devices::gpu("Metal", Device::new_metal(0))
}

/// Rounded to `dtype`, in float32 on the CPU: what both sides start from.
fn random(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::randn(0f32, 1., shape, &Device::Cpu)
        .unwrap()
        .to_dtype(dtype)
        .unwrap()
        .to_dtype(DType::F32)
        .unwrap()
}

fn upload(tensor: &Tensor, dtype: DType, device: &Device) -> Tensor {
    tensor.to_dtype(dtype).unwrap().to_device(device).unwrap()
}

/// The largest difference must be within `ulps` half units in the last place of the largest result,
/// or of `terms`, what it is the sum of, where these may cancel.
fn assert_close_to_sum(
    what: &str,
    got: &Tensor,
    want: &Tensor,
    dtype: DType,
    ulps: f32,
    terms: f32,
) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let got = got
        .to_device(&Device::Cpu)
        .unwrap()
        .to_dtype(DType::F32)
        .unwrap();
    let largest = |t: &Tensor| {
        t.abs()
            .unwrap()
            .flatten_all()
            .unwrap()
            .max(0)
            .unwrap()
            .to_scalar::<f32>()
            .unwrap()
    };
    let unit = match dtype {
        DType::F16 => 2f32.powi(-11),
        DType::BF16 => 2f32.powi(-8),
        _ => 2f32.powi(-24),
    };
    // A NaN in the result fails the comparison.
    let gap = largest(&(&got - want).unwrap());
    let allowed = ulps * unit * largest(want).max(terms);
    assert!(
        gap <= allowed,
        "{what} {}: gap {gap:.1e}, allowed {allowed:.1e}",
        dtype.as_str()
    );
}

fn assert_close(what: &str, got: &Tensor, want: &Tensor, dtype: DType, ulps: f32) {
    assert_close_to_sum(what, got, want, dtype, ulps, 1e-3);
}

#[test]
fn attention_equals_the_plain_expression_at_every_edge() {
    let Some(device) = gpu() else { return };
    let (heads, dim) = (3, GPU_HEAD_DIM);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (batch, queries, keys) in [
            (1, 1, 1),
            (2, 63, 65),
            (1, 64, 64),
            (1, 65, 128),
            (2, 200, 7),
            (1, 768, 581),
        ] {
            let q = random(&[batch, queries, heads, dim], dtype);
            // k and v as two thirds of one projection: strided views.
            let kv = random(&[batch, keys, 3, heads, dim], dtype);
            let on_gpu = upload(&kv, dtype, &device);
            let gpu_q = upload(&q, dtype, &device);
            if !has_attention(&gpu_q) {
                continue;
            }
            let got = attention(
                &gpu_q,
                &on_gpu.get_on_dim(2, 1).unwrap(),
                &on_gpu.get_on_dim(2, 2).unwrap(),
                Storage::F32,
            );
            let (k, v) = (kv.get_on_dim(2, 1).unwrap(), kv.get_on_dim(2, 2).unwrap());
            let want = attention(&q, &k, &v, Storage::F32).unwrap();
            // Weights are rounded before the second product, and the result once more; in float32
            // sums have another order.
            let ulps = if dtype == DType::F32 { 64. } else { 3. };
            assert_close(
                &format!("{batch} x {queries} by {keys}"),
                &got.unwrap(),
                &want,
                dtype,
                ulps,
            );
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let Some(device) = gpu() else { return };
    let q =
        (Tensor::ones((1, 70, 1, GPU_HEAD_DIM), DType::F32, &Device::Cpu).unwrap() * 200.).unwrap();
    for dtype in [DType::F16, DType::BF16] {
        let on_gpu = upload(&q, dtype, &device);
        let got = attention(&on_gpu, &on_gpu, &on_gpu, Storage::F32).unwrap();
        // As above: weights and result are rounded.
        assert_close("all alike", &got, &q.flatten_from(2).unwrap(), dtype, 3.);
    }
}

#[test]
fn layer_norm_equals_the_cpu_s() {
    let Some(device) = gpu() else { return };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (rows, dim) in [(1, 1), (3, 17), (9, 24), (5, 384), (1537, 768), (7, 1024)] {
            // Far from zero: the mean must be subtracted before squares are summed.
            let x = (random(&[rows, dim], dtype) + 20.)
                .unwrap()
                .to_dtype(dtype)
                .unwrap()
                .to_dtype(DType::F32)
                .unwrap();
            let (scale, shift) = (random(&[dim], DType::F32), random(&[dim], DType::F32));
            let on_gpu = |t: &Tensor| upload(t, DType::F32, &device);
            let got = layer_norm(
                &upload(&x, dtype, &device),
                &on_gpu(&scale),
                &on_gpu(&shift),
                1e-6,
            )
            .unwrap();
            let want = layer_norm(&x, &scale, &shift, 1e-6).unwrap();
            // Float32: the mean of 20 costs five bits, twice.
            let ulps = if dtype == DType::F32 { 256. } else { 1.1 };
            assert_close(&format!("{rows} x {dim}"), &got, &want, dtype, ulps);
        }
    }
}

#[test]
fn a_product_is_finished_in_every_combination() {
    let Some(device) = gpu() else { return };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (rows, columns) in [(1, 1), (3, 5), (7, 8), (33, 12), (130, 768)] {
            let product = random(&[rows, columns], dtype);
            let (bias, residual) = (random(&[columns], dtype), random(&[rows, columns], dtype));
            for activation in [Activation::Identity, Activation::Relu, Activation::Gelu] {
                for (with_bias, with_residual) in [(true, true), (true, false), (false, true)] {
                    let got = upload(&product, dtype, &device);
                    let (gpu_bias, gpu_residual) = (
                        upload(&bias, dtype, &device),
                        upload(&residual, dtype, &device),
                    );
                    let gpu_bias = with_bias.then_some(&gpu_bias);
                    finish(
                        &got,
                        gpu_bias,
                        activation,
                        with_residual.then_some(&gpu_residual),
                    )
                    .unwrap();
                    let (bias, residual) = (
                        with_bias.then_some(&bias),
                        with_residual.then_some(&residual),
                    );
                    let want = plain::finish(product.clone(), bias, activation, residual).unwrap();
                    let what = format!(
                        "{rows} x {columns} {activation:?} bias {with_bias} residual {with_residual}"
                    );
                    // Half dtypes round once; float32 has Candle's and CUDA's erf between.
                    let ulps = if dtype == DType::F32 { 8. } else { 1.1 };
                    assert_close_to_sum(&what, &got, &want, dtype, ulps, 1.);
                }
            }
        }
    }
}

#[test]
fn taps_are_the_neighbours_of_every_pixel() {
    let Some(device) = gpu() else { return };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (batch, height, width, channels) in
            [(1, 1, 1, 1), (2, 3, 5, 4), (1, 4, 3, 7), (2, 6, 7, 16)]
        {
            let x = random(&[batch, height, width, channels], dtype);
            // All rows at once, and a band that begins and ends inside images.
            for (first, rows) in [
                (0, batch * height),
                (height / 2, (batch * height).div_ceil(2)),
            ] {
                let got = taps3x3(&upload(&x, dtype, &device), first, rows, true).unwrap();
                let want = plain::taps3x3(&x, first, rows, true).unwrap();
                assert_close(
                    &format!("{batch} x {height} x {width} x {channels}"),
                    &got,
                    &want,
                    dtype,
                    0.,
                );
            }
        }
    }
}

#[test]
fn taps_of_every_second_pixel_are_those_of_the_cpu() {
    let Some(device) = gpu() else { return };
    for size in [[1, 1, 1, 1], [2, 3, 5, 4], [2, 6, 8, 16]] {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let x = random(&size, dtype);
            let got = every_second_taps3x3(&upload(&x, dtype, &device)).unwrap();
            let want = every_second_taps3x3(&x).unwrap();
            assert_close(&format!("{size:?}"), &got, &want, dtype, 0.);
        }
    }
}

#[test]
fn norms_of_both_halves_have_scales_of_their_own() {
    let Some(device) = gpu() else { return };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (rows, dim) in [(1, 17), (5, 384), (9, 1536)] {
            let x = random(&[2, rows, dim], dtype);
            let values = || random(&[2, 1, dim], DType::F32);
            let (scale, shift) = (values(), values());
            let on_gpu = |t: &Tensor| upload(t, DType::F32, &device);
            for crossed in [false, true] {
                let got = layer_norm_both(
                    &upload(&x, dtype, &device),
                    &on_gpu(&scale),
                    &on_gpu(&shift),
                    1e-6,
                    crossed,
                );
                let want = layer_norm_both(&x, &scale, &shift, 1e-6, crossed).unwrap();
                let ulps = if dtype == DType::F32 { 16. } else { 1.1 };
                let what = format!("{rows} x {dim}, crossed {crossed}");
                assert_close(&what, &got.unwrap(), &want, dtype, ulps);
            }
        }
    }
}

#[test]
fn the_library_s_products_end_as_plain_ones() {
    let Some(device) = gpu() else { return };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (parts, rows, input, output) in [(1, 5, 64, 32), (2, 33, 128, 64), (2, 768, 768, 2304)]
        {
            let x = random(&[parts, rows, input], dtype);
            let weight = random(&[parts, output, input], dtype);
            let (bias, residual) = (
                random(&[parts, 1, output], dtype),
                random(&[parts, rows, output], dtype),
            );
            let plain = x.matmul(&weight.transpose(1, 2).unwrap()).unwrap();
            let with_bias = plain.broadcast_add(&bias).unwrap();
            let on_gpu = |t: &Tensor, dtype| upload(t, dtype, &device);
            let gpu_weight = on_gpu(&weight, dtype).transpose(1, 2).unwrap();
            for wide in [false, true] {
                let numbers = Numbers { wide, tf32: false };
                let added = if wide { DType::F32 } else { dtype };
                let (x, bias) = (on_gpu(&x, dtype), on_gpu(&bias, added));
                let gpu_residual = on_gpu(&residual, added);
                let cases = [
                    (None, false, None, plain.clone()),
                    (Some(&bias), false, None, with_bias.clone()),
                    (Some(&bias), true, None, with_bias.relu().unwrap()),
                    (
                        Some(&bias),
                        false,
                        Some(&gpu_residual),
                        (&with_bias + &residual).unwrap(),
                    ),
                ];
                for (bias, relu, gpu_residual, want) in cases {
                    let got = product(&x, &gpu_weight, bias, relu, gpu_residual, numbers).unwrap();
                    assert_eq!(got.dtype(), added);
                    let what = format!(
                        "{parts} x {rows} x {input} x {output}, bias {}, relu {relu}, residual {}",
                        bias.is_some(),
                        gpu_residual.is_some()
                    );
                    // Sums of as many products in another order, which are rounded as often, and the
                    // rounding of the result; Candle's product on Metal is rounded before it is widened.
                    let rounded = if device.is_metal() { dtype } else { added };
                    let ulps = 16f32.max(2. * (input as f32).sqrt());
                    assert_close(&what, &got, &want, rounded, ulps);
                }
            }
        }
    }
}

#[test]
fn measured_products_have_the_bits_of_suggested_ones() {
    let Some(device) = gpu() else { return };
    for (rows, input, output) in [(581, 768, 2304), (581, 3072, 768), (2688, 1024, 1024)] {
        let (x, weight, residual) = (
            random(&[rows, input], DType::BF16),
            random(&[output, input], DType::BF16),
            random(&[rows, output], DType::BF16),
        );
        let up = |t: &Tensor| upload(t, DType::BF16, &device);
        let (x, weight, residual) = (up(&x), up(&weight).t().unwrap(), up(&residual));
        let bias = up(&random(&[output], DType::BF16));
        let run = || {
            let numbers = Numbers::default();
            let made = product(&x, &weight, Some(&bias), false, Some(&residual), numbers).unwrap();
            let values = made.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
            values.to_vec1::<f32>().unwrap()
        };
        let suggested = run();
        assert!(
            measuring_products(run) == suggested,
            "{rows} x {input} x {output}"
        );
        assert!(
            run() == suggested,
            "{rows} x {input} x {output}, once chosen"
        );
    }
}

#[test]
fn implicit_convolutions_end_as_plain_ones() {
    let Some(device) = gpu() else { return };
    for dtype in [DType::F16, DType::BF16] {
        for (size, input, output, parts) in [
            ([2, 9, 19], 96, 64, 2),
            ([1, 1, 1], 8, 128, 1),
            ([2, 24, 32], 256, 256, 1),
            ([4, 33, 40], 64, 128, 2),
        ] {
            if !has_implicit_conv3x3(&device, dtype, input, output) {
                println!("skipped: no kernel for this GPU");
                return;
            }
            let [batch, height, width] = size;
            let x = random(&[batch, height, width, input], dtype);
            let weight = random(&[parts, output, input, 3, 3], dtype);
            let bias = random(&[parts, 1, output], dtype);
            let residual = random(&[batch, height, width, output], dtype);
            let convolved = (0..parts).map(|part| {
                let maps = batch / parts;
                let x = x.narrow(0, part * maps, maps).unwrap();
                let product = plain::conv3x3(&x, &weight.get(part).unwrap()).unwrap();
                let bias = bias.get(part).unwrap().get(0).unwrap();
                product.broadcast_add(&bias).unwrap()
            });
            let convolved = Tensor::cat(&convolved.collect::<Vec<_>>(), 0).unwrap();
            let want = (convolved.relu().unwrap() + &residual).unwrap();
            let taps = weight
                .permute((0, 3, 4, 1, 2))
                .unwrap()
                .contiguous()
                .unwrap();
            let taps = taps.reshape((parts, 9, output, input)).unwrap();
            let on_gpu = |t: &Tensor| upload(t, dtype, &device);
            let got = implicit_conv3x3(
                &on_gpu(&x),
                &on_gpu(&taps),
                Some(&on_gpu(&bias)),
                true,
                Some(&on_gpu(&residual)),
            );
            let what = format!("{size:?} {input} to {output} in {parts}");
            assert_close(&what, &got.unwrap(), &want, dtype, 1.5);
        }
    }
}

#[test]
fn a_heads_maps_are_those_of_the_cpu() {
    let Some(device) = gpu() else { return };
    let geometry = random(&[2, 9, 50, 4], DType::F32);
    let got = geometry_maps(&upload(&geometry, DType::F32, &device)).unwrap();
    let want = geometry_maps(&geometry).unwrap();
    for (got, want) in got.iter().zip(&want) {
        assert_close("geometry", got, want, DType::F32, 32.);
    }
    let maps = DescriptorMaps {
        grid: [3, 5],
        patch: 16,
        channels: 24,
        confidence_floor: Some(0.),
    };
    let tokens = random(&[2, 15, 25 * 256], DType::F32);
    let (got, got_confidence) =
        descriptor_maps(&upload(&tokens, DType::F32, &device), maps).unwrap();
    let (want, want_confidence) = descriptor_maps(&tokens, maps).unwrap();
    assert_close("descriptors", &got, &want, DType::F32, 32.);
    let (got, want) = (got_confidence.unwrap(), want_confidence.unwrap());
    assert_close("confidences", &got, &want, DType::F32, 32.);
}
