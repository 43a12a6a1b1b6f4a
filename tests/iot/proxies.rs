//! Out of a network that lets nothing out but through a proxy, which also looks names up.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::broker::{Ear, Mosquitto, Rules};
use crate::pki::Pki;
use crate::proxy::{Kind, LOGIN, Proxy};
use crate::site::{Strap, account, eventually, uplink};
use crate::support::daemon::Setup;

fn gets_out(kind: Kind) {
    let root = tempfile::tempdir().unwrap();
    let pki = Pki::new(root.path(), "ca");
    let server = pki.issue("server", "broker", &["far.test"], 2090);
    let gateway = pki.issue("gateway", "proof", &[], 2090);
    let broker = Mosquitto::start(root.path(), &pki, &server, &Rules { access: None });
    let ear = Ear::listen(broker.plain, "$aws/rules/#");
    let proxy = Proxy::start(kind);
    let secret = root.path().join("secret");
    std::fs::write(&secret, "gateway:wrong\n").unwrap();
    let mut setup = Setup::new(root.path());
    setup.max_age = "50ms".into();
    setup.extra = format!(
        "[[uplink]]\nkind = \"iot_core\"\nendpoint = \"far.test\"\nport = {}\nrule = \"fogbeat\"\ntimeout = \"5s\"\n\
         certificate = {:?}\nkey = {:?}\nca = {:?}\nproxy = \"{}\"\nproxy_credentials_file = {secret:?}\n",
        broker.tls.port(),
        gateway.certificate,
        gateway.key,
        pki.ca,
        proxy.url(kind),
    );
    let daemon = setup.start();
    let mut strap = Strap::connect(setup.mqtt, "strap");
    strap.beats(30);
    let failure = || uplink(&setup, "iot_core")["failure"].clone();
    eventually("the wrong password is told", Duration::from_secs(20), || failure()["cause"] == "proxy");
    let told = failure();
    assert!(told["message"].as_str().unwrap().contains("the proxy"), "{told}");
    assert!(told["remedy"].as_str().unwrap().contains("credentials"), "{told}");
    assert!(!setup.log_tail().contains("wrong"), "a secret in the log");
    std::fs::write(&secret, format!("{LOGIN}\n")).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    eventually("everything arrives", Duration::from_secs(30), || {
        uplink(&setup, "iot_core")["queued_readings"] == 0
    });
    assert_eq!(proxy.passed.load(Ordering::Relaxed), 1);
    assert!(proxy.refused.load(Ordering::Relaxed) > 0);
    assert!(daemon.terminate(Duration::from_secs(20)).success());
    assert_eq!(account(&ear.heard()).0.readings.len(), 30);
}

#[test]
fn through_http_connect() {
    gets_out(Kind::Http);
}

#[test]
fn through_socks5() {
    gets_out(Kind::Socks5);
}
