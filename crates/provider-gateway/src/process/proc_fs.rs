//! What /proc says of processes.

use super::pidfd::Process;
use std::{fs, sync::OnceLock};

pub(super) struct Stat {
    pub(super) parent: i32,
    pub(super) session: i32,
    /// Clock ticks since boot.
    pub(super) start: u64,
    /// A zombie: it holds an id and nothing else.
    pub(super) is_dead: bool,
}

pub(super) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&text(&format!("/proc/{pid}/stat"))?)
}

/// A process may give itself a name that is no text; what else is said of it counts all the same.
fn text(path: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())
}

/// The name in the second field may hold spaces and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
        is_dead: matches!(*fields.first()?, "Z" | "X"),
    })
}

/// All living processes.
pub(super) fn all() -> impl Iterator<Item = (Process, Stat)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| stat(pid).map(|stat| (Process { pid, start: stat.start }, stat)))
        .filter(|(_, stat)| !stat.is_dead)
}

/// The real user of a process. The owner of its directory would be root for one that hides its memory.
pub(super) fn user(pid: i32) -> Option<u32> {
    let status = text(&format!("/proc/{pid}/status"))?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().next()?.parse().ok()
}

/// Whether a process was given this variable. What it did to its own later does not show.
pub(super) fn was_given(pid: i32, name: &str, value: &str) -> bool {
    let wanted = format!("{name}={value}");
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes()))
}

/// Where the machine's present run began. Ids and start times of another run mean nothing.
pub(crate) fn boot_id() -> String {
    // It does not change under a process that lives.
    static BOOT: OnceLock<String> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    BOOT.get_or_init(read).clone()
}

/// How many processes the kernel has killed for lack of memory since boot.
pub(super) fn kernel_kills() -> u64 {
    let vmstat = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_cannot_confuse_its_stat_line() {
        let line = "42 (a) S 1 (b)) Z 7 41 40 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 9876 1 1 1";
        let stat = parse_stat(line).expect("parses");
        assert_eq!((stat.parent, stat.session, stat.start, stat.is_dead), (7, 40, 9876, true));
        assert!(parse_stat("42 (x").is_none());
    }
}
