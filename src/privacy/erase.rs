//! `fogbeat erase`: a device out of everything this gateway keeps.
//!
//! In this order: its login and what `fogbeat scan --allow` noted of it (so that nothing new comes; unless it is to
//! stay), the uplinks let go of what they hold, the journal with its quarantine, leftovers in the lakes, the mapping of
//! pseudonyms; then the uplinks go on, and the lakes are rewritten beside them. A batch that was under way with its readings is waited for, or made again without them
//! within the same bounds: nothing is sent afterwards that holds them. A batch that was under way may have arrived: the
//! statements for the bucket ([`super::sql`]) are to be run after this.
//!
//! Not reached from here: copies that were exported, subscribers, the bucket, old blocks of a memory card.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::names::Names;
use super::pseudonym::Pseudonyms;
use super::sql::Rows;
use crate::audit::{Act, Outcome, Scribe, Who};
use crate::forward::directory::StoreError;
use crate::forward::directory::erase::{Lake, LakeErased};
use crate::forward::{Held, Watcher};
use crate::journal::{EraseError, Erased, Journal};
use crate::source::bluetooth::{AllowError, Allowed};
use crate::source::mqtt::users::{Store, UsersError};

/// Longer than any delivery takes to end by itself.
const UPLINK_PATIENCE: Duration = Duration::from_secs(120);
/// The table over the bucket that `config/aws/stack.yaml` makes for a site.
pub const TABLE: &str = "fogbeat_SITE.lines";

/// What is to be erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The name it is stored under.
    pub device: String,
    /// Only count.
    pub dry_run: bool,
    /// It may go on publishing.
    pub keep_login: bool,
}

/// Where everything is.
pub struct Place<'a> {
    pub state_dir: PathBuf,
    pub gateway: &'a str,
    pub journal: &'a Journal,
    /// Those that run; none without a gateway.
    pub uplinks: &'a [Watcher],
    /// The lakes, by their uplinks' names.
    pub lakes: &'a [(String, PathBuf)],
    pub pseudonyms: Option<&'a Pseudonyms>,
}

/// What was removed (or would be).
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub device: String,
    pub dry_run: bool,
    /// What it was called by uplinks, as far as is known here.
    pub pseudonyms: Vec<String>,
    /// It could log in, and cannot any more.
    pub login: bool,
    pub journal: Erased,
    pub lakes: Vec<LakeReport>,
    /// In batches of other gateways that are on their way.
    pub members: LakeErased,
    /// For an Iceberg table over the bucket.
    pub sql_iceberg: String,
    /// For a table over the objects as they were delivered.
    pub sql_objects: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct LakeReport {
    pub uplink: String,
    #[serde(flatten)]
    pub erased: LakeErased,
}

/// Why not everything was removed. What was done stays done, and erasing again goes on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("uplink {0} has not ended its delivery; erase again")]
    Uplink(String),
    #[error(transparent)]
    Journal(#[from] EraseError),
    #[error("lake of uplink {uplink}: {source}; {}, and erase again", source.remedy())]
    Lake { uplink: String, source: StoreError },
    #[error("batches of other gateways: {0}; check free space and permissions, and erase again")]
    Members(std::io::Error),
    #[error(transparent)]
    Login(#[from] UsersError),
    #[error(transparent)]
    Allowed(#[from] AllowError),
    #[error("the pseudonyms' file: {0}; check free space and permissions, and erase again")]
    Names(std::io::Error),
}

/// Removes a device. Blocking, for as long as it takes to read everything that is kept.
///
/// # Errors
/// [`Error`].
pub fn erase(place: &Place<'_>, wish: &Wish) -> Result<Report, Error> {
    let device = wish.device.as_str();
    let names = Names::new(&place.state_dir);
    let known = names.list().map_err(Error::Names)?;
    let mut pseudonyms: Vec<String> =
        known.into_iter().filter(|pair| pair.device == device).map(|pair| pair.pseudonym).collect();
    pseudonyms.extend(place.pseudonyms.map(|pseudonyms| pseudonyms.compute(device)));
    pseudonyms.sort();
    pseudonyms.dedup();
    let mut called = vec![device.to_owned()];
    called.extend(pseudonyms.iter().cloned());
    let lakes: Vec<(&str, Lake<'_>)> =
        place.lakes.iter().map(|(uplink, path)| (uplink.as_str(), Lake { path, names: &called })).collect();

    let store = Store::new(&place.state_dir);
    let login = !wish.keep_login && store.list()?.iter().any(|user| user.name == device);
    let members = || crate::relayed::erase(&place.state_dir, &called, wish.dry_run).map_err(Error::Members);
    let (journal, members) = if wish.dry_run {
        (place.journal.erase(device, true)?, members()?)
    } else {
        if login {
            store.remove(device)?;
        }
        if !wish.keep_login {
            match Allowed::new(&place.state_dir).forget(device) {
                Ok(_) | Err(AllowError::Unknown(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let held = hold(place.uplinks)?;
        let journal = place.journal.erase(device, false)?;
        let members = members()?;
        for (uplink, lake) in &lakes {
            lake.remove_leftovers().map_err(|source| Error::Lake { uplink: (*uplink).to_owned(), source })?;
        }
        place.pseudonyms.iter().for_each(|pseudonyms| pseudonyms.forget(device));
        drop(held);
        (journal, members)
    };
    let mut reports = Vec::new();
    for (uplink, lake) in &lakes {
        let erased = lake
            .erase(wish.dry_run)
            .map_err(|source| Error::Lake { uplink: (*uplink).to_owned(), source })?;
        reports.push(LakeReport { uplink: (*uplink).to_owned(), erased });
    }
    // Last: until everything is done, erasing again must know what it was called.
    if !wish.dry_run {
        match place.pseudonyms {
            Some(pseudonyms) => pseudonyms.names().remove(device),
            None => names.remove(device),
        }
        .map_err(Error::Names)?;
        place.pseudonyms.iter().for_each(|pseudonyms| pseudonyms.forget(device));
    }
    let rows = Rows { table: TABLE, gateway: place.gateway, names: &called };
    Ok(Report {
        device: device.to_owned(),
        dry_run: wish.dry_run,
        pseudonyms,
        login,
        journal,
        lakes: reports,
        members,
        sql_iceberg: rows.iceberg(),
        sql_objects: rows.objects(),
    })
}

/// Removes a device and puts it on record.
///
/// # Errors
/// [`Error`].
pub fn recorded(place: &Place<'_>, wish: &Wish, scribe: &Scribe, who: &Who) -> Result<Report, Error> {
    let device = scribe.device(&wish.device);
    if wish.dry_run {
        return erase(place, wish);
    }
    let act = |report: Option<&Report>| Act::Erase {
        device: device.clone(),
        readings: report.map(|report| report.journal.readings),
        lake_lines: report.map(|report| report.lakes.iter().map(|lake| lake.erased.lines).sum()),
    };
    scribe.note(who, &act(None), Outcome::Begun);
    let report = erase(place, wish);
    let outcome = if report.is_ok() { Outcome::Done } else { Outcome::Failed };
    scribe.note(who, &act(report.as_ref().ok()), outcome);
    report
}

fn hold(uplinks: &[Watcher]) -> Result<Vec<Held>, Error> {
    let hold = |uplink: &Watcher| {
        uplink.hold(UPLINK_PATIENCE).ok_or_else(|| Error::Uplink(uplink.name().to_owned()))
    };
    uplinks.iter().map(hold).collect()
}
