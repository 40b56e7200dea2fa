//! A large file into the object store and out of it, through UniDesk and, in turns, by `curl` straight from and to the same store, and by
//! `cp` on the same disk. All of them end with the bytes on disk.

use crate::{
    machine,
    platform::program::{Program, unidesk_command},
    report::{Record, median, round},
};
use anyhow::Context as _;
use chrono::Utc;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Size of the file
    #[arg(long, default_value_t = 4)]
    pub gib: u64,
    /// Each is measured so often, in turns
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Where file and platform lie; a temporary directory when left out
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
}

/// One way for the bytes.
#[derive(Default)]
struct Way {
    seconds: Vec<f64>,
    peak_kib: u64,
}

struct Place {
    dir: PathBuf,
    file: PathBuf,
    url: String,
    token: String,
    /// Id and secret for the store of `up`.
    key: (String, String),
}

pub async fn run(args: &Args) -> anyhow::Result<Record> {
    let dir = match &args.scratch {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    // PostgreSQL has a user of its own.
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
    let bytes = args.gib << 30;
    let file = dir.path().join("file");
    write_noise(&file, bytes)?;
    let mut up = unidesk_command(&["up", "--no-backup", "--listen", "127.0.0.1:0"])?;
    up.arg("--data-dir").arg(dir.path().join("up")).env("RUST_LOG", "warn");
    let up = Program::start("up", up, &dir.path().join("logs")).await?;
    let said = up.said();
    let url = said.split_once("ready ").and_then(|(_, rest)| rest.split_whitespace().next());
    let data = dir.path().join("up");
    let secret = fs::read_to_string(data.join("objects.secret"))?;
    let (id, secret) = secret.trim().split_once('\n').context("the store's credentials are not two lines")?;
    let place = Place {
        file,
        url: url.context("`up` says no address")?.to_owned(),
        token: fs::read_to_string(data.join("admin.token"))?.trim().to_owned(),
        key: (id.to_owned(), secret.to_owned()),
        dir: dir.path().to_owned(),
    };
    let mut ways: BTreeMap<&str, Way> = BTreeMap::new();
    for round in 0..args.rounds.max(1) {
        for (name, words) in place.commands(round)? {
            let (took, peak_kib) = time(&words, &place).with_context(|| format!("{name}: {words:?}"))?;
            eprintln!("{name}: {:.0} MiB/s, {} MiB of memory", mib_a_second(bytes, took), peak_kib >> 10);
            let way = ways.entry(name).or_default();
            way.seconds.push(took);
            way.peak_kib = way.peak_kib.max(peak_kib);
        }
        place.clear(round)?;
    }
    drop(up);
    Ok(describe(args, bytes, &ways))
}

fn describe(args: &Args, bytes: u64, ways: &BTreeMap<&str, Way>) -> Record {
    let rate = |name: &str| ways.get(name).map_or(0.0, |way| mib_a_second(bytes, median(&way.seconds)));
    let mut record = Record::new("artifacts")
        .with("build", machine::build())
        .with("machine", machine::describe())
        .with("gib", args.gib)
        .with("rounds", args.rounds)
        .number("put_over_curl", rate("unidesk put") / rate("curl put"))
        .number("get_over_curl", rate("unidesk get") / rate("curl get"));
    for (name, way) in ways {
        let by_turn: Vec<Value> = way.seconds.iter().map(|took| round(mib_a_second(bytes, *took)).into()).collect();
        let figures = json!({
            "mib_per_s": round(rate(name)), "mib_per_s_by_turn": by_turn, "peak_memory_mib": way.peak_kib >> 10,
        });
        record = record.with(name, figures);
    }
    record
}

fn mib_a_second(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / f64::from(1 << 20) / seconds
}

impl Place {
    /// In the order in which they need each other.
    fn commands(&self, round: usize) -> anyhow::Result<Vec<(&'static str, Vec<String>)>> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let file = self.file.display().to_string();
        let unidesk = unidesk_command(&[])?.get_program().to_string_lossy().into_owned();
        let words = |line: &[&str]| line.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let copied = path("copied");
        let sync = format!("cp '{file}' '{copied}' && sync '{copied}'");
        let (put, get) = (self.signed("PUT", round), self.signed("GET", round));
        let got = path("curl");
        let curl_get = format!("curl -sS --fail-with-body -o '{got}' '{get}' && sync '{got}'");
        Ok(vec![
            ("cp", words(&["sh", "-c", &sync])),
            ("curl put", words(&["curl", "-sS", "--fail-with-body", "-o", "/dev/null", "-T", &file, &put])),
            ("unidesk put", words(&[&unidesk, "artifact", "put", &file, "--name", &format!("bench-{round}")])),
            ("curl get", words(&["sh", "-c", &curl_get])),
            ("unidesk get", words(&[&unidesk, "artifact", "get", &format!("bench-{round}"), "--to", &path("got")])),
        ])
    }

    /// An address of the store of `up` that is good for one request, as S3's fourth signature has it.
    fn signed(&self, method: &str, round: usize) -> String {
        let (id, secret) = (&self.key.0, &self.key.1);
        // The store takes no other names.
        let name = uuid::Uuid::from_u128(round as u128 + 1);
        let (now, path) = (Utc::now(), format!("/unidesk-objects/objects/{name}"));
        let (day, moment) = (now.format("%Y%m%d").to_string(), now.format("%Y%m%dT%H%M%SZ").to_string());
        let scope = format!("{day}/us-east-1/s3/aws4_request");
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={id}%2F{}&X-Amz-Date={moment}&X-Amz-Expires=900&X-Amz-SignedHeaders=host",
            scope.replace('/', "%2F")
        );
        let host = self.url.trim_start_matches("http://");
        let request = format!("{method}\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
        let request = hex::encode(Sha256::digest(request));
        let keyed = |key: &[u8], text: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
            mac.update(text.as_bytes());
            mac.finalize().into_bytes().to_vec()
        };
        let first = format!("AWS4{secret}").into_bytes();
        let key = [day.as_str(), "us-east-1", "s3", "aws4_request"].iter().fold(first, |key, word| keyed(&key, word));
        let signature = keyed(&key, &format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{request}"));
        format!("{}{path}?{query}&X-Amz-Signature={}", self.url, hex::encode(signature))
    }

    /// The next round writes all of it anew. What was put is put under another name then, as content that is known already.
    fn clear(&self, round: usize) -> anyhow::Result<()> {
        for name in ["copied", "curl", "got"] {
            fs::remove_file(self.dir.join(name))?;
        }
        let mut delete = Command::new("curl");
        delete.args(["-sS", "-X", "DELETE", &self.signed("DELETE", round)]);
        anyhow::ensure!(delete.stdout(Stdio::null()).status()?.success(), "an object could not be deleted");
        // Another file for the next round: the same is not sent twice.
        let mut file = File::options().write(true).open(&self.file)?;
        file.write_all(format!("{round}").as_bytes())?;
        Ok(file.sync_all()?)
    }
}

/// Seconds, and the most memory that it took, in KiB.
fn time(words: &[String], place: &Place) -> anyhow::Result<(f64, u64)> {
    let began = Instant::now();
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .env("UNIDESK_URL", &place.url)
        .env("UNIDESK_TOKEN", &place.token)
        .env("UNIDESK_PROGRESS", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let (status, mut peak) = (format!("/proc/{}/status", child.id()), 0);
    loop {
        // Of a process that has ended there is nothing to read any more.
        peak = peak.max(peak_kib(Path::new(&status)).unwrap_or(0));
        if let Some(ended) = child.try_wait()? {
            anyhow::ensure!(ended.success(), "it ended with {ended}");
            return Ok((began.elapsed().as_secs_f64(), peak));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn peak_kib(status: &Path) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// Bytes that nothing compresses.
fn write_noise(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let (mut file, mut noise, mut buffer) = (File::create(path)?, SmallRng::seed_from_u64(7), vec![0; 1 << 20]);
    for _ in 0..bytes >> 20 {
        noise.fill_bytes(&mut buffer);
        file.write_all(&buffer)?;
    }
    Ok(file.sync_all()?)
}
