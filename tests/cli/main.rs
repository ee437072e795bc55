//! The real program, run as a user runs it: exit codes, messages, files, and nothing left behind.

mod refusals;
mod results;
mod sandbox;
#[cfg(unix)]
mod system;
mod weights;
