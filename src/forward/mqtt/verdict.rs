//! What an answer or an end means: try again, or somebody must act, and what they can do. Pure.

use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode, PubAckReason};
use time::OffsetDateTime;

use super::relay::RelayEnd;
use super::wire::Ended;
use super::{Place, Settings};
use crate::forward::verdict::{Peer, Verdict, tls};

/// What stands behind a connection, for what people are told.
pub(crate) struct Context<'a> {
    pub(crate) settings: &'a Settings,
    /// When the gateway's own certificate ends.
    pub(crate) expires: Option<OffsetDateTime>,
    /// What the system's clock says.
    pub(crate) now: OffsetDateTime,
}

impl Context<'_> {
    /// The broker, as whoever dials it sees it.
    pub(crate) fn peer(&self) -> Peer<'_> {
        let Settings { host, address_key, .. } = self.settings;
        Peer {
            host,
            section: "[[uplink]]",
            address_key,
            tell: match self.settings.place {
                Place::IotCore { .. } => Some("aws iot describe-endpoint --endpoint-type iot:Data-ATS"),
                Place::Broker => None,
            },
            has_certificate: self.settings.has_certificate(),
            expires: self.expires,
            now: self.now,
        }
    }
}

/// This machine gives no socket.
pub(crate) fn local(error: &std::io::Error) -> Verdict {
    Verdict::retry("local", format!("this machine gives no socket: {error}"))
}

/// The password cannot be read.
pub(crate) fn password(path: &std::path::Path, error: &std::io::Error) -> Verdict {
    Verdict::stuck(
        "credentials",
        format!("{}: {error}", path.display()),
        "put the password there, readable by the daemon, or correct [[uplink]].password_file",
    )
}

pub(crate) fn no_answer(context: &Context<'_>) -> Verdict {
    let Settings { host, port, timeout, .. } = context.settings;
    Verdict::retry("timeout", format!("{host}:{port} did not answer within {timeout:?}"))
}

/// The TLS handshake failed.
pub(crate) fn handshake(error: &std::io::Error, context: &Context<'_>) -> Verdict {
    match crate::net::tls_error(error) {
        Some(error) => tls(error, &context.peer()),
        None => {
            let Settings { host, port, .. } = context.settings;
            Verdict::retry(
                "connection",
                format!("{host}:{port} ends the connection in the TLS handshake: {error}"),
            )
        }
    }
}

/// A connection that was there has ended. `unanswered`: something had been published on it and nothing was ever
/// acknowledged, for so many connections in a row.
pub(crate) fn ended(ended: &Ended, relay: &RelayEnd, unanswered: u32, context: &Context<'_>) -> Verdict {
    let host = &context.settings.host;
    match ended {
        Ended::Refused(code) => return refused(*code, context),
        Ended::ByServer { reason, text } => return by_server(*reason, text.as_deref(), context),
        Ended::Silent => return Verdict::retry("timeout", format!("{host} no longer answers")),
        Ended::TooLarge { largest } => return too_large(*largest, context),
        Ended::Broken(_) => {}
    }
    match relay {
        RelayEnd::Failed(error) => match crate::net::tls_error(error) {
            Some(error) => tls(error, &context.peer()),
            None => Verdict::retry("connection", format!("the connection to {host} is lost: {error}")),
        },
        RelayEnd::Closed | RelayEnd::Ours if unanswered >= PATIENCE => silent_refusal(context),
        RelayEnd::Closed => Verdict::retry("connection", format!("{host} closed the connection")),
        RelayEnd::Ours => {
            let why = match ended {
                Ended::Broken(why) => why.as_str(),
                _ => "no reason known",
            };
            Verdict::retry("connection", format!("the connection to {host} ended: {why}"))
        }
    }
}

/// So many connections in a row that end after a publish, with no acknowledgement on any, are no accident.
const PATIENCE: u32 = 3;

fn silent_refusal(context: &Context<'_>) -> Verdict {
    let Settings { host, .. } = context.settings;
    Verdict::stuck(
        "not_authorized",
        format!("{host} closes the connection, without a word, each time a batch is published"),
        policy(context, "connecting and publishing"),
    )
}

