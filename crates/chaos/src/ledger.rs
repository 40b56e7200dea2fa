//! What tasks wrote down themselves, where no fault reaches: process tasks in files of the machine, container tasks over the bridge to a
//! listener of the run.

use crate::docker::bridge_address;
use anyhow::Context as _;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    task::JoinSet,
};

/// One line of a task, as it stands in the ledger and in its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it was written, in nanoseconds of the machine's clock.
    pub at_ns: u64,
    pub task: String,
    pub attempt: u32,
    pub fence: i64,
    pub step: u32,
    /// Drawn anew by each start: two in one attempt mean that it was started twice.
    pub run: String,
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [at, task, attempt, fence, step, run] = words[..] else { return None };
        Some(Self {
            at_ns: at.parse().ok()?,
            task: task.to_owned(),
            attempt: attempt.parse().ok()?,
            fence: fence.parse().ok()?,
            step: step.parse().ok()?,
            run: run.to_owned(),
        })
    }

    /// As the log has it.
    pub fn text(&self) -> String {
        format!("{} {} {} {} {}\n", self.task, self.attempt, self.fence, self.step, self.run)
    }
}

/// The ledgers of one scenario.
pub struct Ledger {
    dir: PathBuf,
    address: String,
    port: u16,
    _listener: JoinSet<()>,
}

impl Ledger {
    pub async fn open(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        // Every attempt has a user of its own.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o1777))?;
        let address = bridge_address()?;
        let listener = TcpListener::bind((address.as_str(), 0)).await.context("listening on Docker's bridge")?;
        let port = listener.local_addr()?.port();
        let file = dir.join("containers");
        let mut listening = JoinSet::new();
        listening.spawn(async move { listen(listener, &file).await });
        Ok(Self { dir: dir.to_owned(), address, port, _listener: listening })
    }

    /// A script that does `steps` steps, one every `pause`, each written to the ledger and then said, and ends with `code`.
    pub fn script(&self, is_container: bool, steps: u32, pause: Duration, code: i32) -> String {
        let write = if is_container {
            // Repeated until it was taken. A repeated line counts once.
            format!("until echo \"0 $l\" | nc -w 2 {} {}; do sleep 0.1; done", self.address, self.port)
        } else {
            format!("echo \"$(date +%s%N) $l\" >> {}/$UNIDESK_TASK_ID.$UNIDESK_ATTEMPT", self.dir.display())
        };
        format!(
            "read -r r < /proc/sys/kernel/random/uuid; i=0; while [ $i -lt {steps} ]; do i=$((i+1)); \
             l=\"$UNIDESK_TASK_ID $UNIDESK_ATTEMPT $UNIDESK_FENCE $i $r\"; {write}; echo \"$l\"; sleep {}; done; exit {code}",
            pause.as_secs_f64()
        )
    }

    /// Begins anew: what was written so far was judged.
    pub fn clear(&self) -> std::io::Result<()> {
        fs::read_dir(&self.dir)?.flatten().try_for_each(|file| fs::remove_file(file.path()))
    }

    /// All lines of each task, in the order of writing.
    pub fn read(&self) -> anyhow::Result<BTreeMap<String, Vec<Line>>> {
        let mut all: BTreeMap<String, Vec<Line>> = BTreeMap::new();
        for file in fs::read_dir(&self.dir)?.flatten() {
            for line in fs::read_to_string(file.path())?.lines().filter_map(Line::parse) {
                let of_task = all.entry(line.task.clone()).or_default();
                let is_repeated = of_task.iter().any(|known| known.text() == line.text());
                if !is_repeated {
                    of_task.push(line);
                }
            }
        }
        Ok(all)
    }
}

/// Takes a line a connection and hangs up, which is the answer.
async fn listen(listener: TcpListener, file: &Path) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let mut line = String::new();
        let mut stream = BufReader::new(stream);
        let read = tokio::time::timeout(Duration::from_secs(2), stream.read_line(&mut line));
        if read.await.is_ok_and(|read| read.is_ok()) && line.ends_with('\n') {
            let written = fs::OpenOptions::new().create(true).append(true).open(file);
            // The task's image may have no clock that fine, so the time is that of its arrival.
            let at = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
            if let (Ok(mut file), Some((_, rest))) = (written, line.split_once(' ')) {
                let _ = std::io::Write::write_all(&mut file, format!("{at} {rest}").as_bytes());
            }
        }
    }
}
