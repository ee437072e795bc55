//! Measurements: how long a network takes, where the time goes, how much memory it wants, and in
//! what terms that is said.
//!
//! Times are wall-clock times of whole calls, the device synchronised before each and after each.
//! Nothing here changes how a network computes.

mod agreement;
mod bench;
mod breakdown;
mod case;
mod compare;
mod components;
mod estimate;
mod images;
mod machine;
mod memory;
mod ops;
mod peak;
mod predict;
mod profile;
mod report;
#[cfg(test)]
#[path = "../../tests/small_network/mod.rs"]
mod small_network;
pub mod spans;
mod stats;
pub mod suite;
mod table;
pub mod tables;
mod timing;
mod trace;
mod workload;

pub use agreement::{agreement, compare_values};
pub use bench::{Bench, Event};
pub use breakdown::{Breakdown, Component, TOTAL, UNACCOUNTED};
pub use case::{Case, ImageSource, WeightSource, size_for};
pub use compare::{
    Correlation, Measured, correlation_table, correlations, memory_table, ratio_table, read_other,
};
pub use estimate::{MemoryAdvice, check_fits, needed_bytes, weight_bytes};
pub use images::generated_pair;
pub use machine::Machine;
pub use memory::{PeakMemory, peak_resident_bytes};
pub use ops::measure_ops;
pub use peak::matrix_product_peak;
pub use predict::{CHIPS, Chip, Load, Prediction, prediction_table};
pub use profile::{Profile, ProfileImages, ProfileOptions, Profiler, check_images};
pub use report::{Agreement, OpRow, Report, Row};
pub use stats::Summary;
pub use table::{Align, Table};
pub use timing::Effort;
pub use workload::{LoadedNetwork, Output, Stage, Workload};
