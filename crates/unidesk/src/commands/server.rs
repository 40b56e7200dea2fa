//! `unidesk server`: one service in a process of its own.

use crate::vitals;
use clap::Subcommand;
use service_kit::Service;
use std::{process::ExitCode, sync::Arc, time::Duration};
use store::{DatabaseConfig, LogArchive, Store};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub service: Which,
}

#[derive(Debug, Subcommand)]
pub enum Which {
    /// The public door: REST, live logs, nodes' sessions. Any number may run
    ApiGateway {
        #[command(flatten)]
        database: Database,
        #[command(flatten)]
        nodes: Nodes,
        #[command(flatten)]
        config: api_gateway::Config,
        #[command(flatten)]
        objects: artifact_service::Config,
        /// Not used here: the node-registry's value counts. Taken so that all services may have one environment
        #[arg(long = "offline-after-s", env = "UNIDESK_OFFLINE_AFTER", hide = true)]
        offline_after_s: Option<u64>,
    },
    /// Places tasks. Any number may run: one leads, the others stand by
    Scheduler {
        #[command(flatten)]
        database: Database,
        #[command(flatten)]
        nodes: Nodes,
        #[command(flatten)]
        config: scheduler::Config,
        /// Address and port of /healthz, /readyz and /metrics; none by default
        #[arg(long, env = "UNIDESK_HEALTH_LISTEN", value_name = "ADDRESS")]
        health: Option<std::net::SocketAddr>,
    },
    /// Watches nodes: marks silent ones offline, queues what may run elsewhere
    NodeRegistry {
        #[command(flatten)]
        database: Database,
        #[command(flatten)]
        config: node_registry::Config,
        /// Address and port of /healthz, /readyz and /metrics; none by default
        #[arg(long, env = "UNIDESK_HEALTH_LISTEN", value_name = "ADDRESS")]
        health: Option<std::net::SocketAddr>,
    },
    /// Looks after artifacts: gives up idle uploads, deletes what nobody has any more; moves logs to the object store. Any number may run
    ArtifactService {
        #[command(flatten)]
        database: Database,
        #[command(flatten)]
        config: artifact_service::Config,
        /// Address and port of /healthz, /readyz and /metrics; none by default
        #[arg(long, env = "UNIDESK_HEALTH_LISTEN", value_name = "ADDRESS")]
        health: Option<std::net::SocketAddr>,
    },
    /// Backs the database up: its log all the time, all of it once a day, and restores each backup once. One runs, beside the others
    Backup {
        #[command(flatten)]
        database: Database,
        #[command(flatten)]
        config: backup::Config,
        /// Address and port of /healthz, /readyz and /metrics; none by default
        #[arg(long, env = "UNIDESK_HEALTH_LISTEN", value_name = "ADDRESS")]
        health: Option<std::net::SocketAddr>,
    },
}

/// What is true of all nodes, and so must be the same for all services.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Nodes {
    /// Milliseconds between two heartbeats of a node; after three missed ones it gets no new work
    #[arg(long, env = "UNIDESK_HEARTBEAT_MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(500..=60_000), value_name = "MS")]
    pub heartbeat_ms: u64,
}

impl Nodes {
    fn told(self, store: Store) -> Store {
        store.with_heartbeat(Duration::from_millis(self.heartbeat_ms))
    }
}

/// How services reach PostgreSQL.
#[derive(Clone, Debug, clap::Args)]
pub struct Database {
    /// The database that all services share
    #[arg(long, env = "UNIDESK_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: String,
    /// The password, where that address has none
    #[arg(long, env = "UNIDESK_DATABASE_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    pub database_password: Option<String>,
    /// The most connections of this process
    #[arg(long, env = "UNIDESK_DATABASE_CONNECTIONS", default_value_t = 16, value_name = "N")]
    pub database_connections: u32,
}

impl Database {
    /// The address with the password in it.
    pub fn url(&self) -> String {
        let Some(password) = &self.database_password else { return self.database_url.clone() };
        let separator = if self.database_url.contains('?') { '&' } else { '?' };
        let mut url = format!("{}{separator}password=", self.database_url);
        for byte in password.bytes() {
            match byte {
                b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => url.push(char::from(byte)),
                other => url += &format!("%{other:02X}"),
            }
        }
        url
    }

