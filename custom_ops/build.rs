//! Feature `cuda` only: compiles every `src/*/*.cu` to PTX, which lands in `OUT_DIR` under its file
//! stem.
//!
//! `CUDA_COMPUTE_CAP` (such as 90) chooses the architecture; without it the kernels are made for
//! 8.0, the oldest with bfloat16, and the driver translates them for what is newer. What ends in
//! `_sm90` is for 9.0 alone, whose own instructions it has, and needs CUDA 12 or newer. nvcc is
//! `$CUDA_HOME/bin/nvcc`, or the one on the path.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Without bfloat16 arithmetic in the kernels there is no point in an older one.
const OLDEST: u32 = 80;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let capability = match env::var("CUDA_COMPUTE_CAP") {
        Err(_) => OLDEST,
        Ok(text) => match text.replace('.', "").parse() {
            Ok(number) if number >= OLDEST => number,
            _ => panic!(
                "CUDA_COMPUTE_CAP={text}: a number of {OLDEST} or more is needed, such as 90"
            ),
        },
    };
    let nvcc =
        env::var_os("CUDA_HOME").map_or("nvcc".into(), |home| PathBuf::from(home).join("bin/nvcc"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let folders = fs::read_dir("src").expect("the sources are there");
    for folder in folders
        .map(|entry| entry.expect("the sources are readable").path())
        .filter(|path| path.is_dir())
    {
        for file in fs::read_dir(&folder).expect("the folder is readable") {
            let source = file.expect("the folder is readable").path();
            if source
                .extension()
                .is_some_and(|extension| extension == "cu")
            {
                compile(&nvcc, &source, &out, capability);
            }
        }
    }
}

fn compile(nvcc: &Path, source: &Path, out: &Path, capability: u32) {
    let stem = source.file_stem().expect("a source has a name");
    let ptx = out.join(stem).with_extension("ptx");
    let is_for_hopper = stem.to_str().is_some_and(|stem| stem.ends_with("_sm90"));
    let architecture = if is_for_hopper {
        "90a".to_string()
    } else {
        capability.to_string()
    };
    let output = Command::new(nvcc)
        .args(["-ptx", "-O3", "-std=c++17", "-Isrc/launch"])
        .arg(format!("-arch=compute_{architecture}"))
        .arg("-o")
        .arg(&ptx)
        .arg(source)
        .output()
        .unwrap_or_else(|e| {
            panic!(
                "{}: {e}; feature `cuda` needs the CUDA toolkit, or CUDA_HOME set",
                nvcc.display()
            )
        });
    assert!(
        output.status.success(),
        "{}:\n{}",
        source.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}
