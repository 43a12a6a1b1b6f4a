//! Judging one value of the configuration: what is wrong with it goes into a list, with its key and the remedy.

use std::fmt::{Debug, Display};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::problem::Problem;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// Where problems are put, and the judgements that several sections share.
pub(super) struct Check<'a> {
    problems: &'a mut Vec<Problem>,
}

impl<'a> Check<'a> {
    pub(super) fn new(problems: &'a mut Vec<Problem>) -> Self {
        Self { problems }
    }

    pub(super) fn add(&mut self, key: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(Problem::new(key, what, remedy));
    }

    pub(super) fn within<T: PartialOrd + Debug + Display>(
        &mut self,
        key: &str,
        value: T,
        range: RangeInclusive<T>,
    ) {
        if !range.contains(&value) {
            let (low, high) = range.into_inner();
            self.add(key, format!("{value} is out of range"), format!("choose {low} to {high}"));
        }
    }

    pub(super) fn duration(&mut self, key: &str, value: Duration, range: RangeInclusive<Duration>) {
        if !range.contains(&value) {
            let shown = |duration: &Duration| humantime::format_duration(*duration).to_string();
            let remedy = format!("choose \"{}\" to \"{}\"", shown(range.start()), shown(range.end()));
            self.add(key, format!("\"{}\" is out of range", shown(&value)), remedy);
        }
    }

    /// Names that become part of file names, ids and metric labels.
    pub(super) fn name(&mut self, key: &str, value: &str) {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if value.is_empty() || value.len() > 64 || value.starts_with('.') || !value.chars().all(fits) {
            let remedy = "use 1 to 64 letters, digits, `-`, `_`, `.` (not first)";
            self.add(key, format!("\"{value}\" cannot be a name"), remedy);
        }
    }

    pub(super) fn absolute(&mut self, key: &str, path: &Path) {
        if !path.is_absolute() {
            let what =
                format!("\"{}\" is relative, and a service has no certain working directory", path.display());
            self.add(key, what, "give the whole path, from `/` on");
        }
    }
}
