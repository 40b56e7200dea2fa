//! Installs peers from the registries that this machine's own clients are set up for: pip, npm and apt.

use anyhow::Context as _;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::process::Command;

const INSTALL_WITHIN: Duration = Duration::from_secs(300);

/// It can't be had here.
#[derive(Debug)]
pub(super) struct Missing {
    what: String,
    because: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} could not be installed: {}", self.what, self.because)
    }
}
impl std::error::Error for Missing {}

/// Where peers are installed, outside the repository.
pub(super) struct Scratch {
    path: PathBuf,
    _dir: Option<TempDir>,
}

impl Scratch {
    /// A directory that is removed with this value, or the given one, which stays.
    pub(super) fn open(kept: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(path) = kept {
            std::fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
            return Ok(Self { path: std::path::absolute(path)?, _dir: None });
        }
        let dir = tempfile::Builder::new().prefix("unidesk-peers-").tempdir()?;
        Ok(Self { path: dir.path().to_owned(), _dir: Some(dir) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The interpreter that can import the module, after these packages were installed for it if it could not.
    pub(super) async fn python_package(&self, module: &str, packages: &[&str]) -> anyhow::Result<PathBuf> {
        let home = self.path.join("py");
        let python = home.join("bin/python");
        if !python.exists() {
            install(module, Command::new("python3").args(["-m", "venv"]).arg(&home)).await?;
        }
        let there = Command::new(&python).args(["-c", &format!("import {module}")]).output().await?;
        if !there.status.success() {
            eprintln!("installing {module} ...");
            install(module, Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages)).await?;
        }
        Ok(python)
    }

    /// The directory whose `node_modules` has the package.
    pub(super) async fn node_package(&self, package: &str) -> anyhow::Result<PathBuf> {
        let home = self.path.join("js");
        if !home.join("node_modules").join(package).exists() {
            std::fs::create_dir_all(&home)?;
            std::fs::write(home.join("package.json"), "{\"private\": true}\n")?;
            eprintln!("installing {package} ...");
            let mut npm = Command::new("npm");
            npm.args(["install", "--silent", "--no-audit", "--no-fund", package]).current_dir(&home);
            install(package, &mut npm).await?;
        }
        Ok(home)
    }

    /// Debian's package and what it needs and is not there, unpacked here and not installed. Returns where.
    pub(super) async fn debian_package(&self, package: &str) -> anyhow::Result<PathBuf> {
        let (root, debs) = (self.path.join(package), self.path.join("debs"));
        if root.exists() {
            return Ok(root);
        }
        eprintln!("unpacking {package} ...");
        std::fs::create_dir_all(debs.join("partial"))?;
        let mut apt = Command::new("apt-get");
        apt.args(["-qq", "-y", "--download-only", "-o", &format!("Dir::Cache::archives={}", debs.display())]);
        install(package, apt.args(["install", "--no-install-recommends", package])).await?;
        for deb in std::fs::read_dir(&debs)?.flatten() {
            if deb.path().extension().is_some_and(|extension| extension == "deb") {
                install(package, Command::new("dpkg").arg("-x").arg(deb.path()).arg(&root)).await?;
            }
        }
        Ok(root)
    }
}

async fn install(what: &str, command: &mut Command) -> anyhow::Result<()> {
    let missing = |because: String| Missing { what: what.to_owned(), because };
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(INSTALL_WITHIN, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(missing(error.to_string()).into()),
        Err(_) => return Err(missing(format!("not within {INSTALL_WITHIN:?}")).into()),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        return Err(missing(last.to_owned()).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_no_registry_has_is_missing_and_no_other_failure() {
        let mut command = Command::new("sh");
        let error = install("thing", command.args(["-c", "echo none such >&2; exit 1"])).await.expect_err("missing");
        assert!(error.is::<Missing>());
        assert_eq!(error.to_string(), "thing could not be installed: none such");
        let error = install("thing", &mut Command::new("/no/such/client")).await.expect_err("missing");
        assert!(error.is::<Missing>(), "{error}");
    }
}
