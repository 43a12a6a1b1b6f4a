//! The account at the end: the verdict and the page that shows it. Pure.

use console::Style;

use super::audit::Findings;
use super::lake::Batch;
use super::ledger::Sums;
use super::price::Prices;

/// Everything the page shows.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Report {
    pub straps: u64,
    /// Length of the show.
    pub seconds: u64,
    pub published: Sums,
    pub found: Findings,
    /// As the gateway counted them since its last start; all re-sends happened after that. `None`: it did not say.
    pub duplicates_dropped: Option<u64>,
    pub files: u64,
    pub text_bytes_per_reading: f64,
    pub wire_bytes_per_reading: f64,
    /// The spool when the gateway was killed, the backlog being largest. Not at the end: sled rounds a generation that
    /// is opened again up to 512 KiB, which would hide everything else in so short a show. `None`: nothing was there.
    pub spool: Option<Spool>,
    pub prices: Option<Prices>,
    /// What broke the promise; empty when it held.
    pub broken: Vec<String>,
    /// The folder with the delivered files.
    pub lake: String,
}

/// What the spool takes on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Spool {
    /// Acknowledged readings, all of which are in it.
    pub readings: u64,
    /// Whole disk blocks of all its files.
    pub disk_bytes: u64,
}

/// What is known at the end of the show.
#[derive(Debug)]
pub struct Facts<'a> {
    pub straps: u64,
    pub seconds: u64,
    pub published: Sums,
    pub found: Findings,
    pub batches: &'a [Batch],
    pub duplicates_dropped: Option<u64>,
    pub spool: Option<Spool>,
    /// Exit status of the gateway when it is not 0.
    pub bad_exit: Option<String>,
    pub lake: String,
}

impl Report {
    #[must_use]
    pub fn new(facts: Facts<'_>) -> Self {
        let sum = |part: fn(&Batch) -> u64| facts.batches.iter().map(part).sum::<u64>() as f64;
        let readings = sum(|batch| batch.readings).max(1.0);
        let Facts { straps, seconds, published, found, duplicates_dropped, spool, .. } = facts;
        Self {
            straps,
            seconds,
            published,
            found,
            duplicates_dropped,
            files: facts.batches.len() as u64,
            text_bytes_per_reading: sum(|batch| batch.text_bytes) / readings,
            wire_bytes_per_reading: sum(|batch| batch.packed_bytes) / readings,
            spool,
            prices: Prices::of(facts.batches),
            broken: broken(&published, &found, facts.bad_exit),
            lake: facts.lake,
        }
    }

    /// Whether the promise held.
    #[must_use]
    pub fn held(&self) -> bool {
        self.broken.is_empty()
    }

    /// One line that reads the delivered files. It names its columns, so that it works whatever the files hold.
    #[must_use]
    pub fn query(&self) -> String {
        format!(
            "duckdb -c \"SELECT device, count(*) AS readings, round(avg(bpm), 1) AS bpm FROM \
             read_json('{}/readings/**/*.json.gz', hive_partitioning = true, columns = {{device: 'VARCHAR', \
             type: 'VARCHAR', bpm: 'INTEGER', reason: 'VARCHAR'}}) WHERE type IS NULL AND reason IS NULL \
             GROUP BY device ORDER BY device\"",
            self.lake
        )
    }

    /// The page.
    #[must_use]
    pub fn page(&self, colours: bool) -> String {
        let mut page = Page::new(colours);
        self.verdict(&mut page);
        self.readings(&mut page);
        self.twice(&mut page);
        self.numbers(&mut page);
        self.sizes(&mut page);
        self.price(&mut page);
        page.heading("The delivered files stay here; one line reads them");
        page.plain(&self.query());
        page.text
    }

    fn verdict(&self, page: &mut Page) {
        if self.held() {
            page.verdict(true, "The promise held: nothing that was acknowledged was lost.");
        } else {
            page.verdict(false, "The promise did not hold.");
            for failure in &self.broken {
                page.plain(&format!("- {failure}"));
            }
            page.plain("Everything is kept beside the delivered files: the gateway's log, its configuration, its state.");
        }
    }

    fn readings(&self, page: &mut Page) {
        let Sums { published, acknowledged, .. } = self.published;
        page.heading("Readings");
        page.row("published", &count(published), &format!("by {} straps in {} s", self.straps, self.seconds));
        page.row("acknowledged", &count(acknowledged), "each on disk before its PUBACK");
        let compared = format!("in {} files, every value compared with what was sent", count(self.files));
        page.row("delivered", &count(self.found.delivered), &compared);
        page.result("lost", self.found.lost, "acknowledged and not delivered");
    }

