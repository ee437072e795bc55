//! `mast3r completions` and `mast3r man`: what a shell and a reader want of a program, from its own
//! arguments.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;
use mast3r::Error;

use crate::outputs;

/// Print shell completions
///
/// For bash, in ~/.bashrc: source <(mast3r completions bash).
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell
    shell: Shell,
}

/// Print the manual page
///
/// mast3r man > mast3r.1. With --folder, write that page and one for each command.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder for all pages; it is created if it does not exist
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

impl CompletionsArgs {
    pub fn run(&self, mut program: Command) -> anyhow::Result<()> {
        let name = program.get_name().to_string();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, name, &mut script);
        Ok(outputs::print_text(&String::from_utf8(script)?)?)
    }
}

impl ManArgs {
    pub fn run(&self, program: Command) -> anyhow::Result<()> {
        if let Some(folder) = &self.folder {
            let pages =
                fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(program, folder));
            return Ok(pages.map_err(|error| Error::io(folder, error))?);
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(program).render(&mut page)?;
        Ok(outputs::print_text(&String::from_utf8(page)?)?)
    }
}
