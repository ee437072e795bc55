//! Our measurements beside another program's: how many times as long it takes, and how near its
//! outputs are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Agreement, Report, Row, Table, compare_values};
use mast3r::{Error, Result};

/// Our own way of running a network; measurements with something switched off are not set against
/// others.
const OURS: &str = "default";
/// The tensor of an output file that is what the network saw.
const IMAGES: &str = "images";

/// A report and where its outputs are.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// The figures.
    pub report: &'a Report,
    /// The folder that [`Row::outputs`] are relative to: for a report of `bench_torch.py` the one
    /// that it lies in.
    pub folder: &'a Path,
}

/// One case that both measured, and how near the outputs are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Correlation {
    /// Network, size and precision.
    pub case: [String; 3],
    /// Whose outputs ours are compared with: framework and variant.
    pub other: String,
    /// Output by output, relative to the other's values; or why they cannot be compared.
    pub outputs: Result<Vec<Agreement>, String>,
}

/// Reads the report of another program at `path`. Fields beyond those of [`Row`] are ignored.
///
/// # Errors
/// [`Error::Input`] with the path and what is missing or wrong.
pub fn read_other(path: &Path) -> Result<Report> {
    let report = Report::read(path)?;
    for (index, row) in report.results.iter().enumerate() {
        let terms = [
            ("framework", &row.framework),
            ("variant", &row.variant),
            ("model", &row.model),
            ("resolution", &row.resolution),
            ("stage", &row.stage),
            ("precision", &row.precision),
            ("device", &row.device),
        ];
        let lacking = terms
            .iter()
            .find(|(_, value)| value.is_empty())
            .map(|(name, _)| *name);
        let lacking = lacking.or((row.batch == 0).then_some("batch"));
        let measured = row
            .runs_ms
            .iter()
            .chain([&row.median_ms])
            .all(|&time| time > 0.0)
            && !row.runs_ms.is_empty();
        let lacking = lacking
            .or((row.error.is_none() && !measured)
                .then_some("runs_ms and median_ms above 0, or error"));
        if let Some(name) = lacking {
            return Err(Error::input(
                path,
                format!("result {} lacks {name}", index + 1),
            ));
        }
    }
    Ok(report)
}

/// Every case of ours that `theirs` has too, with the times of both and how many times as long as
/// ours the others are; the strongest of them first.
pub fn ratio_table(ours: &Report, theirs: &Report) -> Table {
    let others = strongest_first(ours, theirs);
    let mut columns = vec![
        "network".to_string(),
        "size".into(),
        "precision".into(),
        "ours, ms".into(),
    ];
    columns.extend(
        others
            .iter()
            .flat_map(|name| [format!("{name}, ms"), "ratio".into()]),
    );
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut table = Table::new("Times beside those of other programs", &columns).words(&[1, 2]);
    let (mut failures, mut overlaps) = (Vec::new(), false);
    for row in ours.results.iter().filter(|row| row.variant == OURS) {
        let matching: Vec<Option<&Row>> =
            others.iter().map(|name| find(theirs, row, name)).collect();
        if matching.iter().all(Option::is_none) {
            continue;
        }
        let mut cells = Vec::from(case(row));
        cells.push(times(row, &mut failures));
        for other in matching {
            let Some(other) = other else {
                cells.extend(["-".into(), "-".into()]);
                continue;
            };
            cells.push(times(other, &mut failures));
            cells.push(match ratio(row, other) {
                None => "-".into(),
                Some((ratio, true)) => format!("{ratio:.2}x"),
                Some((ratio, false)) => {
                    overlaps = true;
                    format!("≈ {ratio:.2}x")
                }
            });
        }
        table.row(cells);
    }
    if table.rows.is_empty() {
        table.notes.push("No case was measured by both.".into());
        return table;
    }
    table.notes.push(
        "Median of the runs and their range. The ratio is the other's median over ours: above 1x ours is \
                      faster."
            .into(),
    );
    if overlaps {
        table.notes.push(
            "≈: the ranges of the runs overlap, so the difference is not significant.".into(),
        );
    }
    if !ours.machine.is_like(&theirs.machine) {
        table.notes.push(format!(
            "Measured on different machines, so the ratios are not the programs' alone. Ours: {}. The others': {}.",
            ours.machine.describe(),
            theirs.machine.describe()
        ));
    }
    failures.dedup();
    table.notes.extend(failures);
    table
}

