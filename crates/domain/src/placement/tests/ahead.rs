use super::*;
use crate::ids::AttemptId;
use std::collections::BTreeMap;

/// A leader of nodes of two CPUs each, to which tasks may be sent ahead.
struct Leader {
    nodes: Watched,
    turns: Turns,
    leases: u128,
    /// What each attempt is of.
    held: BTreeMap<AttemptId, (NodeId, Reservation)>,
    now_ms: u64,
}

impl Leader {
    fn of(nodes: Vec<Candidate>) -> Self {
        let mut watched = Watched::new(Strategy::LeastLoaded).with_short(Short { within_ms: 1_000, in_a_row: 2 });
        watched.take_unread(0);
        let readings = nodes.into_iter().map(|it| Reading {
            node: it.node,
            may_probe: it.may_probe,
            held: BTreeMap::new(),
            waiting: BTreeSet::new(),
        });
        watched.read(&Asked::Range(None, None), readings.collect());
        Self { nodes: watched, turns: Turns::default(), leases: 0, held: BTreeMap::new(), now_ms: 0 }
    }

    /// One pass, after all that waits has waited for long; returns what was placed, and what of it ahead.
    fn pass(&mut self, heads: &[Head]) -> (Vec<Placement>, Vec<Placement>) {
        self.nodes.take_unread(self.now_ms);
        let mut heads = heads.to_vec();
        let plan = self.nodes.plan(&mut heads, &mut self.turns, || 0.5);
        let left: Vec<Head> =
            heads.into_iter().filter(|head| plan.iter().all(|placement| placement.task != head.task)).collect();
        let ahead = self.nodes.plan_ahead(&left, [], &mut self.turns, at(1_000));
        let all: Vec<Placement> = plan.iter().chain(&ahead).cloned().collect();
        let mut leases = BTreeMap::new();
        for placement in &all {
            self.leases += 1;
            let attempt = AttemptId::from_uuid(Uuid::from_u128(self.leases));
            leases.insert(placement.task, attempt);
            self.held.insert(attempt, (placement.node, placement.reservation.clone()));
        }
        self.nodes.committed(all, &leases);
        (plan, ahead)
    }

    /// All that is held is given back after so long.
    fn all_end_after(&mut self, ms: u64) {
        self.now_ms += ms;
        let freed = std::mem::take(&mut self.held).into_keys().collect();
        self.nodes.hear(Unread { freed, ..Unread::default() });
        self.nodes.take_unread(self.now_ms);
    }

    /// Tasks of one CPU have turned out to be short.
    fn knows_that_one_cpu_is_short(mut self) -> Self {
        self.pass(&[head(901, 1), head(902, 1)]);
        self.all_end_after(50);
        self
    }
}

fn patient(n: u128) -> Candidate {
    let mut node = node(n, 2);
    node.node.facts.features.insert(AHEAD.to_owned());
    node
}
fn ones(numbers: std::ops::Range<u128>) -> Vec<Head> {
    numbers.map(|n| head(n, 1)).collect()
}

#[test]
fn nothing_goes_ahead_before_it_is_known_to_be_short() {
    let mut leader = Leader::of(vec![patient(1)]);
    let (placed, ahead) = leader.pass(&ones(0..8));
    assert_eq!((placed.len(), ahead.len()), (2, 0));
}

#[test]
fn as_many_short_tasks_as_fit_once_more_wait_on_a_node_and_no_more() {
    let mut leader = Leader::of(vec![patient(1), patient(2)]).knows_that_one_cpu_is_short();
    let (placed, ahead) = leader.pass(&ones(0..20));
    assert_eq!((placed.len(), ahead.len()), (4, 4));
    assert!(placed.iter().all(|it| !it.reservation.ahead) && ahead.iter().all(|it| it.reservation.ahead));
    assert_eq!(ahead.iter().filter(|it| it.node == patient(1).node.id).count(), 2, "spread evenly");
    let (placed, ahead) = leader.pass(&ones(8..20));
    assert_eq!((placed.len(), ahead.len()), (0, 0));
    leader.all_end_after(100);
    let (placed, ahead) = leader.pass(&ones(8..20));
    assert_eq!((placed.len(), ahead.len()), (4, 4), "and all comes free again");
}

#[test]
fn an_agent_that_cannot_wait_is_sent_nothing_ahead() {
    let mut leader = Leader::of(vec![node(1, 2)]).knows_that_one_cpu_is_short();
    let (placed, ahead) = leader.pass(&ones(0..8));
    assert_eq!((placed.len(), ahead.len()), (2, 0));
}

