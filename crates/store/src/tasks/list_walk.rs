//! The way to a page: candidates are taken slice by slice from a source of live tasks and then from one of ended ones, and each is
//! checked, until the page is full or enough was done for one page.
//!
//! Where live tasks are looked for among all tasks, the ended ones that are met among the newest are kept, so that nobody looks there
//! twice, and stretches in which nothing lives are passed over.

use crate::{
    Store, StoreError,
    tasks::list_sources::{SLICE, Slice, Source, Wanted},
};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// So many rows are looked up by their ids by one statement: each costs a path through the index and a page.
const CHECKED_AT_ONCE: usize = 100;
/// Statements of one page, after which it is handed out as it is.
const MOST_STATEMENTS: usize = 40;

/// Is the task live, its id: in the order of a list when the greatest comes first.
pub(super) type Place = (bool, Uuid);

/// A page in the making.
pub(super) struct Page {
    limit: usize,
    pub(super) places: Vec<Place>,
    statements_left: usize,
}

impl Page {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, places: Vec::new(), statements_left: MOST_STATEMENTS }
    }

    pub(super) fn add(&mut self, places: impl IntoIterator<Item = Place>) {
        // What ended while it was read is in both parts.
        let mut known: BTreeSet<Uuid> = self.places.iter().map(|(_, id)| *id).collect();
        self.places.extend(places.into_iter().filter(|(_, id)| known.insert(*id)));
    }

    /// With more than it holds: leaves off the rest, and says where the next page goes on.
    pub(super) fn cut(&mut self) -> Option<Place> {
        let is_over = self.places.len() > self.limit;
        self.places.truncate(self.limit);
        self.places.last().copied().filter(|_| is_over)
    }
}

/// One of the two parts of a list.
struct Part {
    is_live: bool,
    source: Source,
    /// Only what lies before this id.
    before: Uuid,
    /// With so many places the page has all of it, where the counters know.
    whole: Option<usize>,
}

/// Ended tasks that were met among the newest of all tasks.
struct Met {
    places: Vec<Place>,
    /// These are all down to here.
    until: Uuid,
    /// Everything was looked at so far, so they can still become more.
    is_open: bool,
}

/// What is known of the live tasks on the way of a walk among all tasks.
struct Ahead {
    /// Between the place where it was asked and this one, nothing lives.
    next: Uuid,
    /// Slices with live tasks that were read since, and after how many it is asked again.
    slices: u32,
    patience: u32,
}

struct Walk<'a> {
    connection: &'a mut PgConnection,
    wanted: &'a Wanted,
    page: &'a mut Page,
    met: Met,
}

impl Store {
    /// Fills the page, from a source of live tasks and one of ended ones; where the next one goes on. `counted`: live and ended tasks, or
    /// more, as the counters have it.
    pub(super) async fn walk(
        &self,
        wanted: &Wanted,
        after: Option<Place>,
        [live, ended]: [Source; 2],
        counted: impl Fn(bool) -> u64,
        page: &mut Page,
    ) -> Result<Option<Place>, StoreError> {
        // One for all: each has plans of its own to make.
        let mut connection = self.pool.acquire().await?;
        let met = Met { places: Vec::new(), until: Uuid::max(), is_open: live == ended && after.is_none() };
        let mut walk = Walk { connection: &mut connection, wanted, page, met };
        let whole = |is_live, is_from_top, others: usize| {
            (is_from_top && wanted.is_counted()).then(|| others + counted(is_live) as usize)
        };
        if counted(true) > 0 && after.is_none_or(|(is_live, _)| is_live) {
            let before = after.map_or(Uuid::max(), |(_, id)| id);
            let part = Part { is_live: true, source: live, before, whole: whole(true, after.is_none(), 0) };
            if let Some(next) = walk.part(&part).await? {
                return Ok(Some(next));
            }
        }
        if counted(false) == 0 {
            return Ok(None);
        }
        let whole = whole(false, after.is_none_or(|(is_live, _)| is_live), walk.page.places.len());
        walk.met.is_open = false;
        walk.page.add(std::mem::take(&mut walk.met.places));
        if let Some(next) = walk.page.cut() {
            return Ok(Some(next));
        }
        let before = after.filter(|(is_live, _)| !is_live).map_or(walk.met.until, |(_, id)| id);
        walk.part(&Part { is_live: false, source: ended, before, whole }).await
    }
}

