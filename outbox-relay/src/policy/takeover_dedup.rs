//! Which events to look up in the table before sending them.

use std::time::Duration;

use outbox::timestamp::Timestamp;

/// What an instance knows of a shard it has taken over: an earlier owner may
/// have published events past the checkpoint. Those are looked up, so that
/// only what was in flight at a crash is sent twice. Past the tip nothing is.
#[derive(Clone, Copy, Debug)]
pub struct CatchUp {
    /// By this clock, the earlier owner no longer read the shard.
    suspect_until: Timestamp,
    tip_reached: bool,
    /// How many more pending events an earlier owner can have had in hand.
    in_hand: usize,
}

impl CatchUp {
    /// For a shard taken over at `taken_at` (wall clock). An earlier owner may
    /// go on for a lease duration. Clocks that differ by more than that cost
    /// repeats, never an event. `in_hand` is how many events an owner can have
    /// read and not settled.
    pub fn new(taken_at: Timestamp, lease_duration: Duration, in_hand: usize) -> Self {
        let millis = i64::try_from(lease_duration.as_millis()).unwrap_or(i64::MAX);
        Self {
            suspect_until: Timestamp::from_millis(taken_at.as_millis().saturating_add(millis)),
            tip_reached: false,
            in_hand,
        }
    }

    /// A read found nothing more. The service may say so in the middle of a
    /// shard too, hence the look at the time as well.
    pub fn reached_tip(&mut self) {
        self.tip_reached = true;
    }

    /// So many events were looked up and are still pending. To publish an event
    /// an owner must have had all pending ones before it in hand: past as many
    /// as it can hold, it has published nothing.
    pub fn found_pending(&mut self, count: usize) {
        self.in_hand = self.in_hand.saturating_sub(count);
    }

    /// Whether a record made at `created_at` may have been published already.
    pub fn must_look_up(&self, created_at: Option<Timestamp>) -> bool {
        self.in_hand > 0
            && (!self.tip_reached || created_at.is_none_or(|at| at <= self.suspect_until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_looked_up_until_the_tip_and_a_lease_duration_after_the_takeover() {
        let at = |seconds: i64| Some(Timestamp::from_millis(seconds * 1000));
        let mut catch_up =
            CatchUp::new(Timestamp::from_millis(100_000), Duration::from_secs(10), 9);
        assert!(catch_up.must_look_up(at(500)));
        catch_up.reached_tip();
        assert!(catch_up.must_look_up(at(50)));
        assert!(catch_up.must_look_up(at(110)));
        assert!(!catch_up.must_look_up(at(111)));
        assert!(catch_up.must_look_up(None));
    }

    #[test]
    fn past_what_an_owner_can_have_in_hand_nothing_is_looked_up() {
        let mut catch_up = CatchUp::new(Timestamp::from_millis(0), Duration::from_secs(10), 5);
        catch_up.found_pending(4);
        assert!(catch_up.must_look_up(None));
        catch_up.found_pending(1);
        assert!(!catch_up.must_look_up(None));
    }
}
