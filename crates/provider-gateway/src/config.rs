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
    /// How much of what tasks read stays here for the tasks that come after.
    pub inputs: InputSettings,
    /// The Docker socket; the usual one by default.
    pub docker_socket: Option<PathBuf>,
    /// The longest pause between two tries to reach the server, in milliseconds; 30,000 by default.
    pub reconnect_cap_ms: Option<u64>,
}

/// What stays of inputs that nobody uses now: of containers where Docker keeps its data, of processes in the data directory.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputSettings {
    /// `200GiB`, of each of the two; a tenth of the disk by default.
    pub limit: Option<String>,
}

impl InputSettings {
    /// Errors: what is wrong with it, for a person.
    pub(crate) fn check(&self) -> Result<(), String> {
        match &self.limit {
            Some(limit) if domain::quantity::parse_bytes(limit).is_none() => {
                Err(format!("inputs.limit is {limit:?}, which is no size; it looks like 200GiB"))
            }
            _ => Ok(()),
        }
    }

    /// `disk`: a path on it.
    pub(crate) fn limit_bytes(&self, disk: &Path) -> u64 {
        let set = self.limit.as_deref().and_then(domain::quantity::parse_bytes);
        set.unwrap_or_else(|| {
            nix::sys::statvfs::statvfs(disk).map_or(0, |disk| disk.blocks() * disk.fragment_size() / 10)
        })
    }
}

/// What the owner allows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    pub source: SourcePolicy,
    /// Executors that tasks may use. By default `container`, and `process` where an agent that is root runs on the machine itself:
    /// elsewhere processes would run as the agent's own user, or end with the agent's container.
    pub executors: Option<BTreeSet<String>>,
}

/// Where the agent itself runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings {
    pub(crate) is_root: bool,
    pub(crate) is_container: bool,
}

impl Surroundings {
    pub(crate) fn look() -> Self {
        let marks = ["/.dockerenv", "/run/.containerenv"];
        Self {
            is_root: nix::unistd::geteuid().is_root(),
            is_container: marks.iter().any(|mark| Path::new(mark).exists()),
        }
    }
}

impl Policy {
    pub(crate) fn allows(&self, executor: &str, surroundings: Surroundings) -> bool {
        match &self.executors {
            Some(allowed) => allowed.contains(executor),
            None => executor != "process" || surroundings.is_root && !surroundings.is_container,
        }
    }
}

/// Reads a settings file. A missing one is empty; a wrong one is named with its line.
pub fn read<T: DeserializeOwned + Default>(path: &Path) -> anyhow::Result<T> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| anyhow::anyhow!("{}: {error}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(anyhow::anyhow!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_need_the_owners_word_where_they_would_not_be_apart_from_the_agent() {
        let policy = |text: &str| toml::from_str::<Policy>(text).expect("valid");
        let (silent, open) = (policy(""), policy("executors = ['container', 'process']"));
        let on = |is_root, is_container| Surroundings { is_root, is_container };
        for (at, by_default) in
            [(on(true, false), true), (on(true, true), false), (on(false, false), false), (on(false, true), false)]
        {
            assert_eq!((silent.allows("process", at), silent.allows("container", at)), (by_default, true), "{at:?}");
            assert!(open.allows("process", at), "{at:?}");
        }
        assert!(!policy("executors = ['container']").allows("process", on(true, false)));
    }

    #[test]
    fn the_bounds_of_the_spool_are_settings() {
        let settings: ProviderSettings = toml::from_str("[spool]\nnode_bytes = 1000\npatience_s = 1").expect("valid");
        assert_eq!((settings.spool.node_bytes, settings.spool.attempt_bytes), (1_000, 64 << 20));
        assert_eq!(settings.spool.patience.as_secs(), 1);
        assert!(toml::from_str::<ProviderSettings>("[spool]\nattempts_bytes = 1").is_err());
    }
}
