//! Whose turn it is. Urgent tasks first; of equally urgent ones the project of which the fewest are live, then the oldest. And one of
//! every [`TURNS`] placements goes to whatever has waited longest, once that is long: so nothing waits for ever behind what is more
//! urgent. A share rather than a raise: were old tasks more urgent, a project with a long queue would come before all others again.

use super::Head;
use crate::{Timestamp, ids::ProjectId};
use chrono::TimeDelta;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::Duration,
};

/// Of so many placements one goes by age alone, if anything has waited for long.
pub const TURNS: u32 = 8;

/// So long before; None: there is no such moment.
pub fn before(moment: Timestamp, waited: Duration) -> Option<Timestamp> {
    moment.checked_sub_signed(TimeDelta::from_std(waited).ok()?)
}

/// What is remembered from plan to plan.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    /// Live tasks of each project, with those that were placed since they were counted.
    live: BTreeMap<ProjectId, u64>,
    /// What was queued up to then has waited for long; None: nothing has.
    old_until: Option<Timestamp>,
    /// Placements since the last that went by age.
    since_old: u32,
}

impl Turns {
    /// So many tasks of these projects are live, and the other projects are forgotten.
    pub fn count_anew(&mut self, live: BTreeMap<ProjectId, u64>) {
        self.live = live;
    }

    pub fn knows(&self, projects: &BTreeSet<ProjectId>) -> bool {
        projects.iter().all(|project| self.live.contains_key(project))
    }

    /// What was queued up to this moment has waited for long. None: age alone counts for nothing.
    pub fn old_until(&mut self, moment: Option<Timestamp>) {
        self.old_until = moment;
    }

    fn of(&self, project: ProjectId) -> u64 {
        self.live.get(&project).copied().unwrap_or(0)
    }

    /// `heads` are in the order of urgency and age.
    pub(super) fn line<'a>(&'a mut self, heads: &'a [Head]) -> Line<'a> {
        let mut order: Vec<u32> = (0..heads.len() as u32).collect();
        // Stable: within a project they stay as they are.
        order.sort_by_key(|at| (Reverse(heads[*at as usize].priority), heads[*at as usize].project));
        let mut old: Vec<u32> = match self.old_until {
            Some(until) => (0..heads.len() as u32).filter(|at| heads[*at as usize].queued_at <= until).collect(),
            None => Vec::new(),
        };
        old.sort_by_key(|at| Reverse((heads[*at as usize].queued_at, heads[*at as usize].task)));
        Line {
            heads,
            turns: self,
            is_done: vec![false; heads.len()],
            order,
            begun: 0,
            waiting: BinaryHeap::new(),
            last: None,
            old,
            is_by_age: false,
        }
    }
}

/// What is left of a project's tasks of one urgency: from the first to the second in the order.
type Rest = (u32, u32);

/// The tasks of one plan, each once.
pub(super) struct Line<'a> {
    heads: &'a [Head],
    turns: &'a mut Turns,
    is_done: Vec<bool>,
    /// By urgency, then by project, then by age.
    order: Vec<u32>,
    /// How much of the order was begun: whole urgencies.
    begun: usize,
    /// The projects of the urgency under way, the next one first.
    waiting: BinaryHeap<Reverse<(u64, u32, Rest)>>,
    /// Whose turn it was: it goes back into the line once it is known whether it has one more.
    last: Option<Rest>,
    /// What has waited for long, the oldest last.
    old: Vec<u32>,
    is_by_age: bool,
}

impl<'a> Line<'a> {
    pub(super) fn next(&mut self) -> Option<&'a Head> {
        if let Some(rest) = self.last.take() {
            self.queue_up(rest);
        }
        self.is_by_age = self.turns.since_old + 1 >= TURNS;
        let at = match self.next_old().filter(|_| self.is_by_age) {
            Some(at) => at,
            None => {
                self.is_by_age = false;
                self.next_in_turn()?
            }
        };
        self.is_done[at as usize] = true;
        Some(&self.heads[at as usize])
    }

    /// The last one was placed.
    pub(super) fn placed(&mut self, head: &Head) {
        *self.turns.live.entry(head.project).or_default() += 1;
        self.turns.since_old = if self.is_by_age { 0 } else { self.turns.since_old.saturating_add(1) };
    }

    /// It stays the next until it is done.
    fn next_old(&mut self) -> Option<u32> {
        while self.old.pop_if(|at| self.is_done[*at as usize]).is_some() {}
        self.old.last().copied()
    }

    fn next_in_turn(&mut self) -> Option<u32> {
        loop {
            let Some(Reverse((live, _, rest))) = self.waiting.pop() else {
                if !self.begin_urgency() {
                    return None;
                }
                continue;
            };
            let at = self.order[rest.0 as usize];
            // By age it may have had a turn meanwhile.
            if self.is_done[at as usize] || live != self.turns.of(self.heads[at as usize].project) {
                self.queue_up(rest);
                continue;
            }
            self.last = Some((rest.0 + 1, rest.1));
            return Some(at);
        }
    }

    /// Puts its first task that is not done into the line.
    fn queue_up(&mut self, (from, to): Rest) {
        let Some(from) = (from..to).find(|at| !self.is_done[self.order[*at as usize] as usize]) else { return };
        let at = self.order[from as usize];
        // Of one urgency, a smaller number is an older task: that is how they came.
        self.waiting.push(Reverse((self.turns.of(self.heads[at as usize].project), at, (from, to))));
    }

    fn begin_urgency(&mut self) -> bool {
        let of = |at: usize| &self.heads[self.order[at] as usize];
        if self.begun == self.order.len() {
            return false;
        }
        let urgency = of(self.begun).priority;
        let is_of_it = |at: &usize| *at < self.order.len() && of(*at).priority == urgency;
        let mut rests: Vec<Rest> = Vec::new();
        let mut from = self.begun;
        while is_of_it(&from) {
            let project = of(from).project;
            let to = (from..).find(|at| !is_of_it(at) || of(*at).project != project).unwrap_or(from + 1);
            rests.push((from as u32, to as u32));
            from = to;
        }
        self.begun = from;
        rests.into_iter().for_each(|rest| self.queue_up(rest));
        true
    }
}
