//! The picture of a run: backlog, events per second and faults, over time.

use std::fmt::Write;

use maud::{Markup, html};

use super::super::history::FaultKind;
use super::format::{count, duration};
use super::{Annotation, Report};

// Pixels, when the picture is shown as wide as it was drawn.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TITLE: f64 = 22.0;
const PANEL: f64 = 120.0;
const GAP: f64 = 14.0;
const LANE: f64 = 20.0;
const AXIS: f64 = 24.0;

const BACKLOG_TOP: f64 = TITLE;
const RATE_TOP: f64 = BACKLOG_TOP + PANEL + GAP + TITLE;
const LANES_TOP: f64 = RATE_TOP + PANEL + GAP + TITLE;

/// Distances between labels that people can count in, in milliseconds.
const TIME_STEPS: [u64; 14] = [
    1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000,
    3_600_000, 7_200_000, 14_400_000,
];
const MAX_LABELS: u64 = 10;

/// The backlog of an outage is published much faster than events are
/// committed. What is above this many times the rate of commits is cut off, so
/// that the rest of the run can be seen.
const CUT_OFF: u64 = 4;

/// The rows of faults. A kind is in one of them; the last is for the rest.
const LANES: [(&str, &str, &[FaultKind]); 4] = [
    (
        "SIGKILL",
        "kill",
        &[
            FaultKind::Kill,
            FaultKind::KillAll,
            FaultKind::KillAfterSend,
        ],
    ),
    ("SIGTERM", "term", &[FaultKind::Term]),
    ("SIGSTOP", "pause", &[FaultKind::Stop]),
    ("outage", "outage", &[FaultKind::Outage]),
];
const REQUESTS: &str = "requests";

pub(super) fn svg_timeline(report: &Report) -> Markup {
    let timeline = &report.timeline;
    let scale = Scale {
        lasted: (timeline.steps.len() as u64 * timeline.step_ms).max(1),
    };
    let per_second = |number: u64| number * 1_000 / timeline.step_ms;
    let steps = || timeline.steps.iter();
    let backlog: Vec<u64> = steps().map(|step| step.backlog).collect();
    let committed: Vec<u64> = steps().map(|step| per_second(step.committed)).collect();
    let published: Vec<u64> = steps()
        .map(|step| per_second(step.published + step.repeated))
        .collect();
    let peak = highest(&published);
    let usual = highest(&committed);
    let most = peak.clamp(usual, usual * CUT_OFF);
    let rate_title = format!("Events per second, {} at most", count(peak));
    let lanes = LANES.len() as f64 + 1.0;
    let bottom = LANES_TOP + lanes * LANE;
    let height = bottom + AXIS;
    html! {
        svg viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-labelledby="picture-title" {
            title id="picture-title" { "Backlog, events per second and faults over time" }
            @for outage in report.annotations.iter().filter(|annotation| annotation.kind == FaultKind::Outage) {
                rect.band x=(scale.x(outage.at)) y=(BACKLOG_TOP)
                    width=(scale.width(outage)) height=(RATE_TOP + PANEL - BACKLOG_TOP) {
                    title { (describe(outage)) }
                }
            }
            (panel("Backlog: events committed and not yet published", BACKLOG_TOP,
                highest(&backlog), &[("area", &backlog)]))
            (panel(&rate_title, RATE_TOP, most, &[("area", &published), ("line", &committed)]))
            g.legend {
                rect.key-area x=(WIDTH - 236.0) y=(RATE_TOP - 14.0) width="12" height="8" {}
                text x=(WIDTH - 220.0) y=(RATE_TOP - 6.0) { "published" }
                line.line x1=(WIDTH - 130.0) x2=(WIDTH - 112.0) y1=(RATE_TOP - 10.0) y2=(RATE_TOP - 10.0) {}
                text x=(WIDTH - 106.0) y=(RATE_TOP - 6.0) { "committed" }
            }
            text.title x=(LEFT) y=(LANES_TOP - 8.0) { "Faults" }
            @for (row, (name, class, kinds)) in (0_u8..).zip(LANES) {
                @let top = LANES_TOP + f64::from(row) * LANE;
                (lane(name, top))
                @for annotation in report.annotations.iter().filter(|annotation| kinds.contains(&annotation.kind)) {
                    rect class=(class) x=(scale.x(annotation.at)) y=(top + 3.0)
                        width=(scale.width(annotation)) height=(LANE - 6.0) {
                        title { (describe(annotation)) }
                    }
                }
            }
            @let top = bottom - LANE;
            (lane(REQUESTS, top))
            @let most = steps().map(|step| step.request_faults).max().unwrap_or(0).max(1);
            @for (at, step) in (0_u64..).map(|nth| nth * timeline.step_ms).zip(steps()) {
                @if step.request_faults > 0 {
                    @let tall = (LANE - 4.0) * step.request_faults as f64 / most as f64;
                    rect.requests x=(scale.x(at)) y=(bottom - 2.0 - tall)
                        width=(scale.x(at + timeline.step_ms) - scale.x(at)) height=(tall) {
                        title { (duration(at)) ": " (count(step.request_faults)) " requests" }
                    }
                }
            }
            line.axis x1=(LEFT) x2=(WIDTH - RIGHT) y1=(bottom) y2=(bottom) {}
            @let every = time_step(scale.lasted);
            @for at in (0..=scale.lasted / every).map(|nth| nth * every) {
                line.tick x1=(scale.x(at)) x2=(scale.x(at)) y1=(bottom) y2=(bottom + 4.0) {}
                text.label x=(scale.x(at)) y=(bottom + 17.0) text-anchor="middle" { (clock(at)) }
            }
        }
    }
}

