//! What can be wrong with uplinks that speak MQTT, and with the credentials that the gateway's certificate gives.

use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;

use super::address::{Proxy, host_and_port};
use super::check::{Check, HOUR, SECOND};
use super::{Broker, Config, Encoding, IotCore, IotCredentials, Live};

/// AWS IoT Core quotas: 256 bytes of topic, 7 slashes; 128 bytes of client id.
const TOPIC_BYTES: usize = 256;
const TOPIC_SLASHES: usize = 7;
const CLIENT_ID_BYTES: usize = 128;
const LONGEST_TIMEOUT: Duration = Duration::from_secs(600);

pub(super) fn iot_core(
    iot: &IotCore,
    encoding: Encoding,
    key: impl Fn(&str) -> String,
    check: &mut Check<'_>,
) {
    host(&key("endpoint"), &iot.endpoint, check);
    check.within(&key("port"), iot.port, 1..=u16::MAX);
    if let Some(thing) = &iot.thing {
        client_id(&key("thing"), thing, check);
    }
    let beside = "add [uplink.live] or shadow = true, or let batches go this way";
    without_batches(iot.batches, iot.live.is_some() || iot.shadow, beside, &key, check);
    match (&iot.rule, &iot.topic) {
        (None, None) if !iot.batches => {}
        (Some(_), _) if !iot.batches => of_no_use(&key("rule"), check),
        (None, Some(_)) if !iot.batches => of_no_use(&key("topic"), check),
        (Some(rule), None) => rule_name(&key("rule"), rule, check),
        (None, Some(topic)) => {
            topic_name(&key("topic"), topic, &["gateway", "thing"], check);
            let slashes = topic.matches('/').count();
            if slashes > TOPIC_SLASHES && !topic.starts_with("$aws/rules/") {
                let what = format!("has {slashes} slashes, AWS IoT takes {TOPIC_SLASHES}");
                check.add(key("topic"), what, "use fewer levels");
            }
        }
        (None, None) => {
            let remedy =
                "name the rule that takes the batches (Basic Ingest), or a `topic`; or set batches = false";
            check.add(key("rule"), "is missing", remedy);
        }
        (Some(_), Some(_)) => {
            check.add(key("topic"), "is given beside `rule`", "keep one of them: they say the same");
        }
    }
    pair(iot.certificate.as_deref(), iot.key.as_deref(), &key, check);
    paths([("certificate", &iot.certificate), ("key", &iot.key), ("ca", &iot.ca)], &key, check);
    common(encoding, iot.timeout, iot.live.as_ref(), &key, check);
    proxy(iot.proxy.as_deref(), iot.proxy_credentials_file.as_deref(), &key, check);
}

pub(super) fn broker(
    broker: &Broker,
    encoding: Encoding,
    key: impl Fn(&str) -> String,
    check: &mut Check<'_>,
) {
    let secure = match broker.url.split_once("://") {
        Some(("mqtt", address)) => Some((false, address)),
        Some(("mqtts", address)) => Some((true, address)),
        _ => None,
    };
    match secure {
        Some((_, address)) if address.contains('@') => check.add(
            key("url"),
            "holds a user name or password",
            "use `username` and `password_file`: secrets are never in this file",
        ),
        Some((_, address)) if host_and_port(address, 1883).is_some() => {}
        _ => {
            let what = format!("\"{}\" is not a broker's address", broker.url);
            check.add(key("url"), what, "write mqtt://host:port or mqtts://host:port");
        }
    }
    if let (Some((false, _)), Some(_)) = (secure, &broker.certificate) {
        check.add(key("certificate"), "is given, but the url is not encrypted", "write mqtts:// in `url`");
    }
    if let Some(id) = &broker.client_id {
        client_id(&key("client_id"), id, check);
    }
    let beside = "add [uplink.live], or let batches go this way";
    without_batches(broker.batches, broker.live.is_some(), beside, &key, check);
    if broker.topic.is_some() && !broker.batches {
        of_no_use(&key("topic"), check);
    }
    if let Some(topic) = &broker.topic {
        topic_name(&key("topic"), topic, &["gateway"], check);
    }
    if broker.password_file.is_some() && broker.username.is_none() {
        check.add(key("password_file"), "is given without a user", "set `username` as well");
    }
    pair(broker.certificate.as_deref(), broker.key.as_deref(), &key, check);
    let files = [
        ("password_file", &broker.password_file),
        ("certificate", &broker.certificate),
        ("key", &broker.key),
        ("ca", &broker.ca),
    ];
    paths(files, &key, check);
    check.within(&key("max_member"), broker.max_member, ByteSize::kib(1)..=ByteSize::mib(16));
    if let Some(rate) = broker.publishes_per_second {
        check.within(&key("publishes_per_second"), rate, 1..=100_000);
    }
    if let Some(rate) = broker.bytes_per_second {
        check.within(&key("bytes_per_second"), rate, ByteSize::kib(1)..=ByteSize::gib(1));
    }
    common(encoding, broker.timeout, broker.live.as_ref(), &key, check);
    proxy(broker.proxy.as_deref(), broker.proxy_credentials_file.as_deref(), &key, check);
}

