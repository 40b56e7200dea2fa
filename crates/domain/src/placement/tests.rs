mod ahead;
mod equal;
mod reference;
mod turns;

use super::{Strategy, *};
use crate::{
    ids::DEFAULT_PROJECT,
    node::{Admission, Condition, NodeFacts, NodeMetrics, Presence},
    resources::{Amounts, Capacity, Gpu},
    spec::Requirements,
};
use proptest::prelude::{Just, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use uuid::Uuid;

fn at(seconds: i64) -> Timestamp {
    chrono::DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("in range")
}
fn node(n: u128, cpus: u64) -> Candidate {
    let capacity = Capacity { cpu_millis: cpus * 1000, memory_bytes: 64 << 30, disk_bytes: 1 << 40, gpus: vec![] };
    let facts = NodeFacts {
        platform: "linux".into(),
        arch: "x86_64".into(),
        executors: [("process".to_owned(), "1".to_owned())].into(),
        capacity: capacity.clone(),
        internet: true,
        ..NodeFacts::default()
    };
    Candidate {
        node: NodeView {
            id: NodeId::from_uuid(Uuid::from_u128(n)),
            name: format!("node-{n}"),
            facts,
            metrics: NodeMetrics::default(),
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
fn head(n: u128, cpus: u64) -> Head {
    let amounts = Amounts { cpu_millis: cpus * 1000, ..Amounts::default() };
    Head {
        task: TaskId::from_uuid(Uuid::from_u128(n)),
        project: DEFAULT_PROJECT,
        class: cpus as i64,
        needs: Arc::new(Needs {
            executor: "process".into(),
            requirements: Requirements { amounts, ..Requirements::default() },
            exclusive: false,
            artifacts: false,
            checkpoints: false,
        }),
        priority: 0,
        queued_at: at(n as i64),
        avoid_node: None,
        warm_keys: BTreeSet::new(),
    }
}
fn fleet(nodes: &[Candidate], strategy: Strategy) -> Fleet {
    let mut fleet = Fleet::new(strategy);
    fleet.replace_all(nodes.to_vec());
    fleet
}
fn run(mut heads: Vec<Head>, nodes: Vec<Candidate>, strategy: Strategy) -> Vec<(u128, u128)> {
    fleet(&nodes, strategy)
        .plan(&mut heads, &mut Turns::default(), || 0.5)
        .into_iter()
        .map(|p| (p.task.as_uuid().as_u128(), p.node.as_uuid().as_u128()))
        .collect()
}

#[test]
fn urgent_first_then_in_order_of_submission() {
    let urgent = Head { priority: 100, ..head(3, 1) };
    assert_eq!(run(vec![head(1, 1), head(2, 1), urgent], vec![node(1, 2)], Strategy::LeastLoaded), [(3, 1), (1, 1)]);
}

#[test]
fn what_cannot_be_placed_blocks_nobody() {
    assert_eq!(run(vec![head(1, 99), head(2, 1)], vec![node(1, 2)], Strategy::LeastLoaded), [(2, 1)]);
}

#[test]
fn strategies_spread_as_they_say() {
    let many = |n: u128| (1..=n).map(|i| head(i, 1)).collect::<Vec<_>>();
    let counts = |placed: Vec<(u128, u128)>, nodes: u128| {
        (1..=nodes).map(|n| placed.iter().filter(|(_, on)| *on == n).count()).collect::<Vec<_>>()
    };
    let nodes = |n: u128| (1..=n).map(|i| node(i, 1000)).collect::<Vec<_>>();
    assert_eq!(counts(run(many(1000), nodes(4), Strategy::RoundRobin), 4), [250; 4]);
    assert_eq!(counts(run(many(1000), nodes(4), Strategy::LeastLoaded), 4), [250; 4]);
    assert_eq!(counts(run(many(100), nodes(4), Strategy::Pack), 4), [100, 0, 0, 0]);
    let weighted = (1..=4)
        .map(|n| {
            let mut c = node(n, 1000);
            c.node.facts.labels.insert("weight".into(), n.to_string());
            c
        })
        .collect();
    assert_eq!(counts(run(many(1000), weighted, Strategy::Weighted), 4), [100, 200, 300, 400]);
}

#[test]
fn a_warm_node_is_preferred_and_a_full_one_costs_no_wait() {
    let mut warm = node(2, 1);
    warm.node.metrics.warm.insert("image".into());
    let task = |n| Head { warm_keys: ["image".to_owned()].into(), ..head(n, 1) };
    assert_eq!(run(vec![task(1), task(2)], vec![node(1, 4), warm], Strategy::LeastLoaded), [(1, 2), (2, 1)]);
}

#[test]
fn the_node_that_failed_last_is_taken_only_when_no_other_fits() {
    let avoiding = |n| Head { avoid_node: Some(NodeId::from_uuid(Uuid::from_u128(1))), ..head(n, 1) };
    assert_eq!(run(vec![avoiding(1)], vec![node(1, 4), node(2, 4)], Strategy::Pack), [(1, 2)]);
    assert_eq!(run(vec![avoiding(1)], vec![node(1, 4)], Strategy::Pack), [(1, 1)]);
}

#[test]
fn a_node_that_the_rule_cordoned_gets_one_task_when_its_probe_is_due() {
    let cordoned = |may_probe| {
        let mut node = node(1, 100);
        node.node.admission = Admission::Cordoned;
        Candidate { may_probe, ..node }
    };
    let many = |n: u128| (1..=n).map(|i| head(i, 1)).collect::<Vec<_>>();
    assert_eq!(run(many(5), vec![cordoned(false)], Strategy::LeastLoaded), []);
    assert_eq!(run(many(5), vec![cordoned(true)], Strategy::LeastLoaded), [(1, 1)]);
}

proptest! {
    #[test]
    fn the_last_node_is_avoided_whenever_another_fits(
        cpus in prop::collection::vec(0u64..4, 1..5), last in 0u128..5,
        strategy in prop_oneof![Just(Strategy::LeastLoaded), Just(Strategy::Pack), Just(Strategy::RoundRobin), Just(Strategy::Random), Just(Strategy::Weighted)],
    ) {
        let nodes: Vec<Candidate> = cpus.iter().enumerate().map(|(n, cpus)| node(n as u128, *cpus)).collect();
        let avoiding = Head { avoid_node: Some(NodeId::from_uuid(Uuid::from_u128(last))), ..head(1, 2) };
        let fit: Vec<u128> = (0..cpus.len()).filter(|n| cpus[*n] >= 2).map(|n| n as u128).collect();
        match run(vec![avoiding], nodes, strategy)[..] {
            [] => prop_assert!(fit.is_empty()),
            [(_, on)] => prop_assert!(fit.contains(&on) && (on != last || fit == [last]), "{on} of {fit:?}"),
            ref other => panic!("{other:?}"),
        }
    }
}

#[test]
fn each_reason_is_told_apart() {
    let needs = |change: fn(&mut Requirements)| {
        let mut n = Needs::clone(&head(1, 1).needs);
        change(&mut n.requirements);
        n
    };
    let on = |change: fn(&mut Candidate)| {
        let mut c = node(1, 2);
        change(&mut c);
        c
    };
    let plain = Needs::clone(&head(1, 1).needs);
    for (candidate, needs, expected) in [
        (node(1, 2), needs(|r| r.node = Some("other".into())), Unfit::NotTheNamedNode),
        (
            node(1, 2),
            Needs { executor: "container".into(), ..plain.clone() },
            Unfit::NoSuchExecutor { executor: "container".into() },
        ),
        (node(1, 2), Needs { exclusive: true, ..plain.clone() }, Unfit::CannotSelfFence),
        (node(1, 2), needs(|r| r.platform = Some("darwin".into())), Unfit::OtherPlatform { platform: "linux".into() }),
        (node(1, 2), needs(|r| r.arch = Some("armv7".into())), Unfit::OtherArch { arch: "x86_64".into() }),
        (node(1, 2), needs(|r| r.role = Some("mobile".into())), Unfit::OtherRole { role: String::new() }),
        (
            node(1, 2),
            needs(|r| {
                r.tags.insert("gpio".into());
            }),
            Unfit::MissingTags,
        ),
        (
            node(1, 2),
            needs(|r| {
                r.labels.insert("site".into(), "x".into());
            }),
            Unfit::MissingLabels,
        ),
        (on(|c| c.node.facts.internet = false), needs(|r| r.internet = true), Unfit::NoInternet),
        (node(1, 2), needs(|r| r.amounts.gpus = 1), Unfit::NoGpu),
        (node(1, 2), needs(|r| r.amounts.cpu_millis = 3000), Unfit::CpuTooSmall),
        (node(1, 2), needs(|r| r.amounts.memory_bytes = 65 << 30), Unfit::MemoryTooSmall),
        (node(1, 2), needs(|r| r.amounts.disk_bytes = 2 << 40), Unfit::DiskTooSmall),
        (on(|c| c.node.presence = Presence::Offline), plain.clone(), Unfit::Offline),
        (on(|c| c.node.presence = Presence::Disconnected), plain.clone(), Unfit::Disconnected),
        (on(|c| c.node.admission = Admission::Draining), plain.clone(), Unfit::Draining),
        (on(|c| c.node.admission = Admission::Cordoned), plain.clone(), Unfit::Cordoned),
        (on(|c| c.node.admission = Admission::Revoked), plain.clone(), Unfit::Revoked),
        (
            on(|c| {
                c.node.metrics.conditions.insert(Condition::DiskFull);
            }),
            plain.clone(),
            Unfit::Unwell { condition: Condition::DiskFull },
        ),
        (
            on(|c| c.ledger.hold(&Reservation { cpu_millis: 1500, ..Reservation::default() })),
            plain.clone(),
            Unfit::Full,
        ),
        (
            on(|c| {
                c.node.facts.max_tasks = 1;
                c.holding = 1;
            }),
            plain.clone(),
            Unfit::Full,
        ),
    ] {
        assert_eq!(check_fit(&candidate, &needs), Err(expected));
    }
    // Docker away concerns containers only.
    let no_docker = on(|c| {
        c.node.metrics.conditions.insert(Condition::DockerUnavailable);
    });
    assert!(check_fit(&no_docker, &plain).is_ok());
}

proptest! {
    #[test]
    fn a_plan_never_overcommits_and_places_each_task_once(
        heads in prop::collection::vec((0u64..6, -5i32..5, 0u32..2), 0..60),
        nodes in prop::collection::vec((1u64..8, 0usize..3), 0..8),
        strategy in prop_oneof![Just(Strategy::LeastLoaded), Just(Strategy::RoundRobin), Just(Strategy::Weighted), Just(Strategy::Random), Just(Strategy::Pack)],
    ) {
        let heads: Vec<Head> = heads.into_iter().enumerate().map(|(i, (cpus, priority, gpus))| {
            let mut head = Head { priority, class: (cpus * 10) as i64 + i64::from(gpus), ..head(i as u128 + 1, cpus) };
            Arc::make_mut(&mut head.needs).requirements.amounts.gpus = gpus;
            head
        }).collect();
        let nodes: Vec<Candidate> = nodes.into_iter().enumerate().map(|(i, (cpus, gpus))| {
            let mut candidate = node(i as u128 + 1, cpus);
            let gpus = (0..gpus).map(|g| Gpu { id: format!("{i}-{g}"), model: "x".into(), memory_bytes: 1 }).collect();
            candidate.node.facts.capacity.gpus = gpus;
            candidate.ledger = Ledger::new(candidate.node.facts.capacity.clone());
            candidate
        }).collect();
        let (mut fleet, mut again, mut heads) = (fleet(&nodes, strategy), fleet(&nodes, strategy), heads);
        let placements = fleet.plan(&mut heads, &mut Turns::default(), || 0.3);
        prop_assert!(fleet.nodes().all(|c| !c.ledger.is_overcommitted()));
        let tasks: BTreeSet<_> = placements.iter().map(|p| p.task).collect();
        prop_assert_eq!(tasks.len(), placements.len());
        // Whatever was left fits nowhere any more.
        for head in heads.iter().filter(|head| !tasks.contains(&head.task)) {
            prop_assert!(fleet.nodes().all(|c| check_fit(c, &head.needs).is_err()));
        }
        prop_assert_eq!(again.plan(&mut heads.clone(), &mut Turns::default(), || 0.3), placements);
    }
}
