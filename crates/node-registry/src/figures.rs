//! The state of the platform as gauges, shown by one process of all: that which sweeps.

use crate::{Config, sweeper::Sweeper};
use domain::{
    node::{Admission, Presence},
    resources::Capacity,
    task::TaskState,
};
use service_kit::{
    Pass,
    metrics::{Figures, publish},
};
use std::{collections::BTreeSet, sync::Arc};
use store::{Census, NodeWithLoad, Store, StoreError};
use tokio::sync::Mutex;

const SECTION: &str = "platform";
/// Told apart by name; the rest is one.
const PROJECTS: usize = 50;

pub(crate) async fn show(store: Store, config: Config, sweeper: Arc<Mutex<Sweeper>>) -> Result<Pass, StoreError> {
    let read = async {
        if !sweeper.lock().await.leads() {
            return Ok(None);
        }
        let census = store.census(PROJECTS).await?;
        let nodes = store.list_nodes(None, config.metrics_nodes).await?;
        Ok(Some(figures(&census, &nodes, config.database_limit)))
    };
    match read.await {
        Ok(figures) => publish(SECTION, figures),
        // Better none than those of some time ago.
        Err(error) => {
            publish(SECTION, None);
            return Err(error);
        }
    }
    Ok(Pass::Idle)
}

/// Another process shows them from now on.
pub(crate) fn hide() {
    publish(SECTION, None);
}

fn figures(census: &Census, nodes: &[NodeWithLoad], database_limit: u64) -> Figures {
    let mut figures = Figures::default();
    let mut gauge = figures
        .gauge("unidesk_tasks", "Tasks by state and project; the 50 busiest projects by name, the rest as other");
    let projects: BTreeSet<&str> = census.tasks.keys().map(|(project, _)| project.as_str()).collect();
    // A platform without a task has all states, too: what is zero is shown.
    let projects = if projects.is_empty() { BTreeSet::from(["default"]) } else { projects };
    for project in projects {
        for state in TaskState::ALL {
            let tasks = census.tasks.get(&(project.to_owned(), state)).copied().unwrap_or_default();
            gauge.sample(&[("project", project), ("state", state.as_str())], tasks as f64);
        }
    }
    let mut gauge = figures.gauge(
        "unidesk_queue_tasks",
        "Waiting tasks by the word for their priority; beyond 50000 they are not all counted",
    );
    for (priority, waiting) in &census.waiting {
        gauge.sample(&[("priority", priority)], waiting.tasks as f64);
    }
    let mut gauge = figures.gauge(
        "unidesk_queue_oldest_age_seconds",
        "Since the submission of the task that waits longest; 0: nothing waits",
    );
    for (priority, waiting) in &census.waiting {
        gauge.sample(&[("priority", priority)], waiting.oldest_s);
    }
    let mut gauge = figures.gauge(
        "unidesk_nodes",
        "Nodes by what they are good for: new (never heard), ready, cordoned, draining, drained, disconnected, offline",
    );
    for (state, nodes) in &census.nodes {
        gauge.sample(&[("state", state)], *nodes as f64);
    }
    figures
        .gauge("unidesk_database_bytes", "Size of the platform's database")
        .sample(&[], census.database_bytes as f64);
    figures
        .gauge(
            "unidesk_database_limit_bytes",
            "What the database may grow to before somebody is told (UNIDESK_DATABASE_LIMIT)",
        )
        .sample(&[], database_limit as f64);
    of_nodes(&mut figures, nodes);
    figures
}

/// Reads a figure of a node; None: it has none.
type Reading = fn(&NodeWithLoad) -> Option<f64>;