/// `mqtt.listener.members`: what other gateways hand in leaves as it came.
pub(super) fn members(config: &Config, check: &mut Check<'_>) {
    let Some(most) = config.mqtt.listener.members else { return };
    let key = "mqtt.listener.members";
    check.within(key, most, ByteSize::mib(1)..=ByteSize::pib(1));
    if config.journal.key_file.is_some() {
        let remedy = "leave out journal.key_file, and use an encrypted file system";
        check.add(key, "batches of other gateways are not encrypted, the journal is to be", remedy);
    }
    for (index, uplink) in config.uplinks.iter().enumerate() {
        if uplink.pseudonyms.unwrap_or(config.privacy.pseudonyms) {
            let remedy = "set privacy.pseudonyms on the gateways that send them, and not here";
            check.add(format!("uplink[{index}].pseudonyms"), "names in other gateways' batches stay", remedy);
        }
        if uplink.encoding != Encoding::Gzip {
            let remedy = "leave it at \"gzip\" where mqtt.listener.members is set";
            check.add(format!("uplink[{index}].encoding"), "other gateways' batches are gzip", remedy);
        }
    }
}

/// `[aws.iot_credentials]`
pub(super) fn credentials(credentials: &IotCredentials, check: &mut Check<'_>) {
    let key = |field: &str| format!("aws.iot_credentials.{field}");
    host(&key("endpoint"), &credentials.endpoint, check);
    let alias = &credentials.role_alias;
    let fits = |c: char| c.is_ascii_alphanumeric() || "_=,@-".contains(c);
    if alias.is_empty() || alias.len() > 128 || !alias.chars().all(fits) {
        let what = format!("\"{alias}\" cannot be a role alias");
        check.add(key("role_alias"), what, "use 1 to 128 letters, digits and _=,@-");
    }
    if let Some(thing) = &credentials.thing {
        client_id(&key("thing"), thing, check);
    }
    pair(credentials.certificate.as_deref(), credentials.key.as_deref(), &key, check);
    let files =
        [("certificate", &credentials.certificate), ("key", &credentials.key), ("ca", &credentials.ca)];
    paths(files, &key, check);
    proxy(credentials.proxy.as_deref(), credentials.proxy_credentials_file.as_deref(), &key, check);
}

pub(super) fn proxy(
    proxy: Option<&str>,
    credentials: Option<&Path>,
    key: &impl Fn(&str) -> String,
    check: &mut Check<'_>,
) {
    if let Some(path) = credentials {
        check.absolute(&key("proxy_credentials_file"), path);
        if proxy.is_none() {
            check.add(key("proxy_credentials_file"), "is given without a proxy", "set `proxy` as well");
        }
    }
    let Some(proxy) = proxy else { return };
    if proxy.contains('@') {
        let remedy = "use `proxy_credentials_file`: secrets are never in this file";
        check.add(key("proxy"), "holds a user name or password", remedy);
    } else if Proxy::parse(proxy).is_none() {
        let remedy = "write http://host:port or socks5://host:port";
        check.add(key("proxy"), format!("\"{proxy}\" is not a proxy's address"), remedy);
    }
}

