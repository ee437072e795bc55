//! Interrupts, pipes, permissions and full disks.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::sandbox::{Outcome, PROGRAM, Sandbox, send};

const PAIR: &str = "reconstruct a.png b.png --weights net.pth --res 56x42";

/// Starts `line`, waits until it has begun to write a temporary into `folder`, and sends `signal`.
fn interrupted(sandbox: &Sandbox, line: &str, signal: &str) -> Outcome {
    let before = sandbox.contents();
    let child = sandbox.start(line);
    let deadline = Instant::now() + Duration::from_secs(10);
    while sandbox.contents() == before {
        assert!(Instant::now() < deadline, "no temporary appeared: {line}");
        sleep(Duration::from_millis(2));
    }
    // A little into reading weights, which takes seconds.
    sleep(Duration::from_millis(30));
    send(signal, &child);
    let outcome = Outcome::of(child);
    assert_eq!(sandbox.contents(), before, "{line}");
    outcome
}

#[test]
fn an_interrupt_leaves_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write("cloud.ply", "an older cloud");
    let pair = "reconstruct a.png b.png --model dunemast3r-small --weights random:0 --res 336 -o cloud.ply --depth maps";
    for (line, signal) in [
        (pair, "-INT"),
        (pair, "-TERM"),
        (
            "encode a.png b.png --model mast3r-encoder --weights random:0 -o features --pca p.png",
            "-INT",
        ),
    ] {
        let outcome = interrupted(&sandbox, line, signal);
        assert_eq!(outcome.code, Some(130), "{line}: {}", outcome.stderr);
        // Once the images are loaded a run says how the next one could go on.
        let advice = match line == pair {
            true => "interrupted; nothing is kept: with --work FOLDER",
            false => "interrupted; nothing is kept: the same command starts over",
        };
        let said = outcome.beside_remarks();
        let is_expected = said.is_empty() || said.starts_with(advice);
        assert!(outcome.stdout.is_empty() && is_expected, "{line}: {said}");
    }
    assert_eq!(sandbox.read("cloud.ply"), b"an older cloud");
}

#[test]
fn a_reader_that_has_had_enough_is_no_error() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.start(&format!("{PAIR} -o - --cameras cameras.json"));
    // More follows than a pipe holds.
    let mut start = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut start).unwrap();
    assert_eq!(&start, b"ply\nformat");
    let outcome = Outcome::of(child);
    outcome.check_all_but_cameras("the start of a cloud");
    outcome.assert_lacks("panicked");
    assert_eq!(sandbox.json("cameras.json")["images"][0]["name"], "a.png");
}

#[test]
fn nobody_listening_is_no_error() {
    let sandbox = Sandbox::new();
    let talk_to_nobody = |line: &str| {
        let mut child = sandbox.start(line);
        drop((child.stdout.take(), child.stderr.take()));
        child.wait().unwrap().code()
    };
    // There are no camera poses, which is an error, and the only one.
    assert_eq!(
        talk_to_nobody(&format!("{PAIR} -o cloud.ply --json")),
        Some(3)
    );
    assert!(sandbox.path("cloud.ply").exists());
    assert_eq!(talk_to_nobody(&format!("{PAIR} -o none.xyz")), Some(2));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_reported() {
    let sandbox = Sandbox::new();
    symlink("/dev/full", sandbox.path("full.ply")).unwrap();
    let full = ["No space left on device"];
    sandbox.refuse(
        &format!("{PAIR} -o full.ply"),
        1,
        &[&["error: full.ply: "], &full[..]].concat(),
    );
    sandbox.refuse(
        &format!("{PAIR} --predictions /dev/full"),
        1,
        &[&["error: /dev/full: "], &full[..]].concat(),
    );
    let mut to_stdout = sandbox.command(&format!("{PAIR} -o -"));
    let stdout = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let outcome = Outcome::new(to_stdout.stdout(stdout).output().unwrap());
    assert!(
        outcome.code == Some(1) && outcome.stderr.contains("standard output: No space left"),
        "{}",
        outcome.stderr
    );
}

/// A file system of 64 KiB, unmounted at the end.
pub struct SmallDisk<'a>(&'a Sandbox);

