//! Requests that AWS denied a short time ago, for the readiness of a service: a table or a queue
//! can be described while requests for its items or messages are denied.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::health::Check;
use crate::aws::error::{classify, explain};

/// Time for which a denial is reported. A service that is not ready may get no more requests, so
/// that no later one could show that the permission was granted.
const REPORTED_FOR: Duration = Duration::from_secs(60);

/// The last denial of each operation.
#[derive(Debug, Default)]
pub struct Denials(Mutex<BTreeMap<&'static str, Denial>>);

#[derive(Debug)]
struct Denial {
    at: Instant,
    reason: String,
}

impl Denials {
    /// Records a failed request of `operation`, such as `DeleteMessageBatch`, if AWS refused the
    /// credentials; other failures are not recorded.
    pub fn record<E>(&self, operation: &'static str, error: &SdkError<E>)
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        if classify(error).is_refusal_of_credentials() {
            self.record_reason(operation, explain(error));
        }
    }

    /// Records that a request of `operation` was denied.
    pub fn record_reason(&self, operation: &'static str, reason: String) {
        let at = Instant::now();
        self.0.lock().insert(operation, Denial { at, reason });
    }

    /// Returns a failed check for each operation that was denied within the last minute.
    pub fn checks(&self) -> Vec<Check> {
        self.checks_at(Instant::now())
    }

    fn checks_at(&self, now: Instant) -> Vec<Check> {
        let mut denials = self.0.lock();
        denials.retain(|_, denial| now < denial.at + REPORTED_FOR);
        let denials = denials.iter();
        denials
            .map(|(operation, denial)| Check::fail(*operation, &denial.reason))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::config::http::HttpResponse;
    use aws_sdk_dynamodb::error::ErrorMetadata;
    use aws_sdk_dynamodb::operation::get_item::GetItemError;

    use super::*;

    fn record(denials: &Denials, code: &str) {
        let metadata = ErrorMetadata::builder().code(code).message("m").build();
        let response = HttpResponse::new(400.try_into().unwrap(), Vec::new().into());
        let error = SdkError::service_error(GetItemError::generic(metadata), response);
        denials.record("GetItem", &error);
    }

    #[test]
    fn a_denial_is_reported_for_a_minute_with_what_to_do() {
        let denials = Denials::default();
        record(&denials, "AccessDeniedException");
        let checks = denials.checks();
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].name, "GetItem");
        let reason = checks[0].reason.as_deref().unwrap();
        assert!(reason.contains("AccessDeniedException: m"), "{reason}");
        assert!(reason.contains("grant the permission"), "{reason}");
        assert!(denials.checks_at(Instant::now() + REPORTED_FOR).is_empty());
    }

    #[test]
    fn other_failures_are_not_reported() {
        let denials = Denials::default();
        record(&denials, "ThrottlingException");
        assert!(denials.checks().is_empty());
    }
}
