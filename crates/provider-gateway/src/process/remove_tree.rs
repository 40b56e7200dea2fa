//! Deleting what a task left: millions of files, directories without any rights, nesting deeper than any path can be.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

/// Deletes a file or a directory with all that is in it. Follows no link. Fine when it is not there. The processes that could
/// write to it must be gone.
///
/// Directories are emptied by moving their subdirectories up, so depth costs neither stack nor open files.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta?,
    };
    if !meta.is_dir() {
        return fs::remove_file(path);
    }
    let mut moved = 0u64;
    loop {
        open_up(path)?;
        let mut is_empty = true;
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            is_empty = false;
            if entry.file_type()?.is_dir() {
                flatten(path, &entry.path(), &mut moved)?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        // Reading may miss what was moved in meanwhile, so only a pass that found nothing is the last.
        if is_empty {
            return fs::remove_dir(path);
        }
    }
}

/// Deletes the directory `dir` in `top` after its own subdirectories were moved to `top`.
fn flatten(top: &Path, dir: &Path, moved: &mut u64) -> io::Result<()> {
    if fs::remove_dir(dir).is_ok() {
        return Ok(());
    }
    open_up(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
        } else if fs::remove_dir(entry.path()).is_err() {
            // A directory that changes its parent must be writable itself.
            open_up(&entry.path())?;
            loop {
                let target = top.join(format!(".removed-{moved}"));
                *moved += 1;
                match fs::rename(entry.path(), target) {
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::DirectoryNotEmpty
                                | io::ErrorKind::AlreadyExists
                                | io::ErrorKind::NotADirectory
                        ) => {}
                    result => break result?,
                }
            }
        }
    }
    fs::remove_dir(dir)
}

fn open_up(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{
        fcntl::{OFlag, openat},
        sys::stat::{Mode, mkdirat},
    };

    #[test]
    fn closed_wide_and_very_deep_directories_go() {
        let root = tempfile::tempdir().expect("a directory");
        let outside = root.path().join("outside");
        fs::write(&outside, "stays").expect("written");
        let tree = root.path().join("tree");
        fs::create_dir_all(tree.join("closed/inner")).expect("made");
        fs::write(tree.join("closed/inner/file"), "x").expect("written");
        std::os::unix::fs::symlink(root.path(), tree.join("closed/link")).expect("linked");
        fs::create_dir(tree.join("wide")).expect("made");
        for i in 0..3_000 {
            fs::write(tree.join(format!("wide/{i}")), "").expect("written");
        }
        // Deeper than the longest path that the system takes.
        let mut level = fs::File::open(&tree).expect("opened");
        for _ in 0..1_200 {
            let open = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            mkdirat(&level, "deep", Mode::S_IRWXU).expect("made");
            level = openat(&level, "deep", open, Mode::empty()).expect("opened").into();
        }
        fs::create_dir(tree.join(".removed-0")).expect("made");
        for closed in ["closed/inner", "closed"] {
            fs::set_permissions(tree.join(closed), fs::Permissions::from_mode(0o000)).expect("closed");
        }

        remove_tree(&tree).expect("removed");
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(outside).expect("still there"), "stays");
        remove_tree(&tree).expect("nothing to do is fine");
    }
}
