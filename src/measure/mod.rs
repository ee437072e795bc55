//! Measurements of the program by itself: where the time goes.

pub mod spans;