impl Walk<'_> {
    async fn part(&mut self, part: &Part) -> Result<Option<Place>, StoreError> {
        let mut ahead = None;
        if part.is_live && part.source != Source::Live {
            let Some(next) = self.look_ahead(part.before).await? else { return Ok(None) };
            ahead = Some(Ahead { next, slices: 0, patience: 1 });
        }
        let (mut before, mut size) = (part.before, (self.page.limit + 2).min(SLICE));
        loop {
            if self.page.statements_left == 0 {
                return Ok(Some((part.is_live, before)));
            }
            let statements = part.source.statements(self.wanted);
            self.page.statements_left = self.page.statements_left.saturating_sub(statements);
            let Slice { ids, until } = part.source.slice(self.connection, self.wanted, before, size).await?;
            if part.source.is_whole() {
                self.page.add(ids.into_iter().map(|id| (part.is_live, id)));
            } else {
                for ids in ids.chunks(CHECKED_AT_ONCE) {
                    if self.check(part, ahead.as_mut(), ids).await? == Onward::End {
                        return Ok(self.page.cut());
                    }
                    if self.page.places.len() > self.page.limit {
                        break;
                    }
                }
            }
            if let Some(next) = self.page.cut() {
                return Ok(Some(next));
            }
            if self.met.is_open {
                self.met.until = until.unwrap_or(Uuid::nil());
            }
            let Some(until) = until else { return Ok(None) };
            if part.whole.is_some_and(|whole| self.page.places.len() >= whole) {
                return Ok(None);
            }
            (before, size) = (until, SLICE);
            let Some(ahead) = ahead.as_mut() else { continue };
            if ahead.next < until {
                // What lies before it is ended, and is read again for the other part.
                self.met.is_open = false;
                before = Uuid::from_u128(ahead.next.as_u128().saturating_add(1));
                ahead.patience = 1;
                continue;
            }
            ahead.slices += 1;
            if ahead.slices >= ahead.patience {
                let Some(next) = self.look_ahead(until).await? else { return Ok(None) };
                *ahead = Ahead { next, slices: 0, patience: ahead.patience * 2 };
            }
        }
    }

    /// Takes what is wanted of these, which are in their order, to the page.
    async fn check(&mut self, part: &Part, ahead: Option<&mut Ahead>, ids: &[Uuid]) -> Result<Onward, StoreError> {
        let Some(last) = ids.last().copied() else { return Ok(Onward::Next) };
        if !self.met.is_open && ahead.as_ref().is_some_and(|ahead| ahead.next < last) {
            return Ok(Onward::Next);
        }
        self.page.statements_left = self.page.statements_left.saturating_sub(1);
        let only = (!self.met.is_open).then_some(part.is_live);
        let found = check(self.connection, self.wanted, part.source.is_cold(), only, ids).await?;
        let (here, beside): (Vec<Place>, Vec<Place>) =
            found.into_iter().partition(|(is_live, _)| *is_live == part.is_live);
        let is_none_here = here.is_empty();
        self.page.add(here);
        self.met.places.extend(beside);
        if self.met.is_open {
            self.met.until = last;
            // With a page full of them no more is needed.
            self.met.is_open = self.met.places.len() <= self.page.limit;
        }
        if let Some(ahead) = ahead
            && is_none_here
            && ahead.next >= last
        {
            match self.look_ahead(last).await? {
                Some(next) => ahead.next = next,
                None => return Ok(Onward::End),
            }
        }
        Ok(Onward::Next)
    }

    async fn look_ahead(&mut self, before: Uuid) -> Result<Option<Uuid>, StoreError> {
        self.page.statements_left = self.page.statements_left.saturating_sub(1);
        self.wanted.newest_live(self.connection, before).await
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Onward {
    Next,
    /// Nothing lives any more from here on.
    End,
}

/// Of these the ones that are wanted, in their order. `only`: live ones, or ended ones. `is_cold`: what stands in their cold rows fits.
pub(super) async fn check(
    connection: &mut PgConnection,
    wanted: &Wanted,
    is_cold: bool,
    only: Option<bool>,
    ids: &[Uuid],
) -> Result<Vec<Place>, StoreError> {
    let mut found = Vec::new();
    for ids in ids.chunks(CHECKED_AT_ONCE) {
        let hot = sqlx::query!(
            r#"SELECT task_id, ended_at IS NULL AS "is_live!", attempts FROM task_state
               WHERE task_id = ANY($1) AND ($2::text[] IS NULL OR state = ANY($2)) AND ($3::uuid IS NULL OR project_id = $3)"#,
            ids,
            wanted.states.as_deref(),
            wanted.project
        )
        .fetch_all(&mut *connection)
        .await?;
        let mut fits: BTreeMap<Uuid, (bool, i32)> = hot
            .into_iter()
            .filter(|row| only.is_none_or(|only| only == row.is_live))
            .map(|row| (row.task_id, (row.is_live, row.attempts)))
            .collect();
        if wanted.is_cold() && !is_cold && !fits.is_empty() {
            let cold = sqlx::query_scalar!(
                r#"SELECT id FROM tasks WHERE id = ANY($1) AND ($2::text IS NULL OR name = $2) AND ($3::text IS NULL OR starts_with(name, $3))
                     AND ($4::jsonb IS NULL OR metadata @> $4)"#,
                &fits.keys().copied().collect::<Vec<Uuid>>(),
                wanted.name,
                wanted.beginning,
                wanted.label
            )
            .fetch_all(&mut *connection)
            .await?;
            let cold: BTreeSet<Uuid> = cold.into_iter().collect();
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
            .fetch_all(&mut *connection)
            .await?;
            let there: BTreeSet<Uuid> = there.into_iter().collect();
            fits.retain(|id, _| there.contains(id));
        }
        found.extend(ids.iter().filter_map(|id| fits.get(id).map(|(is_live, _)| (*is_live, *id))));
    }
    Ok(found)
}