#[test]
fn what_has_only_come_is_not_sent_ahead() {
    let mut leader = Leader::of(vec![patient(1)]).knows_that_one_cpu_is_short();
    let fresh: Vec<Head> = ones(0..8).into_iter().map(|head| Head { queued_at: at(1_000), ..head }).collect();
    let (placed, ahead) = leader.pass(&fresh);
    assert_eq!((placed.len(), ahead.len()), (2, 0), "a place may come free elsewhere sooner");
}

#[test]
fn exclusive_tasks_and_such_that_want_gpus_never_go_ahead() {
    let of = |change: fn(&mut Needs)| {
        let mut needs = Needs::clone(&head(1, 1).needs);
        change(&mut needs);
        may_go_ahead(&needs)
    };
    assert!(of(|_| {}));
    assert!(!of(|needs| needs.exclusive = true));
    assert!(!of(|needs| needs.requirements.amounts.gpus = 1));
}

#[test]
fn what_is_not_at_hand_there_keeps_a_task_from_going_ahead() {
    let mut warm = patient(2);
    warm.node.metrics.warm = ["env:a".to_owned()].into();
    let mut leader = Leader::of(vec![patient(1), warm.clone()]).knows_that_one_cpu_is_short();
    let heads: Vec<Head> =
        ones(0..12).into_iter().map(|head| Head { warm_keys: ["env:a".to_owned()].into(), ..head }).collect();
    let (_, ahead) = leader.pass(&heads);
    assert_eq!(ahead.len(), 2);
    assert!(ahead.iter().all(|it| it.node == warm.node.id), "{ahead:?}");
}

#[test]
fn where_others_wait_for_room_short_tasks_leave_it_to_them() {
    let mut leader = Leader::of(vec![patient(1)]).knows_that_one_cpu_is_short();
    let mut heads = ones(0..8);
    heads.push(head(99, 2));
    let (placed, ahead) = leader.pass(&heads);
    assert_eq!((placed.len(), ahead.len()), (2, 0), "the large one would never get both CPUs");
    leader.now_ms += 10;
    leader.held.clear();
    // What can't have this node anyway is no reason.
    let mut leader = Leader::of(vec![patient(1)]).knows_that_one_cpu_is_short();
    let mut heads = ones(0..8);
    heads.push(head(99, 3));
    assert_eq!(leader.pass(&heads).1.len(), 2);
}

#[test]
fn an_urgent_task_is_the_first_to_go_ahead() {
    let mut leader = Leader::of(vec![patient(1)]).knows_that_one_cpu_is_short();
    leader.pass(&ones(0..2));
    let mut heads = ones(2..8);
    heads.push(Head { priority: 100, ..head(99, 1) });
    let (_, ahead) = leader.pass(&heads);
    assert_eq!(ahead.first().map(|it| it.task), Some(head(99, 1).task));
}

#[test]
fn behind_what_turns_out_long_nothing_more_is_sent() {
    let mut leader = Leader::of(vec![patient(1)]).knows_that_one_cpu_is_short();
    leader.pass(&ones(0..2));
    leader.now_ms += 1_001;
    let (placed, ahead) = leader.pass(&ones(2..8));
    assert_eq!((placed.len(), ahead.len()), (0, 0), "they should be over by now");
    leader.all_end_after(9_000);
    assert_eq!(leader.pass(&ones(2..8)).1.len(), 0, "and the class has to prove itself again");
}

#[test]
fn what_another_leader_leased_counts_as_long() {
    let mut leader = Leader::of(vec![patient(1)]).knows_that_one_cpu_is_short();
    let one = Reservation::of(&head(1, 1).needs.requirements.amounts);
    let held = [1, 2].map(|n| (AttemptId::from_uuid(Uuid::from_u128(500 + n)), one.clone())).into();
    let reading = Reading { node: patient(1).node, may_probe: false, held, waiting: BTreeSet::new() };
    leader.nodes.read(&Asked::Nodes([patient(1).node.id].into()), vec![reading]);
    assert_eq!(leader.pass(&ones(0..8)).1.len(), 0);
}

#[test]
fn a_look_at_a_node_forgets_nothing_of_what_is_short_there() {
    let mut leader = Leader::of(vec![patient(1)]).knows_that_one_cpu_is_short();
    leader.pass(&ones(0..2));
    let held = leader.held.iter().map(|(attempt, (_, reservation))| (*attempt, reservation.clone())).collect();
    let reading = Reading { node: patient(1).node, may_probe: false, held, waiting: BTreeSet::new() };
    leader.nodes.read(&Asked::Nodes([patient(1).node.id].into()), vec![reading]);
    assert_eq!(leader.pass(&ones(2..8)).1.len(), 2);
}
