//! Times and memory beside those of another program.

use super::{OURS, case, find, other_name};
use crate::{Report, Row, Table};

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

#[cfg(test)]
mod tests {
    use super::super::tests::{report, row};
    use super::*;

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
}
