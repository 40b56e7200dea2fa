//! A file system of a few gigabytes in a file. Gone when dropped, and so is what an earlier run could not clear.

use crate::dockerd::{mounts_below, quiet, run};
use provider_gateway::disk::used_percent;
use std::path::{Path, PathBuf};

const PREFIX: &str = "unidesk-small-disk-";

pub(crate) struct SmallDisk {
    mount: PathBuf,
    _dir: tempfile::TempDir,
}

impl SmallDisk {
    /// `size` as `truncate` takes it: `2G`.
    pub(crate) fn new(size: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test mounts a small disk, and only root can: run the tests as root"
        );
        clear_earlier_runs();
        let dir = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::create_dir(dir.path().join("disk")).unwrap();
        run("truncate", &["-s", size, &path("image")]);
        run("mkfs.ext4", &["-q", "-m", "0", &path("image")]);
        // Made before the mount, so that it is there to undo it.
        let disk = Self { mount: dir.path().join("disk"), _dir: dir };
        let image = disk.mount.with_file_name("image");
        // Fails with the system's own words where there are no loop devices.
        run("mount", &["-o", "loop,discard", &image.display().to_string(), &disk.mount.display().to_string()]);
        disk
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }
    pub(crate) fn used(&self) -> u8 {
        used_percent(&self.mount).unwrap()
    }

    /// Somebody else's file, of the size that makes the disk so full. Another one replaces it.
    pub(crate) fn fill_to(&self, percent: u64) {
        self.clear_filler();
        let stat = nix::sys::statvfs::statvfs(&self.mount).unwrap();
        // As percent is counted: without the few blocks that the file system keeps back.
        let used = stat.blocks() - stat.blocks_free();
        let wanted = (used + stat.blocks_available()) * percent / 100;
        let bytes = wanted.saturating_sub(used) * stat.fragment_size();
        run("fallocate", &["-l", &bytes.to_string(), &self.filler().display().to_string()]);
    }
    pub(crate) fn clear_filler(&self) {
        let _ = std::fs::remove_file(self.filler());
    }
    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.mount);
    }
}

fn unmount(mount: &Path) {
    let mount = mount.display().to_string();
    if !quiet("umount", &[&mount]).status().is_ok_and(|status| status.success()) {
        let _ = quiet("umount", &["-l", &mount]).status();
    }
}

/// A run that was killed leaves its disk mounted.
fn clear_earlier_runs() {
    for mount in mounts_below(&std::env::temp_dir()) {
        let Some(dir) = mount
            .ancestors()
            .find(|dir| dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)))
        else {
            continue;
        };
        let name = dir.file_name().unwrap().to_string_lossy();
        let pid = name[PREFIX.len()..].split('-').next().unwrap();
        if !Path::new("/proc").join(pid).exists() {
            unmount(&mount);
            if mount == dir.join("disk") {
                let _ = std::fs::remove_dir_all(dir);
            }
        }
    }
}
