//! Acknowledgements. The functions that write PUBACK and PUBREC take an [`Ack`], and an `Ack` is made of the
//! journal's proof or of a refusal: no code path can acknowledge a reading that is not on disk.

use bytes::{BufMut, BytesMut};

use super::publish::Version;
use crate::journal::Durable;
use crate::relayed::Kept;

/// What a publisher is told.
#[derive(Debug, Clone, Copy)]
pub enum Ack {
    /// Its readings are on disk.
    Stored(Durable),
    /// The batch of another gateway is on disk.
    Kept(Kept),
    /// Nothing was stored, for this reason. MQTT 3.1.1 cannot say so: there it is a plain acknowledgement.
    Refused(Reason),
}

/// Why nothing was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The topic carries no readings; the message went to local subscribers.
    NotAReading,
    /// The topic carries no readings, and nobody here has subscribed to it.
    NoSubscriber,
    /// The payload cannot be read.
    PayloadFormat,
    /// The client may not publish to this topic. Only MQTT 5 is told so; 3.1.1 is disconnected instead.
    NotAuthorized,
    /// The limit on distinct devices is reached.
    TooManyDevices,
    /// There is no room for batches of other gateways. Only MQTT 5 is told so; 3.1.1 gets no answer.
    NoRoom,
    /// A message that was answered for good before and is sent again (QoS 2, DUP).
    Repeated,
}

impl Ack {
    /// Reason code (MQTT 5, sections 3.4.2.1 and 3.5.2.1).
    fn code(self) -> u8 {
        match self {
            Self::Stored(_) | Self::Kept(_) | Self::Refused(Reason::NotAReading | Reason::Repeated) => 0x00,
            Self::Refused(Reason::NoSubscriber) => 0x10,
            Self::Refused(Reason::NotAuthorized) => 0x87,
            Self::Refused(Reason::TooManyDevices | Reason::NoRoom) => 0x97,
            Self::Refused(Reason::PayloadFormat) => 0x99,
        }
    }

    /// A PUBREC with an error code ends the exchange: no PUBREL follows.
    pub(crate) fn ends_qos2(self, version: Version) -> bool {
        version == Version::V5 && self.code() >= 0x80
    }
}

pub(crate) fn puback(out: &mut BytesMut, version: Version, pkid: u16, ack: Ack) {
    answer(out, version, 0x40, pkid, ack.code());
}

pub(crate) fn pubrec(out: &mut BytesMut, version: Version, pkid: u16, ack: Ack) {
    answer(out, version, 0x50, pkid, ack.code());
}

/// PUBCOMP: the exchange is over; `known` says whether the packet id was.
pub(crate) fn pubcomp(out: &mut BytesMut, version: Version, pkid: u16, known: bool) {
    answer(out, version, 0x70, pkid, if known { 0x00 } else { 0x92 });
}

fn answer(out: &mut BytesMut, version: Version, first: u8, pkid: u16, code: u8) {
    let [high, low] = pkid.to_be_bytes();
    if version == Version::V4 || code == 0 {
        out.put_slice(&[first, 2, high, low]);
    } else {
        out.put_slice(&[first, 3, high, low, code]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_carry_their_code_in_v5_only() {
        let mut out = BytesMut::new();
        puback(&mut out, Version::V4, 0x0102, Ack::Refused(Reason::PayloadFormat));
        puback(&mut out, Version::V5, 0x0102, Ack::Refused(Reason::PayloadFormat));
        pubrec(&mut out, Version::V5, 3, Ack::Refused(Reason::NotAReading));
        pubcomp(&mut out, Version::V5, 4, false);
        assert_eq!(&out[..], [0x40, 2, 1, 2, 0x40, 3, 1, 2, 0x99, 0x50, 2, 0, 3, 0x70, 3, 0, 4, 0x92]);
        assert!(Ack::Refused(Reason::PayloadFormat).ends_qos2(Version::V5));
        assert!(!Ack::Refused(Reason::PayloadFormat).ends_qos2(Version::V4));
    }
}