/// The greatest memory of both for every case that `theirs` has too: of the GPU where both know it,
/// else resident.
pub fn memory_table(ours: &Report, theirs: &Report) -> Table {
    let columns = [
        "network",
        "size",
        "precision",
        "beside",
        "ours, MiB",
        "theirs, MiB",
        "ours of theirs",
        "of",
    ];
    let mut table =
        Table::new("Peak memory beside that of other programs", &columns).words(&[1, 2, 3, 7]);
    for row in ours
        .results
        .iter()
        .filter(|row| row.variant == OURS && row.error.is_none())
    {
        for other in theirs
            .results
            .iter()
            .filter(|other| row.same_case(other) && other.error.is_none())
        {
            let both = |mine: Option<f64>, other: Option<f64>, place: &'static str| {
                Some((mine?, other?, place))
            };
            let known = both(row.peak_device_mib, other.peak_device_mib, "GPU");
            let known = known.or_else(|| both(row.peak_rss_mib, other.peak_rss_mib, "process"));
            let Some((mine, other_mib, place)) = known else {
                continue;
            };
            let figures = [
                other_name(other),
                format!("{mine:.0}"),
                format!("{other_mib:.0}"),
                format!("{:.0} %", 100.0 * mine / other_mib),
                place.into(),
            ];
            table.row(case(row).into_iter().chain(figures));
        }
    }
    table.notes.push(
        "Ours on a GPU: the high-water mark of the memory pool; PyTorch's: of its allocator (max_memory_allocated). Neither has the \
         CUDA context in it. A process is counted with its weights, its libraries and what loading left behind."
            .into(),
    );
    table
}

/// Compares the outputs of every case of ours that `theirs` has too, where both or one of the two
/// kept them. Where the files are gone, what our report says of an earlier comparison stands.
pub fn correlations(ours: Measured<'_>, theirs: Measured<'_>) -> Vec<Correlation> {
    let mut found = Vec::new();
    for row in ours
        .report
        .results
        .iter()
        .filter(|row| row.variant == OURS && row.error.is_none())
    {
        for other in theirs
            .report
            .results
            .iter()
            .filter(|other| row.same_case(other) && other.error.is_none())
        {
            if row.outputs.is_none() && other.outputs.is_none() {
                continue;
            }
            let outputs = compare(row, ours.folder, other, theirs.folder);
            let fresh = Correlation {
                case: case(row),
                other: other_name(other),
                outputs,
            };
            let same =
                |known: &&Correlation| (&known.case, &known.other) == (&fresh.case, &fresh.other);
            let earlier = ours
                .report
                .correlations
                .iter()
                .filter(|known| known.outputs.is_ok())
                .find(same);
            found.push(match (fresh.outputs.is_err(), earlier) {
                (true, Some(earlier)) => earlier.clone(),
                _ => fresh,
            });
        }
    }
    found
}

/// The correlations as a table, a line for each case with its worst output.
pub fn correlation_table(correlations: &[Correlation]) -> Table {
    let columns = [
        "network",
        "size",
        "precision",
        "beside",
        "outputs",
        "worst 1 - Pearson",
        "largest error",
    ];
    let mut table =
        Table::new("Outputs beside those of other programs", &columns).words(&[1, 2, 3]);
    for Correlation {
        case,
        other,
        outputs,
    } in correlations
    {
        let start = case.iter().cloned().chain([other.clone()]);
        match outputs {
            Err(reason) => table.row(start.chain([
                format!("not comparable: {reason}"),
                "-".into(),
                "-".into(),
            ])),
            Ok(outputs) => {
                // Rounding can lift a perfect correlation above one.
                let gap = worst(outputs, |one| (1.0 - one.pearson).max(0.0));
                let error = worst(outputs, |one| one.error);
                table.row(start.chain([outputs.len().to_string(), gap, error]));
            }
        }
    }
    if table.rows.is_empty() {
        table.notes.push("No case has outputs of both.".into());
    } else {
        table.notes.push(
            "The same weights and images. Errors are relative to the largest magnitude of the other's output; Pearson's \
             correlation is computed in float64."
                .into(),
        );
    }
    table
}

