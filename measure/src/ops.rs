//! Our operations beside the plain expressions that they replace.

use std::time::Instant;

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use custom_ops::{GPU_HEAD_DIM, Padding, RopeTable, Storage, plain};

use crate::{OpRow, Summary};
use mast3r::Result;
use mast3r::runtime::{Precision, Runtime};

/// Series of calls, of each of which one time is kept.
const SERIES: usize = 7;
/// Base of the rotary embedding's frequencies, as in the networks.
const ROPE_BASE: f32 = 100.0;

/// A call of an operation; the result is kept until the next one.
type Call = Box<dyn Fn() -> TensorResult<Vec<Tensor>>>;

/// An operation at a shape, ours and the plain expression.
struct Contest {
    op: &'static str,
    shape: String,
    /// What has to be read and written.
    bytes: usize,
    ours: Call,
    plain: Call,
}

/// Times every operation in the runtime's precision, at the shapes of the published page and of the
/// networks; each series lasts `series_ms`, ours and the plain expression in turn. `begin` is told
/// each operation's name.
///
/// # Errors
/// Of the device.
pub fn measure_ops(
    runtime: &Runtime,
    series_ms: f64,
    mut begin: impl FnMut(&str),
) -> Result<Vec<OpRow>> {
    let mut rows = Vec::new();
    for contest in contests(runtime)? {
        begin(contest.op);
        rows.push(contest.row(runtime, series_ms)?);
    }
    Ok(rows)
}

impl Contest {
    fn row(&self, runtime: &Runtime, series_ms: f64) -> Result<OpRow> {
        let device = runtime.device();
        let calls = [&self.ours, &self.plain];
        let mut counts = [1; 2];
        for (call, count) in calls.into_iter().zip(&mut counts) {
            series(device, call, 2)?;
            let once = series(device, call, 2)?;
            *count = ((series_ms / once).ceil() as usize).clamp(1, 20_000);
        }
        let mut runs = [Vec::with_capacity(SERIES), Vec::with_capacity(SERIES)];
        for _ in 0..SERIES {
            for ((call, &count), runs) in calls.into_iter().zip(&counts).zip(&mut runs) {
                runs.push(series(device, call, count)?);
            }
        }
        let [runs_ms, plain_runs_ms] = runs;
        let median = |runs: &[f64]| Summary::of(runs).map_or(f64::NAN, |summary| summary.median);
        let (median_ms, plain_median_ms) = (median(&runs_ms), median(&plain_runs_ms));
        Ok(OpRow {
            op: self.op.into(),
            shape: self.shape.clone(),
            precision: runtime.precision().to_string(),
            device: runtime.device_name(),
            threads: rayon::current_num_threads(),
            gb_per_s: self.bytes as f64 / median_ms / 1e6,
            runs_ms,
            median_ms,
            plain_runs_ms,
            plain_median_ms,
        })
    }
}

/// Milliseconds of one call, of `count` in a row.
fn series(device: &Device, call: &Call, count: usize) -> Result<f64> {
    device.synchronize()?;
    let start = Instant::now();
    for _ in 0..count {
        std::hint::black_box(call()?);
    }
    device.synchronize()?;
    Ok(1e3 * start.elapsed().as_secs_f64() / count as f64)
}

fn contests(runtime: &Runtime) -> Result<Vec<Contest>> {
    let device = runtime.device();
    let dtype = runtime.precision().dtype();
    if device.is_cpu() && runtime.precision() != Precision::F32 {
        // Activations on the CPU are float32 whatever the precision; only products see it.
        return Ok(vec![attention([1, 1344, 16], runtime)?]);
    }
    let mut contests = vec![
        rope(1, [32, 42], 16, dtype, device)?,
        rope_pair(1, [32, 42], 16, dtype, device)?,
        upsample([32, 42, 256], [64, 84], dtype, device)?,
        upsample([192, 256, 128], [384, 512], dtype, device)?,
        sample([24, 24, 768], [32, 42], dtype, device)?,
        layer_norm([1344, 1024], dtype, device)?,
    ];
    // On GPUs the kernel is for half precision; Metal has Candle's.
    if device.is_cpu() || device.is_cuda() && runtime.precision() != Precision::F32 {
        contests.push(attention([1, 1344, 16], runtime)?);
    }
    Ok(contests)
}

