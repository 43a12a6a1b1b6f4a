//! The way in: PUBLISH packets of one connection become readings, staged until one append per socket read.
//!
//! A topic is looked at once: its mapping, its device and the permission are kept per connection, so that a publish
//! on a known topic costs one comparison. Nothing is allocated per message unless it must be passed on to local
//! subscribers or is retained.

use std::collections::HashMap;

use super::ack::Reason;
use super::mapping::{DecodeContext, Mappings, Route};
use super::message::{Message, Origin};
use super::metrics::Metrics;
use super::payload::Cause;
use super::permission::{Permission, Permissions};
use super::publish::{Malformed, Publish, Qos, Version};
use super::refused::Ring;
use super::router::Hub;
use super::session::Wait;
use super::topic;
use crate::clock::Stamp;
use crate::journal::{Appended, Journal, Refusal};
use crate::reading::{DeviceId, Reading, Source};
use crate::relayed::{self, PutError, Shelf};

/// Topics remembered per connection; beyond it the memory starts anew.
const TOPICS: usize = 256;
/// What a remembered topic costs beside its name, which is kept twice.
const TOPIC_COST: usize = 128;
/// Topic aliases a client may set (announced in CONNACK).
pub(crate) const ALIASES: u16 = 16;
/// Publishes taken in before an append, so that one socket read with very small packets stays bounded.
pub(crate) const STAGED: usize = 1000;
/// Bytes of messages for local subscribers that one connection may hold until they are durable.
const HELD_BYTES: usize = 1 << 20;

/// Batches of other gateways taken in before they are written: no more than a large packet or two.
const STAGED_MEMBER_BYTES: usize = 256 << 10;

/// Where what is staged goes.
pub(crate) struct Places<'a> {
    pub journal: &'a Journal,
    pub members: Option<&'a Shelf>,
    pub wall_ms: i64,
    pub version: Version,
}

/// What the listener's connections share for taking in.
pub(crate) struct Means<'a> {
    pub journal: &'a Journal,
    pub takes_members: bool,
    pub mappings: &'a Mappings,
    pub hub: &'a Hub,
    pub metrics: &'a Metrics,
    pub ring: &'a Ring,
    pub permissions: &'a Permissions,
    pub client_id: &'a str,
    pub version: Version,
    pub origin: Origin,
    pub now: Stamp,
    /// QoS 2 packet ids that may wait for their PUBREL.
    pub exchanges: usize,
}

/// Why a publish ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejected {
    Malformed(Malformed),
    /// 3.1.1 has no way to say so but closing.
    NotAuthorized,
}

impl From<Malformed> for Rejected {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

/// An answer (or a message to pass on) that waits.
#[derive(Debug)]
pub(crate) struct Pending {
    pub wait: Wait,
    pub qos: Qos,
    pub pkid: u16,
    pub message: Option<Box<Message>>,
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// The next so many of the staged readings.
    Readings(u32),
    /// The next of the staged batches of other gateways.
    Member,
    Settled(Wait),
}

#[derive(Debug)]
struct Staged {
    qos: Qos,
    pkid: u16,
    outcome: Outcome,
    message: Option<Box<Message>>,
}

/// What a topic means for this connection.
enum Verdict {
    Readings {
        route: Route,
        device: Option<DeviceId>,
        own: bool,
    },
    /// Batches of another gateway.
    Members,
    NotReadings,
    Denied,
}

/// The staging area of one connection; its buffers are reused.
#[derive(Default)]
pub(crate) struct Intake {
    names: HashMap<Box<[u8]>, usize>,
    verdicts: Vec<(Box<[u8]>, Verdict)>,
    last: usize,
    aliases: Vec<Option<Box<[u8]>>>,
    staged: Vec<Staged>,
    readings: Vec<Reading>,
    /// Payloads that were not taken, for the journal's accounts.
    refusals: Vec<Refusal>,
    appended: Vec<Appended>,
    /// Batches of other gateways.
    members: Vec<Vec<u8>>,
    held_bytes: usize,
    /// Of the topics that were looked at.
    name_bytes: usize,
    alias_bytes: usize,
}

impl Intake {
    pub(crate) fn full(&self) -> bool {
        self.staged.len() >= STAGED || self.member_bytes() >= STAGED_MEMBER_BYTES
    }

