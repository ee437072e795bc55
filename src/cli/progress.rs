//! What a terminal shows while work is under way; nothing where there is none.

use std::borrow::Cow;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A spinner with a message.
pub fn spinner(quiet: bool) -> ProgressBar {
    let bar = on_terminal(quiet, None);
    bar.set_style(style("{spinner} {msg} {elapsed}"));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A bar over `count` pictures.
pub fn bar(quiet: bool, count: usize) -> ProgressBar {
    let bar = on_terminal(quiet, Some(count as u64));
    bar.set_style(style("{bar:30} {pos}/{len} {msg} {per_sec}, {eta} left"));
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
