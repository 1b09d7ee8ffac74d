//! Authentication, authorization and rate limits of the API.
//!
//! ```text
//! request ─▶ client_address ─▶ rate_limit (address) ─▶ credentials
//!              ├─ X-API-Key      api_keys  ◀─ key_source ◀─ key_location (file)
//!              └─ Authorization  tokens    ◀─ key_source ◀─ key_location (file or URL)
//!            ─▶ rate_limit (principal) ─▶ Principal
//! ```
//!
//! A handler takes a [`Principal`] as an argument, so that it runs for admitted requests only. The
//! principal contains the customers for which the request may act. A request is admitted or
//! rejected before its body is read.
//!
//! - `options`: [`AuthOptions`], and which combinations are refused.
//! - `key_source` replaces keys while the program runs; `key_location` reads files and URLs.
//! - `api_keys`, `tokens`: the two kinds of credentials; pure.
//! - `security_schemes` documents them.

mod api_keys;
mod client_address;
mod credentials;
mod key_location;
mod key_source;
mod options;
mod principal;
mod rate_limit;
mod security_schemes;
mod tokens;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};
use futures::future::join3;
use ipnet::IpNet;
use shared::runtime::health::Check;
use shared::runtime::server::network::network_of;
use tokio::time::sleep;

use self::api_keys::ApiKeys;
use self::client_address::client_address;
use self::credentials::Credentials;
pub use self::key_location::KeyLocation;
use self::key_source::KeySource;
pub use self::options::{Anonymous, AuthOptions};
pub(crate) use self::principal::Principal;
pub use self::rate_limit::Rate;
use self::rate_limit::RateLimit;
pub(crate) use self::security_schemes::describe;
pub(crate) use self::tokens::TokenError;
use self::tokens::{Requirements, TokenKeys};

/// Pause between two removals of idle rate limits: after a second without requests a rate is fully
/// restored.
const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// Reason for which a request is not admitted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("the request has no credentials")]
    NoCredentials(Schemes),
    #[error("{reason}")]
    Malformed {
        reason: &'static str,
        schemes: Schemes,
    },
    #[error("the API key is not known")]
    UnknownKey(Schemes),
    #[error("the token {0}")]
    Token(TokenError),
    #[error("the keys of tokens could not be read yet")]
    NoTokenKeys,
    #[error("the principal may not act for this customer")]
    OtherCustomer,
    #[error("too many requests")]
    RateLimited {
        subject: &'static str,
        wait: Duration,
    },
}

/// The credentials that an API accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schemes {
    pub(crate) api_keys: bool,
    pub(crate) tokens: bool,
}

/// Decides which requests are admitted.
#[derive(Debug)]
pub(crate) struct Guard {
    api_keys: Option<KeySource<ApiKeys>>,
    tokens: Option<(Arc<KeySource<TokenKeys>>, Requirements)>,
    by_principal: RateLimit<Arc<str>>,
    by_address: RateLimit<IpAddr>,
    by_local_address: RateLimit<IpAddr>,
    trusted_proxies: Vec<IpNet>,
}

impl Guard {
    /// Returns the guard, with the keys of its files.
    ///
    /// # Errors
    /// One sentence, if a file has no valid keys.
    pub(crate) async fn new(options: &AuthOptions) -> Result<Self, String> {
        let api_keys = match &options.keys_file {
            None => None,
            Some(path) => {
                let location = KeyLocation::File(path.clone());
                Some(KeySource::open("ORDER_API_KEYS_FILE", location, ApiKeys::parse).await?)
            }
        };
        let tokens = match (&options.jwks, &options.jwt_issuer, &options.jwt_audience) {
            (Some(location), Some(issuer), Some(audience)) => {
                let keys = KeySource::open("ORDER_API_JWKS", location.clone(), TokenKeys::parse);
                let required = Requirements {
                    issuer: issuer.clone(),
                    audience: audience.clone(),
                    customer_claim: options.jwt_customer_claim.clone(),
                };
                Some((Arc::new(keys.await?), required))
            }
            _ => None,
        };
        let (address_rate, local_rate) = options.address_rates();
        Ok(Self {
            api_keys,
            tokens,
            by_principal: RateLimit::new(options.principal_rate),
            by_address: RateLimit::new(address_rate),
            by_local_address: RateLimit::new(local_rate),
            trusted_proxies: options.trusted_proxies.clone(),
        })
    }

