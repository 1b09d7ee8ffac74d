//! Decisions of the relay as pure functions over plain data. Nothing here waits, logs or reads a
//! clock. The rules that are cited by name are defined in `docs/design.md`.
//!
//! A record passes [`record_classifier`] (event filter) and [`takeover_dedup`] (takeover); the
//! event then passes [`sequence_tracker`] and [`look_up_schedule`] (per-aggregate order),
//! [`send_scheduler`], on failure [`error_policy`] (error classes), [`mark_queue`], and at last
//! [`checkpoint_tracker`] (publish → mark → checkpoint). Leases are the subject of
//! [`lease_liveness`] (fencing), [`lease_assignment`] (lineage), [`lease_balance`] (balance),
//! [`child_look_ups`] (shard discovery) and [`lineage`] (gap); pending events in the table, of
//! [`sweep_policy`] (sweeper). [`backoff`], [`circuit_breaker`] and [`recent_map`] are their tools.

pub mod backoff;
pub mod caught_up;
pub mod checkpoint_tracker;
pub mod child_look_ups;
pub mod circuit_breaker;
pub mod error_policy;
pub mod event_source;
pub mod lease_assignment;
pub mod lease_balance;
pub mod lease_liveness;
pub mod lineage;
pub mod look_up_schedule;
pub mod mark_queue;
pub mod read_pacing;
pub mod recent_map;
pub mod record_classifier;
pub mod send_scheduler;
pub mod sequence_rule;
pub mod sequence_tracker;
pub mod sweep_policy;
pub mod takeover_dedup;
