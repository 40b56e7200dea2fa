//! Why a node does not take a task: the same filters place tasks and answer `unidesk why`.

use super::Candidate;
use crate::{
    lease,
    node::{Admission, Condition, Presence},
    resources::{Reservation, Shortage},
    spec::{ARTIFACTS_FEATURE, CHECKPOINTS_FEATURE, Needs},
};
use serde::{Deserialize, Serialize};

/// The first reason against a node, those that never change before those that pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Unfit {
    // Never fits, unless the machine or its settings change.
    NotTheNamedNode,
    NoSuchExecutor {
        executor: String,
    },
    /// The task is exclusive, and the agent there can't end such work by itself.
    CannotSelfFence,
    /// The task has inputs or outputs, and the agent there is of before there were any.
    CannotMoveArtifacts,
    /// The task keeps checkpoints, and the agent there is of before there were any.
    CannotCheckpoint,
    OtherPlatform {
        platform: String,
    },
    OtherArch {
        arch: String,
    },
    OtherRole {
        role: String,
    },
    MissingTags,
    MissingLabels,
    NoInternet,
    NoGpu,
    TooFewGpus,
    GpuMemoryTooSmall {
        largest_bytes: u64,
    },
    CpuTooSmall,
    MemoryTooSmall,
    DiskTooSmall,
    Revoked,
    // Would fit.
    Offline,
    Disconnected,
    Cordoned,
    Draining,
    Unwell {
        condition: Condition,
    },
    Full,
}

impl Unfit {
    /// No waiting helps: the machine is not the one.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Offline | Self::Disconnected | Self::Cordoned | Self::Draining | Self::Unwell { .. } | Self::Full => {
                false
            }
            Self::NotTheNamedNode
            | Self::NoSuchExecutor { .. }
            | Self::CannotSelfFence
            | Self::CannotMoveArtifacts
            | Self::CannotCheckpoint
            | Self::OtherPlatform { .. }
            | Self::OtherArch { .. }
            | Self::OtherRole { .. }
            | Self::MissingTags
            | Self::MissingLabels
            | Self::NoInternet
            | Self::NoGpu
            | Self::TooFewGpus
            | Self::GpuMemoryTooSmall { .. }
            | Self::CpuTooSmall
            | Self::MemoryTooSmall
            | Self::DiskTooSmall
            | Self::Revoked => true,
        }
    }

    /// A few words for a table: nodes with equal words are counted together.
    pub fn words(&self) -> String {
        match self {
            Self::NotTheNamedNode => "not the named node".into(),
            Self::NoSuchExecutor { executor } => format!("no {executor} executor"),
            Self::CannotSelfFence => "can't stop exclusive work by itself".into(),
            Self::CannotMoveArtifacts => "its agent is too old for inputs and outputs".into(),
            Self::CannotCheckpoint => "its agent is too old for checkpoints".into(),
            Self::OtherPlatform { .. } => "other platform".into(),
            Self::OtherArch { .. } => "other architecture".into(),
            Self::OtherRole { .. } => "other role".into(),
            Self::MissingTags => "tags missing".into(),
            Self::MissingLabels => "labels missing".into(),
            Self::NoInternet => "no internet".into(),
            Self::NoGpu => "no gpu".into(),
            Self::TooFewGpus => "too few gpus".into(),
            Self::GpuMemoryTooSmall { .. } => "gpu memory too small".into(),
            Self::CpuTooSmall => "too few cpus".into(),
            Self::MemoryTooSmall => "memory too small".into(),
            Self::DiskTooSmall => "disk too small".into(),
            Self::Revoked => "revoked".into(),
            Self::Offline => "offline".into(),
            Self::Disconnected => "disconnected".into(),
            Self::Cordoned => "cordoned".into(),
            Self::Draining => "draining".into(),
            Self::Unwell { condition } => condition.describe().into(),
            Self::Full => "full now".into(),
        }
    }
}

/// What an attempt would hold there, or the first reason against it.
pub fn check_fit(candidate: &Candidate, needs: &Needs) -> Result<Reservation, Unfit> {
    check_machine(candidate, needs)?;
    check_size(candidate, needs)?;
    check_state(candidate, needs, candidate.may_probe)?;
    if candidate.node.facts.max_tasks > 0 && candidate.holding >= candidate.node.facts.max_tasks {
        return Err(Unfit::Full);
    }
    candidate.ledger.fit(&needs.requirements.amounts).map_err(|_| Unfit::Full)
}

