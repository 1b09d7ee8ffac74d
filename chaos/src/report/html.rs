//! The report as a page: no script, nothing from the network, light and dark
//! as the reader's system is. Every text is escaped by `maud`.

use std::time::Duration;

use clap::ValueEnum;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::super::history::{FaultKind, Settings};
use super::format::{count, duration, plural};
use super::svg_timeline::svg_timeline;
use super::{Judged, Report, tables};

const STYLE: &str = include_str!("page.css");

pub(super) fn page(report: &Report) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Chaos run, seed " (report.settings.seed) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (heading(report))
                    (tiles(report))
                    section {
                        h2 { "The run" }
                        div.wide tabindex="0" { (svg_timeline(report)) }
                    }
                    (invariants(report))
                    (tables::latency(report))
                    (tables::recovery(report))
                    div.columns {
                        div { (tables::faults(report)) (tables::memory(report)) }
                        div { (tables::orders(report)) (tables::repeats(report)) }
                    }
                }
            }
        }
    }
}

fn heading(report: &Report) -> Markup {
    let settings = &report.settings;
    let broken = report
        .invariants
        .iter()
        .filter(|one| one.violations > 0)
        .count();
    html! {
        h1 { "Chaos run, seed " (settings.seed) }
        p.soft {
            (duration(settings.duration_ms)) " from " (settings.started_at) ": "
            (count(settings.rate)) " orders/s, "
            (plural(settings.relays.into(), "relay")) ", "
            (plural(settings.workers.into(), "worker")) ", lease of "
            (duration(settings.lease_duration_ms)) ", against "
            (settings.endpoint.as_deref().unwrap_or("the embedded cloud"))
        }
        p { code { (command(settings)) } }
        @if broken == 0 {
            p.verdict.good { "✓ Every invariant holds. " (report.recoveries_judged()) }
        } @else {
            p.verdict.bad {
                "✗ " (broken) " of " (report.invariants.len()) " invariants are violated."
            }
        }
    }
}

/// What makes a run like this one.
fn command(settings: &Settings) -> String {
    let duration = Duration::from_millis(settings.duration_ms);
    let lease = Duration::from_millis(settings.lease_duration_ms);
    let mut command = format!(
        "all-in-one chaos --seed {} --duration {duration:?} --rate {} --relays {} --workers {} \
         --lease-duration {lease:?}",
        settings.seed, settings.rate, settings.relays, settings.workers,
    );
    if settings.faults != FaultKind::value_variants() {
        let faults: Vec<String> = settings.faults.iter().map(|kind| kind.name()).collect();
        command.push_str(" --faults ");
        command.push_str(&faults.join(","));
    }
    command
}

fn tiles(report: &Report) -> Markup {
    let tile = |figure: String, what: &str| {
        html! { div.tile { b { (figure) } span { (what) } } }
    };
    let killed: u64 = report.faults.killed.values().sum();
    let latency = &report.latency;
    html! {
        div.tiles {
            (tile(count(report.orders.stored), "orders stored"))
            (tile(count(killed), "processes killed"))
            (tile(count(report.faults.total), "faults injected"))
            (tile(count(report.repeats.total), "events sent again"))
            (tile(tables::share(latency.processing.calm.p99, latency.processing.calm.count), "p99 to PROCESSED, calm"))
            (tile(tables::share(latency.processing.with_faults.p99, latency.processing.with_faults.count), "p99 to PROCESSED, with faults"))
        }
    }
}

fn invariants(report: &Report) -> Markup {
    html! {
        section {
            h2 { "Invariants" }
            div.wide tabindex="0" {
                table {
                    tbody {
                        @for judged in &report.invariants { (invariant(judged)) }
                    }
                }
            }
        }
    }
}

fn invariant(judged: &Judged) -> Markup {
    let holds = judged.violations == 0;
    html! {
        tr {
            td {
                @if holds { span.mark.good { "✓ holds" } }
                @else { span.mark.bad { "✗ " (count(judged.violations)) } }
            }
            td {
                (judged.statement) "."
                @if !holds {
                    ul.examples {
                        @for example in &judged.examples {
                            li {
                                @if let Some(at) = example.at { "at " (duration(at)) ": " }
                                (example.what)
                            }
                        }
                        @let hidden = judged.violations - judged.examples.len();
                        @if hidden > 0 { li { "and " (count(hidden)) " more" } }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::checkers::{check, fixture};
    use super::*;

    #[test]
    fn every_text_is_escaped() {
        let mut history = fixture::valid();
        let evil = "<script>alert(1)</script>&\"'";
        history.settings.started_at = evil.to_owned();
        history.settings.endpoint = Some(evil.to_owned());
        for life in &mut history.lives {
            life.process = format!("{}{evil}", life.process);
        }
        for fault in &mut history.faults {
            fault.process = fault.process.take().map(|process| process + evil);
        }
        for sample in &mut history.memory {
            sample.process.push_str(evil);
        }
        for publish in &mut history.publishes {
            publish.relay.push_str(evil);
        }
        history.end.outbox[0].event_id = evil.to_owned();
        let violations = check(&history);
        assert!(!violations.is_empty());
        let page = Report::of(&history, &violations).to_html();
        assert!(!page.contains("<script"));
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;"));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = Report::of(&fixture::valid(), &[]).to_html();
        for outside in ["http:", "https:", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_run_is_replayed_with_what_it_was_started_with() {
        let settings = Settings {
            seed: 7,
            duration_ms: 90_000,
            rate: 50,
            relays: 2,
            workers: 3,
            lease_duration_ms: 1_500,
            faults: vec![FaultKind::Kill, FaultKind::CutAfter],
            ..Settings::default()
        };
        assert_eq!(
            command(&settings),
            "all-in-one chaos --seed 7 --duration 90s --rate 50 --relays 2 --workers 3 \
             --lease-duration 1.5s --faults kill,cut-after"
        );
        let all = FaultKind::value_variants().to_vec();
        assert!(
            !command(&Settings {
                faults: all,
                ..settings
            })
            .contains("--faults")
        );
    }
}
