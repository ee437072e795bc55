//! Peak memory.

use candle_core::Device;

use mast3r::Result;

/// The most memory that a stretch of work needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeakMemory {
    /// Resident memory of the process in bytes; of the whole process's life where the system cannot
    /// count anew.
    pub resident_bytes: Option<u64>,
    /// Memory of the GPU in bytes, see [`custom_ops::gpu_peak`]; `None` on the CPU.
    pub device_bytes: Option<u64>,
}

impl PeakMemory {
    /// Does `work` and says what it needed at most, what was in use before included.
    ///
    /// # Errors
    /// Those of `work`, and of the device.
    pub fn of<T>(device: &Device, work: impl FnOnce() -> Result<T>) -> Result<(T, Self)> {
        reset_resident_peak();
        custom_ops::reset_gpu_peak(device)?;
        let done = work()?;
        let device_bytes = custom_ops::gpu_peak(device)?;
        Ok((
            done,
            Self {
                resident_bytes: peak_resident_bytes(),
                device_bytes,
            },
        ))
    }
}

/// The process's greatest resident memory in bytes since [`PeakMemory::of`] last began, as Linux
/// counts it (`VmHWM` of `/proc/self/status`); `None` on other systems, where nothing is guessed.
pub fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}

/// Linux counts anew after a 5 is written there. Where that is not allowed the peak is that of the
/// process's life.
fn reset_resident_peak() {
    if let Err(error) = std::fs::write("/proc/self/clear_refs", "5") {
        tracing::debug!("peak memory is that of the whole process: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_peak_counts_what_was_freed_again() {
        const BYTES: usize = 64 << 20;
        let touch = || Ok(std::hint::black_box(vec![1_u8; BYTES]).len());
        let (_, peak) = PeakMemory::of(&Device::Cpu, touch).unwrap();
        assert!(peak.resident_bytes.unwrap() > BYTES as u64);
        assert_eq!(peak.device_bytes, None);
    }
}
