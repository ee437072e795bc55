//! `rope2d`, `upsample_bilinear2d` and `grid_sample` at the shapes of the networks, on every device
//! that this build has and this machine offers, beside the plain Candle expressions that they
//! replace.
//!
//! `cargo bench -p mast3r-custom-ops --bench ops` measures with Criterion, both sides of a
//! comparison one after the other, and ends with a table of the medians; a word after `--` picks
//! the rows that have it in their name. Many calls are timed together, with one wait for the device
//! after the last, and so is the release of their outputs. On Linux the allocator keeps what is
//! freed, as in the program: both sides are spared the system's clearing of new pages.
//!
//! On the CPU Candle's threads meet at barriers where they spin: with any other work beside them
//! they take many times as long, and on few cores they do so now and then on a quiet machine. The
//! last column forgives that: it compares our median with the other's best sample.

// A failed op ends the benchmark.
#![allow(clippy::unwrap_used, missing_docs)]

mod memory;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor};
use criterion::{Criterion, Throughput};
use custom_ops::plain::{self, AxisTaps, RopeFactors};
use custom_ops::{
    Padding, RopeTable, grid_sample, instruction_set, rope2d, rope2d_pair, upsample_bilinear2d,
};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// The op and the expressions that it replaces, ours first; each returns all its outputs.
type Contender<'a> = (&'static str, Box<dyn Fn() -> Result<Vec<Tensor>> + 'a>);

/// One line of the table.
struct Row {
    name: String,
    dtype: DType,
    device: String,
    bytes: usize,
    timings: Vec<(&'static str, Timing)>,
}

/// Seconds of one call.
struct Timing {
    median: f64,
    /// The mean of the best of Criterion's samples.
    best: f64,
}

struct Bench {
    criterion: Criterion,
    folder: PathBuf,
    device: Device,
    device_name: String,
    dtype: DType,
    rows: Vec<Row>,
}

impl Bench {
    /// Measures the contenders, which read and write `bytes`, unless the command line picks other
    /// rows.
    fn row(&mut self, name: &str, bytes: usize, contenders: &[Contender<'_>]) {
        let group_name = format!("{name} {} {}", self.dtype.as_str(), self.device_name);
        let mut group = self.criterion.benchmark_group(&group_name);
        group.throughput(Throughput::Bytes(bytes as u64));
        let mut timings = Vec::new();
        for (contender, run) in contenders {
            let mut ran = false;
            group.bench_function(*contender, |bencher| {
                ran = true;
                bencher.iter_custom(|calls| {
                    let start = Instant::now();
                    for _ in 0..calls {
                        black_box(run().unwrap());
                    }
                    self.device.synchronize().unwrap();
                    start.elapsed()
                });
            });
            // What the command line left out may have been saved by an earlier run.
            if ran {
                timings.push((*contender, saved(&self.folder, &group_name, contender)));
            }
        }
        group.finish();
        let (name, device) = (name.to_string(), self.device_name.clone());
        self.rows.push(Row {
            name,
            dtype: self.dtype,
            device,
            bytes,
            timings,
        });
    }

    fn random(&self, shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1., shape, &Device::Cpu)
            .unwrap()
            .to_dtype(self.dtype)
            .unwrap()
            .to_device(&self.device)
            .unwrap()
    }

    fn bytes(&self, elements: usize) -> usize {
        elements * self.dtype.size_in_bytes()
    }

