//! Keys, and the record of who did what.

use crate::world::{World, connect, origin};
use domain::{
    ids::{ApiKeyId, DEFAULT_PROJECT},
    principal::{Role, Scope},
};
use serde_json::json;
use store::{DatabaseConfig, JwtKey, NewApiKey, Store, StoreError};
use uuid::Uuid;

fn key(number: u128, days: Option<u32>) -> NewApiKey {
    NewApiKey {
        id: ApiKeyId::from_uuid(Uuid::from_u128(number)),
        project: DEFAULT_PROJECT,
        created_by: origin().principal.id,
        name: format!("key-{number}"),
        role: Role::Member,
        secret_hash: vec![2; 32],
        expires_in_days: days,
    }
}

#[tokio::test]
async fn a_key_is_valid_until_it_expires_or_is_revoked() {
    let world = World::start().await;
    let (lasting, ending) = (key(1, None), key(2, Some(30)));
    for key in [&lasting, &ending] {
        world.store.create_api_key(key, &origin()).await.expect("made");
    }
    let is_valid = async |id| world.store.api_key(id).await.expect("read").expect("there").is_valid;
    assert!(is_valid(lasting.id).await && is_valid(ending.id).await);
    world.database.execute("UPDATE api_keys SET expires_at = now() WHERE expires_at IS NOT NULL").await;
    assert!(!is_valid(ending.id).await);
    assert!(world.store.revoke_api_key(lasting.id, &origin()).await.expect("revoked"));
    assert!(world.store.revoke_api_key(lasting.id, &origin()).await.expect("safe to repeat"));
    assert!(!is_valid(lasting.id).await);
    assert!(!world.store.revoke_api_key(key(3, None).id, &origin()).await.expect("asked"));
    assert_eq!(world.store.api_key(key(3, None).id).await.expect("read"), None);
    assert_eq!(world.store.list_api_keys(None, 10).await.expect("listed").len(), 2);
}

#[tokio::test]
async fn gateways_that_start_at_once_agree_on_one_signing_key() {
    let world = World::start().await;
    let stores = futures::future::join_all((0..4).map(|_| connect(&world.database))).await;
    let candidates: Vec<JwtKey> = (0..4).map(|n| JwtKey { kid: format!("k{n}"), secret: vec![n; 32] }).collect();
    let calls = stores.iter().zip(&candidates).map(|(store, candidate)| store.jwt_keys(candidate));
    let kids: Vec<String> =
        futures::future::join_all(calls).await.into_iter().map(|keys| keys.expect("read")[0].kid.clone()).collect();
    assert!(kids.iter().all(|kid| *kid == kids[0]), "{kids:?}");
    assert_eq!(world.count("SELECT count(*) FROM jwt_keys").await, 1);
}

#[tokio::test]
async fn every_change_by_a_person_is_in_the_audit_and_stays_there() {
    let world = World::start().await;
    let task = world.submit(json!({})).await;
    world.store.cancel_task(Scope::All, task, &origin()).await.expect("cancelled");
    world.store.retry_task(Scope::All, task, &origin()).await.expect("queued");
    world.store.create_api_key(&key(1, None), &origin()).await.expect("made");
    world.store.revoke_api_key(key(1, None).id, &origin()).await.expect("revoked");
    let node = world.node("n").await;
    world.store.drain_node(node.id, "", None, &origin()).await.expect("set");
    let token = world.store.token_of_node("n").await.expect("read").expect("there");
    world.store.revoke_node_token(token, false, &origin()).await.expect("revoked");
    let by_ana = "SELECT count(*) FROM audit WHERE actor_name = 'ana' AND address = '192.0.2.7' AND request_id = 'r-1' AND action = ANY(ARRAY[
        'task.cancel', 'task.retry', 'api_key.create', 'api_key.revoke', 'node_token.create', 'node.drain', 'node_token.revoke'])";
    assert_eq!(world.count(by_ana).await, 7);
    // What was refused is not in it.
    world.store.cancel_task(crate::world::other_project(), task, &origin()).await.expect("answered");
    assert_eq!(world.count("SELECT count(*) FROM audit").await, 7);
    for change in ["UPDATE audit SET actor_name = 'eve'", "DELETE FROM audit", "TRUNCATE audit"] {
        let refused = world.database.try_execute(change).await.expect_err(change);
        assert!(refused.to_string().contains("append-only"), "{refused}");
    }
    assert_eq!(world.count("SELECT count(*) FROM audit").await, 7);
}

#[tokio::test]
async fn no_secret_is_in_the_database_in_the_clear() {
    let world = World::start().await;
    world.store.create_api_key(&key(1, None), &origin()).await.expect("made");
    assert_eq!(world.count("SELECT count(*) FROM api_keys WHERE length(secret_hash) = 32").await, 1);
    assert_eq!(
        world
            .count("SELECT count(*) FROM audit WHERE detail::text LIKE '%hash%' OR detail::text LIKE '%secret%'")
            .await,
        0
    );
}

#[tokio::test]
async fn a_server_that_may_forget_is_refused() {
    let world = World::start().await;
    let config = DatabaseConfig { url: world.database.url().to_owned(), max_connections: 2, shared: false };
    // The tests' own server has fsync off.
    match Store::connect(&config).await {
        Err(StoreError::NotDurable(settings)) => assert!(!settings.is_empty()),
        Err(other) => panic!("{other}"),
        Ok(_) => assert_eq!(
            world.count("SELECT count(*) FROM pg_settings WHERE name = 'fsync' AND setting = 'off'").await,
            0
        ),
    }
    let (applied, known) = world.store.migration_state().await.expect("read");
    assert_eq!(applied, known);
    world.store.migrate().await.expect("safe to repeat");
}
