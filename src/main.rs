//! The binary: one command line in, one exit code out.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use fogbeat::cli::{self, Cli, Command, Common, Failure, Kind};
use fogbeat::gateway::{self, Setup};
use fogbeat::state::StateDir;
use fogbeat::{allocator, flight, telemetry};

/// More workers than cores gain nothing, and a Pi has other work as well.
const MOST_WORKERS: usize = 2;
/// Blocking work is file work; more at once only queues up at the disk.
const MOST_BLOCKING: usize = 16;
/// What still blocks after the gateway has ended (a hanging disk) is left behind.
const LAST_WAIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // One TLS stack, one provider. An error means that there is one already, and there is no other.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Cli { common, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::usage(&error),
    };
    cli::report(match command {
        Command::Run => run(&common),
        Command::Init(options) => cli::init::run(&common, &options),
        Command::Demo(options) => return fogbeat::demo::run(&options),
        Command::Check(options) => cli::check::run(&common, &options),
        Command::Status(options) => cli::status::run(&common, &options),
        Command::Doctor(options) => return cli::report_outcome(cli::doctor::run(&common, &options)),
        Command::Scan(options) => cli::scan::run(&common, &options),
        Command::Device(command) => cli::device::run(&common, &command),
        Command::Uplink(command) => cli::uplink::run(&common, &command),
        Command::Journal(command) => cli::journal::run(&common, &command),
        Command::Enroll(options) => cli::enroll::run(&common, &options),
        Command::Certificate(command) => cli::certificate::run(&common, &command),
        Command::Backup(options) => cli::backup::run(&common, &options),
        Command::Restore(options) => cli::restore::run(&common, &options),
        Command::Erase(options) => cli::erase::run(&common, &options),
        Command::Audit(command) => cli::audit::run(&common, &command),
        Command::Cloud(command) => cli::cloud::run(&common, &command),
        Command::SupportBundle(options) => cli::support_bundle::run(&common, &options),
        Command::Completions(options) => cli::completions::run(&options),
        Command::Man(options) => cli::man::run(&options),
    })
}

/// The whole life of a gateway: configuration, logs, the state directory, the runtime, the stages, the end.
fn run(common: &Common) -> Result<(), Failure> {
    let settled = allocator::settle();
    let config = common.load()?;
    let logs = telemetry::start(common.log_format, common.level(&config))
        .map_err(|e| Failure::new(Kind::Usage, e))?;
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), profile, pid = std::process::id(), "fogbeat");
    if let Err(error) = settled {
        tracing::debug!(%error, "the allocator keeps its defaults: more memory stays resident");
    }

    // What is written holds health data: not for everybody on this machine.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    let state = StateDir::open_or_wait(&config.gateway.state_dir)?;
    let configuration = gateway::fingerprint(&config);
    tracing::info!(target: flight::LIFE, version = env!("CARGO_PKG_VERSION"), profile, pid = std::process::id(),
        configuration, "start");
    let recorded = logs.recorded();
    let again = common.clone();
    let reread = Box::new(move || {
        let fresh = again.read()?;
        let level = again.level(&fresh).to_owned();
        Ok((fresh, level))
    });
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST_WORKERS));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(MOST_BLOCKING)
        .thread_name("fogbeat")
        .enable_all()
        .build()
        .map_err(Failure::unavailable)?;
    let lived = runtime.block_on(gateway::run(Setup { config, state, logs, reread }));
    runtime.shutdown_timeout(LAST_WAIT);
    match &lived {
        Ok(()) => tracing::info!(target: flight::LIFE, reason = "told to", "stop"),
        Err(error) => tracing::info!(target: flight::LIFE, %error, "stop"),
    }
    recorded.flush();
    Ok(lived?)
}
