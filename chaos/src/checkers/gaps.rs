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
        let is_silent = !lines(history, &gap.relay)
            .any(|line| (gap.at..=deadline).contains(&line.at) && is_about(line, gap));
        if is_silent && !ended_before(history, gap, deadline) {
            found.add(
                Invariant::Gaps,
                gap.at,
                format!(
                    "{} received TrimmedDataAccessException for its position in shard {} and did not log the gap within {LOGGED_WITHIN_MS} ms",
                    gap.relay, gap.shard
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
        read.relay == line.process
            && (read.at..=log_deadline(history, read)).contains(&line.at)
            && is_about(line, read)
    })
}

/// Returns `true` if the line names the shard of the gap.
fn is_about(line: &LogLine, gap: &TrimmedRead) -> bool {
    line.text.contains(&gap.shard)
}

/// Returns the first trimmed-data error of each gap: while a relay searches for the oldest
/// remaining record of a shard, it may receive further ones. A relay that has not read anything of
/// the shard does not know of a gap.
fn distinct_gaps(history: &History) -> impl Iterator<Item = &TrimmedRead> {
    let of = |read: &TrimmedRead| (read.relay.clone(), read.incarnation, read.shard.clone());
    let reads = history.trimmed_reads.iter().enumerate();
    reads
        .filter(move |(nth, read)| {
            let mut earlier = history.trimmed_reads[..*nth].iter();
            let is_repeated = earlier
                .any(|earlier| of(earlier) == of(read) && earlier.at + LOGGED_WITHIN_MS >= read.at);
            !read.is_first && !is_repeated
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

/// Returns the lines in which the relay logged a gap.
fn lines<'a>(history: &'a History, relay: &str) -> impl Iterator<Item = &'a LogLine> {
    history.logs.iter().filter(move |line| {
        line.process == relay && line.kind == LogKind::Error && line.has_message(STREAM_GAP)
    })
}

/// Returns how many gaps the relay had logged when its counter was read.
fn logged(history: &History, count: &GapCount) -> u64 {
    let started = life(history, &count.relay, count.incarnation).map_or(0, |life| life.started);
    let lines = lines(history, &count.relay);
    let lines = lines.filter(|line| (started..count.at).contains(&line.at));
    lines.count() as u64
}

fn life<'a>(history: &'a History, relay: &str, incarnation: u32) -> Option<&'a Life> {
    let mut lives = history.lives.iter();
    lives.find(|life| life.process == relay && life.incarnation == incarnation)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{SHARD, assert_valid, assert_violations, error, fault, valid};
    use super::super::{Violation, check};
    use super::*;
    use crate::history::CloudService;

    fn read(at: u64, relay: &str) -> TrimmedRead {
        TrimmedRead {
            at,
            shard: SHARD.to_owned(),
            is_first: false,
            relay: relay.to_owned(),
            incarnation: 1,
        }
    }

    /// Returns the line that reports a gap in the shard.
    fn line(at: u64, relay: &str) -> LogLine {
        let mut line = error(at, relay, STREAM_GAP);
        line.text = line.text.replace('}', &format!(r#","shard":"{SHARD}"}}"#));
        line
    }

    /// Adds a gap that a relay encounters at 60 s and logs after this time.
    fn add_gap(history: &mut History, logged_after: Option<u64>) {
        history.trimmed_reads.push(read(60_000, "relay-2"));
        let line = logged_after.map(|after| line(60_000 + after, "relay-2"));
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
            history.logs.push(line(56_910, "relay-2"));
            history.trimmed_reads.push(read(60_000, "relay-1"));
            history.logs.push(line(60_010, "relay-1"));
            add_gap(history, None);
        });
    }

    #[test]
    fn each_shard_has_its_own_gap_and_line() {
        let in_both = |logged: bool| {
            move |history: &mut History| {
                add_gap(history, Some(10));
                let mut other = read(60_005, "relay-2");
                other.shard = "shard-2".to_owned();
                history.trimmed_reads.push(other);
                if logged {
                    let mut other = line(60_010, "relay-2");
                    other.text = other.text.replace(SHARD, "shard-2");
                    history.logs.push(other);
                }
            }
        };
        assert_valid(in_both(true));
        assert_violations(Invariant::Gaps, 1, in_both(false));
    }

    #[test]
    fn a_relay_that_has_read_nothing_need_not_log_a_gap() {
        let first = |history: &mut History| {
            let mut first = read(60_000, "relay-2");
            first.is_first = true;
            history.trimmed_reads.push(first);
        };
        assert_valid(first);
        // It may know of lost records by the start of the shard.
        assert_valid(|history| {
            first(history);
            history.logs.push(line(60_010, "relay-2"));
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
            history.logs.push(line(60_000, "relay-2"));
            let found = check(&history);
            let is_of_logs = |one: &&Violation| one.invariant == Invariant::Logs;
            assert_eq!(found.iter().filter(is_of_logs).count(), 1, "{found:?}");
        }
        assert_violations(Invariant::Logs, 1, |history| {
            history.logs.push(line(60_000, "relay-2"));
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
