//! The shell around [`Agent`]: carries its actions out with real executors, a real disk and a real session, and feeds back what
//! came of them. One task owns the agent; everything else talks to it through [`Handle`].

mod attempts_dir;
mod jobs;
mod journal;
mod turn;

pub use attempts_dir::AttemptsDir;
pub(crate) use jobs::conditions;

use crate::{
    agent::{Agent, Event, Millis},
    artifacts::Artifacts,
    executor::Registry,
    log::{AttemptLog, Room, SpoolLimits},
};
use domain::{
    ids::{AttemptId, InstanceId},
    node::Condition,
};
use jobs::Jobs;
use protocol::{FromNode, Inventory, LogOffset, Stream};
use service_kit::Service;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use turn::Turn;

/// Events that are taken together: what they change is one write to disk.
const MOST_AT_ONCE: usize = 256;

/// With so many attempts at once there is always something to write down,
const MANY: usize = 8;
/// and what happens within so long of the last write becomes one write. A write and its sync cost as much as the rest of a short task's step.
const GATHER_FOR: Duration = Duration::from_millis(2);

/// Milliseconds since the machine booted, also through suspend: timeouts must hold on a laptop that slept.
pub fn boot_millis() -> Millis {
    let now =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("Linux has CLOCK_BOOTTIME since 2.6.39");
    now.tv_sec() as u64 * 1_000 + now.tv_nsec() as u64 / 1_000_000
}

/// Logs by attempt, shared with the connection, which sends them.
#[derive(Clone, Default)]
pub struct Logs {
    logs: Arc<Mutex<BTreeMap<AttemptId, AttemptLog>>>,
    pub appended: Arc<Notify>,
    room: Arc<Room>,
}