impl<'a> SmallDisk<'a> {
    /// Only where this process may mount.
    pub fn mount(sandbox: &'a Sandbox) -> Option<Self> {
        fs::create_dir(sandbox.path("disk")).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(sandbox.path("disk"))
            .stderr(Stdio::null());
        mount
            .status()
            .is_ok_and(|status| status.success())
            .then_some(Self(sandbox))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path("disk")).status();
    }
}

#[test]
fn a_disk_that_fills_up_keeps_what_was_on_it() {
    let sandbox = Sandbox::new();
    let Some(_disk) = SmallDisk::mount(&sandbox) else {
        return eprintln!("skipped: no file system can be mounted here");
    };
    sandbox.write("disk/cloud.ply", "an older cloud");
    for output in [
        "-o disk/cloud.ply",
        "-o disk/new.glb",
        "--depth disk/maps",
        "--predictions disk/p.safetensors",
    ] {
        sandbox.refuse(
            &format!("{PAIR} {output}"),
            1,
            &["error: disk/", "No space left on device"],
        );
    }
    let many = "encode a.png b.png --weights dune.pth --res 448";
    sandbox.refuse(
        &format!("{many} -o disk/f.safetensors"),
        1,
        &["error: disk/f.safetensors: No space left"],
    );
    sandbox.refuse(
        &format!("{many} -o disk/features"),
        1,
        &["error: disk/features/", "No space left"],
    );
    assert_eq!(sandbox.read("disk/cloud.ply"), b"an older cloud");
}

/// `line` run by a user who is not root, or none where that cannot be had.
pub fn as_plain_user(sandbox: &Sandbox, line: &str) -> Option<Command> {
    let is_root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|id| id.stdout == b"0\n");
    if !is_root {
        return Some(sandbox.command(line));
    }
    let plain = |program: &str| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", program])
            .current_dir(sandbox.path("."));
        sandbox.keep_apart(&mut command);
        command
    };
    // The build may lie where nobody else may look.
    let runs = plain(PROGRAM)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    runs.then(|| {
        let mut command = plain(PROGRAM);
        command.args(line.split_whitespace());
        command
    })
}

#[test]
fn files_without_permission_are_named() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("closed")).unwrap();
    sandbox.copy("images/portrait.png", "c.png");
    for (name, mode) in [
        (".", 0o755),
        ("b.png", 0o000),
        ("dune.pth", 0o000),
        ("closed", 0o555),
    ] {
        fs::set_permissions(sandbox.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for (line, code, parts) in [
        (
            "reconstruct a.png b.png --weights net.pth --res 56x42 --cameras /dev/null",
            3,
            [
                "error: b.png: no permission to read it",
                "change its access rights",
            ],
        ),
        (
            "encode a.png --weights dune.pth --res 56x42 --pca /dev/null -o /dev/null/f.safetensors",
            2,
            [
                "cannot write /dev/null/f.safetensors",
                "/dev/null is a file, not a folder",
            ],
        ),
        (
            "reconstruct a.png c.png --weights dune.pth --res 56x42 --cameras /dev/null",
            4,
            [
                "error: dune.pth: no permission to read it",
                "change its access rights",
            ],
        ),
        (
            "reconstruct a.png c.png --weights net.pth --res 56x42 -o closed/c.ply",
            1,
            [
                "error: closed/c.ply: nothing can be created in folder",
                "permission denied",
            ],
        ),
    ] {
        let Some(mut command) = as_plain_user(&sandbox, line) else {
            return eprintln!("skipped: no other user can run {PROGRAM}");
        };
        sandbox.refuse_run(line, &mut command, code, &parts);
    }
}
