//! Reports as tables.

use crate::suite::{self, PUBLISHED, Published};
use crate::{OpRow, Report, Row, Summary, Table};
use mast3r::model::registry::Network;
use mast3r::runtime::Optimisation;

/// Every row with its statistics: what `mast3r bench` prints.
pub fn detailed(report: &Report) -> Table {
    let columns = [
        "network",
        "size",
        "stage",
        "precision",
        "batch",
        "median ms",
        "mean ± std",
        "min",
        "max",
        "runs",
        "per s",
        "GFLOP",
        "GFLOP/s",
        "of peak",
        "load ms",
        "RSS MiB",
        "GPU MiB",
    ];
    let mut table = Table::new(title(report), &columns).words(&[1, 2, 3]);
    for row in &report.results {
        let name = if row.variant == "default" {
            row.model.clone()
        } else {
            format!("{}, {}", row.model, row.variant)
        };
        if let Some(error) = &row.error {
            table.row([
                name,
                row.resolution.clone(),
                row.stage.clone(),
                row.precision.clone(),
                error.clone(),
            ]);
            continue;
        }
        table.row([
            name,
            row.resolution.clone(),
            row.stage.clone(),
            row.precision.clone(),
            row.batch.to_string(),
            digits(row.median_ms),
            with_spread(row),
            digits(row.min_ms),
            digits(row.max_ms),
            row.runs_ms.len().to_string(),
            digits(row.per_second),
            optional(row.gflop, digits),
            optional(row.gflop_per_s, whole),
            optional(row.peak_share, percent),
            optional(row.load_ms, whole),
            optional(row.peak_rss_mib, whole),
            optional(row.peak_device_mib, whole),
        ]);
    }
    table.notes = terms(report);
    table
}

/// The published page's tables and ours, of a report of the suite.
pub fn of_suite(report: &Report) -> Vec<Table> {
    let view = View::new(report);
    let mut tables = vec![
        view.summary(),
        view.family("DUNE encoders", &["dune-small", "dune-base"]),
        view.family("MASt3R's ViT-L encoder", &["mast3r-encoder"]),
        view.family(
            "Full network: encoder, decoder and heads, one pair",
            &["mast3r"],
        ),
        view.family(
            "DuneMASt3R: encoder, decoder and heads, one pair",
            &["dunemast3r-small", "dunemast3r-base"],
        ),
        view.stages(),
        view.ops(),
        view.memory(),
        view.correlation(),
        view.optimisations(),
        view.batching(),
    ];
    tables.retain(|table| !table.rows.is_empty());
    tables
}

/// What a report's tables have in common: machine, weights, images, runs, doubts.
pub fn terms(report: &Report) -> Vec<String> {
    let distinct = |value: fn(&Row) -> String| {
        let mut values: Vec<String> = report.results.iter().map(value).collect();
        values.sort();
        values.dedup();
        values.join("; ")
    };
    let mut notes = vec![
        format!("machine: {}", report.machine.describe()),
        format!(
            "weights: {}. images: {}. warm-up runs: {}. Wall-clock times, the device synchronised before and after each run.",
            distinct(|row| row.weights.clone()),
            distinct(|row| row.images.clone()),
            distinct(|row| row.warmup.to_string()),
        ),
    ];
    for (precision, peak) in &report.peaks {
        notes.push(format!(
            "fastest matrix product seen in {precision}: {} GFLOP/s",
            whole(*peak)
        ));
    }
    let disturbed = report
        .results
        .iter()
        .filter(|row| 10 * row.outliers > row.runs_ms.len());
    let disturbed: Vec<String> = disturbed
        .map(|row| {
            let terms = [
                &row.model,
                &row.resolution,
                &row.precision,
                &row.stage,
                &row.variant,
            ]
            .map(String::as_str);
            format!(
                "{} ({} of {})",
                terms.join(" ").replace(" default", ""),
                row.outliers,
                row.runs_ms.len()
            )
        })
        .collect();
    if !disturbed.is_empty() {
        notes.push(format!(
            "warning: more than a tenth of the runs lie far from the others, as if something ran beside them: {}",
            disturbed.join("; ")
        ));
    }
    notes
}

fn title(report: &Report) -> String {
    let device = report.machine.gpu.as_ref().unwrap_or(&report.machine.cpu);
    format!("mast3r bench on {device}")
}

