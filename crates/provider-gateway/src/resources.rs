//! What this machine is and offers: measured at start, and what moves, sampled for heartbeats.
//!
//! Owns: the figures of [`NodeFacts`] and [`NodeMetrics`] that come from the machine, and the owner's bounds on them.
//! Must not know: executors, attempts, the server; their fields stay at their defaults here.

mod gpu;

use domain::{
    node::{NodeFacts, NodeMetrics},
    resources::Capacity,
};
use nix::sys::statvfs::statvfs;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    thread::available_parallelism,
};
use sysinfo::{CpuRefreshKind, System};

/// What the owner of the machine says of it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// On the disk that tasks fill: Docker's data root, or the data directory.
    pub disk_path: PathBuf,
    /// The most to offer of each, whatever the machine has. None: all of it.
    pub cpu_millis: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub disk_bytes: Option<u64>,
    /// Whether GPUs are offered.
    pub gpus: bool,
    /// worker, compute, storage, mobile.
    pub role: String,
    pub tags: BTreeSet<String>,
    pub labels: BTreeMap<String, String>,
    /// Whether tasks reach the internet from here.
    pub internet: bool,
    /// The most attempts at once. 0: as many as fit.
    pub max_tasks: u32,
}

impl Settings {
    pub fn new(disk_path: impl Into<PathBuf>) -> Self {
        Self {
            disk_path: disk_path.into(),
            cpu_millis: None,
            memory_bytes: None,
            disk_bytes: None,
            gpus: true,
            role: "worker".into(),
            tags: BTreeSet::new(),
            labels: BTreeMap::new(),
            internet: true,
            max_tasks: 0,
        }
    }
}

/// Measures the machine. May block for some seconds where a GPU's driver is slow to answer.
pub fn measure(settings: &Settings) -> NodeFacts {
    let gpus = if settings.gpus { gpu::measure() } else { gpu::Gpus::default() };
    let at_most = |measured: u64, offered: Option<u64>| offered.map_or(measured, |offered| measured.min(offered));
    let cpus = available_parallelism().map_or(1, |count| count.get() as u64);
    let memory_bytes = new_system().map_or(0, |mut system| {
        system.refresh_memory();
        system.total_memory()
    });
    NodeFacts {
        platform: std::env::consts::OS.replace("macos", "darwin"),
        arch: arch(std::env::consts::ARCH).to_owned(),
        os: os_name(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        hostname: System::host_name().unwrap_or_default(),
        cpu_model: cpu_model(),
        capacity: Capacity {
            cpu_millis: at_most(cpus * 1_000, settings.cpu_millis),
            memory_bytes: at_most(memory_bytes, settings.memory_bytes),
            disk_bytes: at_most(disk(&settings.disk_path).map_or(0, |disk| disk.free_bytes), settings.disk_bytes),
            gpus: gpus.list,
        },
        gpu_driver: gpus.driver,
        role: settings.role.clone(),
        tags: settings.tags.clone(),
        labels: settings.labels.clone(),
        internet: settings.internet,
        max_tasks: settings.max_tasks,
        ..NodeFacts::default()
    }
}

/// Figures that move. Cheap: three small files of /proc and one question to the file system a sample.
pub struct Meter {
    system: Option<System>,
    disk_path: PathBuf,
    gpus: gpu::Meter,
}

impl Meter {
    pub fn new(disk_path: impl Into<PathBuf>) -> Self {
        let mut system = new_system();
        // Use is the difference of two readings; this is the first.
        if let Some(system) = &mut system {
            system.refresh_cpu_usage();
        }
        Self { system, disk_path: disk_path.into(), gpus: gpu::Meter::new() }
    }

    /// CPU use is that since the last sample.
    pub fn sample(&mut self) -> NodeMetrics {
        let disk = disk(&self.disk_path).unwrap_or_default();
        let mut metrics = NodeMetrics {
            disk_used_bytes: disk.used_bytes,
            disk_total_bytes: disk.total_bytes,
            gpus: self.gpus.sample(),
            ..NodeMetrics::default()
        };
        if let Some(system) = &mut self.system {
            system.refresh_cpu_usage();
            system.refresh_memory();
            metrics.cpu_percent = system.global_cpu_usage();
            metrics.memory_used_bytes = system.used_memory();
        }
        metrics
    }
}

/// A file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    pub total_bytes: u64,
    pub used_bytes: u64,
    /// For users other than root.
    pub free_bytes: u64,
}

/// The file system that holds `path`, or the nearest parent that is there.
pub fn disk(path: &Path) -> Option<Disk> {
    let stat = path.ancestors().find_map(|level| statvfs(level).ok())?;
    let block = stat.fragment_size();
    Some(Disk {
        total_bytes: stat.blocks() * block,
        used_bytes: stat.blocks().saturating_sub(stat.blocks_free()) * block,
        free_bytes: stat.blocks_available() * block,
    })
}

fn new_system() -> Option<System> {
    System::new().inspect_err(|error| tracing::warn!(%error, "this machine's use can't be measured")).ok()
}

/// The platform's word for an architecture of Rust's.
fn arch(rust: &str) -> &str {
    if rust == "arm" { "armv7" } else { rust }
}

/// `PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"`.
fn os_name(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| System::long_os_version().unwrap_or_default(), |name| name.trim_matches(['"', '\'']).to_owned())
}

fn cpu_model() -> String {
    let Some(mut system) = new_system() else { return String::new() };
    system.refresh_cpu_list(CpuRefreshKind::nothing());
    system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_bounds_what_is_offered_and_cannot_raise_it() {
        let whole = measure(&Settings::new("/"));
        assert!(whole.capacity.cpu_millis >= 1_000 && whole.capacity.memory_bytes > 64 << 20);
        assert!(whole.capacity.disk_bytes > 0 && !whole.hostname.is_empty() && !whole.os.is_empty());
        let bounds =
            Settings { cpu_millis: Some(500), memory_bytes: Some(u64::MAX), disk_bytes: Some(7), ..Settings::new("/") };
        let bounded = measure(&bounds).capacity;
        assert_eq!((bounded.cpu_millis, bounded.disk_bytes), (500, 7));
        assert_eq!(bounded.memory_bytes, whole.capacity.memory_bytes);
    }

    #[test]
    fn a_sample_tells_what_is_in_use() {
        let mut meter = Meter::new("/not/there/yet");
        let metrics = meter.sample();
        assert!(metrics.memory_used_bytes > 0 && metrics.disk_total_bytes >= metrics.disk_used_bytes);
        assert!(metrics.disk_total_bytes > 0 && (0.0..=100.0).contains(&metrics.cpu_percent));
    }

    #[test]
    fn names_are_as_people_know_them() {
        let release = "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(os_name(release), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!((arch("arm"), arch("x86_64")), ("armv7", "x86_64"));
    }
}
