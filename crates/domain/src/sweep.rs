//! Which nodes are gone: the decision of one sweep, from one read of the database and from what the sweeps before it saw.
//!
//! Silence is measured on the sweeper's own clock, which runs through suspend and which nobody sets (CLOCK_BOOTTIME). The database
//! says *that* a node was heard: a heartbeat that the last read did not show came after that read, whatever its timestamp claims.
//! So a step of the database's clock moves no deadline, and a heartbeat "in the future" keeps nobody alive. How a heartbeat's age
//! lies between two reads is all that its timestamp is asked.

use crate::{Timestamp, ids::NodeId};
use chrono::TimeDelta;
use std::collections::BTreeMap;

/// Milliseconds of the sweeper's own clock. Only differences count.
pub type BootMs = u64;

/// So long may the platform's own signs of life be missing before silence proves nothing about nodes.
pub const ABSENT_AFTER_MS: u64 = 10_000;
/// Less is told nobody.
const NOTICED_STEP_MS: i64 = 2_000;
/// Less is drift. After more, timestamps say nothing about ages.
const UNEVEN_MS: i64 = 100;
/// Fewer silent nodes than this may well have died of different causes.
const LEAST_OF_A_WAVE: usize = 3;

/// How long is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A node is offline when it was silent for so long.
    pub offline_after_ms: u64,
    /// The platform, or this sweeper, was away when nothing was seen of it for so long.
    pub absent_after_ms: u64,
}

impl Limits {
    pub fn offline_after_ms(offline_after_ms: u64) -> Self {
        Self { offline_after_ms, absent_after_ms: ABSENT_AFTER_MS }
    }
}

/// The one row that every api-gateway renews.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Since when some api-gateway renewed it without a gap.
    pub since: Timestamp,
    pub renewed_at: Timestamp,
}

/// What one read showed, and between which moments of the sweeper's clock it was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    /// Of the sweeper's leadership. Whoever led in between has decided in between, and may have seen a step already.
    pub epoch: i64,
    pub asked_at: BootMs,
    pub answered_at: BootMs,
    /// The database's clock.
    pub now: Timestamp,
    /// The time that sweeps have measured until now, all together.
    pub seen_ms: u64,
    /// When what was written last was read, by the database's clock.
    pub read_at: Option<Timestamp>,
    /// None: no api-gateway has ever been up.
    pub platform: Option<Platform>,
    /// Nodes that are not offline, with their last heartbeat.
    pub nodes: BTreeMap<NodeId, Timestamp>,
    /// Nodes that are given more time than others: their exclusive work was leased when the limit was longer, and lives on for that.
    pub longer: BTreeMap<NodeId, u64>,
}

/// What a sweep leaves for the next one. It counts only when what the sweep decided was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    last: Option<Read>,
    /// Silence from before is not counted.
    counts_from: BootMs,
    platform: Option<KnownPlatform>,
    heard: BTreeMap<NodeId, Heard>,
    wave: Option<Wave>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Read {
    epoch: i64,
    asked_at: BootMs,
    answered_at: BootMs,
    now: Timestamp,
    /// As of `asked_at`.
    seen_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct KnownPlatform {
    row: Platform,
    renewed_at: BootMs,
    /// Seen to be renewed. Until then its timestamp may be by any clock.
    is_proven: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Heard {
    beat: Timestamp,
    at: BootMs,
}

/// Nodes that fell silent together, and are given one more period.
#[derive(Clone, Debug, PartialEq)]
struct Wave {
    silent: BTreeMap<NodeId, Timestamp>,
    of: usize,
    until: BootMs,
}

/// What is to be written and said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// The time that sweeps have measured, with what has passed since the last one. Between two of these never more time lies than has
    /// passed in truth, whoever set whatever clock: a sweeper counts from its own last look, and who is new counts nothing.
    pub seen_ms: u64,
    /// Offline from now on, unless another heartbeat than this one has arrived meanwhile.
    pub offline: Vec<(NodeId, Timestamp)>,
    pub alarm: Option<Alarm>,
    /// The alarm is not what the last sweep left.
    pub alarm_changed: bool,
    pub step: Option<Step>,
    /// No api-gateway is alive: nothing is concluded.
    pub platform_is_away: bool,
    /// Nodes that were silent for long enough, but not while the platform was there all the time.
    pub spared: usize,
}

/// So many nodes fell silent at once that the cause may be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    pub silent: usize,
    /// Nodes that were not offline then, the silent ones among them.
    pub of: usize,
    /// Nothing is called offline before, by the database's clock.
    pub until: Timestamp,
}

/// The database's clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When it was last read before, by the old clock. Names the step: the same one, found again, has the same.
    pub since: Timestamp,
    /// Forward is positive. To be added to every deadline that was made by the old clock.
    pub by_ms: i64,
}

