//! The life of one process: output, limits and signals while it runs, then an end without leftovers, then the exit file.

use crate::{
    Doorbell,
    child::{self, Launched, Output},
    facts::Facts,
    lease::{Due, Lease},
    log::{Log, MAX_RECORD},
    memory::{self, Watch},
    spec::Spec,
    state::State,
    sys::{self, Status},
    tree,
};
use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
    os::fd::AsRawFd,
    path::PathBuf,
    time::{Duration, Instant},
};

/// A process that no signal ends (in a dead network disk, say) is left to the agent after so long.
const KILL_WITHIN: Duration = Duration::from_secs(30);
/// How long the last output waits for room on a full disk.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);
const RETRY_FULL_DISK: Duration = Duration::from_millis(100);

/// Runs the process to its end, and gives how it ended.
pub(crate) fn supervise(state: &State, spec: &Spec, signals: &File, bell: &Doorbell) -> io::Result<Facts> {
    let log = Log::new(state.log(), spec.log_limit_bytes);
    let boot_ms = sys::boot_ms();
    let mut facts = Facts { started_ms: sys::wall_ms(), ..Facts::default() };
    let mut guard = Guard::new(spec)?;
    let waited = guard.as_mut().map_or(Ok(Waited::Held), |guard| guard.wait_for_lease(signals))?;
    if waited != Waited::Held {
        facts.fenced = waited == Waited::InVain;
        facts.status = Some(Status::Signalled(libc::SIGTERM));
        facts.end_now(boot_ms);
        return Ok(facts);
    }
    match child::launch(spec) {
        Ok(Launched::Running(pid, output)) => {
            facts.pid = pid;
            facts.pid_start = tree::start_time(pid).unwrap_or(0);
            state.started(pid, facts.pid_start);
            bell.ring();
            Supervisor::new(spec, signals, bell, log, pid, output, guard)?.run(&mut facts, boot_ms);
        }
        Ok(Launched::Failed(pid, step, errno)) => {
            facts.pid = pid;
            facts.not_started = Some((step, errno));
            facts.end_now(boot_ms);
        }
        Err(error) => {
            facts.not_started = Some(("setup", error.raw_os_error().unwrap_or(libc::EINVAL)));
            facts.end_now(boot_ms);
        }
    }
    // Asked for only where it explains something: the kernel sums it up over all processors.
    if facts.status == Some(Status::Signalled(libc::SIGKILL)) {
        facts.kernel_kills = memory::kernel_kills().saturating_sub(spec.kernel_kills);
    }
    Ok(facts)
}

struct Supervisor<'a> {
    spec: &'a Spec,
    signals: &'a File,
    bell: &'a Doorbell,
    log: Log<'a>,
    main: i32,
    /// stdout and stderr until they end.
    streams: [Option<File>; 2],
    buffer: Vec<u8>,
    watch: Option<Watch>,
    /// The whole tree is to be killed.
    is_killing: bool,
    oom: bool,
    guard: Option<Guard>,
}

/// The lease of exclusive work: the file that the agent writes, and a timer.
struct Guard {
    lease: Lease,
    file: PathBuf,
    timer: File,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waited {
    Held,
    Stopped,
    /// For as long as a lease lasts.
    InVain,
}

impl Guard {
    fn new(spec: &Spec) -> io::Result<Option<Self>> {
        let Some(file) = spec.lease_file.clone() else { return Ok(None) };
        let lease = Lease::new(spec.lease_period_ms, spec.lease_grace_ms);
        Ok(Some(Self { lease, file, timer: sys::boot_timer()? }))
    }

    /// Reads when the last acknowledged heartbeat was sent, and arms the timer.
    fn look(&mut self) -> Due {
        let now = sys::boot_ms();
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        if let Ok(sent_at) = text.trim().parse() {
            self.lease.renew_as_written(sent_at, now);
        }
        let due = self.lease.due(now);
        if let Some(at) = self.lease.wakes_at().filter(|_| due != Due::Kill) {
            let _ = sys::set_timer(&self.timer, at);
        }
        due
    }

