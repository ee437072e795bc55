//! The real program, run as a user runs it: exit codes, messages, files, and nothing left behind.

// A panic is how a test fails, in its helpers too.
#![allow(clippy::unwrap_used)]

mod align;
mod bench;
#[cfg(feature = "tiny")]
mod many;
mod profile;
mod refusals;
mod results;
mod sandbox;
#[cfg(unix)]
mod system;
#[cfg(feature = "tiny")]
mod tiny;
mod weights;
