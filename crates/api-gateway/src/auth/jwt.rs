//! Short-lived tokens: one algorithm, one type, keys by id from the database, every claim required. A token says who it is for;
//! whether that key is still valid is asked for each request.

use domain::principal::Role;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use store::JwtKey;
use uuid::Uuid;

pub(super) const LIFETIME_S: u64 = 15 * 60;
const LEEWAY_S: u64 = 5;
const ISSUER: &str = "unidesk";
const AUDIENCE: &str = "unidesk-api";
/// A token made for another purpose is none for this one.
const TYPE: &str = "unidesk-access+jwt";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    iss: String,
    aud: String,
    sub: Uuid,
    role: Role,
    /// Seconds since 1970, as whole numbers only.
    iat: u64,
    exp: u64,
}

/// What a token claims, its signature and times being right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) principal: Uuid,
    pub(super) role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Expired { ago_s: u64 },
    Invalid,
}

/// None: the key can't sign, which no key of ours does.
pub(super) fn sign(key: &JwtKey, principal: Uuid, role: Role, now_s: i64) -> Option<String> {
    let iat = u64::try_from(now_s).ok()?;
    let claims = Claims { iss: ISSUER.into(), aud: AUDIENCE.into(), sub: principal, role, iat, exp: iat + LIFETIME_S };
    let header = Header { typ: Some(TYPE.into()), kid: Some(key.kid.clone()), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&key.secret)).ok()
}

pub(super) fn verify(token: &str, keys: &[JwtKey], now_s: i64) -> Result<Claimed, Refusal> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| Refusal::Invalid)?;
    // A key that comes with the token, or an address of one, is the forger's.
    let brings_a_key = header.jku.is_some() || header.jwk.is_some() || header.x5u.is_some() || header.x5c.is_some();
    if header.typ.as_deref() != Some(TYPE) || header.alg != Algorithm::HS256 || brings_a_key {
        return Err(Refusal::Invalid);
    }
    let kid = header.kid.ok_or(Refusal::Invalid)?;
    let key = keys.iter().find(|key| key.kid == kid).ok_or(Refusal::Invalid)?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&[AUDIENCE]);
    validation.set_issuer(&[ISSUER]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    // The times are checked below, against a clock that a test can set.
    validation.validate_exp = false;
    let token = jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(&key.secret), &validation)
        .map_err(|_| Refusal::Invalid)?;
    let (claims, now) = (token.claims, u64::try_from(now_s).unwrap_or(0));
    if claims.exp.checked_sub(claims.iat).is_none_or(|lifetime| lifetime > LIFETIME_S) || claims.iat > now + LEEWAY_S {
        return Err(Refusal::Invalid);
    }
    if claims.exp + LEEWAY_S < now {
        return Err(Refusal::Expired { ago_s: now - claims.exp });
    }
    Ok(Claimed { principal: claims.sub, role: claims.role })
}

#[cfg(test)]
mod tests;
