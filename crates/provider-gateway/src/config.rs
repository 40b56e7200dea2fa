//! Settings of the agent: `provider.toml` in its data directory says what the machine is and offers, `policy.toml` what its owner
//! allows. Both are checked whole at start; an unknown name is an error, since a mistyped limit would be no limit.

use crate::{disk::Watermarks, log::SpoolLimits, source::SourcePolicy};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// What the machine is and offers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderSettings {
    /// worker, compute, storage, mobile. `worker` by default.
    pub role: Option<String>,
    pub tags: BTreeSet<String>,
    pub labels: BTreeMap<String, String>,
    /// CPUs to offer; all by default.
    pub cpus: Option<f64>,
    /// Memory to offer: `12GiB`; all by default.
    pub memory: Option<String>,
    /// Disk to offer: `200GiB`; what is free by default.
    pub disk: Option<String>,
    /// Attempts at once; as many as fit by default.
    pub max_tasks: Option<u32>,
    /// False: the machine has no way to the internet.
    pub internet: Option<bool>,
    /// When this node makes room on its disks, and when it refuses work.
    pub watermarks: Watermarks,
    /// How much of logs is kept for a server that is away.
    pub spool: SpoolLimits,
    /// The Docker socket; the usual one by default.
    pub docker_socket: Option<PathBuf>,
    /// The longest pause between two tries to reach the server, in milliseconds; 30,000 by default.
    pub reconnect_cap_ms: Option<u64>,
}

/// What the owner allows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    pub source: SourcePolicy,
    /// Executors that tasks may use; all that work here by default.
    pub executors: Option<BTreeSet<String>>,
}

/// Reads a settings file. A missing one is empty; a wrong one is named with its line.
pub fn read<T: DeserializeOwned + Default>(path: &Path) -> anyhow::Result<T> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(anyhow::anyhow!("{}: {error}", path.display())),
    }
}
