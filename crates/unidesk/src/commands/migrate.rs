//! `unidesk migrate`: brings the database to this version.

use super::server::Database;
use crate::standalone::{admin, local_node};
use std::{path::PathBuf, process::ExitCode};
use store::{DatabaseConfig, Restored, Store};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub database: Database,
    /// Also write an administrator's key to this file, unless it has one that is good
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// Also write the token of a node to this file, unless it has one that is good: for a node beside the services
    #[arg(long, value_name = "FILE")]
    pub node_token_file: Option<PathBuf>,
    /// Name of that node; one of this name whose token is lost is replaced
    #[arg(long, default_value = "server", value_name = "NAME", requires = "node_token_file")]
    pub node_name: String,
    /// The database was restored from a backup: say so once, before any service is started on it
    #[arg(long)]
    pub restored: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    service_kit::telemetry::init("warn");
    let config = DatabaseConfig { url: args.database.url(), max_connections: 2, shared: false };
    let store = Store::connect(&config).await?;
    let (before, known) = store.migration_state().await?;
    store.migrate().await?;
    if let Some(path) = &args.admin_token_file {
        admin::token(&store, path).await?;
    }
    if let Some(path) = &args.node_token_file {
        local_node::token(&store, path, &args.node_name).await?;
    }
    store.close().await;
    if args.restored {
        match store::declare_restored(&args.database.url()).await? {
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
