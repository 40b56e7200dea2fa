//! Bodies and query strings of requests: bounded, of the right type, and refused with the place of the fault.

use crate::{ApiError, strict_json};
use api_types::Problem;
use axum::{
    body::Body,
    extract::{Query, Request},
    http::{Uri, header},
};
use domain::fault::Fault;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// Of every body but that of a batch.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// After a refusal so much more is read and thrown away, so that a sender that does not listen meanwhile sees the answer.
const DRAINED_BYTES: usize = 4 << 20;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The body as JSON. Errors: 413, 415, 400 with line and column, 422 for JSON that is not taken.
pub async fn json(request: Request, limit: usize) -> Result<Value, ApiError> {
    parse(&json_bytes(request, limit).await?)
}

/// The bytes of a JSON body, for those who parse elsewhere.
pub async fn json_bytes(request: Request, limit: usize) -> Result<Vec<u8>, ApiError> {
    require_json_type(&request)?;
    bytes(request, limit).await
}

/// As [`json`], read into a type that refuses fields it does not know.
pub async fn typed<T: DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let value = json(request, MAX_BODY_BYTES).await?;
    serde_json::from_value(value).map_err(|error| ApiError::new("invalid-request", format!("{error}.")))
}

/// As [`typed`], for bodies that may be left out.
pub async fn typed_or_default<T: DeserializeOwned + Default>(request: Request) -> Result<T, ApiError> {
    let body = bytes(request, MAX_BODY_BYTES).await?;
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_value(parse(&body)?).map_err(|error| ApiError::new("invalid-request", format!("{error}.")))
}

pub fn parse(body: &[u8]) -> Result<Value, ApiError> {
    if body.trim_ascii().is_empty() {
        return Err(ApiError::new("malformed-json", "The body is empty; JSON is expected."));
    }
    strict_json::parse(body).map_err(|fault| {
        let (word, code) =
            if fault.is_json { ("invalid-request", "not_taken") } else { ("malformed-json", "malformed") };
        let detail = format!("line {}, column {}: {}", fault.line, fault.column, fault.what);
        Problem::new(word, detail.clone())
            .errors(vec![Fault::new("#", code, detail)])
            .with("line", fault.line)
            .with("column", fault.column)
            .into()
    })
}

/// The query string. Fields that nobody knows are refused, and so is a NUL, which PostgreSQL's text can't hold.
pub fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let wrong = |detail: String| -> ApiError {
        let fault = Fault::new("", "invalid_parameter", detail.clone());
        Problem::new("invalid-request", detail).errors(vec![fault]).into()
    };
    if uri.query().is_some_and(|query| query.contains("%00")) {
        return Err(wrong("The query has a NUL character.".into()));
    }
    match Query::<T>::try_from_uri(uri) {
        Ok(Query(query)) => Ok(query),
        Err(error) => {
            let text = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Err(wrong(format!("The query is not understood: {text}.")))
        }
    }
}

fn require_json_type(request: &Request) -> Result<(), ApiError> {
    let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json") {
        return Ok(());
    }
    let detail = if given.is_empty() {
        "The body has no type; send Content-Type: application/json.".to_owned()
    } else {
        let cut: String = essence.chars().take(80).collect();
        format!("The body is said to be {cut}; send Content-Type: application/json.")
    };
    Err(ApiError::new("unsupported-media-type", detail))
}

async fn bytes(request: Request, limit: usize) -> Result<Vec<u8>, ApiError> {
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    let waits_for_a_word = request.headers().contains_key(header::EXPECT);
    let mut body = request.into_body();
    if let Some(size) = announced.filter(|size| *size > limit as u64) {
        if !waits_for_a_word && size <= (limit + DRAINED_BYTES) as u64 {
            drain(&mut body).await;
        }
        return Err(too_large(limit, Some(size)));
    }
    let read = async {
        let mut bytes = Vec::with_capacity(announced.unwrap_or(0) as usize);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                tracing::debug!(%error, "a body was cut");
                ApiError::new("malformed-json", "The body ended before its end.")
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > limit {
                drain(&mut body).await;
                return Err(too_large(limit, None));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    };
    tokio::time::timeout(BODY_TIMEOUT, read)
        .await
        .unwrap_or_else(|_| Err(ApiError::new("malformed-json", "The body did not arrive within 30 seconds.")))
}

async fn drain(body: &mut Body) {
    let read = async {
        let mut drained = 0;
        while drained < DRAINED_BYTES
            && let Some(Ok(frame)) = body.frame().await
        {
            drained += frame.data_ref().map_or(0, |data| data.len());
        }
    };
    // Out of patience: the connection is closed under the sender.
    let _ = tokio::time::timeout(Duration::from_secs(2), read).await;
}

fn too_large(limit: usize, size: Option<u64>) -> ApiError {
    let detail = match size {
        Some(size) => format!("The body has {size} bytes; at most {limit} are taken here."),
        None => format!("The body has more than the {limit} bytes that are taken here."),
    };
    let problem = Problem::new("too-large", detail).with("limit_bytes", limit);
    match size {
        Some(size) => problem.with("size_bytes", size).into(),
        None => problem.into(),
    }
}
