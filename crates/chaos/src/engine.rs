//! Runs one scenario from an empty platform to the verdict.

use crate::{
    evidence, oracle,
    report::Report,
    scenario::{Scenario, Seen},
    settle,
    wait::until,
    workload::Trickle,
    world::{QUIET_WITHIN, Run, World},
};
use anyhow::Context as _;
use std::{fs, time::Duration};
use tokio::time::Instant;

/// How often a short task is asked for meanwhile.
const SHORT_EVERY: Duration = Duration::from_millis(700);

/// Damage done on purpose after the verdict, to show that the oracle would have seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// A piece of one stored log is deleted.
    DeleteLogChunk,
    /// A task that was accepted is deleted with all its history.
    ForgetTask,
    /// A line of a task's own ledger is changed.
    ForgeLedger,
}

pub async fn play(run: &mut Run, scenario: &Scenario, sabotage: Option<Sabotage>) -> anyhow::Result<Report> {
    let began = Instant::now();
    let mut world = World::start(run, scenario.id, &(scenario.shape)()).await.context("putting the platform up")?;
    for wanted in (scenario.work)() {
        world.submitter.submit(wanted).await.context("submitting the long tasks")?;
    }
    until("the long tasks are under way", QUIET_WITHIN, async || under_way(&world).then_some(())).await?;
    let before = world.usage();
    let trickle = Trickle::start(&world.submitter, SHORT_EVERY);
    let seen = (scenario.inject)(run, &mut world).await;
    trickle.stop().await;
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => Seen { broken: vec![format!("{error:#}")], ..Seen::of(scenario.what) },
    };
    let left = settle::quiet(&world, &run.docker).await;
    let mut findings = oracle::judge(&evidence::gather(&world).await.context("gathering what is left to judge by")?);
    findings.left = left;
    findings.broken = settle::grown(&before, &world.usage());
    if scenario.work_survives && findings.again > 0 {
        findings.broken.push(format!("{} attempts were begun again, and none should have been lost", findings.again));
    }
    findings.broken.extend(settle::audit(&world).await);
    if let Some(sabotage) = sabotage {
        harm(&world, sabotage)?;
        let damaged = oracle::judge(&evidence::gather(&world).await?);
        if damaged.is_clean() {
            findings.broken.push(format!("the oracle is blind: it did not notice {sabotage:?}"));
        }
    }
    let history = serde_json::to_string_pretty(&world.submitter.history())?;
    fs::write(world.dir.join("history.json"), history)?;
    if let Err(error) = world.stop().await {
        findings.broken.push(format!("{error:#}"));
    }
    findings.left.extend(settle::processes_left());
    findings.left.extend(settle::networks_left());
    // What one fault has left must not be counted for the next one too.
    run.docker.clear()?;
    Ok(Report {
        id: scenario.id.into(),
        what: scenario.what.into(),
        seen,
        findings,
        took_s: began.elapsed().as_secs_f64(),
    })
}

/// Every long task has done its second step.
fn under_way(world: &World) -> bool {
    let ledger = world.ledger.read().unwrap_or_default();
    let asked = world.submitter.asked();
    asked.iter().filter(|asked| asked.wanted.steps > 1).all(|asked| {
        let lines = asked.id.and_then(|id| ledger.get(&id.to_string()));
        lines.is_some_and(|lines| lines.len() >= 2)
    })
}

pub(crate) fn harm(world: &World, sabotage: Sabotage) -> anyhow::Result<()> {
    let asked = world.submitter.asked();
    let victim = asked.iter().find_map(|asked| asked.id).context("a task to harm")?;
    match sabotage {
        Sabotage::DeleteLogChunk => world.database.sql(&format!(
            "DELETE FROM log_chunks WHERE (attempt_id, ordinal) IN (SELECT attempt_id, max(ordinal) FROM log_chunks
             WHERE stream = 1 AND attempt_id IN (SELECT id FROM attempts WHERE task_id = '{victim}') GROUP BY 1)"
        )),
        Sabotage::ForgetTask => world.database.sql(&format!(
            "SET session_replication_role = replica; DELETE FROM task_state WHERE task_id = '{victim}';
             DELETE FROM attempts WHERE task_id = '{victim}'; DELETE FROM tasks WHERE id = '{victim}'"
        )),
        Sabotage::ForgeLedger => {
            let path = fs::read_dir(world.dir.join("ledger"))?
                .flatten()
                .map(|entry| entry.path())
                .find(|path| path.extension().is_some());
            let path = path.context("a ledger of a process task")?;
            let text = fs::read_to_string(&path)?;
            let (first, rest) = text.split_once('\n').context("a line")?;
            fs::write(&path, format!("{first}x\n{rest}"))?;
            Ok(Vec::new())
        }
    }
    .map(drop)
}
