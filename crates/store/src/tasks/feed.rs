//! All tasks' events as one feed that is read on from any place, with nothing missing and nothing twice.
//!
//! A place is a snapshot: the transactions whose entries were seen. What is new is what that snapshot did not show and a later one
//! does, whichever number it has. Entries of one task are written under its row's lock, so their numbers rise in the order of their
//! commits: read in snapshots, and by number within each, a task's entries come in their order.
//!
//! Who was away for long, or begins at the beginning, reads what came between as many small windows, each by number: snapshots of the
//! past, which nobody took, stand in for those that were (`feed_window.rs`).

use crate::{
    Store, StoreError,
    json::JsonText,
    tasks::history::{EventRecord, EventRow},
};
use domain::principal::Scope;
use std::{fmt, str::FromStr};

/// What is new is little up to here: read at once, by the transactions that wrote it.
pub(super) const FEW: i64 = 400;

/// What PostgreSQL calls `pg_snapshot`: all transactions before `xmin` had ended, none from `xmax` on had, nor those listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) xmin: u64,
    pub(super) xmax: u64,
    running: Vec<u64>,
}

impl Snapshot {
    /// All transactions before this one, none from it on: nobody saw it so, if they did not end in their order.
    pub(super) fn all_before(first: u64) -> Self {
        Self { xmin: first, xmax: first, running: Vec::new() }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running: Vec<String> = self.running.iter().map(u64::to_string).collect();
        write!(f, "{}:{}:{}", self.xmin, self.xmax, running.join(","))
    }
}

impl FromStr for Snapshot {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no snapshot");
        let number = |text: &str| {
            let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u64>().ok().filter(|number| is_plain && *number < 1 << 63).ok_or_else(wrong)
        };
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(running), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let (xmin, xmax) = (number(xmin)?, number(xmax)?);
        let running = match running {
            "" => Vec::new(),
            list => list.split(',').map(number).collect::<Result<_, _>>()?,
        };
        let is_ordered = running.windows(2).all(|pair| pair[0] < pair[1]);
        let is_inside = running.iter().all(|id| (xmin..xmax).contains(id));
        if xmin == 0 || xmin > xmax || !is_ordered || !is_inside {
            return Err(wrong());
        }
        Ok(Self { xmin, xmax, running })
    }
}

/// Where a reader of the feed stands. Its text is opaque to readers, and valid for as long as the database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedCursor {
    seen: Snapshot,
    /// Of what came between `seen` and this later snapshot, the entries up to this number were seen too.
    within: Option<(Snapshot, i64)>,
}

impl FeedCursor {
    /// Before the first event.
    pub fn beginning() -> Self {
        Self { seen: Snapshot::all_before(1), within: None }
    }

    /// Whether this place lies after `now`: the database was restored to an earlier moment since.
    pub fn is_ahead_of(&self, now: &FeedCursor) -> bool {
        let newest = self.within.as_ref().map_or(&self.seen, |(until, _)| until);
        newest.xmax > now.seen.xmax
    }
}

impl fmt::Display for FeedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.within {
            None => write!(f, "{}", self.seen),
            Some((until, seq)) => write!(f, "{}~{until}~{seq}", self.seen),
        }
    }
}

impl FromStr for FeedCursor {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('~');
        let seen = parts.next().unwrap_or_default().parse()?;
        let within = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => None,
            (Some(until), Some(seq), None) if seq.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some((until.parse()?, seq.parse().map_err(|_| format!("{text:?} is no place in the feed"))?))
            }
            _ => return Err(format!("{text:?} is no place in the feed")),
        };
        Ok(Self { seen, within })
    }
}

/// Some entries, in the order of reading.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedPage {
    pub entries: Vec<EventRow>,
    /// Where the next page begins.
    pub next: FeedCursor,
    /// There is more now.
    pub has_more: bool,
    begin: FeedCursor,
    until: Snapshot,
}

impl FeedPage {
    /// The place after this many entries of the page.
    pub fn place_after(&self, count: usize) -> FeedCursor {
        match count.checked_sub(1).and_then(|last| self.entries.get(last)) {
            _ if count >= self.entries.len() => self.next.clone(),
            None => self.begin.clone(),
            Some(last) => FeedCursor { seen: self.begin.seen.clone(), within: Some((self.until.clone(), last.seq)) },
        }
    }
}

impl Store {
    /// The end of the feed: a reader that begins here sees what is committed from now on.
    pub async fn feed_end(&self) -> Result<FeedCursor, StoreError> {
        Ok(FeedCursor { seen: self.snapshot().await?, within: None })
    }

