//! From files and environment to a [`Config`].
//!
//! The layers are merged by the `config` crate into one tree; the tree is then read by serde. Serde stops at the
//! first thing it dislikes, an operator wants them all: so each complaint is noted, the key at fault is cut out of
//! the tree, and the rest is read again, until nothing is left to complain about.

use std::collections::HashMap;
use std::path::Path;

use config::{ConfigError, Environment, File, FileFormat, Value, ValueKind};
use serde_path_to_error::Segment;

use super::problem::{Problem, Problems, nearest};
use super::{Config, Uplink, UplinkKind, validate};

/// Read when no `--config` is given, if it exists.
pub const DEFAULT_FILE: &str = "/etc/fogbeat/fogbeat.toml";

/// After this many complaints the rest is not looked for: the file is something else altogether.
const MOST_PROBLEMS: usize = 100;

/// Judges what only those above this module can, such as the mapping table.
pub type Judge = fn(&Config) -> Vec<Problem>;

/// The configuration in force: defaults, then `file` (or [`DEFAULT_FILE`] if it exists), then `FOGBEAT__SECTION__KEY`
/// from the environment. Reads files, binds nothing, writes nothing.
pub fn load(file: Option<&Path>, judge: Judge) -> Result<Config, Problems> {
    whole(look(file, judge))
}

/// The configuration as far as it can be read, and what is wrong with it; `None`: it is no TOML at all, or cannot be
/// read. What is wrong was left out: such a configuration is for telling, not for running.
pub fn look(file: Option<&Path>, judge: Judge) -> (Option<Config>, Vec<Problem>) {
    let path = match file {
        Some(path) => Some(path),
        None => Some(Path::new(DEFAULT_FILE)).filter(|path| path.exists()),
    };
    let text = match path {
        None => None,
        Some(path) => {
            let shown = path.display().to_string();
            match std::fs::read_to_string(path) {
                Ok(text) => Some((shown, text)),
                Err(error) => {
                    let what = format!("cannot be read ({error})");
                    let remedy = "give an existing, readable TOML file to --config";
                    return (None, vec![Problem::new(&shown, what, remedy)]);
                }
            }
        }
    };
    read(text.as_ref().map(|(name, text)| (name.as_str(), text.as_str())), None, judge)
}

fn whole((config, problems): (Option<Config>, Vec<Problem>)) -> Result<Config, Problems> {
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(Problems(problems)),
    }
}

/// As [`load`], of a text that is not in its place yet and is called `name`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(name: &str, text: &str, judge: Judge) -> Result<Config, Problems> {
    whole(read(Some((name, text)), None, judge))
}

/// A configuration from TOML text alone, without files, environment, or anybody else's judgement.
pub fn from_toml(text: &str) -> Result<Config, Problems> {
    whole(read(Some(("the text", text)), Some(HashMap::new()), |_| Vec::new()))
}

/// `environment`: `None` = that of the process.
fn read(
    file: Option<(&str, &str)>,
    environment: Option<HashMap<String, String>>,
    judge: Judge,
) -> (Option<Config>, Vec<Problem>) {
    let mut builder = config::Config::builder();
    if let Some((_, text)) = file {
        builder = builder.add_source(File::from_str(text, FileFormat::Toml));
    }
    let environment =
        Environment::with_prefix("FOGBEAT").prefix_separator("__").separator("__").source(environment);
    let name = file.map_or("the environment", |(name, _)| name);
    let merged = match builder.add_source(environment).build() {
        Ok(merged) => merged,
        Err(error) => return (None, vec![syntax(name, &error)]),
    };

    let mut problems = Vec::new();
    let mut gone = Gone::default();
    let mut tree = merged.cache;
    split_list(&mut tree, &["mqtt", "mappings"]);
    split_list(&mut tree, &["ble", "adapters"]);
    nest_uplink_keys(&mut tree, &mut gone, &mut problems);
    let mut read = read_tree(&mut tree, &mut gone, &mut problems);
    if let Some(config) = &mut read {
        let mut found = judge(config);
        validate::validate(config, &mut found);
        config.complete();
        problems
            .extend(found.into_iter().map(|problem| Problem { key: gone.number(&problem.key), ..problem }));
    }
    problems.sort();
    problems.dedup();
    (read, problems)
}

