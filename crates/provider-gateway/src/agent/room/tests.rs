use super::*;
use crate::{
    agent::{Event, Record},
    executor::Adopted,
};
use domain::{
    attempt::{AttemptState, Report},
    ids::{DEFAULT_PROJECT, Fence, Held, TaskId},
    outcome::{ExitFacts, LogTotals},
    spec::parse_spec,
};
use proptest::prelude::*;
use protocol::Assign;
use uuid::Uuid;

fn held(n: u128) -> Held {
    Held { attempt: id(n), fence: Fence::from_i64(1) }
}
fn id(n: u128) -> AttemptId {
    AttemptId::from_uuid(Uuid::from_u128(n))
}
/// A process that needs so many CPUs.
fn assign(n: u128, cpus: u64, ahead: bool) -> Box<Assign> {
    let mut spec = parse_spec(&serde_json::json!({"command": ["true"], "executor": "process"})).expect("valid");
    spec.requirements.amounts = Amounts { cpu_millis: cpus * 1_000, ..Amounts::default() };
    Box::new(Assign {
        held: held(n),
        task: TaskId::from_uuid(Uuid::from_u128(n)),
        project: DEFAULT_PROJECT,
        number: 1,
        gpu_ids: vec![],
        ahead,
        lease: None,
        spec,
    })
}
fn machine(cpus: u64) -> Agent {
    let mut agent = Agent::default();
    agent.step(0, Event::Offers(Capacity { cpu_millis: cpus * 1_000, ..Capacity::default() }));
    agent
}
fn begun(actions: &[Action]) -> Vec<AttemptId> {
    actions.iter().filter_map(|action| if let Action::Prepare(id) = action { Some(*id) } else { None }).collect()
}
fn run(agent: &mut Agent, now: Millis, n: u128) {
    agent.step(now, Event::Prepared { attempt: id(n), outcome: Ok(Default::default()) });
    agent.step(now, Event::Started { attempt: id(n), outcome: Ok(()) });
}
/// Until nothing is left of it; returns what was begun then.
fn end(agent: &mut Agent, now: Millis, n: u128) -> Vec<AttemptId> {
    let exit = ExitFacts { code: Some(0), ..ExitFacts::default() };
    let mut actions = agent.step(now, Event::Collected { attempt: id(n), outcome: Ok(exit) });
    actions.extend(agent.step(now, Event::LogAcknowledged { attempt: id(n), totals: LogTotals::default() }));
    assert_eq!(begun(&actions), [], "what it held is not free before it is removed");
    begun(&agent.step(now, Event::Removed { attempt: id(n), outcome: Ok(()) }))
}
fn given_back(actions: &[Action]) -> Vec<AttemptId> {
    let awaits = |action: &Action| if let Action::AwaitLog(id) = action { Some(*id) } else { None };
    actions.iter().filter_map(awaits).collect()
}

#[test]
fn what_was_sent_ahead_waits_and_begins_the_moment_that_there_is_room() {
    let mut agent = machine(1);
    assert_eq!(begun(&agent.step(0, Event::Assigned(assign(1, 1, false)))), [id(1)]);
    run(&mut agent, 0, 1);
    let actions = agent.step(1, Event::Assigned(assign(2, 1, true)));
    assert_eq!(actions[0], Action::Persist(id(2)));
    assert_eq!((begun(&actions), agent.running()), (vec![], 1));
    let said = agent.inventory().into_iter().find(|said| said.held == held(2)).expect("it is here");
    assert_eq!((said.state, said.ahead), (AttemptState::Assigned, true), "the platform is told the truth");
    assert_eq!(end(&mut agent, 100, 1), [id(2)]);
    run(&mut agent, 100, 2);
    assert_eq!(agent.running(), 1);
}

#[test]
fn where_there_is_room_it_begins_at_once() {
    let mut agent = machine(2);
    agent.step(0, Event::Assigned(assign(1, 1, false)));
    assert_eq!(begun(&agent.step(1, Event::Assigned(assign(2, 1, true)))), [id(2)]);
}

#[test]
fn the_urgent_one_is_first_and_then_the_oldest_and_a_small_one_overtakes_nobody() {
    let mut agent = machine(2);
    agent.step(0, Event::Assigned(assign(1, 1, false)));
    agent.step(0, Event::Assigned(assign(2, 1, false)));
    (1..=2).for_each(|n| run(&mut agent, 0, n));
    agent.step(1, Event::Assigned(assign(4, 1, true)));
    agent.step(1, Event::Assigned(assign(3, 2, true)));
    let mut urgent = assign(5, 1, true);
    urgent.spec.priority = 100;
    agent.step(2, Event::Assigned(urgent));
    assert_eq!(end(&mut agent, 10, 1), [id(5)], "the urgent one");
    run(&mut agent, 10, 5);
    assert_eq!(end(&mut agent, 20, 2), [], "the oldest needs both CPUs, and the small one does not overtake it");
    assert_eq!(end(&mut agent, 30, 5), [id(3)]);
    run(&mut agent, 30, 3);
    assert_eq!(end(&mut agent, 40, 3), [id(4)]);
}

