//! What the relay decides, as pure functions and plain data. Nothing here
//! waits, logs or asks the time.
//!
//! - [`record_classifier`]: which stream records are events (rule 6), and the message each becomes.
//! - [`error_policy`]: what a failed send means (rule 9).
//! - [`takeover_dedup`]: which events to look up before sending (rule 11).
//! - [`checkpoint_tracker`]: how far a shard is done: its checkpoint (rule 10).
//! - [`lease_liveness`]: which leases have expired and which shards are gone, without comparing
//!   clocks (rules 1 and 2).
//! - [`lease_assignment`]: which lease to take or to ask for (rules 1 to 3).
//! - [`send_scheduler`]: what to send and mark next (rules 8 and 10).
//! - [`sequence_tracker`]: whether an event may follow the one before it (rule 8).
//! - [`sweep_policy`]: what the sweeper may publish (rule 12).
//! - [`backoff`]: how long to wait before trying again.

pub mod backoff;
pub mod checkpoint_tracker;
pub mod error_policy;
pub mod lease_assignment;
pub mod lease_liveness;
pub mod record_classifier;
pub mod send_scheduler;
pub mod sequence_tracker;
pub mod sweep_policy;
pub mod takeover_dedup;
