//! Goldens: reference outputs of every stage, discovered by listing folders.
//!
//! `MAST3R_GOLDEN=DIR cargo test --release --test golden` runs the same tests on another folder of
//! the same layout.

// In a test a panic is the report.
#![allow(clippy::unwrap_used)]

mod alignment;
mod checkpoint;
mod common;
mod da3;
mod full;
mod matching;
mod multiview;
mod networks;
mod ops;
mod optimisations;
mod preprocess;
