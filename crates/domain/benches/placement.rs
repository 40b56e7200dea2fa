//! How fast decisions are made, at several sizes of the fleet: printed, never asserted. In CPU time of one core, on Linux.
//!
//! `cargo bench -p domain --bench placement`

use domain::{
    Timestamp,
    ids::{NodeId, ProjectId, TaskId},
    node::{Admission, NodeFacts, NodeMetrics, NodeView, Presence},
    placement::{Candidate, Fleet, Head, Placement, Strategy, Turns},
    resources::{Amounts, Capacity, Gpu, Ledger},
    spec::{Needs, Requirements},
};
use std::{collections::BTreeSet, hint::black_box, sync::Arc, time::Duration};
use uuid::Uuid;

/// Tasks that one pass looks at.
const PER_PASS: u64 = 512;
const FOR: Duration = Duration::from_millis(700);

fn main() {
    // `cargo test --benches` only asks whether this builds.
    if std::env::args().any(|arg| arg == "--test") || !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    println!("build: {}", if cfg!(debug_assertions) { "debug" } else { "release" });
    println!("\n| what is placed | {} |", SIZES.map(|nodes| format!("{nodes} nodes")).join(" | "));
    println!("|---|---|---|---|");
    let all = Strategy::LeastLoaded;
    row("equal tasks, least loaded", all, |n| needs(n, 1, Shape::Plain), |_| BTreeSet::new());
    row("equal tasks, pack", Strategy::Pack, |n| needs(n, 1, Shape::Plain), |_| BTreeSet::new());
    row("equal tasks, round robin", Strategy::RoundRobin, |n| needs(n, 1, Shape::Plain), |_| BTreeSet::new());
    row("equal tasks, weighted", Strategy::Weighted, |n| needs(n, 1, Shape::Plain), |_| BTreeSet::new());
    row("equal tasks, random", Strategy::Random, |n| needs(n, 1, Shape::Plain), |_| BTreeSet::new());
    row("2,000 sizes of memory in turns", all, |n| needs(n, 2_000, Shape::Plain), |_| BTreeSet::new());
    let of_projects = |n: u64| (((n % 200) << 32) as i64, needs(n, 1, Shape::Plain).1);
    row("equal tasks of 200 projects in turns", all, of_projects, |_| BTreeSet::new());
    row("20 sites by label in turns", all, |n| needs(n, 20, Shape::Site), |_| BTreeSet::new());
    row("one GPU each", all, |n| needs(n, 1, Shape::Gpu), |_| BTreeSet::new());
    row(
        "40 environments in turns, each warm on a tenth of the nodes",
        all,
        |n| needs(n, 1, Shape::Plain),
        |n| [format!("env:{}", n % 40)].into(),
    );
    full();
}

const SIZES: [u64; 3] = [100, 1_000, 10_000];

#[derive(Clone, Copy)]
enum Shape {
    Plain,
    Site,
    Gpu,
}

/// Placements per second. What was placed is given back after the pass, outside of the time that counts.
fn row(name: &str, strategy: Strategy, needs: impl Fn(u64) -> (i64, Needs), warm: impl Fn(u64) -> BTreeSet<String>) {
    let figures = SIZES.map(|nodes| {
        let mut random = 7u64;
        let mut draw = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 11) as f64 / (1u64 << 53) as f64
        };
        let (mut fleet, mut turns) = (Fleet::new(strategy), Turns::default());
        fleet.replace_all((0..nodes).map(node));
        // Something runs on most nodes, as in a fleet at work.
        let before = heads(0..nodes * 2, &needs, &warm);
        fleet.plan(&mut before.clone(), &mut turns, &mut draw);
        let (mut placed, mut took, mut next) = (0, Duration::ZERO, 0);
        while took < FOR {
            let mut waiting = heads(next..next + PER_PASS, &needs, &warm);
            next += PER_PASS;
            let began = Cpu::now();
            let placements: Vec<Placement> = fleet.plan(&mut waiting, &mut turns, &mut draw);
            took += began.elapsed();
            placed += placements.len();
            black_box(&placements);
            for placement in placements {
                fleet.release(placement.node, &placement.reservation);
            }
        }
        format!("{}/s", thousands(placed as f64 / took.as_secs_f64()))
    });
    println!("| {name} | {} |", figures.join(" | "));
}

