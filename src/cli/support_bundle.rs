//! `fogbeat support-bundle`

use std::fs::OpenOptions;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Common, Failure, Kind, doctor, status};
use crate::bundle::{self, Bundle, Question};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, DEFAULT_FILE};
use crate::doctor::Options as Examination;
use crate::reading::rfc3339;

pub const AFTER_HELP: &str = "It works with the gateway dead, its configuration broken and its disk full. Nothing in it \
    names anybody or opens anything: `tar -xzOf FILE` shows what you send. Run it with sudo, so that it can read the state \
    directory and the service's log.\n\
    Example: fogbeat support-bundle --output /tmp/fogbeat-support.tar.gz\n\
    Example: ssh gym-12 sudo fogbeat support-bundle --output - > gym-12.tar.gz";

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Write to FILE in place of fogbeat-support-<time>.tar.gz in this directory; `-`: to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let config = common.read();
    let config_file = common.config.clone().or_else(|| Some(PathBuf::from(DEFAULT_FILE)));
    let state_dir = match &config {
        Ok(config) => config.gateway.state_dir.clone(),
        Err(_) => named_state_dir(config_file.as_deref()),
    };
    let daemon = match status::daemon(&state_dir) {
        Ok(Some(socket)) => Ok(socket),
        Ok(None) => Err("no gateway is running with this state directory".to_owned()),
        Err(failure) => Err(failure.to_string()),
    };
    let clock =
        SystemClock::new(&config.as_ref().map(|config| config.clock.clone()).unwrap_or_default(), &state_dir);
    let made_ms = clock.now().wall_ms;
    let stdout = options.output.as_deref() == Some(Path::new("-"));
    if stdout && io::stdout().is_terminal() {
        let why = anyhow::anyhow!(
            "an archive on a terminal helps nobody: redirect standard output, or give --output FILE"
        );
        return Err(Failure::new(Kind::Usage, why));
    }
    let doctor = doctor::examine(&Examination {
        config: common.config.clone(),
        listen: Duration::ZERO,
        hands_off: true,
        ..Examination::default()
    });
    let question = Question { config, config_file, state_dir, daemon, doctor, made_ms };
    let bundle = bundle::gather(&question).map_err(Failure::unavailable)?;
    if stdout {
        bundle.write(BufWriter::new(io::stdout().lock())).map_err(Failure::unavailable)?;
        tell(&bundle, "standard output");
    } else {
        let path = options.output.clone().unwrap_or_else(|| default_name(made_ms));
        write(&bundle, &path)?;
        tell(&bundle, &path.display().to_string());
    }
    Ok(())
}

fn write(bundle: &Bundle, path: &Path) -> Result<(), Failure> {
    let failed = |error: &io::Error| {
        Failure::unavailable(anyhow::anyhow!(
            "{} cannot be written ({error}); give a place with room, such as --output /dev/shm/fogbeat-support.tar.gz, or \
             take it from here: fogbeat support-bundle --output - > FILE",
            path.display()
        ))
    };
    // Never over a file that is there.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| failed(&error))?;
    let mut out = BufWriter::new(&file);
    let written = bundle.write(&mut out).and_then(|()| out.flush()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a bundle is none, and takes room.
        let _ = std::fs::remove_file(path);
        failed(&error)
    })
}

fn tell(bundle: &Bundle, place: &str) {
    eprintln!(
        "fogbeat: {} files are in {place}; no readings, names, addresses or keys are among them",
        files(bundle)
    );
    for (name, why) in bundle.left_out() {
        eprintln!("fogbeat: without {name}: {why}");
    }
}

fn files(bundle: &Bundle) -> usize {
    bundle.parts.len() - bundle.left_out().count()
}

fn default_name(made_ms: i64) -> PathBuf {
    let mut made = Vec::new();
    rfc3339::write(&mut made, made_ms);
    let digits: String =
        String::from_utf8_lossy(&made).chars().filter(char::is_ascii_digit).take(14).collect();
    PathBuf::from(format!("fogbeat-support-{digits}.tar.gz"))
}

/// Where a configuration that is wrong somewhere else has its state.
fn named_state_dir(file: Option<&Path>) -> PathBuf {
    let set = std::env::var_os("FOGBEAT__GATEWAY__STATE_DIR").map(PathBuf::from);
    let text = file.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    // Also of a file that is no TOML as a whole.
    let table = text.parse::<toml::Table>().ok();
    let named =
        table.as_ref().and_then(|table| table.get("gateway")?.get("state_dir")?.as_str()).map(PathBuf::from);
    let line = || {
        let line =
            text.lines().find_map(|line| line.trim().strip_prefix("state_dir")?.trim().strip_prefix('='))?;
        line.trim().strip_prefix('"')?.split('"').next().map(PathBuf::from)
    };
    set.or(named).or_else(line).unwrap_or_else(|| Config::default().gateway.state_dir)
}
