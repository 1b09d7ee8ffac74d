//! The queue and its URL. The URL is resolved when it is first needed, and again after SQS reported
//! that the queue does not exist: it may be created, or created again, at any time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::aws::QueueUrlError;

#[derive(Debug)]
pub(crate) struct Queue {
    sqs: aws_sdk_sqs::Client,
    /// A name or a URL, as configured.
    configured: String,
    /// Never locked across an await.
    url: Mutex<Option<Arc<str>>>,
}

impl Queue {
    pub(crate) fn new(sqs: aws_sdk_sqs::Client, configured: String) -> Self {
        Self {
            sqs,
            configured,
            url: Mutex::default(),
        }
    }

    pub(crate) fn configured(&self) -> &str {
        &self.configured
    }

    /// Returns the name, for logs and telemetry: a URL would contain the account id.
    pub(crate) fn name(&self) -> &str {
        let path = self.configured.trim_end_matches('/');
        path.rsplit('/').next().unwrap_or(path)
    }

    /// Returns the URL; resolves it first if it is not known.
    pub(crate) async fn url(&self) -> Result<Arc<str>, QueueUrlError> {
        if let Some(url) = self.cached_url().clone() {
            return Ok(url);
        }
        let url: Arc<str> = shared::aws::queue_url(&self.sqs, &self.configured)
            .await?
            .into();
        *self.cached_url() = Some(Arc::clone(&url));
        Ok(url)
    }

    /// Discards the URL, so that the next use resolves it again.
    pub(crate) fn forget_url(&self) {
        *self.cached_url() = None;
    }

    fn cached_url(&self) -> MutexGuard<'_, Option<Arc<str>>> {
        // A panic in another task leaves a URL or none, and both remain valid.
        self.url.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
