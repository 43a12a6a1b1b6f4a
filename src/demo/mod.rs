//! `fogbeat demo`: the whole product at work on one machine, and the proof that it keeps its promise.
//!
//! Straps that replay recorded hearts publish through the real listener over real sockets. The uplink goes away for a
//! while, the gateway is killed with SIGKILL in the middle of that and started again, some straps lose their radio
//! link. At the end the demo reads the delivered files itself and compares them with what the straps sent: every
//! acknowledged reading must be there once, with the same values, and every missing number must be explained.
//!
//! The straps' hearts beat faster than real time (a minute a second), so that a show of 45 seconds delivers three
//! quarters of an hour; the stamps lie that far back. Raw 0x2A37 straps have no stamp and beat at their own pace.
//!
//! Needs nothing: no account, no configuration, no other program. Does not measure speed; that is what the
//! benchmarks are for.

mod audit;
mod error;
mod gateway;
mod hearts;
mod lake;
mod ledger;
mod numbers;
mod outbox;
mod place;
mod price;
mod report;
mod sample;
mod screen;
mod show;
mod story;
mod strap;

pub use error::DemoError;
pub use report::Report;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use place::Place;
use screen::Screen;
use story::Story;

/// The promise did not hold: a defect of ours (sysexits `EX_SOFTWARE`).
const EX_SOFTWARE: u8 = 70;
/// As a shell reports a program ended by SIGINT.
const INTERRUPTED: u8 = 130;

/// Arguments of `fogbeat demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Straps that publish; every sixth sends raw 0x2A37 packets, the others JSON
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=48))]
    pub straps: u16,
    /// Length of the show, without the start and the closing account
    #[arg(long, value_name = "S", default_value_t = 45, value_parser = clap::value_parser!(u64).range(12..=300))]
    pub seconds: u64,
    /// Use this folder (new or empty) and keep everything in it: files, log, the gateway's state
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Write the account as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the demo. 0: the promise held; 70: it did not, and the report says what failed.
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(until_interrupted(options)),
        Err(source) => Err(DemoError::Runtime(source)),
    };
    match outcome {
        Ok(report) => present(&report, options.json),
        Err(error) => {
            // Nothing better to do when standard error is closed.
            let _ = writeln!(std::io::stderr(), "fogbeat demo: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// The show, or the end of it by a signal: then nothing is left behind.
async fn until_interrupted(options: &Options) -> Result<Report, DemoError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DemoError::Runtime)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(DemoError::Runtime)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(DemoError::Runtime)?;
    let place = Place::prepare(options.keep.as_deref())?;
    let story = Story::new(Duration::from_secs(options.seconds));
    let screen = Screen::new(
        story.length(),
        options.straps.into(),
        show::expected_backlog(story, options.straps.into()),
    );
    let outcome = tokio::select! {
        outcome = show::perform(story, options.straps.into(), &place, &screen) => Some(outcome),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        _ = hangup.recv() => None,
    };
    screen.finish();
    match outcome {
        // The child was killed with the show that was dropped.
        None => {
            place.discard();
            Err(DemoError::Interrupted)
        }
        Some(Ok(report)) => {
            if report.held() {
                place.tidy();
            }
            Ok(report)
        }
        Some(Err(error)) => Err(error),
    }
}

fn present(report: &Report, json: bool) -> ExitCode {
    let text = if json {
        serde_json::to_string_pretty(report).unwrap_or_default() + "\n"
    } else {
        report.page(console::colors_enabled())
    };
    let written = std::io::stdout().write_all(text.as_bytes());
    if report.held() && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(EX_SOFTWARE) }
}
