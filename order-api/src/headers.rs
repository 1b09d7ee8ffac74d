//! Reads headers that may be given once.

use axum::http::{HeaderMap, HeaderName};

/// Returns the value of a header that may be given once; an error if it is not text or is given
/// more than once.
pub(crate) fn single_value<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Option<Result<&'a str, ()>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    Some(match values.next() {
        None => first.to_str().map_err(|_| ()),
        Some(_) => Err(()),
    })
}
