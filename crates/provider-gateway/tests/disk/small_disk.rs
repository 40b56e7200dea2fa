//! A file system of its own, in a file. Gone when dropped.

use crate::dockerd::{run, temporary_dir, unmount_below};
use provider_gateway::disk::used_percent;
use std::path::{Path, PathBuf};

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
        let dir = temporary_dir();
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
        unmount_below(&self.mount);
    }
}
