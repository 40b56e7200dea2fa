//! What people ask, with a million tasks in the database: list, status, why, history, the cluster at a glance.

use crate::{
    database::{Statements, called_since},
    load,
    platform::{Options, Platform},
    report::{Record, percentile, round},
    seed,
};
use api_types::task::TaskQuery;
use client::{Client, ClientError};
use domain::ids::TaskId;
use futures::StreamExt as _;
use serde_json::json;
use std::time::{Duration, Instant};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Ended tasks in the database
    #[arg(long, default_value_t = 1_000_000)]
    pub tasks: usize,
    /// Waiting ones besides
    #[arg(long, default_value_t = 10_000)]
    pub waiting: usize,
    /// Connected nodes
    #[arg(long, default_value_t = 100)]
    pub nodes: u32,
    /// Requests of each kind, one at a time
    #[arg(long, default_value_t = 200)]
    pub requests: usize,
    #[command(flatten)]
    pub platform: Options,
}

/// The database's user of the gateway that is asked, and of nothing else.
const ASKED: &str = "asked";
/// Longer than anything is due that a gateway does by itself.
const IDLE: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug)]
enum Ask {
    ListFirstPage,
    ListLaterPage,
    ListByName,
    ListByState,
    Status,
    WhyEnded,
    WhyWaiting,
    History,
    Cluster,
    Nodes,
}

const ALL: [(&str, Ask); 10] = [
    ("list", Ask::ListFirstPage),
    ("list_a_later_page", Ask::ListLaterPage),
    ("list_by_name", Ask::ListByName),
    ("list_by_state", Ask::ListByState),
    ("status", Ask::Status),
    ("why_ended", Ask::WhyEnded),
    ("why_waiting", Ask::WhyWaiting),
    ("history", Ask::History),
    ("cluster_status", Ask::Cluster),
    ("node_list", Ask::Nodes),
];

/// What is asked about.
struct Subjects {
    ended: Vec<TaskId>,
    waiting: Vec<TaskId>,
    cursor: Option<String>,
}

pub async fn run(args: &Args) -> anyhow::Result<Record> {
    let mut platform = Platform::start(&args.platform).await?;
    let nodes = platform.start_nodes(args.nodes, 4).await?;
    let client = platform.client.clone();
    let ended = client.submit(&load::task("ended", &json!({})), None).await?.id;
    client.wait(ended).await?;
    let mut nowhere = load::task("waiting", &json!({}));
    nowhere["requirements"] = json!({"tags": ["nowhere"]});
    let waiting = client.submit(&nowhere, None).await?.id;
    let mut database = platform.database().await?;
    // Its release is still under way.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    seed::copies(&mut database, ended, args.tasks).await?;
    seed::copies(&mut database, waiting, args.waiting).await?;
    eprintln!("{} tasks were loaded in {:.1} s", args.tasks + args.waiting, began.elapsed().as_secs_f64());
    let client = platform.start_asked(ASKED).await?;
    // What it does while nobody asks belongs to no question.
    tokio::time::sleep(IDLE).await;
    let beats = database.statements(Some(ASKED)).await?;
    let subjects = subjects(&client, &mut database).await?;
    let mut record = Record::new("api")
        .with("build", crate::machine::build())
        .with("machine", crate::machine::describe())
        .with("tasks", args.tasks)
        .with("waiting", args.waiting)
        .with("nodes", args.nodes);
    for (name, ask) in ALL {
        let before = database.statements(Some(ASKED)).await?;
        let mut took = Vec::with_capacity(args.requests);
        // A kind that takes seconds has shown what it has to show.
        let began = Instant::now();
        let mut failed = 0;
        for number in 0..args.requests {
            let at = Instant::now();
            if let Err(error) = one(&client, ask, &subjects, number).await {
                if failed == 0 {
                    eprintln!("{name}: {error}");
                }
                failed += 1;
            }
            took.push(at.elapsed());
            if began.elapsed() > Duration::from_secs(20) {
                break;
            }
        }
        let mut called = called_since(&database.statements(Some(ASKED)).await?, &before);
        called.retain(|text, _| !beats.contains_key(text));
        let (most, that) = dearest(&called);
        let statements = called.values().map(|one| one.calls).sum::<i64>() as f64 / took.len() as f64;
        let ms = |of_hundred| round(percentile(&took, of_hundred).as_secs_f64() * 1e3);
        eprintln!(
            "{name}: p50 {} ms, p99 {} ms, {} statements, at most {most} buffers a statement",
            ms(50.0),
            ms(99.0),
            round(statements)
        );
        record = record.with(
            name,
            json!({"ms_p50": ms(50.0), "ms_p99": ms(99.0), "requests": took.len(), "failed": failed,
                   "statements": round(statements), "most_buffers_of_a_statement": most, "that_statement": that}),
        );
    }
    drop(nodes);
    platform.stop().await?;
    Ok(record)
}

/// Buffers of the dearest statement, a call, and how it begins.
fn dearest(called: &Statements) -> (i64, String) {
    let most = called.iter().map(|(text, one)| (one.buffers / one.calls, text)).max();
    most.map_or((0, String::new()), |(buffers, text)| {
        (buffers, text.split_whitespace().take(10).collect::<Vec<_>>().join(" "))
    })
}

async fn subjects(client: &Client, database: &mut crate::database::Database) -> anyhow::Result<Subjects> {
    let ids = async |database: &mut crate::database::Database, name: &str| {
        let ids: Vec<uuid::Uuid> =
            sqlx::query_scalar("SELECT id FROM tasks TABLESAMPLE BERNOULLI (5) WHERE name = $1 LIMIT 500")
                .bind(name)
                .fetch_all(&mut database.connection)
                .await?;
        anyhow::Ok(ids.into_iter().map(TaskId::from_uuid).collect::<Vec<TaskId>>())
    };
    let first = client.tasks(&TaskQuery { limit: Some(1_000), ..TaskQuery::default() }).await?;
    let subjects = Subjects {
        ended: ids(database, "ended").await?,
        waiting: ids(database, "waiting").await?,
        cursor: first.next_cursor,
    };
    anyhow::ensure!(!subjects.ended.is_empty() && !subjects.waiting.is_empty(), "there is nothing to ask about");
    Ok(subjects)
}

async fn one(client: &Client, ask: Ask, subjects: &Subjects, number: usize) -> Result<(), ClientError> {
    let ended = subjects.ended[number % subjects.ended.len()];
    let waiting = subjects.waiting[number % subjects.waiting.len()];
    let list = async |query: TaskQuery| client.tasks(&query).await.map(drop);
    let page = TaskQuery { limit: Some(50), ..TaskQuery::default() };
    match ask {
        Ask::ListFirstPage => list(page).await,
        Ask::ListLaterPage => list(TaskQuery { cursor: subjects.cursor.clone(), ..page }).await,
        Ask::ListByName => list(TaskQuery { name: Some("end*".into()), ..page }).await,
        Ask::ListByState => list(TaskQuery { state: Some("failed".into()), ..page }).await,
        Ask::Status => client.task(ended).await.map(drop),
        Ask::WhyEnded => client.why(ended).await.map(drop),
        Ask::WhyWaiting => client.why(waiting).await.map(drop),
        Ask::History => {
            let mut events = std::pin::pin!(client.follow_events(ended));
            while let Some(event) = events.next().await {
                event?;
            }
            Ok(())
        }
        Ask::Cluster => client.cluster_status().await.map(drop),
        Ask::Nodes => client.nodes().await.map(drop),
    }
}
