//! Artifacts as people see them: goldens, and the commands' rules against a scripted server.

use crate::{
    binary::{Home, text},
    script_server::{Reply, Server},
    values::{merge, view},
};
use api_types::artifact::{Artifact, FsckFinding, FsckKind};
use insta::assert_snapshot;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use transfer::Listed;
use unidesk::{
    render::{
        View,
        artifact::{self as render, Progress},
    },
    style::Style,
};

const ID: &str = "01a20390-8054-7c41-9d2f-6b0e41c7a93d";

fn artifact_json(with: Value) -> Value {
    let mut artifact = json!({
        "id": ID, "project": "default", "name": "imagenet-mini", "version": 3, "kind": "directory", "state": "ready",
        "size": 13_314_398_618u64, "sha256": "5c".repeat(32), "media_type": "application/zstd", "file_name": "imagenet-mini",
        "labels": {"split": "train"}, "pinned": false, "created_by": "ana", "created_at": "2026-11-22T13:02:00Z",
        "ready_at": "2026-11-22T13:03:57Z",
    });
    merge(&mut artifact, &with);
    artifact
}

fn artifact(with: Value) -> Artifact {
    serde_json::from_value(artifact_json(with)).expect("an artifact")
}

fn several() -> Vec<Artifact> {
    vec![
        artifact(json!({})),
        artifact(
            json!({"version": null, "state": "uploading", "sha256": null, "ready_at": null, "stored_bytes": 3_328_599_654u64}),
        ),
        artifact(
            json!({"name": "dump", "kind": "file", "version": null, "state": "uploading", "size": null, "sha256": null, "labels": {}}),
        ),
        artifact(
            json!({"name": "model", "kind": "file", "state": "corrupt", "size": 0, "pinned": true, "created_by": "e\u{1b}[2Jvil", "labels": {"a": "\u{202e}x"}}),
        ),
    ]
}

#[test]
fn lists_and_single_ones() {
    assert_snapshot!("list", render::list_for_people(&several(), &view()));
    assert_snapshot!("list_narrow", render::list_for_people(&several(), &View { width: 70, ..view() }));
    assert_snapshot!("list_piped", render::list_for_programs(&several(), &view()));
    let footers =
        [render::list_footer(0, false, 20), render::list_footer(1, false, 20), render::list_footer(20, true, 20)];
    assert_snapshot!("list_footers", footers.join("\n"));
    let shown: Vec<String> = several().iter().map(|artifact| render::show(artifact, &view())).collect();
    assert_snapshot!("show", shown.join("\n"));
    assert_snapshot!("put", render::put(&artifact(json!({}))));
    assert_snapshot!("lost", [render::lost(&several()[..1], &view()), render::lost(&several(), &view())].join("\n"));
}

#[test]
fn a_transfer_while_it_runs() {
    let gib = 1u64 << 30;
    let at = |done, total, bytes_a_second| render::progress(&Progress { done, total, bytes_a_second }, &Style::PLAIN);
    let lines = [
        at(3 * gib + gib / 10, Some(12 * gib), Some(112 << 20)),
        at(0, Some(12 * gib), None),
        at(700, Some(12 * gib), Some(0)),
        at(12 * gib - 1, Some(12 * gib), Some(1 << 30)),
        at(5 << 20, None, Some(1 << 20)),
        at(0, Some(0), None),
    ];
    assert_snapshot!("progress", lines.join("\n"));
}

#[test]
fn what_two_differ_in() {
    let file = |size, byte: u8, is_executable| Listed::File {
        size,
        sha256: domain::artifact::Sha256Digest([byte; 32]),
        is_executable,
    };
    let link = |target: &str| Listed::Link { target: target.into() };
    let of = |entries: Vec<(&[u8], Listed)>| {
        entries.into_iter().map(|(name, listed)| (name.to_vec(), listed)).collect::<BTreeMap<_, _>>()
    };
    let one = of(vec![
        (b"same", file(1, 1, false)),
        (b"gone", file(1, 1, false)),
        (b"gone too", Listed::Directory),
        (b"bytes", file(2048, 1, false)),
        (b"size", file(2048, 1, false)),
        (b"run", file(1, 1, false)),
        (b"kind", file(1, 1, false)),
        (b"link", link("a")),
    ]);
    let other = of(vec![
        (b"same", file(1, 1, false)),
        (b"new\n\xff", file(1, 1, false)),
        (b"bytes", file(2048, 2, false)),
        (b"size", file(4096, 2, false)),
        (b"run", file(1, 1, true)),
        (b"kind", Listed::Directory),
        (b"link", link("b")),
    ]);
    let found = render::compare(&one, &other);
    assert_eq!(render::compare(&one, &one).same, 8);
    let (a, b) = (artifact(json!({"version": 2})), artifact(json!({})));
    assert_snapshot!("diff", render::difference(&a, &b, &found, &Style::PLAIN));
    let file = artifact(json!({"name": "model", "kind": "file", "sha256": "ab".repeat(32), "size": 700}));
    assert_snapshot!("diff_whole", [render::whole_difference(&a, &b), render::whole_difference(&b, &file)].join("\n"));
}

