//! Keys that are replaced while the program runs, when their file or their issuer's document
//! changes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

use super::key_location::{KeyLocation, KeyReader};

/// Pause between two readings of a file.
const FILE_INTERVAL: Duration = Duration::from_secs(2);

/// Pause between two requests to an issuer, which announces a new key long before it uses it.
const URL_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Pause after a failed request to an issuer, and the shortest one between two requests that are
/// caused by tokens with unknown keys: clients cannot make this program send more.
const URL_RETRY: Duration = Duration::from_secs(15);

/// Maximum time for which a request waits for the response of an issuer, and maximum number of
/// requests that wait: a slow issuer must not occupy the connections of clients with known keys.
const MAX_WAIT: Duration = Duration::from_secs(1);
const MAX_WAITING: usize = 64;

/// A set of keys of type `T`, and where they are read from.
pub(super) struct KeySource<T> {
    /// The option with the location, for errors.
    option: &'static str,
    location: KeyLocation,
    reader: KeyReader,
    parse: fn(&[u8]) -> Result<T, String>,
    /// `None` until keys were read for the first time.
    current: watch::Sender<Option<Arc<T>>>,
    /// Locked while the location is read.
    last: Arc<Mutex<LastRead>>,
    /// Has a permit for each request that may wait for keys.
    waiting: Semaphore,
}

#[derive(Default)]
struct LastRead {
    /// Time of the last reading that a request caused.
    requested_at: Option<Instant>,
    /// Result of the last reading. The same result again changes nothing, and is not logged again.
    result: Option<Result<Vec<u8>, String>>,
    failed: bool,
}

impl<T: Send + Sync + 'static> KeySource<T> {
    /// Returns the source, and reads it for the first time.
    ///
    /// # Errors
    /// One sentence, if a file has no valid keys. A request to an issuer that does not
    /// respond is repeated later.
    pub(super) async fn open(
        option: &'static str,
        location: KeyLocation,
        parse: fn(&[u8]) -> Result<T, String>,
    ) -> Result<Self, String> {
        let reader = KeyReader::new(location.clone())?;
        let source = Self {
            option,
            location,
            reader,
            parse,
            current: watch::Sender::new(None),
            last: Arc::default(),
            waiting: Semaphore::new(MAX_WAITING),
        };
        let first = source.read(&mut *source.last.lock().await).await;
        match first {
            Err(reason) if !source.reader.is_url() => Err(reason),
            _ => Ok(source),
        }
    }

    /// Returns the keys; `None` if they could not be read yet.
    pub(super) fn current(&self) -> Option<Arc<T>> {
        self.current.borrow().clone()
    }

    /// Replaces the keys whenever they change. Never returns.
    pub(super) async fn keep_current(&self) {
        loop {
            let pause = if !self.reader.is_url() {
                FILE_INTERVAL
            } else if self.last.lock().await.failed {
                URL_RETRY
            } else {
                URL_INTERVAL
            };
            sleep(pause).await;
            // The error is logged.
            let _ = self.read(&mut *self.last.lock().await).await;
        }
    }

    /// Reads the keys of an issuer because a token names one that is not in `known`. Returns the
    /// keys if they have changed, after [`MAX_WAIT`] at most, or at once if [`MAX_WAITING`]
    /// requests wait already.
    pub(super) async fn refresh(self: &Arc<Self>, known: Option<&Arc<T>>) -> Option<Arc<T>> {
        if !self.reader.is_url() {
            return None;
        }
        if let Ok(_permit) = self.waiting.try_acquire() {
            let _ = timeout(MAX_WAIT, self.read_if_due()).await;
        }
        self.current()
            .filter(|keys| known.is_none_or(|known| !Arc::ptr_eq(keys, known)))
    }

    /// Reads the keys if they were not read for a while, or waits for the reading in progress.
    async fn read_if_due(self: &Arc<Self>) {
        let Ok(mut last) = Arc::clone(&self.last).try_lock_owned() else {
            drop(self.last.lock().await);
            return;
        };
        if last.requested_at.is_none_or(|at| at.elapsed() >= URL_RETRY) {
            last.requested_at = Some(Instant::now());
            let source = Arc::clone(self);
            // In a task of its own: otherwise a client that disconnects would end the reading, and
            // repeated requests could prevent every one.
            let reading = tokio::spawn(async move { source.read(&mut last).await });
            // The error is logged.
            let _ = reading.await;
        }
    }

    async fn read(&self, last: &mut LastRead) -> Result<(), String> {
        let result = self.reader.read().await;
        if last.result.as_ref() == Some(&result) {
            return Ok(());
        }
        let keys = match &result {
            Ok(content) => (self.parse)(content),
            Err(reason) => Err(reason.clone()),
        };
        last.result = Some(result);
        last.failed = keys.is_err();
        let keys = keys.map_err(|reason| format!("{} ({}) {reason}", self.option, self.location));
        let had_keys = self.current.borrow().is_some();
        match keys {
            Ok(keys) => {
                self.current.send_replace(Some(Arc::new(keys)));
                tracing::info!(option = self.option, location = %self.location, "keys read");
                Ok(())
            }
            Err(reason) => {
                if had_keys {
                    tracing::error!(%reason, "keys cannot be replaced; the earlier ones stay in use");
                } else if self.reader.is_url() {
                    tracing::error!(%reason, "keys cannot be read; tokens are rejected with 503 until they can");
                }
                Err(reason)
            }
        }
    }
}

