//! The report as text for a terminal.

use std::fmt;

use super::super::analysis::latency::Percentiles;
use super::super::history::Settings;
use super::format::{count, duration, mebibytes, plural};
use super::{Judged, RecoveryFigures, Report};

/// Width of the labels: that of the longest one.
const LABEL: usize = 38;

pub(super) struct Text<'a>(pub &'a Report);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        settings(f, report)?;
        orders(f, report)?;
        faults(f, report)?;
        latency(f, report)?;
        recovery(f, &report.recovery)?;
        queue_outages(f, report)?;
        repeats(f, report)?;
        memory(f, report)?;
        verdict(f, report)
    }
}

fn settings(f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    let settings = &report.settings;
    writeln!(
        f,
        "Chaos of {}, seed {}: {} orders/s, {}, {}, lease of {}, against {}",
        duration(settings.duration_ms),
        settings.seed,
        settings.rate,
        plural(settings.relays.into(), "relay"),
        plural(settings.workers.into(), "worker"),
        duration(settings.lease_duration_ms),
        backend(settings),
    )
}

fn backend(settings: &Settings) -> String {
    if let Some(endpoint) = &settings.endpoint {
        return endpoint.clone();
    }
    let shards = settings.shards.unwrap_or(1);
    let splits = settings
        .split_every_ms
        .map_or_else(String::new, |interval| {
            format!(", one closed every {}", duration(interval))
        });
    let shards = plural(shards.into(), "shard");
    format!("the embedded cloud with {shards}{splits}")
}

fn heading(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    writeln!(f, "\n{text}")
}

fn line(f: &mut fmt::Formatter<'_>, label: &str, value: fmt::Arguments<'_>) -> fmt::Result {
    writeln!(f, "  {label:LABEL$}{value}")
}

fn orders(f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    let (orders, events) = (&report.orders, &report.events);
    heading(f, "Orders and events")?;
    let answers: Vec<String> = orders
        .answers
        .iter()
        .map(|(answer, &number)| match answer.as_str() {
            "none" => format!("{} × no response", count(number)),
            status => format!("{} × {status}", count(number)),
        })
        .collect();
    let requested = count(orders.wanted);
    let requests = count(orders.requests);
    line(
        f,
        "orders requested",
        format_args!("{requested}, by {requests} requests"),
    )?;
    line(f, "responses", format_args!("{}", answers.join(", ")))?;
    line(
        f,
        "orders stored",
        format_args!(
            "{}: {} PROCESSED, {} REJECTED",
            count(orders.stored),
            count(orders.processed),
            count(orders.rejected)
        ),
    )?;
    line(
        f,
        "  never confirmed to a client",
        format_args!("{}", count(orders.unconfirmed)),
    )?;
    line(
        f,
        "events",
        format_args!(
            "{} committed, {} accepted by queues, {} deliveries ({} duplicates injected, {} of them to \
             two processes at once)",
            count(events.committed),
            count(events.published),
            count(events.delivered),
            count(events.duplicates_injected),
            count(events.concurrent_duplicates)
        ),
    )?;
    line(
        f,
        "shards of the outbox's stream",
        format_args!(
            "{} read, {} of them to their end",
            count(report.shards.read),
            count(report.shards.closed)
        ),
    )?;
    match report.drained_after_ms {
        Some(took) => line(
            f,
            "drained",
            format_args!("{} after the last fault", duration(took)),
        ),
        None => line(f, "drained", format_args!("not within the limit")),
    }
}

fn faults(f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    let faults = &report.faults;
    heading(f, "Faults")?;
    line(f, "total", format_args!("{}", count(faults.total)))?;
    for (kind, &number) in &faults.by_kind {
        line(f, &kind.name(), format_args!("{}", count(number)))?;
    }
    for (how, programs) in [("SIGKILL", &faults.killed), ("SIGTERM", &faults.terminated)] {
        let each: Vec<String> = programs
            .iter()
            .map(|(program, &number)| format!("{} × {}", count(number), program.name()))
            .collect();
        if !each.is_empty() {
            let label = format!("ended by {how}");
            line(f, &label, format_args!("{}", each.join(", ")))?;
        }
    }
    Ok(())
}

