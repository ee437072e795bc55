//! What a terminal shows while work is under way; nothing where there is none.

use std::borrow::Cow;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How a line looks whose steps are counted, and one whose are not.
const COUNTED: &str = "{bar:30} {pos}/{len} {msg} {per_sec}, {eta} left";
const UNCOUNTED: &str = "{spinner} {msg} {elapsed}";

/// A spinner with a message.
pub fn spinner(quiet: bool) -> ProgressBar {
    let bar = on_terminal(quiet, None);
    bar.set_style(style(UNCOUNTED));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A bar over `count` pictures.
pub fn bar(quiet: bool, count: usize) -> ProgressBar {
    let bar = on_terminal(quiet, Some(count as u64));
    bar.set_style(style(COUNTED));
    bar
}

/// A bar over the bytes of a file; how many there are may be unknown.
pub fn bytes(quiet: bool, total: Option<u64>) -> ProgressBar {
    let bar = on_terminal(quiet, total);
    bar.set_style(style(match total {
        Some(_) => "{bar:30} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left",
        None => "{spinner} {decimal_bytes} {decimal_bytes_per_sec}",
    }));
    bar
}

/// A line for one stage after another, see [`begin`].
pub fn stages(quiet: bool) -> ProgressBar {
    on_terminal(quiet, None)
}

/// Turns the line over to the stage `name`: a bar over its steps, or a spinner if it has but one.
pub fn begin(line: &ProgressBar, name: &'static str, steps: usize) {
    line.reset();
    line.set_length(steps as u64);
    line.set_message(name);
    line.set_style(style(if steps > 1 { COUNTED } else { UNCOUNTED }));
    line.enable_steady_tick(Duration::from_millis(120));
}

fn on_terminal(quiet: bool, length: Option<u64>) -> ProgressBar {
    // indicatif draws nothing where standard error is no terminal.
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    ProgressBar::with_draw_target(length, target)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// Shows `message` from now on.
pub fn show(bar: &ProgressBar, message: impl Into<Cow<'static, str>>) {
    bar.set_message(message);
}
