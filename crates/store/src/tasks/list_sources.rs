//! Where the tasks of a list come from: an index that has them in the order of the list, read a bounded slice at a time. Whatever the
//! planner believes of the sizes, no statement here may read more than its slice: each is ordered by all columns of the one index that
//! it can go by, and no condition but the place in that index decides how far it reads.

use crate::{Store, StoreError};
use domain::task::TaskState;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

/// So many candidates are looked at by one statement. Each may lie on a page of its own.
pub(super) const SLICE: usize = 400;

/// What a filter asks for, in the words of the tables.
pub(super) struct Wanted {
    pub(super) project: Option<Uuid>,
    pub(super) states: Option<Vec<String>>,
    /// The last attempt is on one of these.
    pub(super) nodes: Option<Vec<Uuid>>,
    pub(super) name: Option<String>,
    /// All names that are wanted, where they are few: the one, or those that begin so. Otherwise none.
    pub(super) names: Vec<String>,
    pub(super) beginning: Option<String>,
    pub(super) label: Option<Value>,
    /// Of the id, the last digit first.
    pub(super) ending: Option<String>,
}

impl Wanted {
    pub(super) fn is_state(&self, state: TaskState) -> bool {
        self.states.as_ref().is_none_or(|states| states.iter().any(|word| word == state.as_str()))
    }

    /// Asks for something that stands in the cold row.
    pub(super) fn is_cold(&self) -> bool {
        self.name.is_some() || self.beginning.is_some() || self.label.is_some()
    }

    /// Live tasks may be wanted that wait, and such that hold something on a node. What waits while its node is away does both.
    fn live_kinds(&self) -> (bool, bool) {
        let is_placed = |state: &TaskState| !state.is_terminal() && *state != TaskState::Pending;
        let placed = TaskState::ALL.iter().any(|state| is_placed(state) && self.is_state(*state));
        (self.is_state(TaskState::Pending), placed)
    }

    /// The newest task before this one that may live in a wanted state.
    pub(super) async fn newest_live(
        &self,
        connection: &mut PgConnection,
        before: Uuid,
    ) -> Result<Option<Uuid>, StoreError> {
        let (waiting, placed) = self.live_kinds();
        let newest = sqlx::query_scalar!(
            "SELECT GREATEST((SELECT task_id FROM task_state WHERE $2 AND queued AND task_id < $1 ORDER BY task_id DESC LIMIT 1),
                             (SELECT task_id FROM attempts WHERE $3 AND reserved AND number > 0 AND task_id < $1 ORDER BY task_id DESC LIMIT 1))",
            before,
            waiting,
            placed
        )
        .fetch_one(connection)
        .await?;
        Ok(newest)
    }

    /// The maintained counters know how many there are.
    pub(super) fn is_counted(&self) -> bool {
        !self.is_cold() && self.nodes.is_none() && self.ending.is_none()
    }
}

/// With more live tasks than this, one that is wanted for its name is looked for among the names, not among the live.
const FEW_LIVE: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// What waits, and what holds something on a node.
    Live,
    OnNode,
    Named,
    OfProject,
    /// All, by what stands in the cold row.
    Cold,
    /// All that ended, by what stands in the hot row.
    Ended,
}

impl Source {
    /// `live`: tasks that live, of all projects; `own`: all tasks of the project that is asked for.
    pub(super) fn of(wanted: &Wanted, is_live: bool, live: u64, own: u64) -> Self {
        let is_small_project = wanted.project.is_some() && wanted.nodes.is_none() && own < live;
        let is_among_live = live <= FEW_LIVE || !wanted.is_cold() && !is_small_project;
        match wanted {
            _ if is_live && is_among_live => Self::Live,
            Wanted { nodes: Some(_), .. } => Self::OnNode,
            _ if !wanted.names.is_empty() => Self::Named,
            Wanted { project: Some(_), states, .. } if is_live || states.is_none() || wanted.is_cold() => {
                Self::OfProject
            }
            _ if wanted.is_cold() => Self::Cold,
            _ => Self::Ended,
        }
    }

