use crate::world::{World, connect, submit};
use backup::{Config, Kind, restore};
use service_kit::Service;
use std::{
    fs,
    time::{Duration, Instant},
};

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(120);

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < SOON, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_dump_made_under_load_is_whole_is_verified_and_comes_back_in_a_new_epoch() {
    let world = World::start().await;
    for n in 0..20 {
        submit(&world.store, &format!("before-{n}")).await;
    }
    let load = async {
        for n in 0..40 {
            submit(&world.store, &format!("during-{n}")).await;
        }
    };
    let (dump, ()) = tokio::join!(world.back_up(Kind::Dump), load);
    assert_eq!(world.names(), std::slice::from_ref(&dump.name));
    let verified = backup::verify(&world.programs, &world.directory, &dump, &world.scratch(), &world.lock())
        .await
        .expect("restored");
    assert_eq!(verified.broken, Vec::<String>::new());
    assert!((20..=60).contains(&verified.tasks), "{verified:?}");
    assert!(!world.scratch().exists(), "the scratch is gone");
    let listed = &world.directory.list().expect("listed")[0];
    assert_eq!(listed.verified(), Some(&verified));
    let epoch = world.store.contents().await.expect("counted").epoch;

    let root = world.root();
    let (home, directory, programs) = world.down().await;
    let chosen = restore::choose(&directory, "latest", None, None).expect("there is one");
    let back = restore::platform(&programs, &directory, &chosen, None, &root).await.expect("restored");
    assert_eq!(back.contents.tasks, verified.tasks);
    assert!(back.contents.epoch > epoch, "no fence is given twice");
    assert!(back.aside.as_ref().is_some_and(|aside| aside.join("data/PG_VERSION").exists()), "{back:?}");
    let postgres = local_postgres::Postgres::start(&root).await.expect("starts");
    let store = connect(&postgres.url()).await;
    let contents = store.contents().await.expect("counted");
    assert_eq!((contents.tasks, contents.epoch), (verified.tasks, back.contents.epoch), "one restore, one epoch");
    submit(&store, "after").await;
    store.close().await;
    postgres.stop().await;
    drop(home);
}

#[tokio::test]
async fn a_dump_that_is_restored_by_hand_begins_its_epoch_by_itself() {
    let world = World::start().await;
    submit(&world.store, "one").await;
    let epoch = world.store.contents().await.expect("counted").epoch;
    let dump = world.back_up(Kind::Dump).await;
    let other = local_postgres::Postgres::start(&world.home.path().join("other")).await.expect("starts");
    let mut command = world.programs.command("pg_restore");
    command.args(["--no-owner", "-d"]).arg(other.url()).arg(&dump.path);
    world.programs.run(command).await.expect("restored");
    // As a service starts on it.
    let store = connect(&other.url()).await;
    let contents = store.contents().await.expect("counted");
    assert!(contents.tasks == 1 && contents.epoch > epoch, "{contents:?}");
    store.close().await;
    other.stop().await;
    world.down().await;
}

