//! A support bundle: what somebody elsewhere needs to find out why a gateway does not do what it should, and nothing that
//! tells of a person or opens a door.
//!
//! One `tar.gz`: `manifest.json` (what is in it, what is not and why), and beside it
//!
//! | file | holds | from |
//! |---|---|---|
//! | `status.json`, `metrics.txt` | what `fogbeat status` and `/metrics` show | the running gateway |
//! | `journal.json` | generations, places of the uplinks, quota | the running gateway, else the spool's own small files |
//! | `doctor.json` | what `fogbeat doctor` says; a journal that no gateway has open is left alone | the doctor |
//! | `configuration.json` | the settings in force, or what is wrong with them | the file and the environment |
//! | `flight.jsonl` | the flight recorder | `flight.ring` |
//! | `log.jsonl` | the last lines of the service, `info` and above | systemd's journal, where there is one |
//! | `system.json` | kernel, board, memory, disks, the service's state | the system |
//! | `files.json` | names, sizes and ages of the files in the state directory | the state directory |
//!
//! Promise: it can be made whatever state the gateway is in. Nothing is written but the bundle, no lock is taken, no
//! database is opened; what cannot be read is named in the manifest; memory is bounded by [`LARGEST`] for each file. All
//! of it has passed [`crate::redact`].

mod config;
mod facts;
mod files;
mod lines;
mod names;
mod program;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::config::{Config, Problems};
use crate::control::{self, Request};
use crate::doctor::Report;
use crate::flight;
use crate::journal;
use crate::privacy::KeyError;
use crate::reading::rfc3339;
use crate::redact::Redactor;

/// No file of a bundle is larger; what is longer loses its oldest lines, or is left out.
pub const LARGEST: usize = 4 << 20;

/// Which gateway is looked at.
pub struct Question {
    pub config: Result<Config, Problems>,
    /// The configuration file, for when it is none.
    pub config_file: Option<PathBuf>,
    pub state_dir: PathBuf,
    /// Where the running gateway answers; else why there is none to ask.
    pub daemon: Result<PathBuf, String>,
    /// What the doctor says.
    pub doctor: Report,
    /// ms since the Unix epoch.
    pub made_ms: i64,
}

/// One file of a bundle, or why it is not in it.
#[derive(Debug)]
pub struct Part {
    pub name: &'static str,
    pub content: Result<Vec<u8>, String>,
}

/// A bundle that is to be written.
#[derive(Debug)]
pub struct Bundle {
    pub parts: Vec<Part>,
    made_ms: i64,
}

