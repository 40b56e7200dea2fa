use super::*;

/// Ten thousand nodes that dial in the same moment, at a door that serves so many a second. Returns after how many seconds each was
/// served, how often one was told to come back, and how many were inside at most.
fn storm(nodes: usize, served_a_second: f64) -> (Vec<f64>, usize, usize) {
    let start = Instant::now();
    let mut room = Room::new(start);
    // Who dials when, in steps of 10 ms.
    let step = Duration::from_millis(10);
    let mut dials: Vec<Vec<()>> = vec![Vec::new(); 60_000];
    dials[0] = vec![(); nodes];
    let (mut served_at, mut refusals, mut most_inside, mut budget) = (Vec::new(), 0, 0, 0.0);
    for at in 0..dials.len() {
        let now = start + step * at as u32;
        for () in std::mem::take(&mut dials[at]) {
            if let Err(wait) = room.enter(now) {
                refusals += 1;
                // In whole seconds, as the header has it.
                dials[at + 1 + wait.as_secs() as usize * 100].push(());
            }
        }
        most_inside = most_inside.max(room.inside);
        budget = (budget + served_a_second * step.as_secs_f64()).min(served_a_second);
        while budget >= 1.0 && room.inside > 0 {
            budget -= 1.0;
            room.leave(now, true);
            served_at.push((now - start).as_secs_f64());
        }
        if served_at.len() == nodes {
            break;
        }
    }
    (served_at, refusals, most_inside)
}

#[test]
fn a_storm_is_served_as_fast_as_it_can_be_and_nobody_is_turned_away_again_and_again() {
    for (served_a_second, at_most_s) in [(5_000.0, 15.0), (1_000.0, 20.0), (300.0, 60.0), (100.0, 200.0)] {
        let (served_at, refusals, most_inside) = storm(10_000, served_a_second);
        assert_eq!(served_at.len(), 10_000, "at {served_a_second}/s");
        let last = served_at.last().expect("all were served");
        assert!(*last < at_most_s, "the last one after {last} s at {served_a_second}/s");
        assert!(most_inside <= MOST_INSIDE, "{most_inside} inside at {served_a_second}/s");
        assert!(refusals < 10 * 10_000, "{refusals} refusals at {served_a_second}/s");
    }
}

#[test]
fn those_who_are_turned_away_come_back_one_after_the_other_and_soon() {
    let now = Instant::now();
    let mut room = Room::new(now);
    let waits: Vec<Duration> = (0..10_000).filter_map(|_| room.enter(now).err()).collect();
    assert_eq!(room.inside, MOST_INSIDE);
    assert!(waits.iter().all(|wait| *wait <= LONGEST));
    for second in 2..8 {
        let coming = waits.iter().filter(|wait| wait.as_secs() == second).count();
        assert!((900..1_100).contains(&coming), "{coming} come back in second {second}");
    }
}

#[test]
fn a_gateway_that_serves_nobody_lets_few_in_and_one_that_serves_again_learns_it() {
    let start = Instant::now();
    let mut room = Room::new(start);
    for second in 0..60 {
        let now = start + Duration::from_secs(second);
        let inside = (0..2_000).filter(|_| room.enter(now).is_ok()).count();
        (0..inside).for_each(|_| room.leave(now + MEASURED_OVER, false));
    }
    let now = start + Duration::from_secs(60);
    let waits: Vec<Duration> = (0..2_000).filter_map(|_| room.enter(now).err()).collect();
    assert!(waits.len() >= 2_000 - LEAST_INSIDE && waits.iter().any(|wait| wait.as_secs() > 20), "{}", waits.len());
    (0..room.inside).for_each(|_| room.leave(now, true));
    for second in 61..70 {
        let now = start + Duration::from_secs(second);
        let inside = (0..2_000).filter(|_| room.enter(now).is_ok()).count();
        (0..inside).for_each(|_| room.leave(now + MEASURED_OVER / 2, true));
    }
    assert!(room.rate > 10.0 * LOWEST_RATE, "{}", room.rate);
}