/// An uplink without batches has to have something else.
fn without_batches(
    batches: bool,
    beside: bool,
    remedy: &str,
    key: &impl Fn(&str) -> String,
    check: &mut Check<'_>,
) {
    if !batches && !beside {
        check.add(key("batches"), "is false, and nothing else goes this way", remedy);
    }
}

fn of_no_use(key: &str, check: &mut Check<'_>) {
    check.add(key, "is given beside batches = false", "leave it out: no batch goes there");
}

fn common(
    encoding: Encoding,
    timeout: Duration,
    live: Option<&Live>,
    key: &impl Fn(&str) -> String,
    check: &mut Check<'_>,
) {
    if encoding == Encoding::Zstd {
        let remedy = "choose \"gzip\": what takes members from a broker knows gzip";
        check.add(key("encoding"), "\"zstd\" is not for MQTT", remedy);
    }
    check.duration(&key("timeout"), timeout, SECOND..=LONGEST_TIMEOUT);
    if let Some(live) = live {
        check.duration(&key("live.interval"), live.interval, SECOND..=HOUR);
        if let Some(topic) = &live.topic {
            topic_name(&key("live.topic"), topic, &["gateway", "device", "thing"], check);
        }
    }
}

fn pair(
    certificate: Option<&Path>,
    key_file: Option<&Path>,
    key: &impl Fn(&str) -> String,
    check: &mut Check<'_>,
) {
    match (certificate, key_file) {
        (Some(_), None) => check.add(key("key"), "is missing", "a certificate is of no use without its key"),
        (None, Some(_)) => {
            check.add(key("certificate"), "is missing", "a key is of no use without its certificate");
        }
        _ => {}
    }
}

fn paths<const N: usize>(
    paths: [(&str, &Option<std::path::PathBuf>); N],
    key: &impl Fn(&str) -> String,
    check: &mut Check<'_>,
) {
    for (field, path) in paths {
        if let Some(path) = path {
            check.absolute(&key(field), path);
        }
    }
}

fn host(key: &str, host: &str, check: &mut Check<'_>) {
    if host.contains('/') || host_and_port(host, 443).is_none() {
        let remedy = "write the host name alone, like \"abc123-ats.iot.eu-west-1.amazonaws.com\"";
        check.add(key, format!("\"{host}\" is not a host name"), remedy);
    }
}

fn client_id(key: &str, id: &str, check: &mut Check<'_>) {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_:.".contains(c);
    if id.is_empty() || id.len() > CLIENT_ID_BYTES || !id.chars().all(fits) {
        let remedy = "use 1 to 128 letters, digits and -_:.";
        check.add(key, format!("\"{id}\" cannot be a thing's name or client id"), remedy);
    }
}

fn rule_name(key: &str, rule: &str, check: &mut Check<'_>) {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if rule.is_empty() || rule.len() > 128 || !rule.chars().all(fits) {
        check.add(key, format!("\"{rule}\" cannot be a rule's name"), "use 1 to 128 letters, digits and _");
    }
}

/// A topic that can be published to, with placeholders out of `known`.
fn topic_name(key: &str, topic: &str, known: &[&str], check: &mut Check<'_>) {
    if topic.is_empty() || topic.len() > TOPIC_BYTES || topic.contains(['+', '#']) || topic.contains('\0') {
        let remedy = format!("use 1 to {TOPIC_BYTES} bytes without + and #");
        check.add(key, format!("\"{topic}\" cannot be published to"), remedy);
    }
    let mut rest = topic;
    while let Some((_, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        if !known.contains(&name) {
            let remedy = format!("known here: {{{}}}", known.join("}, {"));
            check.add(key, format!("\"{{{name}}}\" is not known"), remedy);
        }
        rest = after;
    }
}
