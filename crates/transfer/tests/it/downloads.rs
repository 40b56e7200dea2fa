//! Content on its way back.

use crate::fake::{Fake, Fault, Heard, names_in, noise, quick};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};
use transfer::{Content, Options, Silent, Store, TransferError, stream, to_file};

struct Place {
    dir: tempfile::TempDir,
    target: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { target: dir.path().join("model.bin"), dir }
    }
    fn read(&self) -> Vec<u8> {
        fs::read(&self.target).expect("the target")
    }
    fn names(&self) -> Vec<String> {
        names_in(self.dir.path())
    }
}

async fn get(fake: &Fake, target: &Path, options: &Options) -> Result<(), TransferError> {
    to_file(&Store::new(), fake.content(), target, fake, options, &Silent).await
}

#[tokio::test]
async fn content_of_any_size_comes_back() {
    for size in [0, 1, 9_999, 10_000, 10_001, 205_000] {
        let (fake, place) = (Fake::with_content(noise(size)).await, Place::new());
        get(&fake, &place.target, &quick()).await.expect("it comes");
        assert!(place.read() == noise(size), "{size}");
        assert_eq!(place.names(), ["model.bin"], "nothing else is left");
    }
}

#[tokio::test]
async fn trouble_of_every_kind_is_overcome_and_no_byte_is_fetched_twice_for_it() {
    let (fake, place, heard) = (Fake::with_content(noise(205_000)).await, Place::new(), Heard::default());
    fake.faults([
        Fault::Status(503),
        Fault::CutAfter(5_000),
        Fault::Status(500),
        Fault::CutAfter(0),
        Fault::CutAfter(9_999),
    ]);
    to_file(&Store::new(), fake.content(), &place.target, &fake, &quick(), &heard).await.expect("it comes");
    assert!(place.read() == noise(205_000));
    assert_eq!((fake.given(), heard.total()), (205_000, 205_000));
    assert!(heard.backs.load(Relaxed) >= 1);
    assert!(!heard.troubles().join("").contains("signature="), "an address was told: {:?}", heard.troubles());
}

#[tokio::test]
async fn a_store_at_a_byte_now_and_then_is_asked_anew() {
    let (fake, place, heard) = (Fake::with_content(noise(50_000)).await, Place::new(), Heard::default());
    fake.faults([Fault::Drip, Fault::Drip]);
    to_file(&Store::new(), fake.content(), &place.target, &fake, &quick(), &heard).await.expect("it comes");
    assert!(place.read() == noise(50_000));
    assert!(heard.troubles().iter().any(|why| why.starts_with("only ")), "{:?}", heard.troubles());
}

#[tokio::test]
async fn an_address_that_expires_on_the_way_is_renewed() {
    let (fake, place, heard) = (Fake::with_content(noise(205_000)).await, Place::new(), Heard::default());
    fake.state().valid_from = 2;
    to_file(&Store::new(), fake.content(), &place.target, &fake, &quick(), &heard).await.expect("it comes");
    assert!(place.read() == noise(205_000));
    assert_eq!((fake.issued(), heard.troubles()), (2, vec![]), "one new address for all, and nobody is alarmed");
}

#[tokio::test]
async fn a_damaged_byte_is_caught_and_fetched_again() {
    let (fake, place, heard) = (Fake::with_content(noise(205_000)).await, Place::new(), Heard::default());
    fake.faults([Fault::None, Fault::WrongByte]);
    to_file(&Store::new(), fake.content(), &place.target, &fake, &quick(), &heard).await.expect("it comes");
    assert!(place.read() == noise(205_000));
    assert_eq!(heard.total(), 205_000);
    assert_eq!(heard.troubles().len(), 1, "{:?}", heard.troubles());
}

#[tokio::test]
async fn content_that_stays_damaged_never_gets_the_name() {
    let (fake, place) = (Fake::with_content(noise(50_000)).await, Place::new());
    fs::write(&place.target, "what was there").expect("writing");
    let content = fake.content();
    fake.state().content[777] ^= 1;
    let error = to_file(&Store::new(), content, &place.target, &fake, &quick(), &Silent).await.expect_err("damaged");
    let TransferError::WrongDigest { wanted, found } = &error else { panic!("{error}") };
    assert_eq!((*wanted, *found), (content.sha256, fake.content().sha256));
    let told = error.to_string();
    assert!(told.contains(&wanted.to_string()) && told.contains(&found.to_string()), "{told}");
    assert_eq!((place.read(), place.names()), (b"what was there".to_vec(), vec!["model.bin".to_owned()]));
    assert_eq!(fake.given(), 100_000, "it was fetched twice, and no more");
}

#[tokio::test]
async fn a_store_without_ranges_gives_what_is_asked_at_once_and_else_is_told_so() {
    let (fake, place) = (Fake::with_content(noise(9_000)).await, Place::new());
    fake.state().always = Some(Fault::IgnoreRange);
    get(&fake, &place.target, &quick()).await.expect("one range is the whole");
    assert!(place.read() == noise(9_000));
    let (fake, place) = (Fake::with_content(noise(50_000)).await, Place::new());
    fake.state().always = Some(Fault::IgnoreRange);
    let error = get(&fake, &place.target, &quick()).await.expect_err("it can't");
    assert!(
        matches!(&error, TransferError::StoreRefuses { said, .. } if said.contains("ranges are needed")),
        "{error}"
    );
    // Once in a while it is overcome.
    let (fake, place) = (Fake::with_content(noise(50_000)).await, Place::new());
    fake.faults([Fault::IgnoreRange, Fault::IgnoreRange, Fault::IgnoreRange]);
    get(&fake, &place.target, &quick()).await.expect("it comes");
    assert!(place.read() == noise(50_000));
}

