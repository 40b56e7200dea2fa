//! One task at a time on an idle cluster, beside the commit of one row on the same server at the same time.

use crate::{
    limit::{self, OneRow},
    load,
    platform::{Options, Platform},
    report::{Record, percentile},
};
use domain::task::TaskState;
use serde_json::json;
use std::time::{Duration, Instant};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Tasks, one at a time
    #[arg(long, default_value_t = 300)]
    pub tasks: usize,
    /// Simulated nodes
    #[arg(long, default_value_t = 16)]
    pub nodes: u32,
    #[command(flatten)]
    pub platform: Options,
}

/// Not counted: connections are opened, plans are made.
const WARM_UP: usize = 20;

pub async fn run(args: &Args) -> anyhow::Result<Record> {
    let mut platform = Platform::start(&args.platform).await?;
    let mut nodes = platform.start_nodes(args.nodes, 4).await?;
    let reference = limit::prepare(|name| platform.postgres.url(name)).await?;
    let mut row = OneRow::prepare(&reference).await?;
    let body = load::task("latency", &json!({}));
    let (mut commits, mut assigned, mut started, mut ended) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..args.tasks + WARM_UP {
        let commit = row.commit().await?;
        let before = nodes.figures().assigned;
        let began_at = crate::nodes::figures::unix_micros();
        let began = Instant::now();
        let task = platform.client.submit(&body, None).await?;
        let task = platform.client.wait(task.id).await?;
        let took = began.elapsed();
        anyhow::ensure!(task.state == TaskState::Succeeded, "{}", task.message);
        let seen = nodes
            .until("the node tells of the assignment", Duration::from_secs(10), |figures| figures.assigned > before)
            .await?;
        if number < WARM_UP {
            continue;
        }
        let start = task.started_at.unwrap_or(task.created_at);
        commits.push(commit);
        assigned.push(Duration::from_micros(seen.last_assign_at.saturating_sub(began_at)));
        started.push((start - task.created_at).to_std().unwrap_or_default());
        ended.push(took);
    }
    let mut record = Record::new("latency")
        .with("build", crate::machine::build())
        .with("machine", crate::machine::describe())
        .with("postgres", platform.database().await?.settings().await?)
        .with("tasks", args.tasks);
    let shown: [(&str, &[Duration]); 4] = [
        ("commit_of_one_row", &commits),
        ("submit_to_node", &assigned),
        ("submit_to_start_recorded", &started),
        ("submit_to_result_read", &ended),
    ];
    for (name, all) in shown {
        for of_hundred in [50.0, 99.0] {
            record = record.ms(&format!("{name}_ms_p{of_hundred}"), percentile(all, of_hundred));
        }
    }
    drop(nodes);
    platform.stop().await?;
    Ok(record)
}
