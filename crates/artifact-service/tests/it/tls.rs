//! The object store over TLS, with a certificate of an authority that only whoever is told of it trusts.

use crate::{
    hostile, uploads,
    world::{Kind, World, times},
};
use artifact_service::Config;
use std::path::Path;
use test_kit::{
    seaweedfs::SeaweedFs,
    tls::{Authority, TlsDoor},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_a_certificate_of_a_private_authority_takes_and_gives() {
    let seaweedfs = SeaweedFs::start_tls(&Authority::new()).await;
    assert!(seaweedfs.endpoint.starts_with("https://"), "{}", seaweedfs.endpoint);
    let world = World::start(Kind::SeaweedFs(&seaweedfs)).await;
    uploads::what_goes_in_comes_out(&world).await;
    uploads::many_parts_are_one_artifact(&world).await;
    hostile::an_address_is_good_for_one_thing_only(&world).await;
    let signed = world.download("model").await;
    assert!(signed["url"].as_str().expect("an address").starts_with("https://"), "{signed}");
    world.stop().await;
}

/// A store behind this door, and a file of certificates for it.
fn config(door: &TlsDoor, ca_file: Option<&Path>) -> Config {
    Config {
        s3_endpoint: Some(format!("https://{}", door.address)),
        s3_access_key_id: Some("id".to_owned()),
        s3_secret_access_key: Some("secret".to_owned()),
        s3_ca_file: ca_file.map(Path::to_owned),
        ..Config::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_trusted_is_told_with_the_setting_that_mends_it() {
    let (authority, other) = (Authority::new(), Authority::new());
    let nobody = "127.0.0.1:9".parse().expect("an address");
    let door = TlsDoor::before(nobody, &authority).await;
    let dir = tempfile::tempdir().expect("a directory");
    for ca_file in [None, Some(other.file(dir.path()))] {
        let objects = config(&door, ca_file.as_deref()).object_store(times()).expect("sound").expect("set");
        let said = objects.ensure_bucket().await.expect_err("not trusted").to_string();
        assert!(said.contains("an authority that is not trusted here; UNIDESK_S3_CA_FILE names"), "{said}");
    }
    // The same door, trusted: what is behind it is away.
    let objects = config(&door, Some(&authority.file(dir.path()))).object_store(times()).expect("sound").expect("set");
    let said = objects.ensure_bucket().await.expect_err("away").to_string();
    assert!(said.starts_with("the object store is away") && !said.contains("UNIDESK_S3_CA_FILE"), "{said}");

    // What is no file of certificates ends the program at its start.
    let words = dir.path().join("words");
    std::fs::write(&words, "no certificate").expect("written");
    for (file, why) in [(words, "there is no certificate in "), (dir.path().join("missing"), "can't be read")] {
        let error = config(&door, Some(&file)).object_store(times()).err().expect("it is of no use");
        let said = format!("{error:#}");
        assert!(said.starts_with("UNIDESK_S3_CA_FILE: ") && said.contains(why), "{said}");
        assert!(said.contains(&file.display().to_string()), "{said}");
    }
}
