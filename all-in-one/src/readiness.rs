//! Asks a service over HTTP whether it is ready.

use std::time::Duration;

use tokio::time::Instant;

/// One answer may take this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub(crate) struct Probe {
    http: reqwest::Client,
}

impl Probe {
    pub(crate) fn new() -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            // What is asked is on this machine, or in this container.
            .no_proxy()
            .build()?;
        Ok(Self { http })
    }

    /// Whether `url` answers with success, and else why not.
    pub(crate) async fn ask(&self, url: &str) -> Result<(), String> {
        match self.http.get(url).send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => {
                let status = answer.status();
                let body = answer.text().await.unwrap_or_default();
                Err(format!("it answers {status}: {body}"))
            }
            Err(error) if error.is_connect() => Err("it does not listen".to_owned()),
            Err(error) => Err(format!("it does not answer: {error}")),
        }
    }

    /// Asks again until `url` answers with success, at most for `patience`;
    /// fails with the last answer.
    pub(crate) async fn until_ready(&self, url: &str, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            match self.ask(url).await {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
                answer => return answer,
            }
        }
    }
}
