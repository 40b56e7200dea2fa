//! The decision alone: how many placements a second the pure function makes, without a database or a socket.

use crate::{
    nodes::node::{EXECUTOR, facts},
    report::{Record, round},
};
use domain::{
    Timestamp,
    ids::{NodeId, TaskId},
    node::{Admission, NodeMetrics, NodeView, Presence},
    placement::{self, Candidate, Head, Snapshot, Strategy, Turn},
    resources::{Amounts, Ledger},
    spec::{Needs, Requirements},
};
use serde_json::json;
use std::time::{Duration, Instant};
use uuid::Uuid;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Numbers of nodes
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000")]
    pub nodes: Vec<u32>,
    /// Waiting tasks that one pass is given
    #[arg(long, default_value_t = 512)]
    pub heads: u128,
    /// Classes of needs among them
    #[arg(long, default_value_t = 4)]
    pub classes: u128,
    /// Milliseconds for each number of nodes
    #[arg(long, default_value_t = 2_000)]
    pub for_ms: u64,
}

pub fn run(args: &Args) -> Record {
    let mut record = Record::new("placement")
        .with("build", crate::machine::build())
        .with("machine", crate::machine::describe())
        .with("heads_of_a_pass", args.heads as u64)
        .with("classes", args.classes as u64);
    for nodes in &args.nodes {
        let (rate, pass) = rate(*nodes, args);
        record = record.with(
            &format!("{nodes}_nodes"),
            json!({"placements_per_s": round(rate), "ms_a_pass": round(pass.as_secs_f64() * 1e3)}),
        );
    }
    record
}

fn rate(nodes: u32, args: &Args) -> (f64, Duration) {
    let fresh = snapshot(nodes, args);
    let mut turn = Turn::new(Strategy::LeastLoaded);
    let (mut placed, mut passes, mut spent) = (0, 0, Duration::ZERO);
    while spent < Duration::from_millis(args.for_ms) {
        let mut snapshot = fresh.clone();
        let began = Instant::now();
        placed += placement::plan(&mut snapshot, &mut turn, rand::random).len();
        spent += began.elapsed();
        passes += 1;
    }
    (f64::from(placed as u32) / spent.as_secs_f64(), spent / passes)
}

fn snapshot(nodes: u32, args: &Args) -> Snapshot {
    let now = Timestamp::default();
    let candidate = |number: u32| {
        let facts = facts(64);
        let node = NodeView {
            id: NodeId::from_uuid(Uuid::from_u128(u128::from(number) + 1)),
            name: format!("node-{number}"),
            metrics: NodeMetrics::default(),
            presence: Presence::Connected,
            admission: Admission::Open,
            admission_note: String::new(),
            drain_deadline: None,
            probe_at: None,
            last_seen_at: Some(now),
            connected_since: Some(now),
            created_at: now,
            facts: facts.clone(),
        };
        Candidate { node, ledger: Ledger::new(facts.capacity), holding: 0, may_probe: false }
    };
    let head = |number: u128| {
        let class = number % args.classes.max(1);
        let amounts = Amounts {
            cpu_millis: 500 + class as u64,
            memory_bytes: 1 << 28,
            disk_bytes: 1 << 28,
            ..Amounts::default()
        };
        Head {
            task: TaskId::from_uuid(Uuid::from_u128(number + 1)),
            class: class as i64,
            needs: Needs {
                executor: EXECUTOR.to_owned(),
                requirements: Requirements { amounts, ..Requirements::default() },
                exclusive: false,
            },
            priority: 0,
            queued_at: now,
            avoid_node: None,
            warm_keys: Default::default(),
        }
    };
    Snapshot { now, heads: (0..args.heads).map(head).collect(), nodes: (0..nodes).map(candidate).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_head_of_the_measured_pass_is_placed() {
        let args = Args { nodes: vec![10], heads: 100, classes: 3, for_ms: 1 };
        let placed = placement::plan(&mut snapshot(10, &args), &mut Turn::new(Strategy::LeastLoaded), || 0.5);
        assert_eq!(placed.len(), 100);
    }
}
