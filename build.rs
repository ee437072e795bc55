//! Sets `cfg(bundled)` if the weights of `tiny` are asked for and there: the package on crates.io
//! lacks them, since it may have 10 MB.

use std::env;
use std::path::Path;

fn main() {
    const WEIGHTS: &str = "assets/tiny.safetensors";
    println!("cargo::rustc-check-cfg=cfg(bundled)");
    println!("cargo::rerun-if-changed={WEIGHTS}");
    if env::var_os("CARGO_FEATURE_TINY").is_none() {
        return;
    }
    if Path::new(WEIGHTS).is_file() {
        println!("cargo::rustc-cfg=bundled");
    } else {
        println!(
            "cargo::warning={WEIGHTS} is in the repository only: built without the network tiny"
        );
    }
}
