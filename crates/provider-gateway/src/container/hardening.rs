//! What a container may do and use. Built here from a typed spec and nothing else: no spec can name a mount, a device, a namespace
//! of the host or a security option.

use super::docker::Facts;
use crate::executor::Job;
use bollard::models::{DeviceRequest, HostConfig, HostConfigLogConfig};
use domain::spec::Network;
use std::collections::HashMap;

/// What is left of root's powers inside a container: those that package managers and entrypoints that drop to another user need.
/// CHOWN, FOWNER, FSETID and DAC_OVERRIDE: files of other users of the same container. KILL: its other users' processes.
/// SETUID, SETGID: becoming another user. Left out of Docker's own set: NET_RAW (spoofing neighbours), NET_BIND_SERVICE
/// (containers may bind low ports without it), MKNOD, AUDIT_WRITE, SETFCAP, SETPCAP, SYS_CHROOT.
const CAPABILITIES: [&str; 7] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"];

/// Docker refuses less.
const MIN_MEMORY_BYTES: u64 = 6 << 20;
const MIN_SHM_BYTES: u64 = 64 << 10;
const MIN_NANO_CPUS: u64 = 10_000_000;

pub(super) fn host_config(job: &Job, facts: &Facts, pids_limit: i64, with_quota: bool) -> HostConfig {
    let amounts = &job.spec.requirements.amounts;
    let memory = signed(amounts.memory_bytes.max(MIN_MEMORY_BYTES));
    HostConfig {
        memory: Some(memory),
        // Equal to the memory: no swap beside it.
        memory_swap: Some(memory),
        nano_cpus: Some(signed((amounts.cpu_millis * 1_000_000).max(MIN_NANO_CPUS))),
        shm_size: Some(signed(job.spec.shm_bytes().max(MIN_SHM_BYTES))),
        pids_limit: Some(pids_limit),
        init: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        network_mode: Some(match job.spec.network {
            Network::Default => "bridge".to_owned(),
            Network::None => "none".to_owned(),
        }),
        ipc_mode: Some("private".to_owned()),
        privileged: Some(false),
        // It stays until its exit, log and outputs are acknowledged.
        auto_remove: Some(false),
        device_requests: gpus(&job.gpu_ids),
        storage_opt: (with_quota && facts.may_have_quota() && amounts.disk_bytes > 0)
            .then(|| HashMap::from([("size".to_owned(), amounts.disk_bytes.to_string())])),
        log_config: Some(log_config(job.spec.log_limit_bytes)),
        ..HostConfig::default()
    }
}

fn gpus(ids: &[String]) -> Option<Vec<DeviceRequest>> {
    (!ids.is_empty()).then(|| {
        vec![DeviceRequest {
            device_ids: Some(ids.to_vec()),
            capabilities: Some(vec![vec!["gpu".to_owned()]]),
            ..DeviceRequest::default()
        }]
    })
}

/// `local` keeps bytes as they are, where `json-file` turns what is no UTF-8 into something else. One file that is not rotated below
/// what the agent will keep: a rotated one has lost its beginning, which a restarted agent counts from. Short lines take several
/// times their length on disk.
fn log_config(limit_bytes: u64) -> HostConfigLogConfig {
    let max_bytes = limit_bytes.saturating_mul(4).saturating_add(1 << 30);
    let options = [
        ("max-size", format!("{}m", (max_bytes >> 20) + 1)),
        ("max-file", "1".to_owned()),
        ("compress", "false".to_owned()),
    ];
    HostConfigLogConfig {
        typ: Some("local".to_owned()),
        config: Some(options.map(|(name, value)| (name.to_owned(), value)).into()),
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
