//! The lease of exclusive work: when the process must have been asked to stop, and when it must be gone.
//!
//! All times are milliseconds of CLOCK_BOOTTIME, which agent and shim share: it is one kernel's, and runs through suspend. The
//! lease counts from when the last acknowledged heartbeat was *sent*, not from when the shim hears of it: a renewal that Docker
//! holds back for a minute must not add that minute. A signal carries no time, so its number does. Time is cut into slots of a
//! sixteenth of the period P, and the signal says in which slot, counted modulo 24, the heartbeat was sent:
//!
//! ```text
//! sent          s, in slot k = s / (P/16)             signal 37 + k mod 24
//! received      r >= s                                k' = the newest slot <= r with k' mod 24 = k mod 24
//! lease until   k' * P/16 + P <= s + P                for every delay r - s < 24/16 P
//! ```
//!
//! So it ends up to P/16 early and never late. What is older than P is of no use and dropped; a signal that was held back for
//! 24/16 P or more could be taken for a newer one, which needs a Docker that holds one signal back for that long while it passes
//! on those that keep the process alive meanwhile.

/// The first of the signals that renew: SIGRTMIN+3, as Docker counts.
pub(crate) const FIRST_SIGNAL: i32 = 37;
const SLOTS: u64 = 24;
const SLOTS_OF_A_PERIOD: u64 = 16;

/// The exit code of a shim that ended its process for the lease.
pub(crate) const SELF_FENCED: i32 = 250;

#[derive(Debug)]
pub(crate) struct Lease {
    period_ms: u64,
    grace_ms: u64,
    /// None before the first renewal: nothing has been begun.
    ends_at: Option<u64>,
    /// It ran out, which no renewal undoes.
    is_over: bool,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Stop,
    Kill,
}

impl Lease {
    pub(crate) fn new(period_ms: u64, grace_ms: u64) -> Self {
        Self { period_ms: period_ms.max(SLOTS_OF_A_PERIOD), grace_ms, ends_at: None, is_over: false }
    }

    pub(crate) fn period_ms(&self) -> u64 {
        self.period_ms
    }
    pub(crate) fn is_held(&self) -> bool {
        self.ends_at.is_some() && !self.is_over
    }
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// A heartbeat sent then was acknowledged. What has run out, or would have, stays so.
    pub(crate) fn renew(&mut self, sent_at: u64, now: u64) {
        let ends_at = sent_at.saturating_add(self.period_ms);
        let has_run_out = self.is_over || self.ends_at.is_some_and(|end| end <= now);
        if !has_run_out && sent_at <= now && now < ends_at {
            self.ends_at = self.ends_at.max(Some(ends_at));
        }
    }

    /// As [`Lease::renew`], for what was written down in time and is only read now. Who writes never does so after the end.
    pub(crate) fn renew_as_written(&mut self, sent_at: u64, now: u64) {
        let ends_at = sent_at.saturating_add(self.period_ms);
        if !self.is_over && sent_at <= now && now < ends_at {
            self.ends_at = self.ends_at.max(Some(ends_at));
        }
    }

    /// True when the signal was a renewal's.
    pub(crate) fn renew_by_signal(&mut self, signal: i32, now: u64) -> bool {
        let Some(code) = signal.checked_sub(FIRST_SIGNAL).and_then(|code| u64::try_from(code).ok()) else {
            return false;
        };
        if code >= SLOTS {
            return false;
        }
        let slot_ms = self.period_ms.div_ceil(SLOTS_OF_A_PERIOD);
        let newest = now / slot_ms;
        let back = (newest + SLOTS - code) % SLOTS;
        if let Some(slot) = newest.checked_sub(back) {
            self.renew(slot * slot_ms, now);
        }
        true
    }

    /// The next moment to look again.
    pub(crate) fn wakes_at(&self) -> Option<u64> {
        self.ends_at.map(|end| if self.is_over { end + self.grace_ms } else { end })
    }

    /// Both count from the end of the lease: who slept through it has no grace left.
    pub(crate) fn due(&mut self, now: u64) -> Due {
        match self.ends_at {
            Some(end) if now >= end + self.grace_ms => {
                self.is_over = true;
                Due::Kill
            }
            Some(end) if now >= end && !self.is_over => {
                self.is_over = true;
                Due::Stop
            }
            _ => Due::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the agent does it.
    fn signal(sent_at: u64, period_ms: u64) -> i32 {
        FIRST_SIGNAL + (sent_at / period_ms.div_ceil(SLOTS_OF_A_PERIOD) % SLOTS) as i32
    }

    #[test]
    fn a_renewal_counts_from_when_its_heartbeat_was_sent_however_late_it_is_heard() {
        for period_ms in [1_600, 1_717, 75_000, 975_000] {
            for sent_at in (0..period_ms * 40).step_by(period_ms as usize / 7) {
                for delay in (0..period_ms * 3 / 2 - period_ms / 16 - 16).step_by(period_ms as usize / 9) {
                    let mut lease = Lease::new(period_ms, 0);
                    assert!(lease.renew_by_signal(signal(sent_at, period_ms), sent_at + delay));
                    match lease.ends_at {
                        Some(end) => {
                            assert!(end <= sent_at + period_ms, "{period_ms} {sent_at} {delay}: {end}");
                            assert!(
                                end + period_ms / 16 + 16 >= sent_at + period_ms,
                                "{period_ms} {sent_at} {delay}: {end}"
                            );
                        }
                        None => assert!(delay + period_ms / 16 + 16 >= period_ms, "{period_ms} {sent_at} {delay}"),
                    }
                }
            }
        }
    }

    #[test]
    fn it_asks_then_kills_and_never_begins_again() {
        let mut lease = Lease::new(75_000, 8_000);
        assert_eq!((lease.due(1_000_000), lease.wakes_at(), lease.is_held()), (Due::Nothing, None, false));
        lease.renew(1_000_000, 1_000_400);
        assert_eq!(lease.wakes_at(), Some(1_075_000));
        lease.renew(1_000_000 - 5_000, 1_000_500);
        assert_eq!((lease.due(1_074_999), lease.wakes_at()), (Due::Nothing, Some(1_075_000)));
        assert_eq!((lease.due(1_075_000), lease.wakes_at()), (Due::Stop, Some(1_083_000)));
        lease.renew(1_074_000, 1_076_000);
        assert_eq!((lease.due(1_082_999), lease.due(1_083_000)), (Due::Nothing, Due::Kill));
        // The machine slept through all of it.
        let mut lease = Lease::new(75_000, 8_000);
        lease.renew(0, 1);
        assert_eq!(lease.due(500_000), Due::Kill);
        // A renewal that is heard before the timer is looked at comes too late all the same.
        let mut lease = Lease::new(75_000, 8_000);
        lease.renew(0, 1);
        lease.renew(75_000, 75_001);
        assert_eq!(lease.due(75_001), Due::Stop);
    }

    #[test]
    fn other_signals_are_no_renewals() {
        let mut lease = Lease::new(75_000, 8_000);
        assert!(!lease.renew_by_signal(15, 100) && !lease.renew_by_signal(36, 100) && !lease.renew_by_signal(61, 100));
        assert!(!lease.is_held());
    }
}
