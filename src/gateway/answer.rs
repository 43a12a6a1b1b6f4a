//! What a running gateway answers over the control socket. Blocking.

use serde::Serialize;
use serde_json::{Value, json};

use super::look;
use super::status::Sources;
use crate::audit::{Act, Outcome, Who};
use crate::control::{Answer, Peer, Refusal, RefusalKind, Request};
use crate::journal::SalvageError;
use crate::privacy::erase::{self, Place, Wish};
use crate::source::bluetooth::{AllowError, CommandError};
use crate::web;

/// Carries a request out.
pub fn answer(request: &Request, peer: Peer, sources: &Sources) -> Answer {
    let who = Who::peer(peer.uid, peer.pid);
    match request {
        Request::Status => {
            // Payloads that were not understood are shown as they came.
            sources.scribe.access(&who, "status");
            to_value(&sources.status())
        }
        Request::Metrics => {
            let text = web::metrics_text(&sources.registry);
            Ok(json!({ "text": text.map_err(|error| Refusal::new(RefusalKind::Failed, error.to_string()))? }))
        }
        Request::UplinkList => {
            let uplinks: Vec<_> = sources.uplinks.iter().map(|uplink| uplink.status()).collect();
            Ok(json!({ "uplinks": to_value(&uplinks)?, "left_behind": to_value(&sources.left_behind())? }))
        }
        Request::UplinkForget { name } => {
            let answer = forget(name, sources);
            if answer.is_ok() {
                sources.scribe.note(&who, &Act::UplinkForget { uplink: name.clone() }, Outcome::Done);
            }
            answer
        }
        Request::JournalInspect => Ok(look::inspect(&sources.journal)),
        Request::JournalVerify { generation } => to_value(&look::verify(&sources.journal, *generation)),
        Request::JournalSalvage { generation } => match sources.journal.salvage(*generation, &mut || {}) {
            Ok(repaired) => to_value(&repaired),
            // The gateway was faster.
            Err(SalvageError::NotDamaged(_)) => Ok(Value::Null),
            Err(error) => Err(Refusal::new(RefusalKind::Failed, error.to_string())),
        },
        Request::Erase(wish) => erase(wish, &who, sources),
        Request::BleScan => {
            // Strangers' names and heart rates are among it.
            sources.scribe.access(&who, "ble_scan");
            to_value(&sources.bluetooth.survey().map_err(refused)?)
        }
        Request::BleAllow { device } => {
            let listed = sources.bluetooth.allow(device).map_err(refused)?;
            let act = Act::BleAllow { device: sources.scribe.device(&listed.name()) };
            sources.scribe.note(&who, &act, Outcome::Done);
            Ok(json!({ "allowed": listed.name() }))
        }
        Request::BleForget { id } => {
            let listed = sources.bluetooth.forget(id).map_err(refused)?;
            let act = Act::BleForget { device: sources.scribe.device(&listed.name()) };
            sources.scribe.note(&who, &act, Outcome::Done);
            Ok(json!({ "forgotten": listed.name() }))
        }
        Request::JournalPage { from } => {
            sources.scribe.export(&who, *from);
            let page = look::page(
                &sources.journal,
                &sources.gateway,
                sources.site.as_deref(),
                sources.window,
                *from,
            );
            to_value(&page.map_err(|error| Refusal::new(RefusalKind::Failed, error.to_string()))?)
        }
    }
}

fn refused(error: CommandError) -> Refusal {
    let kind = match error {
        CommandError::Allow(AllowError::Io { .. } | AllowError::Damaged { .. }) | CommandError::Ended(_) => {
            RefusalKind::Failed
        }
        _ => RefusalKind::Impossible,
    };
    Refusal::new(kind, error.to_string())
}

fn forget(name: &str, sources: &Sources) -> Answer {
    if sources.configured(name) {
        let message =
            format!("uplink {name} is configured; take it out of the configuration and restart first");
        return Err(Refusal::new(RefusalKind::Impossible, message));
    }
    let left = sources.left_behind().into_iter().find(|place| place.name == name);
    match sources.journal.forget_uplink(name) {
        Ok(true) => {
            let queued = left.map_or(0, |place| place.queued_readings);
            tracing::info!(uplink = name, queued, "the uplink's place was given up");
            Ok(json!({ "forgotten": name, "queued_readings": queued }))
        }
        Ok(false) => {
            let message = format!("there is no uplink {name}; `fogbeat uplink list` shows those there are");
            Err(Refusal::new(RefusalKind::Impossible, message))
        }
        Err(error) => Err(Refusal::new(RefusalKind::Failed, error.to_string())),
    }
}

fn erase(wish: &Wish, who: &Who, sources: &Sources) -> Answer {
    let Ok(_alone) = sources.erasing.try_lock() else {
        let message = "another device is being erased; try it again when that is done";
        return Err(Refusal::new(RefusalKind::Impossible, message));
    };
    if !(wish.dry_run || wish.keep_login) {
        match sources.bluetooth.forget(&wish.device) {
            Ok(_) | Err(CommandError::Allow(AllowError::Unknown(_))) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    let place = Place {
        state_dir: sources.state_dir.clone(),
        gateway: &sources.gateway,
        journal: &sources.journal,
        uplinks: &sources.uplinks,
        lakes: &sources.lakes,
        pseudonyms: sources.pseudonyms.as_deref(),
    };
    let report = erase::recorded(&place, wish, &sources.scribe, who);
    to_value(&report.map_err(|error| Refusal::new(RefusalKind::Failed, error.to_string()))?)
}

fn to_value(value: &impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(value).map_err(|error| Refusal::new(RefusalKind::Failed, error.to_string()))
}
