use super::*;
use domain::{
    ids::{DEFAULT_PROJECT, Fence, Held, TaskId},
    spec::parse_spec,
};
use protocol::Assign;
use uuid::Uuid;

pub(in crate::runtime) fn attempt(number: u128) -> AttemptId {
    AttemptId::from_uuid(Uuid::from_u128(number))
}

pub(in crate::runtime) fn record(number: u128, started_at: u64) -> Record {
    let spec = parse_spec(&serde_json::json!({"executor": "process", "command": ["true"]})).expect("a good spec");
    let held = Held { attempt: attempt(number), fence: Fence::from_i64(1) };
    let task = TaskId::from_uuid(Uuid::from_u128(number));
    Record {
        assign: Assign {
            held,
            task,
            project: DEFAULT_PROJECT,
            number: 1,
            gpu_ids: vec![],
            ahead: false,
            lease: None,
            spec,
        },
        cancel: false,
        fenced: false,
        timed_out: false,
        planned_stop: None,
        started_at: Some(started_at),
        renewed_at: None,
        provenance: None,
        exit: None,
        ending: None,
        clearing: None,
        stored: false,
        last_checkpoint: false,
        removed: false,
    }
}

fn prepared(number: u128, started_at: u64) -> Record {
    Record { provenance: Some(serde_json::json!({"code": "c"})), ..record(number, started_at) }
}

fn open(path: &Path) -> Opened {
    Journal::open(path, "now".into(), vec![]).expect("opens")
}

/// Attempt and start of all that is kept.
fn found(path: &Path) -> Vec<(AttemptId, u64)> {
    let of = |kept: Kept| (kept.attempt(), kept.record.started_at.unwrap_or(0));
    open(path).kept.into_iter().map(of).collect()
}

struct Disk {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn disk() -> Disk {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("attempts.journal");
    Disk { _dir: dir, path }
}

#[test]
fn whatever_a_kill_cuts_off_all_that_was_answered_for_before_is_there_and_nothing_of_a_half() {
    let disk = disk();
    let mut journal = open(&disk.path).journal;
    // After each answer: how long the file is, and what must be found from then on.
    let mut answers = vec![(0, vec![])];
    let mut expected = BTreeMap::new();
    for step in 0..12_u64 {
        let number = u128::from(step % 5);
        match step % 7 {
            3 => {
                journal.forget(attempt(number));
                journal.flush();
                expected.remove(&attempt(number));
            }
            _ => {
                journal.commit(&[record(number, step), record(9, step)]).expect("written");
                expected.extend([(attempt(number), step), (attempt(9), step)]);
            }
        }
        let length = fs::metadata(&disk.path).expect("there").len() as usize;
        answers.push((length, expected.clone().into_iter().collect::<Vec<_>>()));
    }
    drop(journal);
    let whole = fs::read(&disk.path).expect("read");
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("cut");
    let is_near = |length: usize| answers.iter().any(|(at, _)| at.abs_diff(length) <= HEADER_BYTES + 2);
    for length in (0..=whole.len()).filter(|length| length % 7 == 0 || is_near(*length)) {
        let kept = replay(&whole[..length]).kept;
        let seen: Vec<_> = kept.values().map(|kept| (kept.attempt(), kept.record.started_at.unwrap_or(0))).collect();
        let (_, promised) = answers.iter().rfind(|(at, _)| *at <= length).expect("the first is 0");
        let next = answers.iter().find(|(at, _)| *at > length);
        // More may be there: of a write that nobody was told of, its first entries.
        let is_on_its_way = next.is_some_and(|(_, next)| {
            seen.iter().all(|one| promised.contains(one) || next.contains(one))
                && promised.iter().all(|(attempt, _)| seen.iter().any(|(there, _)| there == attempt))
        });
        assert!(seen == *promised || is_on_its_way, "cut at {length}: {seen:?}, promised {promised:?}");
        if length % 91 == 0 {
            fs::write(&path, &whole[..length]).expect("written");
            assert_eq!([found(&path), found(&path)], [seen.clone(), seen], "opened, and opened again");
        }
    }
    assert_eq!(found(&disk.path), answers.last().expect("there").1);
}

#[test]
fn a_torn_end_is_no_part_of_what_is_written_after_it() {
    let disk = disk();
    let mut journal = open(&disk.path).journal;
    journal.commit(&[record(1, 1)]).expect("written");
    let first = fs::metadata(&disk.path).expect("there").len() as usize;
    // Two entries of the same length, of which the first is damaged and the second whole.
    journal.commit(&[record(2, 2), record(3, 3)]).expect("written");
    let mut bytes = fs::read(&disk.path).expect("read");
    bytes[first + 20] ^= 1;
    fs::write(&disk.path, &bytes).expect("written");
    let Opened { mut journal, kept, cut_bytes, .. } = open(&disk.path);
    assert_eq!((kept.len(), cut_bytes as usize), (1, bytes.len() - first));
    journal.commit(&[record(4, 4)]).expect("written");
    assert_eq!(found(&disk.path), [(attempt(1), 1), (attempt(4), 4)]);
}

#[test]
fn any_flipped_bit_hides_what_follows_and_invents_nothing() {
    let disk = disk();
    let mut journal = open(&disk.path).journal;
    for step in 1..=3 {
        journal.commit(&[record(step, step as u64)]).expect("written");
    }
    let bytes = fs::read(&disk.path).expect("read");
    let all: Vec<(AttemptId, u64)> = (1..=3).map(|step| (attempt(step), step as u64)).collect();
    for at in (0..bytes.len()).step_by(7) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        let kept = replay(&bytes).kept;
        let found: Vec<_> = kept.values().map(|kept| (kept.attempt(), kept.record.started_at.unwrap_or(0))).collect();
        assert!(all.starts_with(&found) && found.len() < all.len(), "bit at byte {at}: {found:?}");
    }
}

