//! What a seed decides before its world begins: the machines, the work, the latencies, and which faults may happen. Each
//! kind of fault is on in half of the seeds, so that rare combinations are not drowned by all of them at once.

use crate::{Ms, dice::Dice};
use domain::{
    black_hole::Rule,
    placement::Short,
    resources::{Capacity, Gpu},
};
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    GatewayCrash,
    /// A frozen process that wakes with sessions and answers of long ago.
    GatewayPause,
    SchedulerCrash,
    SchedulerPause,
    SweeperCrash,
    AgentCrash,
    AgentPause,
    /// The agent is stopped on purpose and started again.
    PlannedStop,
    /// Power is lost: containers, the unsynced tail of logs, and the clock's start.
    HostCrash,
    /// As a crash, and the disk is new.
    DiskLoss,
    /// The machine never comes back.
    NodeGone,
    LineBreak,
    /// The line is dead, and nobody is told.
    HalfOpen,
    /// Nothing arrives for a while, then everything.
    LineStall,
    Partition,
    DockerAway,
    PrepareFails,
    StartFails,
    SlowRemoval,
    /// A process that ignores the request to stop.
    Stubborn,
    /// Applied, but the answer is lost.
    CommitUnknown,
    /// Not applied.
    CommitFails,
    /// The caller lost its connection, and the transaction commits later.
    CommitInDoubt,
    DatabaseAway,
    /// A query now and then takes seconds.
    SlowQueries,
    HintsLost,
    Drain,
    /// Nobody listens for nodes, for minutes.
    AllGatewaysAway,
    /// The database's clock is set, forward or back, by seconds or by an hour.
    DatabaseClockStep,
    /// Most nodes are cut off at once.
    MassSilence,
    /// A session is open, and its heartbeats do not get into the database.
    BeatsLost,
    /// The disk of a node takes nothing new.
    DiskFull,
    /// A backup of the database is taken, and a while later restored.
    Restore,
    /// Every container fails at once, so the node is always free.
    BlackHole,
    /// Some tasks take their machine down.
    Poison,
    /// A laptop is closed: nothing on it runs, and its clock goes on.
    HostSuspend,
    /// A sweeper is started anew, and told another silence after which nodes are offline than the others were.
    OfflineAfterSet,
    /// A person takes a node away for good, half of the time with its work placed elsewhere at once.
    NodeRevoked,
}

impl Fault {
    pub const ALL: [Fault; 38] = [
        Self::GatewayCrash,
        Self::GatewayPause,
        Self::SchedulerCrash,
        Self::SchedulerPause,
        Self::SweeperCrash,
        Self::AgentCrash,
        Self::AgentPause,
        Self::PlannedStop,
        Self::HostCrash,
        Self::DiskLoss,
        Self::NodeGone,
        Self::LineBreak,
        Self::HalfOpen,
        Self::LineStall,
        Self::Partition,
        Self::DockerAway,
        Self::PrepareFails,
        Self::StartFails,
        Self::SlowRemoval,
        Self::Stubborn,
        Self::CommitUnknown,
        Self::CommitFails,
        Self::CommitInDoubt,
        Self::DatabaseAway,
        Self::SlowQueries,
        Self::HintsLost,
        Self::Drain,
        Self::AllGatewaysAway,
        Self::DatabaseClockStep,
        Self::MassSilence,
        Self::BeatsLost,
        Self::DiskFull,
        Self::Restore,
        Self::BlackHole,
        Self::Poison,
        Self::HostSuspend,
        Self::OfflineAfterSet,
        Self::NodeRevoked,
    ];
    /// Kinds that came later draw by themselves, so that older seeds keep their plans.
    const FIRST_KINDS: usize = 27;

    /// Faults that strike at moments; the others colour what happens anyway.
    pub(crate) fn strikes(self) -> bool {
        !matches!(
            self,
            Self::PrepareFails
                | Self::StartFails
                | Self::SlowRemoval
                | Self::Stubborn
                | Self::CommitUnknown
                | Self::CommitFails
                | Self::CommitInDoubt
                | Self::SlowQueries
                | Self::HintsLost
                | Self::Poison
        )
    }

