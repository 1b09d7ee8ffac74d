//! The processes themselves: how they started and ended, and what memory they
//! held.

use std::collections::BTreeMap;

use super::super::history::{EndSignal, Ending, FaultKind, History, Life, MemorySample};
use super::{Findings, Invariant};

/// SIGTERM's number: what kills a process that has not set its handler yet.
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// A process that runs all that time says that it is ready.
const READY_WITHIN_MS: u64 = 10_000;

/// Shorter lives say nothing about growth.
const GROWTH_MS: u64 = 60_000;
/// What caches, pools and the allocator may take after the first third of a
/// life.
const GROWTH_BYTES: u64 = 16 * 1024 * 1024;

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
                    "{} (pid {}) was not ready within {READY_WITHIN_MS} ms",
                    life.process, life.pid
                ),
            );
        }
    }
}

/// For how long it could do nothing, until then.
fn frozen_ms(history: &History, life: &Life, until: u64) -> u64 {
    let pauses = history.faults.iter().filter(|fault| {
        fault.kind == FaultKind::Stop
            && fault.hits(&life.process)
            && (life.started..until).contains(&fault.at)
    });
    pauses.map(|pause| pause.lasted_ms()).sum()
}

pub(super) fn endings(history: &History, found: &mut Findings) {
    for life in &history.lives {
        let (Some(ended), how) = (life.ended, life.how) else {
            continue;
        };
        let starting = life.ready.is_none_or(|ready| ready > ended);
        let wrong = match (life.told_by, how) {
            (None, _) => Some("nobody told it to"),
            (Some(EndSignal::Kill), Some(Ending::Signalled(SIGKILL))) => None,
            (Some(EndSignal::Kill), _) => Some("it was killed"),
            (Some(EndSignal::Term), Some(Ending::Exited(0))) => None,
            (Some(EndSignal::Term), Some(Ending::Signalled(SIGTERM))) if starting => None,
            (Some(EndSignal::Term), Some(Ending::Signalled(SIGKILL))) => {
                Some("it was told to stop, and did not in its time")
            }
            (Some(EndSignal::Term), _) => Some("it was told to stop"),
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
    use crate::history::CloudService;

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
                worker.told_by = None;
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
            // It hung, and its keeper did not wait for ever.
            Ending::Signalled(SIGKILL),
        ] {
            caught(Invariant::Endings, 1, |history| {
                history.lives[4].how = Some(how);
            });
        }
    }

    #[test]
    fn a_process_that_is_not_ready_in_time_is_caught() {
        let ready_at = |history: &mut History, ready| history.lives[4].ready = ready;
        allowed(|history| ready_at(history, Some(10_000)));
        for ready in [Some(10_001), None] {
            caught(Invariant::Endings, 1, |history| ready_at(history, ready));
        }
        // It could not while it was frozen.
        allowed(|history| {
            ready_at(history, Some(13_000));
            let mut pause = fault(100, FaultKind::Stop, "worker-1", CloudService::Sqs);
            pause.service = None;
            pause.until = Some(3_100);
            history.faults.push(pause);
        });
    }

    #[test]
    fn sigterm_may_end_a_process_that_is_still_starting() {
        allowed(|history| {
            let worker = &mut history.lives[4];
            worker.ready = None;
            worker.started = 120_000;
            worker.told_to_end = Some(120_000 + 5);
            worker.ended = Some(120_000 + 10);
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
