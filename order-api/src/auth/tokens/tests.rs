use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use jsonwebtoken::{EncodingKey, get_current_timestamp};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn required() -> Requirements {
    Requirements {
        issuer: "https://id.example.org".to_owned(),
        audience: "orders".to_owned(),
        customer_claim: "customer_id".to_owned(),
    }
}

fn ec_key() -> EncodingKey {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref())
}

fn ed_key() -> EncodingKey {
    let pair = Ed25519KeyPair::generate().unwrap();
    EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref())
}

fn jwk(id: &str, key: &EncodingKey, algorithm: Algorithm) -> Value {
    let mut jwk = Jwk::from_encoding_key(key, algorithm).unwrap();
    jwk.common.key_id = Some(id.to_owned());
    serde_json::to_value(jwk).unwrap()
}

fn key_set(keys: &[Value]) -> Result<TokenKeys, String> {
    TokenKeys::parse(json!({ "keys": keys }).to_string().as_bytes())
}

fn claims() -> Value {
    let now = get_current_timestamp();
    json!({
        "iss": "https://id.example.org",
        "aud": "orders",
        "sub": "user-7",
        "exp": now + 300,
        "nbf": now,
        "customer_id": "c-1",
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

fn header(algorithm: Algorithm, id: &str) -> Header {
    let mut header = Header::new(algorithm);
    header.kid = Some(id.to_owned());
    header
}

#[test]
fn a_token_of_the_issuer_identifies_its_subject_and_customer() {
    let (ec, ed) = (ec_key(), ed_key());
    let keys = key_set(&[
        jwk("ec", &ec, Algorithm::ES256),
        jwk("ed", &ed, Algorithm::EdDSA),
    ])
    .unwrap();
    for (header, key) in [
        (header(Algorithm::ES256, "ec"), &ec),
        (header(Algorithm::EdDSA, "ed"), &ed),
        // Only one key has this algorithm.
        (Header::new(Algorithm::EdDSA), &ed),
    ] {
        let token = jsonwebtoken::encode(&header, &claims(), key).unwrap();
        let principal = keys.verify(&token, &required()).unwrap();
        assert_eq!(principal.id().unwrap().as_ref(), "jwt:user-7");
        assert!(principal.may_act_for(&"c-1".to_owned().try_into().unwrap()));
        assert!(!principal.may_act_for(&"c-2".to_owned().try_into().unwrap()));
    }
}

#[test]
fn every_claim_is_checked() {
    let key = ec_key();
    let keys = key_set(&[jwk("k", &key, Algorithm::ES256)]).unwrap();
    let now = get_current_timestamp();
    let claim = |name: &str| TokenError::Claim(name.to_owned());
    for (claims, error) in [
        (with("exp", json!(now - 31)), TokenError::Expired),
        (with("exp", Value::Null), claim("exp")),
        (with("exp", json!("soon")), claim("exp")),
        (with("nbf", json!(now + 60)), TokenError::NotYetValid),
        (
            with("iss", json!("https://evil.example")),
            TokenError::Issuer,
        ),
        (with("iss", Value::Null), claim("iss")),
        (with("iss", json!(["https://id.example.org"])), claim("iss")),
        (with("aud", json!("billing")), TokenError::Audience),
        (with("aud", json!(["billing"])), TokenError::Audience),
        (with("aud", json!([])), TokenError::Audience),
        (with("aud", Value::Null), claim("aud")),
        (with("customer_id", Value::Null), TokenError::NoCustomer),
        (with("customer_id", json!(7)), TokenError::NoCustomer),
        (with("customer_id", json!("c/1")), TokenError::NoCustomer),
        (with("customer_id", json!(["c-1"])), TokenError::NoCustomer),
    ] {
        let token = jsonwebtoken::encode(&header(Algorithm::ES256, "k"), &claims, &key).unwrap();
        assert_eq!(keys.verify(&token, &required()), Err(error), "{claims}");
    }
    for accepted in [
        with("exp", json!(now - 20)),
        with("nbf", json!(now + 20)),
        with("nbf", Value::Null),
        with("aud", json!(["billing", "orders"])),
        with("sub", Value::Null),
        with("customer_id", json!("*")),
    ] {
        let token = jsonwebtoken::encode(&header(Algorithm::ES256, "k"), &accepted, &key).unwrap();
        assert!(keys.verify(&token, &required()).is_ok(), "{accepted}");
    }
}

#[test]
fn only_the_keys_of_the_issuer_are_accepted() {
    let (own, foreign) = (ec_key(), ec_key());
    let keys = key_set(&[jwk("k", &own, Algorithm::ES256)]).unwrap();
    let encode = |header: &Header, key: &EncodingKey| {
        let token = jsonwebtoken::encode(header, &claims(), key).unwrap();
        keys.verify(&token, &required()).unwrap_err()
    };
    let signed_by_other = encode(&header(Algorithm::ES256, "k"), &foreign);
    assert_eq!(signed_by_other, TokenError::Signature);
    let unknown_id = encode(&header(Algorithm::ES256, "other"), &foreign);
    assert_eq!(unknown_id, TokenError::UnknownKey);
    // The key within the token is the sender's own.
    let mut embedded = header(Algorithm::ES256, "k");
    embedded.jwk = Some(Jwk::from_encoding_key(&foreign, Algorithm::ES256).unwrap());
    assert_eq!(encode(&embedded, &foreign), TokenError::Signature);
    let mut critical = header(Algorithm::ES256, "k");
    critical.crit = Some(vec!["b64".to_owned()]);
    assert_eq!(encode(&critical, &own), TokenError::Malformed);
}

#[test]
fn a_token_cannot_choose_its_algorithm() {
    let key = ec_key();
    let public = jwk("k", &key, Algorithm::ES256);
    let keys = key_set(std::slice::from_ref(&public)).unwrap();
    let secret = public["x"].as_str().unwrap();
    let hmac = EncodingKey::from_secret(secret.as_bytes());
    let token = jsonwebtoken::encode(&header(Algorithm::HS256, "k"), &claims(), &hmac).unwrap();
    assert_eq!(keys.verify(&token, &required()), Err(TokenError::Malformed));

    // `{"alg":"none","typ":"JWT"}`, `{"alg":"None","kid":"k"}`
    let signed = jsonwebtoken::encode(&header(Algorithm::ES256, "k"), &claims(), &key).unwrap();
    let payload = signed.split('.').nth(1).unwrap();
    let signature = signed.split('.').nth(2).unwrap();
    for unsigned in [
        "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0",
        "eyJhbGciOiJOb25lIiwia2lkIjoiayJ9",
    ] {
        for signature in ["", signature] {
            let token = format!("{unsigned}.{payload}.{signature}");
            assert_eq!(keys.verify(&token, &required()), Err(TokenError::Malformed));
        }
    }
    for malformed in ["", ".", "..", "a.b.c", &signed[1..], payload] {
        assert_eq!(
            keys.verify(malformed, &required()),
            Err(TokenError::Malformed),
            "{malformed}"
        );
    }
}

#[test]
fn a_key_set_must_have_a_public_key_for_signatures() {
    let key = ec_key();
    let mut encryption = jwk("k", &key, Algorithm::ES256);
    encryption["use"] = json!("enc");
    let mut other_algorithm = jwk("k", &key, Algorithm::ES256);
    other_algorithm["alg"] = json!("ECDH-ES");
    let symmetric = json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"});
    let unknown = json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"});
    let mut other_operation = jwk("k", &key, Algorithm::ES256);
    other_operation["key_ops"] = json!(["deriveKey"]);
    let other_curve = json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"});
    let unusable = [
        encryption,
        other_algorithm,
        other_operation,
        other_curve,
        symmetric,
        unknown,
    ];
    let reason = key_set(&unusable).unwrap_err();
    assert!(reason.contains("no public key"), "{reason}");
    let mut usable = unusable.to_vec();
    usable.push(jwk("k", &key, Algorithm::ES256));
    assert_eq!(key_set(&usable).unwrap().0.len(), 1);

    let mut malformed = jwk("k", &key, Algorithm::ES256);
    malformed["x"] = json!("not base64!");
    let mut nameless = malformed.clone();
    nameless["kid"] = json!(7);
    let mut keys = vec![malformed, nameless, json!("key"), Value::Null];
    assert!(key_set(&keys).unwrap_err().starts_with("key 1"));
    keys.push(jwk("k", &key, Algorithm::ES256));
    assert_eq!(key_set(&keys).unwrap().0.len(), 1);
    let many = vec![jwk("k", &key, Algorithm::ES256); MAX_KEYS + 1];
    assert!(key_set(&many).unwrap_err().contains("more than"));
    for wrong in ["", "{}", "[]", r#"{"keys":7}"#] {
        let reason = TokenKeys::parse(wrong.as_bytes()).unwrap_err();
        assert!(reason.contains("JSON Web Key Set"), "{wrong}: {reason}");
    }
}

#[test]
fn rsa_keys_have_at_least_2048_bits() {
    let set = |digits: usize| {
        let n = format!("{}w", "z".repeat(digits - 1));
        key_set(&[json!({"kty": "RSA", "kid": "k", "n": n, "e": "AQAB"})])
    };
    // 256 bytes are 342 digits, 255 are 340.
    assert_eq!(set(342).unwrap().0.len(), 1);
    assert!(set(340).unwrap_err().contains("fewer than 2048 bits"));
}

proptest! {
    #[test]
    fn any_text_is_rejected_and_any_set_is_parsed_or_rejected(text in ".*") {
        let key = ec_key();
        let keys = key_set(&[jwk("k", &key, Algorithm::ES256)]).unwrap();
        prop_assert!(keys.verify(&text, &required()).is_err());
        let _ = TokenKeys::parse(text.as_bytes());
    }
}
