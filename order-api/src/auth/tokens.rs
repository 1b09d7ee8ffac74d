//! Bearer tokens: JSON Web Tokens, signed by the keys of an OpenID Connect issuer.

use std::fmt;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::principal::{Customers, Principal};

/// Difference between the clocks of the issuer and this machine that is tolerated, in seconds.
const CLOCK_SKEW_SECONDS: u64 = 30;

/// Signatures by shorter keys are not accepted (RFC 7518, section 3.3).
const MIN_RSA_BITS: usize = 2048;

/// Upper bound on the keys of an issuer. Issuers have a few.
const MAX_KEYS: usize = 100;

/// Claims that a token must have to be accepted.
#[derive(Clone, Debug)]
pub(super) struct Requirements {
    pub(super) issuer: String,
    pub(super) audience: String,
    /// Name of the claim with the customer id, or `*`.
    pub(super) customer_claim: String,
}

/// Reason for which a token is not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("is not a signed JSON Web Token with an algorithm that this API accepts")]
    Malformed,
    #[error("is signed with a key that is not the issuer's")]
    UnknownKey,
    #[error("has a signature that is not valid")]
    Signature,
    #[error("has expired")]
    Expired,
    #[error("is not valid yet")]
    NotYetValid,
    #[error("is of another issuer")]
    Issuer,
    #[error("is for another audience")]
    Audience,
    #[error("lacks the claim `{0}`, or has it in another form")]
    Claim(String),
    /// The token is valid, but does not state for which customer.
    #[error("names no customer")]
    NoCustomer,
}

/// Public keys of an issuer.
pub(super) struct TokenKeys(Vec<TokenKey>);

struct TokenKey {
    id: Option<String>,
    /// Algorithms for which the key may be used; all of one family, which is that of the key.
    /// A token cannot choose another one, such as `none`, or HMAC with the public key as secret.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl TokenKeys {
    /// Parses a JSON Web Key Set (RFC 7517). Keys that do not verify signatures, keys of types and
    /// algorithms that are not supported, and malformed keys are left out.
    ///
    /// # Errors
    /// One sentence, if the set is malformed or no key is left.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let set: KeySet = serde_json::from_slice(json)
            .map_err(|error| format!("is not a JSON Web Key Set: {error}"))?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("has more than {MAX_KEYS} keys"));
        }
        let mut keys = Vec::new();
        let mut malformed = None;
        for (n, jwk) in set.keys.into_iter().enumerate() {
            match token_key(jwk) {
                Ok(key) => keys.extend(key),
                Err(reason) => {
                    let reason = format!("key {} of the set is malformed: {reason}", n + 1);
                    tracing::warn!(%reason, "a key of the issuer is ignored");
                    malformed.get_or_insert(reason);
                }
            }
        }
        if keys.is_empty() {
            return Err(malformed.unwrap_or_else(|| {
                "has no public key for signatures (RSA, EC P-256, EC P-384 or Ed25519)".to_owned()
            }));
        }
        Ok(Self(keys))
    }

    /// Verifies `token`, and returns the principal that it identifies.
    pub(super) fn verify(
        &self,
        token: &str,
        required: &Requirements,
    ) -> Result<Principal, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        // Extensions that must be understood (RFC 7515, section 4.1.11); none is.
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let key = self.key_of(&header)?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = CLOCK_SKEW_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[&required.issuer]);
        validation.set_audience(&[&required.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let token = jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &validation)
            .map_err(|error| token_error(error.into_kind()))?;
        // The validation accepts a list of issuers as well.
        if !token.claims.get("iss").is_some_and(Value::is_string) {
            return Err(TokenError::Claim("iss".to_owned()));
        }
        principal(&token.claims, required)
    }

    /// Returns the key with the id that the token names. A token without an id is accepted if only
    /// one key can have signed it.
    fn key_of(&self, header: &Header) -> Result<&TokenKey, TokenError> {
        let named = |key: &&TokenKey| match &header.kid {
            Some(id) => key.id.as_ref() == Some(id),
            None => true,
        };
        let mut found = self.0.iter().filter(named).peekable();
        if found.peek().is_none() {
            return Err(TokenError::UnknownKey);
        }
        let mut usable = found.filter(|key| key.algorithms.contains(&header.alg));
        match (usable.next(), usable.next()) {
            (Some(key), None) => Ok(key),
            (None, _) => Err(TokenError::Malformed),
            (Some(_), Some(_)) => Err(TokenError::UnknownKey),
        }
    }
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.0.iter().map(|key| key.id.as_deref());
        f.debug_list().entries(ids).finish()
    }
}

/// A JSON Web Key Set. Issuers add keys of new kinds, so a key that cannot be read does not affect
/// the others (RFC 7517, section 5).
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// Returns the key, unless it is of no use for tokens.
fn token_key(jwk: Value) -> Result<Option<TokenKey>, String> {
    let jwk = Jwk::deserialize(jwk).map_err(|error| error.to_string())?;
    let algorithms = algorithms(&jwk);
    if algorithms.is_empty() {
        return Ok(None);
    }
    if let AlgorithmParameters::RSA(key) = &jwk.algorithm {
        // A digit of base64 has six bits.
        let bits = key.n.trim_start_matches('A').len() * 6;
        if bits < MIN_RSA_BITS {
            return Err(format!("it has fewer than {MIN_RSA_BITS} bits"));
        }
    }
    let key = DecodingKey::from_jwk(&jwk).map_err(|error| format!("{error:?}"))?;
    Ok(Some(TokenKey {
        id: jwk.common.key_id,
        algorithms,
        key,
    }))
}

/// Returns the algorithms for which a key may be used; none if it is not a public key for
/// signatures.
fn algorithms(jwk: &Jwk) -> Vec<Algorithm> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let is_for_signatures = matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    );
    let operations = jwk.common.key_operations.as_ref();
    let verifies = operations.is_none_or(|listed| listed.contains(&KeyOperations::Verify));
    if !is_for_signatures || !verifies {
        return Vec::new();
    }
    let of_type: &[_] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => &[ES256],
            EllipticCurve::P384 => &[ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[EdDSA],
        // A symmetric key is a secret: the issuer does not publish it.
        _ => &[],
    };
    let of_key = |algorithm: &Algorithm| match jwk.common.key_algorithm {
        None => true,
        Some(stated) => Algorithm::try_from(stated).is_ok_and(|stated| stated == *algorithm),
    };
    of_type.iter().copied().filter(of_key).collect()
}

fn token_error(kind: ErrorKind) -> TokenError {
    match kind {
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::NotYetValid,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            TokenError::Claim(claim)
        }
        ErrorKind::InvalidSignature => TokenError::Signature,
        _ => TokenError::Malformed,
    }
}

fn principal(
    claims: &Map<String, Value>,
    required: &Requirements,
) -> Result<Principal, TokenError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let customer = text(&required.customer_claim).ok_or(TokenError::NoCustomer)?;
    let customers = Customers::parse(customer).map_err(|_| TokenError::NoCustomer)?;
    let subject = text("sub").unwrap_or(customer);
    Ok(Principal::new(format!("jwt:{subject}"), customers))
}

#[cfg(test)]
mod tests;