fn syntax(file: &str, error: &ConfigError) -> Problem {
    let what = match error {
        ConfigError::FileParse { cause, .. } => cause.to_string(),
        other => other.to_string(),
    };
    Problem::new(file, format!("is not valid TOML: {}", what.trim_end()), "mend the line shown")
}

/// The environment has no lists: there, one is written with commas.
fn split_list(tree: &mut Value, path: &[&str]) {
    let mut node = tree;
    for key in path {
        let ValueKind::Table(table) = &mut node.kind else { return };
        let Some(next) = table.get_mut(*key) else { return };
        node = next;
    }
    if let ValueKind::String(text) = &node.kind {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let items = items.map(|item| Value::new(None, ValueKind::String(item.to_owned()))).collect();
        node.kind = ValueKind::Array(items);
    }
}

/// List entries that were cut out, by list and original number: those behind them moved up, and are still to be
/// called by the numbers the operator counts.
#[derive(Debug, Default)]
struct Gone(Vec<(String, usize)>);

impl Gone {
    /// `key` with the number of its (first) list entry as it stands in the file.
    fn number(&self, key: &str) -> String {
        let parts = key.split_once('[').and_then(|(list, rest)| Some((list, rest.split_once(']')?)));
        let Some((list, (digits, rest))) = parts else { return key.to_owned() };
        let Ok(now) = digits.parse::<usize>() else { return key.to_owned() };
        let kept = |original: &usize| !self.0.iter().any(|(of, number)| of == list && number == original);
        let original = (0..).filter(kept).nth(now).unwrap_or(now);
        format!("{list}[{original}]{rest}")
    }

    /// Notes that the entry now called `key` (`list[number]`) is cut out.
    fn note(&mut self, key: &str) {
        let key = self.number(key);
        if let Some((list, digits)) = key.split_once('[')
            && let Ok(number) = digits.trim_end_matches(']').parse()
        {
            self.0.push((list.to_owned(), number));
        }
    }
}

/// Moves the keys that belong to an uplink's kind under `kind = { <kind> = { .. } }`, the form serde can be strict
/// about.
fn nest_uplink_keys(tree: &mut Value, gone: &mut Gone, problems: &mut Vec<Problem>) {
    let ValueKind::Table(root) = &mut tree.kind else { return };
    let Some(ValueKind::Array(uplinks)) = root.get_mut("uplink").map(|value| &mut value.kind) else { return };
    let mut index = 0;
    uplinks.retain_mut(|uplink| {
        let entry = format!("uplink[{index}]");
        let key = gone.number(&format!("{entry}.kind"));
        let ValueKind::Table(keys) = &mut uplink.kind else { return true };
        let known = || UplinkKind::LABELS.join("`, `");
        let Some(kind) = keys.remove("kind") else {
            problems.push(Problem::new(key, "is missing", format!("say one of `{}`", known())));
            gone.note(&entry);
            return false;
        };
        let kind = kind.to_string();
        if !UplinkKind::LABELS.contains(&kind.as_str()) {
            let remedy = match nearest(&kind, UplinkKind::LABELS) {
                Some(near) => format!("did you mean `{near}`? Known: `{}`", known()),
                None => format!("say one of `{}`", known()),
            };
            problems.push(Problem::new(key, format!("unknown kind \"{kind}\""), remedy));
            gone.note(&entry);
            return false;
        }
        let (common, own) = keys.drain().partition(|(key, _)| Uplink::COMMON.contains(&key.as_str()));
        *keys = common;
        let own = HashMap::from([(kind, Value::new(None, ValueKind::Table(own)))]);
        keys.insert("kind".to_owned(), Value::new(None, ValueKind::Table(own)));
        index += 1;
        true
    });
}