fn figures(percentiles: Percentiles) -> String {
    if percentiles.count == 0 {
        return "none".to_owned();
    }
    format!(
        "p50 {:>8}   p99 {:>8}   max {:>8}   of {}",
        duration(percentiles.p50),
        duration(percentiles.p99),
        duration(percentiles.max),
        count(percentiles.count)
    )
}

fn latency(f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    heading(f, "Latency")?;
    for (what, latency) in [
        ("POST to 201", &report.latency.confirmation),
        ("order to PROCESSED", &report.latency.processing),
    ] {
        let quiet = format!("{what}, quiet phase");
        line(f, &quiet, format_args!("{}", figures(latency.calm)))?;
        let faults = format!("{what}, with faults");
        line(f, &faults, format_args!("{}", figures(latency.with_faults)))?;
    }
    Ok(())
}

fn recovery(f: &mut fmt::Formatter<'_>, recovery: &[RecoveryFigures]) -> fmt::Result {
    heading(f, "Time until events flowed again after")?;
    for of in recovery {
        let name = of.trigger.name();
        if let Some(limit) = of.limit_ms {
            let judged = match of.judged {
                0 => "NONE MEASURED".to_owned(),
                _ => figures(of.undisturbed),
            };
            line(
                f,
                name,
                format_args!(
                    "{judged}, limit {}, isolated faults: {}",
                    duration(limit),
                    count(of.isolated)
                ),
            )?;
        }
        if of.others.count > 0 {
            let name = if of.limit_ms.is_some() {
                "  with other faults meanwhile"
            } else {
                name
            };
            line(f, name, format_args!("{}", figures(of.others)))?;
        }
        if of.never > 0 {
            line(
                f,
                "  not recovered by the end",
                format_args!("{}", of.never),
            )?;
        }
    }
    Ok(())
}

fn queue_outages(f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    if report.queue_outages.is_empty() {
        return Ok(());
    }
    heading(f, "Outages of one queue")?;
    for outage in &report.queue_outages {
        line(
            f,
            &format!("{} at {}", outage.queue, duration(outage.at)),
            format_args!(
                "{}, {} events deferred",
                duration(outage.until.saturating_sub(outage.at)),
                count(outage.deferred)
            ),
        )?;
        let others = figures(outage.others);
        line(
            f,
            "  commit to acceptance, other queues",
            format_args!("{others}"),
        )?;
    }
    Ok(())
}

fn repeats(f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    let repeats = &report.repeats;
    heading(f, "Events sent more than once")?;
    line(
        f,
        "total",
        format_args!(
            "{}, {} of them after a lost response",
            count(repeats.total),
            count(repeats.lost_answers)
        ),
    )?;
    for after in &repeats.after {
        let each = after.repeats;
        line(
            f,
            &format!("after: {}", after.interruption.name()),
            format_args!(
                "{} in {}; each: p50 {}, p99 {}, max {} (in flight: {})",
                count(after.total),
                plural(each.count, "case"),
                each.p50,
                each.p99,
                each.max,
                match after.in_flight {
                    Some(seen) => format!("p50 {}, p99 {}, max {}", seen.p50, seen.p99, seen.max),
                    None => format!("at most {}", repeats.in_flight_bound),
                }
            ),
        )?;
    }
    Ok(())
}

fn memory(f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    heading(f, "Maximum memory")?;
    for (process, &bytes) in &report.memory {
        line(f, process, format_args!("{}", mebibytes(bytes)))?;
    }
    Ok(())
}

fn verdict(f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    heading(f, "Invariants")?;
    for judged in &report.invariants {
        let Judged {
            statement,
            violations,
            examples,
            ..
        } = judged;
        let mark = if *violations == 0 { "ok  " } else { "FAIL" };
        writeln!(f, "  {mark}  {statement}")?;
        for example in examples {
            match example.at {
                Some(at) => writeln!(f, "          at {}: {}", duration(at), example.what)?,
                None => writeln!(f, "          {}", example.what)?,
            }
        }
        let hidden = violations - examples.len();
        if hidden > 0 {
            writeln!(f, "          and {} more", count(hidden))?;
        }
    }
    let broken = report
        .invariants
        .iter()
        .filter(|one| one.violations > 0)
        .count();
    match broken {
        0 => writeln!(f, "\nEvery invariant holds. {}", report.recoveries_judged()),
        _ => writeln!(
            f,
            "\n{broken} of {} invariants are violated. Replay with --seed {}.",
            report.invariants.len(),
            report.settings.seed
        ),
    }
}
