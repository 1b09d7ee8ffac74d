//! The open connections of a server, and what each waits for.
//!
//! A connection waits for its client while it is idle, while a request arrives and while a response
//! is read; otherwise a request is being handled, which the service limits itself. Clients decide
//! how long they make a connection wait, and how many they open. The table therefore closes a
//! connection whose client exceeds a time limit, and, when a limit of [`Limits`] is reached, the
//! connection that has waited longest: a client that sends complete requests is not affected by
//! those that do not.

mod entry;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::entry::{Entry, Phase};
use super::Limits;
use super::network::network_of;

/// The open connections of one server.
#[derive(Debug)]
pub(super) struct ConnectionTable {
    limits: Limits,
    connections: Mutex<Connections>,
}

/// The place of one connection in the table; released when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    table: Arc<ConnectionTable>,
    id: u64,
    close: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Connections {
    next_id: u64,
    open: HashMap<u64, Entry>,
    /// Number of open connections of each network.
    networks: HashMap<IpAddr, usize>,
    /// Connections that wait for their client, the longest waiting first.
    waiting: BTreeSet<(Instant, u64)>,
    /// Those of them whose request is arriving.
    arriving: BTreeSet<(Instant, u64)>,
    arriving_bytes: usize,
    /// Connections closed in favour of others since the last log line about it.
    displaced: usize,
}

impl ConnectionTable {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            connections: Mutex::default(),
        }
    }

    /// Adds a connection. Where a limit is reached, the connection that has waited longest for its
    /// client is closed instead. Returns `None` if there is none, because requests are being
    /// handled for all of them.
    pub(super) fn admit(self: &Arc<Self>, address: SocketAddr, now: Instant) -> Option<Slot> {
        let network = network_of(address.ip());
        let mut connections = self.connections.lock();
        if connections.of_network(network) >= self.limits.connections_per_address {
            connections.displace_longest_waiting(Some(network))?;
        }
        if connections.open.len() >= self.limits.connections {
            connections.displace_longest_waiting(None)?;
        }
        let close = Arc::new(Notify::new());
        let id = connections.add(network, Arc::clone(&close), now);
        Some(Slot {
            table: Arc::clone(self),
            id,
            close,
        })
    }

    /// Closes the connections whose client has exceeded a time limit, and logs how many were closed
    /// in favour of others since the last call.
    pub(super) fn close_overdue(&self, now: Instant) {
        let mut connections = self.connections.lock();
        let displaced = std::mem::take(&mut connections.displaced);
        let overdue: Vec<u64> = connections
            .open
            .iter()
            .filter(|(_, entry)| entry.is_overdue(now, self.limits.arrival_timeout))
            .map(|(id, _)| *id)
            .collect();
        for id in &overdue {
            connections.close(*id);
        }
        let open = connections.open.len();
        drop(connections);
        if !overdue.is_empty() {
            let connections = overdue.len();
            tracing::debug!(
                connections,
                "closed connections whose client exceeded a time limit"
            );
        }
        if displaced > 0 {
            tracing::warn!(
                connections = displaced,
                open,
                "limits on connections or on arriving requests were reached; closed the connections that waited longest for their clients"
            );
        }
    }
}

impl Slot {
    /// Waits until the connection must be closed.
    pub(super) async fn closed(&self) {
        self.close.notified().await;
    }

    /// Returns `true` if a request has arrived completely and its response is not completely sent.
    pub(super) fn has_arrived(&self) -> bool {
        let connections = self.table.connections.lock();
        let entry = connections.open.get(&self.id);
        entry.is_some_and(|entry| {
            matches!(
                entry.phase,
                Phase::Handling | Phase::Responding | Phase::Sending
            )
        })
    }

    /// Returns `true` if the connection is between two requests: the next byte that arrives belongs
    /// to the next request.
    pub(super) fn is_idle(&self) -> bool {
        let connections = self.table.connections.lock();
        let entry = connections.open.get(&self.id);
        entry.is_some_and(|entry| entry.phase == Phase::Idle && !entry.body_unread)
    }

    /// Records the arrival of bytes. If those of all requests that are arriving exceed the limit,
    /// the request that has been arriving longest is cut off.
    pub(super) fn received(&self, bytes: usize) {
        let mut connections = self.table.connections.lock();
        connections.received(self.id, bytes, Instant::now());
        while connections.arriving_bytes > self.table.limits.arriving_bytes
            && let Some((_, id)) = connections.arriving.first().copied()
        {
            connections.close(id);
            connections.displaced += 1;
        }
    }

