//! Question and answer over MQTT: a topic, and below it `/accepted` and `/rejected`.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{EnrollError, context, ended};
use crate::forward::mqtt::{Event, Session, Settings, ended_verdict};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Create<'a> {
    pub(super) certificate_signing_request: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Created {
    pub(super) certificate_id: String,
    pub(super) certificate_pem: String,
    pub(super) certificate_ownership_token: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Register<'a> {
    pub(super) certificate_ownership_token: &'a str,
    pub(super) parameters: &'a BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Registered {
    pub(super) thing_name: String,
    #[serde(default)]
    pub(super) device_configuration: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rejection {
    #[serde(default)]
    status_code: u16,
    #[serde(default)]
    error_code: String,
    #[serde(default)]
    error_message: String,
}

pub(super) struct Talk<'a> {
    session: Session,
    settings: &'a Settings,
    timeout: Duration,
}

impl<'a> Talk<'a> {
    pub(super) fn open(session: Session, settings: &'a Settings, timeout: Duration) -> Self {
        Self { session, settings, timeout }
    }

    /// Asks and waits for the answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &mut self,
        what: &'static str,
        topic: &str,
        question: &impl Serialize,
    ) -> Result<T, EnrollError> {
        let deadline = Instant::now() + self.timeout;
        let not_understood =
            |error: serde_json::Error| EnrollError::Answer { what, cause: error.to_string() };
        for answer in ["accepted", "rejected"] {
            let filter = format!("{topic}/{answer}");
            // A queue that is full belongs to a connection that has ended, which is told by its events.
            let _ = self.session.client.subscribe(&filter);
            match self.until(what, deadline, |event| matches!(event, Event::Subscribed { .. })).await? {
                Event::Subscribed { taken: true } => {}
                _ => return Err(EnrollError::NotSubscribed(filter)),
            }
        }
        let question = serde_json::to_vec(question).map_err(not_understood)?;
        let _ = self.session.client.publish(topic, Bytes::from(question));
        let ours =
            |event: &Event| matches!(event, Event::Message { topic: heard, .. } if heard.starts_with(topic));
        let Event::Message { topic: heard, payload } = self.until(what, deadline, ours).await? else {
            return Err(EnrollError::Silent { what, timeout: self.timeout });
        };
        if heard.ends_with("/accepted") {
            return serde_json::from_slice(&payload).map_err(not_understood);
        }
        let rejection: Rejection = serde_json::from_slice(&payload).map_err(not_understood)?;
        let Rejection { status_code, error_code, error_message } = rejection;
        Err(EnrollError::Rejected {
            what,
            code: format!("{error_code} ({status_code})"),
            message: error_message,
        })
    }

    async fn until(
        &mut self,
        what: &'static str,
        deadline: Instant,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Event, EnrollError> {
        loop {
            match tokio::time::timeout_at(deadline, self.session.events.recv()).await {
                Ok(Some(event)) if wanted(&event) => return Ok(event),
                Ok(Some(_)) => {}
                Ok(None) => {
                    let (library, relay) = self.session.joined().await;
                    let verdict = ended_verdict(&library, &relay, 0, &context(self.settings));
                    return Err(ended(verdict.failure, what));
                }
                Err(_) => return Err(EnrollError::Silent { what, timeout: self.timeout }),
            }
        }
    }

    pub(super) async fn close(self) {
        self.session.close().await;
    }
}