#[test]
fn it_stays_small_and_loses_nothing_however_long_it_is_used() {
    let disk = disk();
    let mut journal = open(&disk.path).journal;
    journal.commit(&[record(7, 7)]).expect("written");
    let mut largest = 0;
    for round in 0..400_u64 {
        let many: Vec<Record> = (100..132).map(|number| record(number, round)).collect();
        journal.commit(&many).expect("written");
        largest = largest.max(fs::metadata(&disk.path).expect("there").len());
        (100..132).for_each(|number| journal.forget(attempt(number)));
        journal.flush();
    }
    assert!(largest < COMPACT_FROM_BYTES + (1 << 20), "{largest} bytes");
    assert!(!disk.path.with_extension("new").exists());
    assert_eq!(found(&disk.path), [(attempt(7), 7)]);
}

#[test]
fn writing_it_anew_may_break_off_anywhere() {
    let disk = disk();
    let mut journal = open(&disk.path).journal;
    journal.commit(&[record(1, 1), record(2, 2)]).expect("written");
    let whole = fs::read(&disk.path).expect("read");
    let fresh = disk.path.with_extension("new");
    // Killed while the new file was written: it has no say.
    for length in [0, 1, 9, whole.len() / 2, whole.len()] {
        fs::write(&fresh, &whole[..length]).expect("written");
        assert_eq!(found(&disk.path), [(attempt(1), 1), (attempt(2), 2)], "{length} bytes of the new file");
    }
    // Something in its way: the old file goes on, and takes what comes.
    drop(journal);
    fs::create_dir(&fresh).expect("made");
    let mut journal = open(&disk.path).journal;
    journal.commit(&[record(3, 3)]).expect("written");
    journal.forget(attempt(1));
    journal.flush();
    assert!(journal.compact().is_err());
    journal.commit(&[record(4, 4)]).expect("written");
    assert_eq!(found(&disk.path), [(attempt(2), 2), (attempt(3), 3), (attempt(4), 4)]);
}

