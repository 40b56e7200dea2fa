//! What must have happened somewhere in a run of many seeds.

use std::collections::BTreeMap;

macro_rules! sometimes {
    ($($name:ident: $words:literal),+ $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Sometimes { $($name),+ }
        impl Sometimes {
            pub const ALL: &[Sometimes] = &[$(Self::$name),+];
            pub fn words(self) -> &'static str {
                match self { $(Self::$name => $words),+ }
            }
        }
    };
}
sometimes! {
    FencedReportRejected: "a fenced report was rejected",
    ReconnectWon: "a returning node won against its replacement",
    ReplacementWon: "a replacement won against the old attempt",
    CommitAppliedAnswerLost: "a commit was applied and its answer lost",
    CommitNotApplied: "a commit was not applied",
    CommitInDoubt: "a commit ended after its caller had given up",
    DuplicateReportAcked: "a duplicate report was acknowledged",
    ConflictAcked: "a different second end was acknowledged and did not count",
    PlanOutOfDate: "a plan was made from what was not true any more, and not committed",
    ProjectsTookTurns: "a task came before an older one, as its project had less",
    OldBeforeUrgent: "a task that had waited for long came before a more urgent one",
    StartedAhead: "what was sent ahead of its room started there",
    GivenBack: "what was sent ahead was given back by its node without having begun",
    FreedByHint: "room was given by a hint, without a look at the whole node",
    StaleLeaderRefused: "a stale leader was refused",
    StaleSessionDropped: "a stale session was dropped",
    OtherInstanceRefused: "a second installation was refused",
    OtherBootRefused: "a machine that was restarted was refused until its former life was silent",
    LateHelloRefused: "a hello that came late was refused",
    SilenceNoticed: "a dead line was noticed by its silence",
    AdoptedRunning: "a running container was adopted after an agent's restart",
    ExitRecovered: "an exit was recovered after the agent was down",
    AdoptionUnknown: "Docker could not be asked about an attempt",
    AdoptionFoundItGone: "an attempt was gone when the agent came back",
    RemovalRetried: "a removal failed and was tried again",
    PlannedStopRequeued: "a planned stop queued its task again",
    CancelPending: "a pending task was cancelled",
    CancelAssigned: "an assigned task was cancelled",
    CancelPreparing: "a preparing task was cancelled",
    CancelRunning: "a running task was cancelled",
    CancelFinishing: "a finishing task was cancelled",
    CancelledOffline: "a task was cancelled while its node was offline",
    InfraRetry: "an infrastructure failure was retried",
    UserFailureRetried: "a user's own failure was retried",
    InfraRetriesExhausted: "the infrastructure retries were used up",
    UserRetriesExhausted: "the user's retries were used up",
    CameBackWithoutIt: "a node came back without its attempt",
    FinishingEndedByItsFacts: "a task whose node was lost ended by its exit facts",
    StoredOutputsEndedIt: "a task whose node was lost ended by its exit facts, as its outputs were stored",
    LostOutputsRanAgain: "a task whose process had ended ran again for outputs that went with its node",
    OutputFenced: "an output of a fenced attempt was refused",
    CheckpointTaken: "a checkpoint of a running task was taken",
    CheckpointCut: "a checkpoint that was being taken was dropped",
    LastCheckpointOfMoved: "what was moved off its node left a last checkpoint",
    PoisonQuarantined: "a task that took two machines down was not tried on a third",
    BlackHoleCordoned: "a node on which everything failed was cordoned by the rule",
    ProbeLiftedCordon: "a probe lifted the rule's cordon",
    DrainMovedWork: "work was moved at the deadline of a drain",
    NodeOffline: "a silent node was marked offline",
    TimedOut: "an attempt was stopped at its timeout",
    QueueTimeout: "a task waited too long",
    KeyReplayed: "an idempotency key was replayed",
    UserRetry: "a person had an ended task run again",
    SpoolFull: "a log outgrew its spool",
    GapSent: "a gap was told",
    AssignmentRefused: "a full disk refused an assignment",
    RestoreAdopted: "what was leased after a backup was taken up again",
    OrphanKept: "what a restore has forgotten ran to its end",
    SelfFenceFired: "exclusive work was ended by its own node",
    ExclusiveReplaced: "an exclusive task was placed again after its node was lost",
    ExclusiveHeldBack: "an exclusive task waited for what might be left of its last attempt",
    ExclusiveWaitOver: "an exclusive task had waited for what a restore or a lost installation may have left, and that was over",
    OfflineAfterSet: "the silence after which a node is offline was set while all was running",
    LongerSilenceGiven: "a node was given the longer silence that its exclusive work was leased for",
    LogOverlapCut: "log bytes came twice and were stored once",
    BreakerTripped: "many nodes fell silent at once and were given one more period",
    ClockStepNoticed: "a step of the database's clock was noticed",
    PlatformAbsenceNotCounted: "a silent node was not called offline, since the platform was away",
    HeartbeatEndedOffline: "a heartbeat ended an offline time",
    HeartbeatKeptWork: "a heartbeat took its node's work off the queue again",
    RevokedWithWork: "a node was revoked that had work",
    RevokedWithEvict: "the work of a revoked node was given up at once",
    RevokedWorkQueued: "the work of a revoked node was queued for another",
    RevokedTurnedAway: "a revoked node came back and was turned away",
    RevokedReportDropped: "a late report of a revoked node changed nothing",
}

/// How often each happened.
#[derive(Clone, Debug, Default)]
pub struct Hits(BTreeMap<Sometimes, u64>);

impl Hits {
    pub(crate) fn add(&mut self, what: Sometimes) {
        *self.0.entry(what).or_default() += 1;
    }
    pub fn merge(&mut self, other: &Hits) {
        for (what, count) in &other.0 {
            *self.0.entry(*what).or_default() += count;
        }
    }
    pub fn of(&self, what: Sometimes) -> u64 {
        self.0.get(&what).copied().unwrap_or(0)
    }
    /// What never happened.
    pub fn missed(&self) -> Vec<Sometimes> {
        Sometimes::ALL.iter().filter(|what| self.of(**what) == 0).copied().collect()
    }
}
