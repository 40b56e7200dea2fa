use super::*;
use provider_gateway::source::Eviction;
use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, sync::Arc};
use test_kit::git_host::Content;

#[tokio::test]
async fn exactly_the_pinned_commit_is_fetched_even_when_it_is_no_tip() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let old = code.commit(&[("a", "old".into())], "one");
    let middle = code.commit(&[("a", "middle".into()), ("dir/b", "b".into())], "two");
    code.commit(&[("a", "new".into())], "three");

    let fetched = scene.ensure(&pinned(code.url(), &middle)).await.expect("the host has it");
    assert_eq!(file(&fetched, "a").await, "middle");
    assert!(!fetched.was_cached);
    assert!(fetched.bytes_fetched > 0);
    assert_eq!(fetched.held_by, None);
    let git = git2::Repository::open_bare(scene.repository()).expect("a bare repository");
    assert!(git.find_commit(old.parse().expect("an id")).is_err(), "the history was not asked for");
    assert!(git.find_reference(&format!("refs/unidesk/{middle}")).is_ok());
}

#[tokio::test]
async fn the_branch_whose_tip_it_is_is_recorded_and_still_known_from_the_cache() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let tip = code.commit(&[("a", "1".into())], "one");
    let tagged = code.commit(&[("a", "2".into())], "two");
    code.set_ref("refs/tags/v1", &tagged);
    code.set_ref("refs/heads/main", &tip);

    for _ in 0..2 {
        let by_branch = scene.ensure(&pinned(code.url(), &tip)).await.expect("fetched");
        assert_eq!(by_branch.held_by.as_deref(), Some("refs/heads/main"));
        let by_tag = scene.ensure(&pinned(code.url(), &tagged)).await.expect("fetched");
        assert_eq!(by_tag.held_by.as_deref(), Some("refs/tags/v1"));
    }
}

#[tokio::test]
async fn what_is_cached_needs_no_host() {
    let mut scene = Scene::new();
    let code = scene.host.repository("code");
    let commit = code.commit(&[("a", "1".into())], "one");
    let wanted = pinned(code.url(), &commit);
    scene.ensure(&wanted).await.expect("fetched");

    let before = scene.host.traffic();
    let again = scene.ensure(&wanted).await.expect("cached");
    assert!(again.was_cached);
    assert_eq!(again.bytes_fetched, 0);
    assert_eq!(scene.host.traffic(), before, "no request was made");

    scene.host.stop();
    let offline = scene.ensure(&wanted).await.expect("cached");
    assert_eq!(file(&offline, "a").await, "1");
    let (kind, message) = scene.failure(&pinned(code.url(), &"1".repeat(40))).await;
    assert_eq!(kind, FailureKind::NodeError, "another node may reach the host: {message}");

    scene.host.restart();
    let second = code.commit(&[("a", "2".into())], "two");
    assert!(!scene.ensure(&pinned(code.url(), &second)).await.expect("the host is back").was_cached);
}

#[tokio::test]
async fn the_figure_of_bytes_is_what_came_over_the_network() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    // Hex of a hash chain does not compress below half.
    let mut state = 1u64;
    let noise: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:016x}", state ^ (state >> 29))
    })
    .take(20_000)
    .collect();
    let big = code.commit(&[("noise", Content::File(noise.into_bytes())), ("a", "1".into())], "one");
    let first = scene.ensure(&pinned(code.url(), &big)).await.expect("fetched").bytes_fetched;
    let sent = scene.host.traffic().bytes_sent;
    assert!(first > 100_000 && first <= sent && sent < first + 20_000, "{first} of {sent} bytes");
}

