//! Reads what `strace -f -yy -xx` wrote and asks of each PUBACK: did an fdatasync of the database stand between the
//! write of its group and it?

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use crate::support::wire::{Packet, Stream};

/// The calls a trace must hold.
pub const CALLS: &str = "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,pwritev,pwritev2,\
                         fdatasync,fsync";

/// One finished system call. `begin` and `end` are places in the trace: what ends before another begins came first.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub name: String,
    /// What the descriptor stands for: a path, or `TCP:[local->remote]`.
    pub target: String,
    pub data: Vec<u8>,
    pub result: i64,
    pub begin: usize,
    pub end: usize,
}

/// Parses a whole trace, in order of the calls' beginnings.
pub fn parse(text: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut open: HashMap<&str, (usize, String)> = HashMap::new();
    for (place, line) in text.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(head) = rest.strip_suffix("<unfinished ...>") {
            open.insert(thread, (place, head.trim_end().to_owned()));
        } else if let Some(tail) = rest.strip_prefix("<... ") {
            let Some((begin, head)) = open.remove(thread) else { continue };
            let tail = tail.split_once("resumed>").map_or("", |t| t.1);
            calls.extend(call(&format!("{head}{tail}"), begin, place));
        } else {
            calls.extend(call(rest, place, place));
        }
    }
    calls.sort_by_key(|call| call.begin);
    calls
}

/// `name(fd<target>, .. "data" ..) = result`
fn call(text: &str, begin: usize, end: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (rest, result) = rest.rsplit_once(" = ")?;
    let result = result.split([' ', '<']).next()?.parse().ok()?;
    let (_, rest) = rest.split_once('<')?;
    // The arrow of a socket pair is part of the target.
    let close = rest.replace("->", "--").find('>')?;
    let target = String::from_utf8_lossy(&unescape(&rest[..close])).into_owned();
    let data = rest[close..].split('"').skip(1).step_by(2).flat_map(unescape).collect();
    Some(Call { name: name.to_owned(), target, data, result, begin, end })
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.strip_prefix(b"x").and_then(|t| t.get(..2)).and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// What a trace proves.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub pubacks: usize,
    pub fdatasyncs: usize,
    /// Publishes on a connection with more than one under way.
    pub pipelined: usize,
    pub faults: Vec<String>,
}

/// Examines all connections of the listener at `port`.
///
/// For each PUBACK, after its PUBLISH had been read: a write to a generation's `db` must have ended, an fdatasync of
/// the same file must have begun after that and have succeeded before the PUBACK's own call began. When only one
/// PUBLISH of all clients was under way (`lock_step`), every write to a `db` since then must be so covered.
/// And before the first PUBACK that rests on a generation: its directory and its parent are fsynced.
pub fn examine(calls: &[Call], port: u16, lock_step: bool) -> Findings {
    let mut findings = Findings::default();
    let here = format!("TCP:[127.0.0.1:{port}->");
    let writes: Vec<&Call> = calls
        .iter()
        .filter(|c| c.name.starts_with("pwrite") && c.target.ends_with("/db") && c.result > 0)
        .collect();
    let syncs: Vec<&Call> = calls.iter().filter(|c| c.name == "fdatasync" && c.result == 0).collect();
    findings.fdatasyncs = syncs.len();
    // First PUBACK that rests on a database: the place of its write.
    let mut used: BTreeMap<String, usize> = BTreeMap::new();
    for (id, read, sent) in acknowledgements(calls, &here, &mut findings) {
        findings.pubacks += 1;
        let group: Vec<&&Call> = writes.iter().filter(|w| w.begin > read && w.end < sent).collect();
        let covered = |write: &Call| {
            syncs.iter().any(|s| s.target == write.target && s.begin > write.end && s.end < sent)
        };
        match group.iter().find(|w| covered(w)) {
            Some(write) => {
                used.entry(write.target.clone()).or_insert(sent);
            }
            None => findings.faults.push(format!(
                "PUBACK {id} at {sent}: its PUBLISH was read at {read}, {} writes to a db since, none of them followed \
                 by an fdatasync",
                group.len()
            )),
        }
        if lock_step && let Some(bare) = group.iter().find(|w| !covered(w)) {
            findings.faults.push(format!("PUBACK {id} at {sent}: the write at {} is not synced", bare.begin));
        }
    }
    for (db, first) in used {
        let generation = Path::new(&db).parent().unwrap_or(Path::new(""));
        for directory in [Some(generation), generation.parent()].into_iter().flatten() {
            let name = directory.to_string_lossy();
            if !calls.iter().any(|c| c.name == "fsync" && c.target == name && c.result == 0 && c.end < first)
            {
                findings.faults.push(format!("{name} was not fsynced before a PUBACK rested on it"));
            }
        }
    }
    findings
}

/// (packet id, place at which the PUBLISH had been read, place at which its PUBACK's call began).
fn acknowledgements(calls: &[Call], here: &str, findings: &mut Findings) -> Vec<(u16, usize, usize)> {
    #[derive(Default)]
    struct Connection {
        inbound: Stream,
        outbound: Stream,
        waiting: VecDeque<(u16, usize)>,
    }
    let mut connections: HashMap<&str, Connection> = HashMap::new();
    let mut found = Vec::new();
    // In the order in which things became visible: reads by their end, writes by their beginning.
    let mut ordered: Vec<(usize, bool, &Call)> = calls
        .iter()
        .filter(|c| c.target.starts_with(here) && c.result > 0)
        .filter_map(|c| match c.name.as_str() {
            "read" | "readv" | "recvfrom" | "recvmsg" => Some((c.end, true, c)),
            "write" | "writev" | "sendto" | "sendmsg" => Some((c.begin, false, c)),
            _ => None,
        })
        .collect();
    ordered.sort_by_key(|entry| entry.0);
    for (place, inbound, call) in ordered {
        let bytes = usize::try_from(call.result).expect("a length");
        let data =
            call.data.get(..bytes).unwrap_or_else(|| panic!("the trace cut data short at line {place}"));
        let connection = connections.entry(&call.target).or_default();
        let stream = if inbound { &mut connection.inbound } else { &mut connection.outbound };
        stream.push(data);
        while let Some(packet) = stream.next_packet() {
            match packet {
                Packet::Publish { id: Some(id), .. } if inbound => {
                    connection.waiting.push_back((id, place));
                    findings.pipelined += usize::from(connection.waiting.len() > 1);
                }
                Packet::PubAck { id } if !inbound => match connection.waiting.pop_front() {
                    Some((expected, read)) if expected == id => found.push((id, read, place)),
                    other => findings.faults.push(format!("PUBACK {id} at {place}, expected {other:?}")),
                },
                _ => {}
            }
        }
    }
    found
}
