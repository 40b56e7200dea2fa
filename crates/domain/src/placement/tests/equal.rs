//! The fleet decides as the reference does, whatever changes between its passes.

use super::{Strategy, reference::Reference, *};
use proptest::{
    collection::vec,
    option,
    prelude::{ProptestConfig, any},
    strategy::Strategy as Generator,
};
use std::collections::BTreeMap;

/// What a node is made of, small enough that they collide.
#[derive(Clone, Debug)]
struct Machine {
    cpus: u64,
    gpus: Vec<u64>,
    site: u8,
    weight: u8,
    max_tasks: u32,
    warm: u8,
    state: u8,
}

#[derive(Clone, Debug)]
struct Wanted {
    cpus: u64,
    gpus: u32,
    gpu_memory: u64,
    priority: i32,
    site: Option<u8>,
    prefer: Option<u8>,
    avoid: Option<u8>,
    named: Option<u8>,
    warm: u8,
    avoid_node: Option<u8>,
    exclusive: bool,
}

/// What happens between two passes.
#[derive(Clone, Debug)]
enum Between {
    Becomes(u8, Machine),
    Goes(u8),
    /// The oldest that is held there is given back.
    Releases(u8),
    /// Everything is read again.
    Reload,
}

fn machines() -> impl Generator<Value = Machine> {
    (0u64..6, vec(1u64..3, 0..3), 0u8..3, 1u8..4, 0u32..4, 0u8..8, 0u8..10).prop_map(
        |(cpus, gpus, site, weight, max_tasks, warm, state)| Machine {
            cpus,
            gpus,
            site,
            weight,
            max_tasks,
            warm,
            state,
        },
    )
}

fn wanted() -> impl Generator<Value = Wanted> {
    let amounts = (0u64..4, prop_oneof![3 => Just(0u32), 1 => 1u32..3], 0u64..3);
    let labels = (option::weighted(0.2, 0u8..3), option::weighted(0.3, 0u8..3), option::weighted(0.2, 0u8..3));
    let rest =
        (option::weighted(0.1, 0u8..8), 0u8..8, option::weighted(0.3, 0u8..8), prop::bool::weighted(0.2), -2i32..3);
    (amounts, labels, rest).prop_map(|(amounts, labels, rest)| Wanted {
        cpus: amounts.0,
        gpus: amounts.1,
        gpu_memory: amounts.2,
        site: labels.0,
        prefer: labels.1,
        avoid: labels.2,
        named: rest.0,
        warm: rest.1,
        avoid_node: rest.2,
        exclusive: rest.3,
        priority: rest.4,
    })
}

fn between() -> impl Generator<Value = Between> {
    prop_oneof![
        2 => (0u8..8, machines()).prop_map(|(node, machine)| Between::Becomes(node, machine)),
        1 => (0u8..8).prop_map(Between::Goes),
        4 => (0u8..8).prop_map(Between::Releases),
        1 => Just(Between::Reload),
    ]
}

fn strategies() -> impl Generator<Value = Strategy> {
    prop_oneof![
        Just(Strategy::LeastLoaded),
        Just(Strategy::Pack),
        Just(Strategy::RoundRobin),
        Just(Strategy::Random),
        Just(Strategy::Weighted)
    ]
}

fn keys(bits: u8) -> BTreeSet<String> {
    (0..3).filter(|bit| bits & (1 << bit) != 0).map(|bit| format!("key-{bit}")).collect()
}
fn site(of: u8) -> (String, String) {
    ("site".into(), of.to_string())
}

fn build(n: u8, machine: &Machine) -> Candidate {
    let mut it = node(u128::from(n), machine.cpus);
    let gpus = machine.gpus.iter().enumerate();
    it.node.facts.capacity.gpus = gpus
        .map(|(g, memory_bytes)| Gpu { id: format!("{n}-{g}"), model: "x".into(), memory_bytes: *memory_bytes })
        .collect();
    it.node.facts.labels = [site(machine.site), ("weight".into(), machine.weight.to_string())].into();
    it.node.facts.max_tasks = machine.max_tasks;
    it.node.metrics.warm = keys(machine.warm);
    match machine.state {
        0 => it.node.presence = Presence::Disconnected,
        1 => it.node.admission = Admission::Draining,
        2 => it.node.admission = Admission::Cordoned,
        3 => (it.node.admission, it.may_probe) = (Admission::Cordoned, true),
        4 => _ = it.node.metrics.conditions.insert(Condition::DiskFull),
        5 | 6 => _ = it.node.facts.features.insert("self_fence:process".into()),
        _ => {}
    }
    it.ledger = Ledger::new(it.node.facts.capacity.clone());
    it
}

fn wait(n: u128, wanted: &Wanted, classes: &mut Vec<Needs>) -> Head {
    let mut it = head(n, wanted.cpus);
    let needs = Arc::make_mut(&mut it.needs);
    needs.exclusive = wanted.exclusive;
    let requirements = &mut needs.requirements;
    requirements.amounts.gpus = wanted.gpus;
    requirements.amounts.gpu_memory_bytes = wanted.gpu_memory;
    requirements.labels = wanted.site.map(site).into_iter().collect();
    requirements.prefer = wanted.prefer.map(site).into_iter().collect();
    requirements.avoid = wanted.avoid.map(site).into_iter().collect();
    requirements.node = wanted.named.map(|n| format!("node-{n}"));
    it.class = match classes.iter().position(|known| *known == *it.needs) {
        Some(class) => class as i64,
        None => {
            classes.push(Needs::clone(&it.needs));
            classes.len() as i64 - 1
        }
    };
    it.priority = wanted.priority;
    it.warm_keys = keys(wanted.warm);
    it.avoid_node = wanted.avoid_node.map(|n| NodeId::from_uuid(Uuid::from_u128(u128::from(n))));
    it
}

