//! An attempt's own directory: where it is, who owns it, and what a task's workdir means in it.

use super::{WORKSPACE, record::Record};
use crate::executor::{Failure, Job};
use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

/// The part of a workdir below `/workspace`; None: it is elsewhere.
pub(super) fn below_workspace(workdir: &str) -> Option<PathBuf> {
    let below = Path::new(workdir).strip_prefix(WORKSPACE).ok()?;
    below.components().all(|part| matches!(part, Component::Normal(_))).then(|| below.to_owned())
}

/// Where the scratch directory of an attempt goes. An unprivileged user can't reach a data directory that lies, say, in root's
/// home; then it goes where everybody can.
pub(super) fn choose(job: &Job, uid: Option<u32>) -> PathBuf {
    if uid.is_none() || is_reachable_by_all(&job.dir) {
        return job.dir.clone();
    }
    Path::new("/var/tmp").join(format!("unidesk-{}", job.held.attempt))
}

fn is_reachable_by_all(dir: &Path) -> bool {
    let Ok(dir) = dir.canonicalize() else { return false };
    dir.ancestors().all(|level| fs::metadata(level).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0))
}

/// Makes `work` and `tmp` anew, empty, for the attempt's user alone.
pub(super) fn create(record: &Record, job_dir: &Path) -> Result<(), Failure> {
    let make = || -> io::Result<()> {
        if record.scratch != job_dir {
            super::remove_tree(&record.scratch)?;
            // Fails if somebody else made it meanwhile: /var/tmp is open to all.
            DirBuilder::new().mode(0o711).create(&record.scratch)?;
        }
        for dir in [record.work(), record.tmp()] {
            super::remove_tree(&dir)?;
            DirBuilder::new().mode(0o700).create(&dir)?;
            std::os::unix::fs::chown(&dir, record.uid, record.uid)?;
        }
        Ok(())
    };
    make().map_err(|error| {
        Failure::node(format!("The attempt's directory under {} can't be made: {error}.", record.scratch.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workdir_is_the_workspace_or_below_it() {
        assert_eq!(below_workspace("/workspace"), Some(PathBuf::new()));
        assert_eq!(below_workspace("/workspace/a/b"), Some(PathBuf::from("a/b")));
        for elsewhere in ["/", "/etc", "/workspaces", "/workspace/../etc", "workspace", "/srv/workspace"] {
            assert_eq!(below_workspace(elsewhere), None, "{elsewhere}");
        }
    }
}