    /// Strikes in ten minutes, at most.
    pub(crate) fn often(self) -> u64 {
        match self {
            Self::NodeGone | Self::DiskLoss | Self::DatabaseAway | Self::AllGatewaysAway | Self::MassSilence => 2,
            Self::NodeRevoked => 1,
            Self::DatabaseClockStep | Self::OfflineAfterSet => 4,
            Self::HostCrash | Self::Drain | Self::PlannedStop | Self::Restore => 6,
            Self::GatewayPause | Self::SchedulerPause | Self::Partition | Self::DockerAway | Self::HostSuspend => 10,
            _ => 20,
        }
    }
}

/// Defects that are known to be defects, to measure whether they are found. None is in the product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    /// The gateway acknowledges reports before they are committed.
    pub ack_before_commit: bool,
    /// A late report of a replaced attempt counts.
    pub fence_ignored: bool,
    /// What an ended attempt still holds is given to the next one.
    pub live_only_holds: bool,
    /// The agent's record never reaches its disk.
    pub record_not_persisted: bool,
    /// Log bytes are counted instead of placed by their offset.
    pub log_by_count: bool,
    /// A woken former leader may commit.
    pub stale_leader_commits: bool,
    /// What a session of long ago says counts.
    pub stale_sessions_count: bool,
    /// A node that comes back with its work does not take it off the queue.
    pub return_leaves_queued: bool,
    /// A new installation gets what the old one never answered for.
    pub new_instance_gets_old_work: bool,
    /// The hello of a connection that was given up counts, however late it is recorded.
    pub late_hello_counts: bool,
    /// A cancel waits for a node that never comes back.
    pub offline_cancels_wait: bool,
    /// A commit believes in the room that its snapshot saw.
    pub commit_trusts_snapshot: bool,
    /// A session sends assignments that the hello has named already.
    pub assigns_known_attempts: bool,
    /// A lost node costs the task one of its user's own retries.
    pub node_loss_charged_to_user: bool,
    /// A task whose exit is committed is run again for the rest of its log.
    pub finishing_runs_again: bool,
    /// The end of an attempt is on disk before the last bytes of its log are.
    pub end_before_log_sync: bool,
    /// Silence counts though no gateway was there to hear.
    pub absence_counts: bool,
    /// A node is offline when its heartbeat's timestamp is old, whatever happened to the clock.
    pub clock_steps_count: bool,
    /// A heartbeat that ends an offline time leaves the node's tasks to be replaced.
    pub heartbeat_leaves_queued: bool,
    /// The lease of exclusive work counts from when a heartbeat's answer was heard, not from when it was sent.
    pub lease_from_answer: bool,
    /// Leases count by a clock that stands still while the machine is suspended.
    pub clock_stops_in_suspend: bool,
    /// An exclusive task is placed while an earlier attempt of it holds its node.
    pub nothing_held_back: bool,
    /// Nothing but the agent ends exclusive work, and a frozen agent does nothing.
    pub agent_alone_fences: bool,
}

