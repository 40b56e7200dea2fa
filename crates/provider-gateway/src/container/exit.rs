//! What Docker knows of a container's end, and whether Docker itself was the cause.

use bollard::models::ContainerState;
use domain::{Timestamp, outcome::ExitFacts};

/// Signals that have a number below this are a process's end; higher exit codes are a program's own.
const LAST_SIGNAL: i32 = 31;
const KILLED: i32 = 128 + 9;
const TERMINATED: i32 = 128 + 15;
/// Docker's own word for a container whose end it did not see.
const UNSEEN: i32 = 255;

pub(super) fn facts(state: &ContainerState) -> ExitFacts {
    let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
    let started_at = moment(state.started_at.as_deref());
    let ended_at = moment(state.finished_at.as_deref());
    let duration = started_at.zip(ended_at).map(|(from, to)| (to - from).num_milliseconds());
    ExitFacts {
        code,
        signal: code.and_then(|code| code.checked_sub(128)).filter(|signal| (1..=LAST_SIGNAL).contains(signal)),
        oom: state.oom_killed.unwrap_or(false),
        duration_ms: duration.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0),
        started_at,
        ended_at,
        ..ExitFacts::default()
    }
}

/// Docker writes the year 1 for never.
fn moment(text: Option<&str>) -> Option<Timestamp> {
    let moment = text?.parse::<Timestamp>().ok()?;
    (moment.timestamp() > 0).then_some(moment)
}

/// What is known of the daemon around a container's end. All times are this machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Daemon {
    /// When this agent lost its connection while it watched the container.
    pub(super) lost_at: Option<Timestamp>,
    /// When the daemon that answers now came up: it makes its bridge network anew at each start.
    pub(super) started_at: Option<Timestamp>,
    pub(super) has_live_restore: bool,
    /// This agent sent the container a signal itself.
    pub(super) was_signalled: bool,
    pub(super) stop_signal: Option<i32>,
}

/// Whether the container went down because Docker did. A daemon that stops ends its containers, unless live-restore is on; its
/// socket is closed before the first of them gets a signal. It must have been restarted since the container started, and then
/// - seen: the connection was lost, and the container ended after that (5 s allowed for the order of events): whatever its exit code
///   was, a program that saves its work on SIGTERM and exits 0 has not finished its work;
/// - not seen (the agent was down too): the container ended by the time the daemon was back, with one of the codes that a daemon's
///   end leaves behind.
///
/// Where the daemon's start is not known (no bridge network), both the loss and such a code are asked for.
pub(super) fn died_with_docker(exit: &ExitFacts, daemon: &Daemon) -> bool {
    if exit.oom || daemon.was_signalled || daemon.has_live_restore {
        return false;
    }
    let (Some(started_at), Some(ended_at)) = (exit.started_at, exit.ended_at) else { return false };
    let was_seen = daemon.lost_at.is_some_and(|lost_at| ended_at >= lost_at - chrono::Duration::seconds(5));
    let by_docker = [KILLED, TERMINATED, UNSEEN];
    let is_marked = exit.code.is_some_and(|code| by_docker.contains(&code) || daemon.stop_signal == Some(code - 128));
    match daemon.started_at {
        Some(restarted_at) if started_at < restarted_at => {
            was_seen || (is_marked && ended_at <= restarted_at + chrono::Duration::seconds(30))
        }
        Some(_) => false,
        None => was_seen && is_marked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u32) -> Timestamp {
        format!("2026-01-01T00:00:{second:02}Z").parse().expect("a valid time")
    }
    fn exited(code: i32, started: u32, ended: u32) -> ExitFacts {
        ExitFacts { code: Some(code), started_at: Some(at(started)), ended_at: Some(at(ended)), ..ExitFacts::default() }
    }

    #[test]
    fn dockers_state_becomes_exit_facts() {
        let state = |code| ContainerState {
            exit_code: Some(code),
            oom_killed: Some(code == 137),
            started_at: Some("2026-01-01T00:00:01.5Z".into()),
            finished_at: Some("2026-01-01T00:00:04Z".into()),
            ..ContainerState::default()
        };
        assert_eq!(
            (facts(&state(3)).code, facts(&state(3)).signal, facts(&state(3)).duration_ms),
            (Some(3), None, 2_500)
        );
        assert_eq!(facts(&state(139)).signal, Some(11));
        assert_eq!(facts(&state(255)).signal, None);
        assert!(facts(&state(137)).oom);
        let never = ContainerState { finished_at: Some("0001-01-01T00:00:00Z".into()), ..state(0) };
        assert_eq!(facts(&never).ended_at, None);
    }

    #[test]
    fn dockers_restart_is_not_the_tasks_fault() {
        let seen = Daemon { lost_at: Some(at(20)), started_at: Some(at(40)), ..Daemon::default() };
        assert!(died_with_docker(&exited(143, 1, 21), &seen));
        assert!(died_with_docker(&exited(0, 1, 21), &seen));
        // It ended long before Docker went away.
        assert!(!died_with_docker(&exited(1, 1, 9), &seen));
        let kept = Daemon { has_live_restore: true, ..seen };
        assert!(!died_with_docker(&exited(1, 1, 21), &kept));
        let asked = Daemon { was_signalled: true, ..seen };
        assert!(!died_with_docker(&exited(143, 1, 21), &asked));
        // The connection was lost, but it is the daemon of before.
        let same = Daemon { started_at: Some(at(0)), ..seen };
        assert!(!died_with_docker(&exited(143, 1, 21), &same));
        let unknown = Daemon { started_at: None, ..seen };
        assert!(died_with_docker(&exited(137, 1, 21), &unknown));
        assert!(!died_with_docker(&exited(0, 1, 21), &unknown));
        let unseen = Daemon { started_at: Some(at(30)), ..Daemon::default() };
        assert!(died_with_docker(&exited(137, 1, 21), &unseen));
        assert!(!died_with_docker(&exited(3, 1, 21), &unseen));
        // The daemon was there all the time.
        assert!(!died_with_docker(&exited(137, 31, 40), &unseen));
        let oom = ExitFacts { oom: true, ..exited(137, 1, 21) };
        assert!(!died_with_docker(&oom, &unseen));
    }
}
