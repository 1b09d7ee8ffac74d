//! Locations that keys are read from: a file, or the URL of an issuer.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use shared::aws::Causes;

/// Upper bound on what is read, in bytes.
pub(super) const MAX_BYTES: u64 = 1024 * 1024;

/// Time limit of a request for keys.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// A file or a URL, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyLocation {
    File(PathBuf),
    Url(Uri),
}

impl KeyLocation {
    /// Parses a path, or a URL that begins with `https://`. With `http://` anyone on the way could
    /// replace the keys, so it is accepted for this machine only.
    ///
    /// # Errors
    /// The requirement that the text does not meet.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("must be a URL or the path of a file".to_owned());
        }
        if !text.contains("://") {
            return Ok(Self::File(text.into()));
        }
        let wrong = "must be an https:// URL (http:// for localhost only) or the path of a file";
        let url: Uri = text.parse().map_err(|_| wrong.to_owned())?;
        // It would not be sent.
        if url
            .authority()
            .is_some_and(|host| host.as_str().contains('@'))
        {
            return Err("must be a URL without a user name".to_owned());
        }
        let host = url.host().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let is_local = host.eq_ignore_ascii_case("localhost")
            || address
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        match url.scheme_str() {
            Some("https") if !host.is_empty() => Ok(Self::Url(url)),
            Some("http") if is_local => Ok(Self::Url(url)),
            _ => Err(wrong.to_owned()),
        }
    }
}

impl fmt::Display for KeyLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            // A query may contain a secret.
            Self::Url(url) => write!(f, "{}", url.host().unwrap_or_default()),
        }
    }
}

/// Reads the content of a location.
#[derive(Debug)]
pub(super) enum KeyReader {
    File(PathBuf),
    Url(
        Uri,
        Box<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>>,
    ),
}

impl KeyReader {
    /// # Errors
    /// A sentence, if the certificates of this machine, by which issuers are verified, cannot be
    /// read.
    pub(super) fn new(location: KeyLocation) -> Result<Self, String> {
        Ok(match location {
            KeyLocation::File(path) => Self::File(path),
            KeyLocation::Url(url) => {
                let cryptography = rustls::crypto::aws_lc_rs::default_provider();
                let connector = HttpsConnectorBuilder::new()
                    .with_provider_and_native_roots(cryptography)
                    .map_err(|error| {
                        format!("the certificates of this machine cannot be read: {error}")
                    })?
                    .https_or_http()
                    .enable_http1()
                    .build();
                Self::Url(
                    url,
                    Box::new(Client::builder(TokioExecutor::new()).build(connector)),
                )
            }
        })
    }

    pub(super) fn is_url(&self) -> bool {
        matches!(self, Self::Url(..))
    }

    /// Returns the content.
    ///
    /// # Errors
    /// One sentence about what failed.
    pub(super) async fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || read_file(&path))
                    .await
                    .map_err(|error| error.to_string())?
            }
            Self::Url(url, client) => tokio::time::timeout(FETCH_TIMEOUT, fetch(client, url))
                .await
                .unwrap_or_else(|_| Err(format!("did not respond within {FETCH_TIMEOUT:?}"))),
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let mut content = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if content.len() as u64 > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes"));
    }
    Ok(content)
}

/// Fetches a document. Redirects are not followed: the keys are exactly where they were configured.
async fn fetch(
    client: &Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    url: &Uri,
) -> Result<Vec<u8>, String> {
    let response = client
        .get(url.clone())
        .await
        .map_err(|error| format!("cannot be reached: {}", Causes(&error)))?;
    if response.status() != StatusCode::OK {
        return Err(format!(
            "responded with status {}",
            response.status().as_u16()
        ));
    }
    let limit = usize::try_from(MAX_BYTES).unwrap_or(usize::MAX);
    let body = Limited::new(response.into_body(), limit).collect().await;
    body.map(|body| body.to_bytes().into())
        .map_err(|error| format!("sent no complete document of at most {MAX_BYTES} bytes: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_path_or_a_url_that_others_cannot_change() {
        for url in [
            "https://id.example.org/jwks",
            "http://localhost:8080/jwks",
            "http://127.0.0.1/jwks",
            "http://[::1]:9000/jwks",
        ] {
            let location = KeyLocation::parse(url).unwrap();
            assert!(matches!(location, KeyLocation::Url(_)), "{url}");
        }
        for path in ["/etc/keys", "keys.json", "./a b"] {
            let location = KeyLocation::parse(path).unwrap();
            assert_eq!(location, KeyLocation::File(path.into()));
        }
        for wrong in [
            "",
            "http://id.example.org/jwks",
            "ftp://localhost/jwks",
            "https://",
            "https:// x",
            "https://user:s3cret@id.example.org/jwks",
        ] {
            assert!(KeyLocation::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_in_a_url_is_not_shown() {
        let location = KeyLocation::parse("https://id.example.org/jwks?key=s3cret");
        assert_eq!(location.unwrap().to_string(), "id.example.org");
    }
}