#[test]
fn what_waits_too_long_goes_back_as_not_begun() {
    let mut agent = machine(1);
    agent.step(0, Event::Assigned(assign(1, 1, false)));
    run(&mut agent, 0, 1);
    agent.step(1_000, Event::Assigned(assign(2, 1, true)));
    assert_eq!(agent.next_deadline(), Some(1_000 + WAIT_MS));
    assert_eq!(given_back(&agent.step(999 + WAIT_MS, Event::Tick)), []);
    assert_eq!(given_back(&agent.step(1_000 + WAIT_MS, Event::Tick)), [id(2)]);
    let actions = agent.step(7_000, Event::LogAcknowledged { attempt: id(2), totals: LogTotals::default() });
    let ended = actions.iter().find_map(|action| match action {
        Action::Report { report: Report::Ended { ending }, .. } => Some(ending.clone()),
        _ => None,
    });
    let ending = ended.expect("its end is told");
    assert!(ending.planned_stop && ending.exit.is_none(), "{ending:?}");
    assert_eq!(end(&mut agent, 8_000, 1), [], "it does not begin after that");
}

#[test]
fn a_node_that_is_drained_gives_back_what_waits_and_what_still_comes_ahead() {
    let mut agent = machine(1);
    agent.step(0, Event::Assigned(assign(1, 1, false)));
    run(&mut agent, 0, 1);
    agent.step(1, Event::Assigned(assign(2, 1, true)));
    assert_eq!(given_back(&agent.step(2, Event::Draining(true))), [id(2)]);
    assert_eq!(given_back(&agent.step(3, Event::Assigned(assign(3, 1, true)))), [id(3)]);
    assert_eq!(agent.running(), 1, "what runs goes on");
    agent.step(4, Event::Draining(false));
    assert_eq!(given_back(&agent.step(5, Event::Assigned(assign(4, 1, true)))), []);
}

#[test]
fn what_is_cancelled_fenced_or_moved_while_it_waits_never_begins() {
    type Ends = fn(Held) -> Event;
    for event in [Event::Cancel as Ends, Event::Stop, Event::Evict] {
        let mut agent = machine(1);
        agent.step(0, Event::Assigned(assign(1, 1, false)));
        run(&mut agent, 0, 1);
        agent.step(1, Event::Assigned(assign(2, 1, true)));
        let actions = agent.step(2, event(held(2)));
        assert!(actions.iter().any(|it| matches!(it, Action::AwaitLog(_) | Action::Remove(_))), "{actions:?}");
        assert_eq!(end(&mut agent, 3, 1), []);
    }
    let mut agent = machine(1);
    agent.step(0, Event::Assigned(assign(1, 1, false)));
    agent.step(1, Event::Assigned(assign(2, 1, true)));
    let actions = agent.step(2, Event::ShutDown { grace_ms: 10 });
    assert!(given_back(&actions).contains(&id(2)), "an agent that goes down keeps nothing waiting: {actions:?}");
}

#[test]
fn after_a_restart_it_waits_again_until_it_is_known_what_still_runs() {
    let mut agent = machine(1);
    agent.step(0, Event::Assigned(assign(1, 1, false)));
    run(&mut agent, 0, 1);
    agent.step(1, Event::Assigned(assign(2, 1, true)));
    let records: Vec<Record> = [1, 2].map(|n| agent.record(id(n)).expect("it is on disk")).into();
    let mut next = machine(1);
    for record in records {
        next.step(9, Event::Restored(Box::new(record)));
    }
    let actions = next.step(10, Event::Adopted { attempt: id(2), found: Adopted::NotStarted });
    assert_eq!(begun(&actions), [], "the other one may be running");
    next.step(11, Event::Adopted { attempt: id(1), found: Adopted::Running });
    assert_eq!(end(&mut next, 20, 1), [id(2)]);
}

#[test]
fn what_there_is_room_for_comes_first_even_where_it_arrives_last() {
    let mut agent = machine(1);
    // Leased after the other one had been promised the place.
    assert_eq!(begun(&agent.step(0, Event::Assigned(assign(2, 1, true)))), [id(2)]);
    agent.step(0, Event::Assigned(assign(3, 1, true)));
    run(&mut agent, 0, 2);
    assert_eq!(begun(&agent.step(1, Event::Assigned(assign(1, 1, false)))), [], "never both at once");
    assert_eq!(end(&mut agent, 10, 2), [id(1)]);
}

