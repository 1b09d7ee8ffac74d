//! Decides whether an event may follow the events before it in its aggregate (the "per-aggregate
//! order" rule).
//!
//! The decision considers one earlier event at a time: first the one with the next lower
//! `sequence`, then those before it. Every event before a published or dispatched one is settled or
//! dispatched as well, so the search ends there.

use outbox::Status;

use crate::ports::StoredStatus;

/// An earlier event of the aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// Status in the table; `None` if the item does not exist or its status is malformed.
    pub stored: Option<StoredStatus>,
    /// The same gate dispatched it or a later one of the aggregate, and the publisher has not
    /// removed it from the scheduler since.
    pub is_dispatched: bool,
}

/// The event that is decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Successor {
    /// Sweepers can find it: it is in the index of pending events.
    pub is_deferrable: bool,
    /// It must wait for earlier events that are quarantined (the "failure mode" rule).
    pub holds: bool,
    pub path: Path,
}

/// Path on which an event was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Stream {
        /// Its queue is unavailable or slow, so a deferred predecessor will not be published soon.
        is_impaired: bool,
        /// Its queue has failed for so long that all of its events are deferred, or its shard was
        /// read to its end.
        is_deferring: bool,
        /// A previous event of the aggregate was deferred after its wait, or because of a
        /// quarantined one, less than a minute ago.
        is_blocked: bool,
        /// It has not waited for the maximum time, and there is capacity for waiting events.
        may_wait: bool,
    },
    Table {
        /// A reader of the stream may still have earlier events, and sends or defers them as soon
        /// as it can.
        waits_for_readers: bool,
    },
}

/// Decision about an event by an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The event may be dispatched now.
    Follow,
    /// The next earlier event decides.
    LookBack,
    /// The earlier event is expected from the stream or from the table path.
    Wait,
    /// The event is deferred, or stays in the table: a sweeper publishes it after the earlier one.
    Defer,
    /// The earlier event is published from the table first.
    PublishEarlier,
}

impl Successor {
    /// Decides about the event by `earlier`.
    pub fn decide(self, earlier: Earlier) -> Decision {
        if earlier.is_dispatched {
            return Decision::Follow;
        }
        match earlier.stored.map(|stored| stored.status) {
            Some(Status::Published) => Decision::Follow,
            Some(Status::Pending) => {
                self.decide_by_pending(earlier.stored.is_some_and(|stored| stored.is_deferred))
            }
            // A sweeper would not find an event that is not in the index.
            Some(Status::Failed) if self.holds && self.is_deferrable => Decision::Defer,
            Some(Status::Failed | Status::Discarded) | None => Decision::LookBack,
        }
    }

