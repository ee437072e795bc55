//! How near outputs are to another program's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{OURS, case, other_name};
use crate::{Agreement, Report, Row, Table, compare_values};

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

    use super::super::tests::{report, row};
    use super::*;

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
}
