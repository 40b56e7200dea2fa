use super::*;

#[tokio::test]
async fn a_commit_that_is_not_there_is_named_with_the_hosts_answer() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    code.commit(&[("a", "1".into())], "one");
    let (kind, message) = scene.failure(&pinned(code.url(), "4f0c1d2e3b4a59687706f5e4d3c2b1a098765432")).await;
    assert_eq!(kind, FailureKind::SourceUnavailable);
    insta::assert_snapshot!(message, @r#"code commit 4f0c1d2e is not in http://127.0.0.1:PORT/code.git: the host answered "not our ref" (not pushed, or rebased away)"#);
    assert_eq!(scene.repositories(), Vec::<PathBuf>::new(), "a failed first fetch leaves nothing");
}

#[tokio::test]
async fn an_object_that_is_no_commit_is_no_commit() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let commit = code.commit(&[("a", "1".into())], "one");
    let git = git2::Repository::open_bare(code.path()).expect("a repository");
    let tree = git.find_commit(commit.parse().expect("an id")).expect("a commit").tree_id().to_string();
    let (kind, message) = scene.failure(&pinned(code.url(), &tree)).await;
    assert_eq!(kind, FailureKind::SourceUnavailable, "{message}");
    insta::assert_snapshot!(message.replace(&tree[..8], "TREE"), @"code commit TREE of http://127.0.0.1:PORT/code.git is no commit but a tree; for the commit of a tag ask: git rev-parse TAG^{commit}");
}

#[tokio::test]
async fn an_unknown_repository_is_named() {
    let scene = Scene::new();
    let (kind, message) = scene.failure(&pinned(&scene.host.url("missing"), &"1".repeat(40))).await;
    assert_eq!(kind, FailureKind::SourceUnavailable);
    insta::assert_snapshot!(message, @"there is no code repository at http://127.0.0.1:PORT/missing.git (the host answered 404), or it needs credentials that this node does not have");
}

#[tokio::test]
async fn a_host_that_is_down_or_in_trouble_is_not_the_users_fault() {
    let mut scene = Scene::new();
    let wanted = pinned(&scene.host.url("code"), &"1".repeat(40));
    scene.host.behave(|host| host.answers_only = Some(503));
    let (kind, message) = scene.failure(&wanted).await;
    assert_eq!(kind, FailureKind::NodeError);
    insta::assert_snapshot!(message, @"code repository http://127.0.0.1:PORT/code.git could not be fetched: The requested URL returned error: 503");

    scene.host.behave(|host| host.answers_only = Some(403));
    let (kind, message) = scene.failure(&wanted).await;
    assert_eq!(kind, FailureKind::SourceUnavailable);
    insta::assert_snapshot!(message, @"127.0.0.1 does not let this node read code repository http://127.0.0.1:PORT/code.git (it answered 403)");

    scene.host.stop();
    let (kind, message) = scene.failure(&wanted).await;
    assert_eq!(kind, FailureKind::NodeError);
    assert!(message.starts_with("code repository http://127.0.0.1:PORT/code.git could not be fetched: "), "{message}");
    assert!(message.contains("onnect"), "{message}");
}

#[tokio::test]
async fn plain_http_beyond_loopback_starts_no_process() {
    let scene = Scene::new();
    // A name that would resolve to nothing: had git been asked, the answer would be the network's.
    let (kind, message) = scene.failure(&pinned("http://git.invalid/code.git", &"1".repeat(40))).await;
    assert_eq!(kind, FailureKind::SourceUnavailable);
    insta::assert_snapshot!(message, @"this node does not fetch http://git.invalid/code.git: plain http is taken only from loopback and from hosts that the node's owner lists. Use https, or ask the owner to add git.invalid to http_hosts.");

    let mut allowed = scene;
    allowed.policy.http_hosts.insert("git.invalid".into());
    let (kind, message) = allowed.failure(&pinned("http://git.invalid/code.git", &"1".repeat(40))).await;
    assert_eq!(kind, FailureKind::NodeError, "{message}");
}

#[test]
fn what_could_be_an_option_or_another_transport_never_becomes_a_source() {
    for bad in [
        "ext::sh -c touch% /tmp/p",
        "--upload-pack=touch /tmp/p",
        "-oProxyCommand=x",
        "ssh://-oProxyCommand=x/y",
        "fd::17",
        "file:///etc",
        "https://h/-x",
        "https://--upload-pack=x/r",
    ] {
        let as_url =
            RepoUrl::parse(bad).is_ok_and(|url| url.as_str().starts_with('-') || !url.as_str().starts_with("http"));
        assert!(!as_url && CommitId::parse(bad).is_err(), "{bad}");
    }
    assert!(RepoUrl::parse("https://h/-x").is_err());
}

#[tokio::test]
async fn a_redirect_may_not_leave_http_for_another_transport() {
    let scene = Scene::new();
    scene
        .host
        .behave(|host| host.redirects_to = Some(format!("file://{}", scene.host.repository("code").path().display())));
    let (kind, message) = scene.failure(&pinned(&scene.host.url("code"), &"1".repeat(40))).await;
    assert_eq!(kind, FailureKind::NodeError, "{message}");
}

#[tokio::test]
async fn a_tree_that_could_trick_git_is_refused_at_the_door() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let port = scene.host.address().port().to_string();
    for (path, word) in [(".GIT/config", "hasDotgit"), ("git~1/config", "hasDotgit"), ("a/../b", "hasDotdot")] {
        let commit = code.commit(&[("b", "1".into()), (path, "x".into())], "hostile");
        let (kind, message) = scene.failure(&pinned(code.url(), &commit)).await;
        assert_eq!(kind, FailureKind::SourceUnavailable, "{path}: {message}");
        let refused = format!("code commit {} of {} is refused", &commit[..8], code.url());
        assert!(message.starts_with(&refused.replace(&port, "PORT")), "{message}");
        assert!(message.contains(word), "{message}");
    }
}