    /// What it gives needs no further check.
    pub(super) fn is_whole(self) -> bool {
        self == Self::Ended
    }

    /// What stands in the cold rows of what it gives needs no further check.
    pub(super) fn is_cold(self) -> bool {
        matches!(self, Self::Named | Self::OfProject | Self::Cold)
    }

    /// Of one slice.
    pub(super) fn statements(self, wanted: &Wanted) -> usize {
        if self == Self::Named { wanted.names.len() } else { 1 }
    }

    /// The next candidates before this id, of `size` rows.
    pub(super) async fn slice(
        self,
        connection: &mut PgConnection,
        wanted: &Wanted,
        before: Uuid,
        size: usize,
    ) -> Result<Slice, StoreError> {
        let limit = size as i64;
        let rows = match self {
            Self::Live => {
                let (waiting, placed) = wanted.live_kinds();
                let waiting =
                    if waiting { waiting_slice(connection, wanted, before, size).await? } else { Slice::default() };
                let holding =
                    if placed { holding_slice(connection, wanted, before, size).await? } else { Slice::default() };
                return Ok(waiting.merge(holding));
            }
            Self::OnNode => sqlx::query_as!(
                Candidate,
                r#"SELECT task_id AS id, node_id = ANY($2) AS "fits!" FROM attempts WHERE task_id < $1 ORDER BY task_id DESC, number DESC LIMIT $3"#,
                before,
                wanted.nodes.as_deref().unwrap_or_default(),
                limit
            )
            .fetch_all(connection)
            .await?,
            Self::Named => {
                let size = size.div_ceil(wanted.names.len()).max(2);
                let mut slice = Slice::default();
                for name in &wanted.names {
                    slice = slice.merge(named_slice(connection, wanted, name, before, size).await?);
                }
                return Ok(slice);
            }
            Self::OfProject => sqlx::query_as!(
                Candidate,
                r#"SELECT id, ($4::text IS NULL OR starts_with(name, $4)) AND ($5::jsonb IS NULL OR metadata @> $5) AS "fits!" FROM tasks
                   WHERE (project_id, id) < ($1, $2) AND project_id >= $1 ORDER BY project_id DESC, id DESC LIMIT $3"#,
                wanted.project,
                before,
                limit,
                wanted.beginning,
                wanted.label
            )
            .fetch_all(connection)
            .await?,
            Self::Cold => sqlx::query_as!(
                Candidate,
                r#"SELECT id, ($3::text IS NULL OR starts_with(name, $3)) AND ($4::jsonb IS NULL OR metadata @> $4) AS "fits!" FROM tasks
                   WHERE id < $1 ORDER BY id DESC LIMIT $2"#,
                before,
                limit,
                wanted.beginning,
                wanted.label
            )
            .fetch_all(connection)
            .await?,
            Self::Ended => sqlx::query_as!(
                Candidate,
                r#"SELECT task_id AS id, ended_at IS NOT NULL AND ($3::text[] IS NULL OR state = ANY($3)) AND ($4::uuid IS NULL OR project_id = $4)
                     AS "fits!" FROM task_state WHERE task_id < $1 ORDER BY task_id DESC LIMIT $2"#,
                before,
                limit,
                wanted.states.as_deref(),
                wanted.project
            )
            .fetch_all(connection)
            .await?,
        };
        Ok(Slice::of(rows, size))
    }
}

/// A row of a source, in the order of its index.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: Uuid,
    /// By what stands in this row.
    fits: bool,
}

/// Candidates, the newest first, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) ids: Vec<Uuid>,
    /// Everything down to this id was looked at; None: everything.
    pub(super) until: Option<Uuid>,
}

