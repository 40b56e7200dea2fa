//! Content on its way to the store.

use crate::fake::{Fake, Fault, Heard, noise, quick, sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{Cursor, Write},
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use transfer::{Observer, Options, PartSizes, Silent, Source, Store, TransferError, Uploaded, upload};

const PART: u64 = 10_000;

fn reader(bytes: &[u8]) -> Source {
    Source::Reader { reader: Box::new(Cursor::new(bytes.to_vec())), name: "standard input".to_owned() }
}

fn file(path: &Path) -> Source {
    Source::File { file: File::open(path).expect("a file"), path: path.to_owned() }
}

async fn send(fake: &Fake, source: Source, options: &Options) -> Result<Uploaded, TransferError> {
    let silent: Arc<dyn Observer> = Arc::new(Silent);
    upload(&Store::new(), source, PartSizes::equal(PART), fake, options, &silent).await
}

fn assert_arrived(fake: &Fake, uploaded: &Uploaded, content: &[u8]) {
    assert!(fake.assembled() == content, "other bytes arrived: {} of {}", fake.assembled().len(), content.len());
    assert_eq!((uploaded.size, uploaded.sha256), (content.len() as u64, sha256(content)));
    let mut told: Vec<u32> = fake.told.lock().expect("no panic").keys().copied().collect();
    told.extend(uploaded.stored.iter().map(|part| part.number));
    told.extend(fake.known.lock().expect("no panic").keys());
    told.sort_unstable();
    told.dedup();
    assert_eq!(told, (1..=uploaded.parts).collect::<Vec<_>>(), "every part is told, at the latest at the end");
}

#[tokio::test]
async fn content_of_any_size_arrives_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("content");
    for (size, parts) in [(0, 1), (1, 1), (9_999, 1), (10_000, 1), (10_001, 2), (20_000, 2), (205_000, 21)] {
        let content = noise(size);
        fs::write(&path, &content).expect("writing");
        for source in [reader(&content), file(&path)] {
            let fake = Fake::start().await;
            let uploaded = send(&fake, source, &quick()).await.expect("it arrives");
            assert_arrived(&fake, &uploaded, &content);
            assert_eq!(
                (uploaded.parts, uploaded.had_bytes, fake.state().puts.len()),
                (parts, 0, parts as usize),
                "{size}"
            );
        }
    }
}

#[tokio::test]
async fn trouble_of_every_kind_is_overcome_and_told() {
    let (fake, heard) = (Fake::start().await, Arc::new(Heard::default()));
    let content = noise(85_000);
    fake.faults([
        Fault::Status(503),
        Fault::CutAfter(100),
        Fault::Status(500),
        Fault::CutAfter(9_999),
        Fault::Status(429),
    ]);
    fake.faults([Fault::Status(403), Fault::Drip, Fault::CutAfter(0)]);
    let observer: Arc<dyn Observer> = heard.clone();
    let uploaded = upload(&Store::new(), reader(&content), PartSizes::equal(PART), &fake, &quick(), &observer)
        .await
        .expect("it arrives");
    assert_arrived(&fake, &uploaded, &content);
    assert_eq!(heard.total(), content.len() as u64, "what travelled twice is counted once");
    assert!(heard.backs.load(Relaxed) >= 1);
    let troubles = heard.troubles().join("\n");
    assert!(!troubles.contains("signature="), "an address was told:\n{troubles}");
    for word in
        ["503 Service Unavailable, Broken, on purpose", "connection cut", "429", "403 Forbidden", "no answer in time"]
    {
        assert!(troubles.contains(word), "{word} is not in:\n{troubles}");
    }
}

#[tokio::test]
async fn an_address_that_expired_is_renewed() {
    let fake = Fake::start().await;
    fake.state().valid_from = 4;
    let content = noise(35_000);
    let uploaded = send(&fake, reader(&content), &quick()).await.expect("it arrives");
    assert_arrived(&fake, &uploaded, &content);
    assert!(fake.issued() > 4);
}

