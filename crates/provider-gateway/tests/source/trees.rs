use super::*;
use domain::source::DockerfilePath;
use provider_gateway::source::{EntryKind, TarOptions, Tree};
use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};
use test_kit::git_host::{Content, HostedRepository};

/// A tree as it lies in the host's own repository, so that also what no fetch lets through can be read.
fn tree_of(repository: &HostedRepository, commit: &str) -> Tree {
    Tree::of_repository(Role::Code, pinned(repository.url(), commit), repository.path())
}

fn rich(code: &HostedRepository) -> String {
    let long = format!("{}/{}/end.txt", "l".repeat(90), "m".repeat(120));
    code.commit(
        &[
            ("README", "read me\n".into()),
            ("bin/run", Content::Executable(b"#!/bin/sh\n".into())),
            ("bin/link", Content::Symlink("../README".into())),
            ("deep/er/link", Content::Symlink(format!("./{}/..//x", "y".repeat(110)))),
            ("case/A", "upper".into()),
            ("case/a", "lower".into()),
            ("empty", "".into()),
            ("binary", Content::File(vec![0, 255, 13, 10])),
            (".gitattributes", "* text=auto eol=crlf filter=lfs export-ignore\n".into()),
            (&long, "far away".into()),
        ],
        "rich",
    )
}

/// Path to what is there, told apart by kind.
fn walk(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a directory") {
            let path = entry.expect("an entry").path();
            let metadata = path.symlink_metadata().expect("there");
            let what = if metadata.is_symlink() {
                format!("-> {}", fs::read_link(&path).expect("a link").display())
            } else if metadata.is_dir() {
                folders.push(path.clone());
                "directory".to_owned()
            } else {
                format!("{:o} {:?}", metadata.permissions().mode() & 0o7777, fs::read(&path).expect("a file"))
            };
            found.insert(path.strip_prefix(root).expect("inside").display().to_string(), what);
        }
    }
    found
}

#[tokio::test]
async fn plain_files_come_out_as_they_were_committed() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let commit = rich(&code);
    let fetched = scene.ensure(&pinned(code.url(), &commit)).await.expect("fetched");
    let out = scene.dir.path().join("out");
    fs::create_dir(&out).expect("a directory");
    let (to, id) = (out.clone(), fetched.tree_id.clone());
    let work = move |tree: &provider_gateway::source::Reader| {
        assert_eq!(tree.tree_id()?, id);
        tree.materialise(&to, None)
    };
    let notes = fetched.tree().read(work).await.expect("written");
    assert_eq!(notes, Vec::<String>::new());

    let found = walk(&out);
    assert_eq!(found["README"], format!("644 {:?}", b"read me\n"));
    assert_eq!(found["bin/run"], format!("755 {:?}", b"#!/bin/sh\n"));
    assert_eq!(found["bin/link"], "-> ../README");
    assert_eq!(found["binary"], "644 [0, 255, 13, 10]");
    assert_eq!(found["case/A"], format!("644 {:?}", b"upper"));
    assert_eq!(found["case/a"], format!("644 {:?}", b"lower"));
    assert_eq!(found["empty"], "644 []");
    assert_eq!(found.iter().filter(|(_, what)| *what != "directory").count(), 10);
    assert_eq!(fs::metadata(out.join("README")).expect("there").mtime(), 1_700_000_000);

    let into = out.clone();
    let again = fetched.tree().read(move |tree| tree.materialise(&into, None)).await.expect_err("not empty");
    assert!(again.message.contains("not an empty directory"), "{}", again.message);
}

#[tokio::test]
async fn a_tar_holds_the_same_tree_with_its_owner_and_modes() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let commit = rich(&code);
    let fetched = scene.ensure(&pinned(code.url(), &commit)).await.expect("fetched");
    let options = TarOptions { prefix: "workspace".into(), uid: 1_000, gid: 3_000_000, ..TarOptions::default() };
    let mut tars = Vec::new();
    for _ in 0..2 {
        let options = options.clone();
        let write = move |tree: &provider_gateway::source::Reader| {
            let mut bytes = Vec::new();
            tree.write_tar(&options, &mut bytes).map(|_| bytes)
        };
        tars.push(fetched.tree().read(write).await.expect("written"));
    }
    assert_eq!(tars[0], tars[1], "the same commit, the same bytes");

    let mut archive = tar::Archive::new(tars[0].as_slice());
    let mut files = BTreeMap::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let header = entry.header();
        assert_eq!((header.uid().expect("uid"), header.gid().expect("gid")), (1_000, 3_000_000));
        assert_eq!(header.mtime().expect("mtime"), 1_700_000_000);
        let path = entry.path().expect("a path").display().to_string();
        let mode = header.mode().expect("mode");
        let what = match header.entry_type() {
            tar::EntryType::Directory => "directory".to_owned(),
            tar::EntryType::Symlink => {
                format!("-> {}", String::from_utf8_lossy(&entry.link_name_bytes().expect("a target")))
            }
            _ => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).expect("content");
                format!("{mode:o} {content:?}")
            }
        };
        assert!(files.insert(path, what).is_none());
    }
    assert_eq!(files.remove("workspace").as_deref(), Some("directory"));
    let out = scene.dir.path().join("out");
    fs::create_dir(&out).expect("a directory");
    let to = out.clone();
    fetched.tree().read(move |tree| tree.materialise(&to, None)).await.expect("written");
    let plain: BTreeMap<_, _> =
        walk(&out).into_iter().map(|(path, what)| (format!("workspace/{path}"), what)).collect();
    assert_eq!(files, plain);
}

