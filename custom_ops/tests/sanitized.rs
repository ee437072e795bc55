//! A GPU's kernels as a C++17 program that runs on the CPU under the address and undefined
//! behaviour sanitizers.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

const SOURCE: &str = "main.cpp";
const PROGRAM: &str = "kernels";
const REQUEST: &str = "request";

/// A compiled program.
pub struct Sanitized {
    /// Holds the program; removed with it.
    folder: TempDir,
}

/// The compiler: `CXX`, or the system's own.
fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".to_string())
}

impl Sanitized {
    /// Compiles `source`, which messages call `name`; the headers that stand for the GPU's are in
    /// `tests/KIND/include`.
    pub fn new(kind: &str, name: &str, source: &str, options: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join(SOURCE), source).unwrap();
        let output = Command::new(compiler())
            // Products are rounded before they are added: what may be fused differs from one
            // processor to the next.
            .args([
                "-std=c++17",
                "-g1",
                "-ffp-contract=off",
                "-Wall",
                "-Wno-unknown-pragmas",
            ])
            .args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"])
            .args(options)
            .arg("-I")
            .arg(folder_of(kind).join("include"))
            .args([SOURCE, "-o", PROGRAM])
            .current_dir(&folder)
            .output()
            .unwrap_or_else(|error| {
                panic!(
                    "{name} is tested as C++, which needs a compiler: {}: {error}",
                    compiler()
                )
            });
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{name} as C++17 with address and undefined sanitizers:\n{messages}"
        );
        Self { folder }
    }

    /// What the program writes when it is given `request`, in parts of these lengths, which are all
    /// of it.
    pub fn run(&self, request: &[u8], lengths: &[usize]) -> Vec<Vec<u8>> {
        let path = self.folder.path().join(REQUEST);
        std::fs::write(&path, request).unwrap();
        let output = Command::new(self.folder.path().join(PROGRAM))
            // The leak check needs rights that a container may not give, and nothing here is about
            // leaks; fibers have stacks that the other check does not know.
            .env(
                "ASAN_OPTIONS",
                "detect_leaks=0:detect_stack_use_after_return=0",
            )
            .stdin(File::open(&path).unwrap())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.stdout.len(), lengths.iter().sum::<usize>());
        let mut rest = output.stdout.as_slice();
        let parts = lengths.iter().map(|&length| {
            let (this, after) = rest.split_at(length);
            rest = after;
            this.to_vec()
        });
        parts.collect()
    }
}

/// The line that takes in `tests/KIND/driver.cpp`, which reads a request, launches and writes.
pub fn include_driver(kind: &str) -> String {
    include(kind, "driver.cpp")
}

/// The line that takes in a file of `tests/KIND`.
pub fn include(kind: &str, file: &str) -> String {
    format!("#include \"{}\"\n", folder_of(kind).join(file).display())
}

fn folder_of(kind: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(kind)
}
