//! PostgreSQL dies, is out of reach, loses its answers, is locked, or has the wrong time.

use crate::{
    proxy::pg::Manner,
    scenario::{Scenario, Seen, long_work},
    wait::until,
    world::{QUIET_WITHIN, Shape, World, offline_after},
};
use anyhow::Context as _;
use std::{fs, path::Path, sync::atomic::Ordering, time::Duration};
use tokio::time::{Instant, sleep};

pub(super) fn all() -> Vec<Scenario> {
    let through_proxy = || Shape { pg_proxy: true, ..Shape::default() };
    vec![
        Scenario::new("F18", "PostgreSQL is killed", |_, world| Box::pin(killed(world))),
        Scenario::new("F19", "PostgreSQL is out of reach", |_, world| Box::pin(unreachable(world)))
            .working(long_work)
            .shaped(through_proxy),
        Scenario::new("F20", "answers to COMMIT are lost", |_, world| Box::pin(commits_cut(world)))
            .working(long_work)
            .shaped(through_proxy),
        Scenario::new("F23", "a table is locked", |_, world| Box::pin(locked(world))).working(long_work),
        Scenario::new("F29", "PostgreSQL's clock steps", |_, world| Box::pin(clock_steps(world)))
            .shaped(|| Shape { nodes: 3, postgres_env: faked_clock("pg.clock", "+0"), ..Shape::default() })
            .costs_attempts(),
        Scenario::new("F28", "a node's clock is ten years off", |_, world| Box::pin(node_clock(world)))
            .shaped(|| Shape { first_agent_env: faked_clock("agent.clock", "+3650d"), ..Shape::default() }),
    ]
}

/// Time until the API says that it can't, from its own answer.
async fn until_refused(world: &World) -> anyhow::Result<Duration> {
    let client = &world.clients[1];
    let (_, took) = until("the API says that its database is away", QUIET_WITHIN, async || {
        // A request that was under way may hang; what counts is when the next one is refused.
        let answer = tokio::time::timeout(Duration::from_secs(7), client.nodes()).await;
        answer.is_ok_and(|answer| answer.is_err()).then_some(())
    })
    .await?;
    Ok(took)
}

async fn killed(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("PostgreSQL: kill -9 of all its processes, 3 s away");
    world.database.kill().await?;
    let began = Instant::now();
    seen.detected = Some(until_refused(world).await?);
    sleep(Duration::from_secs(3).saturating_sub(began.elapsed())).await;
    world.database.start().await?;
    let recovered = world.until_recovered().await?;
    seen.promise(recovered < Duration::from_secs(30), format!("the API was whole {recovered:?} after PostgreSQL was"));
    seen.recovered = Some(recovered);
    Ok(seen)
}

/// How often the registry has called a node offline.
fn called_offline(world: &World) -> usize {
    let said = fs::read_to_string(world.logs.join("registry")).unwrap_or_default();
    said.lines().filter(|line| line.contains("a node is offline node.id=")).count()
}

async fn unreachable(world: &mut World) -> anyhow::Result<Seen> {
    let away = 2 * offline_after();
    let mut seen = Seen::of(format!("PostgreSQL: no byte passes for {} s", away.as_secs()));
    world.pg_proxy.as_ref().context("a proxy")?.behave(Manner { stalls: true, ..Manner::default() });
    let began = Instant::now();
    seen.detected = Some(until_refused(world).await?);
    sleep(away.saturating_sub(began.elapsed())).await;
    world.pg_proxy.as_ref().context("a proxy")?.behave(Manner::default());
    seen.recovered = Some(world.until_recovered().await?);
    seen.promise(called_offline(world) == 0, "a node was called offline for the database's silence");
    Ok(seen)
}

async fn commits_cut(world: &mut World) -> anyhow::Result<Seen> {
    let mut seen = Seen::of("15 % of COMMITs cut for 12 s, before or after");
    let proxy = world.pg_proxy.as_ref().context("a proxy")?;
    proxy.behave(Manner { cuts_per_mille: 150, ..Manner::default() });
    sleep(Duration::from_secs(12)).await;
    proxy.behave(Manner::default());
    let (before, after) = (proxy.cuts.before.load(Ordering::Relaxed), proxy.cuts.after.load(Ordering::Relaxed));
    seen.notes.push(format!("{before} COMMITs never arrived, the answers of {after} were lost"));
    seen.promise(before > 0 && after > 0, "not both kinds of cuts were made");
    seen.recovered = Some(world.until_recovered().await?);
    Ok(seen)
}