/// The greatest of a measure over some outputs, with the output's name if there are several.
fn worst(outputs: &[Agreement], measure: impl Fn(&Agreement) -> f64) -> String {
    // In the order of `total_cmp` a NaN is worse than any number.
    let by_measure = |a: &&Agreement, b: &&Agreement| measure(a).abs().total_cmp(&measure(b).abs());
    match outputs.iter().max_by(by_measure) {
        None => "-".into(),
        Some(one) if measure(one).is_nan() => format!("undefined ({})", one.output),
        Some(one) if outputs.len() == 1 => format!("{:.0e}", measure(one)),
        Some(one) => format!("{:.0e} ({})", measure(one), one.output),
    }
}

/// The others by their median ratio to ours over the cases that both measured, those that measured
/// none of them last.
fn strongest_first(ours: &Report, theirs: &Report) -> Vec<String> {
    let mut others: Vec<(f64, String)> = Vec::new();
    for name in theirs.results.iter().map(other_name) {
        if others.iter().any(|(_, known)| *known == name) {
            continue;
        }
        let cases = ours.results.iter().filter(|row| row.variant == OURS);
        let ratios = cases.filter_map(|row| Some(ratio(row, find(theirs, row, &name)?)?.0));
        let mut ratios: Vec<f64> = ratios.collect();
        ratios.sort_by(f64::total_cmp);
        let middle = ratios.get(ratios.len() / 2).copied();
        others.push((middle.unwrap_or(f64::INFINITY), name));
    }
    others.sort_by(|a, b| a.0.total_cmp(&b.0));
    others.into_iter().map(|(_, name)| name).collect()
}

/// Framework and variant, by which a column goes.
fn other_name(row: &Row) -> String {
    format!("{} {}", row.framework, row.variant)
}

/// Network, size and precision, with a stage that is not the whole and a batch that is not one.
fn case(row: &Row) -> [String; 3] {
    let network = if row.stage == "full" {
        row.model.clone()
    } else {
        format!("{} {}", row.model, row.stage)
    };
    let size = if row.batch == 1 {
        row.resolution.clone()
    } else {
        format!("{} batch {}", row.resolution, row.batch)
    };
    [network, size, row.precision.clone()]
}

/// The last measurement of the same case by `name`: what was measured again replaces the older.
fn find<'a>(theirs: &'a Report, ours: &Row, name: &str) -> Option<&'a Row> {
    theirs
        .results
        .iter()
        .rfind(|other| ours.same_case(other) && other_name(other) == name)
}

/// Median and range, or that there are none, with the reason added to `failures`.
fn times(row: &Row, failures: &mut Vec<String>) -> String {
    if let Some(reason) = &row.error {
        let [network, size, precision] = case(row);
        failures.push(format!(
            "{} failed on {network} {size} {precision}: {reason}.",
            other_name(row)
        ));
        return "failed".into();
    }
    let decimals = if row.median_ms < 10.0 { 2 } else { 1 };
    format!(
        "{:.decimals$} ({:.decimals$} to {:.decimals$})",
        row.median_ms, row.min_ms, row.max_ms
    )
}

/// The other's median over ours, and whether the ranges of the runs lie apart; none if one of the
/// two failed.
fn ratio(ours: &Row, other: &Row) -> Option<(f64, bool)> {
    if ours.error.is_some() || other.error.is_some() {
        return None;
    }
    let apart = ours.max_ms < other.min_ms || other.max_ms < ours.min_ms;
    Some((other.median_ms / ours.median_ms, apart))
}

