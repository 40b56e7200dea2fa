//! An object store without a fixed key: the services have a token of an identity provider, as a Kubernetes service account has, and the store's own STS
//! gives them keys for it that end.

use crate::{
    artifacts::{finish, text},
    programs::{self, Program},
    until::until,
    world::{Home, SOON},
};
use axum::{Json, Router, routing::get};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::json;
use std::{
    fs,
    process::{Output, Stdio},
    time::Duration,
};
use test_kit::seaweedfs::SeaweedFs;
use tokio::{net::TcpListener, task::JoinSet};

/// Publishes the key with which it signs tokens.
struct IdentityProvider {
    issuer: String,
    key: KeyPair,
    _serving: JoinSet<()>,
}

impl IdentityProvider {
    async fn start() -> Self {
        let key = KeyPair::generate().expect("a key of P-256");
        // A point of the curve: a byte for its form, then both coordinates.
        let (x, y) = key.der_bytes()[1..].split_at(32);
        let [x, y] = [x, y].map(|coordinate| BASE64_URL_SAFE_NO_PAD.encode(coordinate));
        let keys =
            json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "1", "x": x, "y": y}]});
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let issuer = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new().route("/keys", get(async move || Json(keys)));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { issuer, key, _serving: serving }
    }

    fn token(&self, audience: &str) -> String {
        let now = chrono::Utc::now().timestamp();
        let claims = json!({
            "iss": self.issuer, "aud": audience, "sub": "system:serviceaccount:unidesk:services",
            "iat": now, "exp": now + 3_600,
        });
        let header = Header { kid: Some("1".to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(&self.key.serialize_der())).expect("signed")
    }
}

struct House {
    up: Program,
    home: Home,
}

impl House {
    async fn start(seaweedfs: &SeaweedFs, token: &str) -> Self {
        let home = Home::create();
        fs::write(home.path().join("web-identity"), token).expect("written");
        let mut up = programs::command(&["up", "--listen", "127.0.0.1:0", "--no-node"]);
        up.arg("--data-dir").arg(home.path().join("data"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
            up.env_remove(name);
        }
        up.env("UNIDESK_S3_ENDPOINT", &seaweedfs.endpoint).env("UNIDESK_S3_CREDENTIALS", "aws");
        // As Kubernetes sets them in a pod, and where this store has its STS.
        up.env("AWS_ROLE_ARN", SeaweedFs::ROLE).env("AWS_WEB_IDENTITY_TOKEN_FILE", home.path().join("web-identity"));
        up.env("AWS_ENDPOINT_URL_STS", &seaweedfs.endpoint).env("AWS_EC2_METADATA_DISABLED", "true");
        up.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        let up = Program::start(up).await;
        Self { up, home }
    }

    async fn tell(&self, words: &[&str]) -> Output {
        let token = fs::read_to_string(self.home.path().join("data/admin.token")).expect("the first key");
        let mut command = tokio::process::Command::from(programs::command(words));
        command.env("UNIDESK_URL", self.up.url()).env("UNIDESK_TOKEN", token.trim()).env("HOME", self.home.path());
        command.current_dir(self.home.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(command.kill_on_drop(true).spawn().expect("it starts")).await
    }

    async fn puts_and_gets(&self, name: &str, bytes: usize) {
        let content: Vec<u8> = (0..u32::MAX).flat_map(u32::to_le_bytes).take(bytes).collect();
        fs::write(self.home.path().join(name), &content).expect("written");
        let back = format!("{name}.back");
        for words in [&["artifact", "put", name, "--name", name][..], &["artifact", "get", name, "--to", &back]] {
            let output = self.tell(words).await;
            assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
        }
        assert!(fs::read(self.home.path().join(back)).expect("it came back") == content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_gives_keys_that_are_renewed_and_no_address_outlives_them() {
    const SECONDS: u64 = 20;
    let provider = IdentityProvider::start().await;
    let seaweedfs = SeaweedFs::start_with_role(&provider.issuer, SECONDS).await;
    let house = House::start(&seaweedfs, &provider.token(SeaweedFs::AUDIENCE)).await;
    house.puts_and_gets("first", 20 << 20).await;

    let token = fs::read_to_string(house.home.path().join("data/admin.token")).expect("the first key");
    let client = client::Client::new(house.up.url(), token.trim()).expect("a client");
    let id = client.artifact(&"first".parse().expect("a name"), None).await.expect("it is there").id;
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let asked = std::time::Instant::now();
    let first = client.download_artifact(id).await.expect("an address").get;
    let left = (first.expires_at - chrono::Utc::now()).num_seconds();
    assert!((0..=SECONDS as i64).contains(&left), "an address for {left} s, signed by keys for {SECONDS} s");
    assert!(first.url.contains("X-Amz-Security-Token="), "{}", first.url);
    assert_eq!(http.get(&first.url).send().await.expect("an answer").status(), 200);

    // Its keys end, and it with them; another has others.
    until("the address has ended", SOON, async || {
        let answer = http.get(&first.url).send().await.expect("an answer");
        (answer.status() == 403).then_some(())
    })
    .await;
    assert!(asked.elapsed() < Duration::from_secs(SECONDS + 10), "{:?}", asked.elapsed());
    let second = client.download_artifact(id).await.expect("an address").get;
    assert_eq!(http.get(&second.url).send().await.expect("an answer").status(), 200);
    house.puts_and_gets("second", 1 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_not_given_is_told_in_the_log_of_the_services() {
    let provider = IdentityProvider::start().await;
    let seaweedfs = SeaweedFs::start_with_role(&provider.issuer, 60).await;
    let mut house = House::start(&seaweedfs, &provider.token("somebody-else")).await;
    house.up.until_said("UNIDESK_S3_CREDENTIALS is aws, and no credentials are found", SOON).await;
}