fn refused(code: ConnectReturnCode, context: &Context<'_>) -> Verdict {
    use ConnectReturnCode as Code;
    let Settings { host, client_id, .. } = context.settings;
    let message = format!("{host} refuses the connection of \"{client_id}\" ({code:?})");
    match code {
        Code::BadUserNamePassword | Code::BadAuthenticationMethod => {
            Verdict::stuck("credentials", message, "check [[uplink]].username and password_file")
        }
        Code::NotAuthorized | Code::Banned => {
            Verdict::stuck("not_authorized", message, policy(context, "connecting"))
        }
        Code::ClientIdentifierNotValid | Code::BadClientId => Verdict::stuck(
            "client_id",
            message,
            format!("choose another [[uplink]].{}", context.settings.id_key),
        ),
        Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion => {
            Verdict::stuck("version", message, "set [[uplink]].version = \"3.1.1\"")
        }
        Code::UseAnotherServer | Code::ServerMoved => Verdict::stuck(
            "endpoint",
            message,
            format!("correct [[uplink]].{}", context.settings.address_key),
        ),
        Code::QuotaExceeded | Code::ConnectionRateExceeded | Code::ServerBusy => {
            Verdict::retry("quota", message)
        }
        _ => Verdict::retry("refused_connection", message),
    }
}

fn by_server(reason: DisconnectReasonCode, text: Option<&str>, context: &Context<'_>) -> Verdict {
    use DisconnectReasonCode as Reason;
    let Settings { host, client_id, topic, .. } = context.settings;
    let told = text.map(|text| format!(": {text}")).unwrap_or_default();
    let message = format!("{host} ended the connection ({reason:?}{told})");
    match reason {
        Reason::SessionTakenOver => Verdict::stuck(
            "taken_over",
            format!("somebody else has connected to {host} as \"{client_id}\""),
            format!(
                "give each gateway (and each uplink to one broker) its own [[uplink]].{}",
                context.settings.id_key
            ),
        ),
        Reason::NotAuthorized => Verdict::stuck("not_authorized", message, policy(context, "publishing")),
        Reason::PacketTooLarge => too_large(0, context),
        Reason::TopicNameInvalid | Reason::TopicFilterInvalid => {
            Verdict::stuck("topic", message, format!("correct the topic \"{topic}\""))
        }
        Reason::MessageRateTooHigh
        | Reason::QuotaExceeded
        | Reason::ConnectionRateExceeded
        | Reason::ReceiveMaximumExceeded
        | Reason::ServerBusy => Verdict::retry("quota", message),
        _ => Verdict::retry("connection", message),
    }
}

fn too_large(largest: u32, context: &Context<'_>) -> Verdict {
    let host = &context.settings.host;
    let message = match largest {
        0 => format!("a batch is too large for {host}"),
        largest => format!("a batch is too large for {host}, which takes packets of {largest} bytes"),
    };
    let remedy = match context.settings.place {
        Place::IotCore { .. } => "lower [batch].max_bytes",
        Place::Broker => "lower [[uplink]].max_member",
    };
    Verdict::stuck("too_large", message, remedy)
}

pub(crate) fn larger_than(largest: usize, context: &Context<'_>) -> Verdict {
    too_large(u32::try_from(largest).unwrap_or(u32::MAX), context)
}

/// PUBACK said no.
pub(crate) fn publish(reason: PubAckReason, text: Option<&str>, context: &Context<'_>) -> Verdict {
    let Settings { host, topic, .. } = context.settings;
    let told = text.map(|text| format!(": {text}")).unwrap_or_default();
    let message = format!("{host} does not take a batch on \"{topic}\" ({reason:?}{told})");
    match reason {
        PubAckReason::NotAuthorized => {
            Verdict::stuck("not_authorized", message, policy(context, "publishing"))
        }
        PubAckReason::TopicNameInvalid => {
            Verdict::stuck("topic", message, "correct the topic, or the rule that stands in it")
        }
        PubAckReason::PayloadFormatInvalid => {
            Verdict::stuck("refused", message, "please report this with the message")
        }
        PubAckReason::QuotaExceeded => Verdict::retry("quota", message),
        _ => Verdict::retry("refused", message),
    }
}

pub(crate) fn unheard(context: &Context<'_>) -> Verdict {
    let Settings { host, topic, .. } = context.settings;
    Verdict::stuck(
        "unheard",
        format!("{host} took a batch, but nobody is subscribed to \"{topic}\": it would be lost"),
        format!(
            "let somebody subscribe to it with QoS 1 and a session that is kept, or correct the topic \"{topic}\""
        ),
    )
}

pub(crate) fn stalled(context: &Context<'_>) -> Verdict {
    let Settings { host, timeout, .. } = context.settings;
    Verdict::retry("timeout", format!("{host} has acknowledged nothing for {timeout:?}"))
}

