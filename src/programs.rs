//! Outside programs, such as ffmpeg: started without a shell, read through pipes, ended when they
//! stall and with this process.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Lines of standard error that are kept for a message.
const KEPT_LINES: usize = 40;
/// The longest line of standard error that is looked at, in bytes.
const LONGEST_LINE: u64 = 1 << 14;
/// How often a program that has said all is asked whether it has ended.
const POLL: Duration = Duration::from_millis(2);

/// The programs that run.
///
/// A global for the same reason as the list of temporary files: the handler of an interrupt is
/// handed nothing, and no destructor runs after it.
static RUNNING: Mutex<Registry> = Mutex::new(Registry {
    live: Vec::new(),
    closed: false,
});

struct Registry {
    live: Vec<Arc<Shared>>,
    closed: bool,
}

/// Ends every outside program of this process and lets no further one start.
///
/// For the handler of an interrupt, right before it ends the process.
pub fn end_programs() {
    let mut registry = lock(&RUNNING);
    registry.closed = true;
    registry.live.iter().for_each(|shared| shared.kill());
}

/// A program that runs: reading it reads its standard output. It is ended when this is dropped.
pub(crate) struct Program {
    shared: Arc<Shared>,
    stdout: ChildStdout,
    /// The lines of standard error that were asked for.
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    watchdog: Option<JoinHandle<()>>,
}

/// How a program ended.
pub(crate) struct Ending {
    pub success: bool,
    /// Whether it was ended because it stalled.
    pub stalled: bool,
    /// The last lines of standard error, without those that were asked for.
    pub talk: String,
}

struct Shared {
    child: Mutex<Child>,
    watch: Mutex<Watch>,
    changed: Condvar,
}

struct Watch {
    last_output: Instant,
    is_over: bool,
    stalled: bool,
}

impl Program {
    /// Starts a program whose standard input is `input`. It is ended if it gives no output for as
    /// long as `patience`. Of its standard error the lines that `wanted` picks go to
    /// [`Program::line`].
    ///
    /// # Errors
    /// Those of starting it: [`io::ErrorKind::NotFound`] if there is no such program.
    pub fn start(
        mut command: Command,
        input: Option<Vec<u8>>,
        patience: Duration,
        wanted: fn(&str) -> bool,
    ) -> io::Result<Self> {
        command
            .stdin(input.as_ref().map_or_else(Stdio::null, |_| Stdio::piped()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut registry = lock(&RUNNING);
        if registry.closed {
            return Err(io::Error::other("the process is being ended"));
        }
        let mut child = command.spawn()?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let shared = Arc::new(Shared {
            child: Mutex::new(child),
            watch: Mutex::new(Watch {
                last_output: Instant::now(),
                is_over: false,
                stalled: false,
            }),
            changed: Condvar::new(),
        });
        registry.live.push(shared.clone());
        drop(registry);
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
            shared.kill();
            return Err(io::Error::other("no pipes"));
        };
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // A program that has seen enough closes the pipe.
            thread::spawn(move || drop(stdin.write_all(&input)));
        }
        let (sender, lines) = channel();
        Ok(Self {
            stdout,
            lines,
            stderr: Some(thread::spawn(move || talk(stderr, wanted, &sender))),
            watchdog: Some(thread::spawn({
                let shared = shared.clone();
                move || shared.watch(patience)
            })),
            shared,
        })
    }

    /// The next line that was asked for; `None` once there are no more.
    pub fn line(&self) -> Option<String> {
        self.lines.recv().ok()
    }

    /// Waits for the end of a program whose standard output was read to its end.
    pub fn finish(mut self) -> Ending {
        let status = loop {
            match lock(&self.shared.child).try_wait() {
                Ok(None) => {}
                ended => break ended.ok().flatten(),
            }
            thread::sleep(POLL);
        };
        let talk = self.stderr.take().and_then(|thread| thread.join().ok());
        Ending {
            success: status.is_some_and(|status| status.success()),
            stalled: lock(&self.shared.watch).stalled,
            talk: talk.unwrap_or_default(),
        }
    }
}

