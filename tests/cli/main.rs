//! The real program, run as a user runs it: exit codes, messages, files, and nothing left behind.

// A panic is how a test fails, in its helpers too.
#![allow(clippy::unwrap_used)]

mod align;
mod bench;
mod profile;
mod refusals;
mod results;
mod sandbox;
#[cfg(unix)]
mod system;
mod weights;
