//! What the relay decides, as pure functions and plain data. Nothing here
//! waits, logs or asks the time.
//!
//! - [`classify`]: which stream records are events (rule 6), and the message each becomes.
//! - [`failure`]: what a failed send means (rule 9).
//! - [`catch_up`]: which events to look up before sending (rule 11).
//! - [`progress`]: how far a shard is done: its checkpoint (rule 10).
//! - [`observations`]: which leases have expired and which shards are gone, without comparing
//!   clocks (rules 1 and 2).
//! - [`ownership`]: which lease to take or to ask for (rules 1 to 3).
//! - [`schedule`]: what to send and mark next (rules 8 and 10).
//! - [`succession`]: whether an event may follow the one before it (rule 8).
//! - [`sweep`]: what the sweeper may publish (rule 12).
//! - [`backoff`]: how long to wait before trying again.

pub mod backoff;
pub mod catch_up;
pub mod classify;
pub mod failure;
pub mod observations;
pub mod ownership;
pub mod progress;
pub mod schedule;
pub mod succession;
pub mod sweep;