#[tokio::test]
async fn everything_is_given_to_the_owner_but_nothing_behind_a_link() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let commit = rich(&code);
    let out = scene.dir.path().join("out");
    fs::create_dir(&out).expect("a directory");
    let ours = fs::metadata(&out).expect("there");
    // Only root may give files away; for anybody else to themselves must do.
    let owner = if ours.uid() == 0 { (12_345, 23_456) } else { (ours.uid(), ours.gid()) };
    let to = out.clone();
    tree_of(&code, &commit).read(move |tree| tree.materialise(&to, Some(owner))).await.expect("written");
    let paths = walk(&out).into_keys().map(|path| out.join(path)).chain([out.clone()]);
    for path in paths {
        let metadata = path.symlink_metadata().expect("there");
        assert_eq!((metadata.uid(), metadata.gid()), owner, "{}", path.display());
    }
}

#[tokio::test]
async fn links_that_leave_the_tree_are_refused_and_nothing_is_written() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let port = scene.host.address().port().to_string();
    for (path, target) in [("evil", "/etc/passwd"), ("a/evil", "../../x"), ("evil", "a/up/..")] {
        let files = [("a/up", Content::Symlink("..".into())), (path, Content::Symlink(target.into()))];
        let commit = code.commit(&files, "hostile");
        let fetched = scene.ensure(&pinned(code.url(), &commit)).await.expect("git takes it");
        let out = tempfile::tempdir().expect("a directory");
        let to = out.path().to_owned();
        let failure = fetched.tree().read(move |tree| tree.materialise(&to, None)).await.expect_err("it leaves");
        assert_eq!(failure.kind, FailureKind::SourceUnavailable);
        let message = failure.message.replace(&port, "PORT").replace(&commit[..8], "COMMIT");
        assert_eq!(
            message,
            format!(
                "code commit COMMIT of http://127.0.0.1:PORT/code.git is refused: the link {path:?} points to {target:?}, \
                 outside of the tree; only links that stay inside are taken"
            )
        );
        let tar = fetched.tree().read(|tree| tree.write_tar(&TarOptions::default(), std::io::sink())).await;
        assert_eq!(tar.expect_err("it leaves").message, failure.message);
        assert_eq!(walk(out.path()), BTreeMap::new());
    }
}

#[tokio::test]
async fn names_that_no_honest_tree_has_are_refused() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    for path in ["a/.GIT/config", "git~1", "a/../b", "x\r", "a\\b", "./a"] {
        let commit = code.commit(&[(path, "x".into())], "hostile");
        let out = tempfile::tempdir().expect("a directory");
        let to = out.path().to_owned();
        let failure = tree_of(&code, &commit).read(move |tree| tree.materialise(&to, None)).await.expect_err(path);
        assert_eq!(failure.kind, FailureKind::SourceUnavailable, "{path:?}: {}", failure.message);
        assert!(failure.message.contains("is refused: the path \""), "{}", failure.message);
        assert_eq!(walk(out.path()), BTreeMap::new());
    }
    let twice = code.commit(&[("a", Content::Symlink("/tmp".into())), ("a/b", "x".into())], "hostile");
    let out = tempfile::tempdir().expect("a directory");
    let to = out.path().to_owned();
    let failure = tree_of(&code, &twice).read(move |tree| tree.materialise(&to, None)).await.expect_err("twice");
    assert!(failure.message.contains("\"a\" is in it twice"), "{}", failure.message);
}

#[tokio::test]
async fn submodules_and_lfs_pointers_are_named_not_fetched() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 432013312\n";
    let commit = code.commit(
        &[
            ("data/model.bin", pointer.into()),
            (
                "data/notes.txt",
                "version https://git-lfs.github.com is where this comes from, says a reader, at length\n".into(),
            ),
            ("third_party/x", Content::Submodule("1234abcd".repeat(5))),
            (".gitmodules", "[submodule \"x\"]\n\tpath = third_party/x\n\turl = https://h.example/x\n".into()),
        ],
        "one",
    );
    let fetched = scene.ensure(&pinned(code.url(), &commit)).await.expect("fetched");
    let out = scene.dir.path().join("out");
    fs::create_dir(&out).expect("a directory");
    let to = out.clone();
    let notes = fetched.tree().read(move |tree| tree.materialise(&to, None)).await.expect("written");
    assert_eq!(
        notes,
        [
            "submodule third_party/x (at 1234abcd) is not fetched",
            "data/model.bin is a Git LFS pointer (412 MiB), not the file"
        ]
    );
    assert_eq!(walk(&out)["third_party/x"], "directory");
    assert_eq!(fs::read_to_string(out.join("data/model.bin")).expect("the pointer itself"), pointer);
}

