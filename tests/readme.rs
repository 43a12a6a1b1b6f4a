//! README is true in what a machine can check: commands, settings, limits, metrics, paths.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use clap::CommandFactory as _;
use fogbeat::config::{Limits, Memory, from_toml};

const README: &str = include_str!("../README.md");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What stands between one backtick and the next, and the lines of code blocks.
fn code() -> Vec<&'static str> {
    let mut pieces = Vec::new();
    let mut in_block = false;
    for line in README.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            pieces.push(line);
        } else {
            pieces.extend(line.split('`').skip(1).step_by(2));
        }
    }
    pieces
}

/// Names of all commands that are shown.
fn commands() -> BTreeSet<String> {
    let command = fogbeat::cli::Cli::command();
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    shown.map(|command| command.get_name().to_owned()).collect()
}

#[test]
fn it_names_every_command_and_no_other() {
    let table = README.split("| command | |").nth(1).unwrap().split("\n\n").next().unwrap();
    for command in commands() {
        assert!(table.contains(&format!("| `fogbeat {command}")), "the table lacks `fogbeat {command}`");
    }
    let known: BTreeSet<String> =
        fogbeat::cli::Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for piece in code() {
        for named in piece.split("fogbeat ").skip(1) {
            let word: String = named.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            let called = piece.trim_start().starts_with("fogbeat ") || piece.contains("sudo fogbeat ");
            assert!(!called || word.is_empty() || known.contains(&word), "there is no command in {piece:?}");
        }
    }
}

#[test]
fn its_configurations_are_valid() {
    let blocks: Vec<&str> =
        README.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 3);
    for block in blocks {
        let read = from_toml(block);
        assert!(read.is_ok(), "{block}\n{}", read.unwrap_err());
    }
}

#[test]
fn its_limits_are_the_defaults() {
    let limits = Limits::default();
    let rows = [
        ("connections; of these", format!("| {}; half of them |", limits.connections)),
        ("new connections of one address", format!("| {} a second,", limits.new_per_second)),
        ("connects of one client id", format!("| {} a minute |", limits.reconnects_per_minute)),
        ("wrong or missing secrets", format!("{} a minute |", limits.auth_failures_per_minute)),
        (
            "connections before their CONNECT",
            format!("| {}, for {} s |", limits.handshakes, limits.handshake.as_secs()),
        ),
        ("packet; from its first byte", format!("| {} KiB;", limits.packet_size.as_u64() >> 10)),
        ("sessions with subscriptions", format!("| {}, {}, 10,000 |", limits.subscribers, limits.filters)),
    ];
    for (row, default) in rows {
        let line = README.lines().find(|line| line.starts_with(&format!("| {row}")));
        let line = line.unwrap_or_else(|| panic!("README has no row {row:?}"));
        assert!(line.contains(&default), "{default:?} is not in {line:?}");
    }
    assert_eq!(limits.topics, 10_000);
    let memory = Memory::default().memory.as_u64() >> 20;
    assert!(README.contains(&format!("`[limits] memory` ({memory} MiB)")));
}

/// Every name in the table of metrics is one that a part of the program gives; that none is missing there,
/// `daemon_life` looks at.
#[test]
fn its_metrics_exist() {
    let table = README.split("### Metrics").nth(1).unwrap().split("\n### ").next().unwrap();
    let mut source = String::new();
    read_all(&root().join("src"), &mut source);
    let mut names = 0;
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cell = row.split(" | ").next().unwrap();
        for name in cell.split('`').skip(1).step_by(2) {
            let name = name.split('{').next().unwrap();
            // A registry has the first word as its prefix; the unit at the end is given apart from the name.
            let behind = name.split_once('_').map_or("", |(_, behind)| behind);
            let bare =
                |name: &'static str| ["_bytes", "_seconds"].iter().find_map(|unit| name.strip_suffix(unit));
            let forms = [Some(name), Some(behind), bare(name), bare(behind)];
            let there = forms.into_iter().flatten().any(|form| source.contains(&format!("\"{form}\"")));
            assert!(there, "nothing gives the metric {name}");
            names += 1;
        }
    }
    assert!(names > 60, "only {names} metrics in README");
}

#[test]
fn its_paths_exist() {
    let folders = ["tests/", ".ci/", "cross/", "config/", "benches/", "systemd/", "fuzz/"];
    let links = README.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let named = code().into_iter().flat_map(|piece| piece.split([' ', ',']));
    let paths = links.chain(named).filter(|path| folders.iter().any(|folder| path.starts_with(folder)));
    let mut seen = 0;
    for path in paths {
        assert!(root().join(path.trim_end_matches(['.', ';', ')'])).exists(), "README names {path}");
        seen += 1;
    }
    assert!(seen > 10);
}

#[test]
fn the_tests_that_its_list_names_exist() {
    let list = include_str!("README.md");
    let mut all = String::new();
    read_all(&root().join("tests"), &mut all);
    read_all(&root().join("src"), &mut all);
    let rows = list.split("## Sizes").next().unwrap().lines().filter(|line| line.starts_with("| "));
    for row in rows {
        let cell = row.split(" | ").nth(1).unwrap_or("");
        for name in
            cell.split('`').skip(1).step_by(2).filter(|name| name.contains('_') && !name.contains(' '))
        {
            // `a_test_whose_name_goes_on_*`, `module::`, a script.
            let last = name.trim_end_matches("::").rsplit("::").next().unwrap();
            let stem = last.trim_end_matches(['.', '*']);
            let there = all.contains(&format!("fn {stem}"))
                || all.contains(&format!("mod {stem}"))
                || ["rs", "sh"].iter().any(|end| root().join(format!("tests/{stem}.{end}")).exists())
                || root().join(name).exists()
                || root().join("tests").join(name).exists();
            assert!(there || name.contains('='), "{row}\nno test {name}");
        }
    }
}

fn read_all(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, text);
        } else if path.extension().is_some_and(|end| end == "rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