    fn member_bytes(&self) -> usize {
        self.members.iter().map(Vec::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.staged.is_empty() && self.refusals.is_empty()
    }

    /// Bytes of its tables and staging areas. What is held for subscribers is counted elsewhere.
    pub(crate) fn weight(&self) -> usize {
        self.name_bytes
            + self.alias_bytes
            + self.staged.capacity() * size_of::<Staged>()
            + self.readings.capacity() * size_of::<Reading>()
            + self.appended.capacity() * size_of::<Appended>()
            + self.member_bytes()
    }

    /// Gives back what only speeds things up.
    pub(crate) fn shrink(&mut self) {
        self.names = HashMap::new();
        self.verdicts = Vec::new();
        self.name_bytes = 0;
        self.staged.shrink_to_fit();
        self.readings.shrink_to_fit();
        self.appended.clear();
        self.appended.shrink_to_fit();
    }

    /// Reads one publish into the staging area.
    pub(crate) fn stage(
        &mut self,
        publish: &Publish<'_>,
        exchanges: &mut HashMap<u16, Wait>,
        means: &Means<'_>,
    ) -> Result<(), Rejected> {
        if publish.qos == Qos::ExactlyOnce {
            if let Some(wait) = exchanges.get(&publish.pkid) {
                // Sent again before its PUBREL: the same answer, nothing is stored twice.
                let outcome = Outcome::Settled(*wait);
                self.staged.push(Staged { qos: publish.qos, pkid: publish.pkid, outcome, message: None });
                return Ok(());
            }
            if exchanges.len() >= means.exchanges {
                return Err(Malformed::ReceiveMaximum.into());
            }
            exchanges.insert(publish.pkid, Wait::Refused(Reason::Repeated));
        }
        let aliased;
        let name = match publish.properties.alias {
            None => publish.topic,
            Some(alias) => {
                self.alias(alias, publish.topic)?;
                let known = self.aliases.get(usize::from(alias)).and_then(Option::as_deref);
                aliased = known.ok_or(Malformed::TopicAlias)?.to_vec();
                &aliased
            }
        };
        let at = self.look(name, means)?;
        let Some((_, verdict)) = self.verdicts.get(at) else { return Err(Malformed::TopicName.into()) };
        let outcome = match verdict {
            Verdict::Denied => {
                means.metrics.denied.inc();
                refuse(&mut self.refusals, None);
                if means.version == Version::V4 {
                    return Err(Rejected::NotAuthorized);
                }
                Outcome::Settled(Wait::Refused(Reason::NotAuthorized))
            }
            Verdict::Members if publish.qos == Qos::AtLeastOnce => {
                self.members.push(publish.payload.to_vec());
                Outcome::Member
            }
            // Nobody would send it again.
            Verdict::Members => Outcome::Settled(Wait::Refused(Reason::PayloadFormat)),
            Verdict::NotReadings => {
                means.metrics.unmapped.inc();
                means.ring.unmapped(means.now.wall_ms, means.client_id, name, publish.payload);
                let reason = if means.hub.wanted() { Reason::NotAReading } else { Reason::NoSubscriber };
                Outcome::Settled(Wait::Refused(reason))
            }
            Verdict::Readings { route, device, own } => {
                let outcome = decode(route, *device, *own, publish, name, means, &mut self.readings);
                if matches!(outcome, Outcome::Settled(_)) {
                    refuse(&mut self.refusals, *device);
                }
                outcome
            }
        };
        let refused = matches!(
            outcome,
            Outcome::Settled(Wait::Refused(
                Reason::PayloadFormat | Reason::TooManyDevices | Reason::NotAuthorized
            ))
        );
        let member = matches!(outcome, Outcome::Member);
        let message = if !refused && !member && (publish.retain || means.hub.wanted()) {
            self.hold(Message::of_publish(name, publish, means.origin, means.now.uptime_ms), means)
        } else {
            None
        };
        self.staged.push(Staged { qos: publish.qos, pkid: publish.pkid, outcome, message });
        Ok(())
    }

    /// Hands what is staged to the journal and says what each publish waits for.
    pub(crate) async fn append(
        &mut self,
        places: &Places<'_>,
        exchanges: &mut HashMap<u16, Wait>,
        metrics: &Metrics,
        pending: &mut impl Extend<Pending>,
    ) {
        let journal = places.journal;
        metrics.publishes.inc_by(self.staged.len() as u64);
        let mut kept = Vec::with_capacity(self.members.len());
        for member in std::mem::take(&mut self.members) {
            kept.push(keep(member, places).await);
        }
        let mut kept = kept.into_iter();
        self.appended.clear();
        journal.refuse(&self.refusals);
        self.refusals.clear();
        if !self.readings.is_empty() {
            metrics.readings.inc_by(self.readings.len() as u64);
            journal.append(&mut self.readings, &mut self.appended).await;
            self.readings.clear();
            let duplicates = self.appended.iter().filter(|a| a.duplicate).count();
            if duplicates > 0 {
                metrics.duplicates.inc_by(duplicates as u64);
            }
        }
        let mut appended = self.appended.iter();
        pending.extend(self.staged.drain(..).filter_map(|staged| {
            let wait = match staged.outcome {
                Outcome::Settled(wait) => wait,
                Outcome::Member => kept.next().unwrap_or(Wait::Never),
                Outcome::Readings(n) => {
                    let tickets = appended.by_ref().take(n as usize).map(|a| a.ticket);
                    tickets.max().map_or(Wait::Refused(Reason::NotAReading), Wait::Stored)
                }
            };
            if staged.qos == Qos::ExactlyOnce {
                exchanges.insert(staged.pkid, wait);
            }
            let Staged { qos, pkid, message, .. } = staged;
            (qos != Qos::AtMostOnce || message.is_some()).then_some(Pending { wait, qos, pkid, message })
        }));
    }

    /// A held message was passed on.
    pub(crate) fn released(&mut self, bytes: usize) {
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
    }

    fn hold(&mut self, message: Message, means: &Means<'_>) -> Option<Box<Message>> {
        if self.held_bytes + message.size() > HELD_BYTES {
            means.metrics.relay_dropped.inc();
            return None;
        }
        let message = means.hub.admit(message)?;
        self.held_bytes += message.size();
        Some(Box::new(message))
    }

    fn alias(&mut self, alias: u16, topic: &[u8]) -> Result<(), Malformed> {
        if alias > ALIASES {
            return Err(Malformed::TopicAlias);
        }
        if !topic.is_empty() {
            self.aliases.resize(usize::from(ALIASES) + 1, None);
            if let Some(slot) = self.aliases.get_mut(usize::from(alias)) {
                self.alias_bytes -= slot.as_ref().map_or(0, |old| old.len());
                self.alias_bytes += topic.len();
                *slot = Some(topic.into());
            }
        }
        Ok(())
    }

    /// The place of this topic's verdict.
    fn look(&mut self, name: &[u8], means: &Means<'_>) -> Result<usize, Malformed> {
        if self.verdicts.get(self.last).is_some_and(|(known, _)| &**known == name) {
            return Ok(self.last);
        }
        if let Some(&at) = self.names.get(name) {
            self.last = at;
            return Ok(at);
        }
        let text = std::str::from_utf8(name).ok().filter(|text| topic::valid_name(text));
        let text = text.ok_or(Malformed::TopicName)?;
        let verdict = judge(text, means);
        if self.verdicts.len() >= TOPICS {
            self.names.clear();
            self.verdicts.clear();
            self.name_bytes = 0;
        }
        self.name_bytes += TOPIC_COST + 2 * name.len();
        self.last = self.verdicts.len();
        self.names.insert(name.into(), self.last);
        self.verdicts.push((name.into(), verdict));
        Ok(self.last)
    }
}

/// Puts a batch of another gateway on disk; says what its acknowledgement is.
async fn keep(member: Vec<u8>, places: &Places<'_>) -> Wait {
    let Some(shelf) = places.members.cloned() else { return Wait::Never };
    let wall_ms = places.wall_ms;
    let kept = tokio::task::spawn_blocking(move || shelf.put(&member, wall_ms)).await;
    let error = match kept {
        Ok(Ok(kept)) => return Wait::Kept(kept),
        Ok(Err(error)) => error,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    tracing::debug!(%error, "a batch of another gateway is not taken");
    match (places.version, error) {
        // There, every answer would say that it is kept.
        (Version::V4, _) | (_, PutError::Write(_)) => Wait::Never,
        (Version::V5, PutError::Full) => Wait::Refused(Reason::NoRoom),
        (Version::V5, _) => Wait::Refused(Reason::PayloadFormat),
    }
}

/// Notes a payload that was not taken.
fn refuse(refusals: &mut Vec<Refusal>, device: Option<DeviceId>) {
    match refusals.last_mut() {
        Some((last, count)) if *last == device => *count += 1,
        _ => refusals.push((device, 1)),
    }
}

fn judge(name: &str, means: &Means<'_>) -> Verdict {
    let own = match means.permissions.publish(name) {
        Permission::Denied => return Verdict::Denied,
        Permission::Any if means.takes_members && name.starts_with(relayed::TOPIC) => {
            return Verdict::Members;
        }
        Permission::Own => true,
        Permission::Any => false,
    };
    let Some(route) = means.mappings.route(name) else { return Verdict::NotReadings };
    let device = match route.topic_device() {
        // A topic of its own, in which the mapping finds another device.
        Some(device) if own && means.permissions.name() != Some(device) => return Verdict::Denied,
        Some(device) => means.journal.devices().intern(device),
        None => None,
    };
    Verdict::Readings { route, device, own }
}

fn decode(
    route: &Route,
    device: Option<DeviceId>,
    own: bool,
    publish: &Publish<'_>,
    name: &[u8],
    means: &Means<'_>,
    readings: &mut Vec<Reading>,
) -> Outcome {
    let first = readings.len();
    let foreign = std::cell::Cell::new(false);
    let devices = |device: &str| {
        if own && means.permissions.name() != Some(device) {
            foreign.set(true);
            return None;
        }
        means.journal.devices().intern(device)
    };
    let context =
        DecodeContext { arrival: means.now, topic_device: device, devices: &devices, source: Source::Mqtt };
    match route.decode(publish.payload, &context, readings) {
        Ok(()) => {
            let new = readings.get(first..).unwrap_or_default();
            if publish.dup {
                let unstamped = new.iter().filter(|r| r.device_time.is_none()).count();
                means.metrics.possible_duplicates.inc_by(unstamped as u64);
            }
            Outcome::Readings(u32::try_from(new.len()).unwrap_or(u32::MAX))
        }
        Err(error) => {
            readings.truncate(first);
            let (cause, reason) = match error.cause {
                // In a topic of its own a device speaks for itself only.
                _ if foreign.get() => ("foreign_device", Reason::PayloadFormat),
                Cause::TooManyDevices => (error.cause.as_str(), Reason::TooManyDevices),
                _ => (error.cause.as_str(), Reason::PayloadFormat),
            };
            Metrics::count(&means.metrics.unreadable, cause);
            means.ring.push(means.now.wall_ms, means.client_id, name, publish.payload, cause);
            Outcome::Settled(Wait::Refused(reason))
        }
    }
}