    /// Up to `limit` entries after this place. A place within a batch goes on in it.
    pub async fn feed_after(&self, scope: Scope, place: &FeedCursor, limit: i64) -> Result<FeedPage, StoreError> {
        let (mut until, after) = match &place.within {
            Some((until, seq)) => (until.clone(), *seq),
            None => (self.snapshot().await?, 0),
        };
        if until == place.seen {
            let end = FeedCursor { seen: until.clone(), within: None };
            return Ok(FeedPage { entries: Vec::new(), next: end.clone(), has_more: false, begin: end, until });
        }
        let mut few = if after == 0 { self.few_new(scope, &place.seen, &until).await? } else { None };
        // A window that was begun earlier, or is only a part, has an end of its own, and after it there may be another.
        let mut is_part = place.within.is_some();
        if few.is_none() && !is_part {
            let window = self.window_after(&place.seen, &until).await?;
            is_part = window != until;
            until = window;
            few = if is_part { self.few_new(scope, &place.seen, &until).await? } else { None };
        }
        let begin = FeedCursor { seen: place.seen.clone(), within: Some((until.clone(), after)) };
        let end = FeedCursor { seen: until.clone(), within: None };
        if let Some(mut entries) = few {
            let is_over = entries.len() as i64 > limit;
            entries.truncate(limit as usize);
            let next = match entries.last().filter(|_| is_over) {
                Some(last) => FeedCursor { seen: place.seen.clone(), within: Some((until.clone(), last.seq)) },
                None => end,
            };
            return Ok(FeedPage { entries, next, has_more: is_over || is_part, begin, until });
        }
        let entries = sqlx::query_as!(
            EventRecord,
            r#"SELECT id, task_id, at, state, events AS "events: JsonText" FROM task_events
               WHERE xid > '0' AND xid >= pg_snapshot_xmin($1::text::pg_snapshot) AND xid < pg_snapshot_xmax($2::text::pg_snapshot)
                 AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot) AND pg_visible_in_snapshot(xid, $2::text::pg_snapshot)
                 AND id > $3 AND ($4::uuid IS NULL OR project_id = $4) ORDER BY id LIMIT $5"#,
            place.seen.to_string(),
            until.to_string(),
            after,
            scope.project().map(|project| project.as_uuid()),
            limit,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(EventRecord::into_row)
        .collect::<Result<Vec<EventRow>, StoreError>>()?;
        let is_full = entries.len() as i64 >= limit;
        let next = match entries.last().filter(|_| is_full) {
            Some(last) => FeedCursor { seen: place.seen.clone(), within: Some((until.clone(), last.seq)) },
            None => end,
        };
        Ok(FeedPage { entries, next, has_more: is_full || is_part, begin, until })
    }

    /// All that is new between two snapshots, when it is little: what a reader who keeps up asks for.
    async fn few_new(
        &self,
        scope: Scope,
        seen: &Snapshot,
        until: &Snapshot,
    ) -> Result<Option<Vec<EventRow>>, StoreError> {
        // The inner order leaves the planner one index, whatever it believes of the others.
        let rows = sqlx::query!(
            r#"SELECT id AS "id!", task_id AS "task_id!", project_id AS "project_id!", at AS "at!", state AS "state!", events AS "events!: JsonText",
                      (NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot) AND pg_visible_in_snapshot(xid, $2::text::pg_snapshot)) AS "is_new!"
               FROM (SELECT * FROM task_events WHERE xid > '0' AND xid >= pg_snapshot_xmin($1::text::pg_snapshot)
                       AND xid < pg_snapshot_xmax($2::text::pg_snapshot) ORDER BY xid LIMIT $3) AS e
               ORDER BY id"#,
            seen.to_string(),
            until.to_string(),
            FEW
        )
        .fetch_all(&self.pool)
        .await?;
        if rows.len() as i64 >= FEW {
            return Ok(None);
        }
        let is_seen_by = |project| scope.project().is_none_or(|own| own.as_uuid() == project);
        rows.into_iter()
            .filter(|row| row.is_new && is_seen_by(row.project_id))
            .map(|row| {
                let (id, task_id, at, state, events) = (row.id, row.task_id, row.at, row.state, row.events);
                EventRecord { id, task_id, at, state, events }.into_row()
            })
            .collect::<Result<_, StoreError>>()
            .map(Some)
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let text =
            sqlx::query_scalar!(r#"SELECT pg_current_snapshot()::text AS "snapshot!""#).fetch_one(&self.pool).await?;
        text.parse().map_err(StoreError::Corrupt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written_and_nothing_else_is() {
        for good in ["10:20:", "10:20:10,14", "10:20:10~12:30:15~4711"] {
            assert_eq!(good.parse::<FeedCursor>().expect(good).to_string(), good);
        }
        let hostile = "|x|1|1:2|1:2:3:4|2:1:|1:5:5|1:5:3,2|1:5:,|0:5:|+1:5:|1:5:~|1:5:~1:5:|1:5:~1:5:~-1|1:5:~1:5:~1~1|9223372036854775808:9223372036854775809:";
        for hostile in hostile.split('|') {
            assert!(hostile.parse::<FeedCursor>().is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn a_place_of_a_later_past_is_known() {
        let place = |text: &str| text.parse::<FeedCursor>().expect("a place");
        assert!(place("10:20:").is_ahead_of(&place("10:19:")));
        assert!(place("10:12:~10:20:~1").is_ahead_of(&place("15:19:")));
        assert!(!place("10:20:").is_ahead_of(&place("20:20:")));
    }
}
