//! Does the cost of a task grow with what is waiting, or with the fleet? The same load with 1,000, 100,000 and 1,000,000 tasks
//! waiting behind it: as many are submitted as end, so that the queue keeps its length, and one urgent task after another is timed.

use crate::{
    load,
    nodes::{NodesProcess, process},
    platform::{Options, Platform},
    report::{Record, percentile, round},
    seed,
};
use domain::task::TaskState;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Numbers of waiting tasks, growing; those between the first and the last with the first number of nodes only
    #[arg(long, value_delimiter = ',', default_value = "1000,100000,1000000")]
    pub waiting: Vec<usize>,
    /// Numbers of nodes, each a platform of its own
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000")]
    pub nodes: Vec<u32>,
    /// Tasks that run at once on all nodes together; at least one a node
    #[arg(long, default_value_t = 1_000)]
    pub running: u64,
    /// Seconds that are measured at each length
    #[arg(long, default_value_t = 8)]
    pub seconds: u64,
    #[command(flatten)]
    pub platform: Options,
}

/// Not measured: caches are filled, plans are made.
const WARM_UP: Duration = Duration::from_secs(3);
const PER_REQUEST: usize = 500;

pub async fn run(args: &Args) -> anyhow::Result<Record> {
    let mut points = Vec::new();
    let ends = [args.waiting.first(), args.waiting.last()];
    for (at, nodes) in args.nodes.iter().enumerate() {
        // The lengths between are for the smallest fleet: loading them takes longer than measuring.
        for waiting in args.waiting.iter().filter(|waiting| at == 0 || ends.contains(&Some(waiting))) {
            points.push(point(args, *nodes, *waiting).await?);
        }
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

/// One fleet with one length of the queue, on a platform of its own.
async fn point(args: &Args, count: u32, waiting: usize) -> anyhow::Result<Value> {
    let mut platform = Platform::start(&args.platform).await?;
    let mut database = platform.database().await?;
    let tokens = platform.make_nodes(count).await?;
    // One that goes the product's own way, and that all others are copies of. Those that will run at once wait in no queue.
    let template = platform.client.submit(&load::task("queue", &json!({})), None).await?.id;
    let began = Instant::now();
    seed::copies(&mut database, template, waiting + args.running.max(u64::from(count)) as usize - 1).await?;
    eprintln!("{waiting} tasks are waiting, loaded in {:.1} s", began.elapsed().as_secs_f64());
    let slots = (args.running / u64::from(count)).max(1);
    let mut nodes = NodesProcess::start(&process::Args { server: platform.server, tokens, slots, dial_over_ms: 0 })?;
    let all = u64::from(count);
    nodes.until("all nodes are connected", Duration::from_secs(300), |now| now.connected == all).await?;
    let point = measure(args, &platform, &mut nodes, &mut database, waiting, count).await?;
    drop(nodes);
    platform.stop().await?;
    Ok(point)
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
        let began = Instant::now();
        // What ended since the nodes are there is made up for as well.
        let mut submitted = 0;
        let per_request = PER_REQUEST.min(waiting / 4).max(1);
        let mut measured_from = None;
        loop {
            let ended = nodes.figures().ended;
            if began.elapsed() >= WARM_UP && measured_from.is_none() {
                measured_from = Some((Instant::now(), ended));
            }
            if let Some((at, from)) = measured_from
                && at.elapsed() >= Duration::from_secs(args.seconds)
            {
                return anyhow::Ok((ended - from) as f64 / at.elapsed().as_secs_f64());
            }
            let due = (ended as usize).saturating_sub(submitted);
            if due < per_request {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
            let tasks = due.min(4 * per_request);
            let shape = load::Shape { tasks, batch: per_request, clients: 2, keys: true, goes_on: false };
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
