use super::*;

fn say(spool: &mut Spool, times: usize) -> io::Result<()> {
    (0..times).try_for_each(|_| spool.append(Stream::Stdout, LogPayload::Bytes(Bytes::from_static(&[b'x'; 100]))))
}

#[test]
fn a_sync_reaches_all_that_was_said_since_the_last_one_also_what_an_earlier_agent_left() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut spool = Spool::open(&dir.path().join("spool")).expect("opens");
    spool.set_segment_bytes(256);
    say(&mut spool, 10).expect("kept");
    assert!(spool.segments.len() > 2 && spool.segments.iter().all(|segment| !segment.is_synced));
    drop(spool);
    let mut spool = Spool::open(&dir.path().join("spool")).expect("opens");
    assert!(spool.segments.iter().all(|segment| !segment.is_synced), "whether it was is not known");
    spool.sync().expect("synced");
    assert!(spool.segments.iter().all(|segment| segment.is_synced));
    say(&mut spool, 1).expect("kept");
    assert!(spool.segments.iter().any(|segment| !segment.is_synced));
}

#[test]
fn what_is_said_after_the_end_does_not_bring_the_attempts_directory_back() {
    let root = tempfile::tempdir().expect("a directory");
    let attempt = root.path().join("attempt");
    fs::create_dir(&attempt).expect("made");
    let mut spool = Spool::open(&attempt.join("spool")).expect("opens");
    fs::remove_dir(&attempt).expect("removed");
    assert!(say(&mut spool, 1).is_err() && !attempt.exists());
}
