//! What the service is told.

use chrono::NaiveTime;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Where backups are kept; best on another disk than the database. Of `up`: backups in its data directory
    #[arg(long, env = "UNIDESK_BACKUP_DIR", value_name = "DIR")]
    pub backup_dir: Option<PathBuf>,
    /// When the daily ones are made, in UTC
    #[arg(long, env = "UNIDESK_BACKUP_AT", default_value = "03:00", value_parser = parse_time, value_name = "HH:MM")]
    pub backup_at: NaiveTime,
    /// Where each backup is restored to be verified, with room for the whole database; in the directory of backups by default
    #[arg(long, env = "UNIDESK_BACKUP_SCRATCH", value_name = "DIR")]
    pub backup_scratch: Option<PathBuf>,
}

fn parse_time(text: &str) -> Result<NaiveTime, String> {
    NaiveTime::parse_from_str(text, "%H:%M").map_err(|_| "a time of day in UTC, as 03:00".to_owned())
}

impl Config {
    /// Below the directory of backups there is room for a moment.
    pub(crate) fn scratch(&self, root: &Path) -> PathBuf {
        self.backup_scratch.clone().unwrap_or_else(|| root.join("scratch"))
    }
}