#[tokio::test]
async fn what_the_store_has_is_not_sent_again() {
    let (fake, heard) = (Fake::start().await, Arc::new(Heard::default()));
    let content = noise(85_000);
    for (number, part) in (1..).zip(content.chunks(10_000)).filter(|(number, _)| number % 2 == 1) {
        fake.known.lock().expect("no panic").insert(number, sha256(part));
        fake.state().parts.insert(number, part.to_vec());
    }
    // Of another content: it is not taken for this one's.
    fake.known.lock().expect("no panic").insert(2, sha256(b"other"));
    let observer: Arc<dyn Observer> = heard.clone();
    let uploaded = upload(&Store::new(), reader(&content), PartSizes::equal(PART), &fake, &quick(), &observer)
        .await
        .expect("it arrives");
    assert_arrived(&fake, &uploaded, &content);
    let mut puts = fake.state().puts.clone();
    puts.sort_unstable();
    assert_eq!((uploaded.had_bytes, puts), (45_000, vec![2, 4, 6, 8]));
    assert_eq!((heard.had.load(Relaxed), heard.total()), (45_000, 85_000));
}

#[tokio::test]
async fn a_platform_that_is_away_for_a_while_is_waited_for() {
    let fake = Fake::start().await;
    fake.away.store(7, Relaxed);
    let content = noise(50_000);
    let uploaded = send(&fake, reader(&content), &quick()).await.expect("it arrives");
    assert_arrived(&fake, &uploaded, &content);
}

#[tokio::test]
async fn a_refusal_for_good_ends_it_with_the_words_of_who_refused() {
    let fake = Fake::start().await;
    fake.state().always = Some(Fault::Status(403));
    let error = send(&fake, reader(&noise(50_000)), &quick()).await.expect_err("refused");
    assert!(
        matches!(&error, TransferError::StoreRefuses { said, .. } if said == "403 Forbidden, Broken, on purpose"),
        "{error}"
    );
    *fake.refuses.lock().expect("no panic") = Some("the upload was given up".to_owned());
    let error = send(&fake, reader(&noise(50_000)), &quick()).await.expect_err("refused");
    assert_eq!(error.to_string(), "the upload was given up");
}

#[tokio::test]
async fn a_store_that_stays_away_is_given_up_in_the_end() {
    let fake = Fake::start().await;
    fake.state().always = Some(Fault::Status(503));
    let mut options = quick();
    options.pauses.give_up_after = Duration::from_millis(300);
    let error = send(&fake, reader(&noise(50_000)), &options).await.expect_err("away");
    assert!(matches!(&error, TransferError::GaveUp { why, .. } if why.contains("503")), "{error}");
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("growing");
    fs::write(&path, noise(400_000)).expect("writing");
    let fake = Fake::start().await;
    let growing = path.clone();
    *fake.at_first.lock().expect("no panic") = Some(Box::new(move || {
        OpenOptions::new().append(true).open(growing).and_then(|mut file| file.write_all(b"more")).expect("writing");
    }));
    // So little memory that not all of it is read before the first part is stored.
    let error = send(&fake, file(&path), &Options { memory: 40_000, ..quick() }).await.expect_err("changed");
    assert!(matches!(error, TransferError::Changed { .. }), "{error}");
}

#[tokio::test]
async fn memory_is_bounded_for_content_of_any_size() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("large");
    let content = noise(4_000_000);
    fs::write(&path, &content).expect("writing");
    for (memory, at_most) in [(80_000, 80_000), (30_000, 30_000), (20_000, 0)] {
        let fake = Fake::start().await;
        let uploaded = send(&fake, file(&path), &Options { memory, ..quick() }).await.expect("it arrives");
        assert_arrived(&fake, &uploaded, &content);
        // Of parts that are not held there is one step in memory while it is hashed.
        let at_most = if at_most == 0 { 256 << 10 } else { at_most };
        assert!(uploaded.held_bytes > 0 && uploaded.held_bytes <= at_most, "{}", uploaded.held_bytes);
    }
}

#[tokio::test]
async fn a_bandwidth_limit_is_kept() {
    let fake = Fake::start().await;
    let (content, began) = (noise(100_000), Instant::now());
    let uploaded =
        send(&fake, reader(&content), &Options { limit: Some(200_000), ..quick() }).await.expect("it arrives");
    assert_arrived(&fake, &uploaded, &content);
    assert!(began.elapsed() >= Duration::from_millis(490), "{:?}", began.elapsed());
}
