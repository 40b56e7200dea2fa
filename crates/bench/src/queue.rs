//! Does the cost of a task grow with what is waiting, or with the fleet? The same load with 1,000, 100,000 and 1,000,000 tasks
//! waiting behind it: as many are submitted as end, so that the queue keeps its length, and one urgent task after another is timed.
//!
//! The lengths of one fleet are platforms of their own that stand beside each other and are measured in turns, so that a machine that
//! drifts does it to all of them. Whose turn it is not has no scheduler: nothing is leased there, and its nodes only beat.

use crate::{
    database::{Counters, Database},
    load,
    nodes::NodesProcess,
    platform::{Cost, Options, Platform, usage},
    report::{Record, median, percentile, round},
    seed, statements,
};
use api_types::task::Task;
use domain::task::TaskState;
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Numbers of waiting tasks, growing; those between the first and the last with the first number of nodes only
    #[arg(long, value_delimiter = ',', default_value = "1000,100000,1000000")]
    pub waiting: Vec<usize>,
    /// Numbers of nodes
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000")]
    pub nodes: Vec<u32>,
    /// Tasks that run at once on all nodes together; at least one a node
    #[arg(long, default_value_t = 1_000)]
    pub running: u64,
    /// Turns of each length; the medians count
    #[arg(long, default_value_t = 3)]
    pub turns: usize,
    /// Seconds that are measured in each turn
    #[arg(long, default_value_t = 6)]
    pub seconds: u64,
    /// Write what each statement cost per task to files in this directory
    #[arg(long)]
    pub statements: Option<PathBuf>,
    #[command(flatten)]
    pub platform: Options,
}

/// Not measured: caches are filled, plans are made, the scheduler reads the nodes.
const WARM_UP: Duration = Duration::from_secs(3);
const PER_REQUEST: usize = 250;
/// So many requests may be under way: submissions keep up with what ends.
const CLIENTS: usize = 4;
/// So many tasks have run on each platform before.
const USED: usize = 5_000;
const WITHIN: Duration = Duration::from_secs(300);

pub async fn run(args: &Args) -> anyhow::Result<Record> {
    let mut record =
        Record::new("queue").with("build", crate::machine::build()).with("machine", crate::machine::describe());
    let mut points = Vec::new();
    for (at, nodes) in args.nodes.iter().enumerate() {
        // The lengths between are for the smallest fleet: loading them takes longer than measuring.
        let ends = [args.waiting.first(), args.waiting.last()];
        let lengths = args.waiting.iter().filter(|waiting| at == 0 || ends.contains(&Some(waiting)));
        let sides = fleet(args, *nodes, lengths.copied().collect()).await?;
        if let [short, .., long] = &sides[..] {
            let ratios: Vec<f64> = long.turns.iter().zip(&short.turns).map(|(it, of)| it.rate / of.rate).collect();
            let name = format!("rate_with_{}_over_rate_with_{}_at_{nodes}_nodes", long.waiting, short.waiting);
            record = record.number(&name, median(&ratios));
            record = record.with(&format!("{name}_by_turn"), ratios.into_iter().map(round).collect::<Vec<_>>());
        }
        for side in &sides {
            points.push((format!("{} waiting, {nodes} nodes", side.waiting), side.figures(*nodes)));
            if let Some(directory) = &args.statements {
                std::fs::create_dir_all(directory)?;
                let file = directory.join(format!("{}-waiting-{nodes}-nodes.md", side.waiting));
                let last = side.turns.last().map(|turn| statements::table(&turn.counters, turn.ended));
                std::fs::write(file, last.unwrap_or_default())?;
            }
        }
    }
    for (name, point) in points {
        record = record.with(&name, point);
    }
    Ok(record)
}

/// All lengths of the queue with one fleet, in turns.
async fn fleet(args: &Args, count: u32, lengths: Vec<usize>) -> anyhow::Result<Vec<Side>> {
    let mut sides = Vec::new();
    for waiting in lengths {
        sides.push(Side::start(args, count, waiting).await?);
    }
    for turn in 0..args.turns.max(1) {
        // Back and forth: none is always the first.
        let mut order: Vec<&mut Side> = sides.iter_mut().collect();
        if turn % 2 == 1 {
            order.reverse();
        }
        for side in order {
            side.turn(args, count).await?;
        }
    }
    for side in &mut sides {
        side.stop().await?;
    }
    Ok(sides)
}

/// One fleet with one length of the queue, on a platform of its own.
struct Side {
    waiting: usize,
    turns: Vec<Turn>,
    running: Option<Running>,
}

struct Running {
    nodes: NodesProcess,
    database: Database,
    platform: Platform,
}

