use super::*;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

const NOW: i64 = 1_800_000_000;

fn key() -> JwtKey {
    JwtKey { kid: "k1".into(), secret: vec![7; 32] }
}
fn header() -> Value {
    json!({"alg": "HS256", "typ": AccessClaims::TYPE, "kid": "k1"})
}
fn claims() -> Value {
    json!({"iss": ISSUER, "aud": AccessClaims::AUDIENCE, "sub": Uuid::from_u128(5), "role": "member", "iat": NOW, "exp": NOW + 900})
}

/// Signed with the right secret, whatever it says.
fn forge(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let key = EncodingKey::from_secret(&key().secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("signs");
    format!("{message}.{signature}")
}
fn with(mut value: Value, name: &str, new: Value) -> Value {
    value[name] = new;
    value
}
fn without(mut value: Value, name: &str) -> Value {
    value.as_object_mut().expect("an object").remove(name);
    value
}

#[test]
fn a_token_holds_for_fifteen_minutes_and_five_seconds_of_leeway() {
    let token = sign(&key(), Uuid::from_u128(5), Role::Member, NOW).expect("signs");
    let claimed = Claimed { principal: Uuid::from_u128(5), role: Role::Member };
    for at in [NOW - 5, NOW, NOW + 900, NOW + 905] {
        assert_eq!(verify(&token, &[key()], at), Ok(claimed), "at {at}");
    }
    assert_eq!(verify(&token, &[key()], NOW + 906), Err(Refusal::Expired { ago_s: 6 }));
    assert_eq!(verify(&token, &[key()], NOW - 6), Err(Refusal::Invalid));
    assert_eq!(verify(&forge(&header(), &claims()), &[key()], NOW), Ok(claimed), "the forge makes good tokens");
}

#[test]
fn a_token_of_another_make_is_refused() {
    let headers = [
        with(header(), "alg", json!("none")),
        with(header(), "alg", json!("None")),
        with(header(), "alg", json!("nOnE")),
        with(header(), "alg", json!("HS512")),
        with(header(), "alg", json!("RS256")),
        with(header(), "kid", json!("../../dev/null")),
        with(header(), "kid", json!("' OR 1=1")),
        with(header(), "kid", json!(1)),
        without(header(), "kid"),
        with(header(), "typ", json!("JWT")),
        without(header(), "typ"),
        with(header(), "jku", json!("https://evil.example/keys")),
        with(header(), "x5u", json!("https://evil.example/cert")),
        with(header(), "jwk", json!({"kty": "oct", "k": "AAAA"})),
    ];
    for header in headers {
        assert_eq!(verify(&forge(&header, &claims()), &[key()], NOW), Err(Refusal::Invalid), "{header}");
    }
}

#[test]
fn every_claim_is_required_and_of_its_type() {
    let wrong = [
        with(claims(), "aud", json!("another-service")),
        with(claims(), "aud", json!([AccessClaims::AUDIENCE])),
        with(claims(), "iss", json!("somebody")),
        with(claims(), "sub", json!("nobody")),
        with(claims(), "role", json!("owner")),
        with(claims(), "exp", json!("9999999999")),
        with(claims(), "exp", json!(NOW as f64 + 0.5)),
        with(claims(), "exp", json!(NOW + 86_400)),
        with(claims(), "exp", json!(u64::MAX)),
        with(claims(), "exp", json!(-1)),
        with(claims(), "exp", Value::Null),
        with(claims(), "iat", json!("0")),
        with(claims(), "nbf", json!("0")),
    ];
    let missing = ["iss", "aud", "sub", "role", "iat", "exp"].map(|name| without(claims(), name));
    for claims in wrong.into_iter().chain(missing) {
        assert_eq!(verify(&forge(&header(), &claims), &[key()], NOW), Err(Refusal::Invalid), "{claims}");
    }
}

#[test]
fn a_changed_or_unsigned_token_is_refused() {
    let token = forge(&header(), &claims());
    let (message, _) = token.rsplit_once('.').expect("three parts");
    let other = JwtKey { secret: vec![8; 32], ..key() };
    let hostile = [
        format!("{message}."),
        message.to_owned(),
        format!("{message}.AAAA"),
        "a.b.c".into(),
        String::new(),
        "x".repeat(4_096),
    ];
    for token in hostile {
        assert_eq!(verify(&token, &[key()], NOW), Err(Refusal::Invalid));
    }
    assert_eq!(verify(&token, &[other], NOW), Err(Refusal::Invalid));
    assert_eq!(verify(&token, &[], NOW), Err(Refusal::Invalid));
}

#[test]
fn a_token_for_an_attempt_opens_that_attempt_and_no_token_passes_for_another_kind() {
    let held = Held { attempt: AttemptId::from_uuid(Uuid::from_u128(7)), fence: Fence::from_i64(3) };
    let what = ClaimedAttempt { by: Uuid::from_u128(5), held, node: NodeId::from_uuid(Uuid::from_u128(9)) };
    let token = sign_attempt(&key(), &what, NOW).expect("signs");
    assert_eq!(verify_attempt(&token, &[key()], NOW + 905), Ok(what));
    assert_eq!(verify_attempt(&token, &[key()], NOW + 906), Err(Refusal::Expired { ago_s: 6 }));
    assert_eq!(verify(&token, &[key()], NOW), Err(Refusal::Invalid));
    let access = sign(&key(), Uuid::from_u128(5), Role::Admin, NOW).expect("signs");
    assert_eq!(verify_attempt(&access, &[key()], NOW), Err(Refusal::Invalid));
    // Nor with its type alone.
    let disguised = forge(&with(header(), "typ", json!(AttemptClaims::TYPE)), &claims());
    assert_eq!(verify_attempt(&disguised, &[key()], NOW), Err(Refusal::Invalid));
}
