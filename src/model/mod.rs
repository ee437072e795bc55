//! The networks: their dimensions, their names and their weights.

pub mod checkpoint;
pub mod config;
pub mod registry;
