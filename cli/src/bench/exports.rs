//! The files that a benchmark writes besides its table.

use std::path::PathBuf;

use mast3r::{Error, Result};
use mast3r_measure::{Report, Table};

use super::BenchArgs;
use crate::outputs::{self, TextOutput, Written};

/// The files that are asked for, open.
pub(super) struct Exports {
    json: Option<TextOutput>,
    markdown: Option<TextOutput>,
    csv: Option<TextOutput>,
}

impl Exports {
    /// Opens them all.
    pub(super) fn open(args: &BenchArgs) -> Result<Self> {
        let paths = [&args.export_json, &args.export_markdown, &args.export_csv];
        let given = paths.into_iter().flatten();
        if given.clone().filter(|path| path.as_os_str() == "-").count() > 1 {
            return Err(Error::Usage(
                "only one export can go to standard output; give the others files".into(),
            ));
        }
        let inputs = [
            &args.weights[..],
            &args.image,
            args.show.as_slice(),
            args.against.as_slice(),
        ]
        .concat();
        outputs::check_apart(
            given
                .chain(&args.resume)
                .chain(&args.save_weights)
                .map(PathBuf::as_path),
            &inputs,
        )?;
        let open = |path: &Option<PathBuf>| path.as_deref().map(TextOutput::open).transpose();
        Ok(Self {
            json: open(&args.export_json)?,
            markdown: open(&args.export_markdown)?,
            csv: open(&args.export_csv)?,
        })
    }

    /// Whether the table may be printed there.
    pub(super) fn leaves_stdout_free(&self) -> bool {
        let all = [&self.json, &self.markdown, &self.csv];
        !all.into_iter().flatten().any(TextOutput::is_stdout)
    }

    /// Writes them, each whether or not the others can be written; the last of `tables` is the one
    /// of all rows.
    pub(super) fn write(self, report: &Report, tables: &[Table]) -> anyhow::Result<()> {
        let mut written = Written::default();
        if let Some(output) = self.json {
            output.write(&report.json()?, "json", String::new, &mut written);
        }
        if let Some(output) = self.markdown {
            let sections: Vec<String> = tables.iter().map(|table| table.markdown(2)).collect();
            output.write(&sections.join("\n"), "markdown", String::new, &mut written);
        }
        if let (Some(output), Some(detailed)) = (self.csv, tables.last()) {
            output.write(&detailed.csv(), "csv", String::new, &mut written);
        }
        written.finish()
    }
}
