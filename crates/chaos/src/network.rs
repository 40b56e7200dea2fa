//! A node's own network: a namespace with one cable to the platform, which can be cut in one direction or both.
//!
//! An agent sends its token in plain text to loopback only, so inside the namespace the platform is at 127.0.0.1, and the kernel turns
//! that into the address at the other end of the cable. It is the agent's own connection that crosses, with the kernel's own
//! retransmissions; nothing in between could hide a fault.

use crate::inside::run;
use std::{fmt, fs, os::unix::fs::MetadataExt, path::PathBuf, process::Command};

/// Where an agent finds the platform inside its namespace.
pub const PLATFORM_PORT: u16 = 7700;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What the node sends is lost.
    Out,
    /// What is sent to the node is lost.
    In,
    Both,
}

/// Packets of a node that a cut has swallowed, by the firewall's own count: a cut that dropped none was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    pub out: u64,
    pub inward: u64,
}

impl Dropped {
    /// It swallowed what it should, and nothing else.
    pub fn is_of(self, way: Way) -> bool {
        (self.out > 0) == (way != Way::In) && (self.inward > 0) == (way != Way::Out)
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} packets were dropped on the way out, {} on the way in", self.out, self.inward)
    }
}

pub struct NodeNet {
    name: String,
    index: u8,
}

impl NodeNet {
    /// Lays the cable. New connections to the platform go to one of `gateways` at random, as through a balancer that knows nothing of
    /// their health; those to `git` keep their port.
    pub fn create(index: u8, gateways: &[u16], git: u16) -> anyhow::Result<Self> {
        let net = Self { name: format!("n{index}"), index };
        let veth = format!("v{index}");
        let (here, there) = (net.platform_side(), net.node_side());
        run("ip", &["netns", "add", &net.name])?;
        run("ip", &["link", "add", &veth, "type", "veth", "peer", "name", "eth0", "netns", &net.name])?;
        run("ip", &["addr", "add", &format!("{here}/30"), "dev", &veth])?;
        run("ip", &["link", "set", &veth, "up"])?;
        for arguments in [
            &["ip", "addr", "add", &format!("{there}/30"), "dev", "eth0"][..],
            &["ip", "link", "set", "eth0", "up"],
            &["ip", "link", "set", "lo", "up"],
            &["ip", "route", "add", "default", "via", &here],
            &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet"],
        ] {
            net.run(arguments)?;
        }
        net.route(gateways)?;
        let git = git.to_string();
        net.nat(&[
            "-A",
            "OUTPUT",
            "-d",
            "127.0.0.1",
            "-p",
            "tcp",
            "--dport",
            &git,
            "-j",
            "DNAT",
            "--to-destination",
            &format!("{here}:{git}"),
        ])?;
        net.nat(&["-A", "POSTROUTING", "-o", "eth0", "-j", "SNAT", "--to-source", &there])?;
        let onward = format!("127.0.0.1:{git}");
        run(
            "iptables",
            &[
                "-t",
                "nat",
                "-A",
                "PREROUTING",
                "-i",
                &veth,
                "-p",
                "tcp",
                "--dport",
                &git,
                "-j",
                "DNAT",
                "--to-destination",
                &onward,
            ],
        )?;
        Ok(net)
    }

    /// From now on new connections to the platform go to these gateways only, as through a balancer that has noticed that another does
    /// not answer. Open ones stay where they are.
    pub fn balance(&self, gateways: &[u16]) -> anyhow::Result<()> {
        let net = format!("--net={}", self.path().display());
        let rules = run("nsenter", &[&net, "iptables", "-t", "nat", "-S", "OUTPUT"])?;
        for rule in rules.lines().filter(|rule| rule.contains(&format!("--dport {PLATFORM_PORT} "))) {
            let words: Vec<&str> = rule.split_whitespace().skip(1).collect();
            self.nat(&[&["-D"], &words[..]].concat())?;
        }
        self.route(gateways)
    }

    fn route(&self, gateways: &[u16]) -> anyhow::Result<()> {
        for (left, port) in gateways.iter().enumerate().map(|(at, port)| (gateways.len() - at, port)) {
            let (to, platform) = (format!("{}:{port}", self.platform_side()), PLATFORM_PORT.to_string());
            let share = format!("{:.4}", 1.0 / left as f64);
            let mut rule = vec!["-A", "OUTPUT", "-d", "127.0.0.1", "-p", "tcp", "--dport", &platform];
            if left > 1 {
                rule.extend(["-m", "statistic", "--mode", "random", "--probability", &share]);
            }
            rule.extend(["-j", "DNAT", "--to-destination", &to]);
            self.nat(&rule)?;
        }
        Ok(())
    }

    fn nat(&self, rule: &[&str]) -> anyhow::Result<()> {
        self.run(&[&["iptables", "-t", "nat"], rule].concat())
    }

    fn platform_side(&self) -> String {
        format!("10.77.{}.1", self.index)
    }