    /// Nothing begins without one.
    fn wait_for_lease(&mut self, signals: &File) -> io::Result<Waited> {
        let give_up_at = sys::boot_ms() + self.lease.period_ms();
        loop {
            self.look();
            if self.lease.is_held() {
                return Ok(Waited::Held);
            }
            if sys::boot_ms() >= give_up_at {
                return Ok(Waited::InVain);
            }
            sys::set_timer(&self.timer, give_up_at)?;
            sys::poll([signals.as_raw_fd(), self.timer.as_raw_fd()], None);
            while let Some(signal) = sys::next_signal(signals) {
                if matches!(signal, libc::SIGTERM | libc::SIGUSR1) {
                    return Ok(Waited::Stopped);
                }
            }
        }
    }
}

impl<'a> Supervisor<'a> {
    fn new(
        spec: &'a Spec,
        signals: &'a File,
        bell: &'a Doorbell,
        log: Log<'a>,
        main: i32,
        output: Output,
        guard: Option<Guard>,
    ) -> io::Result<Self> {
        for stream in [&output.stdout, &output.stderr] {
            sys::set_nonblocking(stream.as_raw_fd())?;
        }
        Ok(Self {
            spec,
            signals,
            bell,
            log,
            main,
            streams: [Some(output.stdout), Some(output.stderr)],
            buffer: vec![0; MAX_RECORD],
            watch: Watch::new(spec.memory_limit_bytes, Duration::from_millis(spec.memory_period_ms)),
            is_killing: false,
            oom: false,
            guard,
        })
    }

    fn run(mut self, facts: &mut Facts, boot_ms: u64) {
        while !self.is_killing && !sys::has_ended(self.main).unwrap_or(true) {
            self.turn(self.watch.as_ref().map(Watch::until_next));
            if self.watch.as_mut().is_some_and(Watch::is_exceeded) {
                self.oom = true;
                self.is_killing = true;
            }
        }
        facts.fenced = self.guard.as_ref().is_some_and(|guard| guard.lease.is_over());
        facts.alive = self.kill_all();
        facts.end_now(boot_ms);
        // Everything that could write is dead, so what the pipes hold now is all there will be.
        self.drain();
        facts.status = sys::reap(self.main).ok().flatten();
        let (cpu_ms, largest_bytes) = sys::used_by_children();
        facts.cpu_ms = cpu_ms;
        facts.peak_memory_bytes = self.watch.map_or(0, |watch| watch.peak_bytes).max(largest_bytes);
        facts.oom = self.oom;
        facts.dropped = self.log.dropped;
        facts.log_bytes = self.log.written;
    }

    /// Waits for the next thing to happen and sees to it.
    fn turn(&mut self, timeout: Option<Duration>) {
        self.log.flush();
        let is_stuck = self.log.is_stuck();
        let fd = |stream: &Option<File>| stream.as_ref().filter(|_| !is_stuck).map_or(-1, AsRawFd::as_raw_fd);
        let timer = self.guard.as_ref().filter(|_| !self.is_killing).map_or(-1, |guard| guard.timer.as_raw_fd());
        let fds = [self.signals.as_raw_fd(), fd(&self.streams[0]), fd(&self.streams[1]), timer];
        let timeout = if is_stuck { Some(timeout.unwrap_or(RETRY_FULL_DISK).min(RETRY_FULL_DISK)) } else { timeout };
        let ready = sys::poll(fds, timeout);
        // A stop must not wait behind a flood of output.
        while let Some(signal) = sys::next_signal(self.signals) {
            self.handle(signal);
        }
        for stream in 0..2 {
            if ready[stream + 1] {
                self.read(stream);
            }
        }
        if ready[3] {
            self.look_at_lease();
        }
        self.reap_orphans(self.is_killing);
    }

    fn look_at_lease(&mut self) {
        match self.guard.as_mut().map(Guard::look) {
            Some(Due::Stop) => self.handle(libc::SIGTERM),
            Some(Due::Kill) => self.is_killing = true,
            Some(Due::Nothing) | None => {}
        }
    }

