use super::*;
use tokio::sync::mpsc;

/// A session as it uses it: `(when, what)` of all that went out, in ms since the start. The server answers `answers_in` after each sending.
async fn session(arrivals: &[(u64, &'static str)], answers_in: Duration) -> Vec<(u64, Vec<&'static str>)> {
    let began = Instant::now();
    let (sender, mut reports) = mpsc::unbounded_channel();
    let arriving = async {
        for (at, what) in arrivals {
            sleep_until(began + Duration::from_millis(*at)).await;
            sender.send(*what).expect("somebody listens");
        }
        drop(sender);
    };
    let sending = async {
        let (mut gathering, mut sent, mut answer_at) = (Gathering::default(), Vec::new(), None);
        loop {
            tokio::select! {
                biased;
                () = async { sleep_until(answer_at.expect("polled only while one is due")).await }, if answer_at.is_some() => answer_at = None,
                gathered = gathering.next(&mut reports, answer_at.is_some()) => {
                    let Some(gathered) = gathered else { return sent };
                    gathering.sent(gathered.len());
                    sent.push((began.elapsed().as_millis() as u64, gathered));
                    // The answer to the last covers those before it.
                    answer_at = Some(Instant::now() + answers_in);
                }
            }
        }
    };
    tokio::join!(arriving, sending).1
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_waits_for_nothing() {
    let sent = session(&[(0, "a"), (100, "b"), (101, "c")], Duration::from_micros(500)).await;
    assert_eq!(sent, [(0, vec!["a"]), (100, vec!["b"]), (101, vec!["c"])]);
}

#[tokio::test(start_paused = true)]
async fn reports_gather_while_earlier_ones_are_unanswered_and_go_at_the_answer() {
    let sent = session(&[(0, "a"), (2, "b"), (4, "c"), (9, "d")], Duration::from_millis(8)).await;
    assert_eq!(sent, [(0, vec!["a"]), (8, vec!["b", "c"]), (16, vec!["d"])]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_much_says_it_every_10_ms_and_one_that_falls_silent_waits_for_nothing() {
    let mut arrivals: Vec<(u64, &str)> = (0..40).map(|at| (at, "r")).collect();
    arrivals.extend([(100, "a"), (103, "b")]);
    // Each is answered at once.
    let sent = session(&arrivals, Duration::from_micros(500)).await;
    let burst: Vec<(u64, &str)> = (0..8).map(|_| (0, "r")).chain(arrivals).collect();
    let (slow, fast) = (sent.len(), session(&burst, Duration::from_micros(500)).await);
    assert_eq!(slow, 42, "one at a time is not much");
    let times: Vec<u64> = fast.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [0, 10, 20, 30, 40, 100, 103]);
    assert_eq!(fast.iter().map(|(_, gathered)| gathered.len()).sum::<usize>(), burst.len(), "none is lost");
}

#[tokio::test(start_paused = true)]
async fn no_report_waits_longer_than_15_ms_however_long_the_server_says_nothing() {
    let arrivals: Vec<(u64, &str)> = (0..60).map(|at| (at, "r")).collect();
    let sent = session(&arrivals, Duration::from_secs(3_600)).await;
    assert_eq!(sent.iter().map(|(_, gathered)| gathered.len()).sum::<usize>(), arrivals.len(), "none is lost");
    let mut waiting = arrivals.iter().map(|(at, _)| *at);
    for (at, gathered) in &sent {
        for arrived in waiting.by_ref().take(gathered.len()) {
            assert!((arrived..=arrived + 16).contains(at), "one of {arrived} ms went at {at} ms");
        }
    }
    // Not one by one either.
    assert!(sent.len() <= 6, "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_report_that_comes_long_after_an_unanswered_one_goes_at_once() {
    let sent = session(&[(0, "a"), (40, "b")], Duration::from_secs(3_600)).await;
    assert_eq!(sent, [(0, vec!["a"]), (40, vec!["b"])]);
}

#[tokio::test(start_paused = true)]
async fn while_the_server_does_not_know_that_the_agent_stops_it_hears_of_no_end() {
    let began = Instant::now();
    let (sender, mut reports) = mpsc::unbounded_channel();
    sender.send("ended").expect("somebody listens");
    let mut gathering = Gathering::default();
    gathering.hold();
    let early = tokio::time::timeout(Duration::from_millis(900), gathering.next(&mut reports, false)).await;
    assert!(early.is_err(), "{early:?}");
    gathering.release();
    assert_eq!(gathering.next(&mut reports, false).await, Some(vec!["ended"]));
    assert_eq!(began.elapsed().as_millis(), 900);
    // A server that never says that it knows.
    gathering.hold();
    sender.send("released").expect("somebody listens");
    assert_eq!(gathering.next(&mut reports, false).await, Some(vec!["released"]));
    assert!(began.elapsed() < Duration::from_secs(3));
}
