//! Networks and pipelines as a program runs them, through the public interface.

// In a test a panic is the report, in its helpers too.
#![allow(clippy::unwrap_used)]

mod consistency;
mod devices;
#[cfg(feature = "tiny")]
mod library;
#[path = "../small_network/mod.rs"]
mod small_network;
