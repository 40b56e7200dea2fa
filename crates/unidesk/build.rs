//! Which commit this program is built from: `UNIDESK_COMMIT`, where whoever builds knows it, else what Git says of the sources.

use std::{path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=UNIDESK_COMMIT");
    let given = std::env::var("UNIDESK_COMMIT").ok().filter(|commit| !commit.is_empty());
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = match given {
        Some(commit) => commit,
        None if is_release => {
            // Whether the sources are those of the commit changes with any of them.
            for path in ["../../crates", "../../migrations", "../../Cargo.lock"] {
                println!("cargo::rerun-if-changed={path}");
            }
            commit()
        }
        None => {
            // A developer's build follows every change: to ask at each would build this crate, and its tests, once more a commit.
            println!("cargo::rerun-if-changed=build.rs");
            "development".to_owned()
        }
    };
    println!("cargo::rustc-env=UNIDESK_BUILT_FROM={commit}");
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=7", "HEAD"]) else {
        return "unknown".to_owned();
    };
    // What HEAD is changes here, also when no source did.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changed) if changed.is_empty() => commit,
        _ => format!("{commit}-dirty"),
    }
}
