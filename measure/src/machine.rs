//! The machine that a measurement was made on.

use std::collections::BTreeMap;
use std::time::SystemTime;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use mast3r::{Error, Result};

/// `Cargo.lock` as this program was built with, for the versions of what it stands on.
const LOCK: &str = include_str!("../../Cargo.lock");

/// What a reader needs to know of the machine and the program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The operating system and its version.
    pub os: String,
    /// The processor by name.
    pub cpu: String,
    /// Logical processors that the program may use.
    pub cores: usize,
    /// The instructions that our CPU kernels use.
    #[serde(default)]
    pub instruction_set: String,
    /// Memory in GiB.
    pub memory_gib: f64,
    /// CPU threads used.
    pub threads: usize,
    /// The GPU by name, if one was used.
    pub gpu: Option<String>,
    /// Its memory in GiB.
    pub gpu_memory_gib: Option<f64>,
    /// Versions of the program, of its libraries and of the GPU's driver, by name.
    pub versions: BTreeMap<String, String>,
    /// When, in UTC, as in RFC 3339.
    pub date: String,
}

impl Machine {
    /// This machine, with `device` for the GPU.
    ///
    /// # Errors
    /// Of the GPU's driver.
    pub fn here(device: &Device) -> Result<Self> {
        let mut system = system()?;
        system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
        let cpu = system
            .cpus()
            .first()
            .map(|cpu| cpu.brand().trim().to_string())
            .unwrap_or_default();
        let gpu = custom_ops::gpu_report(device)?;
        let mut versions = BTreeMap::from([
            ("mast3r".to_string(), env!("CARGO_PKG_VERSION").to_string()),
            (
                "candle".to_string(),
                locked("candle-core").unwrap_or("unknown").to_string(),
            ),
        ]);
        if let Some(gpu) = &gpu {
            versions.insert("driver interface".into(), gpu.interface.clone());
        }
        if let Some(driver) = nvidia_driver().filter(|_| device.is_cuda()) {
            versions.insert("driver".into(), driver);
        }
        Ok(Self {
            os: sysinfo::System::long_os_version().unwrap_or_else(|_| std::env::consts::OS.into()),
            cpu: if cpu.is_empty() {
                std::env::consts::ARCH.into()
            } else {
                cpu
            },
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            instruction_set: custom_ops::instruction_set().to_string(),
            memory_gib: tenth(gib(system.total_memory())),
            threads: rayon::current_num_threads(),
            gpu_memory_gib: gpu.as_ref().map(|gpu| tenth(gib(gpu.total_bytes))),
            gpu: gpu.map(|gpu| gpu.name),
            versions,
            date: now(),
        })
    }

    /// The program with its version and that of its tensor library.
    pub fn framework() -> String {
        format!(
            "mast3r {} (candle {})",
            env!("CARGO_PKG_VERSION"),
            locked("candle-core").unwrap_or("unknown")
        )
    }

    /// Whether measurements here and on `other` may stand in one table: the same processor, threads
    /// and GPU.
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.cpu, self.threads, &self.gpu) == (&other.cpu, other.threads, &other.gpu)
    }

    /// In one line, for a table's head.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        if let (Some(gpu), Some(memory)) = (&self.gpu, self.gpu_memory_gib) {
            parts.push(format!("{gpu} ({memory} GiB)"));
        }
        let instructions = if self.instruction_set.is_empty() {
            String::new()
        } else {
            format!(", {}", self.instruction_set)
        };
        let (cpu, threads, cores) = (&self.cpu, self.threads, self.cores);
        parts.push(format!("{cpu}, {threads} of {cores} threads{instructions}"));
        parts.push(format!("{} GiB", self.memory_gib));
        parts.push(self.os.clone());
        parts.extend(
            self.versions
                .iter()
                .map(|(name, version)| format!("{name} {version}")),
        );
        parts.push(self.date.clone());
        parts.join("; ")
    }
}

/// Now, in UTC, as in RFC 3339.
pub(super) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Memory of the machine in bytes that new work may take: of the GPU, or of the system.
///
/// # Errors
/// Of the GPU's driver.
pub(super) fn available_bytes(device: &Device) -> Result<u64> {
    if let Some(gpu) = custom_ops::gpu_report(device)? {
        return Ok(gpu.free_bytes);
    }
    let system = system()?;
    let limit = system
        .cgroup_limits()
        .map_or(u64::MAX, |limits| limits.free_memory);
    Ok(system.available_memory().min(limit))
}

/// The system with its memory counted.
fn system() -> Result<sysinfo::System> {
    let mut system = sysinfo::System::new()
        .map_err(|error| Error::io("the system's memory", std::io::Error::other(error)))?;
    system.refresh_memory();
    Ok(system)
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}

fn tenth(value: f64) -> f64 {
    (10.0 * value).round() / 10.0
}

/// The version of a package in [`LOCK`].
fn locked(package: &str) -> Option<&'static str> {
    let (_, entry) = LOCK.split_once(&format!("name = \"{package}\"\n"))?;
    entry.strip_prefix("version = \"")?.split('"').next()
}

/// The version of NVIDIA's kernel module, where Linux shows it.
fn nvidia_driver() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let words = text.lines().next()?.split_whitespace();
    words
        .filter(|word| word.contains('.'))
        .find(|word| word.chars().all(|c| c.is_ascii_digit() || c == '.'))
        .map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_processor_memory_and_versions() {
        let machine = Machine::here(&Device::Cpu).unwrap();
        assert!(
            !machine.cpu.is_empty() && machine.memory_gib > 0.1 && machine.threads > 0,
            "{machine:?}"
        );
        assert!(machine.versions["candle"].starts_with("0."), "{machine:?}");
        assert_eq!(machine.gpu, None);
        assert!(machine.date.ends_with('Z'));
        assert!(machine.is_like(&machine.clone()));
        assert!(available_bytes(&Device::Cpu).unwrap() > 1 << 20);
    }
}
