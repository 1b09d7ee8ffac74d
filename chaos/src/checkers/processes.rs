//! Checks the processes: their starts, their ends and their memory.

use std::collections::BTreeMap;

use super::super::history::{EndSignal, Ending, FaultKind, History, Life, MemorySample};
use super::{Findings, Invariant};

/// Number of SIGTERM, which ends a process that has not installed its handler yet.
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// Time within which a process must be ready, not counting time in which it is frozen.
const READY_WITHIN_MS: u64 = 10_000;

/// Minimum lifetime of a process whose growth is checked.
const GROWTH_MS: u64 = 60_000;
/// Permitted growth of caches, pools and the allocator after the first third of the lifetime.
const GROWTH_BYTES: u64 = 16 * 1024 * 1024;

/// Checks that every process became ready in time.
pub(super) fn starts(history: &History, found: &mut Findings) {
    for life in &history.lives {
        let seen = life.ready.or(life.told_to_end).or(life.ended);
        let took = seen.map_or(u64::MAX, |seen| {
            (seen - life.started).saturating_sub(frozen_ms(history, life, seen))
        });
        if took > READY_WITHIN_MS {
            found.add(
                Invariant::Endings,
                life.started,
                format!(
                    "{} (pid {}) did not log that it is ready within {READY_WITHIN_MS} ms of its start",
                    life.process, life.pid
                ),
            );
        }
    }
}

/// Returns the time until `until` in which the process was frozen.
fn frozen_ms(history: &History, life: &Life, until: u64) -> u64 {
    let pauses = history.faults.iter().filter(|fault| {
        fault.kind == FaultKind::Stop
            && fault.hits(&life.process)
            && (life.started..until).contains(&fault.at)
    });
    pauses.map(|pause| pause.lasted_ms()).sum()
}

/// Checks that processes end only by a signal of the run, and in time.
pub(super) fn endings(history: &History, found: &mut Findings) {
    for life in &history.lives {
        let (Some(ended), how) = (life.ended, life.how) else {
            continue;
        };
        let starting = life.ready.is_none_or(|ready| ready > ended);
        let wrong = match (life.told_by, how) {
            (None, _) => Some("the run had not sent it a signal"),
            (Some(EndSignal::Kill), Some(Ending::Signalled(SIGKILL))) => None,
            (Some(EndSignal::Kill), _) => Some("expected was its end by SIGKILL"),
            (Some(EndSignal::Term), Some(Ending::Exited(0))) => None,
            (Some(EndSignal::Term), Some(Ending::Signalled(SIGTERM))) if starting => None,
            (Some(EndSignal::Term), Some(Ending::Signalled(SIGKILL))) => {
                Some("it did not stop within its time limit after SIGTERM")
            }
            (Some(EndSignal::Term), _) => Some("expected was exit code 0 after SIGTERM"),
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

/// Checks the memory of each process against the limit and for steady growth.
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
                    "{process} (start {incarnation}) used {} bytes of resident memory; the limit is {limit}",
                    worst.rss_bytes
                ),
            );
        }
        let samples: Vec<_> = samples
            .into_iter()
            .filter(|sample| !is_in_outage(history, sample))
            .collect();
        let ([first, ..], [.., end]) = (&samples[..], &samples[..]) else {
            continue;
        };
        let lasted = end.at - first.at;
        // The first third is the warm-up.
        let warm = &samples[samples.len() / 3..];
        let quarter = warm.len() / 4;
        if lasted < GROWTH_MS || quarter == 0 {
            continue;
        }
        let sizes: Vec<u64> = warm.chunks_exact(quarter).map(median).collect();
        let (middle, last) = (sizes[0], sizes[3]);
        let growth = last.saturating_sub(middle);
        // A single step is permitted, such as that of an outage: the allocator keeps the memory. A
        // leak continues to grow.
        let steady = sizes[..4]
            .windows(2)
            .all(|pair| pair[1].saturating_sub(pair[0]) > growth / 10);
        if growth > GROWTH_BYTES && steady {
            found.add(
                Invariant::Memory,
                end.at,
                format!(
                    "{process} (start {incarnation}) grew steadily from {middle} to {last} bytes of resident memory in {lasted} ms; at most {GROWTH_BYTES} bytes of growth expected"
                ),
            );
        }
    }
}

/// Returns `true` if a service is unavailable at the time of `sample`: the requests that wait for
/// it use memory up to a bound.
fn is_in_outage(history: &History, sample: &MemorySample) -> bool {
    history.faults.iter().any(|fault| {
        fault.kind == FaultKind::Outage
            && fault.at <= sample.at
            && fault.until.is_none_or(|until| until >= sample.at)
    })
}

