//! Instants as RFC 3339 text in UTC, with milliseconds.
//!
//! The text has a fixed width, so that it sorts like the time; the `by_state` index relies on that.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::excerpt::excerpt;

/// An instant with millisecond precision, written as `2026-01-31T08:15:30.123Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Timestamp(jiff::Timestamp);

/// A text is not an RFC 3339 time with an offset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an RFC 3339 time with an offset, such as 2026-01-31T08:15:30.123Z")]
pub struct ParseTimestampError(String);

impl Timestamp {
    /// Returns the wall clock's time, truncated to milliseconds.
    pub fn now() -> Self {
        Self::from_millis(jiff::Timestamp::now().as_millisecond())
    }

    /// Returns the instant `millis` milliseconds after the Unix epoch. Instants outside of the
    /// years −9999 to 9999 are clamped.
    pub fn from_millis(millis: i64) -> Self {
        Self(
            jiff::Timestamp::from_millisecond(millis).unwrap_or(if millis < 0 {
                jiff::Timestamp::MIN
            } else {
                jiff::Timestamp::MAX
            }),
        )
    }

    /// Returns the milliseconds since the Unix epoch.
    pub fn as_millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// Returns the whole seconds since the Unix epoch, the unit of DynamoDB's time to live.
    pub fn as_seconds(self) -> i64 {
        self.0.as_second()
    }
}

/// Truncates to milliseconds. Instants outside of the years −9999 to 9999 are clamped.
impl From<SystemTime> for Timestamp {
    fn from(at: SystemTime) -> Self {
        let millis = match at.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => {
                i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis)
            }
        };
        Self::from_millis(millis)
    }
}

/// # Panics
/// On platforms whose `SystemTime` cannot represent the instant. Unix platforms can represent all.
impl From<Timestamp> for SystemTime {
    fn from(at: Timestamp) -> Self {
        at.0.into()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    /// Parses an RFC 3339 time with any offset; truncates it to milliseconds.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<jiff::Timestamp>()
            .map(|at| Self::from_millis(at.as_millisecond()))
            .map_err(|_| ParseTimestampError(excerpt(text)))
    }
}

impl From<Timestamp> for String {
    fn from(at: Timestamp) -> Self {
        at.to_string()
    }
}

impl TryFrom<String> for Timestamp {
    type Error = ParseTimestampError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn text_has_milliseconds_and_z() {
        assert_eq!(
            Timestamp::from_millis(1_700_000_000_000).to_string(),
            "2023-11-14T22:13:20.000Z"
        );
        assert_eq!(
            Timestamp::from_millis(1).to_string(),
            "1970-01-01T00:00:00.001Z"
        );
    }

    #[test]
    fn other_offsets_are_converted_to_utc() {
        let at: Timestamp = "2023-11-15T00:13:20.1239+02:00".parse().unwrap();
        assert_eq!(at.to_string(), "2023-11-14T22:13:20.123Z");
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn system_time_is_truncated_and_clamped() {
        let epoch = SystemTime::UNIX_EPOCH;
        let later = Timestamp::from(epoch + Duration::from_micros(1_999));
        assert_eq!(later.as_millis(), 1);
        assert_eq!(SystemTime::from(later), epoch + Duration::from_millis(1));
        let earlier = Timestamp::from(epoch - Duration::from_secs(1));
        assert_eq!(earlier.as_millis(), -1_000);
        assert_eq!(SystemTime::from(earlier), epoch - Duration::from_secs(1));
        let late = epoch + Duration::from_secs(1 << 40);
        assert_eq!(Timestamp::from(late), Timestamp::from_millis(i64::MAX));
    }
}
