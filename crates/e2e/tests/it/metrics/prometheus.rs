//! A real Prometheus, which knows our rules and looks at one platform.

use super::repository;
use crate::until::until;
use serde_json::Value;
use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

const MISSING: &str =
    "it is missing, most likely; scripts/test.sh installs it, or: apt-get install --no-install-recommends prometheus";

pub(super) struct Prometheus {
    child: Child,
    url: String,
    http: reqwest::Client,
    _dir: TempDir,
}

impl Prometheus {
    /// Looks at `target` every second.
    pub(super) async fn start(target: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join("prometheus.yml");
        let rules = repository().join("deploy/prometheus/rules").canonicalize().expect("rules");
        let text = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: ['{}/*.yml']\n\
             scrape_configs: [{{ job_name: unidesk, static_configs: [{{ targets: ['{target}'] }}] }}]\n",
            rules.display()
        );
        fs::write(&config, text).expect("writing");
        // It can't tell which port it took, were it to choose.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus does not start ({error}): {MISSING}"));
        let url = format!("http://127.0.0.1:{port}");
        let this = Self { child, url, http: reqwest::Client::new(), _dir: dir };
        until("Prometheus is ready", Duration::from_secs(60), async || {
            let asked = this.http.get(format!("{}/-/ready", this.url)).send().await;
            asked.is_ok_and(|answer| answer.status().is_success()).then_some(())
        })
        .await;
        this
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let asked = self.http.get(format!("{}{path}", self.url)).query(query).send().await.expect("an answer");
        serde_json::from_slice(&asked.bytes().await.expect("a body")).expect("JSON")
    }

    /// The values that an expression has now. Errors: it is none.
    pub(super) async fn query(&self, expression: &str) -> Result<Vec<f64>, String> {
        let answer = self.get("/api/v1/query", &[("query", expression)]).await;
        if answer["status"] != "success" {
            return Err(format!("{expression}: {}", answer["error"]));
        }
        let result = &answer["data"]["result"];
        let value = |sample: &Value| sample["value"][1].as_str().and_then(|text| text.parse().ok());
        Ok(result.as_array().into_iter().flatten().filter_map(value).collect())
    }

    /// Every rule that it has: name, health, and the state of an alert.
    pub(super) async fn rules(&self) -> Vec<(String, String, String)> {
        let answer = self.get("/api/v1/rules", &[]).await;
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().filter_map(|group| group["rules"].as_array()).flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        rules.map(|rule| (text(&rule["name"]), text(&rule["health"]), text(&rule["state"]))).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What promtool says of these files, which must be good.
pub(super) fn promtool(words: &[&str], file: &Path) {
    let output = Command::new("promtool").args(words).arg(file).output();
    let output = output.unwrap_or_else(|error| panic!("promtool does not start ({error}): {MISSING}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}:\n{said}", file.display());
}
