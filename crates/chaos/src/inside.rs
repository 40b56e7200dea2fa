//! A run happens in namespaces of its own: network (so that veths, addresses and firewall rules can't touch the machine's), mounts,
//! and processes (so that nothing outlives the run, however it ends).

use anyhow::Context as _;
use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

/// The run's directory, told to the process inside.
const DIR: &str = "UNIDESK_CHAOS_DIR";

pub enum Place {
    /// This process is inside; everything of the run goes into this directory.
    Inside(PathBuf),
    /// This process was outside; the run inside has ended so.
    Outside(ExitCode),
}

/// Starts this program again inside namespaces of its own and waits for its end, or prepares them when it is inside already.
pub async fn enter() -> anyhow::Result<Place> {
    if let Some(dir) = std::env::var_os(DIR) {
        prepare()?;
        return Ok(Place::Inside(dir.into()));
    }
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces, firewall rules and a Docker daemon of its own need root; run it as root (sudo)"
    );
    for program in ["unshare", "nsenter", "ip", "iptables", "ss", "dockerd", "docker", "psql"] {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).stdout(Stdio::null()).status()?;
        anyhow::ensure!(
            found.success(),
            "{program} is missing; apt-get install util-linux iproute2 iptables docker.io postgresql"
        );
    }
    // A short path (a socket's has at most 107 bytes) that PostgreSQL's and the tasks' own users can pass through.
    let dir = tempfile::Builder::new().prefix("udc-").tempdir_in("/tmp").context("making the run's directory")?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711))?;
    // The shell is process 1 in there: it collects what loses its parent, as init does on a machine.
    let mut child = tokio::process::Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(DIR, dir.path())
        .env("DOCKER_HOST", docker_host(dir.path()))
        .spawn()
        .context("starting unshare")?;
    loop {
        tokio::select! {
            ended = child.wait() => {
                let code = ended?.code().unwrap_or(130);
                return Ok(Place::Outside(ExitCode::from(u8::try_from(code).unwrap_or(1))));
            }
            // The one inside hears it too and puts things away; this one removes the directory after it.
            _ = tokio::signal::ctrl_c() => {}
        }
    }
}

/// Where the run's own Docker daemon listens.
pub fn docker_host(dir: &Path) -> String {
    format!("unix://{}", docker_socket(dir).display())
}

pub fn docker_socket(dir: &Path) -> PathBuf {
    dir.join("docker.sock")
}

fn prepare() -> anyhow::Result<()> {
    // Names of namespaces, and a containerd that is not ours, stay outside.
    for dir in ["/run/netns", "/run/containerd"] {
        std::fs::create_dir_all(dir)?;
        run("mount", &["-t", "tmpfs", "tmpfs", dir])?;
    }
    run("ip", &["link", "set", "lo", "up"])?;
    // What comes in for the Git host, which listens on loopback only, is handed on to it.
    std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1")?;
    std::fs::write("/proc/sys/net/ipv4/conf/default/route_localnet", "1")?;
    Ok(())
}

/// Runs a command of the machine and gives what it printed. Errors: it failed, with its own words.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
