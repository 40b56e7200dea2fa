//! `unidesk migrate`: brings the database to this version.

use super::server::Database;
use std::process::ExitCode;
use store::{DatabaseConfig, Store};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub database: Database,
    /// Also write the first administrator's key to this file, unless one was made before
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<std::path::PathBuf>,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    service_kit::telemetry::init("warn");
    let config = DatabaseConfig { url: args.database.database_url, max_connections: 2, shared: false };
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
    eprintln!("the database is at version {known}{}", if before == known { ", as before" } else { "" });
    Ok(ExitCode::SUCCESS)
}
