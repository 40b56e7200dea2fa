//! Where the programs are, and as whom they run. Root can't run PostgreSQL, so as root they run as user `postgres`.

use crate::tethered;
use anyhow::Context as _;
use nix::unistd::{User, chown, geteuid};
use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

#[derive(Clone, Debug)]
pub struct Programs {
    bin: PathBuf,
    /// Set as root: whom to become.
    pub(crate) user: Option<User>,
}

impl Programs {
    pub fn find() -> anyhow::Result<Self> {
        let user = if geteuid().is_root() {
            let found = User::from_name("postgres").context("looking up user postgres")?;
            Some(found.context("PostgreSQL does not run as root, and there is no user postgres; install it with: apt-get install --no-install-recommends postgresql")?)
        } else {
            None
        };
        Ok(Self { bin: find_binaries()?, user })
    }

    pub(crate) fn path(&self, program: &str) -> PathBuf {
        self.bin.join(program)
    }

    /// With an empty environment, in the root directory: that of the caller may be unreadable for the user.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.path(program));
        command.current_dir("/").env_clear().env("LC_ALL", "C.UTF-8").env("PATH", "/usr/bin:/bin");
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    /// Runs it to its end; what it said on stderr is the error. Dropped, it is ended.
    pub async fn run(&self, mut command: Command) -> anyhow::Result<Output> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: the terminal's Ctrl-C is for this process, which ends it in its turn.
        command.process_group(0);
        let program = Path::new(command.get_program()).to_owned();
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let output = tethered::output(command).await.with_context(|| format!("running {}", program.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = if said.trim().is_empty() { String::from_utf8_lossy(&output.stdout) } else { said };
            anyhow::bail!("{name} failed ({}): {}", output.status, said.trim());
        }
        Ok(output)
    }

    /// 15, of 15.18.
    pub async fn major_version(&self) -> anyhow::Result<u32> {
        let mut command = self.command("postgres");
        command.arg("--version");
        let output = self.run(command).await?;
        let said = String::from_utf8_lossy(&output.stdout);
        let digits = |word: &str| word.split('.').next().and_then(|major| major.parse().ok());
        said.split_whitespace().find_map(digits).with_context(|| format!("no version in: {}", said.trim()))
    }

    /// A directory that only the programs' user may enter.
    pub fn make_dir(&self, dir: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        self.own(dir)
    }

    /// Gives a file to the programs' user.
    pub fn own(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(user) = &self.user {
            chown(path, Some(user.uid), Some(user.gid)).with_context(|| format!("giving {} away", path.display()))?;
        }
        Ok(())
    }

    pub(crate) fn write(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        self.own(path)
    }
}

/// `UNIDESK_PG_BIN`, the newest of Debian's, then PATH.
fn find_binaries() -> anyhow::Result<PathBuf> {
    let is_complete = |dir: &Path| dir.join("postgres").exists() && dir.join("initdb").exists();
    if let Some(given) = std::env::var_os("UNIDESK_PG_BIN").map(PathBuf::from) {
        anyhow::ensure!(
            is_complete(&given),
            "UNIDESK_PG_BIN is {}, and there are no postgres and initdb in it",
            given.display()
        );
        return Ok(given);
    }
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            Some((version, path.join("bin")))
        })
        .collect();
    debian.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = debian.into_iter().rev().map(|(_, bin)| bin).chain(std::env::split_paths(&path));
    candidates.into_iter().find(|dir| is_complete(dir)).context(
        "PostgreSQL was not found on this machine. Install it with: apt-get install --no-install-recommends postgresql; \
         or name its programs' directory in UNIDESK_PG_BIN; or give an existing server in UNIDESK_DATABASE_URL",
    )
}