const OF_NODES: [(&str, &str, Reading); 17] = [
    // Who was never heard is not away: its agent is not installed yet.
    ("unidesk_node_up", "Whether the node is connected", |it| {
        it.node.last_seen_at.map(|_| f64::from(u8::from(is_up(it))))
    }),
    ("unidesk_node_accepts_work", "Whether the node gets new work: nobody cordoned, drained or closed it", |it| {
        Some(f64::from(u8::from(it.node.admission == Admission::Open && it.node.metrics.conditions.is_empty())))
    }),
    ("unidesk_node_last_heartbeat_timestamp_seconds", "When the node was heard last, by the database's clock", |it| {
        it.node.last_seen_at.map(|at| at.timestamp_millis() as f64 / 1e3)
    }),
    ("unidesk_node_cpu_usage_ratio", "Of all CPUs of the machine, as its last heartbeat says", |it| {
        is_up(it).then_some(f64::from(it.node.metrics.cpu_percent) / 100.0)
    }),
    ("unidesk_node_memory_used_bytes", "Memory in use on the machine", |it| {
        is_up(it).then_some(it.node.metrics.memory_used_bytes as f64)
    }),
    ("unidesk_node_memory_bytes", "Memory that the node offers", |it| of_capacity(it, |has| has.memory_bytes as f64)),
    ("unidesk_node_disk_used_bytes", "In use on the disk of the agent's data directory", |it| {
        is_up(it).then_some(it.node.metrics.disk_used_bytes as f64)
    }),
    ("unidesk_node_disk_bytes", "Size of the disk of the agent's data directory", |it| {
        is_up(it).then_some(it.node.metrics.disk_total_bytes as f64)
    }),
    ("unidesk_node_cores", "Cores that the node offers", |it| of_capacity(it, |has| has.cpu_millis as f64 / 1e3)),
    ("unidesk_node_reserved_cores", "Cores that tasks hold there", |it| Some(it.reserved.cpu_millis as f64 / 1e3)),
    ("unidesk_node_reserved_memory_bytes", "Memory that tasks hold there", |it| Some(it.reserved.memory_bytes as f64)),
    ("unidesk_node_reserved_disk_bytes", "Disk that tasks hold there", |it| Some(it.reserved.disk_bytes as f64)),
    ("unidesk_node_gpus", "GPUs that the node offers", |it| of_capacity(it, |has| has.gpus.len() as f64)),
    ("unidesk_node_reserved_gpus", "GPUs that tasks hold there", |it| Some(it.reserved.gpu_ids.len() as f64)),
    ("unidesk_node_tasks", "Tasks that hold something there", |it| Some(f64::from(it.tasks))),
    ("unidesk_node_waiting_tasks", "Tasks that were sent ahead and wait there", |it| Some(f64::from(it.waiting))),
    ("unidesk_node_conditions", "What is wrong there now, by the node's own word: how many things", |it| {
        is_up(it).then_some(it.node.metrics.conditions.len() as f64)
    }),
];

fn of_nodes(figures: &mut Figures, nodes: &[NodeWithLoad]) {
    for (name, help, read) in OF_NODES {
        let mut gauge = figures.gauge(name, help);
        for node in nodes {
            if let Some(value) = read(node) {
                gauge.sample(&[("node", &node.node.name)], value);
            }
        }
    }
    type OfGpu = fn(&domain::node::GpuMetrics) -> Option<f64>;
    let of_gpus: [(&'static str, &'static str, OfGpu); 4] = [
        ("unidesk_node_gpu_usage_ratio", "How busy the GPU was, by its driver", |it| {
            it.usage_percent.map(|it| f64::from(it) / 100.0)
        }),
        ("unidesk_node_gpu_memory_used_bytes", "Memory of the GPU in use", |it| {
            it.memory_used_bytes.map(|it| it as f64)
        }),
        ("unidesk_node_gpu_memory_bytes", "Memory of the GPU", |it| it.memory_bytes.map(|it| it as f64)),
        ("unidesk_node_gpu_temperature_celsius", "Temperature of the GPU", |it| it.temperature_celsius.map(f64::from)),
    ];
    for (name, help, read) in of_gpus {
        let mut gauge = figures.gauge(name, help);
        for node in nodes.iter().filter(|node| is_up(node)) {
            for gpu in &node.node.metrics.gpus {
                if let Some(value) = read(gpu) {
                    gauge.sample(&[("node", &node.node.name), ("gpu", &gpu.id)], value);
                }
            }
        }
    }
}

fn is_up(node: &NodeWithLoad) -> bool {
    node.node.presence == Presence::Connected
}

/// What it offers; nothing before its first hello.
fn of_capacity(node: &NodeWithLoad, amount: fn(&Capacity) -> f64) -> Option<f64> {
    Some(amount(&node.node.facts.capacity))
}
