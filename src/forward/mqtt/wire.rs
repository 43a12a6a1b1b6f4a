//! One MQTT connection in either version, driven by `rumqttc`, told in words of our own.
//!
//! The library is given a new event loop for each connection: one that lives longer drops what it was given when the
//! broker has forgotten the session. It gets its socket from [`super::relay`], so TLS, proxies and time-outs are ours.

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use rumqttc::{Outgoing, Packet, SubscribeReasonCode, v5};
use tokio::sync::mpsc;

use super::Settings;
use crate::config::MqttVersion;

/// Packets of ours that may wait inside the library. Publishes are given one at a time; a few subscriptions, an
/// acknowledgement and a farewell come on top.
const REQUESTS: usize = 16;
/// The largest packet that is taken: a shadow document of AWS IoT has at most 8 KiB, a provisioning answer about 12.
const LARGEST_INCOMING: u32 = 256 * 1024;

/// What the broker said about a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PublishAnswer {
    Taken,
    /// Taken, and nobody was there to get it.
    Unheard,
    Refused {
        reason: v5::mqttbytes::v5::PubAckReason,
        text: Option<String>,
    },
}

#[derive(Debug)]
pub(crate) enum Event {
    Connected {
        /// Most unacknowledged publishes that the broker takes.
        window: Option<u16>,
        /// Largest packet that the broker takes.
        largest: Option<u32>,
    },
    /// The oldest publish given and not yet told has been handed to the socket.
    Sent(u16),
    /// A packet id was used for something else.
    Used(u16),
    Acknowledged {
        id: u16,
        answer: PublishAnswer,
    },
    Subscribed {
        taken: bool,
    },
    Message {
        topic: String,
        payload: Bytes,
    },
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// CONNACK said no.
    Refused(v5::mqttbytes::v5::ConnectReturnCode),
    /// DISCONNECT of version 5.
    ByServer { reason: v5::mqttbytes::v5::DisconnectReasonCode, text: Option<String> },
    /// Nothing came back on a ping.
    Silent,
    /// Our own packet is too large for the broker.
    TooLarge { largest: u32 },
    /// Everything else: what it is, the socket's side knows better.
    Broken(String),
}

