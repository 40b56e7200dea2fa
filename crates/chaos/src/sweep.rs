//! The kill sweep: one process after the other dies at its k-th system call of a kind while clients keep the platform busy, and is
//! started again. One platform lives for as long as it keeps its promises. After every few kills the clients pause, and each task
//! that was accepted since the last time is held against its ledger.

mod field;
pub mod plan;
pub mod tally;
mod trap;
mod work;

use crate::{
    engine::{self, Sabotage},
    evidence,
    oracle::{self, Findings},
    settle,
    wait::until,
    world::{Run, Shape, World, work_ends_within},
};
use anyhow::Context as _;
use field::{Field, Outcome};
use plan::Kind;
use std::{collections::BTreeSet, fmt::Write as _, fs, process::Command, time::Duration};
use tally::{Fault, Kill, Tally};
use tokio::time::Instant;
use work::Work;

/// Kills between two audits: few enough to find the one that did it.
const WINDOW: u32 = 25;
/// After so many faults more would say nothing new.
const FAULTS: usize = 5;

#[derive(Clone, Debug)]
pub struct Options {
    pub kills: u32,
    pub seed: u64,
    /// The number of the first kill.
    pub first: u32,
    /// Ends with the next audit after so long.
    pub within: Option<Duration>,
    /// Done before each audit, which must notice it.
    pub sabotage: Option<Sabotage>,
}

/// Errors: no platform could be put up. What goes wrong after that is a fault of the tally. `keep` is told which world has its logs.
pub async fn run(run: &mut Run, options: &Options, keep: impl Fn(&Run, &str)) -> anyhow::Result<Tally> {
    anyhow::ensure!(Command::new("strace").arg("-V").output().is_ok(), "strace is missing; apt-get install strace");
    let began = Instant::now();
    let mut tally = Tally { seed: options.seed, first: options.first, ..Tally::default() };
    let (mut number, mut worlds, mut windows) = (options.first, 0, 0);
    let is_over =
        |tally: &Tally| tally.kills >= options.kills || options.within.is_some_and(|within| began.elapsed() > within);
    while !is_over(&tally) && tally.faults.len() < FAULTS {
        let name = format!("L6-{worlds}");
        worlds += 1;
        let mut field =
            Field::new(World::start(run, &name, &Shape::default()).await.context("putting the platform up")?);
        while !is_over(&tally) {
            let mut window = Window { first: number, ..Window::default() };
            let left = WINDOW.min(options.kills - tally.kills);
            window.play(run, &mut field, options, left, windows, &mut tally).await;
            (number, windows) = (number + window.strikes, windows + 1);
            tally.audits += 1;
            tally.add(&window.findings);
            tally.recovered(&std::mem::take(&mut field.slowest));
            tally.took_s = began.elapsed().as_secs_f64();
            println!("{}", tally.progress());
            if !window.findings.is_clean() {
                let fault = window.fault(&name, options.seed);
                println!("{}", fault.lines());
                tally.faults.push(fault);
                let history = serde_json::to_string_pretty(&field.world.submitter.history())?;
                fs::write(field.world.dir.join("history.json"), history)?;
                keep(run, &name);
                break;
            }
            field.world.submitter.forget_all();
            field.world.ledger.clear()?;
        }
        let stopped = field.world.stop().await;
        let left = settle::processes_left();
        if tally.faults.iter().all(|fault| fault.world != name) && (stopped.is_err() || !left.is_empty()) {
            let broken = stopped.err().map(|error| format!("{error:#}")).into_iter().collect();
            let findings = Findings { left, broken, ..Findings::default() };
            tally.faults.push(Window { first: number, findings, ..Window::default() }.fault(&name, options.seed));
        }
        run.docker.clear()?;
    }
    tally.took_s = began.elapsed().as_secs_f64();
    Ok(tally)
}

/// The kills between two audits.
#[derive(Default)]
struct Window {
    first: u32,
    strikes: u32,
    kills: Vec<Kill>,
    findings: Findings,
}

impl Window {
    async fn play(
        &mut self,
        run: &Run,
        field: &mut Field,
        options: &Options,
        kills: u32,
        window: u32,
        tally: &mut Tally,
    ) {
        let work = Work::start(&field.world, window);
        let struck = self.strike(field, options.seed, kills, tally).await;
        let refused = work.stop().await;
        let audited = match struck {
            Ok(()) => self.audit(run, field, options.sabotage, tally).await,
            Err(error) => Err(error),
        };
        if let Err(error) = audited {
            self.findings.broken.push(format!("{error:#}"));
        }
        self.findings.broken.append(&mut field.broken);
        if refused > 0 {
            self.findings.broken.push(format!("{refused} submissions were refused or never answered"));
        }
    }

