//! Questions on a terminal; where there is none, everything keeps its default.

use std::io::IsTerminal as _;

use dialoguer::theme::ColorfulTheme;
use dialoguer::{Confirm, Input, Select};

use super::Failure;

/// Who answers what no flag does.
pub(super) enum Asker {
    Person(Box<ColorfulTheme>),
    Defaults,
}

impl Asker {
    /// A person, if one can read the question and answer it.
    pub(super) fn of_terminal() -> Self {
        match std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            true => Self::Person(Box::default()),
            false => Self::Defaults,
        }
    }

    pub(super) fn say(&self, text: &str) {
        if let Self::Person(_) = self {
            eprintln!("{text}");
        }
    }

    /// What was given, else what is answered; nothing is `None`. A wrong answer is asked for again.
    pub(super) fn text(
        &self,
        question: &str,
        given: Option<String>,
        default: Option<String>,
        good: impl Fn(&str) -> Result<(), String>,
    ) -> Result<Option<String>, Failure> {
        let Self::Person(theme) = self else { return Ok(given.or(default)) };
        if given.is_some() {
            return Ok(given);
        }
        let mut input = Input::<String>::with_theme(&**theme).with_prompt(question).allow_empty(true);
        if let Some(default) = default {
            input = input.default(default);
        }
        let checked =
            input.validate_with(|answer: &String| if answer.is_empty() { Ok(()) } else { good(answer) });
        let answer = checked.interact_text().map_err(broken)?;
        Ok(Some(answer.trim().to_owned()).filter(|answer| !answer.is_empty()))
    }

    pub(super) fn yes(&self, question: &str, default: bool) -> Result<bool, Failure> {
        let Self::Person(theme) = self else { return Ok(default) };
        Confirm::with_theme(&**theme).with_prompt(question).default(default).interact().map_err(broken)
    }

    /// The first one is the default.
    pub(super) fn choice<T: Copy>(&self, question: &str, answers: &[(&str, T)]) -> Result<T, Failure> {
        let chosen = match self {
            Self::Defaults => 0,
            Self::Person(theme) => {
                let words: Vec<&str> = answers.iter().map(|(word, _)| *word).collect();
                let select = Select::with_theme(&**theme).with_prompt(question).items(&words).default(0);
                select.interact().map_err(broken)?
            }
        };
        answers
            .get(chosen)
            .map(|(_, answer)| *answer)
            .ok_or_else(|| Failure::defect(anyhow::anyhow!("no such answer")))
    }
}

fn broken(error: dialoguer::Error) -> Failure {
    Failure::unavailable(anyhow::Error::new(error).context("nobody answers; nothing was changed"))
}