#[tokio::test]
async fn a_host_that_hands_out_only_tips_is_asked_for_all_branches() {
    let scene = Scene::new();
    scene.host.behave(|host| host.refuses_wants_by_id = true);
    let code = scene.host.repository("code");
    let commits: Vec<String> = (0..4).map(|n| code.commit(&[("a", n.to_string().as_str().into())], "next")).collect();

    // The tip first, which such a host hands out by its id, and which cuts the history above the older ones.
    for (n, commit) in commits.iter().enumerate().rev() {
        let fetched = scene.ensure(&pinned(code.url(), commit)).await.expect("a branch holds it");
        assert_eq!(file(&fetched, "a").await, n.to_string());
        if !fetched.was_cached {
            assert_eq!(fetched.held_by.as_deref(), Some("refs/heads/main"));
        }
    }
    let (kind, message) = scene.failure(&pinned(code.url(), &"12".repeat(20))).await;
    assert_eq!(kind, FailureKind::SourceUnavailable);
    insta::assert_snapshot!(message, @"code commit 12121212 is not in http://127.0.0.1:PORT/code.git: no branch or tag holds it, and the host hands out nothing else (not pushed, or rebased away)");
}

#[tokio::test]
async fn many_at_once_fetch_each_commit_once() {
    let scene = Arc::new(Scene::new());
    let code = scene.host.repository("code");
    let commits: Vec<String> = (0..4).map(|n| code.commit(&[("a", n.to_string().as_str().into())], "next")).collect();
    let mut all = tokio::task::JoinSet::new();
    for turn in 0..24 {
        let (scene, wanted) = (Arc::clone(&scene), pinned(code.url(), &commits[turn % 4]));
        all.spawn(async move {
            let fetched = scene.ensure(&wanted).await.expect("fetched");
            assert_eq!(file(&fetched, "a").await, (turn % 4).to_string());
            fetched.was_cached
        });
    }
    let cached = all.join_all().await;
    assert_eq!(cached.iter().filter(|was_cached| !**was_cached).count(), 4);
}

/// Each way to ruin a repository, after which the commit must be here again, and a further one fetched.
async fn survives(ruin: impl Fn(&std::path::Path)) {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let first = code.commit(&[("a", "1".into()), ("dir/b", "b".into())], "one");
    let second = code.commit(&[("a", "2".into()), ("dir/b", "b".into())], "two");
    scene.ensure(&pinned(code.url(), &first)).await.expect("fetched");
    ruin(&scene.repository());
    for (commit, content) in [(&second, "2"), (&first, "1")] {
        let fetched = scene.ensure(&pinned(code.url(), commit)).await.expect("the cache is made anew");
        assert_eq!(file(&fetched, "a").await, content);
    }
    assert_eq!(scene.repositories().len(), 1, "nothing broken is left over");
}

fn packs(repository: &std::path::Path, extension: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(repository.join("objects/pack")).expect("packs").flatten().map(|entry| entry.path());
    let found: Vec<_> = files.filter(|path| path.extension().is_some_and(|x| x == extension)).collect();
    assert!(!found.is_empty());
    found
}

fn overwrite(path: &std::path::Path, bytes: &[u8]) {
    // Git's packs are read-only.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("ours");
    fs::write(path, bytes).expect("writable");
}

#[tokio::test]
async fn an_empty_pack_is_fetched_anew() {
    survives(|repository| packs(repository, "pack").iter().for_each(|pack| overwrite(pack, b""))).await;
}

#[tokio::test]
async fn a_missing_pack_is_fetched_anew() {
    survives(|repository| packs(repository, "pack").iter().for_each(|pack| fs::remove_file(pack).expect("removed")))
        .await;
}

#[tokio::test]
async fn an_unreadable_index_is_fetched_anew() {
    survives(|repository| packs(repository, "idx").iter().for_each(|index| overwrite(index, b"not an index"))).await;
}

#[tokio::test]
async fn a_broken_head_or_config_is_made_anew() {
    survives(|repository| fs::write(repository.join("HEAD"), "").expect("written")).await;
    survives(|repository| fs::write(repository.join("config"), "[core\n").expect("written")).await;
    survives(|repository| fs::remove_dir_all(repository.join("refs")).expect("removed")).await;
}