/// What was measured in one turn.
struct Turn {
    /// Ends a second, in the time that is measured.
    rate: f64,
    /// Ends of the whole turn, and how many more they were than submissions.
    ended: usize,
    late: usize,
    urgent: Vec<Urgent>,
    counters: Counters,
    /// Seconds of CPU in the whole turn.
    cpu: Vec<(&'static str, f64)>,
}

/// Of one urgent task, by the database's clock.
#[derive(Clone, Copy, Debug)]
struct Urgent {
    /// From acceptance to the recorded start.
    start: Duration,
    /// How much of it until it was placed.
    placed: Duration,
}

impl Side {
    async fn start(args: &Args, count: u32, waiting: usize) -> anyhow::Result<Self> {
        let mut platform = Platform::start(&args.platform).await?;
        let mut database = platform.database().await?;
        let slots = (args.running / u64::from(count)).max(1);
        let mut nodes = platform.start_nodes(count, slots).await?;
        // A platform that has been in use: statistics and plans of empty tables are nobody's.
        let shape = load::Shape { tasks: USED, batch: PER_REQUEST, clients: CLIENTS, keys: true, goes_on: false };
        load::submit(platform.server, &platform.admin_token, &load::task("before", &json!({})), shape).await?;
        nodes.until("the first tasks have ended", WITHIN, |now| now.ended >= USED as u64).await?;
        until_nothing_is_held(&mut database).await?;
        // Nothing of what is made here runs before its turn.
        platform.stop_scheduler().await?;
        // One that goes the product's own way, and that all others are copies of. Those that will run at once wait in no queue.
        let template = platform.client.submit(&load::task("queue", &json!({})), None).await?.id;
        let began = Instant::now();
        seed::copies(&mut database, template, waiting + args.running.max(u64::from(count)) as usize - 1).await?;
        seed::settle(&mut database).await?;
        eprintln!("{waiting} tasks are waiting, loaded in {:.1} s", began.elapsed().as_secs_f64());
        Ok(Self { waiting, turns: Vec::new(), running: Some(Running { platform, database, nodes }) })
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(Running { platform, nodes, .. }) = self.running.take() {
            drop(nodes);
            platform.stop().await?;
        }
        Ok(())
    }

    /// Keeps the queue at its length for so many seconds, and leaves it at that.
    async fn turn(&mut self, args: &Args, count: u32) -> anyhow::Result<()> {
        let Some(Running { platform, database, nodes }) = &mut self.running else { return Ok(()) };
        let counted = database.counters().await?;
        let (cost, nodes_cost) = (platform.cost(), usage::of(nodes.pid()));
        let before = nodes.figures().ended;
        platform.start_scheduler().await?;
        let body = load::task("queue", &json!({}));
        let mut urgent_body = body.clone();
        urgent_body["priority"] = json!("urgent");
        let for_so_long = Duration::from_secs(args.seconds) + WARM_UP;
        let submitted = AtomicUsize::new(0);
        let ended = || (nodes.figures().ended - before) as usize;
        let submitters = (0..CLIENTS).map(|_| keep_up(platform, &body, &submitted, ended, for_so_long));
        let (rate, urgent, submitters) = tokio::join!(
            rate(ended, for_so_long),
            urgent(&platform.client, &urgent_body, for_so_long),
            futures::future::try_join_all(submitters)
        );
        submitters?;
        let counters = database.counters().await?.since(&counted);
        let (spent, nodes_spent) = (platform.cost(), usage::of(nodes.pid()));
        let cpu = cpu_s(&cost, &spent, nodes_spent.cpu.saturating_sub(nodes_cost.cpu));
        let at_end = ended();
        let late = at_end.saturating_sub(submitted.load(Ordering::Relaxed));
        // As it was before the turn: nothing runs, and as many wait.
        platform.stop_scheduler().await?;
        nodes.until("nothing runs any more", WITHIN, |now| now.attempts == 0).await?;
        until_nothing_is_held(database).await?;
        let urgent = urgent?;
        let still = database.number("SELECT count(*) FROM task_state WHERE queued").await? as usize;
        let whole = self.waiting + args.running.max(u64::from(count)) as usize;
        let shape = load::Shape {
            tasks: whole.saturating_sub(still),
            batch: PER_REQUEST,
            clients: CLIENTS,
            keys: true,
            goes_on: false,
        };
        load::submit(platform.server, &platform.admin_token, &body, shape).await?;
        let starts: Vec<Duration> = urgent.iter().map(|it| it.start).collect();
        eprintln!(
            "{} waiting, {count} nodes: {rate:.0} tasks/s, urgent p50 {} p99 {} ms (placed {}), {late} of {at_end} submitted late",
            self.waiting,
            ms(&starts, 50.0),
            ms(&starts, 99.0),
            ms(&urgent.iter().map(|it| it.placed).collect::<Vec<_>>(), 50.0)
        );
        self.turns.push(Turn { rate, ended: at_end, late, urgent, counters, cpu });
        Ok(())
    }

