//! The kill sweep: gateways, agents and the leading scheduler are killed at their k-th system call of the kinds that leave a trace
//! outside, one after the other, and started again at once, while tasks come and go.
//!
//! A tracer is attached to the victim's threads, and to nothing that they start: it is the agent that must die, not its supervisors.

use crate::{
    evidence, oracle,
    program::Program,
    report::Report,
    scenario::{Seen, usual_work},
    settle,
    wait::until,
    workload::Trickle,
    world::{Run, Shape, World},
};
use anyhow::Context as _;
use std::{collections::BTreeMap, fs, process::Command, time::Duration};
use tokio::time::Instant;

/// What can be seen from outside, and what makes something last.
const CALLS: &str =
    "sendto,sendmsg,write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,ftruncate,mkdir";
/// One more than the largest k, and a prime, so that every k comes up for every victim.
const K: u32 = 61;
/// A victim that makes fewer calls than that is let go.
const PATIENCE: Duration = Duration::from_secs(6);

#[derive(Clone, Copy, Debug)]
enum Victim {
    Gateway(usize),
    Agent(usize),
    Scheduler,
}

const VICTIMS: [Victim; 5] =
    [Victim::Gateway(0), Victim::Agent(0), Victim::Scheduler, Victim::Gateway(1), Victim::Agent(1)];

/// Kills so many times; `from` shifts victims and calls, so that each run makes others.
pub async fn run(run: &mut Run, kills: u32, from: u32) -> anyhow::Result<Report> {
    anyhow::ensure!(Command::new("strace").arg("-V").output().is_ok(), "strace is missing; apt-get install strace");
    let began = Instant::now();
    let mut world = World::start(run, "L6", &Shape::default()).await.context("putting the platform up")?;
    for wanted in usual_work() {
        world.submitter.submit(wanted).await.context("submitting the long tasks")?;
    }
    let trickle = Trickle::start(&world.submitter, Duration::from_millis(250));
    let mut done: BTreeMap<&str, u32> = BTreeMap::new();
    let mut spared = 0;
    for round in from..from.saturating_add(kills) {
        let victim = VICTIMS[round as usize % VICTIMS.len()];
        let k = 1 + (round * 7) % K;
        match strike(&mut world, victim, k).await.with_context(|| format!("{victim:?} at its call {k}"))? {
            true => *done.entry(name(victim)).or_default() += 1,
            false => spared += 1,
        }
    }
    let mut seen = Seen::of(format!("{kills} rounds: SIGKILL at the k-th call, k from 1 to {K}"));
    seen.recovered = Some(world.until_recovered().await?);
    trickle.stop().await;
    let total: u32 = done.values().sum();
    let by_victim: Vec<String> = done.iter().map(|(name, count)| format!("{name} {count}")).collect();
    seen.notes.push(format!("{total} kills ({}); {spared} times the call did not come in time", by_victim.join(", ")));
    seen.promise(total > 0, "nothing was killed");
    let left = settle::quiet(&world, &run.docker).await;
    let mut findings = oracle::judge(&evidence::gather(&world).await?);
    findings.left = left;
    findings.broken = settle::audit(&world).await;
    fs::write(world.dir.join("history.json"), serde_json::to_string_pretty(&world.submitter.history())?)?;
    world.stop().await?;
    findings.left.extend(settle::processes_left());
    let what = "kills at system calls".into();
    Ok(Report { id: "L6".into(), what, seen, findings, took_s: began.elapsed().as_secs_f64() })
}

fn name(victim: Victim) -> &'static str {
    match victim {
        Victim::Gateway(_) => "gateway",
        Victim::Agent(_) => "agent",
        Victim::Scheduler => "scheduler",
    }
}

/// False: the call did not come, and the victim lives on.
async fn strike(world: &mut World, victim: Victim, k: u32) -> anyhow::Result<bool> {
    let leader = if matches!(victim, Victim::Scheduler) { world.leading_scheduler().await? } else { 0 };
    let logs = world.logs.clone();
    let program = match victim {
        Victim::Gateway(which) => world.gateway(which)?,
        Victim::Agent(which) => world.nodes[which].agent()?,
        Victim::Scheduler => world.scheduler(leader)?,
    };
    let mut tracer = attach(program, k, &logs)?;
    let died = until("the victim dies", PATIENCE, async || program.has_ended().then_some(())).await.is_ok();
    if !died {
        // Ends with a detach: the victim goes on.
        tracer.stop().await?;
        return Ok(false);
    }
    match victim {
        Victim::Gateway(which) => world.start_gateway(which).await?,
        // Its work goes on meanwhile: it is not the next of kin that must be waited for.
        Victim::Agent(which) => world.start_agent(which).await?,
        Victim::Scheduler => world.start_scheduler(leader).await?,
    }
    Ok(true)
}

fn attach(victim: &Program, k: u32, logs: &std::path::Path) -> anyhow::Result<Program> {
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o", "/dev/null", "-e"]).arg(format!("trace={CALLS}"));
    strace.arg("-e").arg(format!("inject={CALLS}:signal=SIGKILL:when={k}"));
    for thread in fs::read_dir(format!("/proc/{}/task", victim.pid()))?.flatten() {
        strace.arg("-p").arg(thread.file_name());
    }
    Program::spawn("strace", strace, logs)
}