    fn handle(&mut self, signal: i32) {
        match signal {
            libc::SIGTERM if self.spec.stop_signal == libc::SIGKILL => self.is_killing = true,
            // The group's number stays its own while its leader is not waited for, and we alone wait for it.
            libc::SIGTERM => drop(sys::kill(-self.main, self.spec.stop_signal)),
            libc::SIGUSR1 => self.is_killing = true,
            _ => {}
        }
    }

    /// Moves what one stream has ready, at most a record. False when there was nothing.
    fn read(&mut self, stream: usize) -> bool {
        if self.log.is_stuck() {
            return false;
        }
        let Some(mut pipe) = self.streams[stream].as_ref() else { return false };
        match pipe.read(&mut self.buffer) {
            Ok(0) => self.streams[stream] = None,
            Ok(count) => {
                self.log.append(stream, &self.buffer[..count]);
                self.bell.ring();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => self.streams[stream] = None,
        }
        true
    }

    /// Frees the process ids of orphans that ended. The main process stays, see [`sys::has_ended`].
    fn reap_orphans(&self, also_behind_main: bool) {
        while let Ok(Some(pid)) = sys::ended_child() {
            if pid == self.main {
                // It hides the others from this question, so they are asked for by name.
                let orphans = if also_behind_main { tree::own_children() } else { Ok(Vec::new()) };
                for orphan in orphans.unwrap_or_default() {
                    if orphan != self.main {
                        let _ = sys::reap(orphan);
                    }
                }
                return;
            }
            let _ = sys::reap(pid);
        }
    }

    /// Kills until nothing but the dead main process is left. Answers how many were still alive when time was up.
    fn kill_all(&mut self) -> usize {
        let until = Instant::now() + KILL_WITHIN;
        let mut pause = Duration::from_millis(1);
        loop {
            // Nearly always: it has ended, and nobody else is left.
            if sys::has_ended(self.main).unwrap_or(true)
                && tree::own_children().is_ok_and(|children| children.iter().all(|pid| *pid == self.main))
            {
                return 0;
            }
            self.reap_orphans(true);
            let left: Vec<_> = tree::descendants().into_iter().filter(|process| process.pid != self.main).collect();
            let main_is_dead = sys::has_ended(self.main).unwrap_or(true);
            if left.is_empty() && main_is_dead {
                return 0;
            }
            if Instant::now() >= until {
                return left.len() + usize::from(!main_is_dead);
            }
            self.kill_tree();
            // Output goes on being read: a process that dumps its last words into a full pipe holds nobody up.
            self.turn(Some(pause));
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn kill_tree(&self) {
        // These two reach all of a group or a user in one step, so that forking is no escape from them.
        let _ = sys::kill(-self.main, libc::SIGKILL);
        if let Some(uid) = self.spec.uid
            && let Ok(sys::Forked::Child) = sys::fork()
        {
            let _ = sys::become_user_and_kill_all(uid);
            sys::exit_now(0);
        }
        // What left the group and shares our user is frozen first, until no new ones appear, then killed.
        let mut frozen = HashSet::new();
        for _ in 0..50 {
            let fresh: Vec<_> = tree::descendants().into_iter().filter(|process| frozen.insert(*process)).collect();
            if fresh.is_empty() {
                break;
            }
            for process in fresh {
                process.signal(libc::SIGSTOP);
            }
        }
        for process in frozen {
            process.signal(libc::SIGKILL);
        }
    }

    fn drain(&mut self) {
        let until = Instant::now() + FLUSH_WITHIN;
        loop {
            self.log.flush();
            if self.log.is_stuck() {
                if Instant::now() >= until {
                    self.log.abandon();
                }
                std::thread::sleep(RETRY_FULL_DISK);
                continue;
            }
            let moved = [self.read(0), self.read(1)];
            // Somebody outside the tree may have been given the pipe, and write for ever.
            if moved == [false, false] || Instant::now() >= until {
                return;
            }
        }
    }
}
