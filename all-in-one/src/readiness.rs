//! Checks the readiness of a service over HTTP.

use std::time::Duration;

use tokio::time::Instant;

/// Time limit for one response.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Delay between two requests.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub(crate) struct Probe {
    http: reqwest::Client,
}

impl Probe {
    pub(crate) fn new() -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            // The service is on this machine or in this container.
            .no_proxy()
            .build()?;
        Ok(Self { http })
    }

    /// Checks that `url` responds with success.
    ///
    /// # Errors
    /// A sentence that states the response or why there was none.
    pub(crate) async fn check(&self, url: &str) -> Result<(), String> {
        match self.http.get(url).send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => {
                let status = answer.status();
                let body = answer.text().await.unwrap_or_default();
                Err(format!("it responded with {status}: {body}"))
            }
            Err(error) if error.is_connect() => Err("nothing is listening there".to_owned()),
            Err(error) => Err(format!("it did not respond: {error}")),
        }
    }

    /// Repeats the check until it succeeds, at most for `patience`. The error is that of the last
    /// attempt.
    pub(crate) async fn until_ready(&self, url: &str, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            match self.check(url).await {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
                answer => return answer,
            }
        }
    }
}
