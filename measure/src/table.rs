//! Tables, for a terminal, a page and a spreadsheet.

use std::fmt::Write as _;

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table with a title, of text.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// What it shows and on what terms.
    pub title: String,
    /// The columns.
    pub columns: Vec<(String, Align)>,
    /// As many cells a row as there are columns.
    pub rows: Vec<Vec<String>>,
    /// What a reader has to know, a line each.
    pub notes: Vec<String>,
}

impl Table {
    /// An empty table; the first column is words, the others are numbers.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let align = |index| {
            if index == 0 {
                Align::Left
            } else {
                Align::Right
            }
        };
        let columns = columns
            .iter()
            .enumerate()
            .map(|(index, name)| (name.to_string(), align(index)))
            .collect();
        Self {
            title: title.into(),
            columns,
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The same with these columns of words too.
    pub fn words(mut self, columns: &[usize]) -> Self {
        for &index in columns {
            if let Some(column) = self.columns.get_mut(index) {
                column.1 = Align::Left;
            }
        }
        self
    }

    /// Adds a row; missing cells are empty, and there must not be more than columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<String> = cells.into_iter().collect();
        debug_assert!(
            row.len() <= self.columns.len(),
            "{row:?} is longer than {:?}",
            self.columns
        );
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// As a Markdown table under a heading of `level`, padded so that it reads well as text too.
    pub fn markdown(&self, level: usize) -> String {
        let mut out = format!("{} {}\n\n", "#".repeat(level), self.title);
        self.write_rows(&mut out, |cell| cell.replace('|', "\\|"));
        for note in &self.notes {
            let _ = write!(out, "\n{note}\n");
        }
        out
    }

    /// For a terminal: a title line, the table, the notes.
    pub fn text(&self) -> String {
        let mut out = format!("{}\n", self.title);
        self.write_rows(&mut out, str::to_string);
        for note in &self.notes {
            let _ = writeln!(out, "{note}");
        }
        out
    }

    /// As comma-separated values (RFC 4180) with a line of column names.
    pub fn csv(&self) -> String {
        let quoted = |cell: &String| {
            let quote = cell.contains(['"', ',', '\n', '\r']);
            if quote {
                format!("\"{}\"", cell.replace('"', "\"\""))
            } else {
                cell.clone()
            }
        };
        let line = |cells: &mut dyn Iterator<Item = &String>| {
            cells.map(quoted).collect::<Vec<_>>().join(",") + "\r\n"
        };
        let mut out = line(&mut self.columns.iter().map(|(name, _)| name));
        self.rows
            .iter()
            .for_each(|row| out += &line(&mut row.iter()));
        out
    }

    fn write_rows(&self, out: &mut String, cell: impl Fn(&str) -> String) {
        let names: Vec<String> = self.columns.iter().map(|(name, _)| cell(name)).collect();
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(|text| cell(text)).collect())
            .collect();
        let width = |index: usize| {
            let cells = rows.iter().map(|row| row[index].chars().count());
            cells
                .chain([names[index].chars().count(), 3])
                .max()
                .unwrap_or(3)
        };
        let widths: Vec<usize> = (0..names.len()).map(width).collect();
        let mut line = |cells: &[String]| {
            for ((text, &width), (_, align)) in cells.iter().zip(&widths).zip(&self.columns) {
                let _ = match align {
                    Align::Left => write!(out, "| {text:<width$} "),
                    Align::Right => write!(out, "| {text:>width$} "),
                };
            }
            out.push_str("|\n");
        };
        line(&names);
        let rule = |(&width, (_, align)): (&usize, &(String, Align))| match align {
            Align::Left => "-".repeat(width),
            Align::Right => "-".repeat(width - 1) + ":",
        };
        line(
            &widths
                .iter()
                .zip(&self.columns)
                .map(rule)
                .collect::<Vec<_>>(),
        );
        rows.iter().for_each(|row| line(row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Table {
        let mut table = Table::new("times", &["what", "ms", "note"]).words(&[2]);
        table.row(["a | b".into(), "1.5".into(), "say \"x\", twice".into()]);
        table.row(["c".into(), "12.25".into()]);
        table.notes.push("3 runs".into());
        table
    }

    #[test]
    fn markdown_is_padded_and_escapes_bars() {
        let want = "## times\n\n\
                    | what   |    ms | note           |\n\
                    | ------ | ----: | -------------- |\n\
                    | a \\| b |   1.5 | say \"x\", twice |\n\
                    | c      | 12.25 |                |\n\
                    \n3 runs\n";
        assert_eq!(small().markdown(2), want);
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(
            small().csv(),
            "what,ms,note\r\na | b,1.5,\"say \"\"x\"\", twice\"\r\nc,12.25,\r\n"
        );
    }
}
