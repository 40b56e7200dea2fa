//! How many nodes may be at the door at once. When a gateway comes back, all nodes do; each that waits holds memory and, before
//! long, gives up and dials again while its old hello is still worked on. So only as many are let in as are served within moments,
//! and each of the others is told at once when its turn may be.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Whoever is let in should be served within so long.
const WAIT: Duration = Duration::from_secs(2);
const LEAST_INSIDE: usize = 64;
const MOST_INSIDE: usize = 1_024;
/// Nodes a second, until it is known: too many come back too early and learn better, too few would wait for nothing.
const FIRST_RATE: f64 = 1_000.0;
const LOWEST_RATE: f64 = 20.0;
const HIGHEST_RATE: f64 = 5_000.0;
const MEASURED_OVER: Duration = Duration::from_millis(500);
/// Nobody is told to stay away for longer.
const LONGEST: Duration = Duration::from_secs(30);

/// The door of one gateway. Cheap to clone.
#[derive(Clone)]
pub(super) struct Admission(Arc<Mutex<Room>>);

/// Held from the dial until the session is open or refused.
pub(super) struct Place {
    admission: Admission,
    is_served: bool,
}

impl Admission {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Room::new(Instant::now()))))
    }

    /// Errors: when to come back.
    pub(super) fn enter(&self) -> Result<Place, Duration> {
        self.lock().enter(Instant::now())?;
        Ok(Place { admission: self.clone(), is_served: false })
    }

    /// When somebody may come back who was let in and could not be served.
    pub(super) fn come_back(&self) -> Duration {
        let now = Instant::now();
        self.lock().turn(now).saturating_duration_since(now)
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn served(mut self) {
        self.is_served = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.lock().leave(Instant::now(), self.is_served);
    }
}

/// The rule, without a clock.
struct Room {
    inside: usize,
    /// Served a second, as far as it is known.
    rate: f64,
    /// Of what is measured now.
    since: Instant,
    served: u32,
    /// Whether there was always somebody to serve: only then is what is measured all that can be served.
    is_busy: bool,
    last_turn: Instant,
}

impl Room {
    fn new(now: Instant) -> Self {
        Self { inside: 0, rate: FIRST_RATE, since: now, served: 0, is_busy: false, last_turn: now }
    }

    fn enter(&mut self, now: Instant) -> Result<(), Duration> {
        if self.inside == 0 {
            (self.since, self.served, self.is_busy) = (now, 0, false);
        }
        let most = (self.rate * WAIT.as_secs_f64()) as usize;
        if self.inside >= most.clamp(LEAST_INSIDE, MOST_INSIDE) {
            self.is_busy = true;
            return Err(self.turn(now).saturating_duration_since(now));
        }
        self.inside += 1;
        self.is_busy |= self.inside >= LEAST_INSIDE;
        Ok(())
    }

    fn leave(&mut self, now: Instant, is_served: bool) {
        self.inside = self.inside.saturating_sub(1);
        self.served += u32::from(is_served);
        let measured = now.saturating_duration_since(self.since);
        let all_were_served = self.inside == 0 && self.served >= LEAST_INSIDE as u32;
        if measured < MEASURED_OVER && !all_were_served {
            return;
        }
        let rate = f64::from(self.served) / measured.as_secs_f64().max(0.001);
        let is_the_most = self.is_busy && !all_were_served;
        let known = if is_the_most { (self.rate + rate) / 2.0 } else { self.rate.max(rate) };
        self.rate = known.clamp(LOWEST_RATE, HIGHEST_RATE);
        (self.since, self.served, self.is_busy) = (now, 0, self.inside >= LEAST_INSIDE);
    }

    /// A moment of one's own, after those inside and after all who were given theirs before: so they don't come back together.
    fn turn(&mut self, now: Instant) -> Instant {
        let first = now + Duration::from_secs_f64(self.inside as f64 / self.rate);
        let next = self.last_turn.max(first) + Duration::from_secs_f64(1.0 / self.rate);
        // All moments are taken: they are shared from the first one on.
        self.last_turn = if next <= now + LONGEST { next } else { first.min(now + LONGEST) };
        self.last_turn
    }
}

#[cfg(test)]
mod tests;
