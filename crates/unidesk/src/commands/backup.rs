//! `unidesk backup`: what is there, one more, one looked through, and the way back.

use crate::{
    commands::{DONE, server::Database},
    context::Context,
    exit,
    failure::Failure,
    output::local_now,
    paths::Places,
    render::{self, View},
    standalone,
};
use anyhow::Context as _;
use backup::{Directory, Kind, Source, restore};
use chrono::{DateTime, NaiveDateTime, Utc};
use local_postgres::{Postgres, Programs};
use std::{path::PathBuf, process::ExitCode};

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
`unidesk up` and `unidesk server backup` make backups by themselves, every day, and restore each one once to look through it.

Examples:
  unidesk backup list
  unidesk backup now
  unidesk backup verify latest
  unidesk backup restore latest --data-dir /var/lib/unidesk
  unidesk backup restore latest --until 2026-11-23T09:30:00Z
  unidesk backup restore latest --into-database-url postgres://unidesk@db/unidesk")]
pub struct Args {
    /// Where backups are kept; backups in the data directory of `up` by default
    #[arg(long, env = "UNIDESK_BACKUP_DIR", global = true, value_name = "DIR")]
    backup_dir: Option<PathBuf>,
    /// The data directory of `unidesk up`; $XDG_DATA_HOME/unidesk by default, as root /var/lib/unidesk
    #[arg(long, env = "UNIDESK_DATA_DIR", global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The backups that are there, the newest first; needs no server
    List,
    /// Make one now, beside whatever runs
    Now {
        /// dump: all rows, small; base: the server's files, from which every later moment can be reached
        #[arg(long, value_enum, default_value_t = KindName::Dump)]
        kind: KindName,
        /// The database; that of a running `unidesk up` by default
        #[arg(long, env = "UNIDESK_DATABASE_URL", hide_env_values = true, value_name = "URL")]
        database_url: Option<String>,
        /// The password, where that address has none
        #[arg(long, env = "UNIDESK_DATABASE_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
        database_password: Option<String>,
    },
    /// Restore one into a server that lives for a moment, and audit it there
    Verify {
        /// Name as `list` shows it, or latest
        #[arg(default_value = "latest")]
        name: String,
        /// Where it is restored, with room for the whole database; in the directory of backups by default
        #[arg(long, env = "UNIDESK_BACKUP_SCRATCH", value_name = "DIR")]
        scratch: Option<PathBuf>,
    },
    /// Put one in the place of what is lost; nothing is overwritten
    Restore {
        /// Name as `list` shows it, or latest
        name: String,
        /// The moment to come back to, as 2026-11-23T09:30:00Z; the newest that there is by default
        #[arg(long, value_parser = parse_time, value_name = "TIME")]
        until: Option<DateTime<Utc>>,
        /// A dump, into this empty database, instead of the data directory of `up`
        #[arg(long, hide_env_values = true, conflicts_with_all = ["until", "into_directory"], value_name = "URL")]
        into_database_url: Option<String>,
        /// A base backup, as the data directory of a PostgreSQL of one's own
        #[arg(long, value_name = "PGDATA")]
        into_directory: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum KindName {
    Dump,
    Base,
}

fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let with_zone = DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).ok();
    let in_utc = || {
        ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"].iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
    };
    with_zone
        .or_else(|| in_utc().map(|time| time.and_utc()))
        .ok_or_else(|| "a moment in UTC, as 2026-11-23T09:30:00Z".into())
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    act(args, context).await.map_err(super::of_service).flatten()
}