/// Decides. Returns what to write, and what the next sweep must be given once it is written.
pub fn sweep(memory: &Memory, sight: &Sight, limits: &Limits) -> (Findings, Memory) {
    let fresh = Memory::default();
    let memory = if memory.is_followed_by(sight.epoch) { memory } else { &fresh };
    let (platform, came_back_at) = memory.look_at_platform(sight, limits);
    let platform_is_away =
        platform.is_none_or(|platform| sight.answered_at - platform.renewed_at > limits.absent_after_ms);
    let was_away =
        memory.last.is_none_or(|last| sight.asked_at.saturating_sub(last.answered_at) > limits.absent_after_ms);
    let starts_anew = platform_is_away || was_away || platform.is_none_or(|platform| !platform.is_proven);
    let counts_from =
        if starts_anew { sight.answered_at } else { memory.counts_from.max(came_back_at.unwrap_or_default()) };
    let heard = memory.listen(sight);
    let silent_ms = |node: &Heard| sight.asked_at.saturating_sub(node.at.max(counts_from));
    let limit_ms = |id: &NodeId| sight.longer.get(id).copied().unwrap_or_default().max(limits.offline_after_ms);
    let is_due = |id: &NodeId, node: &Heard| silent_ms(node) >= limit_ms(id);
    let spared = heard
        .iter()
        .filter(|(id, node)| sight.asked_at.saturating_sub(node.at) >= limit_ms(id) && !is_due(id, node))
        .count();

    let mut offline = BTreeMap::new();
    let mut wave = memory.wave.clone().filter(|wave| {
        let is_silent = |(node, beat): (&NodeId, &Timestamp)| sight.nodes.get(node) == Some(beat);
        !starts_anew && came_back_at.is_none() && wave.silent.iter().any(is_silent)
    });
    if let Some(over) = wave.take_if(|wave| wave.until <= sight.asked_at) {
        let is_of_it = |id: &NodeId, node: &Heard| over.silent.get(id) == Some(&node.beat);
        offline.extend(heard.iter().filter(|(id, node)| is_of_it(id, node) && is_due(id, node)).map(of_node));
    }
    if wave.is_none() {
        let rest = || heard.iter().filter(|(id, _)| !offline.contains_key(*id));
        // Heartbeats come out of step: who fell silent with the first that is due is due a little later.
        let silent: BTreeMap<NodeId, Timestamp> =
            rest().filter(|(_, node)| silent_ms(node) * 2 >= limits.offline_after_ms).map(of_node).collect();
        let due: Vec<(NodeId, Timestamp)> = rest().filter(|(id, node)| is_due(id, node)).map(of_node).collect();
        let of = heard.len() - offline.len();
        if !due.is_empty() && silent.len() >= LEAST_OF_A_WAVE && silent.len() * 2 >= of {
            wave = Some(Wave { silent, of, until: sight.asked_at + limits.offline_after_ms });
        } else {
            offline.extend(due);
        }
    }

    let since = |last: Read| last.seen_ms + sight.asked_at.saturating_sub(last.asked_at);
    let seen_ms = memory.last.map_or(0, since).max(sight.seen_ms);
    let step = match memory.last {
        Some(last) => find_step(&last, sight),
        None => sight.read_at.and_then(|read_at| find_step_back(read_at, sight)),
    };
    let findings = Findings {
        seen_ms,
        offline: offline.into_iter().collect(),
        alarm: wave.as_ref().map(|wave| wave.to_alarm(sight)),
        // A new leader does not know what its predecessor left, and a step moves the time that is told.
        alarm_changed: wave != memory.wave || memory.last.is_none() || wave.is_some() && step.is_some(),
        step,
        platform_is_away,
        spared,
    };
    let last =
        Read { epoch: sight.epoch, asked_at: sight.asked_at, answered_at: sight.answered_at, now: sight.now, seen_ms };
    (findings, Memory { last: Some(last), counts_from, platform, heard, wave })
}

fn of_node((id, node): (&NodeId, &Heard)) -> (NodeId, Timestamp) {
    (*id, node.beat)
}

impl Memory {
    /// A leader that was not renewed in time takes over from itself; more than that, and another one has led.
    fn is_followed_by(&self, epoch: i64) -> bool {
        self.last.is_none_or(|last| epoch == last.epoch || epoch == last.epoch + 1)
    }

