//! A registry on loopback that wants a token, as the public ones do even from those without an account. It has one image:
//! `lab/base:1`, which is the busybox of the tests.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{collections::HashMap, convert::Infallible, io::Read, process::Command, sync::Arc};
use tokio::{net::TcpListener, task::JoinSet};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

pub(crate) struct Registry {
    pub(crate) address: String,
    _serving: JoinSet<()>,
}

struct Content {
    address: String,
    manifest: Bytes,
    blobs: HashMap<String, Bytes>,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let content = Arc::new(Content::of_busybox(address.clone()));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let content = content.clone();
                let answer = service_fn(move |request| {
                    let response = content.answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                connections.spawn(async move {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
                });
            }
        });
        Self { address, _serving: serving }
    }
}

impl Content {
    fn of_busybox(address: String) -> Self {
        let saved = Command::new("docker").args(["save", "unidesk-test/busybox:latest"]).output().unwrap().stdout;
        let mut files = HashMap::new();
        for entry in tar::Archive::new(saved.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(entry.path().unwrap().to_string_lossy().into_owned(), Bytes::from(bytes));
        }
        let about: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        let mut blobs = HashMap::new();
        let mut blob = |name: &serde_json::Value, kind: &str| {
            let bytes = files[name.as_str().unwrap()].clone();
            let digest = digest(&bytes);
            let described = json!({"mediaType": kind, "size": bytes.len(), "digest": digest});
            blobs.insert(digest, bytes);
            described
        };
        let config = blob(&about[0]["Config"], "application/vnd.docker.container.image.v1+json");
        let layers: Vec<_> = about[0]["Layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| blob(layer, "application/vnd.docker.image.rootfs.diff.tar"))
            .collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        Self { address, manifest: manifest.to_string().into(), blobs }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let reply = |status: u16, body: Bytes| Response::builder().status(status).body(Full::new(body)).unwrap();
        if path == "/token" {
            return reply(200, r#"{"token": "for-anybody"}"#.into());
        }
        if request.headers().get("authorization").is_none_or(|value| value != "Bearer for-anybody") {
            let challenge = format!("Bearer realm=\"http://{}/token\",service=\"test\"", self.address);
            let mut refusal = reply(401, r#"{"errors": [{"code": "UNAUTHORIZED"}]}"#.into());
            refusal.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
            return refusal;
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        if path == "/v2/" {
            reply(200, "{}".into())
        } else if path.contains("/blobs/") {
            self.blobs.get(name).map_or_else(|| reply(404, Bytes::new()), |blob| reply(200, blob.clone()))
        } else if name == "1" || name == digest(&self.manifest) {
            let mut found = reply(200, self.manifest.clone());
            found.headers_mut().insert("content-type", MANIFEST.parse().unwrap());
            found.headers_mut().insert("docker-content-digest", digest(&self.manifest).parse().unwrap());
            found
        } else {
            reply(404, r#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}"#.into())
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