    fn rope(&mut self, batch: usize, [rows, columns]: [usize; 2], heads: usize) {
        let count = rows * columns;
        let qkv = self.random(&[batch, count, 3, heads, 64]);
        let third = |index| qkv.narrow(2, index, 1).unwrap().squeeze(2).unwrap();
        let (q, k) = (third(0), third(1));
        let table = RopeTable::grid(rows, columns, 64, 100., &self.device).unwrap();
        let factors = RopeFactors::new(&table, self.dtype).unwrap();
        let bytes = 2 * self.bytes(q.elem_count()) + 4 * table.tensor().elem_count();
        let shape = format!("{batch}x{count}x{heads}x64");
        self.row(
            &format!("rope2d {shape}"),
            bytes,
            &[
                ("ours", Box::new(|| Ok(vec![rope2d(&q, &table)?]))),
                ("plain", Box::new(|| Ok(vec![plain::rope2d(&q, &factors)?]))),
            ],
        );
        let bytes = 4 * self.bytes(q.elem_count()) + 4 * table.tensor().elem_count();
        self.row(
            &format!("rope2d_pair {shape}"),
            bytes,
            &[
                (
                    "ours",
                    Box::new(|| rope2d_pair(&q, &k, &table).map(|(q, k)| vec![q, k])),
                ),
                (
                    "plain",
                    Box::new(|| {
                        Ok(vec![
                            plain::rope2d(&q, &factors)?,
                            plain::rope2d(&k, &factors)?,
                        ])
                    }),
                ),
            ],
        );
    }

    fn upsample(
        &mut self,
        [height, width]: [usize; 2],
        channels: usize,
        [to_height, to_width]: [usize; 2],
    ) {
        let x = self.random(&[1, height, width, channels]);
        let first = x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        let rows = AxisTaps::new([height, to_height], 1, true, self.dtype, &self.device).unwrap();
        let columns = AxisTaps::new([width, to_width], 2, true, self.dtype, &self.device).unwrap();
        let bytes = self.bytes(x.elem_count() + to_height * to_width * channels);
        self.row(
            &format!("upsample {height}x{width}x{channels} to {to_height}x{to_width}"),
            bytes,
            &[
                (
                    "ours",
                    Box::new(|| Ok(vec![upsample_bilinear2d(&x, to_height, to_width, true)?])),
                ),
                (
                    "plain",
                    Box::new(|| Ok(vec![columns.blend(&rows.blend(&x)?)?])),
                ),
                (
                    "Candle's, channels first",
                    Box::new(|| Ok(vec![first.upsample_bilinear2d(to_height, to_width, true)?])),
                ),
            ],
        );
    }

