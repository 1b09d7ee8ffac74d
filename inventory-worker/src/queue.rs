//! The queue's URL, looked up when it is first needed and again after SQS said
//! that there is no such queue: it may be created, or created again, at any
//! time.

use std::sync::{Arc, Mutex, PoisonError};

use shared::aws::QueueUrlError;

#[derive(Debug)]
pub(crate) struct Queue {
    sqs: aws_sdk_sqs::Client,
    /// As configured: a name or a URL.
    configured: String,
    /// Never held across an await.
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

    /// The name, for people and telemetry: a URL would name the account.
    pub(crate) fn name(&self) -> &str {
        let path = self.configured.trim_end_matches('/');
        path.rsplit('/').next().unwrap_or(path)
    }

    pub(crate) async fn url(&self) -> Result<Arc<str>, QueueUrlError> {
        if let Some(url) = self.known().clone() {
            return Ok(url);
        }
        let url: Arc<str> = shared::aws::queue_url(&self.sqs, &self.configured)
            .await?
            .into();
        *self.known() = Some(Arc::clone(&url));
        Ok(url)
    }

    /// The queue is gone: look it up again.
    pub(crate) fn forget(&self) {
        *self.known() = None;
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<Arc<str>>> {
        // A panic elsewhere leaves a URL or none, both fine.
        self.url.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
