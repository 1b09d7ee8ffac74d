//! Decides whether an event may follow the events before it in its aggregate (the "per-aggregate
//! order" rule).
//!
//! The decision looks at one earlier event at a time, from the supposed predecessor backwards.
//! Every event before a published or dispatched one is settled or dispatched as well, so that the
//! search ends there.

use outbox::Status;

use crate::ports::StoredStatus;

/// An event before the one in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// Status in the table; `None` if the item does not exist or its status is malformed.
    pub stored: Option<StoredStatus>,
    /// The same gate dispatched it or a later one of the aggregate, and the publisher did not
    /// leave it to the table since.
    pub is_dispatched: bool,
}

/// The event in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Successor {
    /// The table path can publish it: it is in the index of pending events.
    pub is_deferrable: bool,
    /// It waits for an earlier event that is quarantined.
    pub holds: bool,
    pub path: Path,
}

/// Path on which an event arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Stream {
        /// Its queue accepts too little, so that a wait for an earlier event is in vain.
        is_impaired: bool,
        /// Its events are deferred: its queue accepts nothing, or its shard has ended.
        is_deferring: bool,
        /// An event of the aggregate waited in vain a moment ago.
        was_in_vain: bool,
        /// It has not waited long, and there is room for it.
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
    /// It follows.
    Follow,
    /// The next earlier event decides.
    LookBack,
    /// The earlier event is expected from the stream or from the table path.
    Wait,
    /// It stays in the table, from where it is published after the earlier event.
    Leave,
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
            // An event outside the index would not be found again.
            Some(Status::Failed) if self.holds && self.is_deferrable => Decision::Leave,
            Some(Status::Failed | Status::Discarded) | None => Decision::LookBack,
        }
    }

    const fn decide_by_pending(self, is_deferred: bool) -> Decision {
        let (is_impaired, is_deferring, was_in_vain, may_wait) = match self.path {
            Path::Stream {
                is_impaired,
                is_deferring,
                was_in_vain,
                may_wait,
            } => (is_impaired, is_deferring, was_in_vain, may_wait),
            Path::Table { waits_for_readers } => {
                return if waits_for_readers && self.is_deferrable && !is_deferred {
                    Decision::Leave
                } else {
                    Decision::PublishEarlier
                };
            }
        };
        // Only the table path publishes a deferred event. A wait for it lets the aggregate return
        // to the stream, unless it does not end soon.
        let is_in_vain = is_deferring || (is_deferred && (is_impaired || was_in_vain));
        if self.is_deferrable && is_in_vain {
            Decision::Leave
        } else if may_wait {
            Decision::Wait
        } else if self.is_deferrable && is_deferred {
            Decision::Leave
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
        was_in_vain: false,
        may_wait: true,
    };

    const WAITED: Path = Path::Stream {
        is_impaired: false,
        is_deferring: false,
        was_in_vain: false,
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
            }),
            is_dispatched: false,
        }
    }

    fn deferred() -> Earlier {
        Earlier {
            stored: Some(StoredStatus {
                status: Status::Pending,
                is_deferred: true,
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
    fn a_quarantined_event_holds_back_indexed_events_only_and_only_if_it_is_to() {
        for path in [STREAM, WAITED, TABLE] {
            let failed = earlier(Status::Failed);
            assert_eq!(event(path).decide(failed), Decision::LookBack);
            assert_eq!(holding(path).decide(failed), Decision::Leave);
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
    fn an_event_waits_for_a_deferred_one_and_is_then_left_to_the_table() {
        assert_eq!(event(STREAM).decide(deferred()), Decision::Wait);
        assert_eq!(event(WAITED).decide(deferred()), Decision::Leave);
        assert_eq!(unindexed(STREAM).decide(deferred()), Decision::Wait);
        let waited = unindexed(WAITED).decide(deferred());
        assert_eq!(waited, Decision::PublishEarlier);
    }

    #[test]
    fn an_event_does_not_wait_in_vain_for_a_deferred_one() {
        for (is_impaired, was_in_vain) in [(true, false), (false, true)] {
            let path = Path::Stream {
                is_impaired,
                is_deferring: false,
                was_in_vain,
                may_wait: true,
            };
            assert_eq!(event(path).decide(deferred()), Decision::Leave);
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
            was_in_vain: false,
            may_wait: true,
        };
        for pending in [earlier(Status::Pending), deferred()] {
            assert_eq!(event(path).decide(pending), Decision::Leave);
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
    fn the_table_path_leaves_to_the_readers_what_they_may_still_have() {
        let path = Path::Table {
            waits_for_readers: true,
        };
        let pending = earlier(Status::Pending);
        assert_eq!(event(path).decide(pending), Decision::Leave);
        assert_eq!(event(path).decide(deferred()), Decision::PublishEarlier);
        assert_eq!(unindexed(path).decide(pending), Decision::PublishEarlier);
    }
}