    fn figures(&self, nodes: u32) -> Value {
        let rates: Vec<f64> = self.turns.iter().map(|turn| turn.rate).collect();
        let urgent = || self.turns.iter().flat_map(|turn| &turn.urgent);
        let starts: Vec<Duration> = urgent().map(|it| it.start).collect();
        let placed: Vec<Duration> = urgent().map(|it| it.placed).collect();
        let p99s: Vec<f64> = self
            .turns
            .iter()
            .map(|turn| ms(&turn.urgent.iter().map(|it| it.start).collect::<Vec<_>>(), 99.0))
            .collect();
        let late: Vec<f64> = self.turns.iter().map(|turn| turn.late as f64 / turn.ended.max(1) as f64).collect();
        let mut figures = json!({
            "waiting": self.waiting, "nodes": nodes,
            "tasks_per_s": round(median(&rates)),
            "tasks_per_s_by_turn": rates.into_iter().map(round).collect::<Vec<_>>(),
            "submitted_late": round(median(&late)),
            "urgent_tasks": starts.len(), "urgent_start_ms_p50": ms(&starts, 50.0), "urgent_start_ms_p99": ms(&starts, 99.0),
            "urgent_start_ms_p99_by_turn": p99s, "urgent_placed_ms_p50": ms(&placed, 50.0), "urgent_placed_ms_p99": ms(&placed, 99.0),
            "dearest_statement": self.turns.last().map(|turn| dearest(&turn.counters)).unwrap_or_default(),
        });
        let of = |turn: &Turn, name: &str| turn.cpu.iter().find(|(known, _)| *known == name).map_or(0.0, |(_, s)| *s);
        for (name, _) in self.turns.first().map(|turn| turn.cpu.clone()).unwrap_or_default() {
            let each = self.turns.iter().map(|turn| of(turn, name) * 1e6 / turn.ended.max(1) as f64);
            figures[format!("cpu_us_per_task_{name}")] = json!(round(median(&each.collect::<Vec<_>>())));
        }
        figures
    }
}

fn ms(times: &[Duration], of_hundred: f64) -> f64 {
    round(percentile(times, of_hundred).as_secs_f64() * 1e3)
}

fn cpu_s(before: &Cost, after: &Cost, nodes: Duration) -> Vec<(&'static str, f64)> {
    let of = |before: usage::Usage, after: usage::Usage| after.cpu.saturating_sub(before.cpu).as_secs_f64();
    vec![
        ("gateway", of(before.gateway, after.gateway)),
        // Began anew for the turn.
        ("scheduler", after.scheduler.cpu.as_secs_f64()),
        ("postgres", of(before.postgres, after.postgres)),
        ("nodes", nodes.as_secs_f64()),
    ]
}

/// The dearest statement, with the buffers that a call of it reads.
fn dearest(counters: &Counters) -> String {
    let dearest = counters.statements.iter().max_by(|(_, one), (_, other)| one.exec_ms.total_cmp(&other.exec_ms));
    dearest.map_or_else(String::new, |(text, one)| {
        let words: Vec<&str> = text.split_whitespace().take(12).collect();
        let calls = one.calls as f64;
        let (ms, buffers) = (one.exec_ms / calls, one.buffers as f64 / calls);
        format!("{ms:.2} ms a call, {buffers:.0} buffers: {}", words.join(" "))
    })
}

/// Ends a second, once it is warm.
async fn rate(ended: impl Fn() -> usize, for_so_long: Duration) -> f64 {
    tokio::time::sleep(WARM_UP).await;
    let (began, from) = (Instant::now(), ended());
    tokio::time::sleep(for_so_long - WARM_UP).await;
    (ended() - from) as f64 / began.elapsed().as_secs_f64()
}

/// One of the clients that together submit as many as end.
async fn keep_up(
    platform: &Platform,
    body: &Value,
    submitted: &AtomicUsize,
    ended: impl Fn() -> usize,
    for_so_long: Duration,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < for_so_long {
        let is_due = |submitted: usize| (submitted + PER_REQUEST <= ended()).then_some(submitted + PER_REQUEST);
        if submitted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_due).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        let shape = load::Shape { tasks: PER_REQUEST, batch: PER_REQUEST, clients: 1, keys: true, goes_on: false };
        load::submit(platform.server, &platform.admin_token, body, shape).await?;
    }
    Ok(())
}

/// Urgent tasks one after another for so long.
async fn urgent(client: &client::Client, body: &Value, for_so_long: Duration) -> anyhow::Result<Vec<Urgent>> {
    let began = Instant::now();
    let mut seen = Vec::new();
    while began.elapsed() < for_so_long {
        let task = client.submit(body, None).await?;
        let task = client.wait(task.id).await?;
        anyhow::ensure!(task.state == TaskState::Succeeded, "{}", task.message);
        if began.elapsed() > WARM_UP {
            seen.push(times(&task));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(seen)
}

fn times(task: &Task) -> Urgent {
    let attempt = task.attempts.as_deref().and_then(<[_]>::last);
    let since = |at: Option<_>| (at.unwrap_or(task.created_at) - task.created_at).to_std().unwrap_or_default();
    Urgent { start: since(task.started_at), placed: since(attempt.map(|it| it.placed_at)) }
}

/// The platform knows that nothing is held: what it acknowledged and what it counts is one.
async fn until_nothing_is_held(database: &mut Database) -> anyhow::Result<()> {
    let began = Instant::now();
    while database.number("SELECT count(*) FROM attempts WHERE reserved").await? > 0 {
        anyhow::ensure!(began.elapsed() < WITHIN, "something is held by a fleet that has nothing to do");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
