//! Two faults on the real thing, chosen by the commit, so that all of them come up as the work goes on. All at once: `just chaos`.

use std::process::Command;

/// With these, the damage that is done afterwards to show that the oracle looks.
const SABOTAGE: [&str; 3] = ["delete-log-chunk", "forget-task", "forge-ledger"];

/// The commit as a number: the one that CI names, else Git's, else none, which is 0.
fn commit() -> (String, usize) {
    let named = std::env::var("SIM_COMMIT").ok();
    let git = || {
        let said =
            Command::new("git").args(["rev-parse", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
    };
    let commit = named.or_else(git).unwrap_or_default();
    let number = usize::from_str_radix(commit.get(..8).unwrap_or("0"), 16).unwrap_or(0);
    (commit, number)
}

fn loses_nothing(which: usize) {
    let (commit, number) = commit();
    let quick = chaos::scenarios::QUICK;
    // Neighbours in the list, so that the two of one commit differ.
    let fault = quick[(number + which) % quick.len()];
    let sabotage = SABOTAGE[number / quick.len() % SABOTAGE.len()];
    println!("commit {commit:?} chooses {fault}, and {sabotage} afterwards");
    // A test of an older platform than the one in the sources would say nothing. When all is built this takes 0.2 s.
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "unidesk", "-p", "shim", "--bins"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.expect("cargo runs").success(), "unidesk does not build");
    let shim = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/build-shim.sh");
    assert!(Command::new(shim).status().expect("it runs").success(), "the static shim does not build");
    let keep = std::env::temp_dir().join(format!("unidesk-chaos-{fault}"));
    let output = Command::new(env!("CARGO_BIN_EXE_chaos"))
        .args([fault, "--sabotage", sabotage, "--keep"])
        .arg(&keep)
        .output()
        .expect("chaos runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    println!("{said}");
    assert!(output.status.success(), "{fault} lost something; logs, if any, are in {}", keep.display());
}

#[test]
fn the_first_fault_of_this_commit_loses_nothing() {
    loses_nothing(0);
}

#[test]
fn the_second_fault_of_this_commit_loses_nothing() {
    loses_nothing(1);
}