/// Looks at everything. Blocking, for some seconds at most.
///
/// # Errors
/// When the system gives no random numbers and the gateway has no key: nothing could be redacted.
pub fn gather(question: &Question) -> Result<Bundle, KeyError> {
    let mut redactor = Redactor::new(&question.state_dir)?;
    let raw = config::tree(question);
    redactor.knowing(names::of(&raw, &question.state_dir));
    let asked = |request: &Request| -> Result<Value, String> {
        let socket = question.daemon.as_ref().map_err(Clone::clone)?;
        control::ask(socket, request).map_err(|error| error.to_string())
    };
    let status = asked(&Request::Status);
    if let Ok(status) = &status {
        redactor.knowing(names::in_document(status));
    }
    let redactor = redactor;
    let document =
        |value: Result<Value, String>| value.and_then(|value| json_file(&redactor.document(&value)));
    let inspected =
        asked(&Request::JournalInspect).or_else(|why| match question.state_dir.join("spool").is_dir() {
            true => Ok(journal::offline(&question.state_dir.join("spool"))),
            false => Err(format!("there is no journal to be seen, and {why}")),
        });
    let metrics =
        asked(&Request::Metrics).and_then(|answer| match answer.get("text").and_then(Value::as_str) {
            Some(text) => Ok(redactor.metrics(text).into_bytes()),
            None => Err("the gateway gave none".to_owned()),
        });
    let ring = flight::read(&question.state_dir.join(flight::FILE)).map_err(|error| error.to_string());
    let mut parts = vec![
        Part {
            name: "doctor.json",
            content: document(serde_json::to_value(&question.doctor).map_err(|error| error.to_string())),
        },
        Part { name: "status.json", content: document(status) },
        Part { name: "metrics.txt", content: metrics },
        Part { name: "journal.json", content: document(inspected) },
        Part { name: "configuration.json", content: json_file(&config::shown(question, &raw, &redactor)) },
        Part { name: "flight.jsonl", content: ring.map(|ring| lines::flight(&redactor, &ring)) },
        Part { name: "log.jsonl", content: lines::journal(&redactor) },
        Part { name: "system.json", content: json_file(&facts::system(question, &redactor)) },
        Part {
            name: "files.json",
            content: files::below(&question.state_dir, &redactor).and_then(|list| json_file(&list)),
        },
    ];
    for part in &mut parts {
        part.content = std::mem::replace(&mut part.content, Ok(Vec::new())).and_then(bounded);
        // Why something is missing is told by errors that name places.
        part.content =
            std::mem::replace(&mut part.content, Ok(Vec::new())).map_err(|why| redactor.text(&why));
    }
    let manifest = manifest(question, &redactor, &parts);
    parts.insert(0, Part { name: "manifest.json", content: json_file(&manifest) });
    Ok(Bundle { parts, made_ms: question.made_ms })
}

impl Bundle {
    /// Writes it as `tar.gz`.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(GzEncoder::new(out, Compression::default()));
        for part in &self.parts {
            let Ok(content) = &part.content else { continue };
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(u64::try_from(self.made_ms / 1000).unwrap_or(0));
            archive.append_data(
                &mut header,
                Path::new("fogbeat-support").join(part.name),
                content.as_slice(),
            )?;
        }
        archive.into_inner()?.finish()?.flush()
    }

    /// Files that are not in it, with the reason.
    pub fn left_out(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parts.iter().filter_map(|part| Some((part.name, part.content.as_ref().err()?.as_str())))
    }
}

fn manifest(question: &Question, redactor: &Redactor, parts: &[Part]) -> Value {
    let mut made = Vec::new();
    rfc3339::write(&mut made, question.made_ms);
    let files: Vec<Value> = parts
        .iter()
        .filter_map(|part| Some(json!({ "name": part.name, "bytes": part.content.as_ref().ok()?.len() })))
        .collect();
    let left_out: Vec<Value> = parts
        .iter()
        .filter_map(|part| Some(json!({ "name": part.name, "why": part.content.as_ref().err()? })))
        .collect();
    let tags = match redactor.is_lasting() {
        true => {
            "~ and 16 characters stand for a name, an address or a word that is not known; the same in every bundle of \
                 this gateway, and in `fogbeat audit show --device NAME` behind d-"
        }
        false => {
            "~ and 16 characters stand for a name, an address or a word that is not known; good for this bundle only, \
                  because the gateway's key could not be read"
        }
    };
    json!({
        "format": 1,
        "made": String::from_utf8_lossy(&made),
        "version": env!("CARGO_PKG_VERSION"),
        "daemon": match &question.daemon { Ok(_) => "runs".to_owned(), Err(why) => redactor.text(why) },
        "files": files,
        "left_out": left_out,
        "never_in_it": "readings, payloads, names of devices, people and places, addresses, keys, secrets, certificates",
        "tags": tags,
    })
}

fn json_file(value: &Value) -> Result<Vec<u8>, String> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| error.to_string())?;
    text.push(b'\n');
    Ok(text)
}

fn bounded(content: Vec<u8>) -> Result<Vec<u8>, String> {
    if content.len() > LARGEST {
        return Err(format!(
            "it would be {} MiB, and no file is larger than {}",
            content.len() >> 20,
            LARGEST >> 20
        ));
    }
    Ok(content)
}
