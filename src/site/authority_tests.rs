use std::os::unix::fs::PermissionsExt;

use rustls::pki_types::UnixTime;

use super::*;

fn named(dns: &[&str]) -> Names {
    Names::new(dns.iter().map(|name| (*name).to_owned()).collect(), vec!["192.168.7.5".parse().unwrap()])
}

fn place() -> (tempfile::TempDir, Files) {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::below(dir.path());
    (dir, files)
}

/// Whether a device that trusts `ca.pem` takes the server's certificate at a time, seconds since 1970.
fn taken(files: &Files, at: u64) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate(&files.ca).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
    let server = certificate(&files.server).unwrap();
    let name = ServerName::try_from("gym-pi.local").unwrap();
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
    rustls::client::danger::ServerCertVerifier::verify_server_cert(&*verifier, &server, &[], &name, &[], at)
        .is_ok()
}

#[test]
fn a_certificate_is_made_once_and_good_for_clocks_that_were_never_set() {
    let (_dir, files) = place();
    let names = named(&["gym-pi", "gym-pi.local"]);
    let now = date_time_ymd(2026, 11, 30);
    assert_eq!(ensure(&files, &names, now).unwrap(), Some(Due::Missing));
    let first = Summary::read(&files, &names).unwrap();
    assert_eq!(first.names, ["gym-pi", "gym-pi.local", "192.168.7.5"]);
    assert_eq!(first.server_ends, "2029-03-04T00:00:00Z");
    assert_eq!(first.ca_sha256.len(), 95);
    for at in [10, u64::try_from(now.unix_timestamp()).unwrap()] {
        assert!(taken(&files, at), "{at}");
    }
    assert!(!taken(&files, 2_000_000_000), "2033");
    for file in [&files.ca_key, &files.server, &files.ca] {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    assert_eq!(ensure(&files, &names, now).unwrap(), None);
    assert_eq!(Summary::read(&files, &names).unwrap(), first);
}

/// Set up at 1970 as the clock said; the daemon's clock is never before its build, and then right.
#[test]
fn it_is_renewed_in_time_by_the_same_ca_whatever_the_clock_said_before() {
    let (_dir, files) = place();
    let names = named(&["gym-pi.local"]);
    ensure(&files, &names, date_time_ymd(1970, 1, 1)).unwrap();
    let first = Summary::read(&files, &names).unwrap();
    assert_eq!(first.server_ends, "1972-04-05T00:00:00Z");
    let now = date_time_ymd(2026, 11, 30);
    assert!(matches!(ensure(&files, &names, now).unwrap(), Some(Due::Ends(_))));
    let second = Summary::read(&files, &names).unwrap();
    assert_eq!(second.ca_sha256, first.ca_sha256, "devices have nothing to do");
    assert_ne!(second.server_sha256, first.server_sha256);
    assert!(taken(&files, u64::try_from(now.unix_timestamp()).unwrap()));
    assert_eq!(due(&files, &names, now + GOOD - RENEWED).unwrap(), None);
    let late = now + GOOD - RENEWED + Duration::days(1);
    assert!(matches!(due(&files, &names, late).unwrap(), Some(Due::Ends(_))));
    assert_eq!(due(&files, &names, date_time_ymd(1970, 1, 1)).unwrap(), None, "a clock that stepped back");
}

#[test]
fn another_name_or_address_makes_it_due() {
    let (_dir, files) = place();
    let now = date_time_ymd(2026, 11, 30);
    ensure(&files, &named(&["gym-pi.local"]), now).unwrap();
    assert_eq!(
        due(&files, &named(&["gym-pi.local", "desk"]), now).unwrap(),
        Some(Due::Name("desk".to_owned()))
    );
    let moved = Names::new(vec![], vec!["10.0.0.9".parse().unwrap()]);
    assert_eq!(ensure(&files, &moved, now).unwrap(), Some(Due::Name("10.0.0.9".to_owned())));
    assert_eq!(due(&files, &moved, now).unwrap(), None);
}

#[test]
fn what_is_damaged_is_made_anew_and_a_ca_is_never_replaced_by_itself() {
    let (_dir, files) = place();
    let (names, now) = (named(&["gym-pi.local"]), date_time_ymd(2026, 11, 30));
    ensure(&files, &names, now).unwrap();
    let ca = std::fs::read(&files.ca).unwrap();
    let whole = std::fs::read(&files.server).unwrap();
    for length in [0, 100, whole.len() - 50] {
        std::fs::write(&files.server, &whole[..length]).unwrap();
        assert_eq!(ensure(&files, &names, now).unwrap(), Some(Due::Missing), "{length}");
    }
    // The key of one pair, the certificate of another.
    let other = std::fs::read_to_string(&files.server).unwrap();
    let (whole, split) = (String::from_utf8(whole).unwrap(), "-----BEGIN CERTIFICATE");
    let mixed =
        format!("{}{split}{}", whole.split(split).next().unwrap(), other.split(split).nth(1).unwrap());
    std::fs::write(&files.server, mixed).unwrap();
    assert_eq!(ensure(&files, &names, now).unwrap(), Some(Due::Missing));
    assert_eq!(std::fs::read(&files.ca).unwrap(), ca);

    let key = std::fs::read(&files.ca_key).unwrap();
    std::fs::write(&files.ca_key, "no key").unwrap();
    assert!(matches!(renew(&files, &names, now), Err(AuthorityError::Damaged { .. })));
    std::fs::remove_file(&files.ca_key).unwrap();
    assert!(matches!(renew(&files, &names, now), Err(AuthorityError::NoKey(_))));
    assert_eq!(std::fs::read(&files.ca).unwrap(), ca);

    // The certificate follows from the key: old copies of it go on serving.
    let copy = files.ca.with_extension("copy");
    std::fs::rename(&files.ca, &copy).unwrap();
    std::fs::write(&files.ca_key, key).unwrap();
    ensure(&files, &names, now).unwrap();
    std::fs::rename(&copy, &files.ca).unwrap();
    assert!(taken(&files, u64::try_from(now.unix_timestamp()).unwrap()));
}