    fn twice(&self, page: &mut Page) {
        let Sums { resent_stamped, resent_unstamped, .. } = self.published;
        let resent = resent_stamped + resent_unstamped;
        page.heading("Sent twice");
        page.row("re-sent", &count(resent), "no PUBACK had come before the kill or the lost radio link");
        match self.duplicates_dropped {
            Some(dropped) => {
                page.row(
                    "duplicates dropped",
                    &count(dropped),
                    "known by the strap's own stamp: delivered once",
                );
                let kept = self.found.unstamped_twice;
                page.row("stored twice", &count(kept), "raw 0x2A37 has no stamp: at least once, and counted");
                let first = resent.saturating_sub(dropped).saturating_sub(kept);
                page.row("stored once", &count(first), "the first copy had not reached the disk");
            }
            None => page.row("duplicates dropped", "?", "the gateway's metrics could not be read"),
        }
    }

    fn numbers(&self, page: &mut Page) {
        let numbers = self.found.numbers;
        page.heading("Numbers");
        page.row("generations", &count(numbers.generations), "one more with every start of the gateway");
        page.row("missing", &count(numbers.missing), "numbers that were given and not delivered");
        page.result("unexplained", numbers.unexplained(), "not in a gap line, not beyond an end line");
    }

    fn sizes(&self, page: &mut Page) {
        page.heading("Bytes per reading");
        page.row("JSON text", &format!("{:.1}", self.text_bytes_per_reading), "as the lines are read");
        let batch = self.found.delivered.checked_div(self.files).unwrap_or(0);
        let wire = format!("gzip, about {} readings a batch", count(batch));
        page.row("on the wire", &format!("{:.1}", self.wire_bytes_per_reading), &wire);
        if let Some(Spool { readings, disk_bytes }) = self.spool.filter(|spool| spool.readings > 0) {
            let each = disk_bytes as f64 / readings as f64;
            let note = format!("blocks of the spool at the kill, {} readings in it", count(readings));
            page.row("on disk", &format!("{each:.1}"), &note);
        }
    }

    fn price(&self, page: &mut Page) {
        let Some(prices) = self.prices else { return };
        page.heading("Amazon Data Firehose, per million readings");
        page.row(
            "a record each",
            &format!("${:.4}", prices.record_per_reading),
            "rounded up to 5 KB a record",
        );
        let cheaper = format!("{:.0} times less", prices.factor());
        page.row("this way", &format!("${:.4}", prices.this_way), &cheaper);
        page.note("list price us-east-1, November 2026: $0.029 per GB");
    }
}

/// What breaks the promise.
fn broken(published: &Sums, found: &Findings, bad_exit: Option<String>) -> Vec<String> {
    let numbers = found.numbers;
    let unasked = found.unstamped_twice.saturating_sub(published.resent_unstamped);
    let counted = [
        (found.lost, "acknowledged readings were not delivered"),
        (found.altered, "readings were delivered with other values than were sent"),
        (found.strangers, "delivered readings were never sent"),
        (found.stamped_twice, "further copies of stamped readings were delivered"),
        (unasked, "raw packets were delivered more often than they were sent"),
        (found.repeated_ids, "lines repeat the id of another"),
        (numbers.unexplained(), "numbers are missing without an explanation"),
        (numbers.without_end, "ended generations have no end line"),
        (numbers.beyond_end, "readings lie beyond the end of their generation"),
        (numbers.contradicted, "delivered numbers lie in a gap line"),
        (numbers.unreadable, "lines have no readable number"),
        (
            published.published - published.acknowledged.min(published.published),
            "readings were never acknowledged",
        ),
    ];
    let mut broken: Vec<String> = counted
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{} {what}", count(*number)))
        .collect();
    if published.published == 0 {
        broken.push("no reading was published: there is nothing to prove".to_owned());
    }
    if let Some(status) = bad_exit {
        broken.push(format!("the gateway ended with {status} after SIGTERM"));
    }
    broken
}

/// With thin groups: 12,345.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Builds the text of the page.
struct Page {
    text: String,
    heading: Style,
    good: Style,
    bad: Style,
    faint: Style,
}

impl Page {
    fn new(colours: bool) -> Self {
        let style = || Style::new().force_styling(colours);
        Self {
            text: String::new(),
            heading: style().bold(),
            good: style().green().bold(),
            bad: style().red().bold(),
            faint: style().dim(),
        }
    }