    pub(crate) fn schemes(&self) -> Schemes {
        Schemes {
            api_keys: self.api_keys.is_some(),
            tokens: self.tokens.is_some(),
        }
    }

    /// Keeps keys and rate limits current. Never returns.
    pub(crate) async fn keep_current(&self) {
        let api_keys = async {
            if let Some(keys) = &self.api_keys {
                keys.keep_current().await;
            }
        };
        let tokens = async {
            if let Some((keys, _)) = &self.tokens {
                keys.keep_current().await;
            }
        };
        let rate_limits = async {
            loop {
                sleep(FORGET_INTERVAL).await;
                self.by_principal.forget_idle_keys();
                self.by_address.forget_idle_keys();
                self.by_local_address.forget_idle_keys();
            }
        };
        join3(api_keys, tokens, rate_limits).await;
    }

    /// Checks that tokens can be verified; `None` if none are accepted.
    pub(crate) fn check(&self) -> Option<Check> {
        let (keys, _) = self.tokens.as_ref()?;
        Some(match keys.current() {
            Some(_) => Check::pass("token keys"),
            None => Check::fail("token keys", "the issuer's keys could not be read yet"),
        })
    }

    /// Admits a request, or returns why not.
    pub(crate) async fn admit(&self, request: &Parts) -> Result<Principal, Denied> {
        let headers = &request.headers;
        let peer = peer(&request.extensions);
        self.limit_address(client_address(peer, headers, &self.trusted_proxies))?;
        let principal = self.authenticate(headers).await?;
        if let Some(id) = principal.id() {
            limited("key or token", self.by_principal.check(id))?;
        }
        Ok(principal)
    }

    fn limit_address(&self, address: IpAddr) -> Result<(), Denied> {
        let limit = if address.is_loopback() {
            &self.by_local_address
        } else {
            &self.by_address
        };
        limited("address", limit.check(&network_of(address)))
    }

    async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Denied> {
        let schemes = self.schemes();
        if !schemes.api_keys && !schemes.tokens {
            return Ok(Principal::anonymous());
        }
        match (Credentials::of(headers), &self.api_keys, &self.tokens) {
            (Credentials::None, ..) => Err(Denied::NoCredentials(schemes)),
            (Credentials::Malformed(reason), ..) => Err(Denied::Malformed { reason, schemes }),
            (Credentials::ApiKey(key), Some(keys), _) => {
                let keys = keys.current();
                let found = keys.as_ref().and_then(|keys| keys.find(key.as_bytes()));
                found.cloned().ok_or(Denied::UnknownKey(schemes))
            }
            (Credentials::Bearer(token), _, Some((keys, required))) => {
                verify(token, keys, required).await
            }
            (Credentials::ApiKey(_), None, _) => Err(Denied::Malformed {
                reason: "This API accepts no API keys; send a bearer token.",
                schemes,
            }),
            (Credentials::Bearer(_), _, None) => Err(Denied::Malformed {
                reason: "This API accepts no bearer tokens; send an API key as X-API-Key.",
                schemes,
            }),
        }
    }
}

/// Verifies a token; also one whose key the issuer has published only recently.
async fn verify(
    token: &str,
    source: &Arc<KeySource<TokenKeys>>,
    required: &Requirements,
) -> Result<Principal, Denied> {
    let keys = match source.current() {
        Some(keys) => keys,
        None => source.refresh(None).await.ok_or(Denied::NoTokenKeys)?,
    };
    let verified = match keys.verify(token, required) {
        Err(TokenError::UnknownKey) => match source.refresh(Some(&keys)).await {
            Some(newer) => newer.verify(token, required),
            None => Err(TokenError::UnknownKey),
        },
        verified => verified,
    };
    verified.map_err(Denied::Token)
}

fn limited(subject: &'static str, checked: Result<(), Duration>) -> Result<(), Denied> {
    checked.map_err(|wait| Denied::RateLimited { subject, wait })
}

/// Returns the address that the connection of a request comes from. The server adds it to every
/// request.
fn peer(extensions: &Extensions) -> IpAddr {
    extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip())
}
