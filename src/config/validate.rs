//! What serde cannot judge: ranges, combinations, and what would be unsafe. Pure; every problem is found in one pass.

use std::collections::HashSet;
use std::time::Duration;

use bytesize::ByteSize;

use super::check::{Check, HOUR, SECOND};
use super::problem::{Problem, nearest};
use super::timezone;
use super::validate_uplink;
use super::{
    Account, Clock, Config, Directory, External, Firehose, LEAST_GENERATIONS, LEAST_QUOTA, Listener, Tls,
    Uplink, UplinkKind,
};

pub(super) fn validate(config: &Config, problems: &mut Vec<Problem>) {
    let mut check = Check::new(problems);
    gateway(config, &mut check);
    if let Err(error) = crate::telemetry::filter(&config.log.level) {
        check.add("log.level", error.to_string(), "the default is \"info\"");
    }
    site(config, &mut check);
    clock(&config.clock, &mut check);
    listener(&config.mqtt.listener, &mut check);
    validate_uplink::members(config, &mut check);
    externals(&config.mqtt.externals, &mut check);
    replays(config, &mut check);
    journal(config, &mut check);
    http(config, &mut check);
    uplinks(config, &mut check);
    if let Some(credentials) = &config.aws.iot_credentials {
        validate_uplink::credentials(credentials, &mut check);
    }
    if let Some(path) = &config.privacy.key_file {
        check.absolute("privacy.key_file", path);
    }
    if let Some((what, remedy)) = Account::of(config).problem() {
        check.add("limits.memory", what, remedy);
    }
}

const DAY: Duration = Duration::from_secs(86_400);

fn gateway(config: &Config, check: &mut Check<'_>) {
    let gateway = &config.gateway;
    if let Some(id) = &gateway.id {
        check.name("gateway.id", id);
    }
    if let Some(site) = &gateway.site
        && (site.is_empty() || site.len() > 128 || site.chars().any(char::is_control))
    {
        check.add("gateway.site", format!("{site:?} cannot be a site"), "use 1 to 128 printable characters");
    }
    check.absolute("gateway.state_dir", &gateway.state_dir);
    check.duration("gateway.shutdown_grace", gateway.shutdown_grace, Duration::ZERO..=HOUR);
}

fn site(config: &Config, check: &mut Check<'_>) {
    let Some(zone) = &config.site.timezone else { return };
    match timezone::canonical(zone) {
        Some(name) if name == zone => {}
        Some(name) => {
            check.add("site.timezone", format!("{zone:?} is not how it is spelt"), format!("write {name:?}"))
        }
        None => {
            let near = nearest(zone, timezone::names());
            let near = near.map_or_else(String::new, |near| format!("did you mean {near:?}? "));
            let what = format!("{zone:?} is no time zone");
            let remedy = format!(
                "{near}Write a name as `timedatectl list-timezones` has them, such as \"Europe/Berlin\""
            );
            check.add("site.timezone", what, remedy);
        }
    }
}

fn clock(clock: &Clock, check: &mut Check<'_>) {
    check.duration("clock.patience", clock.patience, Duration::ZERO..=DAY);
    check.duration("clock.device_past", clock.device_past, Duration::ZERO..=36_500 * DAY);
    check.duration("clock.device_future", clock.device_future, Duration::ZERO..=36_500 * DAY);
}