fn rope(
    batch: usize,
    [rows, columns]: [usize; 2],
    heads: usize,
    dtype: DType,
    device: &Device,
) -> Result<Contest> {
    let tokens = random(&[batch, rows * columns, heads, GPU_HEAD_DIM], dtype, device)?;
    let table = RopeTable::grid(rows, columns, GPU_HEAD_DIM, ROPE_BASE, device)?;
    let factors = plain::RopeFactors::new(&table, dtype)?;
    let other = tokens.clone();
    Ok(Contest {
        op: "rope2d",
        shape: format!("{batch}x{}x{heads}x{GPU_HEAD_DIM}", rows * columns),
        bytes: 2 * bytes(&tokens) + bytes(table.tensor()),
        ours: Box::new(move || Ok(vec![custom_ops::rope2d(&tokens, &table)?])),
        plain: Box::new(move || Ok(vec![plain::rope2d(&other, &factors)?])),
    })
}

/// Queries and keys as the networks have them: two thirds of one projection, strided.
fn rope_pair(
    batch: usize,
    [rows, columns]: [usize; 2],
    heads: usize,
    dtype: DType,
    device: &Device,
) -> Result<Contest> {
    let qkv = random(
        &[batch, rows * columns, 3, heads, GPU_HEAD_DIM],
        dtype,
        device,
    )?;
    let (q, k) = (qkv.get_on_dim(2, 0)?, qkv.get_on_dim(2, 1)?);
    let table = RopeTable::grid(rows, columns, GPU_HEAD_DIM, ROPE_BASE, device)?;
    let factors = plain::RopeFactors::new(&table, dtype)?;
    let bytes = 4 * bytes(&q) + bytes(table.tensor());
    let (other_q, other_k) = (q.clone(), k.clone());
    Ok(Contest {
        op: "rope2d_pair",
        shape: format!(
            "2 of {batch}x{}x{heads}x{GPU_HEAD_DIM}, strided",
            rows * columns
        ),
        bytes,
        ours: Box::new(move || custom_ops::rope2d_pair(&q, &k, &table).map(|(q, k)| vec![q, k])),
        plain: Box::new(move || {
            Ok(vec![
                plain::rope2d(&other_q, &factors)?,
                plain::rope2d(&other_k, &factors)?,
            ])
        }),
    })
}

fn upsample(
    [h, w, c]: [usize; 3],
    [to_h, to_w]: [usize; 2],
    dtype: DType,
    device: &Device,
) -> Result<Contest> {
    let x = random(&[1, h, w, c], dtype, device)?;
    let other = x.clone();
    Ok(Contest {
        op: "upsample_bilinear2d",
        shape: format!("{h}x{w}x{c} to {to_h}x{to_w}"),
        bytes: bytes(&x) + bytes(&x) / (h * w) * to_h * to_w,
        ours: Box::new(move || Ok(vec![custom_ops::upsample_bilinear2d(&x, to_h, to_w, true)?])),
        plain: Box::new(move || Ok(vec![plain::upsample_bilinear2d(&other, to_h, to_w, true)?])),
    })
}

fn sample(
    [h, w, c]: [usize; 3],
    [to_h, to_w]: [usize; 2],
    dtype: DType,
    device: &Device,
) -> Result<Contest> {
    let x = random(&[1, h, w, c], dtype, device)?;
    let places =
        (Tensor::rand(-1_f32, 1.0, (1, to_h, to_w, 2), &Device::Cpu)? * 0.95)?.to_device(device)?;
    let bytes = bytes(&x) + bytes(&places) + bytes(&x) / (h * w) * to_h * to_w;
    let (other, other_places) = (x.clone(), places.clone());
    Ok(Contest {
        op: "grid_sample",
        shape: format!("{h}x{w}x{c} at {to_h}x{to_w}"),
        bytes,
        ours: Box::new(move || {
            Ok(vec![custom_ops::grid_sample(
                &x,
                &places,
                Padding::Zeros,
                false,
            )?])
        }),
        plain: Box::new(move || {
            Ok(vec![plain::grid_sample(
                &other,
                &other_places,
                Padding::Zeros,
                false,
            )?])
        }),
    })
}

