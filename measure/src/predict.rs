//! How long a network would take on an Apple GPU: predicted from what it does, never measured.
//!
//! One run on the CPU says what there is to do: the spans of its layers have operations and bytes.
//! [`Load::of`] turns them into what Metal would be given for the same run, launch by launch, and
//! [`Load::predicted_ms`] gives each launch the time that its bytes or its operations take, whichever
//! is longer, and an overhead (a roofline: Williams, Waterman, Patterson, CACM 52(4), 2009).

use std::fmt::Write as _;

use mast3r::runtime::Precision;

use super::case::Case;
use super::spans::{Recording, Span};
use super::suite;

/// An Apple GPU by what is published of it.
#[derive(Clone, Copy, Debug)]
pub struct Chip {
    /// Its name and, where there are several, its cores.
    pub name: &'static str,
    /// Memory bandwidth, GB/s.
    pub bandwidth: f64,
    /// Float32 operations, TFLOP/s; half precision is not faster on these GPUs.
    pub tflops: f64,
}

const fn chip(name: &'static str, bandwidth: f64, tflops: f64) -> Chip {
    Chip {
        name,
        bandwidth,
        tflops,
    }
}

/// Bandwidths are Apple's. Operations of the M1, M1 Pro and M1 Max are Apple's, the others 256 for
/// each core and cycle of the GPU with the most cores, at the clock that hmc-tech.com lists: M3 1.40,
/// M4 1.58, M4 Max 1.68 GHz; the M2 counts as the M3, the M4 Pro as the M4.
pub const CHIPS: &[Chip] = &[
    chip("M1", 68., 2.6),
    chip("M1 Pro", 200., 5.2),
    chip("M1 Max", 400., 10.4),
    chip("M2", 100., 3.6),
    chip("M3 Pro", 150., 6.4),
    chip("M3 Max", 400., 14.3),
    chip("M4", 120., 4.0),
    chip("M4 Pro", 273., 8.1),
    chip("M4 Max", 546., 17.2),
];

/// Of the published rates, what good kernels reach. On an M4 the products of Apple's own library
/// reach 2.9 TFLOP/s and copies 100 GB/s (Hübner et al., arXiv 2502.05317): 72 % and 83 %.
const PRODUCTS: f64 = 0.7;
const COPIES: f64 = 0.83;
/// Seconds from one launch to the next where it reads what the last one wrote: assumed.
const OVERHEAD: f64 = 5e-6;
/// Launches after which Candle hands a command buffer to the GPU.
const LAUNCHES_OF_BUFFER: usize = 50;
/// Bytes of the CPU's activations and weights.
const WIDTH: f64 = 4.;

/// What the GPU is given at once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Launch {
    bytes: f64,
    flop: f64,
}

/// What Metal is given for one run of a network.
#[derive(Clone, Debug, Default)]
pub struct Load {
    launches: Vec<Launch>,
}

impl Load {
    /// Of a run that was recorded on the CPU in float32, as it would be on Metal in `precision`:
    /// heads are float32 there. Decoder blocks and heads of both views are one batch.
    pub fn of(recording: &Recording, precision: Precision) -> Self {
        let mut load = Self::default();
        // Of the first and of the second view.
        let mut views = [Vec::new(), Vec::new()];
        for (index, span) in recording.spans().iter().enumerate() {
            let around = || recording.around(index);
            let in_head = around().any(|outer| outer.name == "head");
            let width = if in_head || precision == Precision::F32 {
                1.
            } else {
                precision.dtype().size_in_bytes() as f64 / WIDTH
            };
            let outer_view = || around().find_map(|outer| outer.number("view"));
            let view = span.number("view").or_else(outer_view);
            let to = match view {
                Some(1) => &mut views[0],
                Some(2) => &mut views[1],
                _ => &mut load.launches,
            };
            // Tokens become float32 before the four inputs of a head.
            if span.name == "head" && precision != Precision::F32 {
                to.extend([Launch::default(); 4]);
            }
            to.extend(launches(span).into_iter().map(|launch| Launch {
                bytes: launch.bytes * width,
                ..launch
            }));
        }
        let [first, second] = views;
        if first.len() == second.len() {
            let both = first.into_iter().zip(second).map(|(one, other)| Launch {
                bytes: one.bytes + other.bytes,
                flop: one.flop + other.flop,
            });
            load.launches.extend(both);
        } else {
            load.launches.extend(first.into_iter().chain(second));
        }
        load
    }

