//! A tracer that kills a process at its k-th call of one kind, before the kernel does that call.
//!
//! It follows the threads, also those that are still to come, and lets go of whatever executes another program: it is the agent that
//! must die, not its supervisors, unless a supervisor is what was meant.

use crate::{program::Program, sweep::plan::Strike, wait::until};
use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// After this its tracer is killed.
const LETS_GO_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct Trap {
    out: PathBuf,
    /// None: it was armed before the birth of its victim and is nobody's child.
    tracer: Option<Program>,
}

impl Trap {
    /// Armed on processes that live. Errors: strace can't be started.
    pub(super) fn on(pids: &[i32], strike: &Strike, dir: &Path, logs: &Path) -> anyhow::Result<Self> {
        let out = dir.join("trap");
        let mut strace = Command::new("strace");
        strace.args(arguments(&out, strike)?);
        for pid in pids {
            strace.arg("-p").arg(pid.to_string());
        }
        Ok(Self { out, tracer: Some(Program::spawn("strace", strace, logs)?) })
    }

    /// Goes before the command of a victim that is still to be born, which stays the child of who starts it.
    pub(super) fn before(strike: &Strike, dir: &Path) -> anyhow::Result<(Self, Vec<String>)> {
        let out = dir.join("trap");
        let mut before = vec!["strace".to_owned(), "-D".to_owned()];
        before.extend(arguments(&out, strike)?);
        Ok((Self { out, tracer: None }, before))
    }

    /// The call at which it struck, as far as it was said.
    pub(super) fn sprung(&self) -> Option<String> {
        let said = fs::read(&self.out).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        // A call that was never done has no result. Those that other threads were in died with it, but were entered before.
        let mut lines = said.lines().filter(|line| line.trim_end().ends_with("= ?"));
        let line = lines.clone().find(|line| !line.contains("resumed>")).or_else(|| lines.next())?;
        Some(line.split_once(' ').map_or(line, |(_, call)| call).trim().trim_end_matches("= ?").trim_end().to_owned())
    }

    /// Nothing is left to be traced.
    pub(super) fn is_over(&mut self) -> bool {
        self.tracer.as_mut().is_some_and(Program::has_ended)
    }

    /// Lets go of whoever still lives. `victim`: the one before which it was armed.
    pub(super) async fn take_away(mut self, victim: i32) -> anyhow::Result<()> {
        let tracer = match &self.tracer {
            Some(tracer) => tracer.pid(),
            None => tracer_of(victim).unwrap_or(0),
        };
        if tracer == 0 || self.is_over() {
            return Ok(());
        }
        // A victim that dies while its tracer lets go of one thread after the other can leave both waiting for each other: the tracer
        // for the first thread, which is not over before the tracer has heard of the others' end. Of a killed tracer the kernel lets go.
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let _ = kill(Pid::from_raw(tracer), signal);
            let let_go = until("the tracer lets go", LETS_GO_WITHIN, async || {
                let gone = if self.tracer.is_some() { self.is_over() } else { tracer_of(victim).is_none() };
                gone.then_some(())
            });
            if let_go.await.is_ok() {
                return Ok(());
            }
        }
        anyhow::bail!("the tracer {tracer} does not let go of {victim}, not even killed")
    }
}

fn arguments(out: &Path, strike: &Strike) -> anyhow::Result<Vec<String>> {
    let _ = fs::remove_file(out);
    let (call, k) = (strike.call, strike.k);
    let mut arguments: Vec<String> =
        ["-f", "-b", "execve", "-q", "-y", "-s", "48", "-e", "signal=none", "-o"].map(String::from).into();
    arguments.push(out.to_str().context("a path of text")?.to_owned());
    arguments.extend(["-e".into(), format!("trace={call}")]);
    arguments.extend(["-e".into(), format!("inject={call}:signal=SIGKILL:when={k}")]);
    Ok(arguments)
}

fn tracer_of(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()?;
    (tracer != 0).then_some(tracer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::plan;

    /// Of a kind whose calls its victim never makes.
    fn strike() -> Strike {
        Strike { call: "connect", ..plan::strike(1, 0) }
    }

    #[tokio::test]
    async fn a_tracer_that_hears_nothing_lets_go_too_and_its_victim_lives() {
        let dir = tempfile::tempdir().expect("a directory");
        let (trap, before) = Trap::before(&strike(), dir.path()).expect("a trap");
        let mut command = Command::new(&before[0]);
        command.args(&before[1..]).args(["sleep", "600"]);
        let mut victim = Program::spawn("victim", command, dir.path()).expect("strace, and sleep behind it");
        let pid = victim.pid();
        let soon = Duration::from_secs(60);
        let (tracer, _) = until("it is traced", soon, async || tracer_of(pid)).await.expect("a tracer");
        kill(Pid::from_raw(tracer), Signal::SIGSTOP).expect("freezing the tracer");
        trap.take_away(pid).await.expect("it lets go");
        assert_eq!(tracer_of(pid), None);
        assert!(!victim.has_ended(), "{}", victim.said());
        victim.kill().await.expect("its end");
    }
}
