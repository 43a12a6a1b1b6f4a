//! Our own pairing agent (`org.bluez.Agent1`): without one BlueZ refuses even to pair without a question.
//!
//! It says yes to what needs no secret ("just works") and no to everything else: there is nobody to ask. It is not the
//! system's default agent: BlueZ asks it about the pairings that this connection has begun, and about nobody else's.

use std::sync::Arc;
use std::time::Duration;

use dbus::Path;
use dbus::channel::{MatchingReceiver, Sender};
use dbus::message::MatchRule;
use dbus::nonblock::{Proxy, SyncConnection};

use super::SERVICE;
use super::error::radio_error;
use crate::source::bluetooth::radio::RadioError;

const AGENT: &str = "/org/fogbeat/agent";
const MANAGER: &str = "org.bluez.AgentManager1";
const LIMIT: Duration = Duration::from_secs(5);

/// Registers the agent for as long as the connection lives.
pub async fn register(bus: &Arc<SyncConnection>) -> Result<(), RadioError> {
    let mut calls = MatchRule::new_method_call();
    calls.path = Some(Path::from(AGENT));
    bus.start_receive(
        calls,
        Box::new(|call, bus| {
            let yes = call.member().is_some_and(|member| {
                matches!(
                    &*member,
                    "Release"
                        | "Cancel"
                        | "RequestAuthorization"
                        | "AuthorizeService"
                        | "RequestConfirmation"
                )
            });
            let answer = if yes {
                call.method_return()
            } else {
                call.error(&"org.bluez.Error.Rejected".into(), c"there is nobody to ask")
            };
            // Fails when the bus is gone, and with it the question.
            let _ = bus.send(answer);
            true
        }),
    );
    let manager = Proxy::new(SERVICE, "/org/bluez", LIMIT, Arc::clone(bus));
    let registered: Result<(), _> =
        manager.method_call(MANAGER, "RegisterAgent", (Path::from(AGENT), "NoInputNoOutput")).await;
    registered.map_err(|e| radio_error(&e))
}
