//! Notices silence: reads who was heard when, has `domain::sweep` decide, writes what it decided. One of all replicas does.

use chrono::TimeDelta;
use domain::sweep::{self, Findings, Limits, Memory, Sight};
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use nix::time::{ClockId, clock_gettime};
use service_kit::Pass;
use std::{sync::Arc, time::Duration};
use store::{LeaderRole, Leadership, Store, StoreError};
use tokio::sync::Notify;
use uuid::Uuid;

const BATCH: i64 = 1_000;
const LEADER_CHANGES: &str = "unidesk_leader_changes_total";
const LEADER_CHANGES_ARE: &str =
    "How often this process became the one that places tasks (scheduler) or looks for silent nodes (sweeper)";

pub(crate) struct Sweeper {
    store: Store,
    holder: Uuid,
    leadership: Option<Leadership>,
    /// It stops: a pass that comes after this must not lead again.
    has_resigned: bool,
    /// What this process was told, until that counts for the platform.
    to_set: Option<Duration>,
    /// What counted at the last sweep.
    offline_after: Duration,
    memory: Memory,
    platform_was_away: bool,
    /// Rings when this process begins or ceases to sweep.
    changes: Arc<Notify>,
    is_leader: Gauge,
    leader_changes: Counter,
}

impl Sweeper {
    pub(crate) fn new(store: Store, offline_after: Duration, changes: Arc<Notify>) -> Self {
        describe_gauge!(
            "unidesk_sweeper_is_leader",
            "Whether this process looks for silent nodes: one of all node-registries does"
        );
        describe_counter!(LEADER_CHANGES, LEADER_CHANGES_ARE);
        Self {
            store,
            holder: Uuid::new_v4(),
            leadership: None,
            has_resigned: false,
            to_set: Some(offline_after),
            offline_after,
            memory: Memory::default(),
            platform_was_away: false,
            changes,
            is_leader: gauge!("unidesk_sweeper_is_leader"),
            leader_changes: counter!(LEADER_CHANGES, "role" => "sweeper"),
        }
    }

    pub(crate) async fn pass(&mut self) -> Result<Pass, StoreError> {
        if self.has_resigned {
            return Ok(Pass::Idle);
        }
        let led = self.leads();
        let done = self.lead_and_sweep().await;
        self.tell_who_leads(led);
        done
    }

    pub(crate) fn leads(&self) -> bool {
        self.leadership.is_some()
    }

    fn tell_who_leads(&self, led: bool) {
        let leads = self.leads();
        self.is_leader.set(f64::from(u8::from(leads)));
        if leads && !led {
            self.leader_changes.increment(1);
        }
        if leads != led {
            self.changes.notify_one();
        }
    }

    async fn lead_and_sweep(&mut self) -> Result<Pass, StoreError> {
        self.set_offline_after().await?;
        let known = self.leadership;
        self.leadership = self.store.lead(LeaderRole::Sweeper, self.holder, known).await?;
        let Some(leadership) = self.leadership else { return Ok(Pass::Idle) };
        if known.is_none_or(|known| known.epoch != leadership.epoch) {
            tracing::info!(epoch = leadership.epoch, "sweeps from now on");
        }
        match self.sweep(&leadership).await {
            // Taken over since: no fault, the other one sweeps.
            Err(StoreError::NotLeader) => {
                self.leadership = None;
                Ok(Pass::Idle)
            }
            done => done,
        }
    }

    /// Once, at the start: whoever came last was told last. Those who run on take it over, so that a change may be rolled out.
    async fn set_offline_after(&mut self) -> Result<(), StoreError> {
        if let Some(after) = self.to_set {
            let was = self.store.set_offline_after(after).await?;
            self.to_set = None;
            if was != after {
                tracing::info!(
                    was_ms = millis(was),
                    is_ms = millis(after),
                    "the silence after which a node is offline was set"
                );
            }
        }
        Ok(())
    }

    async fn sweep(&mut self, leadership: &Leadership) -> Result<Pass, StoreError> {
        let asked_at = boot_ms();
        let seen = self.store.liveness().await?;
        let counts = Duration::from_millis(seen.offline_after_ms);
        if counts != self.offline_after {
            tracing::warn!(
                was_ms = millis(self.offline_after),
                is_ms = seen.offline_after_ms,
                "another node-registry has set the silence after which a node is offline; give UNIDESK_OFFLINE_AFTER to all of them alike"
            );
            self.offline_after = counts;
        }
        let limits = Limits::offline_after_ms(seen.offline_after_ms);
        let sight = Sight {
            epoch: leadership.epoch,
            asked_at,
            answered_at: boot_ms(),
            now: seen.now,
            seen_ms: seen.seen_ms,
            read_at: seen.read_at,
            platform: seen.platform,
            nodes: seen.nodes,
            longer: seen.longer,
        };
        let (findings, memory) = sweep::sweep(&self.memory, &sight, &limits);
        let offline = self.store.record_sweep(leadership, sight.now, &findings).await?;
        // Only now: what could not be written is decided again.
        self.memory = memory;
        self.tell(&findings);
        for (node, name) in offline {
            let silent_ms = sight.longer.get(&node).copied().unwrap_or(limits.offline_after_ms);
            tracing::warn!(node.id = %node, node.name = name, silent_ms, "a node is offline");
        }
        let queued = self.store.queue_replaceable(leadership, BATCH).await?;
        Ok(if queued as i64 >= BATCH { Pass::More } else { Pass::Idle })
    }

    fn tell(&mut self, findings: &Findings) {
        if let Some(step) = findings.step {
            let by = TimeDelta::milliseconds(step.by_ms);
            tracing::warn!(step_ms = step.by_ms, %by, "the clock of the database was set; no node is called offline for that");
        }
        if let (true, Some(alarm)) = (findings.alarm_changed, findings.alarm) {
            tracing::warn!(
                silent = alarm.silent,
                of = alarm.of,
                until = %alarm.until,
                "{} of {} nodes fell silent at once; nothing is called offline before {}",
                alarm.silent,
                alarm.of,
                alarm.until.format("%H:%M:%S UTC")
            );
        }
        if findings.platform_is_away != self.platform_was_away {
            self.platform_was_away = findings.platform_is_away;
            if findings.platform_is_away {
                tracing::warn!("no api-gateway is alive: the silence of nodes is not counted");
            } else {
                tracing::info!("an api-gateway is alive: the silence of nodes is counted from now on");
            }
        }
    }

    /// So that a standby need not wait. Failing is fine: it waits, then.
    pub(crate) async fn resign(&mut self) {
        self.has_resigned = true;
        self.is_leader.set(0.0);
        if let Some(leadership) = self.leadership.take()
            && let Err(error) = self.store.resign(&leadership).await
        {
            tracing::debug!(%error, "the sweep was not handed over");
        }
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// A clock that runs through suspend and that nobody sets.
fn boot_ms() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has CLOCK_BOOTTIME since 2.6.39");
    time.tv_sec().cast_unsigned() * 1_000 + time.tv_nsec().cast_unsigned() / 1_000_000
}
