//! What may be acknowledged. Reports of urgent attempts overtake those of others on their way into the database, and an
//! acknowledgement speaks for all numbers up to its own: so it goes as far as nothing before it is missing.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Of one session.
#[derive(Default)]
pub(super) struct Acks(Mutex<Numbers>);

#[derive(Default)]
struct Numbers {
    /// Heard, and not recorded yet.
    open: BTreeSet<u64>,
    /// The last that was recorded.
    last: u64,
    acknowledged: u64,
}

impl Acks {
    /// A report of this number was heard.
    pub(super) fn heard(&self, seq: u64) {
        self.lock().open.insert(seq);
    }

    /// These are recorded. Returns up to where to acknowledge, if that is news.
    pub(super) fn recorded(&self, seqs: impl Iterator<Item = u64>) -> Option<u64> {
        let numbers = &mut *self.lock();
        for seq in seqs {
            numbers.open.remove(&seq);
            numbers.last = numbers.last.max(seq);
        }
        let up_to = numbers.open.first().map_or(numbers.last, |missing| numbers.last.min(missing.saturating_sub(1)));
        let is_news = up_to > numbers.acknowledged;
        numbers.acknowledged = numbers.acknowledged.max(up_to);
        is_news.then_some(up_to)
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_overtook_others_is_acknowledged_with_them() {
        let acks = Acks::default();
        (1..=6).for_each(|seq| acks.heard(seq));
        assert_eq!(acks.recorded([1, 2].into_iter()), Some(2));
        // Urgent ones overtake 3 and 4.
        assert_eq!(acks.recorded([5, 6].into_iter()), None);
        acks.heard(9);
        assert_eq!(acks.recorded([3].into_iter()), Some(3));
        assert_eq!(acks.recorded([4].into_iter()), Some(6), "what came before 9 is all there");
        assert_eq!(acks.recorded([9].into_iter()), Some(9));
    }
}