fn listener(listener: &Listener, check: &mut Check<'_>) {
    if !listener.enabled {
        return;
    }
    // The encrypted port lets nobody in without a name, whatever this says.
    if listener.anonymous && !listener.bind.ip().is_loopback() {
        check.add(
            "mqtt.listener.anonymous",
            format!("true, but {} can be reached by others", listener.bind),
            "bind it to 127.0.0.1, or set anonymous = false and make users with `fogbeat device add NAME`",
        );
    }
    if let Some(tls) = &listener.tls {
        if tls.bind == listener.bind && tls.bind.port() != 0 {
            let what = format!("{} is taken by mqtt.listener.bind", tls.bind);
            check.add(
                "mqtt.listener.tls.bind",
                what,
                "give the encrypted port another number, 8883 by custom",
            );
        }
        pair(tls, check);
        match &tls.client_ca {
            Some(path) => check.absolute("mqtt.listener.tls.client_ca", path),
            None if tls.require_client_certificate => check.add(
                "mqtt.listener.tls.require_client_certificate",
                "true, but there is no CA to check certificates against",
                "set mqtt.listener.tls.client_ca",
            ),
            None => {}
        }
    }
    if listener.mdns && listener.reachable().next().is_none() {
        check.add(
            "mqtt.listener.mdns",
            "true, but no port can be reached by others",
            "set [mqtt.listener.tls] bind = \"0.0.0.0:8883\", or leave it out",
        );
    }
    let limits = &listener.limits;
    check.within("mqtt.listener.limits.connections", limits.connections, 1..=60_000);
    check.within("mqtt.listener.limits.connections_per_address", limits.share(), 1..=limits.connections);
    check.within("mqtt.listener.limits.new_per_second", limits.new_per_second, 1..=100_000);
    check.within("mqtt.listener.limits.reconnects_per_minute", limits.reconnects_per_minute, 1..=1_000_000);
    check.within(
        "mqtt.listener.limits.auth_failures_per_minute",
        limits.auth_failures_per_minute,
        1..=100_000,
    );
    check.within("mqtt.listener.limits.handshakes", limits.handshakes, 8..=10_000);
    check.within("mqtt.listener.limits.subscribers", limits.subscribers, 1..=10_000);
    check.within("mqtt.listener.limits.filters", limits.filters, 1..=10_000);
    check.within(
        "mqtt.listener.limits.packet_size",
        limits.packet_size,
        ByteSize::kib(1)..=ByteSize::mib(16),
    );
    check.within("mqtt.listener.limits.in_flight", limits.in_flight, 1..=65_535);
    check.duration("mqtt.listener.limits.handshake", limits.handshake, SECOND..=Duration::from_secs(300));
    check.within("mqtt.listener.limits.topics", limits.topics, 1..=1_000_000);
    check.within("mqtt.listener.limits.subscriptions", limits.subscriptions, 1..=10_000);
}

fn pair(tls: &Tls, check: &mut Check<'_>) {
    let own = "leave `certificate` and `key` out, and fogbeat makes its own";
    for (name, path, other) in
        [("certificate", &tls.certificate, &tls.key), ("key", &tls.key, &tls.certificate)]
    {
        let key = format!("mqtt.listener.tls.{name}");
        match path {
            Some(path) => check.absolute(&key, path),
            None if other.is_some() => check.add(key, "is missing", format!("add it, or {own}")),
            None => {}
        }
    }
}

fn externals(externals: &[External], check: &mut Check<'_>) {
    let mut names = HashSet::new();
    for (index, external) in externals.iter().enumerate() {
        let key = |field: &str| format!("mqtt.external[{index}].{field}");
        check.name(&key("name"), &external.name);
        if !names.insert(&external.name) {
            let what = format!("\"{}\" is taken by another external broker", external.name);
            check.add(key("name"), what, "give each its own name");
        }
        let address = external.url.strip_prefix("mqtt://").or_else(|| external.url.strip_prefix("mqtts://"));
        match address {
            None => {
                let what = format!("\"{}\" is not a broker's address", external.url);
                check.add(key("url"), what, "write mqtt://host:port or mqtts://host:port");
            }
            Some(address) if address.contains('@') => check.add(
                key("url"),
                "holds a user name or password",
                "use `username` and `password_file`: secrets are never in this file",
            ),
            Some("") => {
                check.add(key("url"), "has no host", "write mqtt://host:port or mqtts://host:port");
            }
            Some(_) => {}
        }
        if external.topics.is_empty() {
            check.add(key("topics"), "is empty", "name at least one topic filter, e.g. \"hr/#\"");
        }
        if external.password_file.is_some() && external.username.is_none() {
            check.add(key("password_file"), "is given without a user", "set `username` as well");
        }
    }
}

fn replays(config: &Config, check: &mut Check<'_>) {
    for (index, replay) in config.replay.iter().enumerate() {
        check.absolute(&format!("replay[{index}].path"), &replay.path);
        if let Some(device) = &replay.device {
            check.name(&format!("replay[{index}].device"), device);
        }
    }
}

