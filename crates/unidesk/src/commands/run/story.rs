//! What is known of a task while it is followed, and which line about it is due. Time comes in as a value.

use crate::{
    render::{
        phases::{self, BuildStep},
        provenance::Provenance,
        status,
    },
    style::{Glyph, Style},
};
use api_types::{event::TaskEvent, task::Task};
use chrono::{DateTime, FixedOffset, Utc};
use domain::{ids::NodeId, lifecycle::Event};
use std::time::{Duration, Instant};

/// A warm attempt is told in one line, so the line about its placement waits so long for the rest.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Story {
    style: Style,
    dockerfile: String,
    /// By the server's clock and by ours.
    waits_since: (DateTime<Utc>, Instant),
    current: Option<Current>,
    why: Option<String>,
    over: bool,
    /// It has outputs.
    leaves: bool,
    /// What was told of a node that is offline.
    offline: Option<String>,
    lines: Vec<String>,
}

struct Current {
    number: u32,
    node_id: NodeId,
    node: Option<String>,
    waited_ms: u64,
    placed_at: DateTime<Utc>,
    placed_seen: Instant,
    prepared: Option<(u64, Instant)>,
    provenance: Option<Provenance>,
    step: Option<BuildStep>,
    started: bool,
    exited: Option<Instant>,
    told_placed: bool,
    told_prepared: bool,
}

/// What the caller should do about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Nothing,
    /// Fetch the task: it says what the event does not.
    Task,
    /// The same, and tell of the attempt once it is there.
    AnotherAttempt(u32),
}

impl Story {
    pub(super) fn new(task: &Task, dockerfile: &str, style: Style, now: Instant) -> Self {
        Self {
            style,
            dockerfile: dockerfile.to_owned(),
            waits_since: (task.created_at, now),
            current: None,
            why: None,
            over: false,
            leaves: task.spec.as_ref().is_some_and(|spec| !spec.outputs.is_empty()),
            offline: None,
            lines: Vec::new(),
        }
    }

    pub(super) fn on_event(&mut self, told: &TaskEvent, now: Instant) -> Want {
        match &told.event {
            Event::Placed { number, node, .. } => {
                self.current = Some(Current {
                    number: *number,
                    node_id: *node,
                    node: None,
                    waited_ms: ms_between(self.waits_since.0, told.at),
                    placed_at: told.at,
                    placed_seen: now,
                    prepared: None,
                    provenance: None,
                    step: None,
                    started: false,
                    exited: None,
                    told_placed: false,
                    told_prepared: false,
                });
                return if *number > 1 { Want::AnotherAttempt(*number) } else { Want::Task };
            }
            Event::Prepared { .. } => {
                if let Some(current) = &mut self.current {
                    current.prepared = Some((ms_between(current.placed_at, told.at), now));
                    return Want::Task;
                }
            }
            Event::Started { .. } => {
                if let Some(current) = &mut self.current {
                    current.started = true;
                }
            }
            Event::Exited { .. } => {
                if let Some(current) = &mut self.current {
                    current.exited = Some(now);
                }
            }
            Event::Requeued { because, .. } => {
                self.flush(now);
                self.current = None;
                self.waits_since = (told.at, now);
                let because = crate::text::clean(because.lines().next().unwrap_or_default());
                self.lines.push(self.style.phase(Glyph::Warning, "requeued", &because));
            }
            Event::Finished { .. } => self.over = true,
            Event::RetryAsked => self.over = false,
            Event::Submitted
            | Event::Accepted { .. }
            | Event::Preparing { .. }
            | Event::Ended { .. }
            | Event::NodeWentDown { .. }
            | Event::CancelRequested
            | Event::Released { .. } => {}
        }
        Want::Nothing
    }

    pub(super) fn on_task(&mut self, task: &Task) {
        let Some(current) = &mut self.current else { return };
        let attempts = task.attempts.as_deref().unwrap_or_default();
        if let Some(attempt) = attempts.iter().find(|attempt| attempt.number == current.number) {
            current.node = Some(attempt.node.clone());
            if let Some(provenance) = &attempt.provenance {
                current.provenance = Some(Provenance::read(provenance));
            }
        }
    }

