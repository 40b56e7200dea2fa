//! The first administrator's key: made at the first start, kept in a file for whoever owns its directory.

use super::write_file;
use anyhow::Context as _;
use std::path::Path;
use store::Store;

/// The key of an earlier start, or a new one.
pub(crate) async fn token(store: &Store, path: &Path) -> anyhow::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(token) if node_registry::is_valid_api_key(store, token.trim()).await? => Ok(token.trim().to_owned()),
        Ok(_) => create(store, path).await,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(store, path).await,
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

async fn create(store: &Store, path: &Path) -> anyhow::Result<String> {
    let token =
        node_registry::create_admin_key(store, "admin").await.context("making the first administrator's key")?;
    write_file(path, &format!("{token}\n"), 0o600)?;
    Ok(token)
}