#[test]
fn a_full_disk_is_an_error_and_takes_back_nothing() {
    if !nix::unistd::geteuid().is_root() {
        // Only root may mount a small disk.
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mount = |arguments: &[&str]| {
        std::process::Command::new(arguments[0]).args(&arguments[1..]).status().expect("runs").success()
    };
    assert!(mount(&["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", &dir.path().display().to_string()]));
    let path = dir.path().join("attempts.journal");
    let mut journal = open(&path).journal;
    journal.commit(&[record(1, 1)]).expect("written");
    let many: Vec<Record> = (100..400).map(|number| record(number, 0)).collect();
    let error = journal.commit(&many).expect_err("there is no room");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    journal.commit(&[record(2, 2)]).expect("what fits is taken");
    let found = found(&path);
    drop(journal);
    assert!(mount(&["umount", &dir.path().display().to_string()]));
    assert_eq!(found, [(attempt(1), 1), (attempt(2), 2)]);
}

#[test]
fn in_which_run_of_the_machine_it_was_got_ready_is_known_for_good() {
    let disk = disk();
    let runs = |path: &Path, boot: &str| {
        let opened = Journal::open(path, boot.into(), vec![]).expect("opens");
        let runs: Vec<_> = opened.kept.iter().map(|kept| kept.prepared_in.clone()).collect();
        (opened.journal, runs)
    };
    let (mut journal, _) = runs(&disk.path, "first");
    journal.commit(&[record(1, 1), record(2, 2), prepared(3, 3)]).expect("written");
    journal.commit(&[prepared(1, 1)]).expect("written");
    let (mut journal, found) = runs(&disk.path, "second");
    assert_eq!(found, [Some("first".to_owned()), None, Some("first".to_owned())]);
    journal.commit(&[prepared(1, 5), prepared(2, 5)]).expect("written");
    let (_, found) = runs(&disk.path, "third");
    assert_eq!(found, [Some("first".to_owned()), Some("second".to_owned()), Some("first".to_owned())]);
}

#[test]
fn records_of_an_earlier_version_are_taken_over_once() {
    let disk = disk();
    let opened = Journal::open(&disk.path, "now".into(), vec![record(1, 1)]).expect("opens");
    assert!(opened.took_over && opened.kept.len() == 1);
    drop(opened);
    // What the journal says is newer than a file that was left behind.
    let mut journal = open(&disk.path).journal;
    journal.commit(&[record(1, 2)]).expect("written");
    let opened = Journal::open(&disk.path, "now".into(), vec![record(1, 1)]).expect("opens");
    assert_eq!(opened.kept[0].record.started_at, Some(2));
}

#[test]
fn what_a_later_version_wrote_hides_nothing_and_is_kept_for_it() {
    let disk = disk();
    let mut journal = open(&disk.path).journal;
    journal.commit(&[record(1, 1)]).expect("written");
    drop(journal);
    let text = br#"{"not_yet_invented":{"attempt":2}}"#;
    let mut bytes = fs::read(&disk.path).expect("read");
    bytes.extend([(text.len() as u32).to_le_bytes(), crc32fast::hash(text).to_le_bytes()].concat());
    bytes.extend(text);
    fs::write(&disk.path, &bytes).expect("written");
    let mut journal = open(&disk.path).journal;
    journal.commit(&[record(3, 3)]).expect("written");
    for _ in 0..2 {
        let Opened { kept, cut_bytes, foreign_bytes, .. } = open(&disk.path);
        let kept: Vec<_> = kept.iter().map(Kept::attempt).collect();
        assert_eq!((kept, cut_bytes), (vec![attempt(1), attempt(3)], 0));
        assert_eq!(foreign_bytes as usize, HEADER_BYTES + text.len());
    }
    assert!(fs::read(&disk.path).expect("read").windows(text.len()).any(|window| window == text));
}
