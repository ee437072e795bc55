//! Sampling on the CPU: one task a row of places.

use candle_core::{CpuStorage, Layout, Result, bail};
use rayon::prelude::*;

use super::{GridSample, Padding};
use crate::cpu::element::Element;

/// `x` `(batch, height, width, channels)` with contiguous channels at `grid`, contiguous float32.
pub(super) fn forward(
    op: &GridSample,
    x: &CpuStorage,
    layout: &Layout,
    grid: &CpuStorage,
    grid_layout: &Layout,
) -> Result<CpuStorage> {
    let CpuStorage::F32(grid) = grid else { bail!("grid_sample: grid must be f32") };
    let grid = &grid[grid_layout.start_offset()..];
    match x {
        CpuStorage::F32(x) => Ok(CpuStorage::F32(sampled(op, x, layout, grid)?)),
        CpuStorage::F16(x) => Ok(CpuStorage::F16(sampled(op, x, layout, grid)?)),
        CpuStorage::BF16(x) => Ok(CpuStorage::BF16(sampled(op, x, layout, grid)?)),
        _ => bail!("grid_sample: input must be f32, f16 or bf16"),
    }
}

/// The two pixels of an axis that a place lies between, with their weights; a weight of 0 where it lies outside.
fn taps(place: f32, size: usize, op: &GridSample) -> [(usize, f32); 2] {
    let last = (size - 1) as f32;
    let mut pixel = if op.align_corners { (place + 1.) / 2. * last } else { ((place + 1.) * size as f32 - 1.) / 2. };
    if op.padding == Padding::Border {
        // `max` first: it turns what is not a number into 0.
        pixel = pixel.max(0.).min(last);
    }
    // Beyond one pixel outside nothing is seen; a comparison with what is not a number fails.
    if !(pixel > -1. && pixel < size as f32) {
        return [(0, 0.), (0, 0.)];
    }
    let low = pixel.floor();
    let weight = pixel - low;
    let tap = |index: f32, weight: f32| {
        if index < 0. || index > last { (0, 0.) } else { (index as usize, weight) }
    };
    [tap(low, 1. - weight), tap(low + 1., weight)]
}

fn sampled<T: Element>(op: &GridSample, x: &[T], layout: &Layout, grid: &[f32]) -> Result<Vec<T>> {
    let (&[batch, height, width, channels], &[batch_stride, row_stride, column_stride, _]) =
        (layout.dims(), layout.stride())
    else {
        bail!("grid_sample: four axes expected");
    };
    let x = &x[layout.start_offset()..];
    let [to_height, to_width] = op.to;
    let mut out = vec![T::zero(); batch * to_height * to_width * channels];
    let rows = out.par_chunks_mut(to_width * channels).zip(grid.par_chunks(to_width * 2)).enumerate();
    rows.for_each_init(
        || vec![0f32; channels],
        |sum, (index, (out, grid))| {
            let image = &x[index / to_height * batch_stride..];
            for (out, place) in out.chunks_exact_mut(channels).zip(grid.chunks_exact(2)) {
                sum.fill(0.);
                for (row, row_weight) in taps(place[1], height, op) {
                    for (column, column_weight) in taps(place[0], width, op) {
                        let weight = row_weight * column_weight;
                        if weight == 0. {
                            continue;
                        }
                        let pixel = &image[row * row_stride + column * column_stride..][..channels];
                        for (sum, &value) in sum.iter_mut().zip(pixel) {
                            *sum += weight * value.widen();
                        }
                    }
                }
                for (out, &sum) in out.iter_mut().zip(sum.iter()) {
                    *out = T::round(sum);
                }
            }
        },
    );
    Ok(out)
}
