//! Whose word is taken for who a server is: the certificate authorities of this machine, and those of a file besides.
//!
//! Owns: how that file is read, and the words for a certificate that was refused. Must not know: who connects to what.
//! Begin at [`Trust`], then [`refusal`].

use rustls::{
    CertificateError, ClientConfig, InvalidMessage, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use rustls_platform_verifier::Verifier;
use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The setting of people and nodes that names the file.
pub const CA_FILE: &str = "UNIDESK_CA_FILE";

/// The authorities that count. The default: those of the system alone. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    pem: Arc<[u8]>,
    certificates: Arc<[CertificateDer<'static>]>,
}

/// Why a file of certificates is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("the certificates in {} can't be read: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "there is no certificate in {}; it should have those of your certificate authority as PEM text, each between \
         -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----",
        path.display()
    )]
    Empty { path: PathBuf },
    #[error("certificate {number} in {} can't be used: {why}", path.display())]
    Unusable { path: PathBuf, number: usize, why: String },
}

impl Trust {
    /// Those of the system, and those in this PEM file.
    pub fn with_file(path: &Path) -> Result<Self, TrustError> {
        let pem = std::fs::read(path).map_err(|source| TrustError::Unreadable { path: path.to_owned(), source })?;
        let mut certificates = Vec::new();
        for (at, certificate) in CertificateDer::pem_slice_iter(&pem).enumerate() {
            let unusable = |why| TrustError::Unusable { path: path.to_owned(), number: at + 1, why };
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            RootCertStore::empty().add(certificate.clone()).map_err(|error| unusable(error.to_string()))?;
            certificates.push(certificate);
        }
        if certificates.is_empty() {
            return Err(TrustError::Empty { path: path.to_owned() });
        }
        Ok(Self { pem: pem.into(), certificates: certificates.into() })
    }

    /// What counts besides the system's, as PEM. None: nothing does.
    pub fn pem(&self) -> Option<&[u8]> {
        (!self.pem.is_empty()).then_some(&*self.pem)
    }

    /// What counts besides the system's, as DER.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.certificates.iter().map(|certificate| &**certificate)
    }

    /// For TLS without an HTTP client. Errors: there is no certificate at all on this machine.
    pub fn tls(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Verifier::new_with_extra_roots(self.certificates.iter().cloned(), provider.clone())?;
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        // "Dangerous" is the word for every verifier of one's own; this is the one that HTTP clients have.
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        Ok(Arc::new(config.with_no_client_auth()))
    }
}

/// Why TLS with a server did not come about, where that is for its certificate or for what is spoken there: a half-sentence for a person. `setting`
/// names the file of certificates. None: something else went wrong.
pub fn refusal(error: &(dyn Error + 'static), setting: &str) -> Option<String> {
    let certificate = match tls_error(error)? {
        rustls::Error::InvalidCertificate(certificate) => certificate,
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            return Some("no TLS is spoken there; is it http:// and not https://?".to_owned());
        }
        _ => return None,
    };
    Some(match certificate {
        // The second: it is of another authority that has the same name, as one has that was made anew.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!(
                "its certificate is of an authority that is not trusted here; {setting} names the PEM file of one that is"
            )
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name than the one in the address".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet, by the clock of this machine".to_owned()
        }
        other => format!("its certificate is refused: {other}"),
    })
}

/// The error of TLS among the causes. One that is wrapped as an I/O error is not among those that `source` names.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(tls) = current.downcast_ref() {
            return Some(tls);
        }
        let wrapped = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => current.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests;
