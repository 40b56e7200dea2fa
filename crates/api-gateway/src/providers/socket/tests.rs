use super::*;
use domain::{
    ids::{DEFAULT_PROJECT, NodeId, PrincipalId},
    principal::{Origin, Principal, PrincipalKind, Role},
};
use std::time::Duration;
use store::{DatabaseConfig, NewNodeToken};
use test_kit::database::TestDatabase;
use uuid::Uuid;

fn origin() -> Origin {
    let id = PrincipalId::from_uuid(Uuid::nil());
    let principal =
        Principal { kind: PrincipalKind::Platform, id, name: "test".into(), role: Role::Admin, project: None };
    Origin { principal, address: "test".into(), request_id: "test".into() }
}

#[tokio::test]
async fn a_full_door_says_when_to_come_back_and_a_revoked_token_is_refused_in_the_same_moment() {
    let database = TestDatabase::create().await;
    let config = DatabaseConfig { url: database.url().to_owned(), max_connections: 4, shared: false };
    let store = Store::connect_unchecked(&config).await.expect("connected");
    let (node, token) = (NodeId::from_uuid(Uuid::now_v7()), NodeTokenId::from_uuid(Uuid::now_v7()));
    let (text, secret_hash) = secret::issue(secret::Kind::Node, token.as_uuid());
    let new = NewNodeToken {
        id: token,
        node,
        project: DEFAULT_PROJECT,
        created_by: origin().principal.id,
        name: "lab-3".into(),
        secret_hash,
    };
    assert!(store.create_node_token(&new, &origin()).await.expect("made"));
    let service = Service::new();
    let door = Door::new(service.clone(), store.clone(), Settings::default());
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, format!("Bearer {text}").parse().expect("a header"));

    let mut inside = Vec::new();
    while let Ok(place) = door.admission.enter() {
        inside.push(place);
    }
    let refused = let_in(&door, &headers).await.err().expect("there is no room").0;
    assert_eq!(refused.status, 503);
    assert!(refused.retry_after_ms.is_some_and(|after| (1..60_000).contains(&after)), "{refused:?}");
    inside.pop();
    let (caller, _place) = let_in(&door, &headers).await.expect("there is room");
    assert_eq!((caller.node, caller.newest_epoch), (node, 0));
    drop(inside);
    store.revoke_node_token(token, false, &origin()).await.expect("revoked");
    let refused = let_in(&door, &headers).await.err().expect("it was revoked").0;
    assert_eq!(refused.status, 401);
    assert!(service.stop_within(Duration::from_secs(5)).await);
}
