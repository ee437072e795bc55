//! More than two images, with the bundled network: the demonstration's four, and what is kept
//! between runs.

mod choices;
mod house;
mod work_folder;

use std::fs;
use std::io::{BufRead as _, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::sandbox::{Outcome, Sandbox, fixture, in_repository, ply, send};

/// A sandbox with a folder `photos` of the first `count` images of the demonstration.
fn sandbox(count: usize) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.copy_demo(1..=count);
    sandbox
}

/// At a third of the network's usual size unless `rest` says which, and with cameras as they are
/// aligned: most tests need no more.
fn run(sandbox: &Sandbox, rest: &str) -> Outcome {
    let size = if rest.contains("--res") {
        ""
    } else {
        "--res 112"
    };
    sandbox.succeed(&format!(
        "reconstruct photos --model tiny --json --no-refine {size} {rest}"
    ))
}

/// Pairs computed and pairs in all.
fn pairs(summary: &Value) -> [usize; 2] {
    [
        summary["computed"].as_u64().unwrap() as usize,
        summary["pairs"].as_array().unwrap().len(),
    ]
}