fn layer_norm([rows, dim]: [usize; 2], dtype: DType, device: &Device) -> Result<Contest> {
    let x = random(&[1, rows, dim], dtype, device)?;
    let (scale, shift) = (
        random(&[dim], DType::F32, device)?,
        random(&[dim], DType::F32, device)?,
    );
    let (other, other_scale, other_shift) = (x.clone(), scale.clone(), shift.clone());
    Ok(Contest {
        op: "layer_norm",
        shape: format!("{rows}x{dim}"),
        bytes: 2 * bytes(&x) + 2 * bytes(&scale),
        ours: Box::new(move || Ok(vec![custom_ops::layer_norm(&x, &scale, &shift, 1e-6)?])),
        plain: Box::new(move || {
            Ok(vec![plain::layer_norm(
                &other,
                &other_scale,
                &other_shift,
                1e-6,
            )?])
        }),
    })
}

/// The precision of our own products on the CPU.
pub(crate) fn storage(precision: Precision) -> Storage {
    match precision {
        Precision::F32 | Precision::Tf32 => Storage::F32,
        Precision::F16 => Storage::F16,
        Precision::Bf16 => Storage::Bf16,
        Precision::Int8 => Storage::Int8,
    }
}

fn attention([batch, tokens, heads]: [usize; 3], runtime: &Runtime) -> Result<Contest> {
    let precision = storage(runtime.precision());
    // The CPU's activations are float32 whatever the precision.
    let dtype = if runtime.device().is_cpu() {
        DType::F32
    } else {
        runtime.precision().dtype()
    };
    let qkv = random(
        &[batch, tokens, 3, heads, GPU_HEAD_DIM],
        dtype,
        runtime.device(),
    )?;
    let (q, k, v) = (
        qkv.get_on_dim(2, 0)?,
        qkv.get_on_dim(2, 1)?,
        qkv.get_on_dim(2, 2)?,
    );
    let (other_q, other_k, other_v) = (q.clone(), k.clone(), v.clone());
    Ok(Contest {
        op: "attention",
        shape: format!("{batch}x{tokens}x{heads}x{GPU_HEAD_DIM}"),
        bytes: bytes(&qkv) / 3 * 4,
        ours: Box::new(move || Ok(vec![custom_ops::attention(&q, &k, &v, precision)?])),
        plain: Box::new(move || Ok(vec![plain::attention(&other_q, &other_k, &other_v)?])),
    })
}

fn random(shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    Ok(Tensor::randn(0_f32, 1.0, shape, device)?.to_dtype(dtype)?)
}

fn bytes(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mast3r::runtime::DeviceChoice;

    #[test]
    fn both_sides_of_every_contest_give_the_same() {
        for precision in [Precision::F32, Precision::Bf16] {
            let runtime = Runtime::new(DeviceChoice::Cpu, precision).unwrap();
            for contest in contests(&runtime).unwrap() {
                let (ours, plain) = ((contest.ours)().unwrap(), (contest.plain)().unwrap());
                assert_eq!(ours.len(), plain.len(), "{}", contest.op);
                for (ours, plain) in ours.iter().zip(&plain) {
                    let values = |t: &Tensor| -> Vec<f32> {
                        t.to_dtype(DType::F32)
                            .unwrap()
                            .flatten_all()
                            .unwrap()
                            .to_vec1()
                            .unwrap()
                    };
                    let (pearson, error) = crate::compare_values(&values(plain), &values(ours));
                    // Places are rounded to float32 in another order, on maps of up to 512 pixels a
                    // side; three roundings to eight bits of mantissa in the plain expressions of
                    // bfloat16.
                    let most = if precision == Precision::F32 {
                        5e-5
                    } else {
                        2e-2
                    };
                    assert!(
                        error < most && pearson > 0.9999,
                        "{} {precision}: {error}, r {pearson}",
                        contest.op
                    );
                }
            }
        }
    }
}
