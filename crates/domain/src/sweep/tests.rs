use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use uuid::Uuid;

const OFFLINE_AFTER_MS: u64 = 90_000;
const LIMITS: Limits = Limits { offline_after_ms: OFFLINE_AFTER_MS, absent_after_ms: ABSENT_AFTER_MS };

/// A platform in true time, with a database whose clock may be set. What its sweeper is shown is what a database would show.
struct World {
    now_ms: u64,
    /// What the database's clock is ahead by.
    ahead_ms: i64,
    memory: Memory,
    epoch: i64,
    gateway_is_up: bool,
    platform: Option<Platform>,
    /// Of nodes that are not offline.
    beats: BTreeMap<NodeId, Timestamp>,
    /// Nodes that live; each has its own moment in the period of heartbeats.
    alive: BTreeSet<u64>,
    seen_ms: u64,
    read_at: Option<Timestamp>,
    longer: BTreeMap<NodeId, u64>,
    offline: Vec<(u64, NodeId)>,
    steps: Vec<Step>,
    alarms: Vec<(u64, Alarm)>,
    spared: usize,
}

fn node(n: u64) -> NodeId {
    NodeId::from_uuid(Uuid::from_u128(u128::from(n) + 1))
}

impl World {
    /// A minute old, so that the first heartbeats are in.
    fn of(nodes: u64) -> Self {
        let mut world = Self {
            now_ms: 5_000_000,
            ahead_ms: 0,
            memory: Memory::default(),
            epoch: 1,
            gateway_is_up: true,
            platform: None,
            beats: BTreeMap::new(),
            alive: (0..nodes).collect(),
            seen_ms: 0,
            read_at: None,
            longer: BTreeMap::new(),
            offline: Vec::new(),
            steps: Vec::new(),
            alarms: Vec::new(),
            spared: 0,
        };
        world.run(200);
        assert_eq!((world.beats.len() as u64, world.offline.len()), (nodes, 0));
        world
    }

    fn database_now(&self) -> Timestamp {
        let ms = 1_800_000_000_000 + self.now_ms.cast_signed() + self.ahead_ms;
        chrono::DateTime::from_timestamp_millis(ms).expect("in range")
    }

    /// As an api-gateway renews the row.
    fn renew(&mut self) {
        let now = self.database_now();
        let gap = TimeDelta::milliseconds(ABSENT_AFTER_MS as i64);
        let since = self.platform.filter(|row| (now - row.renewed_at).abs() <= gap).map_or(now, |row| row.since);
        self.platform = Some(Platform { since, renewed_at: now });
    }

    fn beat(&mut self, n: u64) {
        self.beats.insert(node(n), self.database_now());
    }

    fn sight(&self) -> Sight {
        Sight {
            epoch: self.epoch,
            asked_at: self.now_ms - 3,
            answered_at: self.now_ms + 4,
            now: self.database_now(),
            seen_ms: self.seen_ms,
            read_at: self.read_at,
            platform: self.platform,
            nodes: self.beats.clone(),
            longer: self.longer.clone(),
        }
    }

    fn pass(&mut self) -> Findings {
        let (findings, memory) = sweep(&self.memory, &self.sight(), &LIMITS);
        self.memory = memory;
        self.seen_ms = findings.seen_ms;
        self.read_at = Some(self.database_now());
        for (id, beat) in &findings.offline {
            assert_eq!(self.beats.remove(id), Some(*beat));
            self.offline.push((self.now_ms, *id));
        }
        self.steps.extend(findings.step);
        if findings.alarm_changed
            && let Some(alarm) = findings.alarm
        {
            self.alarms.push((self.now_ms, alarm));
        }
        self.spared += findings.spared;
        findings
    }

    /// One second after the other: heartbeats every 15 s, the row renewed every 2 s, a sweep every second.
    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.second();
            self.pass();
        }
    }
    fn run_without_sweeper(&mut self, seconds: u64) {
        (0..seconds).for_each(|_| self.second());
    }
    fn second(&mut self) {
        self.now_ms += 1_000;
        let second = self.now_ms / 1_000;
        if !self.gateway_is_up {
            return;
        }
        if second.is_multiple_of(2) {
            self.renew();
        }
        for n in self.alive.clone() {
            if (second + n * 4).is_multiple_of(15) {
                self.beat(n);
            }
        }
    }

    /// Kills a node right after it was heard.
    fn kill(&mut self, n: u64) -> u64 {
        self.beat(n);
        self.alive.remove(&n);
        self.now_ms
    }
    fn when_offline(&self, n: u64) -> Option<u64> {
        self.offline.iter().find(|(_, id)| *id == node(n)).map(|(at, _)| *at)
    }
    fn assert_offline_after(&self, died_at: u64, n: u64, low_ms: u64, high_ms: u64) {
        let after = self.when_offline(n).map(|at| at - died_at);
        assert!(after.is_some_and(|after| (low_ms..=high_ms).contains(&after)), "node {n} after {after:?} ms");
    }
}