    /// Kernels and copies that are launched.
    pub fn launches(&self) -> usize {
        self.launches.len()
    }

    /// Command buffers that hold them.
    pub fn command_buffers(&self) -> usize {
        self.launches.len().div_ceil(LAUNCHES_OF_BUFFER)
    }

    /// Bytes that the launches read and write.
    pub fn bytes(&self) -> f64 {
        self.launches.iter().map(|launch| launch.bytes).sum()
    }

    /// Floating-point operations.
    pub fn flop(&self) -> f64 {
        self.launches.iter().map(|launch| launch.flop).sum()
    }

    /// Milliseconds on a chip: predicted, never measured.
    pub fn predicted_ms(&self, chip: &Chip) -> f64 {
        let bandwidth = chip.bandwidth * 1e9 * COPIES;
        let rate = chip.tflops * 1e12 * PRODUCTS;
        let time = |launch: &Launch| (launch.bytes / bandwidth).max(launch.flop / rate) + OVERHEAD;
        1e3 * self.launches.iter().map(time).sum::<f64>()
    }
}

/// What Metal is given for a layer, in bytes of float32.
fn launches(span: &Span) -> Vec<Launch> {
    let number = |field| span.number(field).unwrap_or_default() as f64;
    let (Some(_), bytes) = (span.number("bytes"), number("bytes")) else {
        return Vec::new();
    };
    let whole = Launch {
        bytes,
        flop: number("flop"),
    };
    match span.name {
        // Candle's product, then bias, activation and residual in place.
        "linear" | "conv3x3" => {
            let (input, output) = (number("input"), number("output"));
            let residual = if span.text("fused").contains("residual") {
                output
            } else {
                0.
            };
            let finish = (!span.text("fused").is_empty()).then_some(Launch {
                bytes: 2. * output + residual,
                flop: 0.,
            });
            let product = whole.bytes - residual;
            let mut all = Vec::new();
            if span.name == "linear" {
                all.push(Launch {
                    bytes: product,
                    ..whole
                });
            } else {
                // Nine taps of every pixel, gathered a band of rows at a time.
                let taps = 9. * input;
                let most = custom_ops::MOST_TAPS_ON_METAL as f64;
                let bands = (taps / most).ceil().max(1.);
                let gather = Launch {
                    bytes: (input + taps) / bands,
                    flop: 0.,
                };
                let multiply = Launch {
                    bytes: (product - input + taps) / bands,
                    flop: whole.flop / bands,
                };
                for _ in 0..bands as usize {
                    all.extend([gather, multiply]);
                }
                if bands > 1. {
                    all.push(Launch {
                        bytes: 2. * output,
                        flop: 0.,
                    });
                }
            }
            all.extend(finish);
            all
        }
        // Heads are put side by side again after it: a quarter is the output.
        "attention" => vec![
            whole,
            Launch {
                bytes: bytes / 2.,
                flop: 0.,
            },
        ],
        // Points, then descriptors.
        "postprocess" => vec![
            Launch {
                bytes: bytes / 2.,
                flop: whole.flop / 2.,
            };
            2
        ],
        // Kept from the image before.
        "positions" => Vec::new(),
        _ => vec![whole],
    }
}

/// A network, a size and a precision, and what Metal is given for them.
#[derive(Debug)]
pub struct Prediction {
    /// The case.
    pub case: Case,
    /// What there is to do.
    pub load: Load,
}

