//! What a running gateway answers over the control socket. Blocking.

use serde::Serialize;
use serde_json::{Value, json};

use super::look;
use super::status::Sources;
use crate::control::{Answer, Refusal, RefusalKind, Request};
use crate::journal::SalvageError;

/// Carries a request out.
pub fn answer(request: &Request, sources: &Sources) -> Answer {
    match request {
        Request::Status => to_value(&sources.status()),
        Request::UplinkList => {
            let uplinks: Vec<_> = sources.uplinks.iter().map(|uplink| uplink.status()).collect();
            Ok(json!({ "uplinks": to_value(&uplinks)?, "left_behind": to_value(&sources.left_behind())? }))
        }
        Request::UplinkForget { name } => forget(name, sources),
        Request::JournalInspect => Ok(look::inspect(&sources.journal)),
        Request::JournalVerify { generation } => to_value(&look::verify(&sources.journal, *generation)),
        Request::JournalSalvage { generation } => match sources.journal.salvage(*generation, &mut || {}) {
            Ok(repaired) => to_value(&repaired),
            // The gateway was faster.
            Err(SalvageError::NotDamaged(_)) => Ok(Value::Null),
            Err(error) => Err(Refusal::new(RefusalKind::Failed, error.to_string())),
        },
        Request::JournalPage { from } => {
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

fn to_value(value: &impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(value).map_err(|error| Refusal::new(RefusalKind::Failed, error.to_string()))
}
