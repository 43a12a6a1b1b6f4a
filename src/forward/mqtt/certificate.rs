//! Which certificate is used, and when its end is worth a warning.
//!
//! Files that change are tried at the next connection; what was used before stays until the new one has connected once.
//! One that the other side refuses is not tried again until the files change once more.

use time::OffsetDateTime;

use super::Settings;
use super::status::Board;
use crate::clock::{Stamp, WallQuality};
use crate::forward::verdict::{self, Verdict};
use crate::net::identity::Fingerprint;
use crate::net::{Identity, IdentityError, IdentityFiles};

/// Days before the end at which a warning is worth it.
const WARNINGS: [i64; 3] = [3, 14, 30];

/// What is tried for a connection.
pub(super) struct Trial {
    pub(super) identity: Identity,
    /// It has never connected, while another one has.
    pub(super) candidate: bool,
}

#[derive(Default)]
pub(super) struct Certificates {
    proven: Option<Identity>,
    /// Files that the other side, or TLS, has refused, and why.
    refused: Option<(Fingerprint, String)>,
    /// The lowest of [`WARNINGS`] that was told for the present certificate.
    warned: Option<i64>,
}

impl Certificates {
    /// What to connect with.
    pub(super) async fn trial(&mut self, settings: &Settings) -> Result<Trial, Verdict> {
        let fingerprint = fingerprint(&settings.files).await;
        if let Some(proven) = &self.proven
            && (proven.fingerprint == fingerprint || self.is_refused(fingerprint))
        {
            return Ok(Trial { identity: proven.clone(), candidate: false });
        }
        match (read(&settings.files, settings.alpn).await, &self.proven) {
            (Ok(identity), proven) => Ok(Trial { identity, candidate: proven.is_some() }),
            (Err(error), None) => Err(verdict::identity(&error)),
            (Err(error), Some(proven)) => {
                let identity = proven.clone();
                self.refuse(fingerprint, error.to_string(), settings);
                Ok(Trial { identity, candidate: false })
            }
        }
    }

    /// The broker has accepted a connection with it.
    pub(super) fn proven(&mut self, trial: Trial, settings: &Settings) {
        if trial.candidate {
            tracing::info!(uplink = %settings.name, "the new certificate is in use");
        }
        if self.proven.as_ref().is_none_or(|proven| proven.fingerprint != trial.identity.fingerprint) {
            self.warned = None;
        }
        self.refused = None;
        self.proven = Some(trial.identity);
    }

    /// A candidate did not get a connection; the proven one is used again.
    pub(super) fn refuse(&mut self, fingerprint: Fingerprint, why: String, settings: &Settings) {
        tracing::warn!(uplink = %settings.name,
            "the new certificate is of no use, the one before is still used: {why}; put a good one there");
        self.refused = Some((fingerprint, why));
    }

    /// Whether there is something new to be tried.
    pub(super) async fn changed(&self, settings: &Settings) -> bool {
        let Some(proven) = &self.proven else { return false };
        let fingerprint = fingerprint(&settings.files).await;
        proven.fingerprint != fingerprint && !self.is_refused(fingerprint)
    }

    fn is_refused(&self, fingerprint: Fingerprint) -> bool {
        self.refused.as_ref().is_some_and(|(refused, _)| *refused == fingerprint)
    }

    /// When the certificate ends that was used last.
    pub(super) fn expires(&self) -> Option<OffsetDateTime> {
        self.proven.as_ref().and_then(|proven| proven.expires)
    }

    /// Shows how long the certificate lasts; warns at each of [`WARNINGS`] once, if the clock is worth believing.
    pub(super) fn watch(&mut self, trial: Option<&Trial>, now: Stamp, board: &Board, settings: &Settings) {
        let expires = trial.map_or_else(|| self.expires(), |trial| trial.identity.expires);
        let left = expires.map_or(0, |expires| days_left(expires, now.wall_ms));
        board.certificate(expires, left, self.refused.as_ref().map(|(_, why)| why.as_str()));
        if expires.is_none() || now.quality != WallQuality::Synced {
            return;
        }
        if let Some(due) = warning_due(left, self.warned) {
            self.warned = Some(due);
            tracing::warn!(uplink = %settings.name, days_left = left,
                "the gateway's certificate ends soon: put a new certificate and key in the place of the old ones");
        }
    }
}

fn days_left(expires: OffsetDateTime, wall_ms: i64) -> i64 {
    (expires.unix_timestamp() - wall_ms.div_euclid(1000)).div_euclid(86_400)
}

/// The lowest of [`WARNINGS`] that is reached, if it was not told before.
fn warning_due(days_left: i64, told: Option<i64>) -> Option<i64> {
    let reached = WARNINGS.into_iter().find(|days| days_left <= *days)?;
    told.is_none_or(|told| reached < told).then_some(reached)
}

async fn fingerprint(files: &IdentityFiles) -> Fingerprint {
    let files = files.clone();
    join(tokio::task::spawn_blocking(move || files.fingerprint()).await)
}

async fn read(files: &IdentityFiles, alpn: Option<&'static [u8]>) -> Result<Identity, IdentityError> {
    let files = files.clone();
    join(tokio::task::spawn_blocking(move || files.read(alpn)).await)
}

fn join<T>(joined: Result<T, tokio::task::JoinError>) -> T {
    match joined {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warned_at_30_14_and_3_days_once_each() {
        let mut told = None;
        let mut warnings = Vec::new();
        for days_left in (-2..=40).rev() {
            if let Some(due) = warning_due(days_left, told) {
                told = Some(due);
                warnings.push(days_left);
            }
        }
        assert_eq!(warnings, [30, 14, 3]);
        assert_eq!(warning_due(1, None), Some(3), "started late: once is enough");
    }

    #[test]
    fn days_are_counted_down() {
        let end = OffsetDateTime::from_unix_timestamp(30 * 86_400).unwrap();
        assert_eq!(days_left(end, 0), 30);
        assert_eq!(days_left(end, 1), 30);
        assert_eq!(days_left(end, 1_000), 29);
        assert_eq!(days_left(end, 31 * 86_400_000), -1);
    }
}