#[test]
fn a_silent_node_is_offline_after_90_seconds_and_at_latest_2_more() {
    let mut world = World::of(2);
    let died_at = world.kill(1);
    world.run(300);
    world.assert_offline_after(died_at, 1, 90_000, 92_000);
    assert_eq!(world.when_offline(0), None);
    assert!(world.alarms.is_empty() && world.steps.is_empty());
}

#[test]
fn a_node_whose_exclusive_work_was_leased_for_longer_is_given_that() {
    let mut world = World::of(3);
    world.longer = [(node(1), 120_000), (node(2), 30_000)].into();
    let died_at = [1, 2].map(|n| world.kill(n))[1];
    world.run(300);
    world.assert_offline_after(died_at, 1, 120_000, 122_000);
    world.assert_offline_after(died_at, 2, 90_000, 92_000);
}

#[test]
fn the_time_that_is_measured_is_true_time_or_less_whoever_sweeps_and_however_the_clock_is_set() {
    let mut world = World::of(1);
    let measured = |world: &mut World, does: &dyn Fn(&mut World)| {
        let before = world.seen_ms;
        does(world);
        world.seen_ms - before
    };
    assert_eq!(measured(&mut world, &|world| world.run(60)), 60_000);
    for step_ms in [3_600_000, -7_200_000] {
        world.ahead_ms += step_ms;
        assert_eq!(measured(&mut world, &|world| world.run(60)), 60_000, "a step of {step_ms} ms");
    }
    // It was away, and nobody else has swept: it knows how long.
    world.run_without_sweeper(600);
    assert_eq!(measured(&mut world, &|world| world.run(1)), 601_000);
    // Written, but the answer was lost: nothing is counted twice.
    let memory = world.memory.clone();
    world.run(1);
    world.memory = memory;
    assert_eq!(measured(&mut world, &|world| world.run(1)), 1_000);
    // Another one takes over, with the clock set meanwhile. It knows of no time before its first look.
    world.epoch += 2;
    world.memory = Memory::default();
    world.ahead_ms += 86_400_000;
    world.run_without_sweeper(600);
    assert_eq!(measured(&mut world, &|world| world.run(11)), 10_000);
}

#[test]
fn a_heartbeat_of_the_last_moment_counts() {
    let mut world = World::of(2);
    world.kill(1);
    world.run(89);
    world.beat(1);
    world.run(89);
    assert_eq!(world.when_offline(1), None);
}

#[test]
fn time_without_any_gateway_is_not_counted() {
    let mut world = World::of(5);
    let died_at = world.kill(4);
    world.run(60);
    world.gateway_is_up = false;
    world.run(600);
    assert!(world.offline.is_empty());
    world.gateway_is_up = true;
    let back_at = world.now_ms;
    world.run(1);
    // The nodes take their time to come back.
    world.run(100);
    assert_eq!(world.when_offline(0), None);
    world.assert_offline_after(back_at, 4, 90_000, 94_000);
    assert!(world.when_offline(4).expect("offline") > died_at + 600_000);
    assert!(world.alarms.is_empty() && world.spared > 0);
}

#[test]
fn time_without_a_sweeper_or_a_database_is_not_counted() {
    let mut world = World::of(2);
    world.kill(1);
    world.run(80);
    world.run_without_sweeper(20);
    let back_at = world.now_ms;
    world.run(100);
    world.assert_offline_after(back_at, 1, 90_000, 92_000);
}

#[test]
fn a_new_leader_counts_from_its_own_beginning_but_one_that_took_over_from_itself_does_not() {
    for (epochs, low_ms, high_ms) in [(2, 140_000, 145_000), (1, 90_000, 92_000)] {
        let mut world = World::of(2);
        let died_at = world.kill(1);
        world.run(50);
        world.epoch += epochs;
        world.run(150);
        world.assert_offline_after(died_at, 1, low_ms, high_ms);
    }
}

#[test]
fn a_clock_that_is_set_moves_no_deadline_and_is_noticed_once() {
    for step_ms in [600_000, -600_000, 3_600_000, 2_500, -2_500, 9_500, -9_500] {
        let mut world = World::of(4);
        let died_at = world.kill(3);
        world.run(40);
        world.ahead_ms += step_ms;
        world.run(200);
        world.assert_offline_after(died_at, 3, 90_000, 92_000);
        assert_eq!(world.offline.len(), 1, "nobody else, by {step_ms} ms");
        assert_eq!(world.steps.len(), 1);
        assert!((world.steps[0].by_ms - step_ms).abs() <= 20, "{:?}", world.steps);
        assert!(world.alarms.is_empty());
    }
}

