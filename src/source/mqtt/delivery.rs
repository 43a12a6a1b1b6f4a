//! What a session has subscribed to, and its messages on the way to the client.
//!
//! Delivered QoS is the lesser of the subscription's and the publish's, at most 1. A message with QoS 1 is kept
//! until its PUBACK and sent again, marked, on the session's next connection. What is in flight is bounded by
//! [`WINDOW`], what waits behind it by the router's log (the oldest goes first).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::codec::{RetainHandling, Subscription};
use super::message::{self, Manner, Origin, client_topic};
use super::permission::Permissions;
use super::publish::{Qos, Version};
use super::router::{Hub, HubError, Link};
use super::topic;

/// Most QoS 1 messages on the way to one client.
const WINDOW: usize = 100;
/// Most retained messages that a session may be owed at once; what exceeds it is dropped.
const OWED: usize = 10_000;
/// What one of them, or one that is in flight, costs beside the message itself.
const PLACE: usize = 80;

/// The subscribing side of a session.
#[derive(Debug, Default)]
pub(crate) struct Subscriber {
    subscriptions: Vec<Subscription>,
    filter_bytes: usize,
    link: Option<Link>,
    /// Retained messages that a new subscription is owed; shared bytes, bounded by the store of retained messages.
    owed: VecDeque<(Bytes, Bytes)>,
    /// Sent with QoS 1, not yet acknowledged.
    in_flight: VecDeque<(u16, Bytes, Bytes)>,
    last_pkid: u16,
}

/// What the connection knows that a message's way to it depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    pub version: Version,
    pub origin: Origin,
    pub receive_maximum: u16,
    pub max_packet: usize,
}

impl Subscriber {
    /// SUBSCRIBE: one code per filter. `Err`: the router is gone.
    pub(crate) async fn subscribe(
        &mut self,
        wanted: Vec<Subscription>,
        version: Version,
        permissions: &Permissions,
        hub: &Hub,
        most: usize,
    ) -> Result<Vec<u8>, HubError> {
        let mut codes = Vec::with_capacity(wanted.len());
        for subscription in wanted {
            let granted = self.subscribe_one(subscription, permissions, hub, most).await?;
            codes.push(match (granted, version) {
                (Ok(qos), _) => qos as u8,
                (Err(_), Version::V4) => 0x80,
                (Err(code), Version::V5) => code,
            });
        }
        Ok(codes)
    }

    async fn subscribe_one(
        &mut self,
        mut wanted: Subscription,
        permissions: &Permissions,
        hub: &Hub,
        most: usize,
    ) -> Result<Result<Qos, u8>, HubError> {
        if wanted.filter.starts_with("$share/") {
            return Ok(Err(0x9E));
        }
        if !topic::valid_filter(&wanted.filter) {
            return Ok(Err(0x8F));
        }
        if !permissions.subscribe(&wanted.filter) {
            return Ok(Err(0x87));
        }
        wanted.qos = wanted.qos.min(Qos::AtLeastOnce);
        let qos = wanted.qos;
        let known = self.subscriptions.iter().position(|s| s.filter == wanted.filter);
        if known.is_none() {
            if self.subscriptions.len() >= most {
                return Ok(Err(0x97));
            }
            if self.link.is_none() {
                match hub.attach().await {
                    Err(HubError::Subscribers) => return Ok(Err(0x97)),
                    attached => self.link = Some(attached?),
                }
            }
            if let Some(link) = self.link.as_mut() {
                match link.subscribe(&wanted.filter).await {
                    Err(HubError::Filters) => return Ok(Err(0x97)),
                    other => other?,
                }
            }
        }
        let new = known.is_none();
        if wanted.retain == RetainHandling::Always || (wanted.retain == RetainHandling::IfNew && new) {
            let room = OWED.saturating_sub(self.owed.len());
            self.owed.extend(hub.retained(&wanted.filter).into_iter().take(room));
        }
        match known.and_then(|at| self.subscriptions.get_mut(at)) {
            Some(old) => *old = wanted,
            None => {
                self.filter_bytes += wanted.filter.len();
                self.subscriptions.push(wanted);
            }
        }
        Ok(Ok(qos))
    }

    /// UNSUBSCRIBE: one code per filter (0x00, or 0x11: there was none).
    pub(crate) async fn unsubscribe(&mut self, filters: &[String]) -> Result<Vec<u8>, HubError> {
        let mut codes = Vec::with_capacity(filters.len());
        for filter in filters {
            let Some(at) = self.subscriptions.iter().position(|s| s.filter == *filter) else {
                codes.push(0x11);
                continue;
            };
            self.filter_bytes -= self.subscriptions.swap_remove(at).filter.len();
            if let Some(link) = self.link.as_mut() {
                link.unsubscribe(filter).await?;
            }
            codes.push(0x00);
        }
        if self.subscriptions.is_empty() {
            self.link = None;
        }
        Ok(codes)
    }

