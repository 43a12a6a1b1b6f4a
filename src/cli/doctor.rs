//! `fogbeat doctor`: what is wrong with this gateway, on one screen.

use std::io::IsTerminal as _;
use std::time::Duration;

use bytesize::ByteSize;
use console::{Style, StyledObject};
use indicatif::{ProgressBar, ProgressStyle};

use super::exit::Outcome;
use super::{Common, Failure, output};
use crate::doctor::{self, Finding, Report, Verdict};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Ask nobody beyond this machine: uplinks are not tried
    #[arg(long)]
    offline: bool,
    /// How long to listen for wearables; 0s: not at all
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    listen: Duration,
    /// What the memory card can take over its life, as its maker states; default: 300 times its size
    #[arg(long, value_name = "SIZE")]
    card_endurance: Option<ByteSize>,
}

pub const AFTER_HELP: &str = "Works with the gateway running or dead, without a network, and with a broken \
    configuration; as root it sees most. Takes half a minute at most, and sends nothing to an uplink but questions.\n\
    Exit codes: 0 fine, 1 warnings only, 69 errors.\nExample: fogbeat doctor --offline";

pub fn run(common: &Common, options: &Options) -> Result<Outcome, Failure> {
    let wish = doctor::Options {
        config: common.config.clone(),
        offline: options.offline,
        // Longer would not be waited for.
        listen: options.listen.min(Duration::from_secs(20)),
        card_endurance: options.card_endurance,
        ..doctor::Options::default()
    };
    let report = examine(&wish);
    if options.json {
        output::print_json(&report)?;
    } else {
        let colour = std::io::stdout().is_terminal() && console::colors_enabled();
        output::print(&screen(&report, colour))?;
    }
    Ok(match report.verdict {
        Verdict::Ok | Verdict::Skipped => Outcome::Fine,
        Verdict::Warning => Outcome::Warnings,
        Verdict::Error => Outcome::Errors,
    })
}

/// Examines, and shows on a terminal what is still waited for.
pub fn examine(wish: &doctor::Options) -> Report {
    // Hidden when standard error is no terminal.
    let progress = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(100));
    let report = doctor::examine(wish, &mut |waiting| {
        progress.set_message(format!("looking at: {}", waiting.join(", ")));
    });
    progress.finish_and_clear();
    report
}

/// The report for people: a line for each finding, what to do about it below.
pub fn screen(report: &Report, colour: bool) -> String {
    let wide = report.findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, verdict, reason, next } in &report.findings {
        let verdict = painted(*verdict, colour);
        text.push_str(&format!("{verdict:<8} {check:<wide$}  {reason}\n"));
        if let Some(next) = next {
            text.push_str(&format!("{:8} {:wide$}  -> {next}\n", "", ""));
        }
    }
    let count = |verdict| report.findings.iter().filter(|finding| finding.verdict == verdict).count();
    let many = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (errors, warnings) = (count(Verdict::Error), count(Verdict::Warning));
    text.push_str(&format!(
        "\n{}, {}, {} skipped\n",
        many(errors, "error"),
        many(warnings, "warning"),
        count(Verdict::Skipped)
    ));
    text
}

fn painted(verdict: Verdict, colour: bool) -> StyledObject<&'static str> {
    let style = match verdict {
        Verdict::Ok => Style::new().green(),
        Verdict::Skipped => Style::new().dim(),
        Verdict::Warning => Style::new().yellow(),
        Verdict::Error => Style::new().red().bold(),
    };
    style.force_styling(colour).apply_to(verdict.label())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_has_a_line_for_each_finding_and_what_to_do() {
        let report = Report {
            version: "1".into(),
            verdict: Verdict::Warning,
            findings: vec![
                Finding::ok("clock", "is synchronised"),
                Finding::warning("disk space", "little", "free some"),
            ],
        };
        let shown = "ok       clock       is synchronised\nwarning  disk space  little\n                     -> free some\n\n\
            0 errors, 1 warning, 0 skipped\n";
        assert_eq!(screen(&report, false), shown);
        assert!(screen(&report, true).contains("\u{1b}["));
    }
}