/// Where packets are given.
#[derive(Clone)]
pub(crate) enum Client {
    V3(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// A connection that is to be driven.
pub(crate) enum Loop {
    V3(Box<rumqttc::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// The library does not take any more at present, or has ended.
#[derive(Debug, thiserror::Error)]
#[error("the connection takes nothing at present")]
pub(crate) struct Full;

/// `socket`: name of the Unix socket that leads to the broker.
pub(crate) fn open(settings: &Settings, socket: &str, login: Option<(String, String)>) -> (Client, Loop) {
    let timeout = settings.timeout.as_secs().max(1);
    let largest = settings.member_bytes.saturating_add(4096);
    match settings.version {
        MqttVersion::V3 => {
            let mut options = rumqttc::MqttOptions::new(&settings.client_id, socket, 1);
            options
                .set_transport(rumqttc::Transport::Unix)
                .set_keep_alive(settings.keep_alive)
                .set_clean_session(true)
                .set_inflight(settings.window)
                .set_max_packet_size(LARGEST_INCOMING as usize, largest);
            if let Some((user, password)) = login {
                options.set_credentials(user, password);
            }
            let (client, mut events) = rumqttc::AsyncClient::new(options, REQUESTS);
            let mut network = rumqttc::NetworkOptions::new();
            network.set_connection_timeout(timeout);
            events.set_network_options(network);
            (Client::V3(client), Loop::V3(Box::new(events)))
        }
        MqttVersion::V5 => {
            let mut options = v5::MqttOptions::new(&settings.client_id, socket, 1);
            options
                .set_transport(rumqttc::Transport::Unix)
                .set_keep_alive(settings.keep_alive)
                .set_clean_start(true)
                .set_connection_timeout(timeout)
                .set_max_packet_size(Some(LARGEST_INCOMING))
                .set_outgoing_inflight_upper_limit(settings.window);
            if let Some((user, password)) = login {
                options.set_credentials(user, password);
            }
            let (client, events) = v5::AsyncClient::new(options, REQUESTS);
            (Client::V5(client), Loop::V5(Box::new(events)))
        }
    }
}

impl Client {
    /// With QoS 1.
    pub(crate) fn publish(&self, topic: &str, payload: Bytes) -> Result<(), Full> {
        match self {
            Self::V3(client) => {
                client.try_publish(topic, rumqttc::QoS::AtLeastOnce, false, payload).map_err(|_| Full)
            }
            Self::V5(client) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                client.try_publish(topic, qos, false, payload).map_err(|_| Full)
            }
        }
    }

    pub(crate) fn subscribe(&self, filter: &str) -> Result<(), Full> {
        match self {
            Self::V3(client) => client.try_subscribe(filter, QoS::AtLeastOnce).map_err(|_| Full),
            Self::V5(client) => {
                client.try_subscribe(filter, v5::mqttbytes::QoS::AtLeastOnce).map_err(|_| Full)
            }
        }
    }

    pub(crate) fn disconnect(&self) {
        // One that takes nothing any more has ended, or is about to be dropped.
        let _ = match self {
            Self::V3(client) => client.try_disconnect().map_err(drop),
            Self::V5(client) => client.try_disconnect().map_err(drop),
        };
    }
}

/// How many bytes a publish takes on the wire before TLS (MQTT 5 section 3.3, MQTT 3.1.1 section 3.3).
pub(crate) fn publish_bytes(version: MqttVersion, topic: &str, payload: usize) -> usize {
    let properties = usize::from(version == MqttVersion::V5);
    let remaining = 2 + topic.len() + 2 + properties + payload;
    let mut length = 1;
    let mut rest = remaining / 128;
    while rest > 0 {
        length += 1;
        rest /= 128;
    }
    1 + length + remaining
}

impl Loop {
    /// Drives the connection to its end. Acknowledgements that came before the end are told before it.
    pub(crate) async fn run(self, events: mpsc::Sender<Event>) -> Ended {
        match self {
            Self::V3(connection) => run_v3(*connection, &events).await,
            Self::V5(connection) => run_v5(*connection, &events).await,
        }
    }
}

async fn run_v3(mut connection: rumqttc::EventLoop, events: &mpsc::Sender<Event>) -> Ended {
    loop {
        match connection.poll().await {
            Ok(event) => tell(events, of_v3(event)).await,
            Err(error) => {
                // What was read together with the end is still inside.
                for event in std::mem::take(&mut connection.state.events) {
                    tell(events, of_v3(event)).await;
                }
                return ended_v3(error);
            }
        }
    }
}

async fn run_v5(mut connection: v5::EventLoop, events: &mpsc::Sender<Event>) -> Ended {
    loop {
        match connection.poll().await {
            Ok(event) => tell(events, of_v5(event)).await,
            Err(error) => {
                for event in std::mem::take(&mut connection.state.events) {
                    tell(events, of_v5(event)).await;
                }
                return ended_v5(error);
            }
        }
    }
}

async fn tell(events: &mpsc::Sender<Event>, event: Option<Event>) {
    if let Some(event) = event {
        // Nobody listens any more: the connection is about to be dropped.
        let _ = events.send(event).await;
    }
}

fn of_v3(event: rumqttc::Event) -> Option<Event> {
    Some(match event {
        rumqttc::Event::Incoming(Packet::ConnAck(_)) => Event::Connected { window: None, largest: None },
        rumqttc::Event::Incoming(Packet::PubAck(ack)) => {
            Event::Acknowledged { id: ack.pkid, answer: PublishAnswer::Taken }
        }
        rumqttc::Event::Incoming(Packet::SubAck(ack)) => {
            Event::Subscribed { taken: !ack.return_codes.contains(&SubscribeReasonCode::Failure) }
        }
        rumqttc::Event::Incoming(Packet::Publish(publish)) => {
            Event::Message { topic: publish.topic, payload: publish.payload }
        }
        rumqttc::Event::Outgoing(Outgoing::Publish(id)) => Event::Sent(id),
        rumqttc::Event::Outgoing(Outgoing::Subscribe(id)) => Event::Used(id),
        _ => return None,
    })
}

fn of_v5(event: v5::Event) -> Option<Event> {
    use v5::mqttbytes::v5::{Packet, PubAckReason, SubscribeReasonCode};
    Some(match event {
        v5::Event::Incoming(Packet::ConnAck(ack)) => {
            let properties = ack.properties.as_ref();
            Event::Connected {
                window: properties.and_then(|properties| properties.receive_max),
                largest: properties.and_then(|properties| properties.max_packet_size),
            }
        }
        v5::Event::Incoming(Packet::PubAck(ack)) => {
            let answer = match ack.reason {
                PubAckReason::Success => PublishAnswer::Taken,
                PubAckReason::NoMatchingSubscribers => PublishAnswer::Unheard,
                reason => {
                    let text = ack.properties.and_then(|properties| properties.reason_string);
                    PublishAnswer::Refused { reason, text }
                }
            };
            Event::Acknowledged { id: ack.pkid, answer }
        }
        v5::Event::Incoming(Packet::SubAck(ack)) => Event::Subscribed {
            taken: ack.return_codes.iter().all(|code| matches!(code, SubscribeReasonCode::Success(_))),
        },
        v5::Event::Incoming(Packet::Publish(publish)) => Event::Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload,
        },
        v5::Event::Outgoing(Outgoing::Publish(id)) => Event::Sent(id),
        v5::Event::Outgoing(Outgoing::Subscribe(id)) => Event::Used(id),
        _ => return None,
    })
}

fn ended_v3(error: rumqttc::ConnectionError) -> Ended {
    use rumqttc::{ConnectReturnCode as Old, ConnectionError, StateError};
    use v5::mqttbytes::v5::ConnectReturnCode as Code;
    match error {
        ConnectionError::ConnectionRefused(code) => Ended::Refused(match code {
            Old::Success => Code::Success,
            Old::RefusedProtocolVersion => Code::UnsupportedProtocolVersion,
            Old::BadClientId => Code::ClientIdentifierNotValid,
            Old::ServiceUnavailable => Code::ServerUnavailable,
            Old::BadUserNamePassword => Code::BadUserNamePassword,
            Old::NotAuthorized => Code::NotAuthorized,
        }),
        ConnectionError::MqttState(StateError::AwaitPingResp) => Ended::Silent,
        other => Ended::Broken(crate::net::chain(&other)),
    }
}

fn ended_v5(error: v5::ConnectionError) -> Ended {
    use v5::{ConnectionError, StateError};
    match error {
        ConnectionError::ConnectionRefused(code) => Ended::Refused(code),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            Ended::ByServer { reason: reason_code, text: reason_string }
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => Ended::Silent,
        ConnectionError::MqttState(StateError::OutgoingPacketTooLarge { max, .. }) => {
            Ended::TooLarge { largest: max }
        }
        other => Ended::Broken(crate::net::chain(&other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the codec's own bytes.
    #[test]
    fn the_size_of_a_publish_is_exact() {
        for length in [0, 1, 100, 121, 122, 130, 16_000, 16_383, 20_000, 131_072] {
            let topic = "$aws/rules/r/g";
            let mut publish = rumqttc::Publish::new(topic, QoS::AtLeastOnce, vec![0; length]);
            publish.pkid = 1;
            let mut bytes = bytes::BytesMut::new();
            publish.write(&mut bytes).unwrap();
            assert_eq!(publish_bytes(MqttVersion::V3, topic, length), bytes.len(), "{length}");
            let qos = v5::mqttbytes::QoS::AtLeastOnce;
            let mut publish = v5::mqttbytes::v5::Publish::new(topic, qos, vec![0; length], None);
            publish.pkid = 1;
            let mut bytes = bytes::BytesMut::new();
            publish.write(&mut bytes).unwrap();
            assert_eq!(publish_bytes(MqttVersion::V5, topic, length), bytes.len(), "{length}");
        }
    }
}
