//! API keys, as listed in a file.
//!
//! A line of the file has three columns, separated by spaces or tabs: the id of the key, the
//! SHA-256 of the key in hexadecimal, and a customer id or `*`. Empty lines and lines that begin
//! with `#` are ignored.
//!
//! Keys are random, so that a plain hash protects them: it cannot be reversed by trying likely
//! values, and it can be computed for each request.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::principal::{Customers, Principal};

/// Upper bound on the errors that are listed for one file.
const MAX_LISTED: usize = 5;

const DIGEST_BYTES: usize = 32;

/// The keys of one version of the file.
#[derive(Debug)]
pub(super) struct ApiKeys {
    /// Keys by the first bytes of their digest. How long a look-up takes reveals nothing about a
    /// key, because a client that does not know a key cannot choose the bytes of its digest; the
    /// whole digests are compared in constant time.
    by_prefix: HashMap<[u8; 8], Vec<ApiKey>>,
    count: usize,
}

#[derive(Debug)]
struct ApiKey {
    digest: [u8; DIGEST_BYTES],
    principal: Principal,
}

impl ApiKeys {
    /// Parses the content of a file.
    ///
    /// # Errors
    /// One sentence that names the first invalid lines and what is wrong with them. It quotes no
    /// column but the ids, because a key may have been written where its hash belongs.
    pub(super) fn parse(content: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|_| "is not UTF-8 text".to_owned())?;
        let mut keys = Self {
            by_prefix: HashMap::new(),
            count: 0,
        };
        let mut ids = HashSet::new();
        let mut errors = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Err(reason) = keys.add(line, &mut ids) {
                errors.push(format!("line {}: {reason}", n + 1));
            }
        }
        if !errors.is_empty() {
            let more = errors.len().saturating_sub(MAX_LISTED);
            errors.truncate(MAX_LISTED);
            let listed = errors.join("; ");
            return Err(match more {
                0 => listed,
                _ => format!("{listed}; and {more} more"),
            });
        }
        if keys.count == 0 {
            return Err(
                "has no keys; write one per line: id, SHA-256 of the key, customer id or *"
                    .to_owned(),
            );
        }
        Ok(keys)
    }

    fn add<'a>(&mut self, line: &'a str, ids: &mut HashSet<&'a str>) -> Result<(), String> {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [id, digest, customer] = columns[..] else {
            return Err(format!(
                "has {} columns instead of 3: id, SHA-256 of the key, customer id or *",
                columns.len()
            ));
        };
        if id.len() > 64 || !id.bytes().all(|c| c.is_ascii_graphic()) {
            return Err("the id must be 1 to 64 visible ASCII characters".to_owned());
        }
        let digest = parse_digest(digest).ok_or_else(|| {
            format!("the hash of `{id}` must be 64 hexadecimal digits, the SHA-256 of the key")
        })?;
        if digest == <[u8; DIGEST_BYTES]>::from(Sha256::digest("")) {
            return Err(format!(
                "the hash of `{id}` is that of an empty text: hash the key"
            ));
        }
        let customers = Customers::parse(customer).map_err(|reason| {
            format!("the customer of `{id}` must be * or a customer id, which {reason}")
        })?;
        if !ids.insert(id) {
            return Err(format!("the id `{id}` is used by an earlier line"));
        }
        let bucket = self.by_prefix.entry(prefix(&digest)).or_default();
        if bucket.iter().any(|key| key.digest == digest) {
            return Err(format!("the key of `{id}` is that of an earlier line"));
        }
        bucket.push(ApiKey {
            digest,
            principal: Principal::new(format!("key:{id}"), customers),
        });
        self.count += 1;
        Ok(())
    }

    /// Returns the principal that `key` belongs to.
    pub(super) fn find(&self, key: &[u8]) -> Option<&Principal> {
        let digest: [u8; DIGEST_BYTES] = Sha256::digest(key).into();
        let bucket = self.by_prefix.get(&prefix(&digest))?;
        let matching = |key: &&ApiKey| bool::from(key.digest.ct_eq(&digest));
        bucket.iter().find(matching).map(|key| &key.principal)
    }
}

fn prefix(digest: &[u8; DIGEST_BYTES]) -> [u8; 8] {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&digest[..8]);
    prefix
}

fn parse_digest(hex: &str) -> Option<[u8; DIGEST_BYTES]> {
    let mut digest = [0; DIGEST_BYTES];
    if hex.len() != 2 * DIGEST_BYTES || !hex.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    for (n, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(key: &str) -> String {
        Sha256::digest(key)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn error(content: &str) -> String {
        ApiKeys::parse(content.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_key_identifies_its_principal() {
        let content = format!(
            "# id hash customer\n\nshop  {}\tc-1\n  back-office {} *\r\n",
            hash("first"),
            hash("second").to_uppercase()
        );
        let keys = ApiKeys::parse(content.as_bytes()).unwrap();
        assert_eq!(keys.count, 2);
        let expected = Principal::new("key:shop".to_owned(), Customers::parse("c-1").unwrap());
        assert_eq!(keys.find(b"first"), Some(&expected));
        assert_eq!(
            keys.find(b"second").unwrap().id().unwrap().as_ref(),
            "key:back-office"
        );
        for wrong in ["", "firs", "first ", "First", &hash("first")] {
            assert_eq!(keys.find(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn each_invalid_line_is_named_with_its_error() {
        let good = hash("k");
        for (line, reason) in [
            ("only-an-id".to_owned(), "has 1 columns instead of 3"),
            (format!("a {good} c-1 x"), "has 4 columns instead of 3"),
            (
                "a abc c-1".to_owned(),
                "the hash of `a` must be 64 hexadecimal digits",
            ),
            (format!("a {}g c-1", &good[1..]), "the hash of `a` must be"),
            (format!("a {}é c-1", &good[2..]), "the hash of `a` must be"),
            (
                format!("a {} c-1", hash("")),
                "the hash of `a` is that of an empty text",
            ),
            (
                format!("a {good} c/1"),
                "the customer of `a` must be * or a customer id",
            ),
            (
                format!("{} {good} c-1", "x".repeat(65)),
                "the id must be 1 to 64",
            ),
            (
                format!("a {good} c-1\na {} c-2", hash("l")),
                "the id `a` is used by an earlier",
            ),
            (
                format!("a {good} c-1\nb {good} c-2"),
                "the key of `b` is that of an earlier",
            ),
        ] {
            let found = error(&format!("# comment\n{line}\n"));
            let number = 1 + line.lines().count();
            let expected = format!("line {number}: {reason}");
            assert!(found.starts_with(&expected), "{found}");
        }
    }

    #[test]
    fn a_key_in_place_of_its_hash_is_not_quoted() {
        assert!(!error("a s3cret c-1").contains("s3cret"));
        assert!(!error("s3cret").contains("s3cret"));
    }

    #[test]
    fn a_file_without_keys_is_an_error() {
        for content in ["", "\n", "# nothing\n"] {
            assert!(error(content).contains("has no keys"), "{content:?}");
        }
        assert!(ApiKeys::parse(b"\xff").unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn the_list_of_errors_is_bounded() {
        let found = error(&"wrong\n".repeat(1_000));
        assert!(found.ends_with("; and 995 more"), "{found}");
        assert!(found.len() < 1_000);
    }

    proptest! {
        #[test]
        fn any_content_is_parsed_or_rejected(content in any::<Vec<u8>>()) {
            let _ = ApiKeys::parse(&content);
        }
    }
}