/// Sizes and times, now and then absurd ones.
#[derive(Clone, Debug)]
pub struct Knobs {
    pub(crate) heartbeat_ms: Ms,
    pub(crate) silence_ms: Ms,
    pub(crate) offline_s: i64,
    pub(crate) outbox_every_ms: Ms,
    pub(crate) pass_every_ms: Ms,
    pub(crate) reports_per_batch: usize,
    pub(crate) log_piece_bytes: u64,
    pub(crate) log_window_bytes: u64,
    /// Of one attempt's log, while it is not acknowledged.
    pub(crate) spool_bytes: u64,
    pub(crate) net_ms: (Ms, Ms),
    pub(crate) database_ms: (Ms, Ms),
    pub(crate) docker_ms: (Ms, Ms),
    pub(crate) shutdown_grace_ms: Ms,
    pub(crate) black_hole: Rule,
    /// Which tasks are short enough to be sent ahead.
    pub(crate) short: Short,
    /// Every message goes through the encoders of the protocol.
    pub(crate) encodes: bool,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub faults: BTreeSet<Fault>,
    pub planted: Planted,
    pub(crate) gateways: usize,
    pub(crate) schedulers: usize,
    pub(crate) sweepers: usize,
    pub(crate) nodes: Vec<Capacity>,
    pub(crate) tasks: u64,
    pub(crate) chaos_ms: Ms,
    pub(crate) knobs: Knobs,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 1);
        // Those that came later draw by themselves, so that older seeds keep their plans.
        let (first, rest) = Fault::ALL.split_at(Fault::FIRST_KINDS);
        let (second, rest) = rest.split_at(4);
        let (third, fourth) = rest.split_at(2);
        let mut later = Dice::new(seed, 4);
        let mut faults: BTreeSet<Fault> = first.iter().copied().filter(|_| dice.chance(0.5)).collect();
        let each_by_itself = second.iter().chain(fourth).copied();
        faults.extend(each_by_itself.filter(|fault| Dice::new(seed, 300 + *fault as u64).chance(0.5)));
        faults.extend(third.iter().copied().filter(|_| later.chance(0.3)));
        let nodes = (0..dice.between(1, 8)).map(|_| machine(&mut dice)).collect();
        Self {
            seed,
            faults,
            planted: Planted::default(),
            gateways: dice.between(1, 3) as usize,
            schedulers: dice.between(1, 3) as usize,
            sweepers: dice.between(1, 2) as usize,
            nodes,
            tasks: dice.log_uniform(5, 50),
            chaos_ms: dice.between(90, 360) * 1_000,
            knobs: Knobs {
                spool_bytes: if later.chance(0.25) { later.log_uniform(100, 400) } else { 64 << 20 },
                ..knobs(&mut dice, Dice::new(seed, 5))
            },
        }
    }

    pub fn with(mut self, planted: Planted) -> Self {
        self.planted = planted;
        self
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

fn machine(dice: &mut Dice) -> Capacity {
    let gpus = if dice.chance(0.4) { dice.between(1, 4) } else { 0 };
    Capacity {
        cpu_millis: *dice.pick(&[1_000, 2_000, 4_000, 16_000]),
        memory_bytes: dice.between(1, 32) << 30,
        disk_bytes: dice.between(10, 200) << 30,
        gpus: (0..gpus)
            .map(|n| Gpu { id: format!("GPU-{n}"), model: "RTX".into(), memory_bytes: *dice.pick(&[8u64, 24]) << 30 })
            .collect(),
    }
}

fn knobs(dice: &mut Dice, mut later: Dice) -> Knobs {
    // A short silence makes offline nodes frequent; the order heartbeat < silence < offline mostly stays.
    let offline_s = if dice.chance(0.5) { 90 } else { dice.between(8, 40) as i64 };
    let half_ms = offline_s as u64 * 500;
    // Both are settings. Where a session outlives its node's being called offline, a heartbeat brings the node back.
    let silence_ms = if later.chance(0.3) { half_ms * 4 } else { half_ms };
    let absurd = |dice: &mut Dice, usual: u64, low: u64, high: u64| {
        if dice.chance(0.25) { dice.log_uniform(low, high) } else { usual }
    };
    let ceiling = |dice: &mut Dice, low: u64, high: u64| (1, dice.log_uniform(low, high));
    Knobs {
        heartbeat_ms: half_ms / 3,
        silence_ms,
        offline_s,
        outbox_every_ms: absurd(dice, 2_000, 300, 20_000),
        pass_every_ms: absurd(dice, 1_000, 300, 3_000),
        reports_per_batch: absurd(dice, 128, 1, 4) as usize,
        log_piece_bytes: absurd(dice, 64 << 10, 16, 200),
        log_window_bytes: absurd(dice, 64 << 10, 64, 500),
        spool_bytes: 64 << 20,
        net_ms: ceiling(dice, 3, 800),
        database_ms: ceiling(dice, 2, 200),
        docker_ms: ceiling(dice, 20, 3_000),
        shutdown_grace_ms: absurd(dice, 10_000, 200, 10_000),
        encodes: dice.chance(0.15),
        short: Short { within_ms: later.log_uniform(500, 60_000), in_a_row: later.between(1, 3) as u32 },
        black_hole: if dice.chance(0.3) {
            Rule::default()
        } else {
            let first_wait_ms = dice.log_uniform(1_000, 60_000) as i64;
            Rule { failures: 3, tasks: 2, first_wait_ms, ..Rule::default() }
        },
    }
}