async fn locked(world: &mut World) -> anyhow::Result<Seen> {
    let held = offline_after() + Duration::from_secs(4);
    let mut seen = Seen::of(format!("task_state locked for {} s", held.as_secs()));
    let lock =
        format!("BEGIN; LOCK TABLE task_state IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep({}); COMMIT", held.as_secs());
    let locking = async {
        // A program of its own: its call would hold everything here.
        let mut psql = tokio::process::Command::new("psql");
        psql.args(["-X", "-q", "-U", "unidesk", "-d", "postgres", "-h"]).arg(world.database.socket_dir());
        psql.args(["-c", &lock]).stdout(std::process::Stdio::null()).kill_on_drop(true);
        psql.status().await
    };
    let (status, beats) = tokio::join!(locking, async {
        sleep(held - Duration::from_secs(2)).await;
        world.database.sql("SELECT max(extract(epoch FROM now() - beat_at)) FROM node_live")
    });
    anyhow::ensure!(status?.success(), "the table was not locked");
    let oldest: f64 = beats?.first().context("a heartbeat")?.parse()?;
    seen.notes.push(format!("the oldest heartbeat was {oldest:.1} s old after {} s of the lock", held.as_secs() - 2));
    seen.promise(oldest < 4.5, "heartbeats waited for the lock");
    seen.recovered = Some(world.until_recovered().await?);
    Ok(seen)
}

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// A process sees the time that a file of the run's directory says.
fn faked_clock(file: &str, first: &str) -> Vec<(String, String)> {
    if !Path::new(LIBRARY).exists() {
        return Vec::new();
    }
    let dir = std::env::var("UNIDESK_CHAOS_DIR").unwrap_or_else(|_| "/tmp".into());
    let path = Path::new(&dir).join(file);
    // Read by PostgreSQL's own user.
    let _ = fs::write(&path, format!("{first}\n"));
    [
        ("LD_PRELOAD", LIBRARY),
        ("FAKETIME_TIMESTAMP_FILE", &path.display().to_string()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn step_clock(file: &str, to: &str) -> anyhow::Result<()> {
    let dir = std::env::var("UNIDESK_CHAOS_DIR")?;
    Ok(fs::write(Path::new(&dir).join(file), format!("{to}\n"))?)
}

async fn clock_steps(world: &mut World) -> anyhow::Result<Seen> {
    if !Path::new(LIBRARY).exists() {
        return Ok(Seen::skipped("libfaketime is missing; apt-get install faketime"));
    }
    let mut seen = Seen::of("PostgreSQL's clock: +10 min for 8 s, then -10 min");
    let now = |world: &World| -> anyhow::Result<i64> {
        Ok(world.database.sql("SELECT extract(epoch FROM now())::bigint")?.first().context("a time")?.parse()?)
    };
    let real = now(world)?;
    step_clock("pg.clock", "+600")?;
    let stepped = now(world)?;
    seen.promise(stepped - real >= 600, format!("the clock did not step: {} s", stepped - real));
    sleep(Duration::from_secs(8)).await;
    let offline = called_offline(world);
    seen.notes.push(format!("{offline} of {} nodes were called offline when the clock stepped", world.nodes.len()));
    seen.promise(offline == 0, "nodes were called offline for a step of the clock");
    step_clock("pg.clock", "+0")?;
    world.until_recovered().await?;
    step_clock("pg.clock", "-600")?;
    sleep(Duration::from_secs(4)).await;
    seen.recovered = Some(world.until_recovered().await?);
    // A dead node must not stay online for the ten minutes that its last heartbeat now lies in the future.
    world.nodes[0].agent()?.kill().await?;
    let offline = world.until_offline(0, offline_after() + Duration::from_secs(10)).await;
    seen.detected = offline.as_ref().ok().copied();
    seen.promise(offline.is_ok(), "a node that died after the clock went back was not called offline");
    let back = world.start_agent(0).await;
    seen.promise(back.is_ok(), "a node did not get in after the clock went back");
    let whole = world.until_recovered().await;
    seen.promise(whole.is_ok(), "the platform was not whole with the clock set back");
    step_clock("pg.clock", "+0")?;
    Ok(seen)
}

async fn node_clock(world: &mut World) -> anyhow::Result<Seen> {
    if !Path::new(LIBRARY).exists() {
        return Ok(Seen::skipped("libfaketime is missing; apt-get install faketime"));
    }
    let mut seen = Seen::of("node 0's agent: clock +10 years, then -10 years");
    let said = world.nodes[0].agent()?.said();
    seen.promise(said.lines().any(|line| line.starts_with("2036")), "the agent does not see the wrong clock");
    step_clock("agent.clock", "-3650d")?;
    sleep(Duration::from_secs(6)).await;
    seen.recovered = Some(world.until_recovered().await?);
    Ok(seen)
}