/// The line that is missing over there.
fn policy(context: &Context<'_>, doing: &str) -> String {
    let Settings { client_id, topic, place, .. } = context.settings;
    match place {
        Place::IotCore { region } => {
            let region = region.as_deref().unwrap_or("*");
            let connect = format!("iot:Connect on arn:aws:iot:{region}:*:client/{client_id}");
            let publish = format!("iot:Publish on arn:aws:iot:{region}:*:topic/{topic}");
            match doing {
                "connecting" => {
                    format!("allow in the certificate's IoT policy: {connect}; and see that it is attached")
                }
                "publishing" => format!("allow in the certificate's IoT policy: {publish}"),
                _ => format!(
                    "allow in the certificate's IoT policy: {connect}, and {publish}; version = \"5\" tells which"
                ),
            }
        }
        Place::Broker => match doing {
            "connecting" => format!("let \"{client_id}\" connect in the broker's access rules"),
            _ => format!("let \"{client_id}\" publish to \"{topic}\" in the broker's access rules"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::settings;
    use super::*;

    fn judged(judge: impl Fn(&Context<'_>) -> Verdict) -> (&'static str, bool, String) {
        let settings = settings(
            "[[uplink]]\nkind = \"iot_core\"\nendpoint = \"abc-ats.iot.eu-west-1.amazonaws.com\"\nrule = \"fogbeat\"\n",
        );
        let context = Context { settings: &settings, expires: None, now: OffsetDateTime::UNIX_EPOCH };
        let Verdict { failure, stuck } = judge(&context);
        (failure.cause, stuck, failure.remedy.unwrap_or_default())
    }

    /// Somebody must act where waiting is of no use, and only there.
    #[test]
    fn every_reason_code_has_its_meaning() {
        use ConnectReturnCode as Connack;
        use DisconnectReasonCode as Disconnect;
        let connect = "iot:Connect on arn:aws:iot:eu-west-1:*:client/gw-1";
        let publish = "iot:Publish on arn:aws:iot:eu-west-1:*:topic/$aws/rules/fogbeat/gw-1";
        for (code, cause, stuck, remedy) in [
            (Connack::NotAuthorized, "not_authorized", true, connect),
            (Connack::Banned, "not_authorized", true, connect),
            (Connack::BadUserNamePassword, "credentials", true, "password_file"),
            (Connack::ClientIdentifierNotValid, "client_id", true, "[[uplink]].thing"),
            (Connack::UnsupportedProtocolVersion, "version", true, "\"3.1.1\""),
            (Connack::ServerMoved, "endpoint", true, "[[uplink]].endpoint"),
            (Connack::QuotaExceeded, "quota", false, ""),
            (Connack::ConnectionRateExceeded, "quota", false, ""),
            (Connack::ServerUnavailable, "refused_connection", false, ""),
        ] {
            let (told, acts, line) = judged(|context| refused(code, context));
            assert!(
                (told, acts) == (cause, stuck) && line.contains(remedy),
                "{code:?}: {told} {acts} {line}"
            );
        }
        for (code, cause, stuck, remedy) in [
            (PubAckReason::NotAuthorized, "not_authorized", true, publish),
            (PubAckReason::TopicNameInvalid, "topic", true, "rule"),
            (PubAckReason::QuotaExceeded, "quota", false, ""),
            (PubAckReason::UnspecifiedError, "refused", false, ""),
        ] {
            let (told, acts, line) = judged(|context| self::publish(code, None, context));
            assert!(
                (told, acts) == (cause, stuck) && line.contains(remedy),
                "{code:?}: {told} {acts} {line}"
            );
        }
        for (code, cause, stuck, remedy) in [
            (Disconnect::SessionTakenOver, "taken_over", true, "[[uplink]].thing"),
            (Disconnect::NotAuthorized, "not_authorized", true, publish),
            (Disconnect::PacketTooLarge, "too_large", true, "[batch].max_bytes"),
            (Disconnect::MessageRateTooHigh, "quota", false, ""),
            (Disconnect::QuotaExceeded, "quota", false, ""),
            (Disconnect::ReceiveMaximumExceeded, "quota", false, ""),
            (Disconnect::KeepAliveTimeout, "connection", false, ""),
            (Disconnect::ServerShuttingDown, "connection", false, ""),
        ] {
            let (told, acts, line) = judged(|context| by_server(code, None, context));
            assert!(
                (told, acts) == (cause, stuck) && line.contains(remedy),
                "{code:?}: {told} {acts} {line}"
            );
        }
    }

    #[test]
    fn a_connection_that_is_closed_again_and_again_is_a_refusal() {
        let closed = |unanswered| {
            let broken = Ended::Broken("-".to_owned());
            judged(|context| ended(&broken, &RelayEnd::Closed, unanswered, context))
        };
        assert_eq!((closed(0).0, closed(2).0), ("connection", "connection"));
        let (cause, stuck, remedy) = closed(3);
        assert_eq!((cause, stuck), ("not_authorized", true));
        assert!(remedy.contains("iot:Connect") && remedy.contains("iot:Publish"), "{remedy}");
    }
}
