//! Comparisons with recorded outputs of the reference and of its libraries.
//!
//! The recordings lie in `tests/golden`, or in the folder that the environment variable `MAST3R_GOLDEN` names, of the
//! same layout. Cases are found by listing it.

// In a test a panic is the report.
#![allow(clippy::unwrap_used)]

mod common;
mod preprocess;
