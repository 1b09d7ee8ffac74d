//! Shared secret of the console.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;

/// Maximum characters of a token.
const MAX_TOKEN: usize = 256;

/// Secret that a person or program needs to use the console. Never printed.
#[derive(Clone)]
pub struct AdminToken(String);

impl AdminToken {
    /// Returns `true` if `text` is the token. The duration of the comparison reveals nothing but
    /// whether the lengths are equal.
    pub fn matches(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }
}

impl FromStr for AdminToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The characters that an HTTP header carries unchanged.
        if text.bytes().all(|c| c.is_ascii_graphic()) && (1..=MAX_TOKEN).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "must be 1 to {MAX_TOKEN} visible ASCII characters without spaces"
            ))
        }
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_matches() {
        let token: AdminToken = "s3cret".parse().unwrap();
        assert!(token.matches("s3cret"));
        for wrong in ["", "s3cre", "s3cret ", "S3cret", "s3cret\0"] {
            assert!(!token.matches(wrong), "{wrong:?}");
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
}
