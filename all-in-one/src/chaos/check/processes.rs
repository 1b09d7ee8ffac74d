//! The processes themselves: what they logged, how they ended and what memory
//! they held.

use std::collections::{BTreeMap, HashMap};

use super::super::history::{Ending, FaultKind, History, LogKind, MemorySample};
use super::super::measure::spans::{Span, Spans, disturbances, troubles_of};
use super::{Findings, Invariant};

/// A fault can be reported this much later: a request is given up after 10 s,
/// and the last retry before that takes up to 5 s.
const REPORTED_WITHIN_MS: u64 = 15_000;

/// The text of the one ERROR that has one cause only.
const GAP: &str = "stream gap";

/// SIGTERM's number: what kills a process that has not set its handler yet.
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// Shorter lives say nothing about growth.
const GROWTH_MS: u64 = 60_000;
/// What caches, pools and the allocator may take after the first third of a
/// life.
const GROWTH_BYTES: u64 = 16 * 1024 * 1024;

pub(super) fn logs(history: &History, found: &mut Findings) {
    let disturbances = disturbances(history);
    let mut troubles: HashMap<&str, Spans> = HashMap::new();
    for line in &history.logs {
        let process = line.process.as_str();
        let explained = match line.kind {
            LogKind::LeaseLost => true,
            LogKind::Panic => false,
            LogKind::Error if line.text.contains(GAP) => history.faults.iter().any(|fault| {
                fault.kind == FaultKind::TrimmedIterator
                    && fault.process.as_deref() == Some(process)
                    && (fault.at..=fault.at + REPORTED_WITHIN_MS).contains(&line.at)
            }),
            LogKind::Error => troubles
                .entry(process)
                .or_insert_with(|| troubles_of(&disturbances, process, REPORTED_WITHIN_MS))
                .touch(Span::new(line.at, line.at)),
        };
        if !explained {
            found.add(
                Invariant::Logs,
                line.at,
                format!("{process} logged: {}", line.text),
            );
        }
    }
}

pub(super) fn endings(history: &History, found: &mut Findings) {
    for life in &history.lives {
        let (Some(ended), how) = (life.ended, life.how) else {
            continue;
        };
        let starting = life.ready.is_none_or(|ready| ready > ended);
        let wrong = match (life.told_to_end, how) {
            (None, _) => Some("nobody told it to"),
            (Some(_), Some(Ending::Exited(0) | Ending::Signalled(SIGKILL))) => None,
            (Some(_), Some(Ending::Signalled(SIGTERM))) if starting => None,
            (Some(_), _) => Some("it was told to stop"),
        };
        if let Some(wrong) = wrong {
            let how = match how {
                Some(Ending::Exited(code)) => format!("exited with code {code}"),
                Some(Ending::Signalled(signal)) => format!("was ended by signal {signal}"),
                None => "ended".to_owned(),
            };
            found.add(
                Invariant::Endings,
                ended,
                format!("{} (pid {}) {how}: {wrong}", life.process, life.pid),
            );
        }
    }
}

pub(super) fn memory(history: &History, found: &mut Findings) {
    let mut lives: BTreeMap<(&str, u32), Vec<&MemorySample>> = BTreeMap::new();
    for sample in &history.memory {
        lives
            .entry((&sample.process, sample.incarnation))
            .or_default()
            .push(sample);
    }
    let limit = history.settings.memory_limit_bytes;
    for ((process, incarnation), samples) in lives {
        if let Some(worst) = samples.iter().max_by_key(|sample| sample.rss_bytes)
            && worst.rss_bytes > limit
        {
            found.add(
                Invariant::Memory,
                worst.at,
                format!(
                    "{process} held {} bytes, {limit} are allowed",
                    worst.rss_bytes
                ),
            );
        }
        let lasted = samples[samples.len() - 1].at - samples[0].at;
        // The first third is for warming up.
        let warm = &samples[samples.len() / 3..];
        let quarter = warm.len() / 4;
        if lasted < GROWTH_MS || quarter == 0 {
            continue;
        }
        let sizes: Vec<u64> = warm.chunks_exact(quarter).map(median).collect();
        let (middle, last) = (sizes[0], sizes[3]);
        let growth = last.saturating_sub(middle);
        // An outage makes one step: requests that wait take memory, which the
        // allocator keeps. A leak goes on.
        let steady = sizes[..4]
            .windows(2)
            .all(|pair| pair[1].saturating_sub(pair[0]) > growth / 10);
        if growth > GROWTH_BYTES && steady {
            found.add(
                Invariant::Memory,
                samples[samples.len() - 1].at,
                format!(
                    "{process} (start {incarnation}) grew from {middle} to {last} bytes within {lasted} ms"
                ),
            );
        }
    }
}

