//! What a scenario is: a platform of some shape, a fault, and what must be true of it beyond "nothing is lost".

use crate::{
    network::{Dropped, Way},
    workload::Wanted,
    world::{Run, Shape, World, offline_after},
};
use futures::future::LocalBoxFuture;
use serde::Serialize;
use std::time::Duration;

/// One fault.
pub struct Scenario {
    pub id: &'static str,
    pub what: &'static str,
    pub shape: fn() -> Shape,
    /// What runs when the fault comes.
    pub work: fn() -> Vec<Wanted>,
    /// No attempt is lost: what runs goes on.
    pub work_survives: bool,
    /// Injects, heals, and says what it saw. Leaves the platform whole.
    pub inject: Inject,
}

/// How a fault is injected: by a closure that boxes an async function.
pub type Inject = for<'a> fn(&'a mut Run, &'a mut World) -> LocalBoxFuture<'a, anyhow::Result<Seen>>;

impl Scenario {
    /// With two nodes, the usual work, and the promise that what runs goes on.
    pub fn new(id: &'static str, what: &'static str, inject: Inject) -> Self {
        Self { id, what, shape: Shape::default, work: usual_work, work_survives: true, inject }
    }

    pub fn shaped(self, shape: fn() -> Shape) -> Self {
        Self { shape, ..self }
    }

    pub fn working(self, work: fn() -> Vec<Wanted>) -> Self {
        Self { work, ..self }
    }

    /// Attempts may be lost and begun again elsewhere.
    pub fn costs_attempts(self) -> Self {
        Self { work_survives: false, ..self }
    }
}

/// What was seen of a fault.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Seen {
    /// What was done to what, with the times as they were.
    pub injected: String,
    /// From the fault until the platform knew of it.
    #[serde(serialize_with = "seconds")]
    pub detected: Option<Duration>,
    /// From its end (or from the fault itself, where nobody mends it) until all was well.
    #[serde(serialize_with = "seconds")]
    pub recovered: Option<Duration>,
    /// Promises of this fault that were not kept.
    #[serde(rename = "promises_broken")]
    pub broken: Vec<String>,
    /// Further figures.
    pub notes: Vec<String>,
    /// Set: it could not be injected, for this reason.
    pub skipped: Option<String>,
}

impl Seen {
    pub fn of(injected: impl Into<String>) -> Self {
        Self { injected: injected.into(), ..Self::default() }
    }

    pub fn skipped(why: impl Into<String>) -> Self {
        Self { skipped: Some(why.into()), ..Self::default() }
    }

    /// Remembers a promise that was not kept.
    pub fn promise(&mut self, kept: bool, what: impl Into<String>) {
        if !kept {
            self.broken.push(what.into());
        }
    }

    /// Promises that a cut was one, by what it swallowed.
    pub fn swallowed(&mut self, dropped: Dropped, way: Way) {
        self.promise(dropped.is_of(way), format!("the cut was not as wanted: {dropped}"));
        self.notes.push(dropped.to_string());
    }
}

fn seconds<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.serialize_some(&duration.as_secs_f64()),
        None => serializer.serialize_none(),
    }
}

/// Long enough for most faults at a tenth of the product's times.
const STEPS: u32 = 44;
const PAUSE: Duration = Duration::from_millis(250);

/// Two processes and two containers that run through the whole fault; the last of each with an exit code of its own.
pub fn usual_work() -> Vec<Wanted> {
    work_of(STEPS)
}

/// The same for slower faults.
pub fn long_work() -> Vec<Wanted> {
    // At the product's own times it must last for minutes.
    work_of(if offline_after() > Duration::from_secs(60) { 12 * STEPS } else { 3 * STEPS })
}

fn work_of(steps: u32) -> Vec<Wanted> {
    vec![
        Wanted::process("long-process-1", steps, PAUSE),
        Wanted { exit_code: 4, ..Wanted::process("long-process-2", steps, PAUSE) },
        Wanted::container("long-container-1", steps, PAUSE),
        Wanted { exit_code: 5, ..Wanted::container("long-container-2", steps, PAUSE) },
    ]
}
