//! Syntax of the names that options contain: tables, queues, URLs. The existence of a resource is
//! checked elsewhere.

use axum::http::Uri;

/// Parses the name of a DynamoDB table.
///
/// # Errors
/// A sentence with DynamoDB's rule for names.
pub fn parse_table(text: &str) -> Result<String, &'static str> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if (3..=255).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("a table name is 3 to 255 characters of A-Z a-z 0-9 . _ -")
    }
}

/// Parses the name or URL of an SQS queue.
///
/// # Errors
/// A sentence with SQS's rule for names.
pub fn parse_queue(text: &str) -> Result<String, &'static str> {
    let has_path = || {
        text.parse::<Uri>()
            .is_ok_and(|uri| !uri.path().trim_matches('/').is_empty())
    };
    if (is_http_url(text) && has_path()) || is_queue_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a queue is a URL, or a name of 1 to 80 characters of A-Z a-z 0-9 _ -")
    }
}

/// Parses the name of an SQS queue that is to be created, which cannot be a URL.
///
/// # Errors
/// A sentence with SQS's rule for names.
pub fn parse_queue_name(text: &str) -> Result<String, &'static str> {
    if is_queue_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a queue is created by its name: 1 to 80 characters of A-Z a-z 0-9 _ -")
    }
}

fn is_queue_name(text: &str) -> bool {
    let stem = text.strip_suffix(".fifo").unwrap_or(text);
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    text.len() <= 80 && !stem.is_empty() && stem.bytes().all(allowed)
}

/// Returns `true` if `text` is an `http` or `https` URL with a host.
pub(crate) fn is_http_url(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_a_name_or_a_url() {
        for ok in [
            "order-events",
            "a.fifo",
            "https://sqs.eu-central-1.amazonaws.com/123456789012/q",
            "http://127.0.0.1:9324/000000000000/q",
            &"x".repeat(80),
        ] {
            assert!(parse_queue(ok).is_ok(), "{ok}");
        }
        for wrong in [
            "",
            ".fifo",
            "a b",
            "a.b",
            "ftp://host/q",
            "https://host",
            "https://",
            "http:///q",
            &"x".repeat(81),
        ] {
            assert!(parse_queue(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_queue_url_cannot_be_created() {
        assert!(parse_queue_name("order-events.fifo").is_ok());
        assert!(parse_queue_name("http://127.0.0.1:9324/000000000000/q").is_err());
    }

    #[test]
    fn a_table_name_has_3_to_255_characters() {
        for ok in ["abc", "a.b_c-D9", &"x".repeat(255)] {
            assert!(parse_table(ok).is_ok(), "{ok}");
        }
        for wrong in ["", "ab", "a b c", "tablé", &"x".repeat(256)] {
            assert!(parse_table(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_endpoint_is_a_url_with_a_host() {
        for ok in ["http://localhost:8000", "https://a.b/", "http://[::1]:80"] {
            assert!(is_http_url(ok), "{ok}");
        }
        for wrong in [
            "",
            "localhost:8000",
            "/path",
            "http://",
            "ftp://host",
            "nonsense",
        ] {
            assert!(!is_http_url(wrong), "{wrong}");
        }
    }
}
