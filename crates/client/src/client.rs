//! The client itself: where the server is, who asks, and how patient it is.

use crate::ClientError;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use std::{sync::Arc, time::Duration};
use trust::Trust;

/// A request that did not get through and is about to be tried again. For a line on the terminal.
#[derive(Clone, Debug)]
pub struct Trouble {
    pub why: String,
    pub tries: u32,
    pub next_in: Duration,
}

pub(crate) type OnTrouble = Arc<dyn Fn(&Trouble) + Send + Sync>;

/// A handle, cheap to clone. Every function may be called concurrently.
#[derive(Clone)]
pub struct Client {
    pub(crate) http: reqwest::Client,
    /// `https://host:port`, without a slash at the end.
    pub(crate) base_url: Arc<str>,
    /// Pauses between tries of one request.
    pub(crate) pauses: Arc<[Duration]>,
    pub(crate) on_trouble: Option<OnTrouble>,
    /// A followed stream that is silent for so long is opened anew; servers send a comment every 15 s.
    pub(crate) idle: Duration,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

impl Client {
    /// `token`: an API key or a JWT; empty for none. Does not connect.
    ///
    /// Errors: `Protocol` when the address is not one.
    pub fn new(base_url: impl AsRef<str>, token: impl AsRef<str>) -> Result<Self, ClientError> {
        Self::trusting(base_url, token, &Trust::default())
    }

    /// The same, for a server whose certificate may be of these authorities.
    pub fn trusting(base_url: impl AsRef<str>, token: impl AsRef<str>, trust: &Trust) -> Result<Self, ClientError> {
        let base_url = base_url.as_ref().trim().trim_end_matches('/').to_owned();
        let wrong = |what: String| ClientError::Protocol { url: base_url.clone(), what };
        let url = reqwest::Url::parse(&base_url).map_err(|error| wrong(format!("this is not an address: {error}")))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        if !matches!(url.scheme(), "http" | "https") || host.is_empty() {
            return Err(wrong("an address begins with http:// or https://".into()));
        }
        let mut headers = HeaderMap::new();
        let token = token.as_ref().trim();
        if !token.is_empty() {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| wrong("the token has characters that no token has".into()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("unidesk/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            // A redirect would turn a POST into a GET, or carry the token elsewhere.
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&host) {
            http = http.no_proxy();
        }
        http = match url.scheme() {
            // No certificate is looked at, so a machine without a set of them must not fail for it.
            "http" => http.tls_certs_only(std::iter::empty()),
            // What was shown is kept for `look`: when it ends.
            _ => http.tls_certs_merge(trust.certificates().flat_map(reqwest::Certificate::from_der)).tls_info(true),
        };
        let http =
            http.build().map_err(|error| wrong(format!("TLS can't be set up: {}", crate::error::reason(&error))))?;
        Ok(Self {
            http,
            base_url: base_url.into(),
            pauses: PAUSES.into(),
            on_trouble: None,
            idle: Duration::from_secs(60),
        })
    }

    /// Replaces the pauses between tries of one request; none: one try only.
    pub fn with_pauses(mut self, pauses: impl Into<Vec<Duration>>) -> Self {
        self.pauses = pauses.into().into();
        self
    }

    /// Tells of every try that failed and will be repeated.
    pub fn on_trouble(mut self, tell: impl Fn(&Trouble) + Send + Sync + 'static) -> Self {
        self.on_trouble = Some(Arc::new(tell));
        self
    }

    /// Replaces the silence after which a followed stream is opened anew.
    pub fn with_idle_timeout(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/api/v1{path}", self.base_url)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
