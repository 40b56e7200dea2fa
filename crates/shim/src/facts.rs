//! How a process ended, as the agent reads it.

use crate::sys::{self, Status};
use std::fmt::Write as _;

/// How the process ended. Times are the wall clock's for people; the duration also counts a suspended machine.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) pid: i32,
    pub(crate) pid_start: u64,
    pub(crate) status: Option<Status>,
    /// Which step before the user's program went wrong, and the system's error number.
    pub(crate) not_started: Option<(&'static str, i32)>,
    pub(crate) oom: bool,
    /// Its lease had run out.
    pub(crate) fenced: bool,
    pub(crate) started_ms: u64,
    pub(crate) ended_ms: u64,
    pub(crate) duration_ms: u64,
    pub(crate) cpu_ms: u64,
    pub(crate) peak_memory_bytes: u64,
    pub(crate) dropped: [u64; 2],
    pub(crate) log_bytes: u64,
    /// Processes that no signal could end.
    pub(crate) alive: usize,
    pub(crate) kernel_kills: u64,
}

impl Facts {
    pub(crate) fn end_now(&mut self, started_boot_ms: u64) {
        self.duration_ms = sys::boot_ms() - started_boot_ms;
        self.ended_ms = sys::wall_ms();
    }

    /// At most 20 lines, each shorter than 64 bytes.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::with_capacity(512);
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{key}={value}");
        };
        line("pid", &self.pid);
        line("pid_start", &self.pid_start);
        match self.status {
            Some(Status::Exited(code)) => line("code", &code),
            Some(Status::Signalled(signal)) => line("signal", &signal),
            None => {}
        }
        if let Some((step, errno)) = self.not_started {
            line("failed_step", &step);
            line("errno", &errno);
        }
        line("oom", &u8::from(self.oom));
        line("fenced", &u8::from(self.fenced));
        line("started_ms", &self.started_ms);
        line("ended_ms", &self.ended_ms);
        line("duration_ms", &self.duration_ms);
        line("cpu_ms", &self.cpu_ms);
        line("peak_memory_bytes", &self.peak_memory_bytes);
        line("dropped_stdout", &self.dropped[0]);
        line("dropped_stderr", &self.dropped[1]);
        line("log_bytes", &self.log_bytes);
        line("alive", &self.alive);
        line("kernel_kills", &self.kernel_kills);
        text.push_str("end\n");
        text
    }
}
