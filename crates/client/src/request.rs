//! One request with its tries. What may be repeated is repeated, with the same `Idempotency-Key`, so that a cut connection never
//! makes two tasks.

use crate::{
    Client, ClientError, Trouble,
    error::{reason, refusal},
};
use bytes::Bytes;
use reqwest::{Method, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use std::time::{Duration, Instant};

/// Of most calls.
const TRY_TIMEOUT: Duration = Duration::from_secs(30);
/// No further try is begun after this.
const BUDGET: Duration = Duration::from_secs(8);

/// What is sent. Built once; every try sends the same.
pub(crate) struct Call {
    method: Method,
    url: String,
    body: Option<Bytes>,
    key: Option<String>,
    /// Repeating it after it may have arrived does no harm.
    repeatable: bool,
    /// The time that one try may take, answer included.
    timeout: Duration,
}

impl Call {
    fn body(mut self, body: &impl Serialize) -> Result<Self, ClientError> {
        let json = serde_json::to_vec(body).map_err(|error| ClientError::Protocol {
            url: self.url.clone(),
            what: format!("unsendable body: {error}"),
        })?;
        self.body = Some(json.into());
        Ok(self)
    }
}

impl Client {
    fn call(&self, method: Method, path: &str) -> Call {
        Call { method, url: self.url(path), body: None, key: None, repeatable: true, timeout: TRY_TIMEOUT }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, query: &impl Serialize) -> Result<T, ClientError> {
        let mut call = self.call(Method::GET, path);
        let request = self.http.get(&call.url).query(query).build();
        call.url = request.map_err(|source| self.unreachable(source, 1, Instant::now()))?.url().to_string();
        self.json(call).await
    }

    /// A POST that creates: the key makes the server answer a repeat as it answered the first.
    pub(crate) async fn create<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        key: Option<&str>,
    ) -> Result<T, ClientError> {
        let mut call = self.call(Method::POST, path).body(body)?;
        call.key = Some(key.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned));
        self.json(call).await
    }

    /// A POST that is repeatable by nature: asking twice to cancel or to drain is asking once.
    pub(crate) async fn act<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.json(self.call(Method::POST, path).body(body)?).await
    }

    /// The same, for what may take the server so long.
    pub(crate) async fn act_within<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<T, ClientError> {
        let mut call = self.call(Method::POST, path).body(body)?;
        call.timeout = timeout;
        self.json(call).await
    }

    /// A POST that must not be repeated once it may have arrived.
    pub(crate) async fn act_once<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let mut call = self.call(Method::POST, path).body(body)?;
        call.repeatable = false;
        self.json(call).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.bytes(&self.call(Method::DELETE, path)).await.map(drop)
    }

    async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let body = self.bytes(&call).await?;
        serde_json::from_slice(&body).map_err(|error| ClientError::Protocol {
            url: call.url,
            what: format!("its answer is not understood ({error}); is it of another version?"),
        })
    }

    /// Sends until it is answered, refused, or the tries are used up.
    async fn bytes(&self, call: &Call) -> Result<Bytes, ClientError> {
        let began = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            let (error, asked_pause) = match self.try_once(call).await {
                Ok(answer) if answer.status.is_success() => return Ok(answer.body),
                Ok(answer) => {
                    let error = refusal(&call.url, answer.status, &answer.body);
                    if !answer.is_passing() {
                        return Err(error);
                    }
                    (error, answer.retry_after)
                }
                Err(error) => {
                    let may_have_arrived = !error.is_connect();
                    let error = self.unreachable(error, tries, began);
                    if may_have_arrived && !call.repeatable {
                        return Err(error);
                    }
                    (error, None)
                }
            };
            let Some(pause) = self.pauses.get(tries as usize - 1) else { return Err(error) };
            let pause = asked_pause.unwrap_or(*pause);
            if began.elapsed() + pause > BUDGET {
                return Err(error);
            }
            if let Some(tell) = &self.on_trouble {
                let why = match &error {
                    ClientError::Unreachable { why, .. } => why.clone(),
                    other => other.to_string(),
                };
                tell(&Trouble { why, tries, next_in: pause });
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn try_once(&self, call: &Call) -> Result<Answer, reqwest::Error> {
        let mut request = self
            .http
            .request(call.method.clone(), &call.url)
            .timeout(call.timeout)
            .header(header::ACCEPT, "application/json, application/problem+json");
        if let Some(body) = &call.body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        if let Some(key) = &call.key {
            request = request.header("idempotency-key", key);
        }
        let response = request.send().await?;
        Ok(Answer {
            status: response.status(),
            retry_after: retry_after(response.headers()),
            body: response.bytes().await?,
        })
    }

    pub(crate) fn unreachable(&self, source: reqwest::Error, tries: u32, began: Instant) -> ClientError {
        let why = reason(&source);
        ClientError::Unreachable { url: self.base_url.to_string(), why, tries, waited: began.elapsed(), source }
    }
}

struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Bytes,
}

impl Answer {
    /// The server, or the proxy before it, did nothing and may do it in a moment.
    fn is_passing(&self) -> bool {
        matches!(
            self.status,
            StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::GATEWAY_TIMEOUT
        )
    }
}

/// Whole seconds only: the date form is for caches, and this server does not use it.
pub(crate) fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}