#[tokio::test]
async fn content_of_another_size_is_told_at_once() {
    let (fake, place) = (Fake::with_content(noise(50_000)).await, Place::new());
    fake.state().always = Some(Fault::WrongTotal);
    let error = get(&fake, &place.target, &quick()).await.expect_err("more");
    assert!(matches!(error, TransferError::WrongSize { wanted: 50_000, found: Some(50_001) }), "{error}");
    let (fake, place) = (Fake::with_content(noise(50_000)).await, Place::new());
    let longer = Content { size: 60_000, ..fake.content() };
    let error = to_file(&Store::new(), longer, &place.target, &fake, &quick(), &Silent).await.expect_err("fewer");
    assert!(matches!(error, TransferError::WrongSize { wanted: 60_000, .. }), "{error}");
}

#[tokio::test]
async fn what_was_fetched_before_a_restart_is_not_fetched_again() {
    let (fake, place, heard) = (Fake::with_content(noise(400_000)).await, Place::new(), Heard::default());
    let slowly = Options { limit: Some(400_000), ..quick() };
    let some_is_written = async {
        let written = || {
            fs::read_dir(place.dir.path())
                .into_iter()
                .flatten()
                .flatten()
                .any(|entry| entry.metadata().is_ok_and(|meta| meta.len() > 0))
        };
        while !written() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        got = get(&fake, &place.target, &slowly) => panic!("it was to be stopped in the middle: {got:?}"),
        () = some_is_written => {}
    }
    let partial = place.names();
    assert!(partial.len() == 1 && partial[0].starts_with(".unidesk-"), "{partial:?}");
    let issued = fake.issued();
    to_file(&Store::new(), fake.content(), &place.target, &fake, &quick(), &heard).await.expect("it comes");
    assert!(place.read() == noise(400_000));
    let had = heard.had.load(Relaxed);
    let (given, given_then) = (fake.given() as u64, fake.given_since(issued) as u64);
    assert!(had > 0 && had <= given - given_then, "{had} of {given}, {given_then} of them then");
    assert_eq!(given_then, 400_000 - had);
    assert_eq!(place.names(), ["model.bin"]);
}

#[tokio::test]
async fn a_partial_file_that_is_damaged_costs_a_second_fetch_and_nothing_else() {
    let (fake, place) = (Fake::with_content(noise(50_000)).await, Place::new());
    let digest = fake.content().sha256.to_string();
    // Longer than the whole, too.
    fs::write(place.dir.path().join(format!(".unidesk-{}.part", &digest[..16])), noise(70_000).split_off(3))
        .expect("writing");
    let heard = Heard::default();
    to_file(&Store::new(), fake.content(), &place.target, &fake, &quick(), &heard).await.expect("it comes");
    assert!(place.read() == noise(50_000));
    assert_eq!((fake.given(), heard.total()), (50_000, 50_000));
}

#[tokio::test]
async fn two_that_fetch_the_same_to_one_place_do_not_mix() {
    let (fake, place) = (Fake::with_content(noise(200_000)).await, Place::new());
    let slowly = Options { limit: Some(200_000), ..quick() };
    let (first, second) = tokio::join!(get(&fake, &place.target, &slowly), async {
        tokio::time::timeout(Duration::from_secs(20), async {
            while place.names().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the first has begun");
        // It may have made the file and not have locked it yet: then this one is first.
        get(&fake, &place.target, &slowly).await
    });
    let busy = [&first, &second].into_iter().filter(|got| matches!(got, Err(TransferError::Busy { .. }))).count();
    assert!(busy == 1 && (first.is_ok() || second.is_ok()), "{first:?} {second:?}");
    assert!(place.read() == noise(200_000));
}

#[tokio::test]
async fn a_reader_gets_all_bytes_or_an_error() {
    let fake = Fake::with_content(noise(205_000)).await;
    let read = |incoming: &mut transfer::Incoming| {
        let mut bytes = Vec::new();
        incoming.read_to_end(&mut bytes).map_err(|error| TransferError::Broken(error.to_string()))?;
        Ok(bytes)
    };
    let got = stream(&Store::new(), fake.content(), &fake, &quick(), &Silent, read).await.expect("it comes");
    assert!(got == noise(205_000));
    fake.faults([Fault::None]);
    fake.state().always = Some(Fault::Status(403));
    let error = stream(&Store::new(), fake.content(), &fake, &quick(), &Silent, read).await.expect_err("no store");
    assert!(matches!(error, TransferError::StoreRefuses { .. }), "{error}");
    // A reader that has seen enough: the digest is compared all the same.
    fake.state().always = Some(Fault::WrongByte);
    let error = stream(&Store::new(), fake.content(), &fake, &quick(), &Silent, |_| Ok(())).await.expect_err("damaged");
    assert!(matches!(error, TransferError::WrongDigest { .. }), "{error}");
}
