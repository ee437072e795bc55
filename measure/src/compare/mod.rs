//! Our measurements beside another program's: how many times as long it takes, and how near its
//! outputs are.

mod figures;
mod outputs;

use std::path::Path;

use mast3r::{Error, Result};

use crate::{Report, Row};
pub use figures::{memory_table, ratio_table};
pub use outputs::{Correlation, Measured, correlation_table, correlations};

/// Our own way of running a network; measurements with something switched off are not set against
/// others.
const OURS: &str = "default";

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

#[cfg(test)]
mod tests {
    use std::fs;

    use candle_core::Device;

    use super::*;
    use crate::Machine;

    pub(super) fn row(framework: &str, variant: &str, runs: &[f64]) -> Row {
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

    pub(super) fn report(results: Vec<Row>) -> Report {
        Report {
            results,
            ..Report::new(Machine::here(&Device::Cpu).unwrap())
        }
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
