//! Executes each sub-command, from the command line to the exit code.

use std::process::ExitCode;
use std::time::Duration;

use shared::runtime::service::{Context, EXIT_USAGE, RunError};
use shared::runtime::telemetry::LogFormat;
use shared::{provision, runtime};
use test_support::signals::{Signals, Stopping};
use tokio::runtime::{Builder, Runtime};

use crate::cli::{Cli, Command, ProvisionCommand, UpOptions};
use crate::error::UpError;
use crate::readiness::Probe;
use crate::{child_entry, cloud, up};

/// Runs the selected sub-command.
pub fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Up(options) => run_up(*options),
        Command::Cloud(command) => until_signal(command.process.log_format, |stopping| {
            cloud::run(command.cloud, stopping.stop)
        }),
        Command::Chaos(options) => until_signal(options.log_format, |stopping| async {
            let program = std::env::current_exe().map_err(UpError::Program)?;
            Ok(chaos::run(program, *options, stopping).await?)
        }),
        Command::Provision(command) => {
            let options = command.process.clone();
            runtime::service::run("provision", &options, |context| {
                run_provision(command, context)
            })
        }
        Command::OrderApi(config) => {
            let options = config.process();
            child_entry::run("order-api", &options, |context| {
                order_api::run(*config, context)
            })
        }
        Command::OutboxRelay(relay) => {
            let outbox_relay::cli::Cli { config, command } = *relay;
            if let Some(command) = command {
                return outbox_relay::cli::run(command, &config);
            }
            let options = config.process.clone();
            child_entry::run("outbox-relay", &options, |context| {
                outbox_relay::run(config, context)
            })
        }
        Command::InventoryWorker(config) => {
            let options = config.process.clone();
            child_entry::run("inventory-worker", &options, |context| {
                inventory_worker::run(*config, context)
            })
        }
        Command::Healthcheck { url } => healthcheck(&url),
    }
}

fn run_up(options: UpOptions) -> ExitCode {
    // The services read their options from the environment that they share with this process:
    // errors there are reported before anything starts.
    for name in up::SERVICES {
        match runtime::service::parse_from::<Cli, _>(["all-in-one", name]) {
            Err(code) => return code,
            Ok(Cli {
                command: Command::OutboxRelay(mut relay),
            }) => {
                relay.config.admin_listen = options.relay_admin_listen;
                if let Err(error) = relay.config.check() {
                    return usage(error);
                }
            }
            Ok(_) => {}
        }
    }
    if let Err(reason) = options.names.check() {
        return usage(reason);
    }
    until_signal(options.process.log_format, |stopping| {
        up::run(options, stopping)
    })
}

fn usage(reason: impl std::fmt::Display) -> ExitCode {
    eprintln!("error: {reason}");
    ExitCode::from(EXIT_USAGE)
}

async fn run_provision(command: ProvisionCommand, context: Context) -> Result<(), RunError> {
    command.names.check().map_err(RunError::Usage)?;
    let work = async {
        provision::create_resources(&context.clients, &command.names).await?;
        if command.stock {
            provision::stock_widgets(&context.clients, &command.names).await?;
        }
        Ok(())
    };
    tokio::select! {
        outcome = work => outcome.map_err(|error: shared::provision::ProvisionError| {
            RunError::Failed(error.to_string())
        }),
        () = context.stop.cancelled() => Err(RunError::Failed("interrupted".to_owned())),
    }
}

/// Runs `work` with logging, and forwards signals to it.
fn until_signal<F>(log_format: LogFormat, work: impl FnOnce(Stopping) -> F) -> ExitCode
where
    F: Future<Output = Result<(), UpError>>,
{
    let Some(runtime) = runtime() else {
        return ExitCode::FAILURE;
    };
    let outcome = runtime.block_on(async {
        let telemetry =
            shared::runtime::telemetry::init("all-in-one", log_format).map_err(UpError::Usage)?;
        let stopping = Stopping::default();
        let signals = Signals::new().map_err(UpError::Signals)?;
        let outcome = signals.during(stopping.clone(), work(stopping)).await;
        telemetry.shutdown().await;
        outcome
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            match error {
                UpError::Usage(_) => ExitCode::from(EXIT_USAGE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn healthcheck(url: &str) -> ExitCode {
    let Some(runtime) = runtime() else {
        return ExitCode::FAILURE;
    };
    let ready = runtime.block_on(async {
        let probe = Probe::new().map_err(|error| error.to_string())?;
        probe.check(url).await
    });
    match ready {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{url}: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Option<Runtime> {
    match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => Some(runtime),
        Err(error) => {
            eprintln!("error: the async runtime could not start: {error}");
            None
        }
    }
}