impl Slice {
    /// From the rows in the order of the index: the id, and whether it may be wanted.
    fn of(mut rows: Vec<Candidate>, size: usize) -> Self {
        let mut until = None;
        if rows.len() >= size
            && let Some(last) = rows.last().map(|row| row.id)
        {
            // Of the last one there may be more rows: it is looked at again.
            if let Some(at) = rows.iter().rposition(|row| row.id != last) {
                rows.truncate(at + 1);
            }
            until = rows.last().map(|row| row.id);
        }
        let mut ids: Vec<Uuid> = rows.into_iter().filter(|row| row.fits).map(|row| row.id).collect();
        ids.dedup();
        Self { ids, until }
    }

    /// Both, as far as both were looked at.
    fn merge(self, other: Self) -> Self {
        let until = self.until.max(other.until);
        let mut ids: Vec<Uuid> =
            self.ids.into_iter().chain(other.ids).filter(|id| until.is_none_or(|until| *id >= until)).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.dedup();
        Self { ids, until }
    }
}

async fn named_slice(
    connection: &mut PgConnection,
    wanted: &Wanted,
    name: &str,
    before: Uuid,
    size: usize,
) -> Result<Slice, StoreError> {
    let rows = sqlx::query_as!(
        Candidate,
        r#"SELECT id, ($4::uuid IS NULL OR project_id = $4) AND ($5::jsonb IS NULL OR metadata @> $5) AS "fits!" FROM tasks
           WHERE (name COLLATE "C", id) < ($1, $2) AND name COLLATE "C" >= $1 ORDER BY name COLLATE "C" DESC, id DESC LIMIT $3"#,
        name,
        before,
        size as i64,
        wanted.project,
        wanted.label
    )
    .fetch_all(connection)
    .await?;
    Ok(Slice::of(rows, size))
}

async fn waiting_slice(
    connection: &mut PgConnection,
    wanted: &Wanted,
    before: Uuid,
    size: usize,
) -> Result<Slice, StoreError> {
    let rows = sqlx::query_as!(
            Candidate,
            r#"SELECT task_id AS id, ($3::uuid IS NULL OR project_id = $3) AND (NOT $4 OR attempts > 0) AS "fits!" FROM task_state
               WHERE queued AND task_id < $1 ORDER BY task_id DESC LIMIT $2"#,
            before,
            size as i64,
            wanted.project,
            wanted.nodes.is_some()
        )
        .fetch_all(connection)
        .await?;
    Ok(Slice::of(rows, size))
}

/// `number > 0` is always true: it names the index by task.
async fn holding_slice(
    connection: &mut PgConnection,
    wanted: &Wanted,
    before: Uuid,
    size: usize,
) -> Result<Slice, StoreError> {
    let rows = sqlx::query_as!(
        Candidate,
        r#"SELECT task_id AS id, ($3::uuid[] IS NULL OR node_id = ANY($3)) AS "fits!" FROM attempts
               WHERE reserved AND number > 0 AND task_id < $1 ORDER BY task_id DESC LIMIT $2"#,
        before,
        size as i64,
        wanted.nodes.as_deref()
    )
    .fetch_all(connection)
    .await?;
    Ok(Slice::of(rows, size))
}

/// With so many names that begin alike or fewer, each is looked for by itself.
const FEW_NAMES: usize = 4;

impl Store {
    /// The names that are wanted, when there are few. Each is found by one step in the index, however many tasks have it.
    pub(super) async fn few_names(&self, wanted: &Wanted) -> Result<Vec<String>, StoreError> {
        let Some(beginning) = &wanted.beginning else { return Ok(wanted.name.iter().cloned().collect()) };
        let names = sqlx::query_scalar!(
            r#"WITH RECURSIVE next AS (
                 (SELECT name FROM tasks WHERE name COLLATE "C" >= $1 AND name COLLATE "C" < $2 ORDER BY name COLLATE "C" LIMIT 1)
                 UNION ALL
                 SELECT (SELECT t.name FROM tasks t WHERE t.name COLLATE "C" > next.name AND t.name COLLATE "C" < $2 ORDER BY t.name COLLATE "C" LIMIT 1)
                 FROM next WHERE next.name IS NOT NULL
               ) SELECT name AS "name!" FROM next WHERE name IS NOT NULL LIMIT $3"#,
            beginning,
            format!("{beginning}{}", char::MAX),
            FEW_NAMES as i64 + 1
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(if names.len() > FEW_NAMES { Vec::new() } else { names })
    }