/// Reads the tree, noting and cutting out what serde refuses.
fn read_tree(tree: &mut Value, gone: &mut Gone, problems: &mut Vec<Problem>) -> Option<Config> {
    let mut cut: Vec<Vec<Step>> = Vec::new();
    for _ in 0..MOST_PROBLEMS {
        let error = match serde_path_to_error::deserialize::<_, Config>(tree.clone()) {
            Ok(config) => return Some(config),
            Err(error) => error,
        };
        let mut path = steps(error.path());
        let message = innermost(error.inner());
        // A required key that was cut out before is not missing, it has been complained about already.
        let known_already = quoted(&message, "missing field `")
            .is_some_and(|field| cut.contains(&[path.as_slice(), &[Step::Key(field.to_owned())]].concat()));
        if !known_already {
            let problem = describe(tree, &path, &message);
            problems.push(Problem { key: gone.number(&problem.key), ..problem });
        }
        // What lacks a key stays incomplete whatever is cut out of it: the whole list entry goes.
        if message.starts_with("missing field")
            && let Some(entry) = path.iter().rposition(|step| matches!(step, Step::Index(_)))
        {
            path.truncate(entry + 1);
        }
        if !remove(tree, &path) {
            return None;
        }
        if let Some(Step::Index(_)) = path.last() {
            gone.note(&shown(&path));
        }
        cut.push(path);
    }
    None
}

/// One step on the way from the root of the tree to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

fn steps(path: &serde_path_to_error::Path) -> Vec<Step> {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { variant } => Some(Step::Key(variant.clone())),
            Segment::Unknown => None,
        })
        .collect()
}

/// The path as the operator wrote it: without the nesting that [`nest_uplink_keys`] put in.
fn shown(path: &[Step]) -> String {
    let mut text = String::new();
    let in_uplink = path.first() == Some(&Step::Key("uplink".to_owned()));
    for (depth, step) in path.iter().enumerate() {
        match step {
            Step::Key(_) if in_uplink && (depth == 2 || depth == 3) && path.len() > 3 && is_kind(path) => {}
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

fn is_kind(path: &[Step]) -> bool {
    path.get(2) == Some(&Step::Key("kind".to_owned()))
}

/// The complaint without the paths that the layers around it added.
fn innermost(error: &ConfigError) -> String {
    match error {
        ConfigError::At { error, .. } => innermost(error),
        ConfigError::Type { unexpected, expected, .. } => {
            format!("invalid type: {unexpected}, expected {expected}")
        }
        ConfigError::NotFound(key) => format!("missing field `{}`", key.rsplit('.').next().unwrap_or(key)),
        ConfigError::Message(message) if message.contains("does not have variant constructor") => {
            "it is none of the words that may stand here".to_owned()
        }
        other => other.to_string(),
    }
}

/// What stands between `before` and the next backtick.
fn quoted<'a>(message: &'a str, before: &str) -> Option<&'a str> {
    message.split_once(before)?.1.split('`').next()
}

fn describe(tree: &Value, path: &[Step], message: &str) -> Problem {
    let key = shown(path);
    if let Some(field) = quoted(message, "unknown field `") {
        let known: Vec<&str> = message
            .split_once(", expected")
            .map(|(_, names)| names.split('`').skip(1).step_by(2).collect())
            .unwrap_or_default();
        let remedy = match nearest(field, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "remove it".to_owned(),
            None => format!("known here: `{}`", known.join("`, `")),
        };
        return Problem::new(key, "unknown key", remedy);
    }
    if let Some(field) = quoted(message, "missing field `") {
        return Problem::new(format!("{key}.{field}"), "is missing", "add it: it has no default");
    }
    let value = at(tree, path).map(ToString::to_string).unwrap_or_default();
    Problem::new(
        key,
        format!("\"{value}\" is not usable ({message})"),
        "write it as config/fogbeat.toml shows",
    )
}

fn at<'a>(tree: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(tree, |node, step| match (&node.kind, step) {
        (ValueKind::Table(table), Step::Key(key)) => table.get(key),
        (ValueKind::Array(items), Step::Index(index)) => items.get(*index),
        _ => None,
    })
}

/// Cuts the value at `path` out of the tree; `false`: there is none.
fn remove(tree: &mut Value, path: &[Step]) -> bool {
    let Some((last, parents)) = path.split_last() else { return false };
    let parent = parents.iter().try_fold(tree, |node, step| match (&mut node.kind, step) {
        (ValueKind::Table(table), Step::Key(key)) => table.get_mut(key),
        (ValueKind::Array(items), Step::Index(index)) => items.get_mut(*index),
        _ => None,
    });
    match (parent.map(|node| &mut node.kind), last) {
        (Some(ValueKind::Table(table)), Step::Key(key)) => table.remove(key).is_some(),
        (Some(ValueKind::Array(items)), Step::Index(index)) if *index < items.len() => {
            items.remove(*index);
            true
        }
        _ => false,
    }
}
