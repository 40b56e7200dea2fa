//! Files and directories, as a backup needs them: synced, copied whole, counted.

use anyhow::Context as _;
use local_postgres::Programs;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// Writes a file in one step.
pub(crate) fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".partial");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// Gives what is whole its name, so that it has it after a crash too.
pub(crate) fn rename_whole(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::rename(from, to).with_context(|| format!("naming {}", to.display()))?;
    let dir = to.parent().context("a backup lies in a directory")?;
    File::open(dir)?.sync_all().with_context(|| format!("syncing {}", dir.display()))
}

pub(crate) async fn sha256(path: &Path) -> anyhow::Result<String> {
    let path = path.to_owned();
    let sum = move || -> anyhow::Result<String> {
        let mut file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer).with_context(|| format!("reading {}", path.display()))? {
                0 => return Ok(hex::encode(hash.finalize())),
                n => hash.update(&buffer[..n]),
            }
        }
    };
    tokio::task::spawn_blocking(sum).await?
}

/// The bytes of a file, or of all below a directory.
pub(crate) fn bytes(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| bytes(&entry.path())).sum()
}

/// Bytes that may still be written where this directory is, or will be.
pub(crate) fn free_bytes(path: &Path) -> anyhow::Result<u64> {
    let there = path.ancestors().find(|path| path.exists()).context("no directory above it")?;
    let disk = nix::sys::statvfs::statvfs(there).with_context(|| format!("asking the disk of {}", there.display()))?;
    Ok(disk.blocks_available() * disk.fragment_size())
}

/// Copies a directory with all below it for PostgreSQL's user, and syncs it when it is kept.
pub(crate) async fn copy(programs: &Programs, from: &Path, to: &Path, is_kept: bool) -> anyhow::Result<()> {
    let (programs, from, to) = (programs.clone(), from.to_owned(), to.to_owned());
    tokio::task::spawn_blocking(move || copy_dir(&programs, &from, &to, is_kept)).await?
}

fn copy_dir(programs: &Programs, from: &Path, to: &Path, is_kept: bool) -> anyhow::Result<()> {
    programs.make_dir(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_dir(programs, &source, &target, is_kept)?;
        } else {
            anyhow::ensure!(
                kind.is_file(),
                "{} is no file; tablespaces can't be restored by this program",
                source.display()
            );
            fs::copy(&source, &target)
                .with_context(|| format!("copying {} to {}", source.display(), target.display()))?;
            fs::set_permissions(&target, fs::Permissions::from_mode(0o600))?;
            programs.own(&target)?;
            if is_kept {
                File::open(&target)?.sync_all()?;
            }
        }
    }
    if is_kept {
        File::open(to)?.sync_all()?;
    }
    Ok(())
}

/// As people read it.
pub(crate) fn show_bytes(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        1_048_576..10_737_418_240 => format!("{} MiB", bytes.div_ceil(1 << 20)),
        _ => format!("{} GiB", bytes.div_ceil(1 << 30)),
    }
}
