//! What a process of simulated nodes tells of itself, a JSON line each.

use serde::{Deserialize, Serialize};

/// All counters grow from the start of the process on; spreads since the last `reset`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub nodes: u64,
    pub connected: u64,
    /// Sessions opened: more than `nodes` after a reconnect.
    pub sessions: u64,
    /// Lines that ended or never opened.
    pub failures: u64,
    pub refused: u64,
    pub complaints: u64,
    /// Unix microseconds. When all were connected last; 0: never yet.
    pub all_connected_at: u64,
    /// When one was lost last; 0: never.
    pub lost_at: u64,
    pub beats_sent: u64,
    pub beats_answered: u64,
    pub beat_us: Spread,
    /// From the start of a connection to the welcome.
    pub connect_us: Spread,
    pub assigned: u64,
    /// Ends that the platform has acknowledged, so committed.
    pub ended: u64,
    /// Unix microseconds of the last of them.
    pub last_end_at: u64,
    /// Unix microseconds of the last assignment.
    pub last_assign_at: u64,
    pub attempts: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub frames_in: u64,
    pub frames_out: u64,
    #[serde(flatten)]
    pub used: Used,
}

/// What the slots of nodes were used for. By the nodes' own clock: what the platform knows of it comes later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Used {
    /// Tasks that ran to their end.
    pub ran: u64,
    /// From their starts to their ends, added up.
    pub busy_us: u64,
    /// The most that ran on one node at one time.
    pub most_running: u64,
    /// Unix microseconds; 0: none yet.
    pub first_start_at: u64,
    pub last_exit_at: u64,
}

impl Figures {
    /// A node's own have grown from `before` to `after`.
    pub fn add_used(&mut self, before: &Used, after: &Used) {
        let all = &mut self.used;
        all.ran += after.ran - before.ran;
        all.busy_us += after.busy_us - before.busy_us;
        all.most_running = all.most_running.max(after.most_running);
        all.last_exit_at = all.last_exit_at.max(after.last_exit_at);
        if all.first_start_at == 0 || (after.first_start_at != 0 && after.first_start_at < all.first_start_at) {
            all.first_start_at = after.first_start_at;
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub count: u64,
    pub p50: u64,
    pub p99: u64,
    pub most: u64,
}

impl From<&super::histogram::Histogram> for Spread {
    fn from(histogram: &super::histogram::Histogram) -> Self {
        let micros = |of_hundred| histogram.percentile(of_hundred).as_micros() as u64;
        Self { count: histogram.len(), p50: micros(50.0), p99: micros(99.0), most: histogram.most().as_micros() as u64 }
    }
}

/// Unix time in microseconds: processes of one machine compare it.
#[expect(
    clippy::disallowed_methods,
    reason = "a measurement between processes of one machine; nothing is decided by it"
)]
pub fn unix_micros() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}