/// What tells weights apart: the digest of each file's content, whatever its name, or the seed.
fn weights_key(weights: &str) -> Vec<&str> {
    weights
        .split("; ")
        .map(|file| {
            file.rsplit_once("sha256 ")
                .map_or(file, |(_, digest)| digest)
                .trim()
        })
        .collect()
}

/// Compares the outputs of one case, or says why that cannot be done.
fn compare(
    ours: &Row,
    our_folder: &Path,
    other: &Row,
    folder: &Path,
) -> Result<Vec<Agreement>, String> {
    if weights_key(&ours.weights) != weights_key(&other.weights) {
        return Err("other weights".into());
    }
    let path_of = |row: &Row, folder: &Path, whose: &str| -> Result<PathBuf, String> {
        let name = row
            .outputs
            .as_ref()
            .ok_or_else(|| format!("{whose} outputs were not kept"))?;
        Ok(folder.join(name))
    };
    let (our_path, path) = (
        path_of(ours, our_folder, "our")?,
        path_of(other, folder, "the other's")?,
    );
    let (mut our_tensors, tensors) = (load(&our_path)?, load(&path)?);
    let take = |tensors: &HashMap<String, Tensor>, name: &str, path: &Path| match tensors.get(name)
    {
        Some(tensor) => {
            values(tensor).map_err(|error| format!("{}: {name}: {error}", path.display()))
        }
        None => Err(format!("{} has no {name}", path.display())),
    };
    if take(&our_tensors, IMAGES, &our_path)? != take(&tensors, IMAGES, &path)? {
        return Err("other images".into());
    }
    our_tensors.remove(IMAGES);
    let mut names: Vec<&String> = our_tensors.keys().collect();
    names.sort_unstable();
    let mut outputs = Vec::with_capacity(names.len());
    for name in names {
        let (mine, reference) = (
            take(&our_tensors, name, &our_path)?,
            take(&tensors, name, &path)?,
        );
        if mine.0 != reference.0 {
            return Err(format!(
                "{name} has shape {:?} here and {:?} in {}",
                mine.0,
                reference.0,
                path.display()
            ));
        }
        let (pearson, error) = compare_values(&reference.1, &mine.1);
        outputs.push(Agreement {
            output: name.clone(),
            pearson,
            error,
        });
    }
    if outputs.is_empty() {
        return Err(format!("{} has no outputs", our_path.display()));
    }
    Ok(outputs)
}