    fn sample(
        &mut self,
        [height, width]: [usize; 2],
        channels: usize,
        [to_height, to_width]: [usize; 2],
    ) {
        let x = self.random(&[1, height, width, channels]);
        // Places about where a resampled map would have them, scattered over a tenth of the map.
        let scatter = Tensor::randn(0f32, 0.05, (to_height, to_width, 2), &Device::Cpu).unwrap();
        let places: Vec<f32> = (0..to_height * to_width)
            .flat_map(|i| {
                let along = |i: usize, n: usize| (2 * i + 1) as f32 / n as f32 - 1.;
                [
                    along(i % to_width, to_width),
                    along(i / to_width, to_height),
                ]
            })
            .collect();
        let places = Tensor::from_vec(places, (to_height, to_width, 2), &Device::Cpu).unwrap();
        let grid = (places + scatter)
            .unwrap()
            .unsqueeze(0)
            .unwrap()
            .to_device(&self.device)
            .unwrap();
        let bytes =
            self.bytes(x.elem_count() + to_height * to_width * channels) + 4 * grid.elem_count();
        self.row(
            &format!("grid_sample {height}x{width}x{channels} at {to_height}x{to_width}"),
            bytes,
            &[
                (
                    "ours",
                    Box::new(|| Ok(vec![grid_sample(&x, &grid, Padding::Border, false)?])),
                ),
                (
                    "plain",
                    Box::new(|| Ok(vec![plain::grid_sample(&x, &grid, Padding::Border, false)?])),
                ),
            ],
        );
    }
}

/// The CPU and, under their features, the GPUs that answer.
fn devices() -> Vec<(String, Device)> {
    let mut devices = vec![(
        format!("CPU, {} threads", rayon::current_num_threads()),
        Device::Cpu,
    )];
    let mut add = |name: &str, open: fn(usize) -> Result<Device>| match open(0) {
        Ok(device) => devices.push((name.to_string(), device)),
        Err(error) => println!("skipped {name}: {error}"),
    };
    #[cfg(feature = "cuda")]
    add("CUDA", custom_ops::open_cuda);
    if cfg!(feature = "metal") {
        add("Metal", Device::new_metal);
    }
    devices
}

/// What Criterion saved of a contender.
fn saved(folder: &Path, group: &str, contender: &str) -> Timing {
    // Criterion names folders after the ids, with an underscore for what a file system may refuse.
    let plain = |id: &str| id.replace(['?', '"', '/', '\\', '*', '<', '>', ':', '|', '^'], "_");
    let folder = folder.join(plain(group)).join(plain(contender)).join("new");
    let json = |name: &str| -> serde_json::Value {
        let file = folder.join(name);
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        serde_json::from_str(&text).unwrap()
    };
    let (estimates, samples) = (json("estimates.json"), json("sample.json"));
    let numbers = |name: &str| {
        samples[name]
            .as_array()
            .unwrap()
            .iter()
            .map(|number| number.as_f64().unwrap())
    };
    let best = numbers("times")
        .zip(numbers("iters"))
        .map(|(time, calls)| time / calls)
        .fold(f64::INFINITY, f64::min);
    Timing {
        median: 1e-9 * estimates["median"]["point_estimate"].as_f64().unwrap(),
        best: 1e-9 * best,
    }
}

fn print_table(rows: &[Row]) {
    println!(
        "\n| op and shape | dtype | device | ours, ms | GB/s | against | its ms | its best | speed-up | against its best |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for row in rows {
        let [("ours", ours), others @ ..] = row.timings.as_slice() else {
            continue;
        };
        for (name, other) in others {
            println!(
                "| {} | {} | {} | {:.3} | {:.1} | {name} | {:.3} | {:.3} | {:.1}x | {:.1}x |",
                row.name,
                row.dtype.as_str(),
                row.device,
                1e3 * ours.median,
                1e-9 * row.bytes as f64 / ours.median,
                1e3 * other.median,
                1e3 * other.best,
                other.median / ours.median,
                other.best / ours.median
            );
        }
    }
}

fn main() {
    memory::keep_freed_blocks();
    let folder = std::env::var_os("CRITERION_HOME").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("criterion"),
        PathBuf::from,
    );
    let mut rows = Vec::new();
    for (device_name, device) in devices() {
        for dtype in DTYPES {
            let criterion = Criterion::default()
                .output_directory(&folder)
                .sample_size(20)
                .warm_up_time(Duration::from_millis(300))
                .measurement_time(Duration::from_millis(800))
                .configure_from_args();
            let (folder, device, device_name) =
                (folder.clone(), device.clone(), device_name.clone());
            let mut bench = Bench {
                criterion,
                folder,
                device,
                device_name,
                dtype,
                rows: Vec::new(),
            };
            bench.rope(1, [32, 42], 16);
            bench.rope(2, [24, 32], 16);
            bench.rope(1, [24, 32], 12);
            bench.upsample([32, 42], 256, [64, 84]);
            bench.upsample([24, 32], 256, [48, 64]);
            bench.upsample([192, 256], 128, [384, 512]);
            bench.sample([24, 24], 768, [32, 42]);
            bench.sample([384, 512], 2, [384, 512]);
            if !bench.device.is_cpu() {
                // Larger than any cache of a GPU, to see the share of the memory's bandwidth.
                bench.rope(32, [32, 42], 16);
                bench.sample([768, 1024], 64, [768, 1024]);
            }
            rows.append(&mut bench.rows);
        }
    }
    println!("\n{}, medians and best samples", instruction_set());
    print_table(&rows);
}
