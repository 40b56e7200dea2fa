//! Whether this machine can be a node: what an agent would find here, looked at without starting one.

use crate::{
    config::ProviderSettings,
    container::{self, DockerFacts},
    disk::used_percent,
    resources,
};
use api_types::check::Check;
use domain::{quantity::show_bytes, resources::Gpu};
use std::{path::Path, process::Command};

/// Looks at Docker, GPUs, Git and disks. Takes some seconds where one of them hangs.
pub async fn checks(data_dir: &Path, settings: &ProviderSettings) -> Vec<Check> {
    let docker = container::look_at_docker(settings.docker_socket.as_deref()).await;
    let disk_path = docker.as_ref().map(|facts| facts.data_root.clone()).ok().filter(|path| path.exists());
    let measured = resources::Settings::new(disk_path.clone().unwrap_or_else(|| data_dir.to_owned()));
    let machine = tokio::task::spawn_blocking(move || resources::measure(&measured)).await.ok();
    let gpus = machine.map(|machine| machine.capacity.gpus).unwrap_or_default();
    let mut checks = vec![of_docker(&docker), of_gpus(&gpus, docker.as_ref().ok()), of_git(git_version().as_deref())];
    checks.extend(disk_path.map(|path| of_disk("docker-disk", "Docker's disk", &path, settings)));
    checks.push(of_disk("data-disk", "the disk of the agent's data directory", nearest(data_dir), settings));
    checks
}

fn of_docker(docker: &Result<DockerFacts, String>) -> Check {
    match docker {
        Err(reason) => Check::failed(
            "docker",
            reason.clone(),
            "Tasks run in containers: start Docker, and let this user reach its socket (usermod -aG docker USER), or name another one in provider.toml: docker_socket.",
        ),
        Ok(facts) if facts.os != "linux" => Check::failed(
            "docker",
            format!("Docker {} runs {} containers", facts.server_version, facts.os),
            "Switch it to Linux containers.",
        ),
        Ok(facts) => {
            let found = format!(
                "Docker {}, {} on {}, cgroup v{}",
                facts.server_version, facts.storage_driver, facts.backing_filesystem, facts.cgroup_version
            );
            if facts.has_live_restore {
                Check::ok("docker", found)
            } else {
                Check::warning(
                    "docker",
                    format!("{found}; its restart ends the tasks that run"),
                    "Set \"live-restore\": true in /etc/docker/daemon.json and reload Docker.",
                )
            }
        }
    }
}

fn of_gpus(gpus: &[Gpu], docker: Option<&DockerFacts>) -> Check {
    let Some(first) = gpus.first() else {
        return Check::skipped("gpus", "the driver of NVIDIA names none");
    };
    let found = format!("{} x {} with {}", gpus.len(), first.model, show_bytes(first.memory_bytes));
    match docker {
        Some(facts) if facts.has_nvidia_runtime => Check::ok("gpus", found),
        Some(_) => Check::failed(
            "gpus",
            format!("{found}, and Docker can't give them to containers"),
            "Install the NVIDIA Container Toolkit, then: nvidia-ctk runtime configure --runtime=docker && systemctl restart docker",
        ),
        None => Check::skipped("gpus", found),
    }
}

fn of_git(version: Option<&str>) -> Check {
    match version {
        Some(version) => Check::ok("git", version),
        None => Check::failed("git", "there is no git here", "Install it: tasks name commits, which it fetches."),
    }
}

fn git_version() -> Option<String> {
    let said = Command::new("git").arg("--version").output().ok().filter(|said| said.status.success())?;
    Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

fn of_disk(id: &str, whose: &str, path: &Path, settings: &ProviderSettings) -> Check {
    let marks = &settings.watermarks;
    let Some(used) = used_percent(path) else {
        return Check::failed(
            id,
            format!("{whose} can't be seen at {}", path.display()),
            "See that the directory is there and readable.",
        );
    };
    let found = format!("{used} % of {whose} is used");
    if marks.is_full(used) {
        let advice = format!("Make room: from {} % on this node takes no work.", marks.full_percent);
        Check::failed(id, found, advice)
    } else if marks.is_high(used) {
        let advice = format!(
            "Make room: from {} % on images and caches are removed, and from {} % on no work is taken.",
            marks.high_percent, marks.full_percent
        );
        Check::warning(id, found, advice)
    } else {
        Check::ok(id, found)
    }
}

/// Of a directory that will be made: where it will be.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_types::check::CheckOutcome::{Failed, Ok as Good, Skipped, Warning};

    fn linux() -> DockerFacts {
        DockerFacts { os: "linux".into(), has_live_restore: true, ..DockerFacts::default() }
    }

    #[test]
    fn a_machine_that_lacks_something_is_told_what() {
        assert_eq!(of_docker(&Ok(linux())).outcome, Good);
        assert_eq!(of_docker(&Ok(DockerFacts { has_live_restore: false, ..linux() })).outcome, Warning);
        assert_eq!(of_docker(&Ok(DockerFacts { os: "windows".into(), ..linux() })).outcome, Failed);
        assert_eq!(of_docker(&Err("Docker does not answer".into())).outcome, Failed);
        assert_eq!(of_git(None).outcome, Failed);
        let gpu = Gpu { id: "GPU-1".into(), model: "A100".into(), memory_bytes: 40 << 30 };
        assert_eq!(of_gpus(&[], Some(&linux())).outcome, Skipped);
        assert_eq!(of_gpus(std::slice::from_ref(&gpu), Some(&linux())).outcome, Failed);
        let with_runtime = DockerFacts { has_nvidia_runtime: true, ..linux() };
        let good = of_gpus(&[gpu], Some(&with_runtime));
        assert_eq!((good.outcome, good.found.as_str()), (Good, "1 x A100 with 40 GiB"));
    }
}