fn load(path: &Path) -> Result<HashMap<String, Tensor>, String> {
    candle_core::safetensors::load(path, &Device::Cpu)
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Shape and values.
fn values(tensor: &Tensor) -> candle_core::Result<(Vec<usize>, Vec<f32>)> {
    let single = tensor.to_dtype(candle_core::DType::F32)?;
    Ok((tensor.dims().to_vec(), single.flatten_all()?.to_vec1()?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Machine;

    fn row(framework: &str, variant: &str, runs: &[f64]) -> Row {
        let [framework, variant] = [framework, variant].map(String::from);
        let mut row = Row {
            framework,
            variant,
            batch: 1,
            threads: 2,
            ..Row::default()
        };
        let terms = [
            "dune-small",
            "336x336",
            "full",
            "f32",
            "cpu",
            "random, seed 0",
        ]
        .map(String::from);
        [
            row.model,
            row.resolution,
            row.stage,
            row.precision,
            row.device,
            row.weights,
        ] = terms;
        row.set_runs(runs.to_vec());
        row
    }

    fn report(results: Vec<Row>) -> Report {
        Report {
            results,
            ..Report::new(Machine::here(&Device::Cpu).unwrap())
        }
    }

    #[test]
    fn ratios_say_whether_the_ranges_lie_apart() {
        let ours = report(vec![
            row("mast3r", "default", &[9.0, 10.0, 11.0]),
            Row {
                batch: 2,
                ..row("mast3r", "default", &[20.0])
            },
            row("mast3r", "without fused-attention", &[70.0]),
        ]);
        let failed = Row {
            error: Some("no compiler".into()),
            ..row("torch", "compiled", &[])
        };
        let theirs = report(vec![
            row("torch", "eager", &[99.0]),
            row("torch", "eager", &[20.0, 21.0, 30.0]),
            row("torch", "tuned", &[10.5, 12.0, 12.5]),
            failed,
            Row {
                precision: "bf16".into(),
                ..row("torch", "tuned", &[1.0])
            },
            Row {
                device: "cuda:0".into(),
                ..row("torch", "tuned", &[1.0])
            },
        ]);
        let table = ratio_table(&ours, &theirs);
        let names: Vec<_> = table
            .columns
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names[3..6], ["ours, ms", "torch tuned, ms", "ratio"]);
        assert_eq!(
            table.rows,
            [[
                "dune-small",
                "336x336",
                "f32",
                "10.0 (9.0 to 11.0)",
                "12.0 (10.5 to 12.5)",
                "≈ 1.20x",
                "21.0 (20.0 to 30.0)",
                "2.10x",
                "failed",
                "-"
            ]]
        );
        let notes = table.notes.join("\n");
        assert!(
            notes.contains("overlap") && !notes.contains("different machines"),
            "{notes}"
        );
        assert!(
            notes.ends_with("torch compiled failed on dune-small 336x336 f32: no compiler."),
            "{notes}"
        );
    }

    #[test]
    fn another_machine_and_nothing_in_common_are_said() {
        let ours = report(vec![row("mast3r", "default", &[10.0])]);
        let mut theirs = report(vec![row("torch", "tuned", &[12.0])]);
        theirs.machine.cpu = "another".into();
        assert!(
            ratio_table(&ours, &theirs)
                .notes
                .concat()
                .contains("different machines")
        );
        theirs.results[0].model = "dune-base".into();
        let table = ratio_table(&ours, &theirs);
        assert_eq!(
            (table.rows.len(), &table.notes[..]),
            (0, &["No case was measured by both.".to_string()][..])
        );
    }

    #[test]
    fn weights_are_the_same_if_every_file_is() {
        assert_eq!(
            weights_key("a.pth, sha256 01; b.pth, sha256 02"),
            weights_key("c, sha256 01; d, sha256 02")
        );
        assert_ne!(
            weights_key("a.pth, sha256 00; b.pth, sha256 02"),
            weights_key("c, sha256 01; d, sha256 02")
        );
        assert_ne!(weights_key("random, seed 0"), weights_key("random, seed 1"));
    }

    fn save(path: &Path, images: &[f32], features: &[f32]) {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let tensors = HashMap::from([("images", tensor(images)), ("features", tensor(features))]);
        candle_core::safetensors::save(&tensors, path).unwrap();
    }

    #[test]
    fn outputs_are_compared_for_the_same_weights_and_images_only() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::create_dir(folder.join("torch")).unwrap();
        save(
            &folder.join("ours.safetensors"),
            &[0.5, -0.5],
            &[1.0, 2.0, 3.0, -4.0],
        );
        save(
            &folder.join("torch/near.safetensors"),
            &[0.5, -0.5],
            &[1.0, 2.0, 3.5, -4.0],
        );
        save(
            &folder.join("torch/other.safetensors"),
            &[0.5, -0.25],
            &[1.0, 2.0, 3.0, -4.0],
        );
        save(
            &folder.join("torch/short.safetensors"),
            &[0.5, -0.5],
            &[1.0, 2.0, 3.0],
        );
        let with = |row: Row, weights: &str, outputs: Option<&str>| Row {
            weights: weights.into(),
            outputs: outputs.map(String::from),
            ..row
        };
        let (mine, theirs) = ("a.safetensors, sha256 00ff", "b.safetensors, sha256 00ff");
        let ours = report(vec![with(
            row("mast3r", "default", &[1.0]),
            mine,
            Some("ours.safetensors"),
        )]);
        let cases = [
            (theirs, Some("torch/near.safetensors")),
            ("a.safetensors, sha256 00fe", Some("torch/near.safetensors")),
            (theirs, Some("torch/other.safetensors")),
            (theirs, Some("torch/short.safetensors")),
            (theirs, Some("torch/gone.safetensors")),
            (theirs, None),
        ];
        let rows =
            cases.map(|(weights, outputs)| with(row("torch", "tuned", &[1.0]), weights, outputs));
        let theirs = report(rows.to_vec());
        let (ours, theirs) = (
            Measured {
                report: &ours,
                folder,
            },
            Measured {
                report: &theirs,
                folder,
            },
        );
        let found = correlations(ours, theirs);

        let near = found[0].outputs.as_ref().unwrap();
        assert_eq!(
            (near.len(), near[0].output.as_str(), near[0].error),
            (1, "features", 0.5 / 4.0)
        );
        // numpy.corrcoef([1, 2, 3.5, -4], [1, 2, 3, -4])
        assert!(
            (near[0].pearson - 0.997_889_359_349_024).abs() < 1e-12,
            "{}",
            near[0].pearson
        );
        let reasons: Vec<_> = found[1..]
            .iter()
            .map(|found| found.outputs.clone().unwrap_err())
            .collect();
        assert_eq!(reasons[..2], ["other weights", "other images"]);
        assert!(
            reasons[2].starts_with("features has shape [4] here and [3] in "),
            "{}",
            reasons[2]
        );
        assert!(reasons[3].contains("gone.safetensors: "), "{}", reasons[3]);
        assert_eq!(reasons[4], "the other's outputs were not kept");

        let table = correlation_table(&found);
        assert_eq!(
            table.rows[0],
            [
                "dune-small",
                "336x336",
                "f32",
                "torch tuned",
                "1",
                "2e-3",
                "1e-1"
            ]
            .map(String::from)
        );
        assert_eq!(table.rows[1][4], "not comparable: other weights");
        assert_eq!(table.rows.len(), 6);

        // Where the files are gone, an earlier comparison stands.
        let mut kept = ours.report.clone();
        kept.correlations = found[..1].to_vec();
        let nowhere = Path::new("nowhere");
        let again = correlations(
            Measured {
                report: &kept,
                folder: nowhere,
            },
            Measured {
                folder: nowhere,
                ..theirs
            },
        );
        assert_eq!(again[0], found[0]);
    }

    #[test]
    fn the_worst_of_several_outputs_is_named() {
        let of = |output: &str, pearson, error| Agreement {
            output: output.into(),
            pearson,
            error,
        };
        let outputs = Ok(vec![
            of("conf.1", 0.999, 0.25),
            of("desc.1", 0.9999, 0.5),
            of("pts3d.1", 1.0, 0.125),
        ]);
        let case = ["mast3r", "512x384", "bf16"].map(String::from);
        let table = correlation_table(&[Correlation {
            case,
            other: "torch tuned".into(),
            outputs,
        }]);
        assert_eq!(
            table.rows[0][4..],
            ["3", "1e-3 (conf.1)", "5e-1 (desc.1)"].map(String::from)
        );
    }

    #[test]
    fn a_report_without_what_is_compared_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refusal = |edit: &dyn Fn(&mut Row)| {
            let mut whole = report(vec![row("torch", "tuned", &[1.0]); 2]);
            edit(&mut whole.results[1]);
            fs::write(file.path(), whole.json().unwrap()).unwrap();
            read_other(file.path()).map_err(|error| error.to_string())
        };
        assert_eq!(refusal(&|_| {}).unwrap().results.len(), 2);
        assert!(
            refusal(&|row| row.model.clear())
                .unwrap_err()
                .ends_with(": result 2 lacks model")
        );
        assert!(
            refusal(&|row| row.batch = 0)
                .unwrap_err()
                .ends_with(": result 2 lacks batch")
        );
        assert!(
            refusal(&|row| row.runs_ms.clear())
                .unwrap_err()
                .contains("result 2 lacks runs_ms")
        );
        let failed = |row: &mut Row| (row.error, row.runs_ms) = (Some("no".into()), Vec::new());
        assert!(refusal(&failed).is_ok());
        fs::write(file.path(), "[1, 2]").unwrap();
        let message = read_other(file.path()).unwrap_err().to_string();
        assert!(
            message.contains(&file.path().display().to_string())
                && message.contains("not a report"),
            "{message}"
        );
    }
}