#[tokio::test]
async fn locks_and_half_packs_of_a_killed_git_stop_nothing() {
    survives(|repository| {
        for left in ["shallow.lock", "config.lock", "packed-refs.lock", "objects/pack/tmp_pack_Xy12Zz"] {
            fs::write(repository.join(left), "").expect("written");
        }
    })
    .await;
}

#[tokio::test]
async fn a_file_that_turns_out_unreadable_is_fetched_anew_by_the_next_attempt() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let text = "a long line of text that is the file\n".repeat(100);
    let commit = code.commit(&[("a", text.as_str().into())], "one");
    let wanted = pinned(code.url(), &commit);
    let fetched = scene.ensure(&wanted).await.expect("fetched");
    // One flipped bit in the middle of the packed objects.
    for pack in packs(&scene.repository(), "pack") {
        let mut bytes = fs::read(&pack).expect("a pack");
        let middle = bytes.len() - 40;
        bytes[middle] ^= 0x10;
        overwrite(&pack, &bytes);
    }
    let path = domain::source::DockerfilePath::parse("a").expect("a path");
    let damaged = fetched.tree().read(move |tree| tree.dockerfile(&path)).await.expect_err("a flipped bit");
    assert_eq!(damaged.kind, FailureKind::NodeError);
    assert!(damaged.message.contains("fetches it anew"), "{}", damaged.message);

    let mut notes = Vec::new();
    let again =
        scene.cache.ensure(Role::Code, &wanted, &scene.policy, &mut |line| notes.push(line)).await.expect("anew");
    assert_eq!(file(&again, "a").await, text);
    assert!(notes.iter().any(|line| line.contains("damaged")), "{notes:?}");
}

#[tokio::test]
async fn no_hook_of_a_cached_repository_runs() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let first = code.commit(&[("a", "1".into())], "one");
    scene.ensure(&pinned(code.url(), &first)).await.expect("fetched");
    let canary = scene.dir.path().join("canary");
    let hooks = scene.repository().join("hooks");
    fs::create_dir_all(&hooks).expect("a directory");
    for hook in ["reference-transaction", "post-checkout", "pre-auto-gc", "post-merge", "post-index-change"] {
        let script = hooks.join(hook);
        fs::write(&script, format!("#!/bin/sh\ntouch {}\n", canary.display())).expect("written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("executable");
    }
    let second = code.commit(&[("a", "2".into())], "two");
    let fetched = scene.ensure(&pinned(code.url(), &second)).await.expect("fetched");
    let out = scene.dir.path().join("out");
    fs::create_dir(&out).expect("a directory");
    fetched.tree().read(move |tree| tree.materialise(&out, None)).await.expect("written");
    assert!(!canary.exists());

    // The canary is alive: plain git does run it.
    let plain = std::process::Command::new("git")
        .args(["update-ref", "refs/heads/x", &second])
        .env("GIT_DIR", scene.repository())
        .status()
        .expect("git");
    assert!(plain.success() && canary.exists());
}

#[tokio::test]
async fn a_dropped_fetch_leaves_no_git_behind_and_the_next_one_works() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let commit = code.commit(&[("a", "1".into())], "one");
    let wanted = pinned(code.url(), &commit);
    let port = format!("{}/code.git", scene.host.address());
    scene.host.behave(|host| host.never_answers = true);

    let fetching = scene.ensure(&wanted);
    let begun = until("the host is asked", async || scene.host.traffic().requests > 0);
    tokio::select! {
        _ = fetching => panic!("the host answers nothing"),
        () = begun => {}
    }
    until("git is gone", async || command_lines_with(&port).is_empty()).await;

    scene.host.behave(|host| host.never_answers = false);
    scene.ensure(&wanted).await.expect("fetched");
}

