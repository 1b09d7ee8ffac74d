//! Checks that relays report records trimmed before they were read: in the log, and in the counter
//! that the alerts use.

use super::super::history::{FaultKind, GapCount, History, Life, LogKind, LogLine, TrimmedRead};
use super::{Findings, Invariant};

/// Message of a relay that detected a gap.
pub(super) const STREAM_GAP: &str = "stream gap: records were trimmed before they were read; pending events among them are still in the table";

/// Time within which a relay logs a gap: it does so before anything else.
const LOGGED_WITHIN_MS: u64 = 3_000;

/// Checks that every gap that a relay encountered was logged and counted.
pub(super) fn gaps(history: &History, found: &mut Findings) {
    for gap in distinct_gaps(history) {
        let deadline = log_deadline(history, gap);
        let is_silent = !lines(history, &gap.relay).any(|at| (gap.at..=deadline).contains(&at));
        if is_silent && !ended_before(history, gap, deadline) {
            found.add(
                Invariant::Gaps,
                gap.at,
                format!(
                    "{} received TrimmedDataAccessException for its position in the stream and did not log the gap within {LOGGED_WITHIN_MS} ms",
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
                    "{} had logged {logged} stream gaps, and its counter outbox_stream_gaps_total was {}",
                    count.relay, count.counted
                ),
            );
        }
    }
}

/// Returns `true` if the relay had received the trimmed-data error that `line` reports.
pub(super) fn is_explained(history: &History, line: &LogLine) -> bool {
    let mut reads = history.trimmed_reads.iter();
    reads.any(|read| {
        read.relay == line.process && (read.at..=log_deadline(history, read)).contains(&line.at)
    })
}

/// Returns the first trimmed-data error of each gap: while a relay searches for the oldest
/// remaining record, it may receive further ones.
fn distinct_gaps(history: &History) -> impl Iterator<Item = &TrimmedRead> {
    let reads = history.trimmed_reads.iter().enumerate();
    reads
        .filter(|(nth, read)| {
            !history.trimmed_reads[..*nth].iter().any(|earlier| {
                (&earlier.relay, earlier.incarnation) == (&read.relay, read.incarnation)
                    && earlier.at + LOGGED_WITHIN_MS >= read.at
            })
        })
        .map(|(_, read)| read)
}

/// Returns the time by which the relay must have logged the gap: for a frozen relay the time limit
/// starts when it resumes.
fn log_deadline(history: &History, gap: &TrimmedRead) -> u64 {
    let pauses = history.faults.iter().filter(|fault| {
        fault.kind == FaultKind::Stop
            && fault.process.as_deref() == Some(&gap.relay)
            && fault.at <= gap.at + LOGGED_WITHIN_MS
    });
    let until = pauses.filter_map(|pause| pause.until);
    until.fold(gap.at, u64::max) + LOGGED_WITHIN_MS
}

/// Returns `true` if the relay was signalled to end before the deadline and so may not have logged
/// the gap. The relay that continues from its checkpoint encounters the same gap.
fn ended_before(history: &History, gap: &TrimmedRead, deadline: u64) -> bool {
    let life = life(history, &gap.relay, gap.incarnation);
    life.and_then(|life| life.told_to_end)
        .is_some_and(|signalled| signalled <= deadline)
}

/// Returns the times at which the relay logged a gap.
fn lines(history: &History, relay: &str) -> impl Iterator<Item = u64> {
    let lines = history.logs.iter().filter(move |line| {
        line.process == relay && line.kind == LogKind::Error && line.has_message(STREAM_GAP)
    });
    lines.map(|line| line.at)
}

/// Returns how many gaps the relay had logged when its counter was read.
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
    use super::super::fixture::{assert_valid, assert_violations, error, fault, valid};
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

    /// Adds a gap that a relay encounters at 60 s and logs after this time.
    fn add_gap(history: &mut History, logged_after: Option<u64>) {
        history.trimmed_reads.push(read(60_000, "relay-2"));
        let line = logged_after.map(|after| error(60_000 + after, "relay-2", STREAM_GAP));
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
    fn a_gap_that_is_not_logged_is_detected() {
        assert_valid(|history| add_gap(history, Some(3_000)));
        assert_violations(Invariant::Gaps, 1, |history| add_gap(history, None));
        // Neither the line of an earlier gap nor that of another relay reports this gap.
        assert_violations(Invariant::Gaps, 1, |history| {
            history.trimmed_reads.push(read(56_900, "relay-2"));
            history.logs.push(error(56_910, "relay-2", STREAM_GAP));
            history.trimmed_reads.push(read(60_000, "relay-1"));
            history.logs.push(error(60_010, "relay-1", STREAM_GAP));
            add_gap(history, None);
        });
    }

    #[test]
    fn a_logged_gap_without_trimmed_records_is_detected() {
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
        assert_violations(Invariant::Logs, 1, |history| {
            history.logs.push(error(60_000, "relay-2", STREAM_GAP));
        });
    }

    #[test]
    fn consecutive_trimmed_data_errors_are_one_gap() {
        let repeated = |after: u64| {
            move |history: &mut History| {
                add_gap(history, Some(10));
                history.trimmed_reads.push(read(60_000 + after, "relay-2"));
            }
        };
        assert_valid(repeated(3_000));
        assert_violations(Invariant::Gaps, 1, repeated(3_001));
    }

    #[test]
    fn only_a_relay_signalled_to_end_may_omit_the_log_line() {
        let signalled = |at: u64| {
            move |history: &mut History| {
                add_gap(history, None);
                let mut relays = history.lives.iter_mut();
                let life = relays.find(|life| life.process == "relay-2").unwrap();
                life.told_to_end = Some(at);
                life.ended = Some(at + 100);
            }
        };
        assert_valid(signalled(63_000));
        assert_violations(Invariant::Gaps, 1, signalled(63_001));
    }

    #[test]
    fn the_time_limit_of_a_frozen_relay_starts_when_it_resumes() {
        let frozen = |logged_after| {
            move |history: &mut History| {
                add_gap(history, logged_after);
                let mut pause = fault(61_000, FaultKind::Stop, "relay-2", CloudService::Sqs);
                pause.service = None;
                pause.until = Some(62_000);
                history.faults.push(pause);
            }
        };
        assert_valid(frozen(Some(5_000)));
        assert_violations(Invariant::Gaps, 1, frozen(None));
    }

    #[test]
    fn a_gap_that_is_logged_and_not_counted_is_detected() {
        assert_valid(|history| {
            add_gap(history, Some(10));
            count(history, 60_010, 0);
        });
        assert_valid(|history| {
            add_gap(history, Some(10));
            count(history, 60_011, 1);
        });
        assert_violations(Invariant::Gaps, 1, |history| {
            add_gap(history, Some(10));
            count(history, 60_011, 0);
        });
    }
}
