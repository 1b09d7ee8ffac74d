//! Which events to look up in the table before sending them.

use std::time::Duration;

use shared::timestamp::Timestamp;

/// What an instance knows of a shard it has taken over: an earlier owner may
/// have published events past the checkpoint. Those are looked up, so that
/// only what was in flight at a crash is sent twice. Past the tip nothing is.
#[derive(Clone, Copy, Debug)]
pub struct CatchUp {
    /// By this clock, the earlier owner no longer read the shard.
    suspect_until: Timestamp,
    tip_reached: bool,
}

impl CatchUp {
    /// For a shard taken over at `taken_at` (wall clock). An earlier owner may
    /// go on for a lease duration. Clocks that differ by more than that cost
    /// repeats, never an event.
    pub fn new(taken_at: Timestamp, lease_duration: Duration) -> Self {
        let millis = i64::try_from(lease_duration.as_millis()).unwrap_or(i64::MAX);
        Self {
            suspect_until: Timestamp::from_millis(taken_at.as_millis().saturating_add(millis)),
            tip_reached: false,
        }
    }

    /// A read found nothing more. The service may say so in the middle of a
    /// shard too, hence the look at the time as well.
    pub fn reached_tip(&mut self) {
        self.tip_reached = true;
    }

    /// Whether a record made at `created_at` may have been published already.
    pub fn must_look_up(&self, created_at: Option<Timestamp>) -> bool {
        !self.tip_reached || created_at.is_none_or(|at| at <= self.suspect_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_looked_up_until_the_tip_and_a_lease_duration_after_the_takeover() {
        let at = |seconds: i64| Some(Timestamp::from_millis(seconds * 1000));
        let mut catch_up = CatchUp::new(Timestamp::from_millis(100_000), Duration::from_secs(10));
        assert!(catch_up.must_look_up(at(500)));
        catch_up.reached_tip();
        assert!(catch_up.must_look_up(at(50)));
        assert!(catch_up.must_look_up(at(110)));
        assert!(!catch_up.must_look_up(at(111)));
        assert!(catch_up.must_look_up(None));
    }
}
