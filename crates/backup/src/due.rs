//! Whether a backup is due: once a day, and what was missed is made up for.

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};

/// The newest moment of this time of day that is not in the future.
fn last_time(now: DateTime<Utc>, at: NaiveTime) -> DateTime<Utc> {
    let today = now.date_naive().and_time(at).and_utc();
    if today <= now { today } else { today - TimeDelta::days(1) }
}

/// `newest`: when the newest one was begun.
pub(crate) fn is_due(now: DateTime<Utc>, at: NaiveTime, newest: Option<DateTime<Utc>>) -> bool {
    newest.is_none_or(|newest| newest < last_time(now, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_day_at_its_time_and_a_missed_one_as_soon_as_somebody_is_there() {
        let time = |text: &str| -> DateTime<Utc> { text.parse().expect("a time") };
        let at = NaiveTime::from_hms_opt(3, 0, 0).expect("a time");
        let table = [
            ("2026-11-23T02:59:59Z", None, true),
            ("2026-11-23T02:59:59Z", Some("2026-11-22T03:00:01Z"), false),
            ("2026-11-23T03:00:00Z", Some("2026-11-22T03:00:01Z"), true),
            ("2026-11-23T03:00:30Z", Some("2026-11-23T03:00:00Z"), false),
            // The server was off at three o'clock.
            ("2026-11-23T09:00:00Z", Some("2026-11-22T03:00:00Z"), true),
            ("2026-11-23T02:00:00Z", Some("2026-11-21T09:00:00Z"), true),
        ];
        for (now, newest, expected) in table {
            assert_eq!(is_due(time(now), at, newest.map(time)), expected, "{now} after {newest:?}");
        }
    }
}