#[derive(Clone, Debug)]
enum Move {
    Arrive { cpus: u64, ahead: bool, priority: i32 },
    End(usize),
    Cancel(usize),
    Wait(u64),
    Restart,
}

fn a_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => (1u64..4, any::<bool>(), -1i32..2).prop_map(|(cpus, ahead, priority)| Move::Arrive { cpus, ahead, priority }),
        4 => (0usize..8).prop_map(Move::End),
        1 => (0usize..8).prop_map(Move::Cancel),
        1 => (0u64..3_000).prop_map(Move::Wait),
        1 => Just(Move::Restart),
    ]
}

proptest! {
    /// The platform's own rule: with room it is sent if all that is there leaves room for it, ahead up to twice what there is.
    #[test]
    fn the_machine_never_has_more_to_do_than_it_can(moves in prop::collection::vec(a_move(), 1..60)) {
        const CPUS: u64 = 4;
        let mut agent = machine(CPUS);
        let mut needs: std::collections::BTreeMap<u128, u64> = Default::default();
        let mut running: Vec<u128> = Vec::new();
        let mut now = 0;
        for (n, next) in (1u128..).zip(moves) {
            now += 1;
            let actions = match next {
                Move::Arrive { cpus, ahead, priority } => {
                    let bound = if ahead { 2 * CPUS } else { CPUS };
                    if needs.values().sum::<u64>() + cpus > bound {
                        continue;
                    }
                    let mut assign = assign(n, cpus, ahead);
                    assign.spec.priority = priority;
                    needs.insert(n, cpus);
                    let actions = agent.step(now, Event::Assigned(assign));
                    prop_assert!(ahead || begun(&actions).contains(&id(n)), "there was room for it");
                    actions
                }
                Move::End(at) if !running.is_empty() => {
                    let n = running.remove(at % running.len());
                    let exit = ExitFacts { code: Some(0), ..ExitFacts::default() };
                    agent.step(now, Event::Collected { attempt: id(n), outcome: Ok(exit) });
                    agent.step(now, Event::LogAcknowledged { attempt: id(n), totals: LogTotals::default() });
                    needs.remove(&n);
                    agent.step(now, Event::Removed { attempt: id(n), outcome: Ok(()) })
                }
                Move::Cancel(at) => {
                    let waiting: Vec<u128> = needs.keys().copied().filter(|n| agent.is_waiting(id(*n))).collect();
                    let Some(n) = waiting.get(at % waiting.len().max(1)).copied() else { continue };
                    agent.step(now, Event::Cancel(held(n)));
                    agent.step(now, Event::LogAcknowledged { attempt: id(n), totals: LogTotals::default() });
                    needs.remove(&n);
                    agent.step(now, Event::Removed { attempt: id(n), outcome: Ok(()) })
                }
                Move::Wait(ms) => {
                    now += ms;
                    let mut actions = agent.step(now, Event::Tick);
                    for back in given_back(&actions) {
                        agent.step(now, Event::LogAcknowledged { attempt: back, totals: LogTotals::default() });
                        needs.remove(&back.as_uuid().as_u128());
                        actions.extend(agent.step(now, Event::Removed { attempt: back, outcome: Ok(()) }));
                    }
                    actions
                }
                Move::Restart => {
                    let mut next = machine(CPUS);
                    for n in needs.keys() {
                        let record = agent.record(id(*n)).expect("it is on disk");
                        next.step(now, Event::Restored(Box::new(record)));
                    }
                    let mut actions = Vec::new();
                    for n in needs.keys() {
                        let found = if running.contains(n) { Adopted::Running } else { Adopted::NotStarted };
                        actions.extend(next.step(now, Event::Adopted { attempt: id(*n), found }));
                    }
                    agent = next;
                    actions
                }
                Move::End(_) => continue,
            };
            for begun in begun(&actions) {
                let n = begun.as_uuid().as_u128();
                agent.step(now, Event::Prepared { attempt: begun, outcome: Ok(Default::default()) });
                agent.step(now, Event::Started { attempt: begun, outcome: Ok(()) });
                running.push(n);
            }
            let used: u64 = running.iter().filter_map(|n| needs.get(n)).sum();
            prop_assert!(used <= CPUS, "{used} CPUs of {CPUS} are in use");
            // And nothing waits beside a machine that has nothing to do.
            let waits = needs.keys().any(|n| agent.is_waiting(id(*n)));
            prop_assert!(!waits || !running.is_empty(), "something waits, and nothing runs");
        }
    }
}
