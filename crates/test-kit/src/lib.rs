//! What tests share: a database a test, a proxy that cuts it off, a Git server over HTTP, an object store, a certificate authority, tiny Docker images. A dev-dependency only.

pub mod database;
pub mod docker;
pub mod gate;
pub mod git_host;
pub mod pg_proxy;
pub mod seaweedfs;
pub mod statements;
pub mod tls;

/// Runs a script of `scripts/` that prepares something for tests, and gives the line that it prints.
fn script(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(name);
    let output = std::process::Command::new(&path)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{} could not be run: {error}", path.display()));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{} failed:\n{}", path.display(), String::from_utf8_lossy(&output.stderr));
    said.trim().to_owned()
}
