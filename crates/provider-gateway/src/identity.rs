//! Who this installation is: an id made at its first start, and the lock that keeps two agents off one data directory.

use domain::ids::InstanceId;
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

pub(crate) struct Identity {
    pub(crate) instance: InstanceId,
    /// Released by the kernel when the process ends, however it ends.
    _lock: Flock<File>,
}

pub(crate) fn open(data_dir: &Path) -> io::Result<Identity> {
    fs::create_dir_all(data_dir)?;
    // Others may pass through (tasks run as users of their own), not look.
    fs::set_permissions(data_dir, fs::Permissions::from_mode(0o711))?;
    let lock = Flock::lock(File::create(data_dir.join("agent.lock"))?, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, errno)| io::Error::new(io::ErrorKind::WouldBlock, format!("another agent uses it ({errno})")))?;
    let path = data_dir.join("instance");
    let instance = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} does not hold an id", path.display()))
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let instance = InstanceId::from_uuid(uuid::Uuid::new_v4());
            let fresh = data_dir.join("instance.new");
            fs::write(&fresh, format!("{instance}\n"))?;
            fs::rename(&fresh, &path)?;
            instance
        }
        Err(error) => return Err(error),
    };
    Ok(Identity { instance, _lock: lock })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_refused_until_the_first_is_gone_and_finds_who_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = open(dir.path()).expect("opened");
        let refused = open(dir.path()).map(|_| ()).expect_err("it is in use");
        assert!(refused.to_string().starts_with("another agent uses it"), "{refused}");
        let instance = first.instance;
        drop(first);
        assert_eq!(open(dir.path()).expect("opened").instance, instance);
    }
}
