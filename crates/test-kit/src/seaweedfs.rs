//! A real S3 object store: SeaweedFS, one process, its data in a directory that goes with it.

use crate::{script, tls::Authority};
use std::{
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub struct SeaweedFs {
    /// `http://127.0.0.1:PORT`, or https.
    pub endpoint: String,
    /// With TLS: the certificate of the authority that vouches for it.
    pub ca_file: Option<PathBuf>,
    process: Child,
    _dir: TempDir,
}

impl SeaweedFs {
    pub const ACCESS_KEY_ID: &str = "AKTEST";
    pub const SECRET_ACCESS_KEY: &str = "SKTEST";
    /// It takes buckets before this name too, where somebody has the name lead to it.
    pub const DOMAIN: &str = "s3.test";
    /// Whom tokens of an identity provider are for, and the role that they give.
    pub const AUDIENCE: &str = "sts.test";
    pub const ROLE: &str = "arn:aws:iam::role/Services";

    /// Starts one, and waits until it takes requests. Panics where there is none, and says how to get it: a test is never skipped.
    pub async fn start() -> Self {
        Self::start_with(None, None).await
    }

    /// One that speaks TLS, with a certificate of this authority for 127.0.0.1 and for [`Self::DOMAIN`] with its buckets before it.
    pub async fn start_tls(authority: &Authority) -> Self {
        Self::start_with(Some(authority), None).await
    }

    /// One that hands out keys of a role to whoever has a token of this identity provider. They end after so many seconds.
    pub async fn start_with_role(issuer: &str, seconds: u64) -> Self {
        Self::start_with(None, Some((issuer, seconds))).await
    }

    async fn start_with(authority: Option<&Authority>, role: Option<(&str, u64)>) -> Self {
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
        let mut command = Command::new(weed);
        command.arg("server");
        let mut scheme = "http";
        if let Some(authority) = authority {
            let any_bucket = format!("*.{}", Self::DOMAIN);
            let (certificate, key) = authority.certificate_for(&["127.0.0.1", Self::DOMAIN, &any_bucket]);
            for (name, text) in [("cert", certificate), ("key", key)] {
                let path = dir.path().join(format!("{name}.pem"));
                std::fs::write(&path, text).expect("a file");
                command.arg(format!("-s3.{name}.file={}", path.display()));
            }
            scheme = "https";
        }
        if let Some((issuer, seconds)) = role {
            let path = dir.path().join("iam.json");
            std::fs::write(&path, roles(issuer, seconds)).expect("a file");
            command.arg(format!("-s3.iam.config={}", path.display()));
        }
        let process = command
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-volume.max=500", "-master.volumeSizeLimitMB=64"])
            // These have fixed numbers: a second SeaweedFS on this machine would end over them.
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"])
            .arg(format!("-dir={}", dir.path().display()))
            .arg(format!("-s3.domainName={}", Self::DOMAIN))
            .arg(format!("-s3.config={}", config.display()))
            .args([format!("-s3.port={s3}"), format!("-master.port={master}")])
            .args([format!("-volume.port={volume}"), format!("-filer.port={filer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("SeaweedFS starts");
        let endpoint = format!("{scheme}://127.0.0.1:{s3}");
        let ca_file = authority.map(|authority| authority.file(dir.path()));
        let this = Self { endpoint, ca_file, process, _dir: dir };
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

/// Its own form of identity providers, roles and what these may do.
fn roles(issuer: &str, seconds: u64) -> String {
    let (audience, role) = (SeaweedFs::AUDIENCE, SeaweedFs::ROLE);
    format!(
        r#"{{
        "sts": {{"tokenDuration": "{seconds}s", "maxSessionLength": "12h", "issuer": "test-sts",
                 "signingKey": "dGVzdC1zaWduaW5nLWtleS0zMi1jaGFyYWN0ZXJzLWxvbmc="}},
        "policy": {{"defaultEffect": "Deny", "storeType": "memory"}},
        "providers": [{{"name": "cluster", "type": "oidc", "enabled": true,
                        "config": {{"issuer": "{issuer}", "clientId": "{audience}", "jwksUri": "{issuer}/keys"}}}}],
        "policies": [{{"name": "All", "document": {{"Version": "2012-10-17",
                       "Statement": [{{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*", "arn:aws:s3:::*/*"]}}]}}}}],
        "roles": [{{"roleName": "Services", "roleArn": "{role}", "attachedPolicies": ["All"],
                    "trustPolicy": {{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow",
                        "Principal": {{"Federated": "cluster"}}, "Action": ["sts:AssumeRoleWithWebIdentity"]}}]}}}}]
        }}"#
    )
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
