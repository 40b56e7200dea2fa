use super::*;
use crate::runtime::journal::tests::{attempt, record};
use domain::ids::DEFAULT_PROJECT;
use uuid::Uuid;

fn open(root: &Path) -> AttemptsDir {
    AttemptsDir::open(&root.join("attempts")).expect("opens")
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
}

/// Makes what the process executor makes, and gives the number by which the system knows the directory.
fn furnish(dir: &Path) -> u64 {
    fs::write(dir.join("process"), "").expect("written");
    set_mode(&dir.join("process"), 0o600);
    for part in ["work", "tmp"] {
        let _ = fs::create_dir(dir.join(part));
    }
    fs::metadata(dir).expect("there").ino()
}

#[test]
fn a_directory_that_is_as_it_was_made_goes_to_the_next_attempt_of_its_project_alone() {
    let root = tempfile::tempdir().expect("a directory");
    let attempts = open(root.path());
    let other = ProjectId::from_uuid(Uuid::from_u128(77));
    let first = furnish(&attempts.create(attempt(1), DEFAULT_PROJECT).expect("made"));
    attempts.remove(attempt(1), Some(DEFAULT_PROJECT)).expect("removed");
    assert!(!attempts.dir(attempt(1)).exists());
    let stranger = attempts.create(attempt(2), other).expect("made");
    assert_eq!(fs::read_dir(&stranger).expect("there").count(), 0, "another project begins with nothing");
    let next = attempts.create(attempt(3), DEFAULT_PROJECT).expect("made");
    assert_eq!(fs::metadata(&next).expect("there").ino(), first);
    assert_eq!(fs::metadata(&next).expect("there").mode() & 0o777, 0o711);
    // It goes on from here as any other does, with a log too.
    fs::create_dir(next.join("spool")).expect("made");
    fs::write(next.join("spool/log.00000001"), "x").expect("written");
    attempts.remove(attempt(3), Some(DEFAULT_PROJECT)).expect("removed");
    let again = attempts.create(attempt(4), DEFAULT_PROJECT).expect("made");
    assert_eq!(fs::metadata(&again).expect("there").ino(), first);
    assert!(!again.join("spool").exists());
}

#[test]
fn what_an_attempt_has_left_in_its_directory_goes_with_it() {
    let root = tempfile::tempdir().expect("a directory");
    let attempts = open(root.path());
    let leave: [fn(&Path); 7] = [
        // As the agent's own user, where tasks have none of their own.
        |dir| set_mode(dir, 0o755),
        |dir| set_mode(&dir.join("process"), 0o644),
        |dir| fs::hard_link(dir.join("process"), dir.with_extension("seen")).expect("linked"),
        |dir| fs::write(dir.join("lease"), "1").expect("written"),
        |dir| fs::write(dir.join("process"), "still said").expect("written"),
        |dir| fs::remove_dir(dir.join("tmp")).expect("removed"),
        |dir| {
            fs::remove_dir(dir.join("work")).expect("removed");
            std::os::unix::fs::symlink("/", dir.join("work")).expect("linked");
        },
    ];
    for (number, leave) in (1..).zip(leave) {
        let dir = attempts.create(attempt(number), DEFAULT_PROJECT).expect("made");
        assert_eq!(fs::read_dir(&dir).expect("there").count(), 0, "case {number} begins with nothing");
        furnish(&dir);
        leave(&dir);
        attempts.remove(attempt(number), Some(DEFAULT_PROJECT)).expect("removed");
        assert!(!dir.exists());
    }
}

#[test]
fn what_an_earlier_version_left_is_taken_over_and_what_nobody_answered_for_goes() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = |number| root.path().join("attempts").join(attempt(number).to_string());
    for number in 1..=3 {
        fs::create_dir_all(dir(number)).expect("made");
    }
    for number in 1..=2 {
        fs::write(dir(number).join("record.json"), serde_json::to_vec(&record(number, 5)).expect("json"))
            .expect("written");
    }
    let kept = |attempts: &AttemptsDir| -> Vec<Record> {
        attempts.take_found().expect("found").into_iter().map(|kept| kept.record).collect()
    };
    assert_eq!(kept(&open(root.path())), [record(1, 5), record(2, 5)]);
    assert!(dir(1).exists() && !dir(1).join("record.json").exists() && !dir(3).exists());
    // From now on the journal tells.
    let attempts = open(root.path());
    attempts.write(&[record(1, 6)]).expect("written");
    attempts.remove(attempt(2), None).expect("removed");
    attempts.flush();
    assert_eq!(kept(&open(root.path())), [record(1, 6)]);
}

#[test]
fn after_damage_nothing_is_deleted_that_the_journal_may_have_named() {
    let root = tempfile::tempdir().expect("a directory");
    let attempts = open(root.path());
    for number in 1..=2 {
        attempts.create(attempt(number), DEFAULT_PROJECT).expect("made");
        attempts.write(&[record(number, 5)]).expect("written");
    }
    let journal = root.path().join("attempts.journal");
    let length = fs::metadata(&journal).expect("there").len();
    File::options().write(true).open(&journal).expect("opened").set_len(length - 3).expect("cut");
    let reopened = open(root.path());
    assert_eq!(reopened.take_found().expect("found").len(), 1);
    assert!(attempts.dir(attempt(2)).exists());
}