/// A look at the queue when nothing fits, and a whole fleet read again in which nothing has changed.
fn full() {
    let figures = SIZES.map(|nodes| {
        let mut fleet = Fleet::new(Strategy::LeastLoaded);
        fleet.replace_all((0..nodes).map(node));
        let everything = |_| {
            (
                1,
                Needs {
                    requirements: Requirements {
                        amounts: Amounts { cpu_millis: 64_000, ..Amounts::default() },
                        ..Requirements::default()
                    },
                    ..needs(0, 1, Shape::Plain).1
                },
            )
        };
        let mut all = heads(0..nodes, &everything, &|_| BTreeSet::new());
        assert_eq!(fleet.plan(&mut all, &mut Turns::default(), || 0.0).len(), nodes as usize);
        let (mut passes, mut took) = (0, Duration::ZERO);
        while took < FOR / 4 {
            let mut waiting = heads(0..PER_PASS, &|n| needs(n, 2_000, Shape::Plain), &|_| BTreeSet::new());
            let began = Cpu::now();
            assert!(fleet.plan(&mut waiting, &mut Turns::default(), || 0.0).is_empty());
            took += began.elapsed();
            passes += 1;
        }
        format!("{:.2} ms", took.as_secs_f64() * 1_000.0 / f64::from(passes))
    });
    println!("| a pass over {PER_PASS} tasks of as many sizes, all nodes full | {} |", figures.join(" | "));
    let figures = SIZES.map(|nodes| {
        let mut fleet = Fleet::new(Strategy::LeastLoaded);
        let all: Vec<Candidate> = (0..nodes).map(node).collect();
        fleet.replace_all(all.clone());
        let again = all.clone();
        let began = Cpu::now();
        fleet.replace_all(again);
        format!("{:.2} ms", began.elapsed().as_secs_f64() * 1_000.0)
    });
    println!("| all nodes shown again, unchanged | {} |", figures.join(" | "));
    let figures = SIZES.map(|nodes| {
        let mut fleet = Fleet::new(Strategy::LeastLoaded);
        fleet.replace_all((0..nodes).map(node));
        let began = Cpu::now();
        assert!(fleet.has_room_for(1, &needs(0, 1, Shape::Plain).1));
        format!("{:.2} ms", began.elapsed().as_secs_f64() * 1_000.0)
    });
    println!("| the first look for a kind of need | {} |", figures.join(" | "));
}

fn heads(
    numbers: std::ops::Range<u64>,
    needs: &impl Fn(u64) -> (i64, Needs),
    warm: &impl Fn(u64) -> BTreeSet<String>,
) -> Vec<Head> {
    let mut known: std::collections::BTreeMap<i64, Arc<Needs>> = std::collections::BTreeMap::new();
    numbers
        .map(|n| {
            let (class, needs) = needs(n);
            Head {
                task: TaskId::from_uuid(Uuid::from_u128(u128::from(n))),
                project: ProjectId::from_uuid(Uuid::from_u128(class as u128 >> 32)),
                class,
                needs: known.entry(class).or_insert_with(|| Arc::new(needs)).clone(),
                priority: 0,
                queued_at: at(n as i64),
                avoid_node: None,
                warm_keys: warm(n),
            }
        })
        .collect()
}

fn needs(n: u64, classes: u64, shape: Shape) -> (i64, Needs) {
    let class = n % classes;
    let mut requirements = Requirements::default();
    requirements.amounts.cpu_millis = 100;
    requirements.amounts.memory_bytes = (64 << 20) + class;
    match shape {
        Shape::Plain => {}
        Shape::Site => _ = requirements.labels.insert("site".into(), class.to_string()),
        Shape::Gpu => requirements.amounts.gpus = 1,
    }
    (
        class as i64,
        Needs { executor: "process".into(), requirements, exclusive: false, artifacts: false, checkpoints: false },
    )
}

fn node(n: u64) -> Candidate {
    let gpus = (0..8).map(|g| Gpu { id: format!("GPU-{n}-{g}"), model: "x".into(), memory_bytes: 24 << 30 }).collect();
    let capacity = Capacity {
        cpu_millis: 64_000,
        memory_bytes: 256 << 30,
        disk_bytes: 1 << 40,
        gpus: if n.is_multiple_of(2) { gpus } else { Vec::new() },
    };
    let labels = [("site".to_owned(), (n % 20).to_string()), ("weight".to_owned(), (1 + n % 7).to_string())].into();
    let facts = NodeFacts {
        platform: "linux".into(),
        arch: "x86_64".into(),
        executors: [("process".to_owned(), "1".to_owned())].into(),
        capacity: capacity.clone(),
        labels,
        ..NodeFacts::default()
    };
    let warm = (0..4).map(|k| format!("env:{}", (n + 10 * k) % 40)).collect();
    Candidate {
        node: NodeView {
            id: NodeId::from_uuid(Uuid::from_u128(u128::from(n))),
            name: format!("node-{n}"),
            facts,
            metrics: NodeMetrics { warm, ..NodeMetrics::default() },
            presence: Presence::Connected,
            admission: Admission::Open,
            admission_note: String::new(),
            drain_deadline: None,
            probe_at: None,
            last_seen_at: None,
            connected_since: None,
            created_at: at(0),
        },
        ledger: Ledger::new(capacity),
        holding: 0,
        may_probe: false,
        waiting: Default::default(),
    }
}

/// Time that this thread was on a CPU, so that a busy machine's figures are those of an idle one.
struct Cpu(Duration);

impl Cpu {
    fn now() -> Self {
        let spent = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        Self(Duration::from_nanos(spent.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or_default()))
    }
    fn elapsed(&self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

fn at(seconds: i64) -> Timestamp {
    chrono::DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap_or_default()
}

fn thousands(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
