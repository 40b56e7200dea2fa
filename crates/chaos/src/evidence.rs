//! Gathers what the oracle judges: from the API, from the history in the database, from the ledger.

use crate::{
    oracle::{AttemptEvidence, TaskEvidence},
    world::World,
};
use anyhow::Context as _;
use api_types::{log::LogQuery, task::Attempt};
use client::Client;
use domain::ids::TaskId;
use futures::TryStreamExt as _;
use std::collections::BTreeMap;

/// All that was asked for, and what became of it.
pub async fn gather(world: &World) -> anyhow::Result<Vec<TaskEvidence>> {
    let ledger = world.ledger.read()?;
    let all_asked = world.submitter.asked();
    // There may be many others, which were judged before.
    let ids: Vec<String> = all_asked.iter().filter_map(|asked| Some(asked.id?.to_string())).collect();
    let ids = format!("ANY('{{{}}}'::uuid[])", ids.join(","));
    let endings = counts(
        world,
        &format!(
            "SELECT task_id, count(*) FROM task_events, json_array_elements(events) AS entry
             WHERE entry->>'event' = 'finished' AND task_id = {ids} GROUP BY 1"
        ),
    )?;
    let gaps = counts(
        world,
        &format!(
            "SELECT attempt_id, sum(gap)::bigint FROM log_chunks WHERE stream = 1 AND gap > 0
             AND attempt_id IN (SELECT id FROM attempts WHERE task_id = {ids}) GROUP BY 1"
        ),
    )?;
    let mut all = Vec::new();
    for asked in all_asked {
        let wanted = &asked.wanted;
        let id = asked.id.map(|id| id.to_string()).unwrap_or_default();
        let mut evidence = TaskEvidence {
            name: wanted.name.clone(),
            accepted: asked.id.is_some(),
            id: id.clone(),
            steps: wanted.steps,
            exit_code: wanted.exit_code,
            exclusive: wanted.exclusive,
            endings: endings.get(&id).copied().unwrap_or(0) as u32,
            ledger: ledger.get(&id).cloned().unwrap_or_default(),
            ..TaskEvidence::default()
        };
        if let Some(task_id) = asked.id
            && let Some(task) = world.task(task_id).await
        {
            evidence.state = Some(task.state.as_str().to_owned());
            evidence.shown_exit_code = task.exit_code;
            for attempt in task.attempts.unwrap_or_default() {
                let log = log(&world.clients[0], task_id, attempt.number).await?;
                evidence.attempts.push(attempt_evidence(&attempt, log, &gaps));
            }
        }
        all.push(evidence);
    }
    Ok(all)
}

fn attempt_evidence(attempt: &Attempt, log: Vec<u8>, gaps: &BTreeMap<String, u64>) -> AttemptEvidence {
    use domain::{attempt::AttemptState, outcome::FailureKind};
    let ended_by_itself = attempt.state == AttemptState::Succeeded || attempt.failure == Some(FailureKind::ExitNonzero);
    AttemptEvidence {
        number: attempt.number,
        fence: attempt.fence,
        succeeded_or_ended_by_itself: ended_by_itself,
        log,
        gap_bytes: gaps.get(&attempt.id.to_string()).copied().unwrap_or(0),
    }
}

/// Rows of a name and a number.
fn counts(world: &World, statement: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let rows = world.database.sql(statement)?;
    rows.iter()
        .map(|row| {
            let (name, count) = row.split_once('|').context("two columns")?;
            Ok((name.to_owned(), count.parse()?))
        })
        .collect()
}

async fn log(client: &Client, id: TaskId, attempt: u32) -> anyhow::Result<Vec<u8>> {
    let query = LogQuery { attempt: Some(attempt), stream: Some("stdout".into()), ..LogQuery::default() };
    let bytes = client.log_bytes(id, &query).await?;
    let whole = bytes.try_fold(Vec::new(), async |mut all: Vec<u8>, piece| {
        all.extend_from_slice(&piece);
        Ok(all)
    });
    Ok(whole.await?)
}
