//! The processes under one, as /proc shows them.

use crate::sys;
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
};

/// A process that can't be confused with a later one of the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Clock ticks since boot.
    pub(crate) start: u64,
}

impl Process {
    /// Sends a signal to this process or to none.
    pub(crate) fn signal(self, signal: i32) {
        match sys::open_pidfd(self.pid) {
            // The descriptor is tied to whoever has the id now; only then does the start time prove who that is.
            Ok(pidfd) if start_time(self.pid) == Some(self.start) => {
                let _ = sys::signal_pidfd(&pidfd, signal);
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) && start_time(self.pid) == Some(self.start) => {
                let _ = sys::kill(self.pid, signal);
            }
            Ok(_) | Err(_) => {}
        }
    }
}

pub(crate) fn start_time(pid: i32) -> Option<u64> {
    // One read has all of it: nothing else of a short task asks the kernel as often, so it does not ask how long the file is.
    let mut text = [0; 1_024];
    let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut text).ok()?;
    // A process may give itself any name.
    parse_stat(&String::from_utf8_lossy(&text[..length])).map(|(_, start)| start)
}

/// Parent and start time. The name in the second field may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(i32, u64)> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

/// The children of a process, dead ones that nobody waited for included.
pub(crate) fn children(pid: i32) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end at any time. Then its children are another one's, and are found next time.
        let text = match fs::read_to_string(thread?.path().join("children")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && pid == std::process::id() as i32 => {
                return Err(io::ErrorKind::Unsupported.into());
            }
            Err(_) => continue,
        };
        found.extend(text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok()));
    }
    Ok(found)
}

/// The children of this process, which has one thread. Dead ones are among them.
pub(crate) fn own_children() -> io::Result<Vec<i32>> {
    let text = fs::read_to_string("/proc/thread-self/children")?;
    Ok(text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect())
}

/// All processes under this one. What is forked or ends meanwhile may be missed or named: callers repeat.
pub(crate) fn descendants() -> Vec<Process> {
    let me = std::process::id() as i32;
    let mut waiting = match children(me) {
        Ok(children) => children,
        // A kernel without lists of children.
        Err(_) => return descendants_by_parent(me),
    };
    let mut found = Vec::new();
    while let Some(pid) = waiting.pop() {
        if let Some(start) = start_time(pid) {
            found.push(Process { pid, start });
            waiting.extend(children(pid).unwrap_or_default());
        }
    }
    found
}

fn descendants_by_parent(root: i32) -> Vec<Process> {
    let mut by_parent: HashMap<i32, Vec<Process>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        if let Some((parent, start)) = parse_stat(&String::from_utf8_lossy(&stat)) {
            by_parent.entry(parent).or_default().push(Process { pid, start });
        }
    }
    let mut found = by_parent.remove(&root).unwrap_or_default();
    let mut next = 0;
    while let Some(process) = found.get(next).copied() {
        found.extend(by_parent.remove(&process.pid).unwrap_or_default());
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_cannot_confuse_its_parent_and_start() {
        let stat = "42 (a) S 1 (b)) R 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 9876 1 1 1";
        assert_eq!(parse_stat(stat), Some((7, 9876)));
        assert_eq!(parse_stat("42 (x"), None);
    }

    #[test]
    fn both_ways_to_look_find_a_child() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let pid = child.id() as i32;
        let expected = Process { pid, start: start_time(pid).expect("it is there") };
        assert!(descendants().contains(&expected));
        assert!(descendants_by_parent(std::process::id() as i32).contains(&expected));
        // Another process with this id would have another start time, and is left alone.
        Process { start: expected.start + 1, ..expected }.signal(libc::SIGKILL);
        assert!(child.try_wait().expect("can be asked").is_none());
        expected.signal(libc::SIGKILL);
        assert!(!child.wait().expect("ends").success());
    }
}
