//! An OpenID Connect issuer: a signing key, its JSON Web Key Set, and tokens.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://id.example.org";
pub(crate) const AUDIENCE: &str = "orders";

pub(crate) struct Issuer {
    key_id: String,
    key: EncodingKey,
}

impl Issuer {
    pub(crate) fn new(key_id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self {
            key_id: key_id.to_owned(),
            key: EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()),
        }
    }

    /// Returns the JSON Web Key Set with the public key.
    pub(crate) fn key_set(&self) -> String {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(self.key_id.clone());
        json!({ "keys": [jwk] }).to_string()
    }

    /// Returns a token of a customer that is valid for 5 minutes.
    pub(crate) fn token(&self, customer: &str) -> String {
        self.token_with(customer, |_| {})
    }

    /// Returns a token whose claims were changed.
    pub(crate) fn token_with(&self, customer: &str, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = json!({
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": format!("user of {customer}"),
            "exp": get_current_timestamp() + 300,
            "customer_id": customer,
        });
        change(&mut claims);
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        encode(&header, &claims, &self.key).unwrap()
    }
}

/// A server with the key set of an issuer.
pub(crate) struct KeyServer {
    address: SocketAddr,
    /// The document; `None` for an error.
    document: Arc<Mutex<Option<String>>>,
}

impl KeyServer {
    pub(crate) async fn start(document: Option<String>) -> Self {
        let document = Arc::new(Mutex::new(document));
        let served = Arc::clone(&document);
        let respond = move || {
            let document = served.lock().unwrap().clone();
            async { document.ok_or(StatusCode::SERVICE_UNAVAILABLE) }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/jwks", get(respond));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, document }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/jwks", self.address)
    }

    pub(crate) fn serve(&self, document: String) {
        *self.document.lock().unwrap() = Some(document);
    }
}
