use super::*;
use domain::{
    ids::{DEFAULT_PROJECT, InstanceId, NodeId, NodeTokenId, PrincipalId},
    node::{NodeFacts, Presence},
    principal::{Origin, Principal, PrincipalKind, Role},
};
use std::time::Instant;
use store::{DatabaseConfig, NewNodeToken, OpenSession, Opened};
use test_kit::database::TestDatabase;
use tokio::sync::oneshot;
use uuid::Uuid;

async fn connect(database: &TestDatabase) -> Store {
    let config = DatabaseConfig { url: database.url().to_owned(), max_connections: 4, shared: false };
    Store::connect_unchecked(&config).await.expect("connected")
}

async fn node(store: &Store, name: &str) -> SessionKey {
    let (node, created_by) = (NodeId::from_uuid(Uuid::now_v7()), PrincipalId::from_uuid(Uuid::from_u128(5)));
    let new = NewNodeToken {
        id: NodeTokenId::from_uuid(node.as_uuid()),
        node,
        project: DEFAULT_PROJECT,
        created_by,
        name: name.into(),
        secret_hash: vec![1; 32],
    };
    let principal =
        Principal { kind: PrincipalKind::ApiKey, id: created_by, name: "ana".into(), role: Role::Admin, project: None };
    let origin = Origin { principal, address: "test".into(), request_id: "test".into() };
    assert!(store.create_node_token(&new, &origin).await.expect("made"));
    let hello = OpenSession {
        node,
        instance: InstanceId::from_uuid(Uuid::now_v7()),
        facts: NodeFacts::default(),
        metrics: NodeMetrics::default(),
        attempts: Vec::new(),
        complete_executors: ["process".to_owned()].into(),
        newest_epoch: i64::MAX,
    };
    match store.open_session(&hello).await.expect("opened") {
        Opened::Session { key, .. } => key,
        other => panic!("{other:?}"),
    }
}

async fn answered(beats: &Beats, key: SessionKey) -> bool {
    let (told, hears) = oneshot::channel();
    beats.record(key, NodeMetrics::default(), Box::new(move |counted| _ = told.send(counted)));
    tokio::time::timeout(Duration::from_secs(10), hears).await.expect("in time").expect("answered")
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(15), "not within 15 s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_heartbeat_of_a_node_that_was_called_offline_is_answered_when_it_is_back() {
    let database = TestDatabase::create().await;
    let store = connect(&database).await;
    let (key, other) = (node(&store, "n").await, node(&store, "other").await);
    let service = Service::new();
    let beats = Beats::start(&service, store.clone());
    database.execute(&format!("UPDATE node_live SET offline_since = now() WHERE node_id = '{}'", key.node)).await;
    assert!(answered(&beats, other).await);
    assert!(answered(&beats, key).await);
    let presence = store.find_node("n").await.expect("read").expect("there").node.presence;
    assert_eq!(presence, Presence::Connected);
    let former = SessionKey { epoch: key.epoch - 1, ..key };
    assert!(!answered(&beats, former).await, "what is not the newest session is told to go");
    assert!(service.stop_within(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_gateway_shows_that_the_platform_is_there_for_as_long_as_it_runs() {
    let database = TestDatabase::create().await;
    let store = connect(&database).await;
    let renewed_at = async || store.liveness().await.expect("read").platform.map(|platform| platform.renewed_at);
    assert_eq!(renewed_at().await, None);
    let service = Service::new();
    let _beats = Beats::start(&service, store.clone());
    eventually("it is there", async || renewed_at().await.is_some()).await;
    let first = renewed_at().await;
    eventually("it says so again", async || renewed_at().await > first).await;
    assert!(service.stop_within(Duration::from_secs(5)).await);
}
