//! Idempotency of transactions with a `ClientRequestToken`: a transaction that is sent again within
//! 10 minutes gets the first response again and has no second effect.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

/// DynamoDB's idempotency window.
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// Upper bound on the tokens kept, some 30 MB. The oldest are dropped first; an SDK sends a token
/// again within seconds.
const MAX_TOKENS: usize = 100_000;

/// Lengths that DynamoDB accepts. dynoxide rejects the others.
const TOKEN_LENGTH: RangeInclusive<usize> = 1..=36;

/// A `TransactWriteItems` request with a token.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) token: Arc<str>,
    /// Equal for equal items, regardless of the order of their attributes.
    digest: u64,
    /// The request without its token, otherwise unchanged.
    pub(crate) body: Bytes,
}

impl Transaction {
    /// Parses a request. Returns `None` if it has no valid token or is not a `TransactWriteItems`.
    pub(crate) fn with_token(body: &[u8]) -> Option<Self> {
        let mut fields: BTreeMap<String, &RawValue> = serde_json::from_slice(body).ok()?;
        let token = fields.remove("ClientRequestToken")?;
        let token: String = serde_json::from_str(token.get()).ok()?;
        if !TOKEN_LENGTH.contains(&token.len()) {
            return None;
        }
        let items: Value = serde_json::from_str(fields.get("TransactItems")?.get()).ok()?;
        let mut hasher = DefaultHasher::new();
        items.hash(&mut hasher);
        Some(Self {
            token: token.into(),
            digest: hasher.finish(),
            body: serde_json::to_vec(&fields).ok()?.into(),
        })
    }
}

/// The transaction of one token, from its first request on.
#[derive(Debug)]
pub(crate) struct Known {
    digest: u64,
    /// The response; `None` before the transaction succeeds. Locked while it runs.
    pub(crate) outcome: tokio::sync::Mutex<Option<Bytes>>,
}

/// Result of looking up a token.
#[derive(Debug)]
pub(crate) enum Claim {
    /// The caller runs the transaction, or repeats its response.
    Granted(Arc<Known>),
    /// The token belongs to other items.
    Mismatch,
}

/// The tokens of the last 10 minutes.
#[derive(Debug, Default)]
pub(crate) struct ClientRequestTokens {
    // Locked for one lookup and insertion, never across an await.
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    known: HashMap<Arc<str>, Arc<Known>>,
    /// In the order of arrival, so that only the oldest have to be checked for expiry.
    by_age: VecDeque<(Instant, Arc<str>, Arc<Known>)>,
}

impl ClientRequestTokens {
    /// Looks up the token, and inserts it if it is new or expired.
    pub(crate) fn claim(&self, sent: &Transaction) -> Claim {
        self.claim_at(sent, Instant::now())
    }

    fn claim_at(&self, sent: &Transaction, now: Instant) -> Claim {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove_expired(now);
        if let Some(known) = kept.known.get(&sent.token) {
            return match known.digest == sent.digest {
                true => Claim::Granted(Arc::clone(known)),
                false => Claim::Mismatch,
            };
        }
        let known = Arc::new(Known {
            digest: sent.digest,
            outcome: tokio::sync::Mutex::new(None),
        });
        let token = Arc::clone(&sent.token);
        kept.known.insert(Arc::clone(&token), Arc::clone(&known));
        kept.by_age.push_back((now, token, Arc::clone(&known)));
        Claim::Granted(known)
    }

    /// Removes a token whose transaction failed.
    pub(crate) fn release(&self, token: &str, known: &Arc<Known>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove(token, known);
    }
}

impl Kept {
    fn remove_expired(&mut self, now: Instant) {
        while let Some((since, ..)) = self.by_age.front() {
            let old = now.saturating_duration_since(*since) >= WINDOW;
            if !old && self.by_age.len() <= MAX_TOKENS {
                break;
            }
            if let Some((_, token, known)) = self.by_age.pop_front() {
                self.remove(&token, &known);
            }
        }
    }

    /// Removes the token only if it still belongs to `known`: it may have been released and claimed
    /// again.
    fn remove(&mut self, token: &str, known: &Arc<Known>) {
        if self.known.get(token).is_some_and(|k| Arc::ptr_eq(k, known)) {
            self.known.remove(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(token: &str, items: &str) -> Transaction {
        let body = format!(r#"{{"TransactItems":{items},"ClientRequestToken":"{token}"}}"#);
        Transaction::with_token(body.as_bytes()).unwrap()
    }

    #[test]
    fn only_the_token_is_removed_from_a_request() {
        let body = br#"{ "ClientRequestToken":"t", "TransactItems": [ {"N": 1.0} ], "X":null}"#;
        let transaction = Transaction::with_token(body).unwrap();
        assert_eq!(&*transaction.token, "t");
        assert_eq!(
            transaction.body,
            r#"{"TransactItems":[ {"N": 1.0} ],"X":null}"#
        );
    }

    #[test]
    fn request_without_a_valid_token_is_not_intercepted() {
        let long = format!(
            r#"{{"TransactItems":[],"ClientRequestToken":"{}"}}"#,
            "t".repeat(37)
        );
        for body in [
            "",
            "[]",
            r#"{"TransactItems":[]}"#,
            r#"{"ClientRequestToken":"t"}"#,
            r#"{"TransactItems":[],"ClientRequestToken":""}"#,
            r#"{"TransactItems":[],"ClientRequestToken":1}"#,
            &long,
        ] {
            assert!(Transaction::with_token(body.as_bytes()).is_none(), "{body}");
        }
    }

    #[test]
    fn items_are_equal_regardless_of_attribute_order() {
        let tokens = ClientRequestTokens::default();
        let claim = |items| tokens.claim(&transaction("t", items));
        let Claim::Granted(first) = claim(r#"[{"a":1,"b":2}]"#) else {
            panic!("a new token");
        };
        assert!(
            matches!(claim(r#"[{"b":2,"a":1}]"#), Claim::Granted(same) if Arc::ptr_eq(&same, &first))
        );
        assert!(matches!(claim(r#"[{"a":1,"b":3}]"#), Claim::Mismatch));
    }

    #[test]
    fn token_can_be_reused_after_a_failure_and_after_ten_minutes() {
        let tokens = ClientRequestTokens::default();
        let start = Instant::now();
        let claim = |items, after| tokens.claim_at(&transaction("t", items), start + after);
        let Claim::Granted(failed) = claim("[1]", Duration::ZERO) else {
            panic!("a new token");
        };
        tokens.release("t", &failed);
        assert!(matches!(claim("[2]", Duration::ZERO), Claim::Granted(_)));

        let just_before = WINDOW - Duration::from_millis(1);
        assert!(matches!(claim("[3]", just_before), Claim::Mismatch));
        assert!(matches!(claim("[3]", WINDOW), Claim::Granted(_)));
    }

    #[test]
    fn only_the_newest_tokens_are_kept() {
        let tokens = ClientRequestTokens::default();
        let now = Instant::now();
        for i in 0..MAX_TOKENS + 10 {
            tokens.claim_at(&transaction(&i.to_string(), "[]"), now);
        }
        let kept = tokens.kept.lock().unwrap();
        assert!(kept.known.len() <= MAX_TOKENS + 1);
        assert_eq!(kept.known.len(), kept.by_age.len());
    }
}
