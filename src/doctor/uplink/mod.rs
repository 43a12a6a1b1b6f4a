//! One check for each uplink: what the running gateway says of it; where that says little, or no gateway runs, a dry run
//! of our own, which asks and delivers nothing.

mod directory;
mod firehose;
mod mqtt;

use std::future::Future;
use std::time::Duration;

use serde_json::Value;

use super::network::Reach;
use super::scene::Scene;
use super::{Check, Finding};
use crate::config::{Uplink, UplinkKind};
use crate::forward::{Failure, Origin};
use crate::reading::validity::DeviceTimeWindow;
use crate::state;

/// Longest dry run, name, TLS and answer together.
const LIMIT: Duration = Duration::from_secs(15);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The uplinks' checks.
pub fn checks(scene: &Scene) -> Vec<Check> {
    let one = |uplink: &Uplink| -> Check {
        let (name, uplink) = (format!("uplink {}", uplink.name()), uplink.clone());
        let check = name.clone();
        (name, Box::new(move |scene: &Scene| vec![finding(scene, &check, &uplink)]))
    };
    scene.config.uplinks.iter().map(one).collect()
}

fn finding(scene: &Scene, check: &str, uplink: &Uplink) -> Finding {
    let told = told(scene, uplink.name());
    if let Some(finding) = told.and_then(|status| judge(check, status)) {
        return finding;
    }
    match &uplink.kind {
        UplinkKind::Directory(lake) => directory::finding(scene, check, lake),
        UplinkKind::Firehose(_) | UplinkKind::IotCore(_) | UplinkKind::Mqtt(_) if scene.offline => {
            Finding::skipped(check, "was not asked (--offline)")
        }
        UplinkKind::Firehose(firehose) => firehose::finding(scene, check, firehose),
        UplinkKind::IotCore(iot) => mqtt::finding(scene, check, mqtt::iot_core(scene, uplink.name(), iot)),
        UplinkKind::Mqtt(broker) => mqtt::finding(scene, check, mqtt::broker(scene, uplink.name(), broker)),
    }
}

/// The uplink in the running gateway's status.
fn told<'a>(scene: &'a Scene, name: &str) -> Option<&'a Value> {
    let uplinks = scene.told("/uplinks")?.as_array()?;
    uplinks.iter().find(|uplink| uplink.get("name").and_then(Value::as_str) == Some(name))
}

/// What the running gateway says; `None`: it has not needed the uplink yet.
fn judge(check: &str, status: &Value) -> Option<Finding> {
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str);
    let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64);
    let time = |seconds: u64| humantime::format_duration(Duration::from_secs(seconds)).to_string();
    let queued = number("/queued_readings").unwrap_or(0);
    if let Some(message) = text("/failure/message") {
        let since = time(number("/failing_s").unwrap_or(0));
        let reason = format!("takes nothing since {since}, {queued} readings wait on disk: {message}");
        let next = text("/failure/remedy").unwrap_or("it is tried again by itself");
        return Some(match text("/state") {
            Some("stuck") => Finding::error(check, reason, next),
            _ => Finding::warning(check, reason, next),
        });
    }
    let connected = status.pointer("/link/connected").and_then(Value::as_bool) == Some(true);
    let confirmed = number("/confirmed_s").map(|ago| format!("confirmed a batch {} ago", time(ago)));
    let state = match (connected, confirmed) {
        (true, Some(confirmed)) => format!("is connected, and {confirmed}"),
        (true, None) => "is connected".to_owned(),
        (false, Some(confirmed)) => confirmed,
        (false, None) => return None,
    };
    let slowed = status.pointer("/link/slowed").and_then(Value::as_bool) == Some(true);
    let reason = format!("{state}; {queued} readings to go");
    Some(match slowed {
        true => Finding::warning(
            check,
            format!("{reason}; the service says that a quota is exceeded"),
            "raise the quota of the account",
        ),
        false => Finding::ok(check, reason),
    })
}

/// What a dry run of ours came to.
fn outcome(check: &str, tried: Result<String, Failure>) -> Finding {
    match tried {
        Ok(reason) => Finding::ok(check, reason),
        Err(Failure { message, remedy, .. }) => Finding::error(
            check,
            message,
            remedy.unwrap_or_else(|| "it may mend itself: ask again".to_owned()),
        ),
    }
}

/// Why it is not worth trying to reach `host`, if so.
fn unreachable(check: &str, host: &str, proxy: Option<&str>) -> Option<Finding> {
    let first = match proxy.and_then(crate::config::Proxy::parse) {
        Some(crate::config::Proxy::Http { host, .. } | crate::config::Proxy::Socks5 { host, .. }) => host,
        None => host.to_owned(),
    };
    Reach::now().obstacle(&first).map(|why| Finding::skipped(check, why))
}

/// Runs a dry run to its end, or for [`LIMIT`].
fn within<T>(scene: &Scene, run: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let limit = scene.left(LIMIT);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new("local", error.to_string()))?;
    let result = runtime.block_on(async {
        tokio::time::timeout(limit, run).await.unwrap_or_else(|_| {
            Err(Failure::new("timeout", format!("there was no answer within {} s", limit.as_secs()))
                .remedy("check the address, and what the firewall lets out"))
        })
    });
    // A look-up of a name cannot be called off.
    runtime.shutdown_background();
    result
}

/// Who the gateway is towards others.
fn origin(scene: &Scene) -> Origin {
    let told = scene.told("/gateway").and_then(Value::as_str).map(str::to_owned);
    let known =
        told.or_else(|| scene.config.gateway.id.clone()).or_else(|| state::known_id(scene.state_dir()));
    Origin {
        gateway: known.unwrap_or_else(|| "fogbeat-doctor".to_owned()),
        site: None,
        state_dir: scene.state_dir().to_owned(),
        pseudonyms: None,
        window: DeviceTimeWindow::default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_running_gateways_word_counts() {
        let verdict = |status: Value| judge("uplink x", &status).map(|finding| finding.verdict);
        assert_eq!(verdict(json!({ "state": "idle", "queued_readings": 0 })), None);
        assert_eq!(verdict(json!({ "state": "idle", "confirmed_s": 4 })), Some(Verdict::Ok));
        assert_eq!(verdict(json!({ "state": "idle", "link": { "connected": true } })), Some(Verdict::Ok));
        assert_eq!(
            verdict(json!({ "state": "idle", "link": { "connected": true, "slowed": true } })),
            Some(Verdict::Warning)
        );
        let failure = json!({ "message": "no", "remedy": "do" });
        assert_eq!(verdict(json!({ "state": "retrying", "failure": failure })), Some(Verdict::Warning));
        let stuck =
            judge("uplink x", &json!({ "state": "stuck", "failing_s": 61, "failure": failure })).unwrap();
        assert_eq!((stuck.verdict, stuck.next.as_deref()), (Verdict::Error, Some("do")));
        assert!(stuck.reason.contains("since 1m 1s"), "{stuck:?}");
    }
}
