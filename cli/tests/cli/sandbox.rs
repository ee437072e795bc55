//! A fresh folder to run the program in, and readers for what it writes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_mast3r");

/// A folder of its own for one test, in which the program runs.
///
/// It holds the images `a.png` (161x107) and `b.png` (61x90), the weights `net.pth` of a small
/// DuneMASt3R and the weights `dune.pth` of a small DUNE encoder; both have patches of 14 pixels.
pub struct Sandbox {
    folder: TempDir,
}

/// What a run left: its exit code, its output, its log.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// A file of this repository.
pub fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A file of this repository's tests.
pub fn fixture(name: &str) -> PathBuf {
    in_repository("tests").join(name)
}

impl Sandbox {
    pub fn new() -> Self {
        let sandbox = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        sandbox.copy("images/odd_161x107.png", "a.png");
        sandbox.copy("images/portrait.png", "b.png");
        sandbox.copy("golden/dunemast3r_tiny/checkpoint_full_f16.pth", "net.pth");
        sandbox.copy("golden/dune_tiny/checkpoint.pth", "dune.pth");
        sandbox
    }

    /// Where `name` lies in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn copy(&self, fixture_name: &str, name: &str) {
        self.write(name, fs::read(fixture(fixture_name)).unwrap());
    }

    /// Copies the images of the demonstration with these numbers, 1 to 4, to `photos/demo_N.jpg`.
    pub fn copy_demo(&self, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            self.copy_demo_as(number, &format!("photos/demo_{number}.jpg"));
        }
    }

    /// Copies an image of the demonstration to `name`, whose folder is made.
    pub fn copy_demo_as(&self, number: usize, name: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        let asset = in_repository(&format!("assets/demo_{number}.jpg"));
        fs::copy(asset, self.path(name)).unwrap();
    }

    /// Copies the stored predictions of a synthetic scene into the new folder `folder`.
    pub fn copy_predictions(&self, scene: &str, folder: &str) {
        fs::create_dir(self.path(folder)).unwrap();
        let scene = format!("golden/multiview/{scene}");
        for name in ["scene.json", "views.safetensors", "pairs.safetensors"] {
            self.copy(&format!("{scene}/{name}"), &format!("{folder}/{name}"));
        }
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&self.read(name)).unwrap()
    }

    /// Every file and folder below, hidden ones too, with its size and when it was written.
    pub fn contents(&self) -> BTreeMap<PathBuf, (u64, std::time::SystemTime)> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.folder.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let (path, metadata) = entry
                    .map(|entry| (entry.path(), entry.path().symlink_metadata()))
                    .unwrap();
                let metadata = metadata.unwrap();
                if metadata.is_dir() {
                    folders.push(path.clone());
                }
                // A folder's own time changes with every temporary in it.
                let file = metadata.is_file();
                let written = if file {
                    metadata.modified().unwrap()
                } else {
                    std::time::SystemTime::UNIX_EPOCH
                };
                found.insert(path, (if file { metadata.len() } else { 0 }, written));
            }
        }
        found
    }

    /// The program with the arguments of `line`, in the folder.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(line.split_whitespace())
            .current_dir(self.folder.path());
        self.keep_apart(&mut command);
        command
    }

    /// Gives `command` an empty cache of weights in the folder, and nothing of this machine's
    /// settings for one.
    pub fn keep_apart(&self, command: &mut Command) {
        command.env("HF_HOME", self.path("cache"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let is_proxy = name.to_lowercase().ends_with("_proxy");
            if is_proxy
                || (name.starts_with("HF_") && name != "HF_HOME")
                || name.starts_with("HUGGING")
            {
                command.env_remove(name);
            }
        }
    }

    pub fn run(&self, line: &str) -> Outcome {
        Outcome::new(self.command(line).output().unwrap())
    }

    /// Starts the program; [`Outcome::of`] waits for it.
    pub fn start(&self, line: &str) -> Child {
        start(&mut self.command(line))
    }

    /// Runs what must work.
    pub fn succeed(&self, line: &str) -> Outcome {
        let outcome = self.run(line);
        assert_eq!(outcome.code, Some(0), "{line}\n{}", outcome.stderr);
        outcome
    }

    /// Runs two images through a network with random weights, which determines no camera poses:
    /// everything else must work.
    pub fn succeed_but_for_cameras(&self, line: &str) -> Outcome {
        let outcome = self.run(line);
        outcome.check_all_but_cameras(line);
        outcome
    }

    /// Runs what must fail with `code` and a message that holds all of `parts`, and must leave
    /// everything as it was.
    pub fn refuse(&self, line: &str, code: i32, parts: &[&str]) {
        self.refuse_run(line, &mut self.command(line), code, parts);
    }

    /// As [`Self::refuse`], for a command that is more than a line.
    pub fn refuse_run(&self, title: &str, command: &mut Command, code: i32, parts: &[&str]) {
        let before = self.contents();
        let outcome = Outcome::new(command.output().unwrap());
        let Outcome { stderr, .. } = &outcome;
        assert_eq!(outcome.code, Some(code), "{title}\n{stderr}");
        assert!(
            outcome.beside_remarks().starts_with("error: "),
            "{title}\n{stderr}"
        );
        assert!(!stderr.contains("panicked"), "{title}\n{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{title}\nlacks {part:?}: {stderr}");
        }
        assert!(
            outcome.stdout.is_empty(),
            "{title}\n{}",
            String::from_utf8_lossy(&outcome.stdout)
        );
        assert_eq!(
            self.contents(),
            before,
            "{title}\nleft something else behind\n{stderr}"
        );
    }
}