    fn node_side(&self) -> String {
        format!("10.77.{}.2", self.index)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Does something inside. (Not by `ip netns exec`, which also hides the control groups.)
    fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        run("nsenter", &[&[format!("--net={}", self.path().display()).as_str()], arguments].concat()).map(drop)
    }

    /// The same command, run inside.
    pub fn command(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net={}", self.path().display())).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// From now on packets vanish, also those of open connections.
    pub fn cut(&self, way: Way) -> anyhow::Result<()> {
        if way != Way::In {
            self.drop_out(&[])?;
        }
        if way != Way::Out {
            self.drop_in(&[])?;
        }
        Ok(())
    }

    /// At the very end of their way: earlier the kernel still takes what was turned away from loopback for loopback's own.
    fn drop_out(&self, which: &[&str]) -> anyhow::Result<()> {
        self.run(&[&["iptables", "-t", "mangle", "-A", "POSTROUTING", "-o", "eth0"], which, &["-j", "DROP"]].concat())
    }

    fn drop_in(&self, which: &[&str]) -> anyhow::Result<()> {
        self.run(&[&["iptables", "-t", "mangle", "-A", "PREROUTING", "-i", "eth0"], which, &["-j", "DROP"]].concat())
    }

    /// The connections that are open now fall silent, as when a router on the way forgets them; new ones get through.
    pub fn forget_connections(&self) -> anyhow::Result<usize> {
        let open =
            run("nsenter", &[&format!("--net={}", self.path().display()), "ss", "-Htn", "state", "established"])?;
        let ends = format!(":{PLATFORM_PORT}");
        let mut forgotten = 0;
        for line in open.lines() {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(peer)) = (columns.get(2), columns.get(3)) else { continue };
            let Some((_, port)) = local.rsplit_once(':').filter(|_| peer.ends_with(&ends)) else { continue };
            self.drop_out(&["-p", "tcp", "--sport", port])?;
            // The other end knows it by the same number.
            self.drop_in(&["-p", "tcp", "--dport", port])?;
            forgotten += 1;
        }
        Ok(forgotten)
    }

    /// What the cut that is now has dropped so far.
    pub fn dropped(&self) -> anyhow::Result<Dropped> {
        let net = format!("--net={}", self.path().display());
        let dropped = |chain: &str| -> anyhow::Result<u64> {
            let rules = run("nsenter", &[&net, "iptables", "-t", "mangle", "-L", chain, "-v", "-x", "-n"])?;
            let counts = rules
                .lines()
                .filter(|line| line.contains("DROP"))
                .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            Ok(counts.sum())
        };
        Ok(Dropped { out: dropped("POSTROUTING")?, inward: dropped("PREROUTING")? })
    }

    /// Packets pass again. What was dropped until now.
    pub fn heal(&self) -> anyhow::Result<Dropped> {
        let dropped = self.dropped()?;
        self.run(&["iptables", "-t", "mangle", "-F"])?;
        Ok(dropped)
    }

    /// Everything that lives in the namespace: the agent, the supervisors, the tasks' processes.
    pub fn pids(&self) -> Vec<i32> {
        let Ok(wanted) = fs::metadata(self.path()) else { return Vec::new() };
        let mut found = Vec::new();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if fs::metadata(process.path().join("ns/net")).is_ok_and(|ns| ns.ino() == wanted.ino()) {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for NodeNet {
    fn drop(&mut self) {
        let veth = format!("v{}", self.index);
        // The cable first: the namespace itself goes only when its last process is gone.
        let _ = run("ip", &["link", "del", &veth]);
        let _ = run("ip", &["netns", "del", &self.name]);
        // The hand-over to the Git host, whatever its port was.
        let rules = run("iptables", &["-t", "nat", "-S", "PREROUTING"]).unwrap_or_default();
        for rule in rules.lines().filter(|rule| rule.contains(&format!("-i {veth} "))) {
            let words: Vec<&str> = rule.split_whitespace().skip(1).collect();
            let _ = run("iptables", &[&["-t", "nat", "-D"], &words[..]].concat());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_that_swallowed_nothing_or_the_wrong_side_is_none() {
        let dropped = |out, inward| Dropped { out, inward };
        for (swallowed, way) in [(dropped(3, 4), Way::Both), (dropped(1, 0), Way::Out), (dropped(0, 1), Way::In)] {
            assert!(swallowed.is_of(way), "{swallowed:?} {way:?}");
        }
        for (swallowed, way) in [
            (dropped(0, 0), Way::Both),
            (dropped(3, 0), Way::Both),
            (dropped(0, 3), Way::Both),
            (dropped(0, 0), Way::Out),
            (dropped(1, 1), Way::Out),
            (dropped(0, 0), Way::In),
            (dropped(1, 1), Way::In),
        ] {
            assert!(!swallowed.is_of(way), "{swallowed:?} {way:?}");
        }
    }
}
