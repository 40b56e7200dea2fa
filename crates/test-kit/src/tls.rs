//! A certificate authority that nobody trusts but who is told to, and a door before a TCP server that speaks TLS.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its own certificate: whoever has it trusts all that it signs.
    pub fn pem(&self) -> String {
        self.pem.clone()
    }

    /// Its own certificate as a file in this directory.
    pub fn file(&self, dir: &Path) -> PathBuf {
        let path = dir.join("ca.pem");
        std::fs::write(&path, &self.pem).expect("a file");
        path
    }

    /// A server's certificate for these names and addresses, and its key; both PEM.
    pub fn certificate_for(&self, names: &[&str]) -> (String, String) {
        let (certificate, key) = self.sign(names);
        (certificate.pem(), key.serialize_pem())
    }

    fn sign(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("names");
        (params.signed_by(&key, &self.issuer).expect("signed"), key)
    }
}

/// Speaks TLS before a server that does not, as a proxy before the platform does.
pub struct TlsDoor {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl TlsDoor {
    /// With a certificate for 127.0.0.1 and localhost.
    #[expect(clippy::disallowed_methods, reason = "test-kit knows no service; the door's own end aborts it")]
    pub async fn before(server: SocketAddr, authority: &Authority) -> Self {
        let (certificate, key) = authority.sign(&["127.0.0.1", "localhost"]);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate and its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let accepting = tokio::spawn(async move {
            while let Ok((inside, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let _ = inside.set_nodelay(true);
                    // Whoever does not trust it hangs up here.
                    let Ok(mut inside) = acceptor.accept(inside).await else { return };
                    let Ok(mut outside) = TcpStream::connect(server).await else { return };
                    let _ = outside.set_nodelay(true);
                    let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                });
            }
        });
        Self { address, accepting }
    }
}

impl Drop for TlsDoor {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