#[test]
fn a_heartbeat_between_two_sweeps_and_a_step_is_neither_too_old_nor_of_the_future() {
    for step_ms in [600_000, -600_000] {
        let mut world = World::of(4);
        world.now_ms += 300;
        let died_at = world.kill(3);
        world.now_ms += 300;
        world.ahead_ms += step_ms;
        world.now_ms += 400;
        world.pass();
        world.run(200);
        world.assert_offline_after(died_at, 3, 90_000, 92_000);
        assert_eq!(world.offline.len(), 1);
    }
}

#[test]
fn an_absence_is_seen_though_the_clock_was_set_back_over_it() {
    let mut world = World::of(3);
    world.run(30);
    world.gateway_is_up = false;
    world.run(60);
    // As if no time had gone by at all.
    world.ahead_ms -= 60_000;
    world.gateway_is_up = true;
    world.alive.clear();
    let back_at = world.now_ms;
    world.run(88);
    assert!(world.offline.is_empty());
    world.run(100);
    world.assert_offline_after(back_at, 0, 180_000, 186_000);
}

#[test]
fn a_new_leader_takes_no_timestamp_of_the_future_for_a_sign_of_life() {
    let mut world = World::of(2);
    world.gateway_is_up = false;
    world.run(60);
    world.ahead_ms -= 60_000;
    world.epoch += 2;
    world.run(8);
    world.gateway_is_up = true;
    world.alive.clear();
    let back_at = world.now_ms;
    world.run(120);
    world.assert_offline_after(back_at, 1, 90_000, 95_000);
}

#[test]
fn a_gap_between_two_sweeps_is_seen_by_its_trace() {
    let mut world = World::of(2);
    world.kill(1);
    world.run(30);
    world.gateway_is_up = false;
    world.run_without_sweeper(9);
    world.pass();
    world.run_without_sweeper(3);
    world.gateway_is_up = true;
    world.renew();
    let back_at = world.now_ms;
    world.run(120);
    world.assert_offline_after(back_at, 1, 90_000, 92_500);
}

#[test]
fn a_step_back_that_a_leader_took_with_it_is_found_by_the_next_one_as_far_as_it_can_be_known() {
    for (step_ms, away_ms, found_ms) in
        [(-600_000, 8_000, Some(-592_000)), (-6_000, 8_000, None), (600_000, 8_000, None)]
    {
        let mut world = World::of(3);
        world.ahead_ms += step_ms;
        // It has seen it, and is gone before that is written.
        let _ = sweep(&world.memory, &world.sight(), &LIMITS);
        let written_at = world.read_at;
        (world.epoch, world.now_ms) = (world.epoch + 2, world.now_ms + away_ms);
        let step = world.pass().step;
        let expected = found_ms.zip(written_at).map(|(by_ms, since)| Step { since, by_ms });
        assert_eq!(step, expected, "by {step_ms} ms");
        assert_eq!(world.pass().step, None, "once");
    }
}

#[test]
fn a_read_that_took_long_is_no_step() {
    let mut world = World::of(1);
    let mut slow = world.sight();
    slow.asked_at += 1_000;
    slow.answered_at += 9_000;
    // Waited for a connection for six of these eight seconds.
    slow.now += TimeDelta::milliseconds(7_000);
    let (findings, memory) = sweep(&world.memory, &slow, &LIMITS);
    assert_eq!(findings.step, None);
    world.memory = memory;
    world.now_ms += 9_000;
    assert_eq!(world.pass().step, None);
}

#[test]
fn many_that_fall_silent_at_once_get_one_more_period_and_an_alarm() {
    let mut world = World::of(15);
    for n in 0..12 {
        world.alive.remove(&n);
    }
    let cut_at = world.now_ms;
    world.run(100);
    let [(raised_at, alarm)] = world.alarms[..] else { panic!("{:?}", world.alarms) };
    assert_eq!((alarm.silent, alarm.of), (12, 15));
    assert!(raised_at - cut_at <= 92_000);
    let left_ms = (alarm.until - world.database_now()).num_milliseconds();
    assert!(left_ms.abs_diff((raised_at + 90_000 - world.now_ms).cast_signed()) < 20, "{left_ms}");
    assert!(world.offline.is_empty());
    // Four of them come back meanwhile.
    world.alive.extend(0..4);
    world.run((raised_at + 89_000 - world.now_ms) / 1_000);
    assert!(world.offline.is_empty());
    world.run(30);
    let offline: BTreeSet<NodeId> = world.offline.iter().map(|(_, id)| *id).collect();
    assert_eq!(offline, (4..12).map(node).collect());
    world.offline.iter().for_each(|(at, _)| assert!((raised_at + 90_000..=raised_at + 92_000).contains(at)));
    assert_eq!(world.pass().alarm, None);
}