fn median(samples: &[&MemorySample]) -> u64 {
    let mut sizes: Vec<u64> = samples.iter().map(|sample| sample.rss_bytes).collect();
    sizes.sort_unstable();
    sizes[sizes.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_valid, assert_violations, fault};
    use super::*;
    use crate::history::CloudService;

    #[test]
    fn a_process_that_exits_on_its_own_is_detected() {
        for how in [
            Ending::Exited(0),
            Ending::Exited(101),
            Ending::Signalled(11),
        ] {
            assert_violations(Invariant::Endings, 1, |history| {
                let worker = &mut history.lives[4];
                worker.told_to_end = None;
                worker.told_by = None;
                worker.how = Some(how);
            });
        }
    }

    #[test]
    fn a_failed_graceful_shutdown_is_detected() {
        for how in [
            Ending::Exited(1),
            Ending::Signalled(SIGTERM),
            Ending::Signalled(6),
            // It hung, and its supervisor killed it after the time limit.
            Ending::Signalled(SIGKILL),
        ] {
            assert_violations(Invariant::Endings, 1, |history| {
                history.lives[4].how = Some(how);
            });
        }
    }

    #[test]
    fn a_process_that_is_not_ready_in_time_is_detected() {
        let ready_at = |history: &mut History, ready| history.lives[4].ready = ready;
        assert_valid(|history| ready_at(history, Some(10_000)));
        for ready in [Some(10_001), None] {
            assert_violations(Invariant::Endings, 1, |history| ready_at(history, ready));
        }
        // Time in which it was frozen does not count.
        assert_valid(|history| {
            ready_at(history, Some(13_000));
            let mut pause = fault(100, FaultKind::Stop, "worker-1", CloudService::Sqs);
            pause.service = None;
            pause.until = Some(3_100);
            history.faults.push(pause);
        });
    }

    #[test]
    fn sigterm_may_end_a_process_that_is_still_starting() {
        assert_valid(|history| {
            let worker = &mut history.lives[4];
            worker.ready = None;
            worker.started = 120_000;
            worker.told_to_end = Some(120_000 + 5);
            worker.ended = Some(120_000 + 10);
            worker.how = Some(Ending::Signalled(SIGTERM));
        });
    }

    #[test]
    fn too_much_memory_is_detected() {
        assert_violations(Invariant::Memory, 1, |history| {
            history.memory[50].rss_bytes = (100 << 20) + 1;
        });
    }

    #[test]
    fn memory_that_grows_steadily_is_detected() {
        let grow = |history: &mut History, bytes_per_second: u64| {
            for sample in &mut history.memory {
                sample.rss_bytes += sample.at / 1_000 * bytes_per_second;
            }
        };
        // Growth in two minutes: 60 MiB, and 7.5 MiB.
        assert_violations(Invariant::Memory, 1, |history| grow(history, 1 << 19));
        assert_valid(|history| grow(history, 1 << 16));
    }

    fn add_outage(history: &mut History, at: u64, until: u64) {
        let mut outage = fault(at, FaultKind::Outage, "", CloudService::Dynamodb);
        outage.process = None;
        outage.until = Some(until);
        history.faults.push(outage);
    }

    #[test]
    fn memory_that_grows_during_an_outage_is_allowed() {
        let grow = |history: &mut History| {
            for sample in &mut history.memory {
                sample.rss_bytes += (sample.at.clamp(40_000, 110_000) - 40_000) * 700;
            }
        };
        assert_violations(Invariant::Memory, 1, grow);
        assert_valid(|history| {
            grow(history);
            add_outage(history, 40_000, 110_000);
        });
    }

    #[test]
    fn memory_that_grows_beside_an_outage_is_detected() {
        assert_violations(Invariant::Memory, 1, |history| {
            for sample in &mut history.memory {
                sample.rss_bytes += sample.at / 1_000 * (1 << 19);
            }
            add_outage(history, 70_000, 75_000);
        });
    }

    #[test]
    fn memory_that_grows_once_is_allowed() {
        assert_valid(|history| {
            let later = history.memory.len() / 2;
            for sample in &mut history.memory[later..] {
                sample.rss_bytes += 50 << 20;
            }
        });
    }

    #[test]
    fn memory_that_settles_after_the_start_is_allowed() {
        assert_valid(|history| {
            for sample in &mut history.memory[..20] {
                sample.rss_bytes = 1 << 20;
            }
        });
    }
}
