//! Shortens values for error messages.

/// Returns the first 40 characters of `text`, for error messages: malformed input may be large.
pub(crate) fn excerpt(text: &str) -> String {
    const LENGTH: usize = 40;
    if text.chars().count() <= LENGTH {
        text.to_owned()
    } else {
        text.chars().take(LENGTH).chain(['…']).collect()
    }
}
