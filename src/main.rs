//! `mast3r`: photographs in, a 3D reconstruction out, from the command line.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