/// Whether the machine is the one and is well, amounts and cordons aside: what one task after another does not change.
pub(super) fn suits(candidate: &Candidate, needs: &Needs) -> Result<(), Unfit> {
    check_machine(candidate, needs)?;
    check_state(candidate, needs, true)
}

/// Whether it will take such work as soon as it has room for it.
pub(super) fn may_have(candidate: &Candidate, needs: &Needs) -> bool {
    suits(candidate, needs).and_then(|()| check_size(candidate, needs)).is_ok()
}

/// Is this machine of the kind that is asked for?
fn check_machine(candidate: &Candidate, needs: &Needs) -> Result<(), Unfit> {
    let (node, facts) = (&candidate.node, &candidate.node.facts);
    let requirements = &needs.requirements;
    if requirements.node.as_ref().is_some_and(|wanted| *wanted != node.name && *wanted != node.id.to_string()) {
        return Err(Unfit::NotTheNamedNode);
    }
    if node.admission == Admission::Revoked {
        return Err(Unfit::Revoked);
    }
    if !facts.executors.contains_key(&needs.executor) {
        return Err(Unfit::NoSuchExecutor { executor: needs.executor.clone() });
    }
    if needs.exclusive && !facts.features.contains(&lease::feature(&needs.executor)) {
        return Err(Unfit::CannotSelfFence);
    }
    if needs.artifacts && !facts.features.contains(ARTIFACTS_FEATURE) {
        return Err(Unfit::CannotMoveArtifacts);
    }
    if needs.checkpoints && !facts.features.contains(CHECKPOINTS_FEATURE) {
        return Err(Unfit::CannotCheckpoint);
    }
    if requirements.platform.as_ref().is_some_and(|wanted| *wanted != facts.platform) {
        return Err(Unfit::OtherPlatform { platform: facts.platform.clone() });
    }
    if requirements.arch.as_ref().is_some_and(|wanted| *wanted != facts.arch) {
        return Err(Unfit::OtherArch { arch: facts.arch.clone() });
    }
    if requirements.role.as_ref().is_some_and(|wanted| *wanted != facts.role) {
        return Err(Unfit::OtherRole { role: facts.role.clone() });
    }
    if !requirements.tags.is_subset(&facts.tags) {
        return Err(Unfit::MissingTags);
    }
    if requirements.labels.iter().any(|(key, value)| facts.labels.get(key) != Some(value)) {
        return Err(Unfit::MissingLabels);
    }
    if requirements.internet && !facts.internet {
        return Err(Unfit::NoInternet);
    }
    Ok(())
}

/// Could it, empty, take so much at all?
fn check_size(candidate: &Candidate, needs: &Needs) -> Result<(), Unfit> {
    let facts = &candidate.node.facts;
    candidate.ledger.could_ever_fit(&needs.requirements.amounts).map_err(|shortage| match shortage {
        Shortage::Cpu => Unfit::CpuTooSmall,
        Shortage::Memory => Unfit::MemoryTooSmall,
        Shortage::Disk => Unfit::DiskTooSmall,
        Shortage::GpuCount if facts.capacity.gpus.is_empty() => Unfit::NoGpu,
        Shortage::GpuCount => Unfit::TooFewGpus,
        Shortage::GpuMemory { largest_bytes } => Unfit::GpuMemoryTooSmall { largest_bytes },
    })
}

/// Does it take new work now?
fn check_state(candidate: &Candidate, needs: &Needs, may_probe: bool) -> Result<(), Unfit> {
    let node = &candidate.node;
    match node.presence {
        Presence::Offline => return Err(Unfit::Offline),
        Presence::Disconnected => return Err(Unfit::Disconnected),
        Presence::Connected => {}
    }
    match node.admission {
        Admission::Cordoned if may_probe => {}
        Admission::Cordoned => return Err(Unfit::Cordoned),
        Admission::Draining | Admission::Drained => return Err(Unfit::Draining),
        Admission::Revoked => return Err(Unfit::Revoked),
        Admission::Open => {}
    }
    match node.metrics.conditions.iter().find(|condition| condition.refuses(&needs.executor)) {
        Some(condition) => Err(Unfit::Unwell { condition: *condition }),
        None => Ok(()),
    }
}
