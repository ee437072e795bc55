//! Measurements: how long a network takes, where the time goes, how much memory it wants, and in what terms that is said.
//!
//! Times are wall-clock times of whole calls, the device synchronised before each and after each. Nothing here changes
//! how a network computes.

mod breakdown;
mod components;
mod machine;
mod memory;
mod pictures;
mod profile;
pub mod spans;
mod stats;
mod table;
mod trace;

pub use breakdown::{Breakdown, Row, TOTAL, UNACCOUNTED};
pub use machine::Machine;
pub use memory::{PeakMemory, peak_resident_bytes};
pub use pictures::generated_pair;
pub use profile::{Profile, ProfileOptions, ProfilePictures, Profiler, check_pictures};
pub use stats::Summary;
pub use table::{Align, Table};
