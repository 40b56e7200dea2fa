//! What a question costs the database does not grow with what is in it.

use crate::world::{ADMIN, Caller, Kind, MEMBER, World, sha256, wanted};
use reqwest::Method;
use serde_json::{Value, json};
use test_kit::statements::Statements;

/// No statement of the API reads more.
const MOST_BUFFERS: i64 = 500;
/// After five calls PostgreSQL may plan for any argument, instead of for the one at hand.
const CALLS: usize = 7;

/// 60,000 artifacts: many versions of one name, of which the newest were removed; equal content; uploads; one with all the parts there can be.
const LARGE: &str = "
  INSERT INTO artifact_objects (id, project_id, sha256, parts_digest, size, key)
    SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000001', sha256(i::text::bytea), sha256(i::text::bytea), 10, 'objects/' || gen_random_uuid()
    FROM generate_series(1, 20000) i;
  INSERT INTO artifacts (id, project_id, name, version, kind, state, size, sha256, object_id, media_type, file_name, labels, pinned, created_by,
      created_by_name, ready_at, expired_at)
    SELECT gen_random_uuid(), project_id, 'many', row_number() OVER (), 'file', CASE WHEN row_number() OVER () > 15000 THEN 'expired' ELSE 'ready' END, size,
      sha256, id, 'x/y', 'f', '{}', false, project_id, 'ana', now(), now() FROM artifact_objects;
  INSERT INTO artifacts (id, project_id, name, version, kind, state, size, sha256, object_id, media_type, file_name, labels, pinned, created_by,
      created_by_name, ready_at)
    SELECT gen_random_uuid(), project_id, 'same', i, 'file', 'ready', size, sha256, id, 'x/y', 'f', '{}', false, project_id, 'ana', now()
    FROM (SELECT * FROM artifact_objects LIMIT 1) o, generate_series(1, 20000) i;
  INSERT INTO artifacts (id, project_id, name, kind, state, media_type, file_name, labels, pinned, created_by, created_by_name)
    SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000001', 'up', 'file', 'uploading', 'x/y', 'f', '{}', false,
      '00000000-0000-0000-0000-000000000001', 'ana' FROM generate_series(1, 20000);
  INSERT INTO artifact_uploads (artifact_id, key, part_size) SELECT id, 'objects/' || id, 8388608 FROM artifacts WHERE state = 'uploading';
  INSERT INTO artifact_names VALUES ('00000000-0000-0000-0000-000000000001', 'many', 20000), ('00000000-0000-0000-0000-000000000001', 'same', 20000);
  INSERT INTO artifact_garbage SELECT 'objects/' || gen_random_uuid(), NULL, gen_random_uuid(), now() + interval '1 day' FROM generate_series(1, 20000);";

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_reads_more_the_more_there_is() {
    let world = World::start(Kind::Embedded).await;
    world.database.execute(LARGE).await;
    let id = world.create(json!({ "name": "huge" })).await;
    let parts = "INSERT INTO artifact_parts (artifact_id, number, size, sha256, etag)
                 SELECT a.id, i, 16777216, sha256(''), repeat('e', 66) FROM artifacts a, generate_series(1, 9999) i WHERE a.name = 'huge'";
    world.database.execute(parts).await;
    let newest = "UPDATE artifact_uploads SET newest_part = 9999 WHERE artifact_id = (SELECT id FROM artifacts WHERE name = 'huge')";
    world.database.execute(newest).await;
    world.database.execute("VACUUM ANALYZE").await;
    let mut statements = Statements::of(&world.database).await;
    let mut too_dear = Vec::new();
    let digest = world.get("/artifacts/same").await["sha256"].as_str().expect("text").to_owned();
    let cursor = world.get("/artifacts?limit=1").await["next_cursor"].as_str().expect("more").to_owned();
    let numbers = (9_900..9_960).map(|number| wanted(number, b"")).map(|mut part| {
        part["size"] = json!(16 << 20);
        part
    });
    let some: Vec<Value> = numbers.collect();
    let stored: Vec<Value> = (1..=1_000).map(|number| json!({ "number": number, "etag": "e" })).collect();
    let whole = json!({ "size": 9_999_u64 * (16 << 20), "sha256": sha256(b"") });
    let asked: Vec<(Caller, Method, String, Value)> = vec![
        (MEMBER, Method::GET, "/artifacts".into(), Value::Null),
        (ADMIN, Method::GET, "/artifacts?limit=1000".into(), Value::Null),
        (MEMBER, Method::GET, format!("/artifacts?limit=100&cursor={cursor}"), Value::Null),
        (MEMBER, Method::GET, "/artifacts?name=up&state=ready".into(), Value::Null),
        (MEMBER, Method::GET, "/artifacts?label=x".into(), Value::Null),
        (MEMBER, Method::GET, "/artifacts/many".into(), Value::Null),
        (MEMBER, Method::GET, "/artifacts/many@77".into(), Value::Null),
        (MEMBER, Method::GET, format!("/artifacts/sha256:{digest}"), Value::Null),
        (MEMBER, Method::GET, format!("/artifacts/{id}"), Value::Null),
        (MEMBER, Method::POST, "/artifacts/many/download".into(), Value::Null),
        (MEMBER, Method::POST, "/artifacts".into(), json!({ "name": "many" })),
        (MEMBER, Method::POST, format!("/artifacts/{id}/parts"), json!({ "wanted": some, "stored": stored })),
        (MEMBER, Method::POST, format!("/artifacts/{id}/complete"), whole),
        (MEMBER, Method::DELETE, "/artifacts/same".into(), Value::Null),
        (ADMIN, Method::POST, "/artifacts:fsck".into(), json!({})),
        (ADMIN, Method::POST, "/artifacts:probe".into(), json!({})),
    ];
    for (caller, method, path, body) in asked {
        statements.forget().await;
        for _ in 0..if path.ends_with("fsck") { 1 } else { CALLS } {
            let status =
                world.ask(caller, method.clone(), &path, (!body.is_null()).then(|| body.clone())).await.status();
            assert!(!status.is_server_error(), "{method} {path}: {status}");
        }
        let costs = statements.costs().await;
        assert!(!costs.is_empty(), "nothing was counted for {path}");
        for cost in costs.into_iter().filter(|cost| cost.buffers > MOST_BUFFERS) {
            let text: String = cost.text.split_whitespace().take(30).collect::<Vec<_>>().join(" ");
            too_dear.push(format!("{method} {path}: {} buffers a call: {text}", cost.buffers));
        }
    }
    assert!(too_dear.is_empty(), "{too_dear:#?}");
    world.service.stop_within(std::time::Duration::from_secs(10)).await;
}