fn journal(config: &Config, check: &mut Check<'_>) {
    let journal = &config.journal;
    check.duration("journal.commit_interval", journal.commit_interval, Duration::ZERO..=60 * SECOND);
    check.within("journal.generation_size", journal.generation_size, ByteSize::mib(1)..=ByteSize::gib(1));
    check.duration("journal.generation_age", journal.generation_age, SECOND..=366 * DAY);
    check.duration("journal.dedupe_window", journal.dedupe_window, Duration::ZERO..=DAY);
    check.within("journal.max_devices", journal.max_devices, 1..=1_000_000);
    let least = journal.generation_size.as_u64().saturating_mul(LEAST_GENERATIONS).max(LEAST_QUOTA);
    if let Some(quota) = journal.quota.filter(|quota| quota.as_u64() < least) {
        let what = format!("{quota} is not enough for generations of {}", journal.generation_size);
        let remedy = format!("choose at least {}, or a smaller journal.generation_size", ByteSize(least));
        check.add("journal.quota", what, remedy);
    }
    if let Some(path) = &journal.key_file {
        check.absolute("journal.key_file", path);
    }
    let batch = &config.batch;
    check.duration("batch.max_age", batch.max_age, Duration::from_millis(10)..=DAY);
    check.within("batch.max_bytes", batch.max_bytes, ByteSize::kib(4)..=ByteSize::mib(64));
}

fn http(config: &Config, check: &mut Check<'_>) {
    let http = &config.http;
    if !http.enabled {
        return;
    }
    if !http.bind.ip().is_loopback() && !http.allow_remote {
        check.add(
            "http.bind",
            format!("{} can be reached by others, and this port has no password", http.bind),
            "bind it to 127.0.0.1 (an ssh tunnel reaches it), or set http.allow_remote = true",
        );
    }
    let listener = &config.mqtt.listener;
    if listener.enabled && http.bind == listener.bind && http.bind.port() != 0 {
        let what = format!("{} is taken by mqtt.listener.bind", http.bind);
        check.add("http.bind", what, "choose another port");
    }
}

fn uplinks(config: &Config, check: &mut Check<'_>) {
    if !config.uplinks.is_empty() && !config.uplinks.iter().any(Uplink::carries_batches) {
        let remedy = "name one that does, such as kind = \"directory\": without it readings would go nowhere";
        check.add("uplink", "none of them carries batches", remedy);
    }
    let mut names = HashSet::new();
    let mut paths = HashSet::new();
    for (index, uplink) in config.uplinks.iter().enumerate() {
        let key = |field: &str| format!("uplink[{index}].{field}");
        check.name(&key("name"), uplink.name());
        if !names.insert(uplink.name()) {
            let what = format!("\"{}\" is taken by another uplink", uplink.name());
            check.add(key("name"), what, "give each uplink a `name` of its own (the default is its kind)");
        }
        match &uplink.kind {
            UplinkKind::Directory(directory) => {
                self::directory(directory, key, check);
                let path = directory.path_below(&config.gateway.state_dir);
                if paths.contains(&path) {
                    let what = format!("\"{}\" is the path of another uplink", path.display());
                    check.add(key("path"), what, "give each directory uplink a path of its own");
                }
                paths.insert(path);
            }
            UplinkKind::Firehose(firehose) => self::firehose(firehose, key, check),
            UplinkKind::IotCore(iot) => validate_uplink::iot_core(iot, uplink.encoding, key, check),
            UplinkKind::Mqtt(broker) => validate_uplink::broker(broker, uplink.encoding, key, check),
        }
    }
}

fn directory(directory: &Directory, key: impl Fn(&str) -> String, check: &mut Check<'_>) {
    if let Some(path) = &directory.path {
        check.absolute(&key("path"), path);
    }
    if let Some(max) = directory.max_bytes {
        check.within(&key("max_bytes"), max, ByteSize::mib(1)..=ByteSize::pib(1));
    }
    check.duration(&key("keep"), directory.keep, HOUR..=36_500 * DAY);
}

fn firehose(firehose: &Firehose, key: impl Fn(&str) -> String, check: &mut Check<'_>) {
    check.name(&key("stream"), &firehose.stream);
    if firehose.region.as_deref().is_some_and(str::is_empty) {
        check.add(
            key("region"),
            "is empty",
            "write it like \"eu-west-1\", or leave it out to use AWS_REGION",
        );
    }
    if let Some(url) = &firehose.endpoint_url
        && !(url.starts_with("http://") || url.starts_with("https://"))
    {
        let what = format!("\"{url}\" is not an address");
        check.add(
            key("endpoint_url"),
            what,
            "write it like \"http://127.0.0.1:5055\", or leave it out for AWS",
        );
    }
    if let Some(ca) = &firehose.ca {
        check.absolute(&key("ca"), ca);
    }
    check.duration(&key("timeout"), firehose.timeout, SECOND..=Duration::from_secs(600));
    validate_uplink::proxy(
        firehose.proxy.as_deref(),
        firehose.proxy_credentials_file.as_deref(),
        &key,
        check,
    );
}