    /// Records that the head of a request has arrived.
    pub(super) fn request_started(&self, has_body: bool) {
        let phase = if has_body {
            Phase::Body
        } else {
            Phase::Handling
        };
        self.enter(|entry| {
            entry.body_unread = has_body;
            Some(phase)
        });
    }

    /// Records that a request has arrived: its body was read completely, or no more of it is read.
    pub(super) fn request_arrived(&self, completely: bool) {
        self.enter(|entry| {
            entry.body_unread &= !completely;
            (entry.phase == Phase::Body).then_some(Phase::Handling)
        });
    }

    /// Records that a response is being sent.
    pub(super) fn response_started(&self) {
        self.enter(|entry| {
            entry.reused = true;
            Some(Phase::Responding)
        });
    }

    /// Records that a response was passed to the connection completely.
    pub(super) fn response_ended(&self) {
        self.enter(|_| Some(Phase::Sending));
    }

    /// Records that nothing that was passed to the connection is left to be sent.
    pub(super) fn sent(&self) {
        self.enter(|entry| {
            (entry.phase == Phase::Sending).then(|| {
                let pipelined = std::mem::take(&mut entry.pipelined);
                if pipelined { Phase::Head } else { Phase::Idle }
            })
        });
    }

    fn enter(&self, phase: impl FnOnce(&mut Entry) -> Option<Phase>) {
        let mut connections = self.table.connections.lock();
        connections.update(self.id, |entry| {
            if let Some(phase) = phase(entry) {
                entry.enter(phase, Instant::now());
            }
        });
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.table.connections.lock().remove(self.id);
    }
}

impl Connections {
    fn add(&mut self, network: IpAddr, close: Arc<Notify>, now: Instant) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        *self.networks.entry(network).or_default() += 1;
        let entry = Entry::new(network, close, now);
        self.waiting.insert((entry.rank(), id));
        self.open.insert(id, entry);
        id
    }

    fn of_network(&self, network: IpAddr) -> usize {
        self.networks.get(&network).copied().unwrap_or_default()
    }

    /// Closes the connection that has waited longest, of `network` if it is given. Returns `None`
    /// if none is waiting.
    fn displace_longest_waiting(&mut self, network: Option<IpAddr>) -> Option<()> {
        let of_network = |id| network.is_none_or(|network| self.open[id].network == network);
        let (_, id) = *self.waiting.iter().find(|(_, id)| of_network(id))?;
        self.close(id);
        self.displaced += 1;
        Some(())
    }

    fn received(&mut self, id: u64, bytes: usize, now: Instant) {
        self.update(id, |entry| entry.receive(bytes, now));
    }

    /// Changes an entry, and its place among those that wait. Does nothing if the connection is
    /// closed.
    fn update(&mut self, id: u64, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.open.get_mut(&id) else {
            return;
        };
        let bytes = entry.bytes;
        let before = (entry.rank(), entry.phase);
        change(entry);
        let (rank, phase) = (entry.rank(), entry.phase);
        self.arriving_bytes = self.arriving_bytes - bytes + entry.bytes;
        if before != (rank, phase) {
            self.unlist(id, before.0);
            self.list(id, rank, phase);
        }
    }

    fn list(&mut self, id: u64, rank: Instant, phase: Phase) {
        if phase != Phase::Handling {
            self.waiting.insert((rank, id));
        }
        if matches!(phase, Phase::Head | Phase::Body) {
            self.arriving.insert((rank, id));
        }
    }

    fn unlist(&mut self, id: u64, rank: Instant) {
        self.waiting.remove(&(rank, id));
        self.arriving.remove(&(rank, id));
    }

    fn close(&mut self, id: u64) {
        if let Some(entry) = self.remove(id) {
            entry.close.notify_one();
        }
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.open.remove(&id)?;
        self.unlist(id, entry.rank());
        self.arriving_bytes -= entry.bytes;
        if let Some(count) = self.networks.get_mut(&entry.network) {
            *count -= 1;
            if *count == 0 {
                self.networks.remove(&entry.network);
            }
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests;
