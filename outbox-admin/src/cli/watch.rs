//! `watch`: the status again and again.

use std::time::Duration;

use ::console::Term;
use clap::Args;
use outbox::timestamp::Timestamp;
use shared::runtime::service::parse_duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::output::{OutputOptions, print, print_json_line, remark, seconds, without_controls};
use super::status::{LimitOptions, count, text, verdict};
use super::{CommandError, Outcome};
use crate::service::{Life, Observer, OperateError, Operator, StatusReport};

/// Show the status until Ctrl-C: redrawn on a terminal, else a line each time.
///
/// While DynamoDB is away it says so and goes on.
#[derive(Clone, Debug, Args)]
pub struct WatchCommand {
    /// How often to look (at least 200ms).
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_interval)]
    interval: Duration,

    /// End after this many looks; the exit code is then that of `status`.
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
        let mut observer = Observer::default();
        let mut turns = tokio::time::interval(self.interval);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = 0;
        loop {
            let report = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(true),
                report = async {
                    turns.tick().await;
                    operator.status(&mut observer, self.limits.into()).await
                } => report,
            };
            looks += 1;
            let is_last = self.count == Some(looks);
            match &report {
                _ if is_redrawn => redraw(&terminal, &report, self.interval)?,
                Ok(report) if self.output.is_json() => print_json_line(report)?,
                Ok(report) => print(&summary(report))?,
                // The last one is what the command ends with.
                Err(_) if is_last => {}
                Err(error) => remark(&format!("{} {error}", Timestamp::now())),
            }
            if is_last {
                return Ok(report?.healthy);
            }
        }
    }
}

/// Draws over what was drawn before, so that nothing flickers.
fn redraw(
    terminal: &Term,
    report: &Result<StatusReport, OperateError>,
    interval: Duration,
) -> Result<(), CommandError> {
    let body = match report {
        Ok(report) => text(report),
        Err(error) => without_controls(&error.to_string()).into_owned(),
    };
    let head = format!(
        "{}, every {}; Ctrl-C to end",
        Timestamp::now(),
        humantime::format_duration(interval)
    );
    let height = usize::from(terminal.size().0).saturating_sub(2);
    let draw = || {
        terminal.clear_screen()?;
        terminal.write_line(&head)?;
        for line in body.lines().take(height) {
            terminal.write_line(line)?;
        }
        terminal.flush()
    };
    draw().map_err(CommandError::Output)
}

fn summary(report: &StatusReport) -> String {
    let alive = report
        .shards
        .iter()
        .filter(|lease| lease.life == Life::Alive)
        .count();
    let mut line = format!(
        "{} {} pending={} oldest={} failed={} lag={} shards={} alive={alive}",
        report.at,
        verdict(report),
        count(report.pending),
        seconds(report.oldest_pending_seconds),
        count(report.failed),
        seconds(report.lag_seconds),
        report.shards.len(),
    );
    if let Some(problem) = report.problems.first() {
        line.push_str(": ");
        line.push_str(&super::output::line(problem, 200));
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
