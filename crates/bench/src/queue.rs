//! Does the cost of a task grow with what is waiting, or with the fleet? The same load with 1,000, 100,000 and 1,000,000 tasks
//! waiting behind it: as many are submitted as end, so that the queue keeps its length, and one urgent task after another is timed.

use crate::{
    load,
    nodes::NodesProcess,
    platform::{Options, Platform},
    report::{Record, percentile, round},
    seed,
};
use domain::task::TaskState;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Numbers of waiting tasks, growing
    #[arg(long, value_delimiter = ',', default_value = "1000,100000,1000000")]
    pub waiting: Vec<usize>,
    /// Numbers of nodes, each a platform of its own
    #[arg(long, value_delimiter = ',', default_value = "10,1000")]
    pub nodes: Vec<u32>,
    /// Tasks that run at once on all nodes together
    #[arg(long, default_value_t = 1_000)]
    pub running: u64,
    /// Seconds that are measured at each length
    #[arg(long, default_value_t = 15)]
    pub seconds: u64,
    #[command(flatten)]
    pub platform: Options,
}

/// Not measured: caches are filled, plans are made.
const WARM_UP: Duration = Duration::from_secs(3);
const PER_REQUEST: usize = 500;

pub async fn run(args: &Args) -> anyhow::Result<Record> {
    let mut points = Vec::new();
    for nodes in &args.nodes {
        points.extend(of_fleet(args, *nodes).await?);
    }
    let rate_at = |waiting: usize, nodes: u32| {
        points
            .iter()
            .find(|point| point["waiting"] == json!(waiting) && point["nodes"] == json!(nodes))
            .and_then(|point| point["tasks_per_s"].as_f64())
    };
    let mut record =
        Record::new("queue").with("build", crate::machine::build()).with("machine", crate::machine::describe());
    if let (Some(least), Some(most)) = (args.waiting.first(), args.waiting.last()) {
        for nodes in &args.nodes {
            if let (Some(short), Some(long)) = (rate_at(*least, *nodes), rate_at(*most, *nodes)) {
                record =
                    record.number(&format!("rate_with_{most}_over_rate_with_{least}_at_{nodes}_nodes"), long / short);
            }
        }
    }
    for point in points {
        let name = format!("{} waiting, {} nodes", point["waiting"], point["nodes"]);
        record = record.with(&name, point);
    }
    Ok(record)
}

async fn of_fleet(args: &Args, count: u32) -> anyhow::Result<Vec<Value>> {
    let mut platform = Platform::start(&args.platform).await?;
    let mut database = platform.database().await?;
    let tokens = platform.make_nodes(count).await?;
    // One that goes the product's own way, and that all others are copies of.
    let template = platform.client.submit(&load::task("queue", &json!({})), None).await?.id;
    let mut points = Vec::new();
    let mut nodes: Option<NodesProcess> = None;
    let mut loaded = 1;
    for waiting in &args.waiting {
        // The template may be running by now: the queue is filled up by submissions first where there is one.
        match &mut nodes {
            None => {
                let began = Instant::now();
                seed::copies(&mut database, template, waiting.saturating_sub(loaded)).await?;
                eprintln!("{waiting} tasks are waiting, loaded in {:.1} s", began.elapsed().as_secs_f64());
            }
            Some(_) => {
                let began = Instant::now();
                // Of one that still waits: the newest.
                let newest: uuid::Uuid =
                    sqlx::query_scalar("SELECT task_id FROM task_state WHERE queued ORDER BY task_id DESC LIMIT 1")
                        .fetch_one(&mut database.connection)
                        .await?;
                let more = waiting.saturating_sub(loaded);
                seed::copies(&mut database, domain::ids::TaskId::from_uuid(newest), more).await?;
                eprintln!("{waiting} tasks are waiting, loaded in {:.1} s", began.elapsed().as_secs_f64());
            }
        }
        loaded = *waiting;
        let process = match nodes.take() {
            Some(process) => nodes.insert(process),
            None => {
                let slots = (args.running / u64::from(count)).max(1);
                let server = platform.server;
                let args = crate::nodes::process::Args { server, tokens: tokens.clone(), slots, dial_over_ms: 0 };
                let process = nodes.insert(NodesProcess::start(&args)?);
                let all = u64::from(count);
                process.until("all nodes are connected", Duration::from_secs(300), |now| now.connected == all).await?;
                process
            }
        };
        points.push(measure(args, &platform, process, &mut database, *waiting, count).await?);
    }
    drop(nodes);
    platform.stop().await?;
    Ok(points)
}

