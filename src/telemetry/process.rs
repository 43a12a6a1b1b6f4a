//! Metrics of the process itself, read from `/proc` when somebody asks.

use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// What a process uses. A field that `/proc` does not tell is left out, not invented.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Usage {
    pub resident_bytes: Option<i64>,
    pub cpu_seconds: Option<f64>,
    pub open_fds: Option<i64>,
    pub threads: Option<i64>,
    /// What the process made the kernel send to disks since its start.
    pub written_bytes: Option<i64>,
}

/// What this process uses now.
pub fn usage() -> Usage {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> Option<i64> {
        let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    Usage {
        resident_bytes: field("VmRSS:").map(|kib| kib * 1024),
        cpu_seconds: cpu_time().map(|time| time.as_secs_f64()),
        // The directory handle that counts is one of them.
        open_fds: std::fs::read_dir("/proc/self/fd")
            .ok()
            .and_then(|fds| i64::try_from(fds.count()).ok())
            .map(|n| n - 1),
        threads: field("Threads:"),
        written_bytes: written("self"),
    }
}

/// What process `pid` made the kernel send to disks since its start, bytes; `None`: it may not be asked.
pub fn written(pid: &str) -> Option<i64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

/// User and system time of all threads, ended ones included.
fn cpu_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

/// Registers the process metrics; `started` is the wall time of the start, ms since the epoch.
pub fn register(registry: &mut Registry, started_ms: i64) {
    registry.register_collector(Box::new(ProcessCollector { started_ms }));
}

#[derive(Debug)]
struct ProcessCollector {
    started_ms: i64,
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let usage = usage();
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        if let Some(bytes) = usage.resident_bytes {
            gauge("process_resident_memory", "Resident memory", Some(&Unit::Bytes), bytes as f64)?;
        }
        if let Some(fds) = usage.open_fds {
            gauge("process_open_fds", "Open file descriptors", None, fds as f64)?;
        }
        if let Some(threads) = usage.threads {
            gauge("process_threads", "Threads", None, threads as f64)?;
        }
        let started = self.started_ms as f64 / 1000.0;
        gauge("process_start_time", "Start, seconds since the epoch", Some(&Unit::Seconds), started)?;
        if let Some(bytes) = usage.written_bytes {
            let metric = ConstCounter::new(bytes.unsigned_abs());
            let help = "Sent to disks since the start";
            let descriptor = encoder.encode_descriptor(
                "process_written",
                help,
                Some(&Unit::Bytes),
                metric.metric_type(),
            )?;
            metric.encode(descriptor)?;
        }
        if let Some(seconds) = usage.cpu_seconds {
            let metric = ConstCounter::new(seconds);
            let help = "User and system CPU time";
            let descriptor =
                encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), metric.metric_type())?;
            metric.encode(descriptor)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_process_uses_is_measured_and_published() {
        let usage = usage();
        assert!(usage.resident_bytes.unwrap() > 1 << 20, "{usage:?}");
        assert!(usage.open_fds.unwrap() >= 3, "{usage:?}");
        assert!(usage.cpu_seconds.unwrap() > 0.0, "{usage:?}");
        let mut registry = Registry::with_prefix("fogbeat");
        register(&mut registry, 1_793_491_200_000);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "fogbeat_process_resident_memory_bytes ",
            "fogbeat_process_cpu_seconds_total ",
            "fogbeat_process_written_bytes_total ",
        ] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
        assert!(text.contains("fogbeat_process_start_time_seconds 1793491200.0"), "{text}");
    }
}