impl Read for Program {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stdout.read(buffer);
        lock(&self.shared.watch).last_output = Instant::now();
        read
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.shared.kill();
        // Reaped, so that none stays behind as a zombie.
        let _ = lock(&self.shared.child).wait();
        lock(&self.shared.watch).is_over = true;
        self.shared.changed.notify_all();
        lock(&RUNNING)
            .live
            .retain(|shared| !Arc::ptr_eq(shared, &self.shared));
        if let Some(watchdog) = self.watchdog.take() {
            let _ = watchdog.join();
        }
    }
}

impl Shared {
    /// Ends the program; one that has ended is left alone.
    fn kill(&self) {
        let _ = lock(&self.child).kill();
    }

    fn watch(&self, patience: Duration) {
        let mut watch = lock(&self.watch);
        while !watch.is_over {
            let idle = watch.last_output.elapsed();
            if idle >= patience {
                watch.stalled = true;
                drop(watch);
                return self.kill();
            }
            watch = self
                .changed
                .wait_timeout(watch, patience - idle)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Sends the lines that are wanted and returns the last of the others.
fn talk(stderr: impl Read, wanted: fn(&str) -> bool, sender: &Sender<String>) -> String {
    let mut reader = BufReader::new(stderr);
    let mut kept = VecDeque::new();
    loop {
        let mut line = Vec::new();
        match (&mut reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
        {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if wanted(&line) {
            // Nobody may be left who reads them.
            let _ = sender.send(line);
        } else if !line.is_empty() {
            if kept.len() == KEPT_LINES {
                kept.pop_front();
            }
            kept.push_back(line);
        }
    }
    Vec::from(kept).join("\n")
}

/// States here are valid between any two statements, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How to install a program on this system, such as "`brew install ffmpeg`". The packages are those
/// of Debian, Homebrew and winget.
pub(crate) fn install_line([apt, brew, winget]: [&str; 3]) -> String {
    if cfg!(target_os = "macos") {
        format!("`brew install {brew}`")
    } else if cfg!(windows) {
        format!("`winget install {winget}`")
    } else {
        format!("`sudo apt install {apt}`, or with the package manager of your system")
    }
}

#[cfg(all(test, unix))]
// A panic is how a test fails, in its helpers too.
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shell(script: &str, input: Option<&[u8]>, patience: Duration) -> (Program, String) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let wanted = |line: &str| line.starts_with("time");
        let input = input.map(<[u8]>::to_vec);
        let mut program = Program::start(command, input, patience, wanted).unwrap();
        let mut output = String::new();
        program.read_to_string(&mut output).unwrap();
        (program, output)
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn gives_output_lines_and_the_rest_of_the_talk() {
        let script = "cat; echo time 1 >&2; echo 'it broke' >&2; exit 3";
        let (program, output) = shell(script, Some(b"pixels"), PATIENCE);
        assert_eq!(output, "pixels");
        assert_eq!(program.line().as_deref(), Some("time 1"));
        assert_eq!(program.line(), None);
        let Ending {
            success,
            stalled,
            talk,
        } = program.finish();
        assert_eq!((success, stalled, &*talk), (false, false, "it broke"));
    }

    #[test]
    fn ends_a_program_that_stalls() {
        let started = Instant::now();
        let (program, output) = shell("echo a; exec sleep 60", None, Duration::from_millis(200));
        assert_eq!(output, "a\n");
        let ending = program.finish();
        assert!(ending.stalled && !ending.success);
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn ends_a_program_that_is_dropped() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let program = Program::start(command, None, PATIENCE, |_| false).unwrap();
        let shared = program.shared.clone();
        drop(program);
        assert!(lock(&shared.child).try_wait().unwrap().is_some());
    }

    #[test]
    fn reports_a_missing_program() {
        let missing = Command::new("mast3r-no-such-program");
        let error = Program::start(missing, None, PATIENCE, |_| false).err();
        assert_eq!(error.unwrap().kind(), io::ErrorKind::NotFound);
    }
}
