//! `unidesk migrate`: brings the database to this version.

use super::server::Database;
use std::process::ExitCode;
use store::{DatabaseConfig, Restored, Store};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub database: Database,
    /// Also write the first administrator's key to this file, unless one was made before
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<std::path::PathBuf>,
    /// The database was restored from a backup: say so once, before any service is started on it
    #[arg(long)]
    pub restored: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    service_kit::telemetry::init("warn");
    let config = DatabaseConfig { url: args.database.database_url.clone(), max_connections: 2, shared: false };
    let store = Store::connect(&config).await?;
    let (before, known) = store.migration_state().await?;
    store.migrate().await?;
    if let Some(path) = args.admin_token_file
        && !path.exists()
    {
        let token = node_registry::create_admin_key(&store, "admin").await?;
        crate::standalone::write_file(&path, &format!("{token}\n"), 0o600)?;
    }
    store.close().await;
    if args.restored {
        match store::declare_restored(&args.database.database_url).await? {
            Restored::Epoch(epoch) => {
                eprintln!(
                    "restored: this is epoch {epoch}. Nothing is placed before the nodes are back, and what they ran on goes on"
                );
            }
            Restored::InUse(connections) => anyhow::bail!(
                "services are connected to this database ({connections} connections). Stop every unidesk server process, then say --restored again"
            ),
        }
    }
    eprintln!("the database is at version {known}{}", if before == known { ", as before" } else { "" });
    Ok(ExitCode::SUCCESS)
}