fn median(samples: &[&MemorySample]) -> u64 {
    let mut sizes: Vec<u64> = samples.iter().map(|sample| sample.rss_bytes).collect();
    sizes.sort_unstable();
    sizes[sizes.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{allowed, caught, fault};
    use super::*;
    use crate::chaos::history::{CloudService, LogLine};

    fn line(at: u64, process: &str, kind: LogKind, text: &str) -> LogLine {
        LogLine {
            at,
            process: process.to_owned(),
            kind,
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_panic_is_caught_whatever_was_done_to_the_process() {
        caught(Invariant::Logs, 1, |history| {
            history
                .logs
                .push(line(1_020, "order-api", LogKind::Panic, "panicked at"));
        });
    }

    #[test]
    fn an_error_without_a_fault_before_it_is_caught() {
        for (at, process) in [
            (60_000, "order-api"),
            (1_005, "order-api"),
            (1_020, "worker-1"),
        ] {
            caught(Invariant::Logs, 1, |history| {
                history.logs.push(line(at, process, LogKind::Error, "no"));
            });
        }
    }

    #[test]
    fn an_error_during_an_outage_is_allowed() {
        allowed(|history| {
            let mut outage = fault(60_000, FaultKind::Outage, "", CloudService::Dynamodb);
            outage.process = None;
            outage.until = Some(90_000);
            history.faults.push(outage);
            history
                .logs
                .push(line(100_000, "worker-1", LogKind::Error, "no"));
        });
    }

    #[test]
    fn a_gap_in_the_stream_is_explained_by_a_trimmed_iterator_only() {
        let gap = || {
            line(
                12_000,
                "relay-1",
                LogKind::Error,
                "stream gap: records were trimmed",
            )
        };
        caught(Invariant::Logs, 1, |history| history.logs.push(gap()));
        allowed(|history| {
            let trimmed = FaultKind::TrimmedIterator;
            history
                .faults
                .push(fault(5_000, trimmed, "relay-1", CloudService::Streams));
            history.logs.push(gap());
        });
    }

    #[test]
    fn a_process_that_ends_on_its_own_is_caught() {
        for how in [
            Ending::Exited(0),
            Ending::Exited(101),
            Ending::Signalled(11),
        ] {
            caught(Invariant::Endings, 1, |history| {
                let worker = &mut history.lives[4];
                worker.told_to_end = None;
                worker.how = Some(how);
            });
        }
    }

    #[test]
    fn a_stop_that_ends_badly_is_caught() {
        for how in [
            Ending::Exited(1),
            Ending::Signalled(SIGTERM),
            Ending::Signalled(6),
        ] {
            caught(Invariant::Endings, 1, |history| {
                history.lives[4].how = Some(how);
            });
        }
    }

    #[test]
    fn sigterm_may_end_a_process_that_is_still_starting() {
        allowed(|history| {
            let worker = &mut history.lives[4];
            worker.ready = None;
            worker.how = Some(Ending::Signalled(SIGTERM));
        });
    }

    #[test]
    fn too_much_memory_is_caught() {
        caught(Invariant::Memory, 1, |history| {
            history.memory[50].rss_bytes = (100 << 20) + 1;
        });
    }

    #[test]
    fn memory_that_grows_steadily_is_caught() {
        let grow = |history: &mut History, bytes_per_second: u64| {
            for sample in &mut history.memory {
                sample.rss_bytes += sample.at / 1_000 * bytes_per_second;
            }
        };
        // Within two minutes: 60 MiB, and 6 MiB.
        caught(Invariant::Memory, 1, |history| grow(history, 1 << 19));
        allowed(|history| grow(history, 1 << 16));
    }

    #[test]
    fn memory_that_grows_once_is_allowed() {
        allowed(|history| {
            let later = history.memory.len() / 2;
            for sample in &mut history.memory[later..] {
                sample.rss_bytes += 50 << 20;
            }
        });
    }

    #[test]
    fn memory_that_settles_after_the_start_is_allowed() {
        allowed(|history| {
            for sample in &mut history.memory[..20] {
                sample.rss_bytes = 1 << 20;
            }
        });
    }
}