/// A report, asked for single rows.
struct View<'a> {
    report: &'a Report,
    /// Those that occur, in the usual order.
    precisions: Vec<&'static str>,
}

impl<'a> View<'a> {
    fn new(report: &'a Report) -> Self {
        let occurs =
            |precision: &&str| report.results.iter().any(|row| row.precision == *precision);
        Self {
            report,
            precisions: ["f32", "f16", "bf16"].into_iter().filter(occurs).collect(),
        }
    }

    fn default_rows(&self) -> impl Iterator<Item = &'a Row> {
        self.report
            .results
            .iter()
            .filter(|row| row.variant == "default" && row.error.is_none())
    }

    fn find(
        &self,
        model: &str,
        size: &str,
        stage: &str,
        precision: &str,
        batch: usize,
    ) -> Option<&'a Row> {
        self.default_rows().find(|row| {
            (
                row.model.as_str(),
                row.resolution.as_str(),
                row.stage.as_str(),
                row.precision.as_str(),
                row.batch,
            ) == (model, size, stage, precision, batch)
        })
    }

    /// Networks and sizes that were timed whole, one at a time.
    fn whole(&self) -> Vec<(&'a str, &'a str)> {
        let mut list: Vec<(&str, &str)> = Vec::new();
        for row in self
            .default_rows()
            .filter(|row| row.stage == "full" && row.batch == 1)
        {
            let name = (row.model.as_str(), row.resolution.as_str());
            if !list.contains(&name) {
                list.push(name);
            }
        }
        list
    }

    fn each_precision(&self, cell: impl Fn(&str) -> String) -> Vec<String> {
        self.precisions
            .iter()
            .map(|precision| cell(precision))
            .collect()
    }

    fn summary(&self) -> Table {
        let medians = self
            .precisions
            .iter()
            .map(|precision| format!("{precision}, ms"));
        let columns: Vec<String> = ["network", "size"]
            .map(String::from)
            .into_iter()
            .chain(medians)
            .collect();
        let more = [
            "half: worst 1 - r",
            "Metal, ms",
            "M4 Max, MLX f16, ms (published by others)",
        ]
        .map(String::from);
        let columns = [columns, more.into()].concat();
        let names: Vec<&str> = columns.iter().map(String::as_str).collect();
        let mut table = Table::new("Summary", &names).words(&[1]);
        for (model, size) in self.whole() {
            let published = published(model, size);
            let mut cells = vec![model.to_string(), size.to_string()];
            cells.extend(self.each_precision(|precision| {
                optional(
                    self.find(model, size, "full", precision, 1)
                        .map(|row| row.median_ms),
                    digits,
                )
            }));
            let halves = self
                .precisions
                .iter()
                .filter_map(|precision| self.find(model, size, "full", precision, 1));
            let worst = halves
                .flat_map(|row| &row.agreement)
                .map(|agreement| 1.0 - agreement.pearson);
            cells.push(optional(worst.reduce(f64::max), |value| {
                format!("{value:.0e}")
            }));
            cells.push("never measured".into());
            cells.push(published.map_or(String::new(), |row| {
                format!("{} ({})", row.mlx_ms, row.name)
            }));
            table.row(cells);
        }
        table.notes.push(
            "Medians. One image for an encoder, one pair for a two-view network. 1 - r: one less Pearson's correlation with \
             the same outputs in f32, the worst output of the half precisions. The published figures are mlx-mast3r's own, of \
             an Apple M4 Max, ten runs on uniform noise; its 512x672 is 672x512 here. They are another machine's: no ratio \
             between the columns means anything."
                .into(),
        );
        table
    }

    fn family(&self, title: &str, models: &[&str]) -> Table {
        let names: Vec<&str> = ["network", "size", "patches"]
            .into_iter()
            .chain(self.precisions.iter().copied())
            .collect();
        let mut table = Table::new(title, &names).words(&[1, 2]);
        for (model, size) in self
            .whole()
            .into_iter()
            .filter(|(model, _)| models.contains(model))
        {
            let mut cells = vec![
                model.to_string(),
                size.to_string(),
                patches(model, size).unwrap_or_default(),
            ];
            cells.extend(self.each_precision(|precision| {
                self.find(model, size, "full", precision, 1)
                    .map_or(String::new(), |row| {
                        format!("{} ms ({})", with_spread(row), row.runs_ms.len())
                    })
            }));
            table.row(cells);
        }
        table.notes.push(
            "Mean ± standard deviation (runs). Size is width x height, patches are rows x columns."
                .into(),
        );
        table
    }

    fn stages(&self) -> Table {
        let mut table = Table::new(
            "Stage by stage",
            &[
                "stage",
                "network",
                "size",
                "precision",
                "median ms",
                "share",
                "GFLOP/s",
                "of peak",
            ],
        )
        .words(&[1, 2, 3]);
        let staged = |row: &&Row| row.stage == "decode" && row.batch == 1;
        for one in self.default_rows().filter(staged) {
            let find =
                |stage: &str| self.find(&one.model, &one.resolution, stage, &one.precision, 1);
            let total: f64 = ["encode", "decode", "heads", "match"]
                .iter()
                .filter_map(|stage| find(stage))
                .map(|row| row.median_ms)
                .sum();
            for stage in ["encode", "decode", "heads", "match", "full"] {
                let Some(row) = find(stage) else { continue };
                table.row([
                    stage.into(),
                    row.model.clone(),
                    row.resolution.clone(),
                    row.precision.clone(),
                    digits(row.median_ms),
                    if stage == "full" {
                        String::new()
                    } else {
                        percent(row.median_ms / total)
                    },
                    optional(row.gflop_per_s, whole),
                    optional(row.peak_share, percent),
                ]);
            }
        }
        table.notes.push(
            "encode takes both views at once; match is the reciprocal search, over random descriptors when the \
             weights are random; full is encode, decode and heads in one go. Heads are float32 in every precision (TF32 in half \
             precision on CUDA), so their share of a half precision's peak is low."
                .into(),
        );
        table
    }

    fn ops(&self) -> Table {
        let columns = [
            "operation",
            "shape",
            "precision",
            "ours, ms",
            "plain, ms",
            "speed-up",
            "GB/s",
        ];
        let mut table =
            Table::new("Custom operations against the plain expression", &columns).words(&[1, 2]);
        for OpRow {
            op,
            shape,
            precision,
            median_ms,
            plain_median_ms,
            gb_per_s,
            ..
        } in &self.report.ops
        {
            table.row([
                op.clone(),
                shape.clone(),
                precision.clone(),
                format!("{median_ms:.4}"),
                format!("{plain_median_ms:.4}"),
                format!("{:.1}x", plain_median_ms / median_ms),
                digits(*gb_per_s),
            ]);
        }
        table.notes.push(
            "Medians over series of calls in a row. The plain expression is the same function in Candle's own operations. GB/s \
             counts what has to be read and written once."
                .into(),
        );
        table
    }

    fn memory(&self) -> Table {
        let columns = [
            "network",
            "size",
            "precision",
            "weights, MiB",
            "peak resident, MiB",
            "peak GPU, MiB",
        ];
        let mut table = Table::new("Memory by precision", &columns).words(&[1, 2]);
        for (model, size) in self.whole() {
            for precision in &self.precisions {
                let Some(row) = self.find(model, size, "full", precision, 1) else {
                    continue;
                };
                table.row([
                    model.into(),
                    size.into(),
                    precision.to_string(),
                    optional(row.weights_mib, whole),
                    optional(row.peak_rss_mib, whole),
                    optional(row.peak_device_mib, whole),
                ]);
            }
        }
        table.notes.push(
            "While the network ran, weights included. In f16 and bf16 the heads stay f32, and on the CPU so do the activations. \
             GPU: the high-water mark of the memory pool; the CUDA context and the library's own memory are not in it. On a GPU \
             the resident memory is mostly the driver's."
                .into(),
        );
        table
    }

    fn correlation(&self) -> Table {
        const OUTPUTS: [&str; 5] = ["features", "pts3d", "conf", "desc", "desc_conf"];
        let columns = [
            &["network", "size", "precision"][..],
            &OUTPUTS,
            &["largest error"],
        ]
        .concat();
        let mut table =
            Table::new("Half precision against float32: 1 - r", &columns).words(&[1, 2]);
        for (model, size) in self.whole() {
            for precision in &self.precisions {
                let row = self.find(model, size, "full", precision, 1);
                let Some(row) = row.filter(|row| !row.agreement.is_empty()) else {
                    continue;
                };
                let views = |output: &str| {
                    let of_output = row
                        .agreement
                        .iter()
                        .filter(|one| one.output.split('.').next() == Some(output));
                    of_output.map(|one| 1.0 - one.pearson).reduce(f64::max)
                };
                let error = row.agreement.iter().map(|one| one.error).reduce(f64::max);
                let mut cells = vec![model.to_string(), size.to_string(), precision.to_string()];
                cells.extend(
                    OUTPUTS.map(|output| optional(views(output), |gap| format!("{gap:.1e}"))),
                );
                cells.push(optional(error, |error| format!("{error:.1e}")));
                table.row(cells);
            }
        }
        table.notes.push(
            "The same weights and images, on the same device. r is Pearson's correlation, of the worse of two views; the error \
             is the largest difference over the largest magnitude, of any output. Random weights: trained ones may be kinder or \
             harsher."
                .into(),
        );
        table
    }

    fn optimisations(&self) -> Table {
        let columns = [
            "switched off",
            "network",
            "size",
            "precision",
            "ms without",
            "ms with",
            "slower by",
            "runs each",
        ];
        let mut table = Table::new("What each optimisation is worth", &columns).words(&[1, 2, 3]);
        for row in &self.report.results {
            let (Some(without), Some(with)) = (
                row.variant.strip_prefix("without "),
                Summary::of(&row.beside_runs_ms),
            ) else {
                continue;
            };
            table.row([
                without.parse().map_or_else(
                    |_| "all of them".into(),
                    |one: Optimisation| one.title().to_string(),
                ),
                row.model.clone(),
                row.resolution.clone(),
                row.precision.clone(),
                digits(row.median_ms),
                digits(with.median),
                format!("{:+.0} %", 100.0 * (row.median_ms / with.median - 1.0)),
                row.runs_ms.len().to_string(),
            ]);
        }
        table.notes.push(
            "Each in turn, everything else as it is, in runs that alternate with the whole; the plain Candle expression is in its \
             place. They overlap, so they do not add up. \
             Quantised products are a precision, int8."
                .into(),
        );
        table
    }

    fn batching(&self) -> Table {
        let columns = [
            "network",
            "size",
            "precision",
            "batch",
            "median ms",
            "per second",
            "against batch 1",
        ];
        let mut table = Table::new("Batching", &columns).words(&[1, 2]);
        let batched = |row: &&Row| {
            self.default_rows()
                .any(|other| other.batch > 1 && same_but_batch(row, other))
        };
        for row in self
            .default_rows()
            .filter(|row| row.stage == "full")
            .filter(batched)
        {
            let Some(single) = self.find(&row.model, &row.resolution, "full", &row.precision, 1)
            else {
                continue;
            };
            table.row([
                row.model.clone(),
                row.resolution.clone(),
                row.precision.clone(),
                row.batch.to_string(),
                digits(row.median_ms),
                digits(row.per_second),
                format!("{:.2}x", row.per_second / single.per_second),
            ]);
        }
        table
            .notes
            .push("Images for an encoder, pairs for a two-view network, per second.".into());
        table
    }
}

fn same_but_batch(a: &Row, b: &Row) -> bool {
    (&a.model, &a.resolution, &a.stage, &a.precision)
        == (&b.model, &b.resolution, &b.stage, &b.precision)
}

fn published(model: &str, size: &str) -> Option<&'static Published> {
    PUBLISHED
        .iter()
        .find(|row| row.model == model && size == suite::resolution(row.size))
}

/// `32x42`: rows and columns of the patch grid.
fn patches(model: &str, size: &str) -> Option<String> {
    let patch = Network::find(model).ok()?.patch();
    let (width, height) = size.split_once('x')?;
    Some(format!(
        "{}x{}",
        height.parse::<u32>().ok()? / patch,
        width.parse::<u32>().ok()? / patch
    ))
}

/// A number with three figures.
fn digits(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}

/// Mean and standard deviation, both to the mean's last digit.
fn with_spread(row: &Row) -> String {
    let mean = digits(row.mean_ms);
    let decimals = mean
        .split_once('.')
        .map_or(0, |(_, decimals)| decimals.len());
    format!("{mean} ± {:.decimals$}", row.stddev_ms)
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

fn percent(value: f64) -> String {
    format!("{:.1} %", 100.0 * value)
}

fn optional(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(String::new, show)
}
