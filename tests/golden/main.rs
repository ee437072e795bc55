//! Comparisons with the reference's recorded outputs.
//!
//! Cases are whatever lies in the folders; `MAST3R_GOLDEN` names another root with the same layout.

mod common;
mod matching;
