//! The parts of uploads, and what an upload has in common with the version before.

use crate::{
    outputs::{NO_GRACE, new_artifact},
    world::{World, origin},
};
use domain::{
    artifact::{ArtifactKind, Sha256Digest},
    ids::{ArtifactId, DEFAULT_PROJECT, ProjectId},
};
use store::{CommonPart, CompletedArtifact, NewArtifact, NotedParts, Part, Reserved, StoredObject};
use uuid::Uuid;

const OTHER: ProjectId = ProjectId::from_uuid(Uuid::from_u128(2));

/// Parts have from 5 to 16 bytes.
async fn begin(world: &World, project: ProjectId, name: &str) -> ArtifactId {
    let new = NewArtifact {
        project,
        kind: ArtifactKind::Directory,
        size: None,
        part_size: 16,
        least_part: Some(5),
        ..new_artifact(name)
    };
    match world.store.reserve_artifact(&new, &origin().principal).await.expect("reserved") {
        Reserved::New(artifact) => artifact.id,
        other => panic!("{other:?}"),
    }
}

fn sum(seed: u8) -> Sha256Digest {
    Sha256Digest([seed; 32])
}

/// Of these sizes, with these checksums.
fn parts(all: &[(u64, u8)]) -> Vec<Part> {
    (1..).zip(all).map(|(number, (size, seed))| Part { number, size: *size, sha256: sum(*seed), etag: None }).collect()
}

async fn put(world: &World, project: ProjectId, name: &str, all: &[(u64, u8)]) -> String {
    let id = begin(world, project, name).await;
    let noted = world.store.note_parts(id, &[], &parts(all)).await.expect("noted");
    let NotedParts::Noted { place, parts } = noted else { panic!("{noted:?}") };
    let digest = Sha256Digest(*Uuid::new_v4().as_bytes().repeat(2).first_chunk().expect("32 bytes"));
    let size = parts.iter().map(|part| part.size).sum();
    let stored = StoredObject { key: place.key.clone(), size, sha256: digest, parts_digest: digest, parts };
    let completed = world.store.complete_artifact(id, &stored, NO_GRACE, &origin()).await.expect("completed");
    assert!(matches!(completed, CompletedArtifact::Ready(_)), "{completed:?}");
    place.key
}

async fn common(world: &World, project: ProjectId, name: &str, all: &[(u64, u8)]) -> Vec<Option<(String, u64)>> {
    let wanted: Vec<_> = all.iter().map(|(size, seed)| (*size, sum(*seed))).collect();
    let found = world.store.common_parts(project, name, &wanted).await.expect("read");
    let place = |(found, (size, sha256)): (Option<CommonPart>, &(u64, Sha256Digest))| {
        found.map(|found| {
            assert_eq!((found.size, found.sha256), (*size, *sha256));
            (found.key, found.offset)
        })
    };
    found.into_iter().zip(&wanted).map(place).collect()
}

#[tokio::test]
async fn parts_that_may_differ_are_noted_and_only_the_last_is_smaller() {
    let world = World::start().await;
    let note = async |all: &[(u64, u8)]| {
        let id = begin(&world, DEFAULT_PROJECT, "tree").await;
        world.store.note_parts(id, &[], &parts(all)).await.expect("answered")
    };
    for (all, last) in
        [(&[(5, 1), (16, 2), (7, 3)][..], None), (&[(5, 1), (16, 2), (4, 3)], Some(3)), (&[(4, 1)], Some(1))]
    {
        let noted = note(all).await;
        let NotedParts::Noted { place, parts } = noted else { panic!("{noted:?}") };
        assert_eq!((place.last_part, place.least_part, parts.len()), (last, Some(5), all.len()));
    }
    for (all, number) in [(&[(4, 1), (5, 2)][..], 2), (&[(5, 1), (4, 2), (3, 3)], 3)] {
        assert_eq!(note(all).await, NotedParts::NotLast { number }, "{all:?}");
    }
    world.store.close().await;
}

#[tokio::test]
async fn a_part_is_found_in_the_newest_version_of_its_name_and_nowhere_else() {
    let world = World::start().await;
    world.database.execute(&format!("INSERT INTO projects (id, slug) VALUES ('{}', 'other')", OTHER.as_uuid())).await;
    let all = [(5, 1), (16, 2), (3, 3)];
    assert_eq!(common(&world, DEFAULT_PROJECT, "tree", &all).await, [None, None, None], "there is no version");
    let first = put(&world, DEFAULT_PROJECT, "tree", &all).await;
    let at = |key: &str, offset| Some((key.to_owned(), offset));
    let wanted = [(16, 2), (5, 9), (5, 1), (3, 3), (6, 1), (5, 1)];
    let found = common(&world, DEFAULT_PROJECT, "tree", &wanted).await;
    assert_eq!(found, [at(&first, 5), None, at(&first, 0), at(&first, 21), None, at(&first, 0)]);
    for (project, name) in [(DEFAULT_PROJECT, "other"), (OTHER, "tree")] {
        assert_eq!(common(&world, project, name, &all).await, [None, None, None]);
    }
    // The newest one counts; one of a single part has nothing to copy, nor has one that is uploaded.
    let second = put(&world, DEFAULT_PROJECT, "tree", &[(16, 2), (5, 7)]).await;
    begin(&world, DEFAULT_PROJECT, "tree").await;
    assert_eq!(common(&world, DEFAULT_PROJECT, "tree", &all).await, [None, at(&second, 0), None]);
    let damaged = format!("UPDATE artifact_objects SET corrupt_at = now() WHERE key = '{second}'");
    world.database.execute(&damaged).await;
    assert_eq!(common(&world, DEFAULT_PROJECT, "tree", &all).await, [None, None, None]);
    put(&world, DEFAULT_PROJECT, "tree", &[(4, 2)]).await;
    assert_eq!(common(&world, DEFAULT_PROJECT, "tree", &[(4, 2)]).await, [None]);
    world.store.close().await;
}

#[tokio::test]
async fn bytes_that_only_look_like_a_part_are_none() {
    let world = World::start().await;
    put(&world, DEFAULT_PROJECT, "tree", &[(5, 0), (5, 0), (5, 0)]).await;
    // A size and a checksum that stand there, but for a byte to the right of where they should.
    assert_eq!(common(&world, DEFAULT_PROJECT, "tree", &[(5 << 8, 0)]).await, [None]);
    world.store.close().await;
}
