//! A sign of life for whoever looks after the agent's container: the agent never listens, so it writes a file.

use std::{fs, io, path::Path, path::PathBuf, time::Duration};
use tokio::sync::watch;

const FILE: &str = "pulse";
const EVERY: Duration = Duration::from_secs(10);
/// After so long without a word the agent is gone, or stands still.
const DEAD_AFTER: Duration = Duration::from_secs(45);

const CONNECTED: &str = "connected";
const AWAY: &str = "not connected";

/// Writes whether there is a session: at every change, and so often that its age says something.
pub(crate) async fn keep(data_dir: PathBuf, mut connected: watch::Receiver<bool>) {
    loop {
        let word = if *connected.borrow_and_update() { CONNECTED } else { AWAY };
        if let Err(error) = fs::write(data_dir.join(FILE), format!("{word}\n")) {
            // A full disk, most likely, of which the agent tells elsewhere.
            tracing::debug!(%error, "the sign of life can't be written");
        }
        tokio::select! {
            changed = connected.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Whether the agent of this data directory lives and has a session; else why not, for a person.
pub fn look(data_dir: &Path) -> Result<(), String> {
    let file = data_dir.join(FILE);
    let read = fs::read_to_string(&file).and_then(|text| Ok((text, fs::metadata(&file)?.modified()?)));
    let (text, written) = match read {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!("no agent has run on {}", data_dir.display()));
        }
        Err(error) => return Err(format!("reading {}: {error}", file.display())),
    };
    // A clock that was set back makes it look young, and the next word mends that.
    let age = written.elapsed().unwrap_or_default();
    if age > DEAD_AFTER {
        return Err(format!("no sign of life from the agent for {} s", age.as_secs()));
    }
    match text.trim() {
        CONNECTED => Ok(()),
        _ => Err("the agent lives, and is not connected to its server; its log says why".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_is_well_while_it_lives_and_has_a_session() {
        let dir = tempfile::tempdir().expect("a directory");
        let why = look(dir.path()).expect_err("nobody was here");
        assert!(why.starts_with("no agent has run on"), "{why}");

        let (session, connected) = watch::channel(false);
        let keeping = keep(dir.path().to_owned(), connected);
        tokio::pin!(keeping);
        let mut until = async |wanted: bool| loop {
            if look(dir.path()).is_ok() == wanted {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_millis(5), keeping.as_mut()).await;
        };
        session.send_replace(true);
        until(true).await;
        session.send_replace(false);
        until(false).await;
        assert!(look(dir.path()).expect_err("no session").contains("not connected"));

        session.send_replace(true);
        until(true).await;
        let file = fs::File::options().write(true).open(dir.path().join(FILE)).expect("the file");
        let written = file.metadata().and_then(|file| file.modified()).expect("a time");
        file.set_modified(written - Duration::from_secs(100)).expect("an older time");
        let why = look(dir.path()).expect_err("silent");
        assert!(why.starts_with("no sign of life from the agent for 10"), "{why}");
    }
}
