//! A real S3 object store: SeaweedFS, one process, its data in a directory that goes with it.

use crate::script;
use std::{
    net::{Ipv4Addr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub struct SeaweedFs {
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    process: Child,
    _dir: TempDir,
}

impl SeaweedFs {
    pub const ACCESS_KEY_ID: &str = "AKTEST";
    pub const SECRET_ACCESS_KEY: &str = "SKTEST";

    /// Starts one, and waits until it takes requests. Panics where there is none, and says how to get it: a test is never skipped.
    pub async fn start() -> Self {
        let weed = script("test-seaweedfs.sh");
        let dir = tempfile::tempdir().expect("a directory");
        let identity = format!(
            r#"{{"identities": [{{"name": "test", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                "credentials": [{{"accessKey": "{}", "secretKey": "{}"}}]}}]}}"#,
            Self::ACCESS_KEY_ID,
            Self::SECRET_ACCESS_KEY
        );
        let config = dir.path().join("s3.json");
        std::fs::write(&config, identity).expect("a file");
        let [s3, master, volume, filer] = ports();
        // Each bucket takes some volumes for itself, and a test one bucket.
        let log = std::fs::File::create(dir.path().join("log")).expect("a file");
        let process = Command::new(weed)
            .args([
                "server",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-s3",
                "-volume.max=500",
                "-master.volumeSizeLimitMB=64",
            ])
            .arg(format!("-dir={}", dir.path().display()))
            .arg(format!("-s3.config={}", config.display()))
            .args([format!("-s3.port={s3}"), format!("-master.port={master}")])
            .args([format!("-volume.port={volume}"), format!("-filer.port={filer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("SeaweedFS starts");
        let endpoint = format!("http://127.0.0.1:{s3}");
        let this = Self { endpoint, process, _dir: dir };
        this.until_listening(s3).await;
        this
    }

    async fn until_listening(&self, port: u16) {
        let began = Instant::now();
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            if began.elapsed() > Duration::from_secs(60) {
                let log = std::fs::read_to_string(self._dir.path().join("log")).unwrap_or_default();
                panic!("SeaweedFS does not listen after a minute:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Four that are free, and so are those 10,000 above: it listens there too.
fn ports() -> [u16; 4] {
    std::array::from_fn(|_| {
        loop {
            let port = rand::random_range(12_000..22_000);
            let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            if is_free(port) && is_free(port + 10_000) {
                return port;
            }
        }
    })
}
