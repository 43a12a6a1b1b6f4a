//! Whom the gateway runs as, and whether that user may read what the configuration names. Secrets that others can read
//! are told as well.

use std::path::{Path, PathBuf};

use super::Finding;
use super::permit::{self, Mode, Obstacle, SERVICE_USER, Want, Who};
use super::scene::{Daemon, Scene};
use crate::config::{Config, UplinkKind};

const NAME: &str = "user";

pub fn findings(scene: &Scene) -> Vec<Finding> {
    let me = Who::of(rustix::process::geteuid().as_raw());
    let who = &scene.who;
    let mut found = files(&scene.config, who);
    if scene.file.exists() {
        found.extend(judge("the configuration", &scene.file, false, who));
    }
    if let Some(stranger) = foreign(scene.state_dir(), who) {
        let reason = format!("{} belongs to another user than {}", stranger.display(), who.name);
        let next = format!("`chown -R {0}: {1}`", who.name, scene.state_dir().display());
        found.push(Finding::error(NAME, reason, next));
    }
    if me.uid != 0 && me.uid != who.uid && matches!(scene.daemon, Daemon::Unknown(_) | Daemon::Dead(Err(_))) {
        let listed = permit::group(SERVICE_USER).is_some_and(|gid| me.gids.contains(&gid));
        let next = match listed {
            true => "try it with sudo".to_owned(),
            false => {
                format!("try it with sudo; `usermod -aG {SERVICE_USER} {}` lets you ask the gateway", me.name)
            }
        };
        let reason =
            format!("{} may not look into {}: some checks are skipped", me.name, scene.state_dir().display());
        found.push(Finding::skipped(NAME, reason).next(next));
    }
    if found.is_empty() {
        let asks = if me.uid == who.uid { String::new() } else { format!("; {} asks", me.name) };
        found.push(Finding::ok(
            NAME,
            format!("the gateway's user is {}, and may read what it needs{asks}", who.name),
        ));
    }
    found
}

/// Something in the state directory that the gateway's user cannot have made.
fn foreign(state_dir: &Path, who: &Who) -> Option<PathBuf> {
    if who.uid == 0 {
        return None;
    }
    let entries = std::fs::read_dir(state_dir).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(state_dir.to_owned())
        .chain(entries)
        // The lock is ours for as long as we look; the other one is the file system's own.
        .filter(|path| path.file_name().is_none_or(|name| name != "lock" && name != "lost+found"))
        .find(|path| Mode::of(path).is_ok_and(|mode| mode.uid != who.uid))
}

/// Files that the configuration names, with the key that does, and whether they are secret.
fn named(config: &Config) -> Vec<(String, PathBuf, bool)> {
    let mut files = Vec::new();
    let mut add = |key: &str, path: &Option<PathBuf>, secret| {
        files.extend(path.clone().map(|path| (key.to_owned(), path, secret)));
    };
    add("journal.key_file", &config.journal.key_file, true);
    if let Some(tls) = config.mqtt.listener.tls.as_ref().filter(|tls| tls.is_given(&config.gateway.state_dir))
    {
        add("mqtt.listener.tls.certificate", &tls.certificate, false);
        add("mqtt.listener.tls.key", &tls.key, true);
        add("mqtt.listener.tls.client_ca", &tls.client_ca, false);
    }
    for (at, broker) in config.mqtt.externals.iter().enumerate() {
        add(&format!("mqtt.external[{at}].password_file"), &broker.password_file, true);
        add(&format!("mqtt.external[{at}].ca"), &broker.ca, false);
    }
    for (at, uplink) in config.uplinks.iter().enumerate() {
        let key = |name: &str| format!("uplink[{at}].{name}");
        match &uplink.kind {
            UplinkKind::Directory(_) => {}
            UplinkKind::Firehose(firehose) => {
                add(&key("proxy_credentials_file"), &firehose.proxy_credentials_file, true);
            }
            UplinkKind::IotCore(iot) => {
                add(&key("proxy_credentials_file"), &iot.proxy_credentials_file, true);
                add(&key("ca"), &iot.ca, false);
                add(&key("certificate"), &iot.certificate, false);
                add(&key("key"), &iot.key, true);
            }
            UplinkKind::Mqtt(broker) => {
                add(&key("proxy_credentials_file"), &broker.proxy_credentials_file, true);
                add(&key("password_file"), &broker.password_file, true);
                add(&key("ca"), &broker.ca, false);
                add(&key("certificate"), &broker.certificate, false);
                add(&key("key"), &broker.key, true);
            }
        }
    }
    if let Some(credentials) = &config.aws.iot_credentials {
        add("aws.iot_credentials.proxy_credentials_file", &credentials.proxy_credentials_file, true);
        add("aws.iot_credentials.ca", &credentials.ca, false);
    }
    files
}

