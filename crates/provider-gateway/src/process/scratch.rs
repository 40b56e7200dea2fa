//! An attempt's own directory: where it is, who owns it, and what a task's workdir means in it.

use super::{WORKSPACE, proc_fs, record::Record};
use crate::executor::{Failure, Job};
use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

/// Where scratch goes that can't lie in the data directory.
pub const SHARED: &str = "/var/tmp";
const PREFIX: &str = "unidesk-";
/// Names the attempt's directory, in scratch that lies elsewhere.
const OWNER: &str = "owner";

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
    Path::new(SHARED).join(format!("{PREFIX}{}", job.held.attempt))
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
            fs::write(record.scratch.join(OWNER), job_dir.canonicalize()?.as_os_str().as_encoded_bytes())?;
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

/// Deletes scratch in `shared` whose attempt lay in `attempts` and has no directory there any more, as after the data directory
/// was deleted by hand. Gives back what went. Blocks.
pub fn remove_orphans(shared: &Path, attempts: &Path) -> io::Result<Vec<PathBuf>> {
    let attempts = attempts.canonicalize()?;
    let me = nix::unistd::geteuid().as_raw();
    let mut removed = Vec::new();
    for entry in fs::read_dir(shared)? {
        let dir = entry?.path();
        let is_named_so = dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        // Others may put what they like there, to have it deleted in their stead; in a directory of ours they can't.
        let is_ours = |dir: &Path| fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == me);
        if !is_named_so || !is_ours(&dir) {
            continue;
        }
        let Ok(owner) = fs::read_to_string(dir.join(OWNER)) else { continue };
        let owner = Path::new(&owner);
        if owner.parent() != Some(&attempts) || fs::symlink_metadata(owner).is_ok() || is_lived_in(&dir, me) {
            continue;
        }
        match super::remove_tree(&dir) {
            Ok(()) => removed.push(dir),
            Err(error) => tracing::warn!(path = %dir.display(), %error, "left scratch could not be deleted"),
        }
    }
    Ok(removed)
}

/// Whether the attempt's own user still has processes.
fn is_lived_in(scratch: &Path, me: u32) -> bool {
    let user = fs::symlink_metadata(scratch.join("work")).map(|meta| meta.uid()).ok().filter(|user| *user != me);
    user.is_some_and(|user| proc_fs::all().any(|(process, _)| proc_fs::user(process.pid) == Some(user)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_goes_once_its_attempt_is_no_more_and_what_is_not_ours_stays() {
        let root = tempfile::tempdir().expect("a directory");
        let (shared, attempts) = (root.path().join("shared"), root.path().join("attempts"));
        let dead = attempts.join("dead");
        for dir in [&shared, &attempts, &attempts.join("live"), &dead, &root.path().join("others")] {
            fs::create_dir(dir).expect("made");
        }
        let scratch = |name: &str, owner: Option<PathBuf>| {
            let dir = shared.join(name);
            fs::create_dir_all(dir.join("work/deep")).expect("made");
            if let Some(owner) = owner {
                fs::write(dir.join(OWNER), owner.as_os_str().as_encoded_bytes()).expect("written");
            }
            dir
        };
        let orphan = shared.join("unidesk-1");
        create(&Record { scratch: orphan.clone(), ..Record::default() }, &dead).expect("made");
        assert_eq!(remove_orphans(&shared, &attempts).expect("looked through"), [] as [&Path; 0]);
        fs::remove_dir(&dead).expect("removed");
        let stay = [
            scratch("unidesk-2", Some(attempts.join("live"))),
            scratch("unidesk-3", Some(root.path().join("others/dead"))),
            scratch("unidesk-4", None),
            scratch("theirs", Some(dead)),
        ];
        let link = shared.join("unidesk-5");
        std::os::unix::fs::symlink(&stay[3], &link).expect("linked");
        assert_eq!(remove_orphans(&shared, &attempts).expect("looked through"), [orphan.as_path()]);
        assert!(!orphan.exists() && stay.iter().all(|dir| dir.join("work/deep").exists()) && link.is_symlink());
    }

    #[test]
    fn a_workdir_is_the_workspace_or_below_it() {
        assert_eq!(below_workspace("/workspace"), Some(PathBuf::new()));
        assert_eq!(below_workspace("/workspace/a/b"), Some(PathBuf::from("a/b")));
        for elsewhere in ["/", "/etc", "/workspaces", "/workspace/../etc", "workspace", "/srv/workspace"] {
            assert_eq!(below_workspace(elsewhere), None, "{elsewhere}");
        }
    }
}
