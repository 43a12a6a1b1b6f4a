//! The machine: what of it makes a difference to a gateway. No serial number, no host name.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Question, program};
use crate::redact::Redactor;

const LARGEST: u64 = 64 << 10;
/// What of the service's state is asked for; none of it holds a name.
const UNIT: [&str; 11] = [
    "ActiveState",
    "SubState",
    "Result",
    "NRestarts",
    "ExecMainCode",
    "ExecMainStatus",
    "UnitFileState",
    "MemoryCurrent",
    "MemoryHigh",
    "MemoryMax",
    "ActiveEnterTimestampMonotonic",
];

/// Everything that can be had.
pub fn system(question: &Question, redactor: &Redactor) -> Value {
    let uname = rustix::system::uname();
    let release = read("/etc/os-release");
    let of_release = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| redactor.text(value.trim_matches('"')))
    };
    let memory = read("/proc/meminfo");
    let kib = |field: &str| -> Option<u64> {
        let line = memory.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    let lakes = question.config.as_ref().map(crate::config::Config::lakes).unwrap_or_default();
    let places =
        std::iter::once(question.state_dir.as_path()).chain(lakes.iter().map(|(_, path)| path.as_path()));
    json!({
        // The kernel's build and the processor's kind: made by those who built them.
        "kernel": uname.release().to_string_lossy(),
        "machine": uname.machine().to_string_lossy(),
        "board": board(redactor),
        "os": of_release("ID"),
        "os_version": of_release("VERSION_ID"),
        "cores": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "memory_bytes": kib("MemTotal:"),
        "memory_available_bytes": kib("MemAvailable:"),
        "swap_bytes": kib("SwapTotal:"),
        "load": read("/proc/loadavg").split_whitespace().take(3).filter_map(|load| load.parse::<f64>().ok()).collect::<Vec<_>>(),
        "uptime_s": read("/proc/uptime").split('.').next().and_then(|seconds| seconds.parse::<u64>().ok()),
        "disks": places.map(|place| disk(place, redactor)).collect::<Vec<_>>(),
        "cards": cards(),
        "service": service(redactor),
    })
}

fn read(path: &str) -> String {
    use std::io::Read;
    let mut text = String::new();
    if let Ok(file) = std::fs::File::open(path) {
        // What is no text is none of what is looked for.
        let _ = file.take(LARGEST).read_to_string(&mut text);
    }
    text
}

fn board(redactor: &Redactor) -> Option<String> {
    let model = read("/proc/device-tree/model");
    let model = model.trim_matches(['\0', '\n']);
    (!model.is_empty()).then(|| redactor.text(model))
}

/// The file system that a place lies on, and how full it is.
fn disk(place: &Path, redactor: &Redactor) -> Value {
    // What does not exist yet will lie where its nearest directory does.
    let there = place.ancestors().find_map(|dir| dir.canonicalize().ok());
    let mounts = read("/proc/self/mounts");
    let mount = there.as_ref().and_then(|there| {
        let mounts = mounts.lines().filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            Some((fields.next()?, fields.next()?, fields.next()?))
        });
        // Of several at one place the last one is seen.
        mounts.filter(|(at, ..)| there.starts_with(at)).enumerate().max_by_key(|(n, (at, ..))| (at.len(), *n))
    });
    let room = there.as_ref().and_then(|there| rustix::fs::statvfs(there).ok());
    let path = redactor.text(&place.to_string_lossy());
    json!({
        "path": path,
        "exists": place.exists(),
        "fstype": mount.map(|(_, (_, kind, _))| redactor.text(kind)),
        "options": mount.map(|(_, (.., options))| redactor.text(options)),
        "size_bytes": room.as_ref().map(|room| room.f_blocks.saturating_mul(room.f_frsize)),
        "available_bytes": room.as_ref().map(|room| room.f_bavail.saturating_mul(room.f_frsize)),
        "inodes": room.as_ref().map(|room| room.f_files),
        "inodes_free": room.as_ref().map(|room| room.f_favail),
    })
}

/// SD cards and eMMC: what they say of their own wear.
fn cards() -> Vec<Value> {
    let Ok(blocks) = std::fs::read_dir("/sys/block") else { return Vec::new() };
    let cards = blocks
        .filter_map(Result::ok)
        .filter(|block| block.file_name().to_string_lossy().starts_with("mmcblk"));
    let told = |card: std::fs::DirEntry| {
        let hex = |field: &str| {
            let text = read(&card.path().join("device").join(field).to_string_lossy());
            let plain = text.chars().all(|c| c.is_ascii_hexdigit() || c == 'x' || c.is_whitespace());
            (plain && !text.is_empty()).then(|| text.trim().to_owned())
        };
        json!({ "manufacturer": hex("manfid"), "life_time": hex("life_time"), "pre_eol_info": hex("pre_eol_info") })
    };
    cards.map(told).collect()
}

fn service(redactor: &Redactor) -> Value {
    let properties = format!("--property={}", UNIT.join(","));
    match program::ask("systemctl", &["show", "fogbeat.service", &properties], LARGEST) {
        Ok(answer) => {
            let answer = String::from_utf8_lossy(&answer);
            let known = answer
                .lines()
                .filter_map(|line| line.split_once('='))
                .filter(|(name, _)| UNIT.contains(name));
            Value::Object(
                known.map(|(name, value)| (name.to_owned(), shown(redactor, value))).collect::<Map<_, _>>(),
            )
        }
        Err(why) => json!({ "unknown": redactor.text(&why) }),
    }
}

fn shown(redactor: &Redactor, value: &str) -> Value {
    value.parse::<u64>().map_or_else(|_| Value::from(redactor.text(value)), Value::from)
}
