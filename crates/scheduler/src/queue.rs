//! How far the leader looks into the queue: few tasks of a class while little waits, up to [`MOST`] while all that it sees of it is
//! placed, none while there is no room for it anyway.

use domain::{
    Timestamp,
    placement::{Head, Placement, Watched},
    spec::Needs,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use store::{CLASSES_PER_LOOK, QueueHeads, QueueLook, QueuePlace};

/// Tasks of a class that nothing is known of. With many classes less of each, so that one look stays bounded.
const FIRST: i64 = 32;
/// Tasks of one class in one look: as many as are leased in about [`LEASED_WITHIN`], since what comes meanwhile waits for so long,
/// however urgent it is.
const MOST: i64 = 512;
const LEAST_MOST: i64 = 128;
const LEASED_WITHIN: Duration = Duration::from_millis(20);
/// Tasks of classes that nothing is known of, together.
const TOGETHER: i64 = 4_096;
/// So many of a class placed lately are worth a place to begin at; and of so many classes such places are told.
const MANY: usize = 256;
const PLACES: usize = 64;
/// From one look that begins where the queue does to the next.
const BEGIN_EVERY: Duration = Duration::from_secs(1);
/// Classes whose needs are remembered.
const REMEMBERED: usize = 20_000;

pub(crate) struct Queue {
    /// What each class asks for; it never changes.
    pub(crate) needs: BTreeMap<i64, Arc<Needs>>,
    classes: BTreeMap<i64, Class>,
    /// Where the next look begins, when there are more classes than it visits.
    after_class: i64,
    /// Classes found by the last look.
    found: usize,
    /// When everything was looked at from its beginning.
    began_at: Instant,
    /// Of a round over more classes than one look visits.
    placed_in_round: bool,
    /// Tasks of one class in one look, at present.
    most: i64,
}

#[derive(Default)]
struct Class {
    /// So many next time.
    wanted: i64,
    /// Placed lately: as many index entries lead nowhere.
    placed: usize,
    /// What still waits begins here.
    begin_at: Option<QueuePlace>,
}

impl Queue {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            needs: BTreeMap::new(),
            classes: BTreeMap::new(),
            after_class: i64::MIN,
            found: 0,
            began_at: now,
            placed_in_round: false,
            most: MOST,
        }
    }

    pub(crate) fn look(&mut self, nodes: &mut Watched, settled_restore: Option<Timestamp>, now: Instant) -> QueueLook {
        if self.needs.len() > REMEMBERED {
            self.needs.clear();
            self.classes.clear();
        }
        if now.saturating_duration_since(self.began_at) >= BEGIN_EVERY {
            self.began_at = now;
            self.begin_anew();
            self.classes.values_mut().for_each(|class| class.placed -= class.placed.div_ceil(8));
        }
        let wanted_otherwise = (TOGETHER / (self.found as i64).max(1)).clamp(2, FIRST);
        let mut look =
            QueueLook { after_class: self.after_class, settled_restore, ..QueueLook::of_all(wanted_otherwise) };
        for (id, class) in &self.classes {
            let has_room = self.needs.get(id).is_none_or(|needs| nodes.has_room_for(*id, needs));
            look.wanted.insert(*id, if has_room { class.wanted.min(self.most) } else { 0 });
            if let Some(place) = class.begin_at.filter(|_| class.placed >= MANY && look.begin_at.len() < PLACES) {
                look.begin_at.insert(*id, place);
            }
        }
        look
    }

    /// So many tasks were leased at once in so long.
    pub(crate) fn took(&mut self, tasks: usize, time: Duration) {
        // Few tell nothing: what a commit costs by itself is not theirs.
        if tasks as i64 >= LEAST_MOST / 2 {
            let in_time = LEASED_WITHIN.as_secs_f64() / time.as_secs_f64().max(1e-6) * tasks as f64;
            self.most = ((self.most as f64 * 3.0 + in_time) / 4.0).clamp(LEAST_MOST as f64, MOST as f64) as i64;
        }
    }

    /// Learns from a look and what came of it. True: more may be placed at once.
    pub(crate) fn learn(&mut self, look: &QueueLook, found: &QueueHeads, plan: &[Placement]) -> bool {
        let placed: BTreeSet<_> = plan.iter().map(|placement| placement.task).collect();
        let mut heads: BTreeMap<i64, Vec<&Head>> = BTreeMap::new();
        // What was added for its age says nothing of how much waits at the beginning.
        let at_its_beginning = found.heads.iter().filter(|head| !found.old.contains(&head.task));
        at_its_beginning.for_each(|head| heads.entry(head.class).or_default().push(head));
        let mut more = false;
        for (id, read) in &found.read {
            let asked = look.wanted.get(id).copied().unwrap_or(look.wanted_otherwise);
            if asked == 0 {
                continue;
            }
            // In the order of the plan: urgent first, then as they were queued.
            let heads = heads.remove(id).unwrap_or_default();
            let first_left = heads.iter().find(|head| !placed.contains(&head.task));
            let left = heads.iter().filter(|head| !placed.contains(&head.task)).count();
            let class = self.classes.entry(*id).or_default();
            class.placed += heads.len() - left;
            class.begin_at = first_left.or(heads.last()).map(|head| QueuePlace::from(*head)).or(class.begin_at);
            if *read as i64 >= asked && left == 0 {
                // What must not be placed yet may hide what may: then only a longer look helps.
                more |= !plan.is_empty() || asked < self.most;
                class.wanted = (asked * 4).clamp(FIRST, self.most);
            } else {
                class.wanted = ((read - left) as i64 * 2).clamp(look.wanted_otherwise, self.most);
            }
        }
        let is_cut = found.read.len() >= CLASSES_PER_LOOK;
        self.found = found.read.len();
        self.after_class = found.read.keys().next_back().copied().filter(|_| is_cut).unwrap_or(i64::MIN);
        if !is_cut && look.after_class == i64::MIN {
            // The whole queue was seen: what is not in it is forgotten.
            self.classes.retain(|class, _| found.read.contains_key(class));
            return more;
        }
        // Each class is visited in its turn, round after round until one brings nothing.
        self.placed_in_round |= !plan.is_empty();
        more || is_cut || std::mem::take(&mut self.placed_in_round)
    }

    /// Classes of which more waits than was seen, where something more has room.
    pub(crate) fn cut_off(&self, look: &QueueLook, found: &QueueHeads) -> Vec<i64> {
        let asked = |class: &i64| look.wanted.get(class).copied().unwrap_or(look.wanted_otherwise);
        let is_cut = |(class, read): &(&i64, &usize)| asked(class) > 0 && **read as i64 >= asked(class);
        found.read.iter().filter(is_cut).map(|(class, _)| *class).collect()
    }

    /// Classes in which something waits of which nothing was read, since nothing has room: what each asks for.
    pub(crate) fn unseen<'a>(
        &'a self,
        look: &'a QueueLook,
        found: &'a QueueHeads,
    ) -> impl Iterator<Item = (i64, &'a Needs)> {
        let is_unseen = |class: &&i64| look.wanted.get(*class) == Some(&0);
        found.read.keys().filter(is_unseen).filter_map(|class| Some((*class, &**self.needs.get(class)?)))
    }

    /// What was planned may wait still: the next look begins where the queue does.
    pub(crate) fn begin_anew(&mut self) {
        self.classes.values_mut().for_each(|class| class.begin_at = None);
    }
}

#[cfg(test)]
mod tests;
