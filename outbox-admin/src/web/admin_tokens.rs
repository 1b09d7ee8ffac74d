//! Secrets of the console: who has them, and what they permit.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;

/// Maximum characters of a token.
const MAX_TOKEN: usize = 256;

/// Minimum characters of a token where other machines can try some: 16 random hexadecimal digits
/// are 64 bits.
pub const MIN_REMOTE_TOKEN: usize = 16;

/// Maximum tokens in a file.
const MAX_TOKENS: usize = 100;

/// Name in the log of a person or program whose token has none.
const UNNAMED: &str = "admin";

/// Permission of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permission {
    /// To see everything.
    Read,
    /// To retry and discard events too.
    Operate,
}

/// Secret that a person or program needs to use the console. Never printed.
#[derive(Clone)]
pub struct AdminToken {
    name: String,
    permission: Permission,
    secret: String,
}

impl AdminToken {
    /// Returns the name of its owner, for the log.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn permission(&self) -> Permission {
        self.permission
    }

    /// Parses a line of a file: a token, or the name of its owner, the token, and optionally
    /// `read`.
    fn parse_line(line: &str) -> Result<Self, String> {
        let columns: Vec<_> = line.split_whitespace().collect();
        match columns[..] {
            [secret] => secret.parse(),
            // `read` would become a token that permits everything.
            [_, "read"] => {
                Err("a token with `read` needs the name of its owner before it".to_owned())
            }
            [name, secret] => Self::named(name, secret, Permission::Operate),
            [name, secret, "read"] => Self::named(name, secret, Permission::Read),
            // Not quoted, because a token may be in the wrong column.
            _ => Err(
                "must be a token, or a name, a token, and `read` if it permits reading only"
                    .to_owned(),
            ),
        }
    }

    fn named(name: &str, secret: &str, permission: Permission) -> Result<Self, String> {
        if name.len() > 64 {
            return Err("the name must have at most 64 characters".to_owned());
        }
        let token: Self = secret.parse()?;
        Ok(Self {
            name: name.to_owned(),
            permission,
            ..token
        })
    }
}

impl FromStr for AdminToken {
    type Err = String;

    /// Parses a token that permits everything.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The characters that an HTTP header carries unchanged.
        if text.bytes().all(|c| c.is_ascii_graphic()) && (1..=MAX_TOKEN).contains(&text.len()) {
            Ok(Self {
                name: UNNAMED.to_owned(),
                permission: Permission::Operate,
                secret: text.to_owned(),
            })
        } else {
            Err(format!(
                "must be 1 to {MAX_TOKEN} visible ASCII characters without spaces"
            ))
        }
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdminToken({}, …)", self.name)
    }
}

/// The tokens of a console, at least one.
#[derive(Clone, Debug)]
pub struct AdminTokens(Vec<AdminToken>);

impl AdminTokens {
    /// Parses the content of a file: one token per line, each alone or after the name of its owner.
    /// Empty lines and lines that begin with `#` are ignored.
    ///
    /// # Errors
    /// One sentence about the first invalid line, which quotes no token.
    pub fn parse_file(content: &str) -> Result<Self, String> {
        let mut tokens: Vec<AdminToken> = Vec::new();
        for (n, line) in content.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let token = AdminToken::parse_line(line)
                .map_err(|reason| format!("line {}: {reason}", n + 1))?;
            if tokens.iter().any(|other| other.secret == token.secret) {
                return Err(format!(
                    "line {}: repeats the token of an earlier line",
                    n + 1
                ));
            }
            tokens.push(token);
        }
        match tokens.len() {
            0 => Err("has no token".to_owned()),
            1..=MAX_TOKENS => Ok(Self(tokens)),
            _ => Err(format!("has more than {MAX_TOKENS} tokens")),
        }
    }

    /// Returns `true` if every token has at least [`MIN_REMOTE_TOKEN`] characters.
    pub fn are_long(&self) -> bool {
        self.0
            .iter()
            .all(|token| token.secret.len() >= MIN_REMOTE_TOKEN)
    }

    /// Returns the token that is `text`. The duration reveals nothing but the lengths of the
    /// tokens.
    pub(super) fn find(&self, text: &str) -> Option<&AdminToken> {
        let mut found = None;
        for token in &self.0 {
            if token.secret.as_bytes().ct_eq(text.as_bytes()).into() {
                found = Some(token);
            }
        }
        found
    }
}

impl From<AdminToken> for AdminTokens {
    fn from(token: AdminToken) -> Self {
        Self(vec![token])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_token_matches() {
        let tokens = AdminTokens::from("s3cret".parse::<AdminToken>().unwrap());
        assert_eq!(tokens.find("s3cret").unwrap().name(), "admin");
        for wrong in ["", "s3cre", "s3cret ", "S3cret", "s3cret\0"] {
            assert!(tokens.find(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn a_token_fits_into_a_header_and_is_never_printed() {
        for wrong in ["", "two words", "naïve", "a\n", &"x".repeat(257)] {
            assert!(wrong.parse::<AdminToken>().is_err(), "{wrong:?}");
        }
        let token: AdminToken = "s3cret".parse().unwrap();
        assert!(!format!("{token:?}").contains("s3cret"));
    }

    #[test]
    fn a_file_names_the_owners_of_tokens_and_what_they_permit() {
        let tokens = AdminTokens::parse_file("# team\n\nann t0 \nbob\tt1 read\nt2\n").unwrap();
        for (secret, name, permission) in [
            ("t0", "ann", Permission::Operate),
            ("t1", "bob", Permission::Read),
            ("t2", "admin", Permission::Operate),
        ] {
            let token = tokens.find(secret).unwrap();
            assert_eq!((token.name(), token.permission()), (name, permission));
        }
        assert!(tokens.find("ann").is_none());
    }

    #[test]
    fn an_invalid_line_is_named_without_its_token() {
        for (content, reason) in [
            ("", "has no token"),
            ("# x\n", "has no token"),
            ("s3cret read", "line 1: a token with `read` needs the name"),
            ("ann s3cret write", "line 1: must be a token"),
            ("\nann s3cret read now", "line 2: must be a token"),
            ("ann s3crét", "line 1: must be 1 to 256"),
            ("ann s3cret\nbob s3cret", "line 2: repeats"),
            (&format!("{} s3cret", "x".repeat(65)), "line 1: the name"),
            (
                &(0..=100).map(|n| format!("t{n}\n")).collect::<String>(),
                "more than 100",
            ),
        ] {
            let error = AdminTokens::parse_file(content).unwrap_err();
            assert!(error.contains(reason), "{content}: {error}");
            assert!(!error.contains("s3c"), "{error}");
        }
    }

    #[test]
    fn every_token_must_be_long_where_others_can_try_some() {
        let are_long = |content: &str| AdminTokens::parse_file(content).unwrap().are_long();
        assert!(are_long("0123456789abcdef"));
        assert!(!are_long("0123456789abcde"));
        assert!(!are_long("ann 0123456789abcdef\nbob short read"));
    }
}