impl Logs {
    fn new(limits: SpoolLimits) -> Self {
        Self { room: Arc::new(Room::new(limits)), ..Self::default() }
    }
    pub fn all(&self) -> Vec<(AttemptId, AttemptLog)> {
        self.lock().iter().map(|(id, log)| (*id, log.clone())).collect()
    }
    pub fn get(&self, attempt: AttemptId) -> Option<AttemptLog> {
        self.lock().get(&attempt).cloned()
    }
    fn insert(&self, attempt: AttemptId, log: AttemptLog) {
        self.lock().insert(attempt, log);
        self.appended.notify_one();
    }
    fn remove(&self, attempt: AttemptId) {
        self.lock().remove(&attempt);
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<AttemptId, AttemptLog>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the runtime hears.
enum Input {
    Agent(Event),
    /// A session is open: everything that is not acknowledged goes out again through this. `stored`: so many bytes of its log the
    /// server has.
    SessionOpened {
        outgoing: mpsc::UnboundedSender<FromNode>,
        stored: BTreeMap<AttemptId, u64>,
    },
    SessionClosed,
    Inventory(oneshot::Sender<Inventory>),
}

/// Talks to the runtime. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inputs: mpsc::UnboundedSender<Input>,
    pub logs: Logs,
    /// Attempts that hold resources here.
    pub live: watch::Receiver<usize>,
    /// Attempts whose process may be alive.
    running: watch::Receiver<usize>,
    attempts: AttemptsDir,
}

impl Handle {
    /// What keeps assignments off the agent's own disk since one was refused; None as soon as it takes one again.
    pub async fn disk_condition(&self) -> Option<Condition> {
        let attempts = self.attempts.clone();
        let takes = tokio::task::spawn_blocking(move || attempts.takes_work()).await;
        (!takes.unwrap_or(true)).then_some(Condition::DiskFull)
    }
    pub fn tell(&self, event: Event) {
        // The runtime ends with the process only.
        let _ = self.inputs.send(Input::Agent(event));
    }
    /// Everything that is not acknowledged goes out through `outgoing`. `log_offsets`: which bytes the server has, as its welcome says.
    pub fn session_opened(&self, outgoing: mpsc::UnboundedSender<FromNode>, log_offsets: &[LogOffset]) {
        let mut stored: BTreeMap<AttemptId, u64> = BTreeMap::new();
        // At once: whoever sends logs begins there.
        for offset in log_offsets {
            *stored.entry(offset.attempt).or_default() += offset.next_offset;
            if let Some(log) = self.logs.get(offset.attempt) {
                log.resume(offset.stream, offset.next_offset);
            }
        }
        self.logs.room.set_connected(true);
        let _ = self.inputs.send(Input::SessionOpened { outgoing, stored });
    }
    pub fn session_closed(&self) {
        self.logs.room.set_connected(false);
        let _ = self.inputs.send(Input::SessionClosed);
    }
    /// All attempts, after what was restored has been looked up.
    pub async fn inventory(&self) -> Inventory {
        let (answer, inventory) = oneshot::channel();
        let _ = self.inputs.send(Input::Inventory(answer));
        inventory.await.unwrap_or_default()
    }
    /// Stops all work: live attempts get their stop signal and at most `grace`. Returns when no process is left and the server knows
    /// it, or at the latest after `grace` and three seconds more.
    pub async fn shut_down(&self, grace: Duration) {
        self.tell(Event::ShutDown { grace_ms: grace.as_millis() as Millis });
        let mut live = self.live.clone();
        let _ = tokio::time::timeout(grace + Duration::from_secs(3), live.wait_for(|live| *live == 0)).await;
    }
    pub fn running(&self) -> usize {
        *self.running.borrow()
    }
}

/// What the runtime is made of.
pub struct Parts {
    pub registry: Registry,
    pub attempts: AttemptsDir,
    pub instance: InstanceId,
    pub node_name: watch::Receiver<String>,
    pub spool: SpoolLimits,
    pub artifacts: Artifacts,
}

/// Starts the runtime: what an earlier agent left is restored first.
pub fn start(service: &Service, parts: Parts) -> std::io::Result<Handle> {
    let (inputs, receiver) = mpsc::unbounded_channel();
    let (live_sender, live) = watch::channel(0);
    let (running_sender, running) = watch::channel(0);
    let logs = Logs::new(parts.spool.clone());
    let attempts = parts.attempts.clone();
    let jobs = Jobs::new(parts, logs.clone(), inputs.clone(), service.clone());
    let mut runtime = Runtime {
        agent: Agent::default(),
        jobs,
        session: None,
        live: live_sender,
        running: running_sender,
        waiting: Vec::new(),
        written_at: None,
    };
    let mut restoring = Turn::default();
    for record in runtime.jobs.restore()? {
        runtime.take(Event::Restored(Box::new(record)), &mut restoring);
    }
    let syncing = logs.clone();
    service.spawn_until_stopped("log sync", async move { sync_logs(syncing).await });
    service.spawn_until_stopped("agent", runtime.run(receiver, restoring));
    Ok(Handle { inputs, logs, live, running, attempts })
}

struct Runtime {
    agent: Agent,
    jobs: Jobs,
    session: Option<mpsc::UnboundedSender<FromNode>>,
    live: watch::Sender<usize>,
    running: watch::Sender<usize>,
    waiting: Vec<oneshot::Sender<Inventory>>,
    written_at: Option<Instant>,
}

impl Runtime {
    async fn run(mut self, mut inputs: mpsc::UnboundedReceiver<Input>, restored: Turn) {
        self.finish(restored).await;
        let mut waiting = Vec::with_capacity(MOST_AT_ONCE);
        loop {
            let deadline = self.agent.next_deadline().map(|at| Duration::from_millis(at.saturating_sub(boot_millis())));
            tokio::select! {
                count = inputs.recv_many(&mut waiting, MOST_AT_ONCE) => if count == 0 { return },
                // tokio's timers stop during suspend: looked at every 10 s, a deadline is late by that at most.
                () = tokio::time::sleep(deadline.unwrap_or(Duration::MAX).min(Duration::from_secs(10))), if deadline.is_some() => waiting.push(Input::Agent(Event::Tick)),
            }
            if let Some(written_at) = self.written_at.filter(|_| self.agent.live() >= MANY) {
                sleep_until(written_at + GATHER_FOR).await;
                while waiting.len() < MOST_AT_ONCE
                    && let Ok(input) = inputs.try_recv()
                {
                    waiting.push(input);
                }
            }
            let mut turn = Turn::default();
            for input in std::mem::take(&mut waiting) {
                match input {
                    Input::Agent(event) => {
                        if turn.must_end_before(&event) {
                            self.finish(std::mem::take(&mut turn)).await;
                        }
                        self.take(event, &mut turn);
                    }
                    Input::SessionOpened { outgoing, stored } => {
                        for (attempt, stored_bytes) in stored {
                            let kept = self.jobs.logs.get(attempt).map(|log| log.totals());
                            self.take(Event::LogResumed { attempt, stored_bytes, kept }, &mut turn);
                        }
                        // What a suspend has ended is stopped before anything is said to the server, and nothing is said that is not
                        // on disk.
                        self.take(Event::Tick, &mut turn);
                        self.finish(std::mem::take(&mut turn)).await;
                        self.open_session(outgoing);
                    }
                    Input::SessionClosed => self.session = None,
                    Input::Inventory(answer) => {
                        self.take(Event::Tick, &mut turn);
                        self.finish(std::mem::take(&mut turn)).await;
                        self.waiting.push(answer);
                    }
                }
            }
            self.finish(turn).await;
            self.answer_inventories();
        }
    }

    fn open_session(&mut self, outgoing: mpsc::UnboundedSender<FromNode>) {
        for (held, report) in self.agent.unacknowledged() {
            let _ = outgoing.send(FromNode::Report { held, report });
        }
        self.session = Some(outgoing);
    }

    /// The inventory is taken only when nothing is being looked up any more: the server concludes from what is absent.
    fn answer_inventories(&mut self) {
        if self.waiting.is_empty() || self.jobs.is_adopting() {
            return;
        }
        let mut inventory = Inventory { executors: self.jobs.completeness(), attempts: self.agent.inventory() };
        for attempt in &mut inventory.attempts {
            if let Some(log) = self.jobs.logs.get(attempt.held.attempt) {
                let offsets = Stream::ALL.map(|stream| (stream.as_str().to_owned(), log.offset(stream)));
                attempt.log_offsets = offsets.into_iter().filter(|(_, offset)| *offset > 0).collect();
            }
        }
        for answer in self.waiting.drain(..) {
            let _ = answer.send(inventory.clone());
        }
    }
}

/// Makes logs that are not acknowledged survive a power loss, once a second.
async fn sync_logs(logs: Logs) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let waiting: Vec<AttemptLog> =
            logs.all().into_iter().map(|(_, log)| log).filter(|log| !log.is_acknowledged()).collect();
        if waiting.is_empty() {
            continue;
        }
        let synced = tokio::task::spawn_blocking(move || waiting.iter().try_for_each(AttemptLog::sync)).await;
        if let Ok(Err(error)) = synced {
            tracing::warn!(%error, "a log could not be synced to disk");
        }
    }
}
