//! The connection to Docker: made when first needed, forgotten when it breaks, every call with a deadline.

use super::raw;
use crate::executor::Failure;
use bollard::{API_DEFAULT_VERSION, Docker, errors::Error as ApiError};
use std::{
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// For questions.
pub(super) const QUICK: Duration = Duration::from_secs(30);
/// For what makes Docker work: create, start, remove.
pub(super) const SLOW: Duration = Duration::from_secs(180);
const CONNECT: Duration = Duration::from_secs(10);
const PING: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(super) enum DockerError {
    #[error("Docker does not answer on {socket}: {reason}")]
    Away { socket: String, reason: String },
    #[error("Docker gave no answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("Docker refused ({status}): {message}")]
    Refused { status: u16, message: String },
    #[error("Docker's answer was not understood: {0}")]
    Garbled(String),
}

impl DockerError {
    /// Can't be asked now; says nothing about containers.
    pub(super) fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Late(_))
    }
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }
    pub(super) fn into_failure(self, doing: &str) -> Failure {
        Failure::node(format!("{self} (while {doing})."))
    }
}

/// What is known of the daemon since it was reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub server_version: String,
    pub api_version: String,
    /// `linux`.
    pub os: String,
    /// As Docker names it: `x86_64`.
    pub arch: String,
    pub data_root: PathBuf,
    pub storage_driver: String,
    pub backing_filesystem: String,
    /// `1` or `2`.
    pub cgroup_version: String,
    /// Containers outlive the daemon.
    pub has_live_restore: bool,
    pub has_buildkit: bool,
    /// What gives containers the GPUs of NVIDIA.
    pub has_nvidia_runtime: bool,
}

impl Facts {
    /// Whether asking for a disk quota is worth a try: overlay2 knows only at the first container whether XFS was mounted with
    /// project quotas.
    pub(super) fn may_have_quota(&self) -> bool {
        match self.storage_driver.as_str() {
            "overlay2" => self.backing_filesystem == "xfs",
            "btrfs" | "zfs" => true,
            _ => false,
        }
    }

    pub(super) fn limits(&self, quota_refused: bool) -> String {
        let disk = if self.may_have_quota() && !quota_refused {
            format!("disk by {} quota", self.storage_driver)
        } else {
            format!("disk not limited ({} on {} has no quota)", self.storage_driver, self.backing_filesystem)
        };
        format!("cgroup v{}: memory, CPU, processes; {disk}", self.cgroup_version)
    }
}

#[derive(Clone)]
struct Connected {
    docker: Docker,
    facts: Arc<Facts>,
}

pub(super) struct Engine {
    socket: PathBuf,
    connected: Mutex<Option<Connected>>,
    /// What was true when Docker was last seen; it may be away now.
    last_facts: Mutex<Option<Arc<Facts>>>,
}

impl Engine {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, connected: Mutex::default(), last_facts: Mutex::default() }
    }
    pub(super) fn socket(&self) -> &std::path::Path {
        &self.socket
    }
    pub(super) fn known_facts(&self) -> Option<Arc<Facts>> {
        self.last_facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    pub(super) async fn facts(&self) -> Result<Arc<Facts>, DockerError> {
        Ok(self.connected().await?.facts)
    }
    /// For streams: waits for an answer as long as it takes.
    pub(super) async fn streaming(&self) -> Result<Docker, DockerError> {
        Ok(self.connected().await?.docker.with_timeout(Duration::from_secs(30 * 24 * 3_600)))
    }

    /// One request with a deadline.
    pub(super) async fn call<T, F>(&self, limit: Duration, request: impl FnOnce(Docker) -> F) -> Result<T, DockerError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        let docker = self.connected().await?.docker.with_timeout(limit);
        let answer = match tokio::time::timeout(limit, request(docker)).await {
            Ok(answer) => answer.map_err(|error| self.explain(error, limit)),
            Err(_) => Err(DockerError::Late(limit)),
        };
        if answer.as_ref().is_err_and(DockerError::is_away) {
            self.forget();
        }
        answer
    }

    /// Whether Docker answers within 5 s.
    pub(super) async fn ping(&self) -> Result<(), DockerError> {
        self.call(PING, |docker| async move { docker.ping().await.map(|_| ()) }).await
    }

    pub(super) fn explain(&self, error: ApiError, limit: Duration) -> DockerError {
        match error {
            ApiError::DockerResponseServerError { status_code, message } => {
                DockerError::Refused { status: status_code, message: message.trim().to_owned() }
            }
            ApiError::RequestTimeoutError => DockerError::Late(limit),
            ApiError::IOError { .. }
            | ApiError::HyperResponseError { .. }
            | ApiError::HyperLegacyError { .. }
            | ApiError::SocketNotFoundError(_) => self.away(&error),
            other => DockerError::Garbled(other.to_string()),
        }
    }

    pub(super) fn away(&self, error: &(dyn std::error::Error + 'static)) -> DockerError {
        // The outer errors only say that sending failed; the innermost says why.
        let mut innermost = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        DockerError::Away { socket: self.socket.display().to_string(), reason: innermost.to_string() }
    }

    /// The next call connects anew: it may be another daemon by then.
    pub(super) fn forget(&self) {
        *self.connected.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn connected(&self) -> Result<Connected, DockerError> {
        let known = self.connected.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(connected) = known {
            return Ok(connected);
        }
        let connected =
            tokio::time::timeout(CONNECT, self.connect()).await.map_err(|_| DockerError::Late(CONNECT))??;
        *self.last_facts.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected.facts.clone());
        *self.connected.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected.clone());
        Ok(connected)
    }

    async fn connect(&self) -> Result<Connected, DockerError> {
        let path = self.socket.display().to_string();
        let explain = |error| self.explain(error, CONNECT);
        let docker = Docker::connect_with_unix(&path, CONNECT.as_secs(), API_DEFAULT_VERSION).map_err(explain)?;
        let docker = docker.negotiate_version().await.map_err(explain)?;
        let info = docker.info().await.map_err(explain)?;
        let backing = info.driver_status.unwrap_or_default().into_iter().find_map(|pair| match pair.as_slice() {
            [name, value] if name == "Backing Filesystem" => Some(value.clone()),
            _ => None,
        });
        let os = info.os_type.unwrap_or_default();
        let version = docker.client_version();
        let facts = Facts {
            server_version: info.server_version.unwrap_or_default(),
            api_version: version.to_string(),
            has_buildkit: os == "linux"
                && (version.major_version, version.minor_version) >= (1, 39)
                && raw::builder_version(self).await?.as_deref() != Some("1"),
            has_nvidia_runtime: info.runtimes.unwrap_or_default().contains_key("nvidia"),
            os,
            arch: info.architecture.unwrap_or_default(),
            data_root: info.docker_root_dir.unwrap_or_default().into(),
            storage_driver: info.driver.unwrap_or_default(),
            backing_filesystem: backing.unwrap_or_else(|| "an unknown filesystem".to_owned()),
            cgroup_version: info.cgroup_version.map_or_else(|| "1".to_owned(), |version| version.to_string()),
            has_live_restore: info.live_restore_enabled.unwrap_or(false),
        };
        Ok(Connected { docker, facts: Arc::new(facts) })
    }
}
