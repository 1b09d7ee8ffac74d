//! State of one open connection: what it waits for, since when, and what it holds.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::runtime::server::MAX_HEAD_BYTES;

/// Time limit for a new connection to start its first request.
pub(super) const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit from one response to the start of the next request. Longer than the 60 s of AWS load
/// balancers, which otherwise reuse a connection that is being closed, and respond with 502.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Time limit from the first byte of a request to the end of its head.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that has had a response counts as waiting this much later: a burst of new
/// connections does not close those that clients use again and again.
pub(super) const REUSED_ADVANTAGE: Duration = Duration::from_secs(1);

/// Counted for each request that is arriving, in addition to its bytes: hyper's buffers of 8 KiB
/// for the head, the body and the response.
pub(super) const BUFFER_BYTES: usize = 3 * 8 * 1024;

/// Upper bound on what is counted for one request. A connection holds no more: its buffers, the
/// head, and 64 KiB that a handler collects. A handler that discards a larger body does not hold
/// it.
pub(super) const MAX_COUNTED: usize = BUFFER_BYTES + MAX_HEAD_BYTES + 64 * 1024;

/// Entry of one connection in the table.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) network: IpAddr,
    pub(super) close: Arc<Notify>,
    pub(super) phase: Phase,
    /// Start of the phase; of the request while it arrives.
    since: Instant,
    /// `true` once a response was sent.
    pub(super) reused: bool,
    /// Bytes of the request that is arriving, and of its buffers.
    pub(super) bytes: usize,
    /// `true` if bytes arrived before the response to the previous request was sent.
    pub(super) pipelined: bool,
    /// `true` if the body of the latest request was not read completely. hyper reads the rest of
    /// it, or closes the connection after the response.
    pub(super) body_unread: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between two requests.
    Idle,
    /// The head of a request is arriving.
    Head,
    /// The body of a request is arriving.
    Body,
    /// A request has arrived, and its response has not started.
    Handling,
    /// A response is being produced and sent.
    Responding,
    /// A response was produced, and is being sent.
    Sending,
}

impl Entry {
    /// Returns the entry of a new connection, which is closed by `close`.
    pub(super) fn new(network: IpAddr, close: Arc<Notify>, now: Instant) -> Self {
        Self {
            network,
            close,
            phase: Phase::Idle,
            since: now,
            reused: false,
            bytes: 0,
            pipelined: false,
            body_unread: false,
        }
    }

    /// Returns the time that orders the connections that wait: the earliest is closed first.
    pub(super) fn rank(&self) -> Instant {
        if self.reused {
            self.since + REUSED_ADVANTAGE
        } else {
            self.since
        }
    }

    /// Enters `phase`. The body of a request continues what its head started.
    pub(super) fn enter(&mut self, phase: Phase, now: Instant) {
        if (self.phase, phase) != (Phase::Head, Phase::Body) {
            self.since = now;
        }
        match phase {
            Phase::Head => self.bytes = BUFFER_BYTES,
            Phase::Body => {}
            Phase::Idle | Phase::Handling | Phase::Responding | Phase::Sending => self.bytes = 0,
        }
        self.phase = phase;
    }

    /// Records the arrival of bytes.
    pub(super) fn receive(&mut self, bytes: usize, now: Instant) {
        match self.phase {
            Phase::Idle => {
                self.enter(Phase::Head, now);
                self.count(bytes);
            }
            Phase::Head | Phase::Body => self.count(bytes),
            Phase::Handling | Phase::Responding | Phase::Sending => self.pipelined = true,
        }
    }

    /// Returns `true` if the client has exceeded a time limit: `arrival_timeout` while a body
    /// arrives.
    pub(super) fn is_overdue(&self, now: Instant, arrival_timeout: Duration) -> bool {
        let limit = match self.phase {
            Phase::Idle if self.reused => IDLE_TIMEOUT,
            Phase::Idle => FIRST_REQUEST_TIMEOUT,
            Phase::Head => HEAD_TIMEOUT,
            Phase::Body => arrival_timeout,
            // The service and the stream limit these.
            Phase::Handling | Phase::Responding | Phase::Sending => return false,
        };
        self.since + limit <= now
    }

    fn count(&mut self, bytes: usize) {
        self.bytes = (self.bytes + bytes).min(MAX_COUNTED);
    }
}
