//! The encrypted port's certificate: read when its files change, without a restart, and renewed in time if it is one of
//! fogbeat's own.
//!
//! Promises: connections that are open go on; a pair that is of no use (half copied, not fitting) is told once and the one
//! before goes on serving; what cannot be renewed is told once a day.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::tls::{self, TlsError};
use crate::clock::Clock;
use crate::config;
use crate::net::{IdentityFiles, identity::Fingerprint, not_after};
use crate::site::{self, AuthorityError, Due, Files, Names};

/// How often the files, the clock and the gateway's addresses are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How many looks pass before what cannot be renewed is told again.
const TOLD_AGAIN: u32 = 17_280;

/// What `fogbeat status` shows of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Made and renewed by fogbeat.
    pub own: bool,
    /// RFC 3339; left out where it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
    /// Why what is in the files now is not used, or not renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// See the module's documentation.
pub(super) struct Keeper {
    place: Place,
    clock: Arc<dyn Clock>,
    /// Of the pair in use, or of the last one that was of no use.
    seen: Option<Fingerprint>,
    acceptor: Option<watch::Sender<TlsAcceptor>>,
    shown: watch::Sender<Certificate>,
    looks: u32,
}

/// What has to be known on a thread that may block.
#[derive(Clone)]
struct Place {
    settings: config::Tls,
    state_dir: PathBuf,
    announced: Option<String>,
}

impl Place {
    fn own(&self) -> bool {
        self.settings.is_own(&self.state_dir)
    }

    /// Makes a certificate of our own if it is due.
    fn renew(&self, wall_ms: i64) -> Result<Option<Due>, AuthorityError> {
        if !self.own() {
            return Ok(None);
        }
        let names = Names::of_machine(self.settings.bind, self.announced.as_deref());
        let now = OffsetDateTime::from_unix_timestamp(wall_ms.div_euclid(1000))
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        site::ensure(&Files::below(&self.state_dir), &names, now)
    }

    fn fingerprint(&self) -> Fingerprint {
        let pair = self.settings.pair(&self.state_dir);
        let ca = self.settings.client_ca.clone().unwrap_or_else(|| pair.0.clone());
        IdentityFiles { ca: Some(ca), pair: Some(pair) }.fingerprint()
    }

    fn read(&self) -> Result<(TlsAcceptor, Option<String>), TlsError> {
        let acceptor = tls::acceptor(&self.settings, &self.state_dir)?;
        let certificate = CertificateDer::from_pem_file(self.settings.pair(&self.state_dir).0).ok();
        let ends = certificate.as_ref().and_then(not_after).and_then(|end| end.format(&Rfc3339).ok());
        Ok((acceptor, ends))
    }
}

/// What one look found.
struct Look {
    renewed: Result<Option<Due>, AuthorityError>,
    fingerprint: Fingerprint,
    /// Read when the files are others than before.
    read: Option<Result<(TlsAcceptor, Option<String>), TlsError>>,
}

impl Keeper {
    pub(super) fn new(
        settings: &config::Tls,
        state_dir: &Path,
        announced: Option<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let place = Place { settings: settings.clone(), state_dir: state_dir.to_owned(), announced };
        let shown = watch::Sender::new(Certificate { own: place.own(), ..Certificate::default() });
        Self { place, clock, seen: None, acceptor: None, shown, looks: 0 }
    }

    /// The first look: without a pair that can be used there is no port.
    pub(super) async fn open(mut self) -> Result<(Self, watch::Receiver<TlsAcceptor>), TlsError> {
        let look = self.look().await;
        if let Some(Err(error)) = look.read {
            // Why there is no own certificate says more than that its file is missing.
            return Err(look.renewed.err().map_or(error, TlsError::Own));
        }
        self.told(&look.renewed);
        let Some(Ok((acceptor, ends))) = look.read else {
            return Err(TlsError::Settings("its files were not read".to_owned()));
        };
        self.seen = Some(look.fingerprint);
        self.shown.send_modify(|shown| shown.ends = ends);
        let (sender, receiver) = watch::channel(acceptor);
        self.acceptor = Some(sender);
        Ok((self, receiver))
    }

    pub(super) fn watch(&self) -> watch::Receiver<Certificate> {
        self.shown.subscribe()
    }

    /// Looks again and again; never ends by itself.
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            self.looks = self.looks.wrapping_add(1);
            let look = self.look().await;
            self.told(&look.renewed);
            let Some(read) = look.read else { continue };
            self.seen = Some(look.fingerprint);
            match read {
                Ok((acceptor, ends)) => {
                    tracing::info!(
                        ends = ends.as_deref().unwrap_or("?"),
                        "the listener has a new certificate"
                    );
                    self.acceptor.iter().for_each(|sender| drop(sender.send_replace(acceptor.clone())));
                    self.shown.send_modify(|shown| (shown.ends, shown.failure) = (ends, None));
                }
                Err(error) => {
                    tracing::warn!(
                        "the listener's new certificate is of no use, the one before is still used: {error}"
                    );
                    self.shown.send_modify(|shown| shown.failure = Some(error.to_string()));
                }
            }
        }
    }

    async fn look(&self) -> Look {
        let (place, seen, wall_ms) = (self.place.clone(), self.seen, self.clock.now().wall_ms);
        let look = move || {
            let renewed = place.renew(wall_ms);
            let fingerprint = place.fingerprint();
            let read = (seen != Some(fingerprint)).then(|| place.read());
            Look { renewed, fingerprint, read }
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(look) => look,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn told(&self, renewed: &Result<Option<Due>, AuthorityError>) {
        match renewed {
            Ok(None) => {}
            Ok(Some(why)) => tracing::info!(%why, "a certificate was made for the listener"),
            Err(error) => {
                let told = Some(error.to_string());
                if self.shown.borrow().failure != told || self.looks.is_multiple_of(TOLD_AGAIN) {
                    tracing::warn!("the listener's certificate is due and cannot be renewed: {error}");
                    self.shown.send_modify(|shown| shown.failure = told);
                }
            }
        }
    }
}