    /// Its node is offline, or back: told when it changes. No entry of the history tells of it, since nothing happened to the task.
    pub(super) fn on_condition(&mut self, task: &Task, now: DateTime<FixedOffset>) {
        let offline = status::offline(task, now).filter(|_| !self.over);
        if offline == self.offline {
            return;
        }
        let node = crate::text::clean(task.node.as_deref().unwrap_or("its node"));
        let is_there = !task.state.is_terminal() && task.condition.is_none();
        if let Some(text) = &offline {
            self.lines.push(self.style.phase(Glyph::Warning, "waiting", text));
        } else if is_there {
            self.lines.push(self.style.phase(Glyph::Done, "back", &format!("{node} is connected again")));
        }
        self.offline = offline;
    }

    pub(super) fn on_why(&mut self, summary: &str) {
        self.why = Some(summary.lines().next().unwrap_or_default().to_owned());
    }

    pub(super) fn on_build_line(&mut self, line: &str) {
        if let (Some(current), Some(step)) = (&mut self.current, phases::read_step(line)) {
            current.step = Some(step);
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.current.is_none() && !self.over
    }

    /// Everything before this attempt's first byte was told.
    pub(super) fn is_settled(&self, number: u32) -> bool {
        match &self.current {
            Some(current) if current.number == number => {
                current.started && current.told_placed && current.told_prepared
            }
            // Of an attempt that is over, or that is not known yet.
            Some(current) => current.number > number,
            None => self.over,
        }
    }

    /// The lines that are due. Each is given once.
    pub(super) fn due(&mut self, now: Instant) -> Vec<String> {
        let style = self.style;
        let over = self.over;
        if let Some(current) = &mut self.current {
            let waited = |since: Instant| now.duration_since(since) >= PATIENCE;
            let knows = match (&current.prepared, &current.provenance) {
                (Some(_), Some(_)) => true,
                (Some((_, seen)), None) => waited(*seen) || over,
                (None, _) => current.started || over,
            };
            if !current.told_placed && (knows || waited(current.placed_seen)) {
                let node = match &current.node {
                    Some(node) => node.clone(),
                    None if waited(current.placed_seen) || over => current.node_id.short(),
                    None => return std::mem::take(&mut self.lines),
                };
                let warm = match (&current.prepared, &current.provenance) {
                    (Some((ms, _)), Some(provenance)) if provenance.is_warm() => Some((provenance, *ms)),
                    _ => None,
                };
                self.lines.push(phases::placed(&node, current.waited_ms, warm, &style));
                current.told_placed = true;
                current.told_prepared = warm.is_some();
            }
            if current.told_placed && !current.told_prepared && knows {
                if let Some(provenance) = &current.provenance {
                    self.lines.extend(phases::prepared(provenance, &self.dockerfile, &style));
                }
                current.told_prepared = true;
            }
        }
        std::mem::take(&mut self.lines)
    }

    /// Makes due what is known, because something else is about to be told.
    fn flush(&mut self, now: Instant) {
        let over = std::mem::replace(&mut self.over, true);
        let lines = self.due(now);
        self.lines = lines;
        self.over = over;
    }

    /// The line that is redrawn in place.
    pub(super) fn status(&self, now: Instant) -> Option<String> {
        let ms = |since: Instant| now.duration_since(since).as_millis() as u64;
        match &self.current {
            _ if self.over => None,
            None => Some(phases::pending(ms(self.waits_since.1), self.why.as_deref(), &self.style)),
            Some(current) if !current.started => {
                Some(phases::preparing(ms(current.placed_seen), current.step.as_ref(), &self.dockerfile, &self.style))
            }
            Some(Current { exited: Some(since), .. }) if self.leaves => Some(phases::storing(ms(*since), &self.style)),
            Some(_) => None,
        }
    }

    /// What goes on, in one word, for those who hear the screen.
    pub(super) fn still(&self, now: Instant) -> Option<String> {
        let ms = |since: Instant| now.duration_since(since).as_millis() as u64;
        match &self.current {
            _ if self.over => None,
            None => Some(phases::still("pending", ms(self.waits_since.1))),
            Some(current) if !current.started => Some(phases::still("preparing", ms(current.placed_seen))),
            Some(Current { exited: Some(since), .. }) if self.leaves => Some(phases::still("storing", ms(*since))),
            Some(_) => None,
        }
    }
}

fn ms_between(from: DateTime<Utc>, to: DateTime<Utc>) -> u64 {
    (to - from).num_milliseconds().max(0) as u64
}

#[cfg(test)]
mod tests;