#[tokio::test]
async fn a_dockerfile_path_that_is_wrong_says_how() {
    let scene = Scene::new();
    let envs = scene.host.repository("envs");
    let commit = envs.commit(
        &[
            ("torch/Dockerfile.gpu", "FROM x\n".into()),
            ("torch/notes", "x".into()),
            ("link/Dockerfile", Content::Symlink("../torch/Dockerfile.gpu".into())),
            ("linked", Content::Symlink("torch".into())),
            ("sub", Content::Submodule("1234abcd".repeat(5))),
            ("huge/Dockerfile", Content::File(vec![b'#'; (1 << 20) + 1])),
            ("full/Dockerfile", Content::File(vec![b'#'; 1 << 20])),
        ],
        "one",
    );
    let tree = Tree::of_repository(Role::Environment, pinned(envs.url(), &commit), envs.path());
    let read = async |path: &str| {
        let path = DockerfilePath::parse(path).expect(path);
        tree.read(move |tree| tree.dockerfile(&path)).await
    };
    assert_eq!(read("torch/Dockerfile.gpu").await.expect("there"), b"FROM x\n");
    assert_eq!(read("full/Dockerfile").await.expect("just small enough").len(), 1 << 20);
    let mut sentences = Vec::new();
    for path in [
        "torch/Dockerfile",
        "Dockerfile",
        "torch",
        "torch/notes/Dockerfile",
        "link/Dockerfile",
        "linked/Dockerfile.gpu",
        "sub",
        "sub/Dockerfile",
        "huge/Dockerfile",
    ] {
        let failure = read(path).await.expect_err(path);
        assert_eq!(failure.kind, FailureKind::BuildFailed);
        sentences.push(failure.message);
    }
    let sentences = sentences.join("\n").replace(&scene.host.address().port().to_string(), "PORT");
    insta::assert_snapshot!(sentences.replace(&commit[..8], "COMMIT"), @r#"
    dockerfile_path "torch/Dockerfile" is not in environment commit COMMIT of http://127.0.0.1:PORT/envs.git; there is "torch/Dockerfile.gpu"
    dockerfile_path "Dockerfile" is not in environment commit COMMIT of http://127.0.0.1:PORT/envs.git
    dockerfile_path "torch" is a directory; name the Dockerfile in it
    dockerfile_path "torch/notes/Dockerfile" is not there: "torch/notes" is a file, not a directory
    dockerfile_path "link/Dockerfile" is not a file: it is a symbolic link; name the file itself
    dockerfile_path "linked/Dockerfile.gpu" is not a file: "linked" is a symbolic link; name the file itself
    dockerfile_path "sub" is not a file: it is a submodule, which is not fetched
    dockerfile_path "sub/Dockerfile" is not a file: "sub" is a submodule, which is not fetched
    dockerfile_path "huge/Dockerfile" is larger than 1 MiB, the most that a Dockerfile may have
    "#);

    let kinds = |tree: &provider_gateway::source::Reader| {
        ["torch", "torch/notes", "linked", "sub", "missing", "torch/notes/x"]
            .map(|path| tree.entry(path))
            .into_iter()
            .collect()
    };
    let kinds: Vec<Option<EntryKind>> = tree.read(kinds).await.expect("readable");
    let file = EntryKind::File { executable: false, bytes: 1 };
    let expected =
        [Some(EntryKind::Directory), Some(file), Some(EntryKind::Symlink), Some(EntryKind::Submodule), None, None];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn writing_stops_when_nobody_waits_any_more() {
    let scene = Scene::new();
    let code = scene.host.repository("code");
    let commit = code.commit(&[("a", "1".into()), ("b", "2".into())], "one");
    let tree = tree_of(&code, &commit);
    let (entered, mut began) = tokio::sync::mpsc::channel(1);
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let (report, ended) = std::sync::mpsc::channel();
    let reading = tree.read(move |tree| {
        entered.blocking_send(()).expect("the test waits");
        wait.recv().expect("the test says when");
        let written = tree.write_tar(&TarOptions::default(), std::io::sink());
        report.send(written.clone()).expect("the test waits");
        written
    });
    tokio::select! {
        _ = reading => panic!("it waits for us"),
        _ = began.recv() => {}
    }
    go_on.send(()).expect("it waits");
    let written = ended.recv_timeout(Duration::from_secs(20)).expect("it ends");
    assert_eq!(written.expect_err("nobody waits").message, "no longer wanted");
}
