//! Outside programs that tests make their inputs with.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use image::RgbImage;

/// Whether these programs are there; else the test has nothing to run and says so. With
/// `MAST3R_REQUIRE_TOOLS=1` in the environment it fails instead, so that a machine that has them
/// cannot pass without them.
pub fn are_there(programs: &[&str]) -> bool {
    let missing: Vec<&&str> = programs.iter().filter(|name| !starts(name)).collect();
    if missing.is_empty() {
        return true;
    }
    let is_required = std::env::var_os("MAST3R_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    assert!(
        !is_required,
        "MAST3R_REQUIRE_TOOLS=1, but these are not on the PATH: {missing:?}"
    );
    println!("skipped: not on the PATH: {missing:?}");
    false
}

fn starts(program: &str) -> bool {
    let run = Command::new(program)
        .arg("-version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    run.is_ok()
}

/// Runs ffmpeg in `folder` with the arguments of `line`.
pub fn ffmpeg(folder: &Path, line: &str) {
    encode(folder, &[], line);
}

/// Gives frames of one size to ffmpeg, to which they are input 0; the arguments of `line` follow,
/// of which `RATE` before the first ` ; ` is their rate.
pub fn encode(folder: &Path, frames: &[RgbImage], line: &str) {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error", "-y"]);
    if let Some(first) = frames.first() {
        let size = format!("{}x{}", first.width(), first.height());
        command.args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size]);
    }
    let line = match line.split_once(" ; ") {
        Some((rate, rest)) => {
            command.args(["-r", rate, "-i", "-"]);
            rest
        }
        None => line,
    };
    let mut child = command
        .args(line.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for frame in frames {
        stdin.write_all(frame.as_raw()).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ffmpeg {line}: {said}");
}