#[test]
fn a_check() {
    let finding = |kind, artifacts: &[&str], detail: &str, repaired| FsckFinding {
        kind,
        key: "objects/6b0e41c7-a93d-4c41-9d2f-01a203908054".to_owned(),
        artifacts: artifacts.iter().map(|name| (*name).to_owned()).collect(),
        detail: detail.to_owned(),
        repaired,
    };
    let findings = [
        finding(FsckKind::Missing, &["imagenet@3", "imagenet@2"], "700 bytes should be there, and nothing is.", false),
        finding(FsckKind::WrongSize, &["model@1"], "700 bytes should be there, and 699 are.", true),
        finding(FsckKind::WrongBytes, &[], "Bytes with SHA-256 ab should be there, and cd are.", false),
        finding(FsckKind::Stray, &[], "Nothing knows of this object.", true),
    ];
    let mut lines: Vec<String> = findings.iter().map(|finding| render::finding(finding, &Style::PLAIN)).collect();
    lines.push(render::fsck_sum(1_204, 5 << 30, &findings, true, false));
    lines.push(render::fsck_sum(4, 700, &findings[..1], false, true));
    lines.push(render::fsck_sum(1, 700, &[], false, false));
    assert_snapshot!("fsck", lines.join("\n"));
}

#[tokio::test]
async fn nothing_is_deleted_without_a_word() {
    let server = Server::start(|request, _| match request.method.as_str() {
        "DELETE" => Reply::Json(200, artifact_json(json!({"state": "expired"}))),
        _ => Reply::Json(200, artifact_json(json!({}))),
    })
    .await;
    let home = Home::new();
    let output = home.run(&server.url, &["artifact", "rm", "imagenet-mini"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("imagenet-mini@3 (12 GiB, put by ana") && text(&output.stderr).contains("--yes"),
        "{}",
        text(&output.stderr)
    );
    assert!(server.requests().iter().all(|request| request.method == "GET"));
    // Two names of one artifact: it is deleted once, and not the one before it too.
    let output = home.run(&server.url, &["artifact", "rm", "--yes", "imagenet-mini", "imagenet-mini@3"]).await;
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), ""));
    let deleted: Vec<String> = server
        .requests()
        .into_iter()
        .filter(|request| request.method == "DELETE")
        .map(|request| request.path)
        .collect();
    assert_eq!(deleted, [format!("/api/v1/artifacts/{ID}")]);
}

#[tokio::test]
async fn what_can_not_be_put_is_told_before_anything_is_sent() {
    let server = Server::start(|_, _| panic!("nothing is to be asked")).await;
    let home = Home::new();
    let odd = home.path().join("data");
    std::fs::create_dir(&odd).expect("a directory");
    std::os::unix::fs::symlink("/etc/passwd", odd.join("link")).expect("a link");
    let odd = odd.to_str().expect("text");
    for (words, code, told) in [
        (&["put", odd, "--name", "x"][..], 2, "leads out of the directory"),
        (&["put", "no-such-file", "--name", "x"], 1, "no-such-file can't be read"),
        (&["put", odd, "--name", "../x"], 2, "a name of an artifact has"),
        (&["put", odd, "--name", "x", "--limit-rate", "fast"], 2, "10M"),
        (&["get", "x@0"], 2, "a version is a number from 1 on"),
    ] {
        let output = home.run(&server.url, &[&["artifact"], words].concat()).await;
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(code), ""), "{words:?}");
        assert!(text(&output.stderr).contains(told), "{words:?}: {}", text(&output.stderr));
    }
}

#[tokio::test]
async fn a_platform_without_an_object_store_says_what_to_set_at_once() {
    let problem = api_types::Problem::new(
        "no-object-store",
        "This platform has no object store. An administrator sets UNIDESK_S3_ENDPOINT.",
    );
    let problem = serde_json::to_value(problem).expect("JSON");
    let server = Server::start(move |_, _| Reply::Json(503, problem.clone())).await;
    let home = Home::new();
    std::fs::write(home.path().join("file"), "content").expect("writing");
    let path = home.path().join("file");
    let output = home.run(&server.url, &["artifact", "put", path.to_str().expect("text"), "--name", "x"]).await;
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).contains("UNIDESK_S3_ENDPOINT"), "{}", text(&output.stderr));
}
