//! The named shadow `fogbeat` of the thing: what is desired comes, what is in force goes (AWS IoT Core Developer Guide,
//! "Device Shadow MQTT topics"). Pure but for [`Remote`], which keeps what is good.
//!
//! On each connection the whole shadow is asked for, and once more after each update by anybody (a delta is silent about
//! what is wished no more). It is answered when the desired
//! document, or what became of it, is not what was answered last on this connection: a report never answers itself.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::Value;

use crate::remote::{Remote, report};

const NAME: &str = "fogbeat";

/// One uplink's shadow.
pub(super) struct Shadow {
    base: String,
    remote: Remote,
    /// Publishes to be made, oldest first: never more than a handful, because each is the answer to one message.
    out: VecDeque<(String, Bytes)>,
    /// Subscriptions that are not confirmed yet.
    awaited: usize,
    answered: Option<Value>,
}

impl Shadow {
    pub(super) fn new(thing: &str, remote: Remote) -> Self {
        let base = format!("$aws/things/{thing}/shadow/name/{NAME}");
        Self { base, remote, out: VecDeque::new(), awaited: 0, answered: None }
    }

    /// A new connection stands: what is to be subscribed to.
    pub(super) fn connected(&mut self) -> Vec<String> {
        self.out.clear();
        self.answered = None;
        let filters: Vec<String> =
            ["get/accepted", "update/documents"].iter().map(|end| format!("{}/{end}", self.base)).collect();
        self.awaited = filters.len();
        filters
    }

    pub(super) fn subscribed(&mut self, taken: bool) {
        self.awaited = self.awaited.saturating_sub(1);
        if !taken {
            tracing::warn!(
                "the shadow of this gateway cannot be followed: allow iot:Subscribe and iot:Receive on {}/*",
                self.base
            );
        } else if self.awaited == 0 {
            self.ask();
        }
    }

    fn ask(&mut self) {
        self.out.push_back((format!("{}/get", self.base), Bytes::new()));
    }

    /// Takes a message; blocking for the write of a small file.
    pub(super) fn heard(&mut self, topic: &str, payload: &[u8]) {
        match topic.strip_prefix(self.base.as_str()) {
            Some("/update/documents") => self.ask(),
            Some("/get/accepted") => match serde_json::from_slice::<Value>(payload) {
                Ok(document) => self.take(&document),
                Err(error) => tracing::debug!(%error, "a shadow document is not understood"),
            },
            _ => {}
        }
    }

    fn take(&mut self, document: &Value) {
        let state = document.get("state").unwrap_or(&Value::Null);
        let desired = state.get("desired").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let status = self.remote.apply(&desired);
        let answer = serde_json::json!([desired, status]);
        if self.answered.as_ref() == Some(&answer) {
            return;
        }
        let update = report::update(&status, state.get("reported").unwrap_or(&Value::Null));
        self.out.push_back((format!("{}/update", self.base), Bytes::from(update.to_string())));
        self.answered = Some(answer);
    }

    pub(super) fn next(&mut self) -> Option<(String, Bytes)> {
        self.out.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn asked_on_connect_answered_once_and_never_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let mut shadow = Shadow::new("t", Remote::open(dir.path(), vec!["iot".to_owned()]));
        let filters = shadow.connected();
        assert_eq!(filters.len(), 2);
        shadow.subscribed(true);
        assert_eq!(shadow.next(), None);
        shadow.subscribed(true);
        let base = "$aws/things/t/shadow/name/fogbeat";
        assert_eq!(shadow.next(), Some((format!("{base}/get"), Bytes::new())));
        let document = |age: &str| json!({"state": {"desired": {"batch": {"max_age": age}}}}).to_string();
        let heard = |shadow: &mut Shadow, age: &str| {
            shadow.heard(&format!("{base}/get/accepted"), document(age).as_bytes());
            shadow.next().map(|(topic, payload)| (topic, serde_json::from_slice::<Value>(&payload).unwrap()))
        };
        let (topic, told) = heard(&mut shadow, "5s").unwrap();
        assert_eq!(topic, format!("{base}/update"));
        assert_eq!(told["state"]["reported"]["batch"]["max_age"], "5s");
        assert_eq!(heard(&mut shadow, "5s"), None);
        let (_, told) = heard(&mut shadow, "1ms").unwrap();
        assert_eq!(told["state"]["reported"]["batch"]["max_age"], "5s");
        assert!(told["state"]["reported"]["refused"]["batch.max_age"].is_string(), "{told}");
        assert_eq!(heard(&mut shadow, "1ms"), None);
        shadow.heard(&format!("{base}/update/documents"), b"{}");
        assert_eq!(shadow.next(), Some((format!("{base}/get"), Bytes::new())));
        shadow.heard(&format!("{base}/get/accepted"), b"\xff");
        assert_eq!(shadow.next(), None);
    }
}
