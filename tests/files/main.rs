//! Files that are read and written: images, videos, clouds, models for other programs.

// In a test a panic is the report, in its helpers too.
#![allow(clippy::unwrap_used)]

mod exports;
mod full_disk;
mod models;
mod readers;
#[path = "../tools/mod.rs"]
mod tools;
mod undistort;
mod videos;
mod views;
