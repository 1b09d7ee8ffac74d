//! `watch`: the status at an interval.

use std::time::Duration;

use ::console::Term;
use clap::Args;
use outbox::timestamp::Timestamp;
use shared::runtime::service::parse_duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::output::{
    OutputOptions, escape_controls, format_seconds, print, print_json_line, print_notice,
    single_line,
};
use super::status::{LimitOptions, format_count, report_text, verdict};
use super::{CommandError, Outcome};
use crate::service::{LeaseObserver, Liveness, OperateError, Operator, StatusReport};

/// Show the status at an interval until Ctrl-C: redrawn on a terminal, else one line each time.
///
/// While DynamoDB is unavailable, the error is shown and the next attempt
/// follows after the interval.
#[derive(Clone, Debug, Args)]
pub struct WatchCommand {
    /// Interval between two reads of the status (at least 200ms).
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_interval)]
    interval: Duration,

    /// End after this many reads, with the exit code of `status` for the last one.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    #[command(flatten)]
    limits: LimitOptions,

    #[command(flatten)]
    output: OutputOptions,
}

impl WatchCommand {
    pub(super) async fn run(self, operator: &Operator, stop: &CancellationToken) -> Outcome {
        let terminal = Term::stdout();
        let is_redrawn = terminal.is_term() && !self.output.is_json();
        let mut observer = LeaseObserver::default();
        let mut interval = tokio::time::interval(self.interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reads = 0;
        loop {
            let report = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(true),
                report = async {
                    interval.tick().await;
                    operator.status(&mut observer, self.limits.into()).await
                } => report,
            };
            reads += 1;
            let is_last = self.count == Some(reads);
            match &report {
                _ if is_redrawn => redraw(&terminal, &report, self.interval)?,
                Ok(report) if self.output.is_json() => print_json_line(report)?,
                Ok(report) => print(&summary(report))?,
                // The error of the last read is the result of the command, which prints it.
                Err(_) if is_last => {}
                Err(error) => print_notice(&format!(
                    "{} status unavailable; retrying in {}: {error}",
                    Timestamp::now(),
                    humantime::format_duration(self.interval)
                )),
            }
            if is_last {
                return Ok(report?.healthy);
            }
        }
    }
}

/// Replaces the screen with `report`, in one write so that it does not flicker.
fn redraw(
    terminal: &Term,
    report: &Result<StatusReport, OperateError>,
    interval: Duration,
) -> Result<(), CommandError> {
    let body = match report {
        Ok(report) => report_text(report),
        Err(error) => format!(
            "status unavailable; retrying: {}",
            escape_controls(&error.to_string())
        ),
    };
    let header = format!(
        "{}, every {}; press Ctrl-C to end",
        Timestamp::now(),
        humantime::format_duration(interval)
    );
    let height = usize::from(terminal.size().0).saturating_sub(2);
    let draw = || {
        terminal.clear_screen()?;
        terminal.write_line(&header)?;
        for line in body.lines().take(height) {
            terminal.write_line(line)?;
        }
        terminal.flush()
    };
    draw().map_err(CommandError::Output)
}

/// Returns the report on one line, for a pipe.
fn summary(report: &StatusReport) -> String {
    let alive = report
        .shards
        .iter()
        .filter(|lease| lease.liveness == Liveness::Alive)
        .count();
    let mut line = format!(
        "{} {} pending={} oldest={} deferred={} failed={} lag={} shards={} alive={alive}",
        report.at,
        verdict(report),
        format_count(report.pending),
        format_seconds(report.oldest_pending_seconds),
        report.deferred.values().sum::<u64>(),
        format_count(report.failed),
        format_seconds(report.lag_seconds),
        report.shards.len(),
    );
    if let Some(problem) = report.problems.first() {
        line.push_str(": ");
        line.push_str(&single_line(problem, 200));
    }
    line
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval < Duration::from_millis(200) {
        return Err("must be at least 200ms".to_owned());
    }
    Ok(interval)
}