    /// All that may be wanted, when an index finds that there are few; they are to be checked.
    pub(super) async fn few(&self, wanted: &Wanted) -> Result<Option<Vec<Uuid>>, StoreError> {
        let most = SLICE as i64;
        let found = if let Some(ending) = &wanted.ending {
            sqlx::query_scalar!(
                r#"SELECT id FROM tasks WHERE reverse(right(id::text, 8)) ~>=~ left($1, 8) AND reverse(right(id::text, 8)) ~<~ (left($1, 8) || 'g')
                     AND starts_with(reverse(replace(id::text, '-', '')), $1)
                   ORDER BY reverse(right(id::text, 8)) USING ~<~ LIMIT $2"#,
                ending,
                most
            )
            .fetch_all(&self.pool)
            .await?
        } else if let Some(name) = &wanted.name {
            sqlx::query_scalar!(
                r#"SELECT id FROM tasks WHERE name COLLATE "C" >= $1 AND name COLLATE "C" <= $1 ORDER BY name COLLATE "C", id LIMIT $2"#,
                name,
                most
            )
            .fetch_all(&self.pool)
            .await?
        } else if let Some(beginning) = &wanted.beginning {
            sqlx::query_scalar!(
                r#"SELECT id FROM tasks WHERE name COLLATE "C" >= $1 AND name COLLATE "C" < $2 ORDER BY name COLLATE "C", id LIMIT $3"#,
                beginning,
                format!("{beginning}{}", char::MAX),
                most
            )
            .fetch_all(&self.pool)
            .await?
        } else if let Some(label) = &wanted.label {
            // Never by reading the table: that is off for all connections of the platform.
            sqlx::query_scalar!("SELECT id FROM tasks WHERE metadata <> '{}' AND metadata @> $1 LIMIT $2", label, most)
                .fetch_all(&self.pool)
                .await?
        } else {
            return Ok(None);
        };
        // An ending of an id is one of few, whatever else is asked.
        let are_all = wanted.ending.is_some() || found.len() < SLICE;
        Ok(are_all.then_some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(of: &[u128]) -> Vec<Uuid> {
        of.iter().map(|n| Uuid::from_u128(*n)).collect()
    }
    fn rows(of: &[(u128, bool)]) -> Vec<Candidate> {
        of.iter().map(|(n, fits)| Candidate { id: Uuid::from_u128(*n), fits: *fits }).collect()
    }

    #[test]
    fn a_full_slice_ends_where_no_row_of_the_same_task_can_follow() {
        let full = Slice::of(rows(&[(9, true), (8, false), (7, true), (7, true)]), 4);
        assert_eq!(full, Slice { ids: ids(&[9]), until: Some(Uuid::from_u128(8)) });
        let last = Slice::of(rows(&[(9, true), (7, false), (7, true)]), 4);
        assert_eq!(last, Slice { ids: ids(&[9, 7]), until: None });
    }

    #[test]
    fn two_slices_are_one_as_far_as_both_were_looked_at() {
        let one = Slice { ids: ids(&[9, 5, 3]), until: Some(Uuid::from_u128(3)) };
        let other = Slice { ids: ids(&[8, 5, 4, 1]), until: None };
        assert_eq!(one.merge(other), Slice { ids: ids(&[9, 8, 5, 4, 3]), until: Some(Uuid::from_u128(3)) });
    }
}
