use super::*;
use crate::outcome::ExitFacts;
use proptest::prelude::*;
use uuid::Uuid;

fn at(seconds: i64) -> Timestamp {
    chrono::DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("in range")
}
fn who(attempt: u128, task: u128) -> (AttemptId, TaskId) {
    (AttemptId::from_uuid(Uuid::from_u128(attempt)), TaskId::from_uuid(Uuid::from_u128(task)))
}
fn fails() -> Ending {
    Ending::failed(FailureKind::NodeError, "no space left on device\nat /var/lib")
}
fn works(code: i32) -> Ending {
    let exit = ExitFacts { code: Some(code), ..ExitFacts::default() };
    Ending { failure: exit.failure(), exit: Some(exit), ..Ending::failed(FailureKind::ExitNonzero, "") }
}
fn cordoned() -> NodeFaults {
    let mut record = None;
    for n in 0..5 {
        record = after_end(record, &Rule::default(), who(n, n), &fails(), at(n as i64));
    }
    record.expect("kept")
}

#[test]
fn five_failures_over_three_tasks_in_ten_minutes_cordon_a_node_and_say_why() {
    let cordon = cordoned().cordon.expect("cordoned");
    assert_eq!((cordon.since, cordon.probe_at), (at(4), at(4 + 300)));
    assert_eq!(cordon.because, "5 attempts of 5 tasks failed there in a row, the last one: no space left on device");
}

#[test]
fn two_tasks_or_a_success_in_between_or_too_long_ago_do_not() {
    let play = |steps: &[(i64, u128, Ending)]| {
        steps.iter().fold(None, |record, (seconds, task, ending)| {
            after_end(record, &Rule::default(), who(*seconds as u128, *task), ending, at(*seconds))
        })
    };
    let two_tasks: Vec<_> = (0..40).map(|n| (n, n as u128 % 2, fails())).collect();
    let record = play(&two_tasks).expect("kept");
    assert!(!record.is_cordoned() && record.failures.len() <= 20, "it is bounded");
    let mut interrupted: Vec<_> = (0..8).map(|n| (n, n as u128, fails())).collect();
    interrupted[4].2 = works(0);
    assert!(!play(&interrupted).expect("kept").is_cordoned());
    // The user's own failure shows that the node runs what it is given.
    interrupted[4].2 = works(3);
    assert!(!play(&interrupted).expect("kept").is_cordoned());
    let slow: Vec<_> = (0..9).map(|n| (n * 200, n as u128, fails())).collect();
    assert!(!play(&slow).expect("kept").is_cordoned());
    assert_eq!(play(&[(0, 1, works(0))]), None, "nothing is kept of a healthy node");
}

#[test]
fn what_is_nobodys_fault_is_no_evidence() {
    let stopped = Ending { planned_stop: true, ..fails() };
    let lost = Ending::failed(FailureKind::NodeLost, "gone");
    let cancelled = Ending::failed(FailureKind::Cancelled, "");
    let build = Ending::failed(FailureKind::BuildFailed, "");
    for ending in [&stopped, &lost, &cancelled, &build] {
        assert_eq!(Evidence::of(ending), Evidence::None, "{ending:?}");
        assert_eq!(after_end(None, &Rule::default(), who(1, 1), ending, at(0)), None);
    }
}

#[test]
fn one_probe_at_a_time_and_its_success_lifts_the_cordon() {
    let mut record = cordoned();
    assert!(!record.may_probe(false, at(303)));
    assert!(record.may_probe(false, at(304)));
    record.probe_with(who(9, 9).0, at(310));
    assert!(!record.may_probe(true, at(9_999)), "one at a time");
    assert!(!record.may_probe(false, at(311)) && record.may_probe(false, at(610)), "one that vanished is tried again");
    // An old attempt that ends well there says nothing.
    let record = after_end(Some(record), &Rule::default(), who(2, 2), &works(0), at(320)).expect("kept");
    assert!(record.is_cordoned() && record.is_probe(who(9, 9).0));
    assert_eq!(after_end(Some(record), &Rule::default(), who(9, 9), &works(0), at(330)), None);
}

#[test]
fn a_probe_that_fails_doubles_the_wait_up_to_an_hour() {
    let mut record = cordoned();
    let mut now = 304;
    for minutes in [10, 20, 40, 60, 60] {
        record.probe_with(who(9, 9).0, at(now));
        record = after_end(Some(record), &Rule::default(), who(9, 9), &fails(), at(now + 1)).expect("kept");
        let cordon = record.cordon.as_ref().expect("cordoned");
        assert_eq!(cordon.probe_at, at(now + 1 + minutes * 60));
        assert!(cordon.because.starts_with("a probe failed, too: no space"));
        now += 1 + minutes * 60;
    }
    record.probe_with(who(9, 9).0, at(now));
    let cancelled = Ending::failed(FailureKind::Cancelled, "");
    let record = after_end(Some(record), &Rule::default(), who(9, 9), &cancelled, at(now + 1)).expect("kept");
    assert!(record.may_probe(false, at(now + 1)), "a probe that said nothing is followed by another");
}

proptest! {
    #[test]
    fn a_node_is_cordoned_only_after_a_row_of_failures(ends in prop::collection::vec((0u8..3, 0u128..6, 0i64..300), 1..80)) {
        let (mut record, mut now, mut row) = (None, 0, Vec::new());
        for (n, (kind, task, pause)) in ends.into_iter().enumerate() {
            now += pause;
            let ending = match kind { 0 => works(0), 1 => Ending::failed(FailureKind::Cancelled, ""), _ => fails() };
            match kind { 0 => row.clear(), 2 => row.push((now, task)), _ => {} }
            record = after_end(record, &Rule::default(), who(n as u128, task), &ending, at(now));
            if record.as_ref().is_some_and(NodeFaults::is_cordoned) {
                row.retain(|(at, _)| now - at < 600);
                let tasks: BTreeSet<u128> = row.iter().map(|(_, task)| *task).collect();
                prop_assert!(row.len() >= 5 && tasks.len() >= 3, "{row:?}");
                return Ok(());
            }
        }
    }
}

#[test]
fn a_clock_that_was_set_back_makes_nobody_wait_for_longer_than_was_said() {
    let record = cordoned();
    assert!(!record.may_probe(false, at(5)));
    assert!(record.may_probe(false, at(4 - 3_600)));
}
