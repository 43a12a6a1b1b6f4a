//! What the kernel says of a running process (`/proc`). Linux only.

use std::fs;
use std::time::Duration;

/// CPU time of all threads so far, user and system.
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name in parentheses may hold spaces: count the fields behind it. utime and stime are fields 14 and 15.
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a stat line") + 2..].split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|f| f.parse::<u64>().expect("ticks")).sum();
    // USER_HZ is 100 on every Linux architecture that matters here.
    Duration::from_millis(ticks * 10)
}

/// Resident memory now and at its peak, in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub rss_kib: u64,
    pub peak_kib: u64,
    /// Pages of files, the program itself above all: an unoptimised binary maps some 30 MB more of them.
    pub file_kib: u64,
}

pub fn memory(pid: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    Memory {
        rss_kib: field(&status, "VmRSS:"),
        peak_kib: field(&status, "VmHWM:"),
        file_kib: field(&status, "RssFile:"),
    }
}

pub fn threads(pid: u32) -> u64 {
    field(&fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs"), "Threads:")
}

/// Whether the process has a thread of this name.
pub fn has_thread(pid: u32, name: &str) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().any(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|found| found.trim_end() == name)
    })
}

pub fn descriptors(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count() as u64
}

/// Bytes the process made the kernel send to block devices.
pub fn write_bytes(pid: u32) -> u64 {
    field(&fs::read_to_string(format!("/proc/{pid}/io")).expect("the process runs"), "write_bytes:")
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter(|line| line.starts_with(name))
        .find_map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in\n{text}"))
}
