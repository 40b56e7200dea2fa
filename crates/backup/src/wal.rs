//! The log of the server, received all the time: with it a base backup reaches every moment since.
//!
//! A slot makes the server keep what was not received yet. Whoever comes back after so long that the server could keep no more
//! begins anew, with a directory of its own: what is in one directory has no gap.

use crate::{Source, directory::Directory, figures, files};
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    fs,
    time::{Duration, Instant},
};
use store::{Slot, WalProgress};
use tokio::sync::watch;

pub(crate) const SLOT: &str = "unidesk_backup";
const LOOK_EVERY: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_secs(5);
const STATUS: &str = "status.json";

/// How far the received log was behind, the last time that somebody looked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub at: DateTime<Utc>,
    pub behind_s: f64,
}

pub fn status(directory: &Directory) -> Option<Status> {
    serde_json::from_str(&fs::read_to_string(directory.wal().join(STATUS)).ok()?).ok()
}

/// Receives for as long as it is polled. `current`: the directory into which it goes.
pub(crate) async fn receive(source: Source, directory: Directory, current: watch::Sender<Option<String>>) {
    let mut behind = Behind::new(Instant::now());
    let mut told: Option<Instant> = None;
    loop {
        let ended = session(&source, &directory, &current, &mut behind).await;
        let error = ended.err().map_or_else(|| "pg_receivewal ended".to_owned(), |error| format!("{error:#}"));
        // A server that is away must not fill the log.
        if told.is_none_or(|told| told.elapsed() > Duration::from_secs(60)) {
            tracing::warn!(error, "the log of the database is not received; trying again");
            told = Some(Instant::now());
        }
        show(&directory, behind.so_far(Instant::now()));
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn session(
    source: &Source,
    directory: &Directory,
    current: &watch::Sender<Option<String>>,
    behind: &mut Behind,
) -> anyhow::Result<()> {
    let name = prepare(source, directory).await?;
    current.send_if_modified(|known| known.replace(name.clone()) != Some(name.clone()));
    let path = directory.wal().join(&name);
    let run = |arguments: &[&str]| {
        let mut command = source.command("pg_receivewal");
        command.arg("-D").arg(&path).args(["-S", SLOT]).args(arguments);
        source.programs.run(command)
    };
    run(&["--create-slot", "--if-not-exists"]).await.context("making the slot of the backup")?;
    let received = run(&["--no-loop", "--status-interval=2"]);
    tokio::select! {
        ended = received => ended.context("receiving the log").map(drop),
        error = watch_progress(source, directory, behind) => Err(error),
    }
}

/// Where to go on: what the server has kept for us fits only what we have of the same server and timeline.
pub(crate) async fn of_service(source: &Source, directory: &Directory) -> anyhow::Result<Option<String>> {
    let facts = source.facts().await?;
    let slot = source.store.wal_progress(SLOT).await?.slot;
    let is_of_it = |name: &String| name.starts_with(&format!("{}-{}-", facts.system_identifier, facts.timeline));
    Ok(directory.newest_wal().filter(|name| slot == Slot::Kept && is_of_it(name)))
}

async fn prepare(source: &Source, directory: &Directory) -> anyhow::Result<String> {
    if let Some(goes_on) = of_service(source, directory).await? {
        return Ok(goes_on);
    }
    if source.store.wal_progress(SLOT).await?.slot != Slot::Missing {
        tracing::warn!("what the server has kept for us has a gap; its log begins anew, with a new base backup");
        source.store.drop_wal_slot(SLOT).await.context("giving up the slot of before")?;
    }
    let facts = source.facts().await?;
    directory.new_wal(&source.programs, &facts.system_identifier, &facts.timeline, Utc::now())
}

/// Looks until the server says that the slot is of no more use, or does not answer.
async fn watch_progress(source: &Source, directory: &Directory, behind: &mut Behind) -> anyhow::Error {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let progress = match store::in_time(source.store.wal_progress(SLOT)).await {
            Ok(progress) => progress,
            Err(error) => return error.into(),
        };
        show(directory, behind.after(Instant::now(), progress));
        if progress.slot != Slot::Kept {
            return anyhow::anyhow!("the server keeps nothing for us any more");
        }
    }
}

fn show(directory: &Directory, behind: Duration) {
    figures::wal_behind(behind);
    let status = Status { at: Utc::now(), behind_s: behind.as_secs_f64() };
    let written = serde_json::to_string(&status).map_err(anyhow::Error::from);
    if let Err(error) = written.and_then(|text| files::write_whole(&directory.wal().join(STATUS), &text)) {
        tracing::warn!(error = format!("{error:#}"), "the directory of backups takes nothing");
    }
}

/// How long ago everything that was written by then has been received.
struct Behind {
    /// (when, how much was written then), what is not known to be received.
    waiting: VecDeque<(Instant, i64)>,
    whole_at: Instant,
}

impl Behind {
    fn new(now: Instant) -> Self {
        Self { waiting: VecDeque::new(), whole_at: now }
    }
    fn after(&mut self, now: Instant, progress: WalProgress) -> Duration {
        self.waiting.push_back((now, progress.written));
        while let Some((at, written)) = self.waiting.front().copied()
            && progress.received.is_some_and(|received| received >= written)
        {
            self.whole_at = at;
            self.waiting.pop_front();
        }
        // A look a minute is enough of a time that is long over.
        if self.waiting.len() > 1_000 {
            self.waiting.pop_back();
        }
        self.so_far(now)
    }
    fn so_far(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.whole_at)
    }
}

/// Whether a stream was begun into this directory.
pub(crate) fn is_current(current: &watch::Receiver<Option<String>>, name: Option<&str>) -> bool {
    current.borrow().as_deref().is_some_and(|current| Some(current) == name)
}

/// So that a base backup begins with a log that is received already.
pub(crate) async fn begun(mut current: watch::Receiver<Option<String>>) -> Option<String> {
    let begun = tokio::time::timeout(Duration::from_secs(30), current.wait_for(Option::is_some)).await;
    begun.ok()?.ok()?.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_is_how_long_ago_the_received_was_all_there_was() {
        let begin = Instant::now();
        let at = |s| begin + Duration::from_secs(s);
        let mut behind = Behind::new(begin);
        let seen = |written, received| WalProgress { written, received, slot: Slot::Kept };
        for (now, written, received, expected) in [
            (5, 100, Some(100), 0),
            (10, 200, Some(150), 5),
            (15, 300, Some(199), 10),
            // What was written ten seconds ago is here, what came since is not.
            (20, 300, Some(200), 10),
            (25, 300, None, 15),
            (30, 300, Some(300), 0),
        ] {
            assert_eq!(behind.after(at(now), seen(written, received)).as_secs(), expected, "at {now} s");
        }
        assert_eq!(behind.so_far(at(90)).as_secs(), 60);
    }
}