    /// When the platform was last there, at the earliest; and when it came back, at the latest, if it was away since the last read.
    fn look_at_platform(&self, sight: &Sight, limits: &Limits) -> (Option<KnownPlatform>, Option<BootMs>) {
        let Some(row) = sight.platform else { return (None, None) };
        let before = self.platform;
        let is_renewed = before.is_some_and(|before| before.row.renewed_at != row.renewed_at);
        let renewed_at = match before {
            Some(before) if !is_renewed => before.renewed_at,
            _ => {
                let earliest = sight.asked_at.saturating_sub(age_ms(sight, row.renewed_at));
                match self.last {
                    Some(last) if is_uneven(&last, sight, UNEVEN_MS) => last.asked_at,
                    Some(last) => earliest.max(last.asked_at),
                    None => earliest,
                }
            }
        };
        // A step of the clock makes the row begin anew too. How long nobody renewed it is measured here.
        let came_back_at = before
            .filter(|before| before.row.since != row.since)
            .map(|before| (before, self.heard_at(sight, row.since)))
            .filter(|(before, back)| back.saturating_sub(before.renewed_at) > limits.absent_after_ms)
            .map(|(_, back)| back)
            // Set back meanwhile, the clock hides the gap from the row. All that is known then is that it may have been one, and that it
            // is over by now.
            .or_else(|| {
                let (last, before) = self.last.zip(before)?;
                let seen_until = if is_uneven(&last, sight, UNEVEN_MS) { sight.answered_at } else { last.answered_at };
                let may_be_one =
                    !before.is_proven || seen_until.saturating_sub(before.renewed_at) > limits.absent_after_ms;
                (is_renewed && may_be_one).then_some(sight.answered_at)
            });
        let is_proven = is_renewed || before.is_some_and(|before| before.is_proven);
        (Some(KnownPlatform { row, renewed_at, is_proven }), came_back_at)
    }

    /// When each node was last heard.
    fn listen(&self, sight: &Sight) -> BTreeMap<NodeId, Heard> {
        let heard = |(id, beat): (&NodeId, &Timestamp)| match self.heard.get(id) {
            Some(known) if known.beat == *beat => (*id, *known),
            _ => (*id, Heard { beat: *beat, at: self.heard_at(sight, *beat) }),
        };
        sight.nodes.iter().map(heard).collect()
    }

    /// At the latest when something happened that is seen for the first time. A timestamp from before the last read, which did not
    /// show it, is late or by another clock, as is any when the clock was set: then all that is known is that it happened by now.
    fn heard_at(&self, sight: &Sight, stamped: Timestamp) -> BootMs {
        let at = sight.answered_at.saturating_sub(age_ms(sight, stamped));
        match self.last {
            Some(last) if at < last.asked_at || is_uneven(&last, sight, UNEVEN_MS) => sight.answered_at,
            _ => at,
        }
    }
}

impl Wave {
    fn to_alarm(&self, sight: &Sight) -> Alarm {
        let left_ms = self.until.saturating_sub(sight.answered_at);
        Alarm {
            silent: self.silent.len(),
            of: self.of,
            until: sight.now + TimeDelta::milliseconds(left_ms.cast_signed()),
        }
    }
}

/// By the database's clock; what lies in the future is of now.
fn age_ms(sight: &Sight, stamped: Timestamp) -> u64 {
    (sight.now - stamped).num_milliseconds().max(0).cast_unsigned()
}

/// What the database's clock did beyond what time itself did. A read that took long is no step: its moment is known as an interval.
fn find_step(last: &Read, sight: &Sight) -> Option<Step> {
    // The largest that it may have been: a deadline is moved too far rather than too little.
    let by_ms = went_ms(last, sight) - least_ms(last, sight);
    is_uneven(last, sight, NOTICED_STEP_MS).then_some(Step { since: last.now, by_ms })
}

/// A step that a predecessor has not written, as far as it can be known: what has passed since is missing in it.
fn find_step_back(read_at: Timestamp, sight: &Sight) -> Option<Step> {
    let by_ms = (sight.now - read_at).num_milliseconds();
    (by_ms < -NOTICED_STEP_MS).then_some(Step { since: read_at, by_ms })
}

/// The database's clock went on by another time than has passed.
fn is_uneven(last: &Read, sight: &Sight, by_more_than_ms: i64) -> bool {
    let went_ms = went_ms(last, sight);
    let most_ms = sight.answered_at.saturating_sub(last.asked_at).cast_signed();
    went_ms < least_ms(last, sight) - by_more_than_ms || went_ms > most_ms + by_more_than_ms
}

fn went_ms(last: &Read, sight: &Sight) -> i64 {
    (sight.now - last.now).num_milliseconds()
}

/// The least time that has passed between the moments of two reads.
fn least_ms(last: &Read, sight: &Sight) -> i64 {
    sight.asked_at.saturating_sub(last.answered_at).cast_signed()
}

#[cfg(test)]
mod tests;
