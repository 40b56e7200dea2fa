//! Lists tasks: live ones first, then the newest, page by page. The work of a page is bounded, whatever the history: candidates come in
//! bounded slices in the order of an index (`list_sources.rs`), each slice is checked, and a page that would need too many of them is
//! short and says where the next one goes on (`list_walk.rs`).

use crate::{
    Store, StoreError, TaskView,
    tasks::{
        list_sources::{Source, Wanted},
        list_walk::{Page, check},
    },
};
use domain::{
    ids::{ProjectId, TaskId},
    principal::Scope,
    task::TaskState,
};

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

impl Store {
    pub async fn list_tasks(
        &self,
        scope: Scope,
        filter: &TaskFilter,
        after: Option<ListCursor>,
        limit: u32,
    ) -> Result<TaskList, StoreError> {
        let Some(mut wanted) = self.wanted(scope, filter).await? else { return Ok(nothing()) };
        let counts = self.counts_of(wanted.project).await?;
        let mut page = Page::new(limit as usize);
        let after = after.map(|(is_live, id)| (is_live, id.as_uuid()));
        if let Some(few) = self.few(&wanted).await? {
            let mut connection = self.pool.acquire().await?;
            let mut found = check(&mut connection, &wanted, false, None, &few).await?;
            drop(connection);
            let counts = (found.len() as u64, found.iter().filter(|(is_live, _)| *is_live).count() as u64);
            found.sort_unstable_by(|a, b| b.cmp(a));
            page.add(found.into_iter().filter(|place| after.is_none_or(|after| *place < after)));
            let next = page.cut();
            return self.answer(scope, page, counts, false, next).await;
        }
        wanted.names = self.few_names(&wanted).await?;
        let counted = |is_live: bool| -> u64 {
            let of = |(state, count): (&TaskState, &u64)| {
                (state.is_terminal() != is_live && wanted.is_state(*state)).then_some(*count)
            };
            counts.iter().filter_map(of).sum()
        };
        let all = if wanted.project.is_some() { self.counts_of(None).await? } else { counts.clone() };
        let live = all.iter().filter(|(state, _)| !state.is_terminal()).map(|(_, count)| count).sum();
        let sources = [true, false].map(|part| Source::of(&wanted, part, live, counts.values().sum()));
        let next = self.walk(&wanted, after, sources, counted, &mut page).await?;
        if wanted.is_counted() {
            return self.answer(scope, page, (counted(false) + counted(true), counted(true)), false, next).await;
        }
        let live = page.places.iter().filter(|(is_live, _)| *is_live).count() as u64;
        let found = page.places.len() as u64 + u64::from(next.is_some());
        let is_minimum = after.is_some() || next.is_some();
        self.answer(scope, page, (found, live), is_minimum, next).await
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
            names: Vec::new(),
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
        next: Option<(bool, uuid::Uuid)>,
    ) -> Result<TaskList, StoreError> {
        let ids: Vec<TaskId> = page.places.iter().map(|(_, id)| TaskId::from_uuid(*id)).collect();
        let tasks = self.task_views(scope, &ids).await?;
        let next = next.map(|(is_live, id)| (is_live, TaskId::from_uuid(id)));
        Ok(TaskList { tasks, found, live, counts_are_minimum, next })
    }
}

fn nothing() -> TaskList {
    TaskList { tasks: Vec::new(), found: 0, live: 0, counts_are_minimum: false, next: None }
}

/// The hex digits of an id's end, the last one first: as they are indexed.
pub(crate) fn reversed_ending(ending: &str) -> String {
    ending.chars().rev().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase()
}
