//! An attempt's own directory: where it is, who owns it, and what a task's workdir means in it.

use super::{WORKSPACE, proc_fs, state::Record};
use crate::executor::{Failure, Job};
use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
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
pub(super) fn choose(job: &Job, uid: Option<u32>, reachable: &Mutex<Reachable>) -> PathBuf {
    if uid.is_none() || reachable.lock().unwrap_or_else(PoisonError::into_inner).by_all(&job.dir) {
        return job.dir.clone();
    }
    Path::new(SHARED).join(format!("{PREFIX}{}", job.held.attempt))
}

/// What was found of the directory of all attempts stays true for a moment.
#[derive(Debug, Default)]
pub(super) struct Reachable {
    known: Option<(Instant, PathBuf, bool)>,
}

const REACHABLE_FOR: Duration = Duration::from_secs(1);

impl Reachable {
    /// Attempts' own directories are made so that all can pass.
    fn by_all(&mut self, job_dir: &Path) -> bool {
        let Some(parent) = job_dir.parent() else { return false };
        match &self.known {
            Some((at, of, is_reachable)) if of == parent && at.elapsed() < REACHABLE_FOR => *is_reachable,
            _ => self.known.insert((Instant::now(), parent.to_owned(), is_reachable_by_all(parent))).2,
        }
    }
}

pub(super) fn is_reachable_by_all(dir: &Path) -> bool {
    let Ok(dir) = dir.canonicalize() else { return false };
    dir.ancestors().all(|level| fs::metadata(level).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0))
}

/// Takes over `work` and `tmp` that an earlier attempt left as they were made. False: they are to be made anew.
pub(super) fn reuse(record: &Record, job_dir: &Path) -> bool {
    let me = nix::unistd::geteuid().as_raw();
    // Looked at when they were left, they are what they were: since then nobody could change them who is not the agent's own user.
    let is_left = |dir: &Path| match record.uid {
        Some(_) => fs::symlink_metadata(dir).is_ok_and(|meta| is_plain(&meta, me)),
        None => is_as_made(dir, me),
    };
    record.scratch == job_dir
        && [record.work(), record.tmp()]
            .iter()
            .all(|dir| is_left(dir) && std::os::unix::fs::chown(dir, record.uid, record.uid).is_ok())
}

/// Keeps `work` and `tmp` for the next attempt, where the task left nothing in them or of them. False: they are to be deleted. The
/// processes that could write to them must be gone.
pub(super) fn leave_for_next(record: &Record, job_dir: &Path) -> bool {
    let me = nix::unistd::geteuid();
    let owner = record.uid.unwrap_or(me.as_raw());
    let takes_back = |dir: &PathBuf| {
        record.uid.is_none()
            || std::os::unix::fs::chown(dir, Some(me.as_raw()), Some(nix::unistd::getegid().as_raw())).is_ok()
    };
    record.scratch == job_dir
        && [record.work(), record.tmp()].iter().all(|dir| is_as_made(dir, owner) && takes_back(dir))
}

/// Whether a directory is as [`create`] makes it: empty, and without anything that its owner can give it.
fn is_as_made(dir: &Path, owner: u32) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|meta| is_plain(&meta, owner))
        && has_no_marks(dir)
        && fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

fn is_plain(dir: &fs::Metadata, owner: u32) -> bool {
    // One that once held many files stays large, and slow.
    dir.is_dir() && dir.uid() == owner && dir.mode() & 0o7777 == 0o700 && dir.size() <= 4_096
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

/// Whether it has no attributes and no flags: an access list or a flag to sync every write would go over to what is made in it.
#[expect(unsafe_code, reason = "neither nix nor std lists extended attributes or reads the flags of a file")]
pub(crate) fn has_no_marks(dir: &Path) -> bool {
    /// FS_SYNC_FL, FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NODUMP_FL, FS_NOATIME_FL, FS_COMPR_FL, FS_JOURNAL_DATA_FL, FS_DIRSYNC_FL,
    /// FS_TOPDIR_FL, FS_NOCOW_FL, FS_PROJINHERIT_FL, FS_CASEFOLD_FL
    const MARKS: libc::c_long =
        0x08 | 0x10 | 0x20 | 0x40 | 0x80 | 0x04 | 0x4000 | 0x1_0000 | 0x2_0000 | 0x80_0000 | 0x2000_0000 | 0x4000_0000;
    let Ok(file) = fs::File::open(dir) else { return false };
    let mut flags: libc::c_long = 0;
    // SAFETY: the descriptor is open; without a buffer only a length is asked for.
    let attributes = unsafe { libc::flistxattr(file.as_raw_fd(), std::ptr::null_mut(), 0) };
    // SAFETY: the descriptor is open, and a place for one number is given.
    let asked = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) };
    let is_unsupported = |result: i64| {
        result < 0 && matches!(nix::errno::Errno::last(), nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOTTY)
    };
    let has_flags = asked == 0 && flags & MARKS != 0;
    (attributes == 0 || is_unsupported(attributes as i64)) && !has_flags
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
    fn directories_are_left_to_the_next_attempt_only_as_they_were_made() {
        let me = nix::unistd::geteuid().as_raw();
        let root = tempfile::tempdir().expect("a directory");
        let record = Record { scratch: root.path().to_owned(), ..Record::default() };
        let run = |program: &str, arguments: &[&str]| {
            let status = std::process::Command::new(program).args(arguments).arg(record.work()).status();
            status.is_ok_and(|status| status.success())
        };
        assert!(!reuse(&record, root.path()), "nothing is there yet");
        create(&record, root.path()).expect("made");
        assert!(leave_for_next(&record, root.path()) && reuse(&record, root.path()));
        let marks: [(&str, &dyn Fn() -> bool); 6] = [
            ("a file", &|| fs::write(record.work().join("x"), "").is_ok()),
            ("a hidden directory", &|| fs::create_dir(record.tmp().join(".x")).is_ok()),
            ("other rights", &|| fs::set_permissions(record.work(), fs::Permissions::from_mode(0o777)).is_ok()),
            ("a link in its place", &|| {
                fs::remove_dir(record.tmp()).is_ok() && std::os::unix::fs::symlink("/", record.tmp()).is_ok()
            }),
            // Where the disk knows them.
            ("a flag", &|| run("chattr", &["+A"])),
            ("an attribute", &|| run("setfattr", &["-n", "user.x", "-v", "1"])),
        ];
        for (what, mark) in marks {
            if !mark() {
                continue;
            }
            assert!(!leave_for_next(&record, root.path()) && !reuse(&record, root.path()), "{what}");
            create(&record, root.path()).expect("made anew");
            assert!(reuse(&record, root.path()), "{what} is gone");
        }
        if me == 0 {
            // The user of one attempt is not that of the next.
            let (first, second) = (
                Record { uid: Some(1_900_000_001), ..record.clone() },
                Record { uid: Some(1_900_000_002), ..record.clone() },
            );
            create(&first, root.path()).expect("made");
            assert!(!reuse(&second, root.path()), "it is not given back yet");
            assert!(leave_for_next(&first, root.path()) && reuse(&second, root.path()));
            assert_eq!(fs::metadata(second.work()).expect("there").uid(), 1_900_000_002);
        }
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
