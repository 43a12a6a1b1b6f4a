//! Whether the configuration can be run. Every error is a finding of its own.

use super::Finding;
use super::scene::Scene;
use crate::config::Problem;

const NAME: &str = "configuration";
/// One screen; `fogbeat check` has the rest.
const MOST: usize = 6;

pub fn findings(scene: &Scene) -> Vec<Finding> {
    let file = scene.file.display();
    if scene.problems.is_empty() {
        let reason = match scene.file.exists() {
            true => format!("{file} is valid"),
            false => format!("there is no {file}: the defaults are in force"),
        };
        return vec![Finding::ok(NAME, reason)];
    }
    judge(&scene.problems)
}

fn judge(problems: &[Problem]) -> Vec<Finding> {
    let told = |problem: &Problem| {
        Finding::error(NAME, format!("{}: {}", problem.key, problem.what), problem.remedy.as_str())
    };
    let mut findings: Vec<Finding> = problems.iter().take(MOST).map(told).collect();
    if problems.len() > MOST {
        let reason = format!("and {} more errors", problems.len() - MOST);
        findings.push(Finding::error(NAME, reason, "`fogbeat check` tells them all"));
    }
    findings
}

/// For checks that need a configuration without errors.
pub fn needed(check: &str) -> Finding {
    Finding::skipped(check, "the configuration has errors: mend them first")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn every_error_is_told_up_to_a_screen() {
        let problem = |n: usize| Problem::new(format!("key{n}"), "is odd", "make it even");
        let problems: Vec<Problem> = (0..9).map(problem).collect();
        let found = judge(&problems);
        assert_eq!(found.len(), 7);
        assert!(found.iter().all(|finding| finding.verdict == Verdict::Error));
        assert_eq!(found[0], Finding::error(NAME, "key0: is odd", "make it even"));
        assert!(found[6].reason.contains("3 more"), "{found:?}");
        assert_eq!(judge(&problems[..1]).len(), 1);
    }
}