/// The outer error is of backups, the inner one of what is printed.
async fn act(args: Args, context: &Context) -> anyhow::Result<Result<ExitCode, Failure>> {
    service_kit::telemetry::init("warn");
    let data_dir = std::path::absolute(args.data_dir.unwrap_or_else(|| Places::from_env().data_dir()))?;
    let root = args.backup_dir.map_or_else(|| Ok(data_dir.join("backups")), std::path::absolute)?;
    match args.command {
        Command::List => {
            let directory = Directory::open(&root)?;
            let (all, wal) = (directory.list()?, backup::wal_status(&directory));
            Ok(list(&all, wal.as_ref(), context))
        }
        Command::Now { kind, database_url, database_password } => {
            let url = match database_url {
                Some(database_url) => Database { database_url, database_password, database_connections: 1 }.url(),
                None => Postgres::url_below(&data_dir.join("postgres")),
            };
            let programs = Programs::find()?;
            let source = Source::connect(programs.clone(), &url).await.context(
                "the database does not answer; start `unidesk up`, or name the database in UNIDESK_DATABASE_URL",
            )?;
            let directory = Directory::create(&root, &programs)?;
            let kind = match kind {
                KindName::Dump => Kind::Dump,
                KindName::Base => Kind::Base,
            };
            let lock = directory.lock()?;
            let made = backup::make_beside_service(&source, &directory, kind, &lock).await?;
            source.close().await;
            Ok(one(&made, context))
        }
        Command::Verify { name, scratch } => {
            let directory = Directory::open(&root)?;
            let chosen = directory.find(&name, |_| true)?;
            let lock = directory.lock()?;
            let scratch = scratch.unwrap_or_else(|| directory.root().join("scratch"));
            let verified = backup::verify(&Programs::find()?, &directory, &chosen, &scratch, &lock).await?;
            let shown = one(&directory.find(&chosen.name, |_| true)?, context);
            let is_clean = verified.broken.is_empty();
            verified.broken.iter().for_each(|broken| context.out.line(broken));
            Ok(shown.map(|code| if is_clean { code } else { exit::FAULT.into() }))
        }
        Command::Restore { name, until, into_database_url, into_directory } => {
            let directory = Directory::open(&root)?;
            let programs = Programs::find()?;
            let kind = match (&into_database_url, &into_directory) {
                (Some(_), _) => Some(Kind::Dump),
                (_, Some(_)) => Some(Kind::Base),
                _ => None,
            };
            let chosen = restore::choose(&directory, &name, until, kind)?;
            let (back, next) = if let Some(url) = into_database_url {
                let back = restore::into_database(&programs, &chosen, &url).await?;
                (back, "Start the services on this database.".to_owned())
            } else if let Some(target) = into_directory {
                let target = std::path::absolute(target)?;
                let back = restore::into_directory(&programs, &directory, &chosen, until, &target).await?;
                (back, format!("Start PostgreSQL on {}, then the services.", target.display()))
            } else {
                standalone::make_data_dir(&data_dir)?;
                let _held = standalone::lock(&data_dir)?;
                let back = restore::platform(&programs, &directory, &chosen, until, &data_dir.join("postgres")).await?;
                (back, format!("Start it: unidesk up --data-dir {}", data_dir.display()))
            };
            Ok(tell(&chosen, &back, &next, context))
        }
    }
}

fn list(all: &[backup::Backup], wal: Option<&backup::WalStatus>, context: &Context) -> Result<ExitCode, Failure> {
    if context.out.is_json() {
        context.out.json(&serde_json::json!({ "backups": all, "wal": wal }))?;
        return Ok(DONE);
    }
    let view = View { style: context.out.style, width: context.out.width(), now: local_now() };
    if !context.out.stdout_is_terminal {
        context.out.data(&render::backup::for_programs(all, &view))?;
    } else {
        context.out.data(&render::backup::for_people(all, &view))?;
        context.out.hint(&render::backup::footer(all.len(), wal, view.now.to_utc()));
    }
    Ok(DONE)
}

/// What is back, what is lost, and what to do next.
fn tell(chosen: &backup::Backup, back: &restore::Back, next: &str, context: &Context) -> Result<ExitCode, Failure> {
    if context.out.is_json() {
        let contents = &back.contents;
        context.out.json(&serde_json::json!({
            "name": chosen.name, "tasks": contents.tasks, "last_event_at": contents.last_event_at, "epoch": contents.epoch,
            "aside": back.aside,
        }))?;
    } else {
        context.out.data(&render::backup::restored(&chosen.name, back, next))?;
    }
    Ok(DONE)
}

fn one(backup: &backup::Backup, context: &Context) -> Result<ExitCode, Failure> {
    if context.out.is_json() {
        context.out.json(backup)?;
    } else {
        context.out.data(&format!("{}\n", backup.name))?;
    }
    Ok(DONE)
}
