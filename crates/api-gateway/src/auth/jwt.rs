//! Short-lived tokens: one algorithm, a type for each purpose, keys by id from the database, every claim required. A token says which API key it
//! is for, or was made by; whether that key is still valid is asked for each request.

use domain::{
    ids::{AttemptId, Fence, Held, NodeId},
    principal::Role,
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use store::JwtKey;
use uuid::Uuid;

pub(super) const LIFETIME_S: u64 = 15 * 60;
const LEEWAY_S: u64 = 5;
const ISSUER: &str = "unidesk";

/// What tokens of one purpose say. Made for another purpose, a token is none for this one.
trait Claims: Serialize + DeserializeOwned {
    const AUDIENCE: &str;
    const TYPE: &str;
    fn times(&self) -> Times;
}

/// Seconds since 1970, as whole numbers only.
struct Times {
    iat: u64,
    exp: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessClaims {
    iss: String,
    aud: String,
    sub: Uuid,
    role: Role,
    iat: u64,
    exp: u64,
}

impl Claims for AccessClaims {
    const AUDIENCE: &str = "unidesk-api";
    const TYPE: &str = "unidesk-access+jwt";
    fn times(&self) -> Times {
        Times { iat: self.iat, exp: self.exp }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AttemptClaims {
    iss: String,
    aud: String,
    /// The API key that asked for it.
    sub: Uuid,
    attempt: AttemptId,
    fence: Fence,
    node: NodeId,
    iat: u64,
    exp: u64,
}

impl Claims for AttemptClaims {
    const AUDIENCE: &str = "unidesk-attempt";
    const TYPE: &str = "unidesk-attempt+jwt";
    fn times(&self) -> Times {
        Times { iat: self.iat, exp: self.exp }
    }
}

/// What a token claims, its signature and times being right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) principal: Uuid,
    pub(super) role: Role,
}

/// What a token for one attempt claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClaimedAttempt {
    /// The API key that asked for it.
    pub(super) by: Uuid,
    pub(super) held: Held,
    pub(super) node: NodeId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Expired { ago_s: u64 },
    Invalid,
}

/// None: the key can't sign, which no key of ours does.
pub(super) fn sign(key: &JwtKey, principal: Uuid, role: Role, now_s: i64) -> Option<String> {
    let Times { iat, exp } = times(now_s)?;
    let (iss, aud) = (ISSUER.into(), AccessClaims::AUDIENCE.into());
    encode(key, &AccessClaims { iss, aud, sub: principal, role, iat, exp })
}

/// As [`sign`].
pub(super) fn sign_attempt(key: &JwtKey, what: &ClaimedAttempt, now_s: i64) -> Option<String> {
    let Times { iat, exp } = times(now_s)?;
    let (iss, aud) = (ISSUER.into(), AttemptClaims::AUDIENCE.into());
    let ClaimedAttempt { by, held: Held { attempt, fence }, node } = *what;
    encode(key, &AttemptClaims { iss, aud, sub: by, attempt, fence, node, iat, exp })
}

pub(super) fn verify(token: &str, keys: &[JwtKey], now_s: i64) -> Result<Claimed, Refusal> {
    let claims: AccessClaims = decode(token, keys, now_s)?;
    Ok(Claimed { principal: claims.sub, role: claims.role })
}

pub(super) fn verify_attempt(token: &str, keys: &[JwtKey], now_s: i64) -> Result<ClaimedAttempt, Refusal> {
    let AttemptClaims { sub, attempt, fence, node, .. } = decode(token, keys, now_s)?;
    Ok(ClaimedAttempt { by: sub, held: Held { attempt, fence }, node })
}

fn times(now_s: i64) -> Option<Times> {
    let iat = u64::try_from(now_s).ok()?;
    Some(Times { iat, exp: iat + LIFETIME_S })
}

fn encode<C: Claims>(key: &JwtKey, claims: &C) -> Option<String> {
    let header = Header { typ: Some(C::TYPE.into()), kid: Some(key.kid.clone()), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(&key.secret)).ok()
}

fn decode<C: Claims>(token: &str, keys: &[JwtKey], now_s: i64) -> Result<C, Refusal> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| Refusal::Invalid)?;
    // A key that comes with the token, or an address of one, is the forger's.
    let brings_a_key = header.jku.is_some() || header.jwk.is_some() || header.x5u.is_some() || header.x5c.is_some();
    if header.typ.as_deref() != Some(C::TYPE) || header.alg != Algorithm::HS256 || brings_a_key {
        return Err(Refusal::Invalid);
    }
    let kid = header.kid.ok_or(Refusal::Invalid)?;
    let key = keys.iter().find(|key| key.kid == kid).ok_or(Refusal::Invalid)?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&[C::AUDIENCE]);
    validation.set_issuer(&[ISSUER]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    // The times are checked below, against a clock that a test can set.
    validation.validate_exp = false;
    let token = jsonwebtoken::decode::<C>(token, &DecodingKey::from_secret(&key.secret), &validation)
        .map_err(|_| Refusal::Invalid)?;
    let (Times { iat, exp }, now) = (token.claims.times(), u64::try_from(now_s).unwrap_or(0));
    if exp.checked_sub(iat).is_none_or(|lifetime| lifetime > LIFETIME_S) || iat > now + LEEWAY_S {
        return Err(Refusal::Invalid);
    }
    if exp + LEEWAY_S < now {
        return Err(Refusal::Expired { ago_s: now - exp });
    }
    Ok(token.claims)
}

#[cfg(test)]
mod tests;
