//! The real program, run as a user runs it: exit codes, messages, files, and nothing left behind.

// A panic is how a test fails, in its helpers too.
#![allow(clippy::unwrap_used)]

mod align;
mod bad_inputs;
mod bench;
#[cfg(feature = "tiny")]
mod devices;
mod evaluate;
#[cfg(feature = "tiny")]
mod far_origin;
mod feed;
mod foreign_cameras;
mod frames;
mod inputs;
#[cfg(feature = "tiny")]
mod jobs;
mod joint;
#[cfg(feature = "tiny")]
mod many;
#[cfg(feature = "tiny")]
mod outputs;
#[cfg_attr(not(feature = "tiny"), allow(dead_code))]
mod poses;
mod profile;
mod pull;
mod refusals;
mod results;
mod sandbox;
// Not all that it can play is needed here.
#[allow(dead_code)]
#[path = "../../../tests/hub/server.rs"]
mod server;
#[cfg(unix)]
mod system;
#[cfg(feature = "tiny")]
mod tiny;
#[path = "../../../tests/tools/mod.rs"]
mod tools;
mod view;
mod weights;
