//! Lists tasks: live ones first, then the newest, page by page. The work of a page is bounded, whatever the history: candidates come in
//! bounded slices in the order of an index (`list_sources.rs`), each slice is checked, and a page that would need too many of them is
//! short and says where the next one goes on.

use crate::{
    Store, StoreError, TaskView,
    tasks::list_sources::{Slice, Source, Wanted},
};
use domain::{
    ids::{ProjectId, TaskId},
    principal::Scope,
    task::TaskState,
};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Everything that is set must hold.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    pub states: Vec<TaskState>,
    pub project: Option<String>,
    /// Name or id of the last attempt's node.
    pub node: Option<String>,
    /// Exact, or the beginning when `name_is_prefix`.
    pub name: Option<String>,
    pub name_is_prefix: bool,
    /// A key of the metadata and its value.
    pub label: Option<(String, String)>,
    /// The end of an id.
    pub id_suffix: Option<String>,
}

/// Where a page ended: (was the last task live, its id). The task need not be one that the filter finds.
pub type ListCursor = (bool, TaskId);

#[derive(Clone, Debug)]
pub struct TaskList {
    /// Fewer than asked for, even none, does not mean that there are no more: only `next` tells.
    pub tasks: Vec<TaskView>,
    /// All that the filter finds, and of those the live ones.
    pub found: u64,
    pub live: u64,
    /// They were not counted to the end: there are at least so many.
    pub counts_are_minimum: bool,
    pub next: Option<ListCursor>,
}

/// So many candidates are looked at by one statement. Each may lie on a page of its own.
pub(super) const SLICE: usize = 400;
/// So many rows are looked up by their ids by one statement: each costs a path through the index and a page.
const CHECKED_AT_ONCE: usize = 100;
/// Statements of one page, after which it is handed out as it is.
const MOST_STATEMENTS: usize = 40;

/// A page in the making.
struct Page {
    limit: usize,
    /// Live ones first, then the newest.
    ids: Vec<(bool, Uuid)>,
    statements_left: usize,
}

impl Store {
    pub async fn list_tasks(
        &self,
        scope: Scope,
        filter: &TaskFilter,
        after: Option<ListCursor>,
        limit: u32,
    ) -> Result<TaskList, StoreError> {
        let Some(wanted) = self.wanted(scope, filter).await? else { return Ok(nothing()) };
        let counts = self.counts_of(wanted.project).await?;
        let counted = |is_live: bool| -> u64 {
            let of = |(state, count): (&TaskState, &u64)| {
                (state.is_terminal() != is_live && wanted.is_state(*state)).then_some(*count)
            };
            counts.iter().filter_map(of).sum()
        };
        let mut page = Page { limit: limit as usize, ids: Vec::new(), statements_left: MOST_STATEMENTS };
        let after = after.map(|(is_live, id)| (is_live, id.as_uuid()));
        if let Some(few) = self.few(&wanted).await? {
            let found = self.check(&wanted, None, few).await?;
            let counts = (found.len() as u64, found.iter().filter(|(is_live, _)| *is_live).count() as u64);
            let mut found: Vec<_> =
                found.into_iter().filter(|place| after.is_none_or(|after| *place < after)).collect();
            found.sort_unstable_by(|a, b| b.cmp(a));
            page.ids = found;
            let next = page.cut();
            return self.answer(scope, page, counts, false, next).await;
        }
        let all = if wanted.project.is_some() { self.counts_of(None).await? } else { counts.clone() };
        let live = all.iter().filter(|(state, _)| !state.is_terminal()).map(|(_, count)| count).sum();
        let sources = [true, false].map(|part| Source::of(&wanted, part, live, counts.values().sum()));
        let next = self.walk(&wanted, after, sources, counted, &mut page).await?;
        if wanted.is_counted() {
            return self.answer(scope, page, (counted(false) + counted(true), counted(true)), false, next).await;
        }
        let live = page.ids.iter().filter(|(is_live, _)| *is_live).count() as u64;
        let found = page.ids.len() as u64 + u64::from(next.is_some());
        let is_minimum = after.is_some() || next.is_some();
        self.answer(scope, page, (found, live), is_minimum, next).await
    }

    /// Fills the page, from a source of live tasks and one of ended ones; where the next one goes on.
    async fn walk(
        &self,
        wanted: &Wanted,
        after: Option<(bool, Uuid)>,
        sources: [Source; 2],
        counted: impl Fn(bool) -> u64,
        page: &mut Page,
    ) -> Result<Option<(bool, Uuid)>, StoreError> {
        for (is_live, source) in [true, false].into_iter().zip(sources) {
            let begin = match after {
                Some((was_live, _)) if was_live != is_live && is_live => continue,
                Some((was_live, id)) if was_live == is_live => id,
                _ => Uuid::max(),
            };
            let all = counted(is_live);
            if all == 0 {
                continue;
            }
            let (mut before, mut slice_size) = (begin, (page.limit + 2).min(SLICE));
            let has_before = page.ids.len();
            loop {
                if page.statements_left == 0 {
                    return Ok(Some((is_live, before)));
                }
                let Slice { ids, until } = self.slice(source, wanted, before, slice_size).await?;
                page.statements_left -= 1;
                let ids = if source.is_whole() {
                    ids.into_iter().map(|id| (is_live, id)).collect()
                } else {
                    page.statements_left = page.statements_left.saturating_sub(ids.len().div_ceil(CHECKED_AT_ONCE));
                    self.check(wanted, Some(is_live), ids).await?
                };
                // What ended while it was read is in both parts.
                let known: BTreeSet<Uuid> = page.ids.iter().map(|(_, id)| *id).collect();
                page.ids.extend(ids.into_iter().filter(|(_, id)| !known.contains(id)));
                if let Some(next) = page.cut() {
                    return Ok(Some(next));
                }
                let Some(until) = until else { break };
                let is_all = begin == Uuid::max() && wanted.is_counted() && (page.ids.len() - has_before) as u64 >= all;
                if is_all {
                    break;
                }
                (before, slice_size) = (until, SLICE);
            }
        }
        Ok(None)
    }