#[tokio::test]
async fn the_received_log_brings_back_any_moment_and_all_that_was_committed() {
    let world = World::start().await;
    let service = Service::new();
    let root = world.directory.root().to_owned();
    let config = Config { backup_scratch: Some(world.scratch()), ..Config::default() };
    backup::run(&service, &config, &root, &world.postgres.url(), Duration::ZERO).await.expect("begun");
    until("a verified backup of each kind", async || {
        let all = world.directory.list().expect("listed");
        Kind::ALL.iter().all(|kind| all.iter().any(|one| one.kind == *kind && one.verified().is_some()))
    })
    .await;

    submit(&world.store, "first").await;
    let between = world.store.now().await.expect("asked");
    submit(&world.store, "second").await;
    let written = world.store.wal_progress("unidesk_backup").await.expect("asked").written;
    until("the log is received", async || {
        let progress = world.store.wal_progress("unidesk_backup").await.expect("asked");
        progress.received.is_some_and(|received| received >= written)
    })
    .await;
    until("whoever lists backups is told so", async || {
        backup::wal_status(&world.directory).is_some_and(|status| status.behind_s < 60.0)
    })
    .await;
    // The disk of the server is lost at this moment.
    assert!(service.stop_within(Duration::from_secs(10)).await);
    let root = world.root();
    let (home, directory, programs) = world.down().await;
    fs::remove_dir_all(&root).expect("lost");

    let early = restore::choose(&directory, "latest", Some(between - chrono::TimeDelta::hours(1)), None);
    assert!(early.is_err(), "no backup reaches that far back");
    for (until, expected) in [(Some(between), 1), (None, 2)] {
        let chosen = restore::choose(&directory, "latest", until, Some(Kind::Base)).expect("a base backup");
        let back = restore::platform(&programs, &directory, &chosen, until, &root).await.expect("restored");
        assert_eq!(back.contents.tasks, expected, "up to {until:?}");
    }
    let target = home.path().join("pgdata");
    let chosen = restore::choose(&directory, "latest", None, Some(Kind::Base)).expect("a base backup");
    restore::into_directory(&programs, &directory, &chosen, None, &target).await.expect("restored");
    let again = restore::into_directory(&programs, &directory, &chosen, None, &target).await;
    assert!(again.expect_err("refused").to_string().contains("is not empty"));

    // The restored server is another one, so its log begins anew beside a base backup of its own.
    let postgres = local_postgres::Postgres::start(&root).await.expect("starts");
    let service = Service::new();
    backup::run(&service, &config, directory.root(), &postgres.url(), Duration::ZERO).await.expect("begun");
    let of_before = chosen.record.expect("its record").wal.expect("its log");
    until("a base backup with a log of its own", async || {
        let all = directory.list().expect("listed");
        let mut logs = all.iter().filter_map(|one| one.record.as_ref()?.wal.clone());
        logs.any(|log| log != of_before)
    })
    .await;
    service.stop_within(Duration::from_secs(10)).await;
    postgres.stop().await;
}

#[tokio::test]
async fn what_was_cut_off_is_never_listed_and_goes_with_the_next_one() {
    let world = World::start().await;
    let lock = world.lock();
    let making = backup::make_beside_service(&world.source, &world.directory, Kind::Base, &lock);
    // Dropped in the middle, as when its process is killed.
    let dropped = tokio::time::timeout(Duration::from_millis(400), making).await;
    drop(lock);
    let left = fs::read_dir(world.directory.root().join("base")).expect("there").count();
    assert_eq!(world.names().len(), usize::from(dropped.is_ok()), "what is listed is whole");
    world.back_up(Kind::Dump).await;
    let partial = |dir: &str| {
        let entries = fs::read_dir(world.directory.root().join(dir)).expect("there").flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().contains("partial")).count()
    };
    assert_eq!(partial("base") + partial("dumps"), 0, "of {left}");
    world.down().await;
}

#[tokio::test]
async fn a_damaged_backup_is_found_and_not_restored() {
    let world = World::start().await;
    submit(&world.store, "one").await;
    for kind in Kind::ALL {
        let made = world.back_up(kind).await;
        let file = if kind == Kind::Dump { made.path.clone() } else { made.path.join("global/pg_control") };
        let mut bytes = fs::read(&file).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).expect("written");
        let found = backup::verify(&world.programs, &world.directory, &made, &world.scratch(), &world.lock()).await;
        let error = format!("{:#}", found.expect_err("it is damaged"));
        assert!(error.contains("damaged"), "{error}");
        let listed = world.directory.find(&made.name, |_| true).expect("it is kept");
        assert!(listed.record.is_some_and(|record| record.not_verified.is_some()));
        let root = world.home.path().join("elsewhere");
        let refused = restore::platform(&world.programs, &world.directory, &made, None, &root).await;
        assert!(refused.is_err() && !root.exists(), "nothing is touched");
    }
    let missing = restore::choose(&world.directory, "yesterday", None, None).expect_err("no such name").to_string();
    assert!(missing.contains("there is no backup yesterday"), "{missing}");
    let dump = world.back_up(Kind::Dump).await;
    let taken = restore::into_database(&world.programs, &dump, &world.postgres.url()).await;
    assert!(taken.expect_err("refused").to_string().contains("has tables already"));
    world.down().await;
}