/// Starts a command and keeps what it writes.
pub fn start(command: &mut Command) -> Child {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().unwrap()
}

/// Sends a signal, such as `-INT`.
#[cfg(unix)]
pub fn send(signal: &str, child: &Child) {
    let mut kill = Command::new("kill");
    kill.args([signal, &child.id().to_string()]);
    assert!(kill.status().unwrap().success());
}

impl Outcome {
    /// Waits for the end.
    pub fn of(child: Child) -> Self {
        Self::new(child.wait_with_output().unwrap())
    }

    pub fn new(output: Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Self {
            code: output.status.code(),
            stdout: output.stdout,
            stderr,
        }
    }

    /// Checks that standard error has `part`.
    #[track_caller]
    pub fn assert_says(&self, part: &str) {
        assert!(
            self.stderr.contains(part),
            "lacks {part:?}: {}",
            self.stderr
        );
    }

    /// Checks that standard error does not have `part`.
    #[track_caller]
    pub fn assert_lacks(&self, part: &str) {
        assert!(!self.stderr.contains(part), "has {part:?}: {}", self.stderr);
    }

    /// The lines of standard error that are errors.
    pub fn errors(&self) -> Vec<&str> {
        let lines = self.stderr.lines();
        lines.filter(|line| line.starts_with("error: ")).collect()
    }

    /// Standard error but for the remarks on the sizes of images, which come before whatever else
    /// there is to say.
    pub fn beside_remarks(&self) -> String {
        let remarks = [
            " than the network's size",
            " to the network's shape",
            ", all to be computed",
        ];
        let is_remark = |line: &str| remarks.iter().any(|remark| line.contains(remark));
        self.stderr
            .split_inclusive('\n')
            .skip_while(|line| is_remark(line))
            .collect()
    }

    /// Checks that the images have no camera poses, and that nothing else failed.
    pub fn check_all_but_cameras(&self, line: &str) {
        assert_eq!(self.code, Some(3), "{line}\n{}", self.stderr);
        let errors = self.errors();
        assert!(
            errors.len() == 1 && errors[0].starts_with("error: no relative pose: "),
            "{line}\n{}",
            self.stderr
        );
    }

    /// The one JSON object on standard output.
    pub fn json(&self) -> serde_json::Value {
        let value: serde_json::Value = serde_json::from_slice(&self.stdout).unwrap();
        assert!(value.is_object(), "{value}");
        value
    }
}

/// A point cloud as the program writes it.
pub struct Ply {
    /// As they are stored, whether in float32 or in float64.
    pub exact: Vec<[f64; 3]>,
    /// In float32.
    pub positions: Vec<[f32; 3]>,
    /// Whether they are stored in float64.
    pub is_double: bool,
    pub confidences: Vec<f32>,
}

/// Reads a PLY and checks that it holds what its header says.
pub fn ply(bytes: &[u8]) -> Ply {
    const END: &[u8] = b"end_header\n";
    let end = bytes
        .windows(END.len())
        .position(|window| window == END)
        .unwrap()
        + END.len();
    let header = str::from_utf8(&bytes[..end]).unwrap();
    assert!(
        header.starts_with("ply\nformat binary_little_endian 1.0\n"),
        "{header}"
    );
    let number = |line: &str| line.strip_prefix("element vertex ")?.parse::<usize>().ok();
    let count = header.lines().find_map(number).unwrap();
    let properties: Vec<_> = header
        .lines()
        .filter_map(|line| line.strip_prefix("property "))
        .collect();
    let is_double = properties[0] == "double x";
    let kind = if is_double { "double" } else { "float" };
    let expected = format!(
        "{kind} x, {kind} y, {kind} z, uchar red, uchar green, uchar blue, float confidence"
    );
    assert_eq!(properties.join(", "), expected);
    let (width, body) = (if is_double { 8 } else { 4 }, &bytes[end..]);
    let vertices = body.chunks(3 * width + 7);
    assert_eq!((vertices.len(), body.len() % (3 * width + 7)), (count, 0));
    let coordinate = |bytes: &[u8]| match is_double {
        true => f64::from_le_bytes(bytes.try_into().unwrap()),
        false => f64::from(f32::from_le_bytes(bytes.try_into().unwrap())),
    };
    let exact: Vec<[f64; 3]> = vertices
        .clone()
        .map(|vertex| [0, 1, 2].map(|axis| coordinate(&vertex[axis * width..][..width])))
        .collect();
    Ply {
        positions: exact
            .iter()
            .map(|position| position.map(|value| value as f32))
            .collect(),
        exact,
        is_double,
        confidences: vertices
            .map(|vertex| f32::from_le_bytes(vertex[3 * width + 3..].try_into().unwrap()))
            .collect(),
    }
}

/// The shape and the values of a `.npy` of little-endian float32.
pub fn npy(bytes: &[u8]) -> (Vec<usize>, Vec<f32>) {
    assert!(bytes.starts_with(b"\x93NUMPY\x01\0"));
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = str::from_utf8(&bytes[10..start]).unwrap();
    assert!(
        header.contains("'<f4'") && header.contains("'fortran_order': False"),
        "{header}"
    );
    let shape = header
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(')'))
        .unwrap()
        .0;
    let shape = shape
        .split(',')
        .filter_map(|side| side.trim().parse().ok())
        .collect();
    (shape, floats(&bytes[start..]))
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}