    const fn decide_by_pending(self, is_deferred: bool) -> Decision {
        let (is_impaired, is_deferring, is_blocked, may_wait) = match self.path {
            Path::Stream {
                is_impaired,
                is_deferring,
                is_blocked,
                may_wait,
            } => (is_impaired, is_deferring, is_blocked, may_wait),
            Path::Table { waits_for_readers } => {
                return if waits_for_readers && self.is_deferrable && !is_deferred {
                    Decision::Defer
                } else {
                    Decision::PublishEarlier
                };
            }
        };
        // Only sweepers publish a deferred event. Waiting for it lets the aggregate return to the
        // stream path, but only if it is published soon.
        let defers_at_once = is_deferring || (is_deferred && (is_impaired || is_blocked));
        if self.is_deferrable && defers_at_once {
            Decision::Defer
        } else if may_wait {
            Decision::Wait
        } else if self.is_deferrable && is_deferred {
            Decision::Defer
        } else {
            Decision::PublishEarlier
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Path = Path::Stream {
        is_impaired: false,
        is_deferring: false,
        is_blocked: false,
        may_wait: true,
    };

    const WAITED: Path = Path::Stream {
        is_impaired: false,
        is_deferring: false,
        is_blocked: false,
        may_wait: false,
    };

    const TABLE: Path = Path::Table {
        waits_for_readers: false,
    };

    const fn event(path: Path) -> Successor {
        Successor {
            is_deferrable: true,
            holds: false,
            path,
        }
    }

    /// An event that is not in the index of pending events.
    const fn unindexed(path: Path) -> Successor {
        Successor {
            is_deferrable: false,
            ..event(path)
        }
    }

    const fn holding(path: Path) -> Successor {
        Successor {
            holds: true,
            ..event(path)
        }
    }

    fn earlier(status: Status) -> Earlier {
        Earlier {
            stored: Some(StoredStatus {
                status,
                is_deferred: false,
                replays: 0,
            }),
            is_dispatched: false,
        }
    }

    fn deferred() -> Earlier {
        Earlier {
            stored: Some(StoredStatus {
                status: Status::Pending,
                is_deferred: true,
                replays: 0,
            }),
            is_dispatched: false,
        }
    }

    #[test]
    fn an_event_follows_a_published_one() {
        for path in [STREAM, WAITED, TABLE] {
            let published = earlier(Status::Published);
            assert_eq!(holding(path).decide(published), Decision::Follow);
            let was_deferred = Earlier {
                stored: Some(StoredStatus {
                    status: Status::Published,
                    is_deferred: true,
                    replays: 0,
                }),
                ..published
            };
            assert_eq!(holding(path).decide(was_deferred), Decision::Follow);
        }
    }

    #[test]
    fn an_event_follows_a_dispatched_one_whatever_its_status() {
        for path in [STREAM, WAITED, TABLE] {
            for stored in [
                None,
                deferred().stored,
                earlier(Status::Failed).stored,
                earlier(Status::Discarded).stored,
            ] {
                let dispatched = Earlier {
                    stored,
                    is_dispatched: true,
                };
                assert_eq!(holding(path).decide(dispatched), Decision::Follow);
            }
        }
    }

    #[test]
    fn the_search_passes_discarded_and_missing_events() {
        let missing = Earlier {
            stored: None,
            is_dispatched: false,
        };
        for path in [STREAM, WAITED, TABLE] {
            let discarded = earlier(Status::Discarded);
            assert_eq!(holding(path).decide(discarded), Decision::LookBack);
            assert_eq!(holding(path).decide(missing), Decision::LookBack);
        }
    }

    #[test]
    fn in_hold_mode_indexed_events_wait_for_a_quarantined_one() {
        for path in [STREAM, WAITED, TABLE] {
            let failed = earlier(Status::Failed);
            assert_eq!(event(path).decide(failed), Decision::LookBack);
            assert_eq!(holding(path).decide(failed), Decision::Defer);
            let unindexed = Successor {
                is_deferrable: false,
                ..holding(path)
            };
            assert_eq!(unindexed.decide(failed), Decision::LookBack);
        }
    }

    #[test]
    fn an_event_waits_for_a_pending_one_and_then_has_it_published_from_the_table() {
        let pending = earlier(Status::Pending);
        for event in [event, unindexed] {
            assert_eq!(event(STREAM).decide(pending), Decision::Wait);
            assert_eq!(event(WAITED).decide(pending), Decision::PublishEarlier);
        }
    }

    #[test]
    fn an_event_waits_for_a_deferred_one_and_is_then_deferred() {
        assert_eq!(event(STREAM).decide(deferred()), Decision::Wait);
        assert_eq!(event(WAITED).decide(deferred()), Decision::Defer);
        assert_eq!(unindexed(STREAM).decide(deferred()), Decision::Wait);
        let waited = unindexed(WAITED).decide(deferred());
        assert_eq!(waited, Decision::PublishEarlier);
    }

    #[test]
    fn an_event_of_an_impaired_queue_or_blocked_aggregate_does_not_wait_for_a_deferred_one() {
        for (is_impaired, is_blocked) in [(true, false), (false, true)] {
            let path = Path::Stream {
                is_impaired,
                is_deferring: false,
                is_blocked,
                may_wait: true,
            };
            assert_eq!(event(path).decide(deferred()), Decision::Defer);
            assert_eq!(unindexed(path).decide(deferred()), Decision::Wait);
            // This one is expected from the stream.
            let pending = earlier(Status::Pending);
            assert_eq!(event(path).decide(pending), Decision::Wait);
        }
    }

    #[test]
    fn an_event_of_a_queue_that_accepts_nothing_does_not_wait() {
        let path = Path::Stream {
            is_impaired: true,
            is_deferring: true,
            is_blocked: false,
            may_wait: true,
        };
        for pending in [earlier(Status::Pending), deferred()] {
            assert_eq!(event(path).decide(pending), Decision::Defer);
            assert_eq!(unindexed(path).decide(pending), Decision::Wait);
        }
    }

    #[test]
    fn the_table_path_publishes_pending_events_in_order() {
        for pending in [earlier(Status::Pending), deferred()] {
            for event in [event, unindexed] {
                let decision = event(TABLE).decide(pending);
                assert_eq!(decision, Decision::PublishEarlier);
            }
        }
    }

    #[test]
    fn a_recently_deferred_event_waits_for_those_that_readers_may_still_have() {
        let path = Path::Table {
            waits_for_readers: true,
        };
        let pending = earlier(Status::Pending);
        assert_eq!(event(path).decide(pending), Decision::Defer);
        assert_eq!(event(path).decide(deferred()), Decision::PublishEarlier);
        assert_eq!(unindexed(path).decide(pending), Decision::PublishEarlier);
    }
}
