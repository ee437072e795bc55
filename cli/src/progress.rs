//! What is shown while work is under way: a bar on a terminal, a line a minute where standard error
//! is something else.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};
use std::ops::{ControlFlow, Deref};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mast3r::pipeline::Progress;

/// How a line looks whose steps are counted, and one whose are not.
const COUNTED: &str = "{bar:30} {pos}/{len} {msg} {per_sec}, {eta} left";
const UNCOUNTED: &str = "{spinner} {msg} {elapsed}";

/// The time until the first line of a log, when an estimate is known, and from each line to the
/// next.
const FIRST_LINE: Duration = Duration::from_secs(10);
const LINES: Duration = Duration::from_secs(60);

/// What a line counts.
#[derive(Clone, Copy, Debug)]
enum Unit {
    Step,
    Byte,
}

/// Progress of something; it is over when this is dropped.
#[derive(Debug)]
pub struct Line {
    bar: ProgressBar,
    /// Ends the thread that writes a log.
    _end: Option<Sender<()>>,
}

impl Line {
    /// On a terminal, in a log or nowhere.
    fn new(quiet: bool, length: Option<u64>, unit: Unit) -> Self {
        if quiet || io::stderr().is_terminal() {
            let target = if quiet {
                ProgressDrawTarget::hidden()
            } else {
                ProgressDrawTarget::stderr()
            };
            return Self {
                bar: ProgressBar::with_draw_target(length, target),
                _end: None,
            };
        }
        Self::logged(length, unit, [FIRST_LINE, LINES], crate::print_log)
    }

    /// Told to `say` after the first time and then again and again after the second.
    fn logged(
        length: Option<u64>,
        unit: Unit,
        [first, next]: [Duration; 2],
        say: impl Fn(String) + Send + 'static,
    ) -> Self {
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::hidden());
        let (end, ended) = channel();
        thread::spawn({
            let bar = bar.clone();
            move || {
                let mut wait = first;
                while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                    if !bar.is_finished() {
                        say(status(&bar, unit));
                    }
                    wait = next;
                }
            }
        });
        Self {
            bar,
            _end: Some(end),
        }
    }

    /// Shows the stage that a run is in, and counts its steps; never ends the run.
    pub fn follow(&self, event: Progress) -> ControlFlow<()> {
        match event {
            Progress::Begin(stage, steps) => begin(self, stage.name(), steps),
            Progress::Step => self.inc(1),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    /// Writes a log line above the bar.
    pub fn say(&self, line: impl std::fmt::Display) {
        self.bar.suspend(|| crate::print_log(line));
    }
}

impl Deref for Line {
    type Target = ProgressBar;

    fn deref(&self) -> &ProgressBar {
        &self.bar
    }
}

/// How far it is, as a line of a log.
fn status(bar: &ProgressBar, unit: Unit) -> String {
    let (what, done, elapsed) = (bar.message(), bar.position(), rounded(bar.elapsed()));
    let count = |number: u64| match unit {
        Unit::Step => number.to_string(),
        Unit::Byte => bytes_text(number),
    };
    match bar.length().filter(|length| *length > 1) {
        None if done == 0 => format!("{what}: {elapsed} so far"),
        None => format!("{what}: {} in {elapsed}", count(done)),
        Some(length) if done == 0 => format!("{what}: 0 of {}, {elapsed} so far", count(length)),
        Some(length) => {
            let rate = match (unit, bar.per_sec()) {
                (Unit::Byte, rate) => format!("{} a second", bytes_text(rate as u64)),
                (_, fast) if fast >= 1.0 => format!("{fast:.1} a second"),
                (_, slow) if slow * 60.0 >= 1.0 => format!("{:.1} a minute", slow * 60.0),
                (_, slow) => format!("{:.1} an hour", slow * 3600.0),
            };
            format!(
                "{what}: {} of {}, {rate}, about {} left",
                count(done),
                count(length),
                rounded(bar.eta())
            )
        }
    }
}

/// A duration as a person says it.
pub fn rounded(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds @ 100..6000 => format!("{} min", (seconds + 30) / 60),
        seconds => {
            let minutes = (seconds + 30) / 60;
            format!("{} h {:02} min", minutes / 60, minutes % 60)
        }
    }
}

/// A number of bytes as a person says it.
pub fn bytes_text(bytes: u64) -> String {
    let units = [
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
    ];
    let unit = units.into_iter().find(|(unit, _)| bytes >= *unit);
    unit.map_or_else(
        || format!("{} kB", bytes.div_ceil(1000)),
        |(unit, name)| format!("{:.1} {name}", bytes as f64 / unit as f64),
    )
}

