//! What one sees during the show: figures that move on a terminal, dated lines in a pipe. All of it goes to standard
//! error; the report alone goes to standard output.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use console::Style;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::report::count;
use crate::reading::rfc3339;

/// Between two lines of figures in a pipe.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// The rate is the mean of this time.
const RATE_OVER: Duration = Duration::from_secs(2);
/// Width of the backlog's bar in characters.
const BAR: u64 = 40;

/// The figures of one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    pub elapsed: Duration,
    pub published: u64,
    pub acknowledged: u64,
    pub resent: u64,
    pub delivered: u64,
    pub connected: u64,
}

impl Figures {
    /// Acknowledged, and waiting for the uplink.
    #[must_use]
    pub const fn backlog(&self) -> u64 {
        self.acknowledged.saturating_sub(self.delivered)
    }
}

/// What an event means to the one who watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Calm,
    Trouble,
    Good,
}

/// See the module.
pub struct Screen {
    form: Form,
    begun: Instant,
    straps: u64,
    /// The backlog that fills its bar.
    full_backlog: u64,
    state: Mutex<State>,
}

enum Form {
    Terminal(ProgressBar),
    Pipe,
}

#[derive(Debug, Default)]
struct State {
    last_line: Option<Instant>,
    /// Moment and `published` some time ago and lately, for the rate.
    rate_from: Option<(Instant, u64)>,
    rate: u64,
    highest_backlog: u64,
}

impl Screen {
    /// A screen for a show of `length` with `straps` straps, in which a backlog of `full_backlog` is to be expected.
    #[must_use]
    pub fn new(length: Duration, straps: u64, full_backlog: u64) -> Self {
        let form = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(millis(length)), ProgressDrawTarget::stderr());
            // The template is fixed; without it the bar has its default look.
            if let Ok(style) = ProgressStyle::with_template("\n  {bar:40.cyan/238} {prefix}\n{msg}") {
                bar.set_style(style.progress_chars("━━─"));
            }
            let title = Style::new().for_stderr().bold().apply_to("fogbeat demo");
            bar.println(format!("\n  {title}: straps, an outage, a kill -9, and the account"));
            bar.println("");
            Form::Terminal(bar)
        } else {
            Form::Pipe
        };
        Self { form, begun: Instant::now(), straps, full_backlog, state: Mutex::default() }
    }

    /// Something happened.
    pub fn event(&self, mood: Mood, text: &str) {
        match &self.form {
            Form::Terminal(bar) => {
                let (mark, style) = match mood {
                    Mood::Calm => ("·", Style::new().for_stderr()),
                    Mood::Trouble => ("✗", Style::new().for_stderr().red()),
                    Mood::Good => ("✓", Style::new().for_stderr().green()),
                };
                let second = Style::new().for_stderr().dim().apply_to(seconds(self.begun.elapsed()));
                bar.println(format!("  {second}  {} {text}", style.apply_to(mark)));
            }
            Form::Pipe => line(text),
        }
    }

    /// The figures have moved.
    pub fn draw(&self, figures: Figures) {
        let Ok(mut state) = self.state.lock() else { return };
        state.measure(figures);
        match &self.form {
            Form::Terminal(bar) => {
                bar.set_position(millis(figures.elapsed).min(bar.length().unwrap_or_default()));
                bar.set_prefix(seconds(figures.elapsed).trim_start().to_owned());
                bar.set_message(self.table(figures, &state));
            }
            Form::Pipe => {
                let now = Instant::now();
                if state.last_line.is_none_or(|last| now.duration_since(last) >= LINE_EVERY) {
                    state.last_line = Some(now);
                    line(&format!(
                        "published {} ({}/s), acknowledged {}, backlog {}, delivered {}, re-sent {}, straps {}/{}",
                        figures.published,
                        state.rate,
                        figures.acknowledged,
                        figures.backlog(),
                        figures.delivered,
                        figures.resent,
                        figures.connected,
                        self.straps,
                    ));
                }
            }
        }
    }

    /// The show is over: the figures go, the events stay.
    pub fn finish(&self) {
        if let Form::Terminal(bar) = &self.form {
            bar.finish_and_clear();
        }
    }

    fn table(&self, figures: Figures, state: &State) -> String {
        let faint = Style::new().for_stderr().dim();
        let number = Style::new().for_stderr().bold();
        let row = |name: &str, value: u64, style: &Style, note: String| {
            format!("  {:<14}{}   {note}", name, style.apply_to(format!("{:>9}", count(value))))
        };
        let backlog = figures.backlog();
        let (backlog_style, bar_style) = if state.grown(backlog) {
            (Style::new().for_stderr().yellow().bold(), Style::new().for_stderr().yellow())
        } else {
            (number.clone(), Style::new().for_stderr().color256(238))
        };
        let width =
            (backlog * BAR).div_ceil(self.full_backlog.max(state.highest_backlog).max(1)).min(BAR) as usize;
        let notes = [
            format!(
                "{} from {} of {} straps",
                faint.apply_to(format!("{}/s", count(state.rate))),
                figures.connected,
                self.straps
            ),
            faint.apply_to(format!("re-sent {}", count(figures.resent))).to_string(),
            bar_style.apply_to("▪".repeat(width)).to_string(),
            String::new(),
        ];
        let [published, acknowledged, waiting, delivered] = notes;
        [
            row("published", figures.published, &number, published),
            row("acknowledged", figures.acknowledged, &number, acknowledged),
            row("backlog", backlog, &backlog_style, waiting),
            row("delivered", figures.delivered, &Style::new().for_stderr().green().bold(), delivered),
        ]
        .join("\n")
    }
}

impl State {
    fn measure(&mut self, figures: Figures) {
        let now = Instant::now();
        self.highest_backlog = self.highest_backlog.max(figures.backlog());
        let (from, published) = *self.rate_from.get_or_insert((now, figures.published));
        let passed = now.duration_since(from);
        if passed >= RATE_OVER {
            let new = figures.published.saturating_sub(published) as f64;
            self.rate = (new / passed.as_secs_f64()).round() as u64;
            self.rate_from = Some((now, figures.published));
        }
    }

    /// More than what always waits for the next batch.
    const fn grown(&self, backlog: u64) -> bool {
        backlog > self.rate * 5
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(duration: Duration) -> String {
    format!("{:>5.1} s", duration.as_secs_f64())
}

/// A dated line for a log. A closed pipe is no reason to stop the show.
fn line(text: &str) {
    let now_ms = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    let mut line = Vec::with_capacity(text.len() + 32);
    rfc3339::write(&mut line, i64::try_from(now_ms).unwrap_or_default());
    line.push(b' ');
    line.extend_from_slice(text.as_bytes());
    line.push(b'\n');
    let _ = std::io::stderr().write_all(&line);
}
