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
        if let Some(tracer) = &mut self.tracer {
            if !tracer.has_ended() {
                tracer.stop().await?;
            }
        } else if let Some(tracer) = tracer_of(victim) {
            let _ = kill(Pid::from_raw(tracer), Signal::SIGTERM);
            let what = "the tracer lets go";
            until(what, Duration::from_secs(10), async || tracer_of(victim).is_none().then_some(())).await?;
        }
        Ok(())
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
