//! What was trimmed from the stream before a relay had read it is said: in the
//! log, and by the counter that alerts are made from.

use super::super::history::{FaultKind, GapCount, History, Life, LogKind, LogLine, TrimmedRead};
use super::{Findings, Invariant};

/// Message of a relay that detected a gap.
pub(super) const STREAM_GAP: &str = "stream gap: records were trimmed before they were read; pending events among them are still in the table";

/// A relay says so before it does anything else.
const SAID_WITHIN_MS: u64 = 3_000;

pub(super) fn gaps(history: &History, found: &mut Findings) {
    for gap in met(history) {
        let deadline = said_until(history, gap);
        let is_silent = !lines(history, &gap.relay).any(|at| (gap.at..=deadline).contains(&at));
        if is_silent && !ended_before(history, gap, deadline) {
            found.add(
                Invariant::Gaps,
                gap.at,
                format!(
                    "{} was told that its position in the stream is trimmed, and did not log a gap",
                    gap.relay
                ),
            );
        }
    }
    for count in &history.gap_counts {
        let logged = logged(history, count);
        if count.counted < logged {
            found.add(
                Invariant::Gaps,
                count.at,
                format!(
                    "{} had logged {logged} gaps in the stream, and counted {}",
                    count.relay, count.counted
                ),
            );
        }
    }
}

/// Whether the relay had been told of the gap that `line` is about.
pub(super) fn was_met(history: &History, line: &LogLine) -> bool {
    let mut reads = history.trimmed_reads.iter();
    reads.any(|read| {
        read.relay == line.process && (read.at..=said_until(history, read)).contains(&line.at)
    })
}

/// The first of the refusals that belong to one gap: while a relay looks for
/// the oldest record that is left, it may be refused again.
fn met(history: &History) -> impl Iterator<Item = &TrimmedRead> {
    let reads = history.trimmed_reads.iter().enumerate();
    reads
        .filter(|(nth, read)| {
            !history.trimmed_reads[..*nth].iter().any(|earlier| {
                (&earlier.relay, earlier.incarnation) == (&read.relay, read.incarnation)
                    && earlier.at + SAID_WITHIN_MS >= read.at
            })
        })
        .map(|(_, read)| read)
}

/// One that is frozen has its time when it goes on.
fn said_until(history: &History, gap: &TrimmedRead) -> u64 {
    let pauses = history.faults.iter().filter(|fault| {
        fault.kind == FaultKind::Stop
            && fault.process.as_deref() == Some(&gap.relay)
            && fault.at <= gap.at + SAID_WITHIN_MS
    });
    let until = pauses.filter_map(|pause| pause.until);
    until.fold(gap.at, u64::max) + SAID_WITHIN_MS
}

/// A relay that is told to end may not come to it. The next one that reads on
/// from its checkpoint is told of the same gap.
fn ended_before(history: &History, gap: &TrimmedRead, deadline: u64) -> bool {
    let life = life(history, &gap.relay, gap.incarnation);
    life.and_then(|life| life.told_to_end)
        .is_some_and(|told| told <= deadline)
}

fn lines(history: &History, relay: &str) -> impl Iterator<Item = u64> {
    let lines = history.logs.iter().filter(move |line| {
        line.process == relay && line.kind == LogKind::Error && line.has_message(STREAM_GAP)
    });
    lines.map(|line| line.at)
}

/// How many gaps a relay had logged when it was asked for its count.
fn logged(history: &History, count: &GapCount) -> u64 {
    let started = life(history, &count.relay, count.incarnation).map_or(0, |life| life.started);
    let lines = lines(history, &count.relay).filter(|&at| (started..count.at).contains(&at));
    lines.count() as u64
}

