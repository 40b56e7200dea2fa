//! The server's own node: a real agent with a token of its own, over a real WebSocket.

use super::write_file;
use anyhow::Context as _;
use provider_gateway::{Agent, Config};
use service_kit::Service;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use store::Store;
use trust::Trust;

pub struct LocalNode {
    pub name: String,
    service: Service,
    agent: Agent,
}

impl LocalNode {
    pub(super) async fn start(
        store: &Store,
        data_dir: &Path,
        name: &str,
        url: &str,
        trust: Trust,
        shim: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let dir = data_dir.join("nodes").join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        for traversed in [data_dir.join("nodes"), dir.clone()] {
            std::fs::set_permissions(&traversed, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        }
        let token = token(store, &dir.join("token"), name).await?;
        let service = Service::new();
        let mut config = Config { shim, trust, ..Config::load(url.to_owned(), token, &dir)? };
        // Whoever starts the platform here owns the machine.
        config.policy.executors.get_or_insert_with(|| ["container", "process"].map(str::to_owned).into());
        let agent = provider_gateway::start(&service, config).await.with_context(|| format!("starting node {name}"))?;
        Ok(Self { name: name.to_owned(), service, agent })
    }

    /// Returns once it is connected; an error after 20 s.
    pub(super) async fn connected(&mut self) -> anyhow::Result<()> {
        tokio::time::timeout(Duration::from_secs(20), self.agent.connected())
            .await
            .with_context(|| format!("node {} did not connect within 20 s; UNIDESK_LOG=info shows why", self.name))
    }

    pub(super) fn running(&self) -> usize {
        self.agent.running()
    }

    /// Stops its work, then itself.
    pub(super) async fn shut_down(&self, grace: Duration) {
        self.agent.shut_down(grace).await;
    }

    /// Stops the agent and leaves its work alone.
    pub(super) async fn leave(&self, grace: Duration) {
        self.service.stop_within(grace).await;
    }
}

/// The token of an earlier start, or a new one. A file that has none has lost it: the node of that name is replaced.
pub(crate) async fn token(store: &Store, path: &Path, name: &str) -> anyhow::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(token) if node_registry::is_valid_node_token(store, token.trim()).await? => {
            return Ok(token.trim().to_owned());
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    }
    let token =
        node_registry::replace_node(store, name).await.with_context(|| format!("making a token for node {name}"))?;
    write_file(path, &format!("{token}\n"), 0o600)?;
    Ok(token)
}