/// Keeps the queue at its length for so many seconds.
async fn measure(
    args: &Args,
    platform: &Platform,
    nodes: &mut NodesProcess,
    database: &mut crate::database::Database,
    waiting: usize,
    count: u32,
) -> anyhow::Result<Value> {
    let body = load::task("queue", &json!({}));
    let mut urgent_body = body.clone();
    urgent_body["priority"] = json!("urgent");
    let urgent = urgent(&platform.client, &urgent_body, Duration::from_secs(args.seconds) + WARM_UP);
    let load = async {
        let (began, first) = (Instant::now(), nodes.figures().ended);
        let mut submitted = 0;
        let mut measured_from = None;
        loop {
            let ended = nodes.figures().ended - first;
            if began.elapsed() >= WARM_UP && measured_from.is_none() {
                measured_from = Some((Instant::now(), ended));
            }
            if let Some((at, from)) = measured_from
                && at.elapsed() >= Duration::from_secs(args.seconds)
            {
                return anyhow::Ok((ended - from) as f64 / at.elapsed().as_secs_f64());
            }
            let due = (ended as usize).saturating_sub(submitted);
            if due < PER_REQUEST {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
            let tasks = due.min(4 * PER_REQUEST);
            let shape = load::Shape { tasks, batch: PER_REQUEST, clients: 2, keys: true };
            load::submit(platform.server, &platform.admin_token, &body, shape).await?;
            submitted += tasks;
        }
    };
    let counted = database.counters().await?;
    let cost = platform.cost();
    let (rate, starts) = tokio::join!(load, urgent);
    let (rate, starts) = (rate?, starts?);
    let spent = platform.cost();
    let counters = database.counters().await?.since(&counted);
    let still = database.number("SELECT count(*) FROM task_state WHERE queued").await?;
    let dearest = counters
        .statements
        .iter()
        .max_by(|(_, one), (_, other)| one.exec_ms.total_cmp(&other.exec_ms))
        .map(|(text, one)| {
            let words: Vec<&str> = text.split_whitespace().take(12).collect();
            format!(
                "{:.2} ms a call, {:.0} buffers: {}",
                one.exec_ms / one.calls as f64,
                one.buffers as f64 / one.calls as f64,
                words.join(" ")
            )
        })
        .unwrap_or_default();
    let ms = |of_hundred| round(percentile(&starts, of_hundred).as_secs_f64() * 1e3);
    eprintln!("{waiting} waiting, {count} nodes: {rate:.0} tasks/s, urgent p99 {} ms", ms(99.0));
    Ok(json!({
        "waiting": waiting, "nodes": count, "tasks_per_s": round(rate),
        "urgent_tasks": starts.len(), "urgent_start_ms_p50": ms(50.0), "urgent_start_ms_p99": ms(99.0),
        "cpu_s_scheduler": round((spent.scheduler.cpu - cost.scheduler.cpu).as_secs_f64()),
        "cpu_s_gateway": round((spent.gateway.cpu - cost.gateway.cpu).as_secs_f64()),
        "cpu_s_postgres": round((spent.postgres.cpu - cost.postgres.cpu).as_secs_f64()),
        "waiting_afterwards": still, "dearest_statement": dearest,
    }))
}

/// Urgent tasks one after another for so long: from acceptance to the recorded start, by the database's clock.
async fn urgent(client: &client::Client, body: &Value, for_so_long: Duration) -> anyhow::Result<Vec<Duration>> {
    let began = Instant::now();
    let mut starts = Vec::new();
    while began.elapsed() < for_so_long {
        let task = client.submit(body, None).await?;
        let task = client.wait(task.id).await?;
        anyhow::ensure!(task.state == TaskState::Succeeded, "{}", task.message);
        if began.elapsed() > WARM_UP {
            let start = task.started_at.unwrap_or(task.created_at);
            starts.push((start - task.created_at).to_std().unwrap_or_default());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(starts)
}
