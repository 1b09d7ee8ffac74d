//! The page's tables, one function each.

use maud::{Markup, html};

use super::super::analysis::latency::Percentiles;
use super::format::{count, duration, mebibytes};
use super::{RecoveryFigures, Report};

/// A figure of something that may not have happened.
pub(super) fn share(millis: u64, of: u64) -> String {
    if of == 0 {
        return "–".to_owned();
    }
    duration(millis)
}

/// The cells of a row, in the order of [`percentile_heads`].
fn percentiles(of: Percentiles) -> Markup {
    html! {
        @for millis in [of.p50, of.p99, of.max] {
            td.n { (share(millis, of.count)) }
        }
        td.n { (count(of.count)) }
    }
}

fn percentile_heads() -> Markup {
    html! {
        @for name in ["p50", "p99", "max", "of"] { th.n scope="col" { (name) } }
    }
}

pub(super) fn latency(report: &Report) -> Markup {
    let rows = [
        ("POST to 201", &report.latency.confirmation),
        ("order committed to PROCESSED", &report.latency.processing),
    ];
    html! {
        section {
            h2 { "Latency" }
            p.soft { "Calm: no fault at the time, nor shortly before." }
            div.wide tabindex="0" {
                table {
                    thead { tr { th scope="col" {} th scope="col" {} (percentile_heads()) } }
                    tbody {
                        @for (what, latency) in rows {
                            tr { th scope="row" { (what) } td { "calm" } (percentiles(latency.calm)) }
                            tr { th scope="row" { (what) } td { "with faults" } (percentiles(latency.with_faults)) }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn recovery(report: &Report) -> Markup {
    html! {
        section {
            h2 { "Time until events flowed again" }
            p.soft {
                "A limit holds where nothing else was wrong at the time; otherwise events have the lease "
                "and two seconds from the last disturbance on. The API is away for as long as the run wants."
            }
            div.wide tabindex="0" {
                table {
                    thead {
                        tr {
                            th scope="col" { "after" } th scope="col" { "meanwhile" }
                            th.n scope="col" { "limit" } (percentile_heads())
                        }
                    }
                    tbody {
                        @for of in &report.recovery { (recovery_rows(of)) }
                    }
                }
            }
            details {
                summary { "Each of them" }
                div.wide tabindex="0" { (each_recovery(report)) }
            }
        }
    }
}

fn recovery_rows(of: &RecoveryFigures) -> Markup {
    html! {
        @if let Some(limit) = of.limit_ms {
            tr {
                th scope="row" { (of.trigger.name()) }
                td {
                    "nothing else"
                    @if of.judged == 0 { ": " b { "none could be judged" } }
                    @if of.isolated > 0 { ", isolated faults: " (count(of.isolated)) }
                }
                td.n { (duration(limit)) }
                (percentiles(of.undisturbed))
            }
        }
        @if of.others.count > 0 {
            tr {
                th scope="row" { (of.trigger.name()) }
                td { @if of.limit_ms.is_some() { "other faults" } @else { "anything" } }
                td.n { "–" }
                (percentiles(of.others))
            }
        }
        @if of.never > 0 {
            tr {
                th scope="row" { (of.trigger.name()) }
                td colspan="6" { "nothing flowed any more: " (of.never) }
            }
        }
    }
}

fn each_recovery(report: &Report) -> Markup {
    html! {
        table {
            thead {
                tr {
                    th.n scope="col" { "at" } th scope="col" { "after" } th scope="col" { "process" }
                    th.n scope="col" { "took" } th scope="col" { "meanwhile" }
                }
            }
            tbody {
                @for of in &report.recovery {
                    @for one in &of.each {
                        tr {
                            td.n { (duration(one.at)) }
                            td { (of.trigger.name()) }
                            td { (one.process.as_deref().unwrap_or("–")) }
                            td.n { (one.took_ms.map_or("never".to_owned(), duration)) }
                            td { (one.disturbed_by.as_deref().unwrap_or("–")) }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn faults(report: &Report) -> Markup {
    let faults = &report.faults;
    html! {
        section {
            h2 { "Faults" }
            table {
                tbody {
                    @for (kind, &number) in &faults.by_kind {
                        tr { th scope="row" { (kind.name()) } td.n { (count(number)) } }
                    }
                    @for (how, programs) in [("SIGKILL", &faults.killed), ("SIGTERM", &faults.terminated)] {
                        @for (program, &number) in programs {
                            tr {
                                th scope="row" { (program.name()) " ended by " (how) }
                                td.n { (count(number)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn orders(report: &Report) -> Markup {
    let (orders, events) = (&report.orders, &report.events);
    let row = |what: &str, number: usize| {
        html! { tr { th scope="row" { (what) } td.n { (count(number)) } } }
    };
    html! {
        section {
            h2 { "Orders and events" }
            table {
                tbody {
                    (row("orders wanted", orders.wanted))
                    (row("requests", orders.requests))
                    @for (answer, &number) in &orders.answers {
                        @if answer == "none" { (row("without an answer", number)) }
                        @else { (row(&format!("answered {answer}"), number)) }
                    }
                    (row("answered with an earlier order", orders.replayed))
                    (row("orders PROCESSED", orders.processed))
                    (row("orders REJECTED", orders.rejected))
                    (row("stored, and never confirmed", orders.unconfirmed))
                    (row("events committed", events.committed))
                    (row("accepted by queues", events.published))
                    (row("handed to consumers", events.delivered))
                    (row("twice on purpose", events.duplicates_injected))
                    (row("of them to two processes at once", events.concurrent_duplicates))
                    tr {
                        th scope="row" { "drained after the last fault" }
                        td.n { (report.drained_after_ms.map_or("never".to_owned(), duration)) }
                    }
                }
            }
        }
    }
}

pub(super) fn repeats(report: &Report) -> Markup {
    let repeats = &report.repeats;
    html! {
        section {
            h2 { "Events sent more than once" }
            p.soft {
                "In flight: sent and not yet marked. Of a relay that died it is what the proxies saw; "
                "otherwise what a relay can have at most."
            }
            div.wide tabindex="0" {
                table {
                    thead {
                        tr {
                            th scope="col" { "after" }
                            @for name in ["p50", "max", "cases", "in all", "in flight, max"] {
                                th.n scope="col" { (name) }
                            }
                        }
                    }
                    tbody {
                        @for after in &repeats.after {
                            tr {
                                th scope="row" { (after.interruption.name()) }
                                td.n { (count(after.repeats.p50)) }
                                td.n { (count(after.repeats.max)) }
                                td.n { (count(after.repeats.count)) }
                                td.n { (count(after.total)) }
                                td.n {
                                    @if let Some(seen) = after.in_flight { (count(seen.max)) }
                                    @else { "≤ " (count(repeats.in_flight_bound)) }
                                }
                            }
                        }
                        tr { th scope="row" colspan="4" { "lost answers" } td.n { (count(repeats.lost_answers)) } td {} }
                        tr { th scope="row" colspan="4" { "without a cause" } td.n { (count(repeats.unexplained)) } td {} }
                        tr { th scope="row" colspan="4" { "in all" } td.n { (count(repeats.total)) } td {} }
                    }
                }
            }
        }
    }
}

pub(super) fn memory(report: &Report) -> Markup {
    html! {
        section {
            h2 { "Most memory" }
            table {
                tbody {
                    @for (process, &bytes) in &report.memory {
                        tr { th scope="row" { (process) } td.n { (mebibytes(bytes)) } }
                    }
                }
            }
        }
    }
}