impl<T> fmt::Debug for KeySource<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySource")
            .field("option", &self.option)
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::routing::{MethodRouter, get};
    use futures::FutureExt;
    use tokio::net::TcpListener;
    use tokio::sync::Notify;
    use tokio::task::JoinSet;

    use super::*;

    /// Starts an issuer, and returns a source that has read its keys.
    async fn source_of(respond: MethodRouter) -> Arc<KeySource<Vec<u8>>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, Router::new().route("/", respond)).await });
        let location = KeyLocation::parse(&url).unwrap();
        let source = KeySource::open("KEYS", location, |bytes| Ok(bytes.to_vec())).await;
        Arc::new(source.unwrap())
    }

    #[tokio::test]
    async fn clients_that_disconnect_neither_repeat_nor_prevent_a_reading() {
        let readings = Arc::new(AtomicUsize::new(0));
        let release = Arc::new(Notify::new());
        let (counted, released) = (Arc::clone(&readings), Arc::clone(&release));
        let respond = get(async move || {
            let n = counted.fetch_add(1, Ordering::SeqCst);
            if n > 0 {
                released.notified().await;
            }
            n.to_string()
        });
        let source = source_of(respond).await;
        let first = source.current().unwrap();
        assert_eq!(*first, b"0");
        for _ in 0..5 {
            let refresh = source.refresh(Some(&first));
            let cut = timeout(Duration::from_millis(100), refresh).await;
            assert!(cut.is_err(), "the issuer has not responded yet");
        }
        release.notify_one();
        // Waits for the reading in progress, and starts no other.
        let second = source.refresh(Some(&first)).await.unwrap();
        assert_eq!(*second, b"1");
        assert!(source.refresh(Some(&second)).await.is_none());
        assert_eq!(readings.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn requests_do_not_wait_long_or_in_large_numbers_for_a_slow_issuer() {
        let readings = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&readings);
        let respond = get(async move || {
            if counted.fetch_add(1, Ordering::SeqCst) > 0 {
                std::future::pending::<()>().await;
            }
            "keys"
        });
        let source = source_of(respond).await;
        let known = source.current().unwrap();

        let mut waiting = JoinSet::new();
        for _ in 0..MAX_WAITING {
            let (source, known) = (Arc::clone(&source), Arc::clone(&known));
            waiting.spawn(async move { source.refresh(Some(&known)).await });
        }
        while source.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let beyond = source.refresh(Some(&known)).now_or_never();
        assert!(beyond.expect("no wait").is_none());
        let all = timeout(MAX_WAIT * 5, waiting.join_all()).await;
        assert!(all.unwrap().iter().all(Option::is_none));
        assert_eq!(readings.load(Ordering::SeqCst), 2);
    }
}
