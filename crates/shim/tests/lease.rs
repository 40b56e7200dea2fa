//! The shim of exclusive work as a program: it ends its process without anybody's help.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const SHIM: &str = env!("CARGO_BIN_EXE_unidesk-shim");
const PERIOD_MS: u64 = 2_000;
const PATIENCE: Duration = Duration::from_secs(60);

struct Rig {
    dir: PathBuf,
    shim: Child,
}

impl Rig {
    /// `line` runs under a shim whose parent is `agent`, a shell line in which `$SHIM <$SPEC` starts it.
    fn start(name: &str, line: &str, agent: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("unidesk-shim-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).expect("a directory");
        let entries = [
            "arg=/bin/sh".to_owned(),
            "arg=-c".to_owned(),
            format!("arg={line}"),
            "env=PATH=/usr/bin:/bin".to_owned(),
            "cwd=/".to_owned(),
            "stop_signal=15".to_owned(),
            "log_limit_bytes=1000".to_owned(),
            format!("lease_file={}", dir.join("lease").display()),
            format!("lease_period_ms={PERIOD_MS}"),
            "lease_grace_ms=500".to_owned(),
        ];
        let spec: String = entries.iter().map(|entry| format!("{entry}\0")).collect();
        let spec_file = dir.join("spec");
        fs::write(&spec_file, spec).expect("written");
        renew(&dir);
        let mut shell = Command::new("/bin/sh");
        shell
            .arg("-c")
            .arg(agent)
            .env("SHIM", format!("{SHIM} run {}", dir.join("process").display()))
            .env("SPEC", spec_file);
        let shim = shell.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts");
        let rig = Self { dir, shim };
        until("it runs", || !said(&rig.dir, 4_224).is_empty());
        rig
    }

    fn exit(&self) -> Option<String> {
        Some(said(&self.dir, 4_352)).filter(|exit| exit.ends_with("\nend\n"))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let supervisor = said(&self.dir, 4_096);
        if let Some(pid) = supervisor.lines().find_map(|line| line.strip_prefix("pid="))
            && self.exit().is_none()
        {
            let _ = Command::new("kill").args(["-USR1", pid]).status();
        }
        let _ = Command::new("kill").args(["-CONT", &self.shim.id().to_string()]).status();
        let _ = self.shim.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// What stands in the shim's file from there on.
fn said(dir: &Path, at: usize) -> String {
    let state = fs::read(dir.join("process")).unwrap_or_default();
    let text = state.get(at..).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// A heartbeat that was sent now is acknowledged.
fn renew(dir: &Path) {
    // Includes the time in suspend, as CLOCK_BOOTTIME does.
    let uptime = fs::read_to_string("/proc/uptime").expect("the uptime");
    let seconds: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
    fs::write(dir.join("lease.new"), format!("{}", (seconds * 1_000.0) as u64)).expect("written");
    fs::rename(dir.join("lease.new"), dir.join("lease")).expect("renamed");
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn count_marked(marker: &str) -> usize {
    let lines = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        fs::read(entry.path().join("cmdline")).ok()
    });
    lines.filter(|line| line.split(|byte| *byte == 0).any(|word| word == marker.as_bytes())).count()
}

fn marker(number: u32) -> String {
    format!("7{number}{:07}", std::process::id())
}

#[test]
fn without_renewals_the_whole_tree_is_dead_in_time_although_it_is_stubborn_and_the_agent_is_frozen() {
    let mark = marker(1);
    // One that ignores the request to stop, and one that has left group and session.
    let line = format!("trap '' TERM; setsid sleep {mark} & sleep {mark} & while :; do sleep 1; done");
    let rig = Rig::start("frozen", &line, "$SHIM <$SPEC & kill -STOP $$; wait");
    let begun = Instant::now();
    until("all processes are there", || count_marked(&mark) == 2);
    let status = fs::read_to_string(format!("/proc/{}/status", rig.shim.id())).expect("the agent is there");
    assert!(status.contains("State:\tT"), "the agent is frozen: {status}");
    until("it is ended", || rig.exit().is_some());
    assert!(begun.elapsed() >= Duration::from_millis(PERIOD_MS - 1_000), "{:?}", begun.elapsed());
    assert_eq!(count_marked(&mark), 0);
    let exit = rig.exit().expect("it has ended");
    assert!(exit.contains("fenced=1") && exit.contains("signal=9"), "{exit}");
}

#[test]
fn renewals_keep_it_alive_and_its_own_end_is_its_own() {
    let rig = Rig::start("renewed", "sleep 6; exit 3", "exec $SHIM <$SPEC");
    let begun = Instant::now();
    until("it ends", || {
        renew(&rig.dir);
        rig.exit().is_some()
    });
    assert!(begun.elapsed() > Duration::from_millis(2 * PERIOD_MS), "{:?}", begun.elapsed());
    let exit = rig.exit().expect("it has ended");
    assert!(exit.contains("code=3") && exit.contains("fenced=0"), "{exit}");
}
