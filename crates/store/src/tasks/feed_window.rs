//! Much is new: which part of it is read next. A window ends before some transaction, all before which have ended, so that it takes in
//! a few hundred entries. Any such end would do, were it not for the order of a task's entries: a transaction may begin before another
//! and write after it, when it waited for the row. An end between two such would hand out the later entry first; it is moved behind.

use crate::{
    Store, StoreError,
    tasks::feed::{FEW, Snapshot},
};
use uuid::Uuid;

/// Tasks whose histories one statement looks through: each costs a path through the index and some pages.
const LOOKED_AT_ONCE: usize = 60;
/// So often an end is moved. Then all that is new is one window, as for a reader who keeps up.
const MOST_MOVES: usize = 8;

impl Store {
    /// The end of the next window after `seen`; `now`, where there is no earlier one.
    pub(super) async fn window_after(&self, seen: &Snapshot, now: &Snapshot) -> Result<Snapshot, StoreError> {
        let found = sqlx::query!(
            r#"SELECT (SELECT xid::text FROM task_events WHERE xid > '0' AND xid >= $1::text::xid8 ORDER BY xid LIMIT 1) AS first,
                      (SELECT xid::text FROM task_events WHERE xid > '0' AND xid >= $1::text::xid8 ORDER BY xid OFFSET $2 LIMIT 1) AS last"#,
            seen.xmin.to_string(),
            FEW - 1
        )
        .fetch_one(&self.pool)
        .await?;
        let (Some(first), Some(last)) = (number(found.first)?, number(found.last)?) else { return Ok(now.clone()) };
        // What one transaction wrote is in one window.
        let mut end = if first < last { last } else { last + 1 };
        for _ in 0..MOST_MOVES {
            // What `seen` saw must be in it.
            end = end.max(seen.xmax);
            if end > now.xmin {
                break;
            }
            match self.written_before(seen.xmin, end).await? {
                None => return Ok(Snapshot::all_before(end)),
                Some(last) => end = last + 1,
            }
        }
        Ok(now.clone())
    }

    /// The last transaction from `end` on that wrote an entry of some task before one that is in the window.
    async fn written_before(&self, begin: u64, end: u64) -> Result<Option<u64>, StoreError> {
        let tasks = sqlx::query!(
            r#"SELECT task_id, max(id) AS "id!" FROM task_events
               WHERE xid > '0' AND xid >= $1::text::xid8 AND xid < $2::text::xid8 GROUP BY task_id"#,
            begin.to_string(),
            end.to_string()
        )
        .fetch_all(&self.pool)
        .await?;
        let mut last = None;
        for tasks in tasks.chunks(LOOKED_AT_ONCE) {
            let earlier = sqlx::query_scalar!(
                r#"SELECT e.xid::text FROM UNNEST($1::uuid[], $2::bigint[]) AS w(task, id)
                   JOIN task_events e ON e.task_id = w.task AND e.id < w.id WHERE e.xid >= $3::text::xid8"#,
                &tasks.iter().map(|task| task.task_id).collect::<Vec<Uuid>>(),
                &tasks.iter().map(|task| task.id).collect::<Vec<i64>>(),
                end.to_string()
            )
            .fetch_all(&self.pool)
            .await?;
            for xid in earlier {
                last = last.max(number(xid)?);
            }
        }
        Ok(last)
    }
}

fn number(xid: Option<String>) -> Result<Option<u64>, StoreError> {
    let read = |xid: String| xid.parse().map_err(|_| StoreError::Corrupt(format!("{xid:?} is no transaction")));
    xid.map(read).transpose()
}