    async fn connect(&self) -> anyhow::Result<Store> {
        let config = DatabaseConfig { url: self.url(), max_connections: self.database_connections, shared: true };
        let store = Store::connect(&config).await?;
        let (applied, known) = store.migration_state().await?;
        anyhow::ensure!(applied >= known, "the database is at version {applied} of {known}; run: unidesk migrate");
        Ok(store)
    }
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    service_kit::telemetry::init("info");
    let service = Service::new();
    let store = match args.service {
        Which::ApiGateway { database, nodes, offline_after_s, config, objects } => {
            let times = artifact_service::Times::default();
            let objects = objects.object_store(times)?;
            let store = nodes.told(database.connect().await?);
            if let Some(told) = offline_after_s {
                service
                    .spawn_until_stopped("settings", compare_offline_after(store.clone(), Duration::from_secs(told)));
            }
            let listener = config.bind().await?;
            let address = listener.local_addr()?;
            // Stateless routes of other services are served right here: one hop less than forwarding them.
            let artifacts = artifact_service::routes(store.clone(), objects.clone(), times);
            let extra = api_gateway::Extra {
                behind: node_registry::routes(store.clone()).merge(artifacts),
                for_nodes: artifact_service::node_routes(store.clone(), objects.clone(), times),
                log_archive: objects.map(|objects| Arc::new(objects) as Arc<dyn LogArchive>),
                ..api_gateway::Extra::default()
            };
            api_gateway::run(&service, store.clone(), listener, extra).await?;
            vitals::watch(&service, &store, "api-gateway");
            // Not before: until then it may still end for want of the database.
            println!("ready http://{address} service=api-gateway");
            store
        }
        Which::Scheduler { database, nodes, config, health } => {
            let store = nodes.told(database.connect().await?);
            health_listener(&service, &store, health).await?;
            scheduler::run(&service, &config, store.clone());
            vitals::watch(&service, &store, "scheduler");
            println!("ready service=scheduler");
            store
        }
        Which::NodeRegistry { database, config, health } => {
            let store = database.connect().await?;
            health_listener(&service, &store, health).await?;
            node_registry::run(&service, &config, store.clone());
            vitals::watch(&service, &store, "node-registry");
            println!("ready service=node-registry");
            store
        }
        Which::ArtifactService { database, config, health } => {
            let times = artifact_service::Times::default();
            let objects = config.object_store(times)?;
            let store = database.connect().await?;
            health_listener(&service, &store, health).await?;
            artifact_service::run(&service, times, store.clone(), objects);
            vitals::watch(&service, &store, "artifact-service");
            println!("ready service=artifact-service");
            store
        }
        Which::Backup { database, config, health } => {
            let root = config.backup_dir.clone();
            let root = root
                .ok_or_else(|| anyhow::anyhow!("--backup-dir (UNIDESK_BACKUP_DIR) must say where backups are kept"))?;
            let store = database.connect().await?;
            health_listener(&service, &store, health).await?;
            backup::run(&service, &config, &root, &database.url(), Duration::ZERO).await?;
            println!("ready service=backup");
            store
        }
    };
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupts.recv() => {}
        _ = terminations.recv() => {}
    }
    tokio::select! {
        ended = service.stop_within(Duration::from_secs(10)) => {
            if !ended {
                tracing::warn!("some tasks were still busy after 10 s");
            }
        }
        _ = interrupts.recv() => return Ok(ExitCode::from(130)),
        _ = terminations.recv() => return Ok(ExitCode::from(143)),
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Says that this service's value counts for nothing, if it is not the one that counts. Late: the node-registry, started beside it,
/// may be about to set it.
async fn compare_offline_after(store: Store, told: Duration) {
    tokio::time::sleep(Duration::from_secs(30)).await;
    if let Ok(counts) = store.offline_after().await
        && counts != told
    {
        tracing::warn!(
            told_s = told.as_secs(),
            counts_s = counts.as_secs_f64(),
            "UNIDESK_OFFLINE_AFTER is not used by an api-gateway: what the node-registry was told counts for all; \
             give both the same value, or none here"
        );
    }
}

/// Health of services without a public door.
async fn health_listener(service: &Service, store: &Store, health: Option<std::net::SocketAddr>) -> anyhow::Result<()> {
    if let Some(address) = health {
        let listener = tokio::net::TcpListener::bind(address).await?;
        let asked = store.clone();
        let router = service_kit::health::router(move || {
            let store = asked.clone();
            async move { store::in_time(store.ping()).await.map_err(|error| error.to_string()) }
        });
        service_kit::serve::serve(service, listener, router);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_of_its_own_becomes_part_of_the_address_whatever_is_in_it() {
        let url = |url: &str, password: Option<&str>| {
            let (database_url, database_password) = (url.to_owned(), password.map(str::to_owned));
            Database { database_url, database_password, database_connections: 1 }.url()
        };
        assert_eq!(url("postgres://unidesk@db/unidesk", None), "postgres://unidesk@db/unidesk");
        assert_eq!(
            url("postgres://unidesk@db/unidesk", Some("a/b?c&d%ü")),
            "postgres://unidesk@db/unidesk?password=a%2Fb%3Fc%26d%25%C3%BC"
        );
        assert_eq!(
            url("postgres:///db?host=/run/pg&user=unidesk", Some("x")),
            "postgres:///db?host=/run/pg&user=unidesk&password=x"
        );
    }
}