fn life<'a>(history: &'a History, relay: &str, incarnation: u32) -> Option<&'a Life> {
    let mut lives = history.lives.iter();
    lives.find(|life| life.process == relay && life.incarnation == incarnation)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{allowed, caught, error, fault, valid};
    use super::super::{Violation, check};
    use super::*;
    use crate::history::CloudService;

    fn read(at: u64, relay: &str) -> TrimmedRead {
        TrimmedRead {
            at,
            relay: relay.to_owned(),
            incarnation: 1,
        }
    }

    /// A relay meets a gap at 60 s and says so after this time.
    fn meet(history: &mut History, said_after: Option<u64>) {
        history.trimmed_reads.push(read(60_000, "relay-2"));
        let line = said_after.map(|after| error(60_000 + after, "relay-2", STREAM_GAP));
        history.logs.extend(line);
    }

    fn count(history: &mut History, at: u64, counted: u64) {
        history.gap_counts.push(GapCount {
            at,
            relay: "relay-2".to_owned(),
            incarnation: 1,
            counted,
        });
    }

    #[test]
    fn a_relay_that_is_silent_about_a_gap_is_caught() {
        allowed(|history| meet(history, Some(3_000)));
        caught(Invariant::Gaps, 1, |history| meet(history, None));
        // Neither an earlier gap's line nor another relay's is this one's.
        caught(Invariant::Gaps, 1, |history| {
            history.trimmed_reads.push(read(56_900, "relay-2"));
            history.logs.push(error(56_910, "relay-2", STREAM_GAP));
            history.trimmed_reads.push(read(60_000, "relay-1"));
            history.logs.push(error(60_010, "relay-1", STREAM_GAP));
            meet(history, None);
        });
    }

    #[test]
    fn a_gap_that_nothing_made_is_caught() {
        for (at, relay) in [
            (60_001, "relay-2"),
            (56_999, "relay-2"),
            (59_000, "relay-1"),
        ] {
            let mut history = valid();
            history.trimmed_reads.push(read(at, relay));
            history.logs.push(error(60_000, "relay-2", STREAM_GAP));
            let found = check(&history);
            let is_of_logs = |one: &&Violation| one.invariant == Invariant::Logs;
            assert_eq!(found.iter().filter(is_of_logs).count(), 1, "{found:?}");
        }
        caught(Invariant::Logs, 1, |history| {
            history.logs.push(error(60_000, "relay-2", STREAM_GAP));
        });
    }

    #[test]
    fn refusals_that_follow_each_other_are_one_gap() {
        let refused_again = |after: u64| {
            move |history: &mut History| {
                meet(history, Some(10));
                history.trimmed_reads.push(read(60_000 + after, "relay-2"));
            }
        };
        allowed(refused_again(3_000));
        caught(Invariant::Gaps, 1, refused_again(3_001));
    }

    #[test]
    fn only_one_that_is_told_to_end_may_be_silent() {
        let told = |at: u64| {
            move |history: &mut History| {
                meet(history, None);
                let mut relays = history.lives.iter_mut();
                let life = relays.find(|life| life.process == "relay-2").unwrap();
                life.told_to_end = Some(at);
                life.ended = Some(at + 100);
            }
        };
        allowed(told(63_000));
        caught(Invariant::Gaps, 1, told(63_001));
    }

    #[test]
    fn one_that_is_frozen_has_its_time_when_it_goes_on() {
        let frozen = |said_after| {
            move |history: &mut History| {
                meet(history, said_after);
                let mut pause = fault(61_000, FaultKind::Stop, "relay-2", CloudService::Sqs);
                pause.service = None;
                pause.until = Some(62_000);
                history.faults.push(pause);
            }
        };
        allowed(frozen(Some(5_000)));
        caught(Invariant::Gaps, 1, frozen(None));
    }

    #[test]
    fn a_gap_that_is_logged_and_not_counted_is_caught() {
        allowed(|history| {
            meet(history, Some(10));
            count(history, 60_010, 0);
        });
        allowed(|history| {
            meet(history, Some(10));
            count(history, 60_011, 1);
        });
        caught(Invariant::Gaps, 1, |history| {
            meet(history, Some(10));
            count(history, 60_011, 0);
        });
    }
}