struct Scale {
    /// Milliseconds.
    lasted: u64,
}

impl Scale {
    fn x(&self, at: u64) -> f64 {
        let x = LEFT + (WIDTH - LEFT - RIGHT) * at.min(self.lasted) as f64 / self.lasted as f64;
        (x * 10.0).round() / 10.0
    }

    /// What happened in an instant is still to be seen.
    fn width(&self, annotation: &Annotation) -> f64 {
        let until = annotation.until.unwrap_or(annotation.at);
        (self.x(until) - self.x(annotation.at)).max(2.0)
    }
}

fn describe(annotation: &Annotation) -> String {
    let mut text = format!("{} at {}", annotation.kind.name(), duration(annotation.at));
    let whom = annotation
        .process
        .as_deref()
        .or(annotation.service.map(|service| service.name()));
    if let Some(whom) = whom {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {whom}");
    }
    if let Some(until) = annotation.until {
        let _ = write!(
            text,
            ", for {}",
            duration(until.saturating_sub(annotation.at))
        );
    }
    text
}

/// A chart of `series`, whose axis reaches from zero to `most`.
fn panel(title: &str, top: f64, most: u64, series: &[(&str, &[u64])]) -> Markup {
    let most = round_up(most);
    let bottom = top + PANEL;
    let y = |value: u64| bottom - PANEL * value.min(most) as f64 / most as f64;
    html! {
        text.title x=(LEFT) y=(top - 8.0) { (title) }
        @for value in [most / 2, most] {
            line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(y(value)) y2=(y(value)) {}
            text.label x=(LEFT - 8.0) y=(y(value) + 4.0) text-anchor="end" { (count(value)) }
        }
        text.label x=(LEFT - 8.0) y=(bottom + 4.0) text-anchor="end" { "0" }
        @for (class, values) in series {
            path class=(class) d=(curve(values, bottom, y, *class == "area")) {}
        }
        line.axis x1=(LEFT) x2=(WIDTH - RIGHT) y1=(bottom) y2=(bottom) {}
    }
}

fn lane(name: &str, top: f64) -> Markup {
    html! {
        line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(top) y2=(top) {}
        text.label x=(LEFT - 8.0) y=(top + LANE - 6.0) text-anchor="end" { (name) }
    }
}

/// Each value in the middle of its step; closed along the bottom for an area.
fn curve(values: &[u64], bottom: f64, y: impl Fn(u64) -> f64, closed: bool) -> String {
    let step = (WIDTH - LEFT - RIGHT) / values.len().max(1) as f64;
    let middle = |nth: usize| LEFT + step * (nth as f64 + 0.5);
    let mut path = String::new();
    if closed {
        let _ = write!(path, "M{:.1} {bottom:.1}", middle(0));
    }
    for (nth, &value) in values.iter().enumerate() {
        let command = if path.is_empty() { 'M' } else { 'L' };
        let _ = write!(path, "{command}{:.1} {:.1}", middle(nth), y(value));
    }
    if closed {
        let _ = write!(path, "L{:.1} {bottom:.1}Z", middle(values.len().max(1) - 1));
    }
    path
}

fn highest(values: &[u64]) -> u64 {
    values.iter().copied().max().unwrap_or_default()
}

/// The next of 2, 4, 10, 20, 40, 100, … so that half of it is whole.
fn round_up(most: u64) -> u64 {
    let mut step = 1_u64;
    loop {
        for factor in [2, 4, 10] {
            if most <= step.saturating_mul(factor) {
                return step.saturating_mul(factor);
            }
        }
        step = step.saturating_mul(10);
    }
}

fn time_step(lasted: u64) -> u64 {
    TIME_STEPS
        .into_iter()
        .find(|step| lasted / step <= MAX_LABELS)
        .unwrap_or(lasted.div_ceil(MAX_LABELS))
}

/// `1:05`, minutes and seconds since the start.
fn clock(at: u64) -> String {
    let seconds = at / 1_000;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::analysis::fault_windows::DisturbanceKind;

    #[test]
    fn an_axis_ends_at_a_round_number_above_the_most() {
        for (most, end) in [
            (0, 2),
            (3, 4),
            (4, 4),
            (41, 100),
            (101, 200),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(round_up(most), end);
        }
    }

    #[test]
    fn every_kind_of_fault_has_one_place() {
        for kind in FaultKind::value_variants() {
            let lanes = LANES.iter().filter(|lane| lane.2.contains(kind)).count();
            let single = DisturbanceKind::Fault(*kind).is_of_one_request();
            assert_eq!(lanes, usize::from(!single), "{kind:?}");
        }
    }
}