#[tokio::test]
async fn a_fetch_that_takes_too_long_is_ended() {
    let mut scene = Scene::new();
    let code = scene.host.repository("code");
    let commit = code.commit(&[("a", "1".into())], "one");
    scene.host.behave(|host| host.never_answers = true);
    scene.policy.fetch_timeout_s = 1;
    let (kind, message) = scene.failure(&pinned(code.url(), &commit)).await;
    assert_eq!(kind, FailureKind::NodeError);
    insta::assert_snapshot!(message, @"code repository http://127.0.0.1:PORT/code.git was not fetched within 1 s, which is this node's limit");
    let port = format!("{}/code.git", scene.host.address());
    until("git is gone", async || command_lines_with(&port).is_empty()).await;
}

#[tokio::test]
async fn only_what_nobody_uses_is_evicted() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let commit = code.commit(&[("a", "1".into())], "one");
    let wanted = pinned(code.url(), &commit);
    assert_eq!(scene.cache.evict(&wanted.url).expect("a disk"), Eviction::NotCached);

    let fetched = scene.ensure(&wanted).await.expect("fetched");
    let tree = fetched.tree().clone();
    drop(fetched);
    assert_eq!(scene.cache.evict(&wanted.url).expect("a disk"), Eviction::InUse);
    let [listed] = scene.cache.list().expect("a disk").try_into().expect("one");
    assert_eq!((&listed.url, listed.is_in_use), (&wanted.url, true));
    assert!(listed.bytes > 100);
    assert_eq!(scene.cache.warm_keys(), BTreeSet::from([domain::warm::repository_key(&wanted.url)]));

    drop(tree);
    assert_eq!(scene.cache.evict(&wanted.url).expect("a disk"), Eviction::Removed);
    assert_eq!(scene.cache.list().expect("a disk"), []);
    assert_eq!(scene.repositories(), Vec::<PathBuf>::new());
    assert!(!scene.ensure(&wanted).await.expect("fetched").was_cached);
}

#[tokio::test]
async fn the_last_use_is_noted_and_survives_a_restart() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let commit = code.commit(&[("a", "1".into())], "one");
    let wanted = pinned(code.url(), &commit);
    scene.ensure(&wanted).await.expect("fetched");
    let note = scene.repository().join("unidesk/last-use");
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(&note).and_then(|file| file.set_modified(long_ago)).expect("set");

    fs::create_dir(scene.dir.path().join("git/0123.git.new")).expect("a directory");
    let reopened = SourceCache::open(&scene.dir.path().join("git")).expect("a cache");
    assert_eq!(scene.repositories().len(), 1, "what was half done is cleared");
    assert_eq!(reopened.list().expect("a disk")[0].last_used, long_ago);
    let fetched = reopened.ensure(Role::Code, &wanted, &scene.policy, &mut |_| {}).await.expect("cached");
    assert!(fetched.was_cached);
    assert!(reopened.list().expect("a disk")[0].last_used > long_ago);
}

#[tokio::test]
async fn a_git_that_outlives_its_agent_does_not_keep_the_next_one_from_starting() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let scene = Scene::new();
    let root = scene.dir.path().join("git");
    for _ in 0..20 {
        let draft = root.join("0123.git.new/objects");
        fs::create_dir_all(&draft).expect("made");
        let is_over = Arc::new(AtomicBool::new(false));
        let orphan = std::thread::spawn({
            let (draft, is_over) = (draft.clone(), is_over.clone());
            move || {
                for number in 0_u64.. {
                    // As git does: by the path that it was given, and it gives up only when it is told to.
                    let _ = fs::write(draft.join(number.to_string()), "x");
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        });
        while fs::read_dir(&draft).expect("there").next().is_none() {
            std::thread::yield_now();
        }
        let opened = SourceCache::open(&root).map(drop);
        is_over.store(true, Ordering::Relaxed);
        orphan.join().expect("ends");
        opened.expect("opens");
        let left: Vec<_> = fs::read_dir(&root).expect("there").flatten().map(|entry| entry.file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().contains(".git.")), "{left:?}");
    }
}