    async fn strike(&mut self, field: &mut Field, seed: u64, kills: u32, tally: &mut Tally) -> anyhow::Result<()> {
        // Where calls do not come, the rounds end all the same.
        while self.kills.len() < kills as usize && self.strikes < 3 * kills {
            let number = self.first + self.strikes;
            let strike = plan::strike(seed, number);
            self.strikes += 1;
            let is_last = self.kills.len() + 1 == kills as usize || self.strikes == 3 * kills;
            let again = !is_last && plan::strike(seed, number + 1).from_birth;
            match field.strike(&strike, again).await? {
                Outcome::Killed(at) => {
                    tally.count(&strike);
                    self.kills.push(Kill { strike, at });
                }
                Outcome::Spared => tally.spared += 1,
            }
        }
        Ok(())
    }

    async fn audit(
        &mut self,
        run: &Run,
        field: &mut Field,
        sabotage: Option<Sabotage>,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        field.until_up(None).await?;
        let world = &mut field.world;
        tally.longest_pause_s = tally.longest_pause_s.max(longest_pause(world)?);
        world.until_recovered().await?;
        let ended = "SELECT count(*) FROM task_state WHERE ended_at IS NULL";
        // What has not ended after that is named by what comes next.
        let _ = until("all tasks have ended", work_ends_within(), async || {
            (world.database.sql(ended).ok()? == ["0"]).then_some(())
        })
        .await;
        let left = settle::quiet(world, &run.docker).await;
        if let Some(sabotage) = sabotage {
            engine::harm(world, sabotage)?;
        }
        let evidence = evidence::gather(world).await?;
        self.findings = oracle::judge(&evidence);
        self.findings.left = left;
        self.findings.broken = settle::audit(world).await;
        // Whatever else dies, what runs goes on and is found again. (A node that was killed for so long that it was called offline may
        // lose its work to another one by the platform's own rule; that is counted and no fault.)
        let costly = self.kills.iter().filter(|kill| kill.strike.kind == Kind::Supervisor).count();
        let failed = failed_on_their_nodes(world)?;
        if failed.len() > costly {
            let failed = failed.join("; ");
            self.findings
                .broken
                .push(format!("failed by their nodes, though {costly} supervisors were killed: {failed}"));
        }
        let known: BTreeSet<String> = evidence.iter().map(|task| task.id.clone()).collect();
        let ran = world.ledger.read()?;
        for id in ran.keys().filter(|id| !known.contains(*id)) {
            self.findings.doubled.push(format!("{id} ran after it had been judged"));
        }
        let wrong = evidence.iter().filter(|task| {
            let found = oracle::judge(std::slice::from_ref(task));
            found.again > 0 || !found.is_clean()
        });
        let wrong: Vec<&str> = wrong.map(|task| task.id.as_str()).collect();
        if !wrong.is_empty() && !self.findings.is_clean() {
            fs::write(world.logs.join("rows.txt"), rows(world, &wrong)?)?;
        }
        Ok(())
    }

    fn fault(&self, world: &str, seed: u64) -> Fault {
        Fault {
            world: world.to_owned(),
            kills: self.kills.clone(),
            findings: self.findings.clone(),
            replay: format!("just kill-sweep {} --seed {seed} --first {}", self.kills.len(), self.first),
        }
    }
}

/// Attempts that did not end by themselves and were not lost with their node, as the platform explains them.
fn failed_on_their_nodes(world: &World) -> anyhow::Result<Vec<String>> {
    world.database.sql(&format!(
        "SELECT id || ': ' || (ending->>'failure') || ': ' || (ending->>'message') FROM attempts
         WHERE task_id = {} AND state = 'failed' AND ending->>'failure' <> 'exit_nonzero'",
        asked(world)
    ))
}

/// The tasks since the last audit, as SQL has it after `=`.
fn asked(world: &World) -> String {
    let ids: Vec<String> = world.submitter.asked().iter().filter_map(|asked| Some(asked.id?.to_string())).collect();
    format!("ANY('{{{}}}'::uuid[])", ids.join(","))
}

/// Seconds, among the tasks since the last audit.
fn longest_pause(world: &World) -> anyhow::Result<f64> {
    let rows = world.database.sql(&format!(
        "SELECT coalesce(max(extract(epoch FROM pause)), 0) FROM (SELECT ended_at - lag(ended_at) OVER (ORDER BY ended_at) AS pause
         FROM task_state WHERE task_id = {} AND ended_at IS NOT NULL) AS pauses",
        asked(world)
    ))?;
    Ok(rows.first().context("one row")?.parse()?)
}

/// All that the database knows of these tasks, for whoever looks for the cause.
fn rows(world: &World, tasks: &[&str]) -> anyhow::Result<String> {
    let ids = tasks.join(",");
    let mut text = String::new();
    for table in ["task_state", "attempts", "task_events"] {
        let rows = world.database.sql(&format!(
            "SELECT to_jsonb(r) FROM {table} AS r WHERE task_id = ANY('{{{ids}}}'::uuid[]) ORDER BY 1"
        ))?;
        let _ = writeln!(text, "{table}\n{}\n", rows.join("\n"));
    }
    let rejected = "SELECT to_jsonb(r) FROM rejected_reports AS r WHERE attempt_id IN (SELECT id FROM attempts WHERE task_id = ANY";
    let _ =
        writeln!(text, "rejected\n{}", world.database.sql(&format!("{rejected}('{{{ids}}}'::uuid[]))"))?.join("\n"));
    Ok(text)
}
