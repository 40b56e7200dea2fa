use super::*;
use test_kit::tls::Authority;

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

#[test]
fn a_file_that_is_of_no_use_is_named_with_what_is_wrong_with_it() {
    let said = |path: &Path| match Trust::with_file(path) {
        Ok(_) => panic!("{} was taken", path.display()),
        Err(error) => error.to_string(),
    };
    let missing = said(Path::new("/nowhere/ca.pem"));
    assert_eq!(missing, "the certificates in /nowhere/ca.pem can't be read: No such file or directory (os error 2)");
    let (empty, garbled) =
        (file("just words\n"), file("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
    let said_of_empty = said(empty.path());
    assert!(said_of_empty.contains(&empty.path().display().to_string()), "{said_of_empty}");
    assert!(said_of_empty.contains("-----BEGIN CERTIFICATE-----"), "{said_of_empty}");
    assert!(said(garbled.path()).starts_with("certificate 1 in "), "{}", said(garbled.path()));
    // A key instead of a certificate is a mistake that is easily made.
    let key = file(&Authority::new().certificate_for(&["a.test"]).1);
    assert!(said(key.path()).starts_with("there is no certificate in "), "{}", said(key.path()));
}

#[test]
fn all_certificates_of_a_file_count() {
    let both = file(&(Authority::new().pem() + &Authority::new().pem()));
    let trust = Trust::with_file(both.path()).expect("sound");
    assert_eq!(trust.certificates().count(), 2);
    assert_eq!(Trust::default().certificates().count(), 0);
    assert!(trust.tls().is_ok() && trust.pem().is_some() && Trust::default().pem().is_none());
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_in_words() {
    use rustls::Error as Tls;
    let said = |error: Tls| refusal(&io::Error::other(error), CA_FILE);
    let unknown = said(Tls::InvalidCertificate(CertificateError::UnknownIssuer)).expect("words");
    assert!(unknown.contains("UNIDESK_CA_FILE"), "{unknown}");
    for (error, word) in [
        (Tls::InvalidCertificate(CertificateError::NotValidForName), "another name"),
        (Tls::InvalidCertificate(CertificateError::Expired), "has expired"),
        (Tls::InvalidCertificate(CertificateError::NotValidYet), "clock of this machine"),
        (Tls::InvalidMessage(InvalidMessage::InvalidContentType), "http://"),
    ] {
        let words = said(error).expect("words");
        assert!(words.contains(word) && !words.contains("UNIDESK_CA_FILE"), "{words}");
    }
    assert_eq!(refusal(&io::Error::from(io::ErrorKind::ConnectionRefused), CA_FILE), None);
}