    fn verdict(&mut self, good: bool, text: &str) {
        let (mark, style) = if good { ("✓", &self.good) } else { ("✗", &self.bad) };
        self.text.push_str(&format!("\n  {} {}\n", style.apply_to(mark), style.apply_to(text)));
    }

    fn heading(&mut self, text: &str) {
        self.text.push_str(&format!("\n  {}\n", self.heading.apply_to(text)));
    }

    fn row(&mut self, name: &str, value: &str, note: &str) {
        self.text.push_str(&format!("    {name:<20}{value:>10}   {}\n", self.faint.apply_to(note)));
    }

    /// A number that must be 0.
    fn result(&mut self, name: &str, number: u64, note: &str) {
        let style = if number == 0 { &self.good } else { &self.bad };
        let value = style.apply_to(format!("{:>10}", count(number)));
        self.text.push_str(&format!("    {name:<20}{value}   {}\n", self.faint.apply_to(note)));
    }

    fn note(&mut self, text: &str) {
        self.text.push_str(&format!("    {}\n", self.faint.apply_to(text)));
    }

    fn plain(&mut self, text: &str) {
        self.text.push_str(&format!("    {text}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::numbers::Numbers;
    use super::*;

    fn facts(batches: &[Batch]) -> Facts<'_> {
        Facts {
            straps: 12,
            seconds: 45,
            published: Sums {
                published: 27_090,
                acknowledged: 27_090,
                resent_stamped: 412,
                resent_unstamped: 3,
            },
            found: Findings {
                delivered: 27_090,
                unstamped_twice: 1,
                numbers: Numbers { generations: 2, missing: 4, explained: 4, ..Numbers::default() },
                ..Findings::default()
            },
            batches,
            duplicates_dropped: Some(398),
            spool: Some(Spool { readings: 11_340, disk_bytes: 122_880 }),
            bad_exit: None,
            lake: "fogbeat-demo/lake".to_owned(),
        }
    }

    #[test]
    fn the_page_of_a_promise_that_held() {
        let batch = Batch { readings: 2709, packed_bytes: 40_000, text_bytes: 400_000 };
        let report = Report::new(facts(&[batch; 10]));
        assert!(report.held());
        insta::assert_snapshot!(report.page(false), @r#"
          ✓ The promise held: nothing that was acknowledged was lost.

          Readings
            published               27,090   by 12 straps in 45 s
            acknowledged            27,090   each on disk before its PUBACK
            delivered               27,090   in 10 files, every value compared with what was sent
            lost                         0   acknowledged and not delivered

          Sent twice
            re-sent                    415   no PUBACK had come before the kill or the lost radio link
            duplicates dropped         398   known by the strap's own stamp: delivered once
            stored twice                 1   raw 0x2A37 has no stamp: at least once, and counted
            stored once                 16   the first copy had not reached the disk

          Numbers
            generations                  2   one more with every start of the gateway
            missing                      4   numbers that were given and not delivered
            unexplained                  0   not in a gap line, not beyond an end line

          Bytes per reading
            JSON text                147.7   as the lines are read
            on the wire               14.8   gzip, about 2,709 readings a batch
            on disk                   10.8   blocks of the spool at the kill, 11,340 readings in it

          Amazon Data Firehose, per million readings
            a record each          $0.1383   rounded up to 5 KB a record
            this way               $0.0004   339 times less
            list price us-east-1, November 2026: $0.029 per GB

          The delivered files stay here; one line reads them
            duckdb -c "SELECT device, count(*) AS readings, round(avg(bpm), 1) AS bpm FROM read_json('fogbeat-demo/lake/readings/**/*.json.gz', hive_partitioning = true, columns = {device: 'VARCHAR', type: 'VARCHAR', bpm: 'INTEGER', reason: 'VARCHAR'}) WHERE type IS NULL AND reason IS NULL GROUP BY device ORDER BY device"
        "#);
    }

    #[test]
    fn a_broken_promise_says_what_broke() {
        let mut facts = facts(&[]);
        facts.found.lost = 2;
        facts.found.numbers.explained = 3;
        facts.found.unstamped_twice = 4;
        facts.bad_exit = Some("exit status: 70".to_owned());
        let report = Report::new(facts);
        assert!(!report.held());
        insta::assert_snapshot!(report.broken.join("\n"), @r"
        2 acknowledged readings were not delivered
        1 raw packets were delivered more often than they were sent
        1 numbers are missing without an explanation
        the gateway ended with exit status: 70 after SIGTERM
        ");
    }

    #[test]
    fn a_show_without_readings_proves_nothing() {
        let facts = Facts { published: Sums::default(), ..facts(&[]) };
        assert!(!Report::new(facts).held());
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }
}
