//! What a check finds: a verdict, why, and what to do next.

use serde::{Deserialize, Serialize};

/// How it stands, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Not looked at; the reason says why.
    Skipped,
    /// The gateway works, and somebody should act.
    Warning,
    /// The gateway does not work, or soon will not.
    Error,
}

impl Verdict {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One line of the doctor's. Holds no reading, no secret, and no name or address of a wearable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    pub verdict: Verdict,
    /// What was found.
    pub reason: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Finding {
    fn new(check: &str, verdict: Verdict, reason: impl Into<String>) -> Self {
        Self { check: check.to_owned(), verdict, reason: reason.into(), next: None }
    }

    pub fn ok(check: &str, reason: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, reason)
    }

    pub fn skipped(check: &str, reason: impl Into<String>) -> Self {
        Self::new(check, Verdict::Skipped, reason)
    }

    pub fn warning(check: &str, reason: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warning, reason).next(next)
    }

    pub fn error(check: &str, reason: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(check, Verdict::Error, reason).next(next)
    }

    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}
