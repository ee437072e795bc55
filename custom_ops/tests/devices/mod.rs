//! The GPUs of tests.

use candle_core::{Device, Result};

/// The GPU if it could be opened; else the test has nothing to compare and says so. With
/// `MAST3R_REQUIRE_GPU=1` in the environment it fails instead, so that a machine with a GPU cannot
/// pass without it.
pub fn gpu(name: &str, opened: Result<Device>) -> Option<Device> {
    match opened {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("MAST3R_REQUIRE_GPU").is_some_and(|value| value == "1") => {
            panic!("MAST3R_REQUIRE_GPU=1, but {name} cannot be opened: {error}")
        }
        Err(error) => {
            println!("skipped on {name}: {error}");
            None
        }
    }
}