/// What an interrupted run tells, if anything.
static ON_INTERRUPT: Mutex<Option<String>> = Mutex::new(None);

/// From now on an interrupt says `advice`: how to go on.
pub fn advise_on_interrupt(quiet: bool, advice: String) {
    if !quiet {
        *ON_INTERRUPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(advice);
    }
}

/// From now on an interrupt says that the command begins anew when it is run again.
pub fn advise_to_start_over(quiet: bool) {
    let advice = "interrupted; nothing is kept: the same command starts over";
    advise_on_interrupt(quiet, advice.into());
}

/// What an interrupt is to say.
pub fn interrupt_advice() -> Option<String> {
    ON_INTERRUPT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
}

/// A spinner with a message.
pub fn spinner(quiet: bool) -> Line {
    let line = Line::new(quiet, None, Unit::Step);
    line.set_style(style(UNCOUNTED));
    tick(&line);
    line
}

/// A bar over `count` images that are encoded.
pub fn bar(quiet: bool, count: usize) -> Line {
    let line = Line::new(quiet, Some(count as u64), Unit::Step);
    line.set_message("encode");
    line.set_style(style(COUNTED));
    line
}

/// A bar over the bytes of a file; how many there are may be unknown.
pub fn bytes(quiet: bool, total: Option<u64>) -> Line {
    let line = Line::new(quiet, total, Unit::Byte);
    line.set_message("received");
    line.set_style(style(match total {
        Some(_) => {
            "{bar:30} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left"
        }
        None => "{spinner} {decimal_bytes} {decimal_bytes_per_sec}",
    }));
    line
}

/// A line for one stage after another, see [`begin`].
pub fn stages(quiet: bool) -> Line {
    Line::new(quiet, None, Unit::Step)
}

/// Turns the line over to the stage `name`: a bar over its steps, or a spinner if it has but one.
pub fn begin(line: &Line, name: &'static str, steps: usize) {
    line.reset();
    line.set_length(steps as u64);
    line.set_message(name);
    line.set_style(style(if steps > 1 { COUNTED } else { UNCOUNTED }));
    tick(line);
}

/// Keeps a bar on a terminal moving.
fn tick(line: &Line) {
    if !line.is_hidden() {
        line.enable_steady_tick(Duration::from_millis(120));
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// Shows `message` from now on.
pub fn show(bar: &ProgressBar, message: impl Into<Cow<'static, str>>) {
    bar.set_message(message);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_log_has_lines_with_counts_rate_and_time_left_until_the_end() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let line = Line::logged(Some(100), Unit::Step, [Duration::from_millis(40); 2], {
            let lines = lines.clone();
            move |line| lines.lock().unwrap().push(line)
        });
        begin(&line, "pairs", 100);
        let wait_for = |more: usize| {
            let (started, before) = (Instant::now(), lines.lock().unwrap().len());
            while lines.lock().unwrap().len() < before + more {
                assert!(started.elapsed() < Duration::from_secs(20), "no line came");
                thread::sleep(Duration::from_millis(5));
            }
        };
        wait_for(1);
        assert!(lines.lock().unwrap()[0].starts_with("pairs: 0 of 100, "));
        line.inc(30);
        wait_for(2);
        let last = lines.lock().unwrap().last().unwrap().clone();
        assert!(
            last.starts_with("pairs: 30 of 100, ") && last.contains(" a "),
            "{last}"
        );
        assert!(
            last.contains(", about ") && last.ends_with(" left"),
            "{last}"
        );
        begin(&line, "align", 1);
        wait_for(2);
        assert!(
            lines
                .lock()
                .unwrap()
                .last()
                .unwrap()
                .starts_with("align: 0 s so far")
        );
        drop(line);
        thread::sleep(Duration::from_millis(60));
        let count = lines.lock().unwrap().len();
        thread::sleep(Duration::from_millis(150));
        assert_eq!(lines.lock().unwrap().len(), count);
    }

    #[test]
    fn times_and_sizes_are_said_as_a_person_says_them() {
        let time = |seconds| rounded(Duration::from_secs(seconds));
        assert_eq!(
            [5, 99, 100, 3000, 6000, 90_000].map(time),
            [
                "5 s",
                "99 s",
                "2 min",
                "50 min",
                "1 h 40 min",
                "25 h 00 min"
            ]
        );
        assert_eq!(
            [1, 999_999, 1_500_000, 48_000_000_000].map(bytes_text),
            ["1 kB", "1000 kB", "1.5 MB", "48.0 GB"]
        );
    }
}
