//! `mast3r`: photographs in, a measured 3D scene out, from the command line.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