/// The predictions as a Markdown table, beside what others measured with MLX on an M4 Max where the
/// precision is float16.
pub fn prediction_table(predictions: &[Prediction]) -> String {
    let mut text = String::from("| network, size | launches | command buffers | GB | TFLOP |");
    for chip in CHIPS {
        let _ = write!(text, " {} |", chip.name);
    }
    text += " MLX, M4 Max |\n|---|--:|--:|--:|--:|";
    text += &"--:|".repeat(CHIPS.len() + 1);
    text.push('\n');
    for Prediction { case, load } in predictions {
        let _ = write!(
            text,
            "| `{}` {} {} | {} | {} | {:.2} | {:.3} |",
            case.network.name,
            case.resolution(),
            case.precision,
            load.launches(),
            load.command_buffers(),
            load.bytes() / 1e9,
            load.flop() / 1e12,
        );
        for chip in CHIPS {
            let ms = load.predicted_ms(chip);
            let digits = if ms < 100. { 1 } else { 0 };
            let _ = write!(text, " {ms:.digits$} |");
        }
        let published = suite::PUBLISHED
            .iter()
            .find(|row| (row.model, row.size) == (case.network.name, case.size))
            .filter(|_| case.precision == Precision::F16);
        match published {
            Some(row) => {
                let _ = writeln!(text, " {} |", row.mlx_ms);
            }
            None => text += "  |\n",
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use tracing::{debug_span, trace_span};

    use super::*;
    use crate::spans::record;

    fn recorded(work: impl FnOnce()) -> Recording {
        record(None, work).unwrap().1
    }

    fn linear(fused: Option<&str>) {
        let _span = trace_span!(
            "linear",
            fused,
            flop = 1000u64,
            input = 40u64,
            output = 80u64,
            bytes = 320u64
        )
        .entered();
    }

    #[test]
    fn a_layer_is_a_product_and_what_ends_it() {
        let load = Load::of(&recorded(|| linear(None)), Precision::F32);
        assert_eq!(
            (load.launches(), load.bytes(), load.flop()),
            (1, 320., 1000.)
        );
        // The residual is read by the second launch alone, which reads and writes the product.
        let work = || linear(Some("bias+residual"));
        let load = Load::of(&recorded(work), Precision::F32);
        assert_eq!((load.launches(), load.bytes()), (2, 240. + 3. * 80.));
        let half = Load::of(&recorded(work), Precision::F16);
        assert_eq!((half.bytes(), half.flop()), (load.bytes() / 2., 1000.));
    }

    #[test]
    fn both_views_are_one_batch_and_heads_stay_float32() {
        let work = || {
            for view in [1u64, 2] {
                debug_span!("dec_block", index = 0u64, view).in_scope(|| linear(None));
            }
            for view in [1u64, 2] {
                debug_span!("head", view).in_scope(|| linear(None));
            }
        };
        let load = Load::of(&recorded(work), Precision::F32);
        assert_eq!((load.launches(), load.flop()), (2, 4000.));
        assert_eq!(load.bytes(), 4. * 320.);
        let load = Load::of(&recorded(work), Precision::F16);
        // Four casts before the head.
        assert_eq!((load.launches(), load.bytes()), (6, 320. + 640.));
    }

    #[test]
    fn taps_are_gathered_in_bands_that_fit() {
        let band = custom_ops::MOST_TAPS_ON_METAL as u64;
        let work = || {
            let (input, output) = (band / 9 * 2, band / 9);
            let _span = trace_span!(
                "conv3x3",
                fused = "bias",
                flop = 6000u64,
                input,
                output,
                bytes = input + output + 100
            )
            .entered();
        };
        let load = Load::of(&recorded(work), Precision::F32);
        // Two bands of taps and product, what joins them, and the bias.
        assert_eq!((load.launches(), load.flop().round()), (6, 6000.));
    }

    #[test]
    fn time_is_the_longer_of_bytes_and_operations_and_an_overhead() {
        let chip = chip("one", 100., 10.);
        let of = |bytes, flop| Load {
            launches: vec![Launch { bytes, flop }],
        };
        let ms = |bytes: f64, flop| of(bytes * COPIES, flop * PRODUCTS).predicted_ms(&chip);
        assert!((ms(1e9, 1e9) - 10.005).abs() < 1e-9);
        assert!((ms(1e6, 1e11) - 10.005).abs() < 1e-9);
    }

    #[test]
    fn published_times_stand_beside_their_network_in_float16_alone() {
        let network = mast3r::model::registry::Network::find("dune-base").unwrap();
        let row = |precision| Prediction {
            case: Case {
                network,
                size: [336, 336],
                precision,
                stage: crate::Stage::Full,
                batch: 1,
                optimisations: mast3r::runtime::Optimisations::all(),
            },
            load: Load::default(),
        };
        let table = prediction_table(&[row(Precision::F32), row(Precision::F16)]);
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[2].ends_with("|  |") && lines[3].ends_with("| 32.1 |"),
            "{table}"
        );
        let columns = |line: &str| line.matches('|').count();
        assert!(lines.iter().all(|line| columns(line) == columns(lines[0])));
    }
}