    /// Of these the ones that are wanted, in their order. `part`: only live ones, or only ended ones.
    async fn check(
        &self,
        wanted: &Wanted,
        part: Option<bool>,
        ids: Vec<Uuid>,
    ) -> Result<Vec<(bool, Uuid)>, StoreError> {
        let mut found = Vec::new();
        for ids in ids.chunks(CHECKED_AT_ONCE) {
            let hot = sqlx::query!(
                r#"SELECT task_id, ended_at IS NULL AS "is_live!", attempts FROM task_state
                   WHERE task_id = ANY($1) AND ($2::text[] IS NULL OR state = ANY($2)) AND ($3::uuid IS NULL OR project_id = $3)"#,
                ids,
                wanted.states.as_deref(),
                wanted.project
            )
            .fetch_all(&self.pool)
            .await?;
            let mut fits: BTreeMap<Uuid, (bool, i32)> = hot
                .into_iter()
                .filter(|row| part.is_none_or(|part| part == row.is_live))
                .map(|row| (row.task_id, (row.is_live, row.attempts)))
                .collect();
            if wanted.is_cold() && !fits.is_empty() {
                let cold = sqlx::query_scalar!(
                    r#"SELECT id FROM tasks WHERE id = ANY($1) AND ($2::text IS NULL OR name = $2) AND ($3::text IS NULL OR starts_with(name, $3))
                         AND ($4::jsonb IS NULL OR metadata @> $4)"#,
                    &fits.keys().copied().collect::<Vec<Uuid>>(),
                    wanted.name,
                    wanted.beginning,
                    wanted.label
                )
                .fetch_all(&self.pool)
                .await?;
                fits.retain(|id, _| cold.contains(id));
            }
            if let Some(nodes) = wanted.nodes.as_deref().filter(|_| !fits.is_empty()) {
                let there = sqlx::query_scalar!(
                    r#"SELECT a.task_id FROM UNNEST($1::uuid[], $2::int[]) AS w(id, number)
                       JOIN attempts a ON a.task_id = w.id AND a.number = w.number WHERE a.node_id = ANY($3)"#,
                    &fits.keys().copied().collect::<Vec<Uuid>>(),
                    &fits.values().map(|(_, attempts)| *attempts).collect::<Vec<i32>>(),
                    nodes
                )
                .fetch_all(&self.pool)
                .await?;
                fits.retain(|id, _| there.contains(id));
            }
            found.extend(ids.iter().filter_map(|id| fits.get(id).map(|(is_live, _)| (*is_live, *id))));
        }
        Ok(found)
    }

    /// What the filter means. None: it can find nothing.
    async fn wanted(&self, scope: Scope, filter: &TaskFilter) -> Result<Option<Wanted>, StoreError> {
        let mut project = scope.project().map(ProjectId::as_uuid);
        if let Some(slug) = &filter.project {
            let Some(named) = self.project_by_slug(slug).await?.map(ProjectId::as_uuid) else { return Ok(None) };
            if project.is_some_and(|own| own != named) {
                return Ok(None);
            }
            project = Some(named);
        }
        let nodes = match &filter.node {
            None => None,
            Some(node) => Some(self.node_ids(node).await?),
        };
        if nodes.as_ref().is_some_and(Vec::is_empty) {
            return Ok(None);
        }
        let (name, beginning) = match &filter.name {
            Some(beginning) if filter.name_is_prefix => (None, Some(beginning.clone()).filter(|it| !it.is_empty())),
            name => (name.clone(), None),
        };
        let states: Vec<String> = filter.states.iter().map(|state| state.as_str().to_owned()).collect();
        Ok(Some(Wanted {
            project,
            states: (!states.is_empty()).then_some(states),
            nodes,
            name,
            beginning,
            label: filter.label.as_ref().map(|(key, value)| serde_json::json!({ key: value })),
            ending: filter.id_suffix.as_ref().map(|ending| reversed_ending(ending)),
        }))
    }

    async fn answer(
        &self,
        scope: Scope,
        page: Page,
        (found, live): (u64, u64),
        counts_are_minimum: bool,
        next: Option<(bool, Uuid)>,
    ) -> Result<TaskList, StoreError> {
        let ids: Vec<TaskId> = page.ids.iter().map(|(_, id)| TaskId::from_uuid(*id)).collect();
        let tasks = self.task_views(scope, &ids).await?;
        let next = next.map(|(is_live, id)| (is_live, TaskId::from_uuid(id)));
        Ok(TaskList { tasks, found, live, counts_are_minimum, next })
    }
}

impl Page {
    /// With more than it holds: leaves off the rest, and says where the next page goes on.
    fn cut(&mut self) -> Option<(bool, Uuid)> {
        let is_over = self.ids.len() > self.limit;
        self.ids.truncate(self.limit);
        self.ids.last().copied().filter(|_| is_over)
    }
}

fn nothing() -> TaskList {
    TaskList { tasks: Vec::new(), found: 0, live: 0, counts_are_minimum: false, next: None }
}

/// The hex digits of an id's end, the last one first: as they are indexed.
pub(crate) fn reversed_ending(ending: &str) -> String {
    ending.chars().rev().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase()
}
