//! Measurements: how long a network takes, where the time goes, how much memory it wants, and in what terms that is said.
//!
//! Times are wall-clock times of whole calls, the device synchronised before each and after each. Nothing here changes
//! how a network computes.

mod machine;
mod memory;
mod pictures;
pub mod spans;
mod stats;
mod table;

pub use machine::Machine;
pub use memory::{PeakMemory, peak_resident_bytes};
pub use pictures::generated_pair;
pub use stats::Summary;
pub use table::{Align, Table};
