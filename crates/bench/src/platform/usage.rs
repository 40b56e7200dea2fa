//! What processes cost: CPU seconds and memory, from /proc.

use std::{fs, time::Duration};

/// Of one process, or of several together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system, of children that ended as well.
    pub cpu: Duration,
    /// Shared pages are counted in parts, so that PostgreSQL's many processes can be added up.
    pub memory_bytes: u64,
    /// Not shared with anyone.
    pub private_bytes: u64,
}

impl std::ops::Add for Usage {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            memory_bytes: self.memory_bytes + other.memory_bytes,
            private_bytes: self.private_bytes + other.private_bytes,
        }
    }
}

/// Zero for a process that is gone.
pub fn of(pid: i32) -> Usage {
    let (memory_bytes, private_bytes) = memory(pid);
    Usage { cpu: cpu(pid), memory_bytes, private_bytes }
}

/// A process and all that it started.
pub fn of_tree(root: i32) -> Usage {
    tree(root).into_iter().map(of).fold(Usage::default(), |sum, one| sum + one)
}

/// A process, and all that it started and that live.
pub fn tree(root: i32) -> Vec<i32> {
    let parents = parents();
    let mut tree = vec![root];
    let mut at = 0;
    while at < tree.len() {
        let of = tree[at];
        tree.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        at += 1;
    }
    tree
}

fn cpu(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold anything; after it come state, parent, and from the twelfth on the times, in hundredths.
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .map(|rest| rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
        .unwrap_or_default();
    Duration::from_millis(10 * fields.get(11..15).map_or(0, |times| times.iter().sum()))
}

fn memory(pid: i32) -> (u64, u64) {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let sum = |names: &[&str]| {
        let kib = |line: &str| line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
        rollup.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).map(kib).sum::<u64>() * 1_024
    };
    (sum(&["Pss:"]), sum(&["Private_Clean:", "Private_Dirty:"]))
}

fn parents() -> Vec<(i32, i32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_costs_something() {
        let pid = std::process::id() as i32;
        let began = std::time::Instant::now();
        // Hundredths of a second are counted: work for some of them.
        while cpu(pid) < Duration::from_millis(30) && began.elapsed() < Duration::from_secs(20) {
            std::hint::black_box((0..10_000u64).sum::<u64>());
        }
        let usage = of_tree(pid);
        assert!(usage.cpu >= Duration::from_millis(30) && usage.memory_bytes >= usage.private_bytes, "{usage:?}");
        assert!(usage.private_bytes > 0);
    }
}