    /// A session goes on with a new connection: its subscriptions are made again if the router was replaced
    /// meanwhile, and what was in flight is sent again.
    pub(crate) async fn resume(
        &mut self,
        hub: &Hub,
        client: Client,
        out: &mut BytesMut,
        now: u64,
    ) -> Result<(), HubError> {
        if !self.subscriptions.is_empty() && !self.link.as_ref().is_some_and(Link::alive) {
            self.link = None;
            match self.relink(hub).await {
                Ok(link) => self.link = Some(link),
                // No room for them any more: better without subscriptions than not at all.
                Err(HubError::Subscribers | HubError::Filters) => {
                    self.subscriptions.clear();
                    self.filter_bytes = 0;
                    self.owed.clear();
                }
                Err(HubError::Dead) => return Err(HubError::Dead),
            }
        }
        let manner = Manner {
            version: client.version,
            qos: Qos::AtLeastOnce,
            pkid: 0,
            dup: true,
            retain: false,
            max_packet: client.max_packet,
            uptime_ms: now,
        };
        self.in_flight.retain(|(pkid, name, envelope)| {
            let Some(opened) = message::open(envelope) else { return false };
            message::write(out, &client_topic(name), &opened, Manner { pkid: *pkid, ..manner })
        });
        Ok(())
    }

    async fn relink(&self, hub: &Hub) -> Result<Link, HubError> {
        let mut link = hub.attach().await?;
        for subscription in &self.subscriptions {
            link.subscribe(&subscription.filter).await?;
        }
        Ok(link)
    }

    /// Bytes of its tables, without the messages themselves.
    pub(crate) fn weight(&self) -> usize {
        self.subscriptions.capacity() * size_of::<Subscription>()
            + self.filter_bytes
            + (self.owed.capacity() + self.in_flight.capacity()) * PLACE
    }

    /// Does a router have its subscriptions?
    pub(crate) fn linked(&self) -> bool {
        self.link.is_some()
    }

    /// Has its router been given up?
    pub(crate) fn orphaned(&self) -> bool {
        self.link.as_ref().is_some_and(|link| !link.alive())
    }

    /// Room for another message?
    pub(crate) fn ready(&self, client: Client) -> bool {
        self.link.is_some() && self.in_flight.len() < WINDOW.min(usize::from(client.receive_maximum))
    }

    /// Writes the retained messages that are owed, as far as there is room.
    pub(crate) fn pay(&mut self, client: Client, out: &mut BytesMut, limit: usize, now: u64) {
        while out.len() < limit && self.ready(client) {
            let Some((name, envelope)) = self.owed.pop_front() else { return };
            self.write(&name, &envelope, client, out, now, true);
        }
    }

    pub(crate) fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// The next message of the router. Cancel-safe. Never returns without a link.
    pub(crate) async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, HubError> {
        match self.link.as_mut() {
            Some(link) => link.next().await,
            None => std::future::pending().await,
        }
    }

    /// Writes a message from the router.
    pub(crate) fn deliver(
        &mut self,
        name: &Bytes,
        envelope: &Bytes,
        client: Client,
        out: &mut BytesMut,
        now: u64,
    ) {
        self.write(name, envelope, client, out, now, false);
    }

    fn write(
        &mut self,
        inside: &Bytes,
        envelope: &Bytes,
        client: Client,
        out: &mut BytesMut,
        now: u64,
        retained: bool,
    ) {
        let name = client_topic(inside);
        let Some(opened) = message::open(envelope) else { return };
        let Ok(text) = std::str::from_utf8(&name) else { return };
        let mut granted = None;
        let mut as_published = false;
        for s in self.subscriptions.iter().filter(|s| topic::matches(&s.filter, text)) {
            if s.no_local && opened.origin == client.origin {
                continue;
            }
            granted = granted.max(Some(s.qos));
            as_published |= s.retain_as_published;
        }
        // None: it was on the way when its subscription ended.
        let Some(granted) = granted else { return };
        let qos = granted.min(opened.qos);
        let pkid = if qos == Qos::AtMostOnce { 0 } else { self.free_pkid() };
        let manner = Manner {
            version: client.version,
            qos,
            pkid,
            dup: false,
            retain: retained || (as_published && opened.retain),
            max_packet: client.max_packet,
            uptime_ms: now,
        };
        if message::write(out, &name, &opened, manner) && qos != Qos::AtMostOnce {
            self.in_flight.push_back((pkid, inside.clone(), envelope.clone()));
        }
    }

    fn free_pkid(&mut self) -> u16 {
        loop {
            self.last_pkid = self.last_pkid.checked_add(1).unwrap_or(1);
            if !self.in_flight.iter().any(|(pkid, ..)| *pkid == self.last_pkid) {
                return self.last_pkid;
            }
        }
    }

    /// PUBACK, in any order; unknown ids are ignored.
    pub(crate) fn acknowledged(&mut self, pkid: u16) {
        if let Some(at) = self.in_flight.iter().position(|(known, ..)| *known == pkid) {
            self.in_flight.remove(at);
        }
    }
}