#[test]
fn a_second_wave_is_judged_anew() {
    let mut world = World::of(12);
    (0..6).for_each(|n| _ = world.alive.remove(&n));
    world.run(120);
    assert_eq!(world.alarms.len(), 1);
    (6..10).for_each(|n| _ = world.alive.remove(&n));
    world.run(80);
    assert_eq!(world.offline.len(), 6, "the first wave's time is over");
    world.run(15);
    assert_eq!(world.alarms.len(), 2);
    assert_eq!((world.alarms[1].1.silent, world.alarms[1].1.of), (4, 6));
    world.run(95);
    assert_eq!(world.offline.len(), 10);
}

#[test]
fn an_alarm_ends_when_all_are_heard_again() {
    let mut world = World::of(4);
    let all = std::mem::take(&mut world.alive);
    world.run(95);
    assert!(world.pass().alarm.is_some());
    world.alive = all;
    world.run(16);
    assert_eq!(world.pass().alarm, None);
    world.run(300);
    assert!(world.offline.is_empty());
}

#[test]
fn two_of_three_are_no_wave_and_four_of_nine_neither() {
    for (of, dead) in [(3, 2), (9, 4)] {
        let mut world = World::of(of);
        (0..dead).for_each(|n| _ = world.kill(n));
        world.run(95);
        assert_eq!((world.offline.len() as u64, world.alarms.len()), (dead, 0));
    }
}

#[test]
fn what_could_not_be_written_is_decided_again() {
    let mut world = World::of(4);
    (0..4).for_each(|n| _ = world.kill(n));
    world.run(180);
    world.now_ms += 1_000;
    let first = sweep(&world.memory, &world.sight(), &LIMITS).0;
    assert_eq!(first.offline.len(), 4, "the alarm's time is over");
    world.now_ms += 1_000;
    world.ahead_ms += 5_000;
    let (again, _) = sweep(&world.memory, &world.sight(), &LIMITS);
    assert_eq!(again.offline, first.offline);
    world.now_ms += 1_000;
    let (third, _) = sweep(&world.memory, &world.sight(), &LIMITS);
    assert_eq!(third.step.map(|step| step.since), again.step.map(|step| step.since), "one step, one name");
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Run(u64),
    Kill(u64),
    Revive(u64),
    Step(i64),
    GatewaysAway(u64),
    SweeperAway(u64),
}

fn an_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1..120u64).prop_map(Act::Run),
        3 => (0..6u64).prop_map(Act::Kill),
        2 => (0..6u64).prop_map(Act::Revive),
        1 => prop_oneof![-7_200_000..-2_100i64, 2_100..7_200_000i64].prop_map(Act::Step),
        1 => (1..300u64).prop_map(Act::GatewaysAway),
        1 => (1..60u64).prop_map(Act::SweeperAway),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn nobody_is_offline_early_and_the_dead_are_offline_in_the_end(acts in prop::collection::vec(an_act(), 1..30)) {
        let mut world = World::of(6);
        // Seconds in which the platform was there, since each node was heard.
        let mut silent_s = [15u64; 6];
        let play = |world: &mut World, silent_s: &mut [u64; 6], seconds: u64, sweeps: bool| {
            for _ in 0..seconds {
                let before = world.beats.clone();
                world.second();
                for n in 0..6u64 {
                    let heard = world.beats.get(&node(n)) != before.get(&node(n));
                    let silent = &mut silent_s[n as usize];
                    *silent = if heard { 0 } else { *silent + u64::from(world.gateway_is_up) };
                }
                if sweeps {
                    let taken = world.offline.len();
                    world.pass();
                    for (_, id) in &world.offline[taken..] {
                        let n = (0..6).find(|n| node(*n) == *id).expect("one of them");
                        // A gap of up to 10 s is none, and the last one may still be one.
                        assert!(silent_s[n as usize] + 10 >= 90, "node {n} after {} s", silent_s[n as usize]);
                    }
                }
            }
        };
        for act in acts {
            match act {
                Act::Run(seconds) => play(&mut world, &mut silent_s, seconds, true),
                Act::Kill(n) => _ = world.alive.remove(&n),
                Act::Revive(n) => _ = world.alive.insert(n),
                Act::Step(ms) => world.ahead_ms += ms,
                Act::GatewaysAway(seconds) => {
                    world.gateway_is_up = false;
                    play(&mut world, &mut silent_s, seconds, true);
                    world.gateway_is_up = true;
                }
                Act::SweeperAway(seconds) => play(&mut world, &mut silent_s, seconds, false),
            }
        }
        play(&mut world, &mut silent_s, 2 * 92 + 16, true);
        for n in 0..6 {
            prop_assert_eq!(world.beats.contains_key(&node(n)), world.alive.contains(&n), "node {}", n);
        }
    }
}