fn files(config: &Config, who: &Who) -> Vec<Finding> {
    named(config).into_iter().flat_map(|(key, path, secret)| judge(&key, &path, secret, who)).collect()
}

fn judge(key: &str, path: &Path, secret: bool, who: &Who) -> Option<Finding> {
    // Given by systemd to the service alone.
    if path.starts_with("/run/credentials") {
        return None;
    }
    let shown = path.display();
    match who.reach(path, Want::Read) {
        Err(Obstacle::Missing) if key == "journal.key_file" => {
            None // The first start makes it.
        }
        Err(Obstacle::Missing) => {
            let next = "put it there; `fogbeat enroll` makes certificates for AWS";
            Some(Finding::error(NAME, format!("{key}: there is no {shown}"), next))
        }
        Err(Obstacle::Denied(at)) => {
            let reason = format!("{key}: {} may not read {shown}, because of {}", who.name, at.display());
            let next = format!(
                "`chown {} {shown} && chmod 600 {shown}`, or let it through the directories",
                who.name
            );
            Some(Finding::error(NAME, reason, next))
        }
        Err(Obstacle::Hidden) => None,
        Ok(()) => {
            let open = secret && Mode::of(path).is_ok_and(|mode| mode.bits & 0o004 != 0);
            let reason = format!("{key}: everybody on this machine may read the secret {shown}");
            open.then(|| Finding::warning(NAME, reason, format!("`chmod 600 {shown}`")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn files_the_gateway_cannot_read_and_secrets_that_all_can() {
        let dir = tempfile::tempdir().unwrap();
        let set = |path: &Path, bits| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).unwrap();
        };
        set(dir.path(), 0o755);
        let key = dir.path().join("key");
        std::fs::write(&key, "").unwrap();
        let stranger = Who { uid: 4_000_000, name: "x".into(), gids: vec![] };
        let verdict = |bits, secret| {
            set(&key, bits);
            judge("uplink[0].key", &key, secret, &stranger).map(|finding| finding.verdict)
        };
        assert_eq!(verdict(0o600, true), Some(Verdict::Error));
        assert_eq!(verdict(0o644, true), Some(Verdict::Warning));
        assert_eq!(verdict(0o644, false), None);
        let none = dir.path().join("none");
        assert_eq!(judge("k", &none, true, &stranger).unwrap().verdict, Verdict::Error);
        assert_eq!(judge("journal.key_file", &none, true, &stranger), None);
        assert_eq!(judge("k", Path::new("/run/credentials/fogbeat.service/x"), true, &stranger), None);
    }

    #[test]
    fn every_file_of_a_configuration_is_looked_at() {
        let text = r#"
[limits]
memory = "512MiB"
[journal]
key_file = "/k"
[mqtt.listener.tls]
bind = "127.0.0.1:8883"
certificate = "/c"
key = "/p"
[[uplink]]
kind = "iot_core"
endpoint = "x"
rule = "r"
[[uplink]]
kind = "mqtt"
url = "mqtt://x"
username = "u"
password_file = "/w"
"#;
        let config = crate::config::from_toml(text).unwrap();
        let keys: Vec<String> = named(&config).into_iter().map(|(key, ..)| key).collect();
        assert_eq!(
            keys,
            [
                "journal.key_file",
                "mqtt.listener.tls.certificate",
                "mqtt.listener.tls.key",
                "uplink[0].certificate",
                "uplink[0].key",
                "uplink[1].password_file"
            ]
        );
    }
}