/// A row of numbers, the same for both.
fn randoms(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The two side by side, with what is held where.
struct Pair {
    fleet: Fleet,
    reference: Reference,
    held: BTreeMap<NodeId, Vec<Reservation>>,
}

impl Pair {
    fn apply(&mut self, change: &Between) {
        match change {
            Between::Becomes(n, machine) => {
                let mut it = build(*n, machine);
                // Nothing that is held is more than the machine has: what was moved away is not looked at here.
                let held = self.held.entry(it.node.id).or_default();
                held.retain(|reservation| {
                    let has_room = it.ledger.has_room_for(reservation);
                    if has_room {
                        it.ledger.hold(reservation);
                    }
                    has_room
                });
                it.holding = held.len() as u32;
                self.fleet.replace(it.clone());
                match self.reference.nodes.binary_search_by_key(&it.node.id, |known| known.node.id) {
                    Ok(at) => self.reference.nodes[at] = it,
                    Err(at) => self.reference.nodes.insert(at, it),
                }
            }
            Between::Goes(n) => {
                let id = NodeId::from_uuid(Uuid::from_u128(u128::from(*n)));
                self.held.remove(&id);
                self.fleet.remove(id);
                self.reference.nodes.retain(|known| known.node.id != id);
            }
            Between::Releases(n) => {
                let id = NodeId::from_uuid(Uuid::from_u128(u128::from(*n)));
                let Some(held) = self.held.get_mut(&id).filter(|held| !held.is_empty()) else { return };
                let given_back = held.remove(0);
                self.fleet.release(id, &given_back);
                for known in self.reference.nodes.iter_mut().filter(|known| known.node.id == id) {
                    known.ledger.release(&given_back);
                    known.holding -= 1;
                }
            }
            Between::Reload => self.fleet.replace_all(self.reference.nodes.clone()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn the_fleet_decides_as_if_it_looked_at_every_node_for_every_task(
        strategy in strategies(),
        first in vec(machines(), 0..8),
        passes in vec((vec(wanted(), 0..12), vec(between(), 0..6), any::<u64>()), 1..6),
    ) {
        let nodes: Vec<Candidate> = first.iter().enumerate().map(|(n, machine)| build(n as u8, machine)).collect();
        let mut pair = Pair {
            fleet: fleet(&nodes, strategy),
            reference: Reference::new(strategy, &nodes),
            held: BTreeMap::new(),
        };
        let mut classes = Vec::new();
        let mut next = 0;
        for (wanted, changes, seed) in passes {
            let mut heads: Vec<Head> = wanted
                .iter()
                .map(|wanted| {
                    next += 1;
                    wait(next, wanted, &mut classes)
                })
                .collect();
            let chosen = pair.fleet.plan(&mut heads, &mut Turns::default(), randoms(seed));
            let expected = pair.reference.plan(&mut heads, randoms(seed));
            prop_assert_eq!(&chosen, &expected);
            for placement in chosen {
                pair.held.entry(placement.node).or_default().push(placement.reservation);
            }
            for head in &heads {
                let has_room = pair.reference.nodes.iter().any(|node| check_fit(node, &head.needs).is_ok());
                prop_assert_eq!(pair.fleet.has_room_for(head.class, &head.needs), has_room);
            }
            prop_assert!(pair.fleet.nodes().all(|node| !node.ledger.is_overcommitted()));
            changes.iter().for_each(|change| pair.apply(change));
        }
    }
}

#[test]
fn a_long_life_forgets_nothing_that_counts() {
    // More changes than the journal keeps, more kinds of need than pools are remembered for long.
    let nodes: Vec<Candidate> = (0..20)
        .map(|n| {
            build(n, &Machine { cpus: 4, gpus: vec![1], site: n % 3, weight: 1, max_tasks: 0, warm: n % 8, state: 9 })
        })
        .collect();
    for strategy in [Strategy::LeastLoaded, Strategy::Pack, Strategy::RoundRobin, Strategy::Random, Strategy::Weighted]
    {
        let mut pair =
            Pair { fleet: fleet(&nodes, strategy), reference: Reference::new(strategy, &nodes), held: BTreeMap::new() };
        let mut classes = Vec::new();
        for pass in 0u64..150 {
            let wanted = |n: u64| Wanted {
                cpus: n % 3,
                gpus: n.is_multiple_of(7).into(),
                gpu_memory: 0,
                priority: 0,
                site: None,
                prefer: (pass % 20 < 10).then_some((n % 3) as u8),
                avoid: None,
                named: n.is_multiple_of(11).then_some((pass % 20) as u8),
                warm: (pass / 10 % 8) as u8,
                avoid_node: n.is_multiple_of(5).then_some((n % 20) as u8),
                exclusive: false,
            };
            let mut heads: Vec<Head> =
                (0..12).map(|n| wait(u128::from(pass * 12 + n), &wanted(n), &mut classes)).collect();
            let chosen = pair.fleet.plan(&mut heads, &mut Turns::default(), randoms(pass));
            assert_eq!(chosen, pair.reference.plan(&mut heads, randoms(pass)), "{strategy:?}, pass {pass}");
            for placement in chosen {
                pair.held.entry(placement.node).or_default().push(placement.reservation);
            }
            (0..20).for_each(|n| pair.apply(&Between::Releases(n)));
        }
    }
}
