//! The environment of a task's process: made from nothing, so that the agent's own (its token, say) can't leak.

use super::{Settings, checkpoints, state::Record};
use crate::executor::{CHECKPOINT_DIR, Job};
use std::collections::BTreeMap;

pub(super) fn environment(job: &Job, record: &Record, settings: &Settings) -> BTreeMap<String, String> {
    let user = match record.uid {
        // It has no name in the machine's list of users.
        Some(_) => "unidesk".to_owned(),
        None => nix::unistd::User::from_uid(nix::unistd::geteuid())
            .ok()
            .flatten()
            .map_or_else(|| "unidesk".to_owned(), |user| user.name),
    };
    let mut env: BTreeMap<String, String> = [
        ("PATH", settings.path.clone()),
        ("HOME", record.work().display().to_string()),
        ("TMPDIR", record.tmp().display().to_string()),
        ("LANG", "C.UTF-8".to_owned()),
        ("USER", user.clone()),
        ("LOGNAME", user),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    env.extend(job.spec.env.clone());
    // Which GPUs are whose is not the task's choice. An empty list hides all; NVIDIA's container tools say `void` for it.
    let gpus = job.gpu_ids.join(",");
    env.insert("NVIDIA_VISIBLE_DEVICES".into(), if gpus.is_empty() { "void".into() } else { gpus.clone() });
    env.insert("CUDA_VISIBLE_DEVICES".into(), gpus);
    env.extend(job.platform_env());
    let checkpoints = checkpoints::real_path(job, record);
    env.extend(checkpoints.map(|path| (CHECKPOINT_DIR.to_owned(), path.display().to_string())));
    env
}
