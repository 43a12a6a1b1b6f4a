//! Heart rates that wearables broadcast in their advertisements: no connection, no limit on how many, no RR intervals.
//!
//! Input is manufacturer specific data without its company id, as Bluetooth stacks hand it over. Known companies:
//! Polar (0x006B), Huami (0x0157: Mi Band, Amazfit), XOSS (0xFF04). Garmin and most other straps put no heart rate
//! into their advertisements. Whether a broadcast is a new measurement or the same one heard again is
//! [`FrameFilter`]'s question; Polar numbers its frames, the others do not.

use super::Contact;

/// Bluetooth company ids with a known heart rate broadcast.
pub const POLAR: u16 = 0x006B;
pub const HUAMI: u16 = 0x0157;
pub const XOSS: u16 = 0xFF04;

/// What one advertisement says about the heart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broadcast {
    /// `None`: the wearable broadcasts, but has no reading now. 0 is handed over as sent.
    pub bpm: Option<u16>,
    pub contact: Contact,
    /// 0 to 100 %.
    pub battery_percent: Option<u8>,
    /// The wearable's own address, where the payload carries it: stable even when the radio address is not.
    pub address: Option<[u8; 6]>,
    /// Polar: counts 0 to 7 with every new measurement.
    pub frame: Option<u8>,
}

/// Decodes manufacturer data. `None`: not a heart rate broadcast. Makers send frames of many kinds under one company
/// id, so one that does not have the known form is another kind, not a defect.
pub fn decode(company: u16, data: &[u8]) -> Option<Broadcast> {
    match company {
        POLAR => PolarBroadcast::decode(data).map(|polar| Broadcast {
            bpm: Some(u16::from(polar.hr_slow)),
            contact: if polar.contact { Contact::Detected } else { Contact::NotDetected },
            battery_percent: None,
            address: None,
            frame: Some(polar.frame_counter),
        }),
        HUAMI => huami(data),
        XOSS => xoss(data),
        _ => None,
    }
}

/// The heart rate block of a Polar advertisement, as laid out in Polar's own SDK (polar-ble-sdk,
/// `BlePolarHrAdvertisement`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolarBroadcast {
    /// `false`: look at the battery.
    pub battery_ok: bool,
    pub contact: bool,
    /// 0 to 7; changes with every new measurement.
    pub frame_counter: u8,
    pub broadcast_bit: bool,
    pub status_flag: bool,
    pub khz_code: u8,
    /// The quick average; 0 on some straps.
    pub hr_fast: u8,
    /// The slow average: what Polar's own displays show.
    pub hr_slow: u8,
}

impl PolarBroadcast {
    const OTHER_BLOCK: u8 = 0x40;
    const SHORTEST: usize = 3;
    const STEP: usize = 5;

    /// Walks the blocks of the data; of several heart rate blocks the last one counts, as in the SDK. `None`: there is
    /// none.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let mut rest = data;
        let mut found = None;
        while let Some((&status, tail)) = rest.split_first() {
            if status & Self::OTHER_BLOCK != 0 {
                let Some((&length, tail)) = tail.split_first() else { break };
                rest = tail.get(usize::from(length)..).unwrap_or_default();
                continue;
            }
            if rest.len() >= Self::SHORTEST {
                found = Self::block(status, tail).or(found);
            }
            rest = rest.get(Self::STEP..).unwrap_or_default();
        }
        found
    }

    fn block(status: u8, tail: &[u8]) -> Option<Self> {
        let (&khz_code, tail) = tail.split_first()?;
        let (&hr_fast, tail) = tail.split_first()?;
        Some(Self {
            battery_ok: status & 0x01 != 0,
            contact: status & 0x02 != 0,
            frame_counter: status >> 2 & 0x07,
            broadcast_bit: status & 0x20 != 0,
            status_flag: status & 0x80 != 0,
            khz_code,
            hr_fast,
            hr_slow: tail.first().copied().unwrap_or(hr_fast),
        })
    }
}

/// Huami: 24 bytes, the first 0x02, the fourth the heart rate (0xF0 and above: none), the last six the address.
fn huami(data: &[u8]) -> Option<Broadcast> {
    let frame: &[u8; 24] = data.try_into().ok()?;
    let [0x02, _, _, bpm, _, _, _, _, _, _, _, _, _, _, _, _, _, _, address @ ..] = frame else {
        return None;
    };
    Some(Broadcast {
        bpm: (*bpm < 0xF0).then_some(u16::from(*bpm)),
        contact: Contact::Unsupported,
        battery_percent: None,
        address: Some(*address),
        frame: None,
    })
}

/// XOSS: the second of four bytes is the battery (upper bit: a flag), the fourth the heart rate.
fn xoss(data: &[u8]) -> Option<Broadcast> {
    let [_, battery, _, bpm] = data else { return None };
    Some(Broadcast {
        bpm: Some(u16::from(*bpm)),
        contact: Contact::Unsupported,
        battery_percent: Some(battery & 0x7F).filter(|percent| *percent <= 100),
        address: None,
        frame: None,
    })
}

/// Tells a new frame from one heard again, by its counter. One filter per wearable.
///
/// A wearable repeats each frame many times; only a changed counter is a new measurement. A strap off the body may
/// repeat its last frame for ever: as long as it is heard, that frame never becomes new again. After a silence longer
/// than `max_age_ms` the counter may have gone round, so the first frame then counts as new.
#[derive(Debug, Clone)]
pub struct FrameFilter {
    max_age_ms: u64,
    last: Option<(u8, u64)>,
}

impl FrameFilter {
    /// Counters go round in 8 measurements, about 8 s; well below that.
    pub const MAX_AGE_MS: u64 = 5_000;

    pub const fn new(max_age_ms: u64) -> Self {
        Self { max_age_ms, last: None }
    }

    /// Whether `frame`, heard at `uptime_ms`, is a new measurement.
    pub fn is_new(&mut self, frame: u8, uptime_ms: u64) -> bool {
        let repeated = self
            .last
            .is_some_and(|(last, heard)| last == frame && uptime_ms.saturating_sub(heard) <= self.max_age_ms);
        self.last = Some((frame, uptime_ms));
        !repeated
    }
}

impl Default for FrameFilter {
    fn default() -> Self {
        Self::new(Self::MAX_AGE_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_of_other_kinds_are_stepped_over() {
        let vantage = hex::decode("720872acf50200000000310058").unwrap();
        let polar = PolarBroadcast::decode(&vantage).unwrap();
        assert_eq!((polar.hr_slow, polar.hr_fast), (0x58, 0x58), "three bytes: slow is fast");
        assert_eq!(PolarBroadcast::decode(&[0x72, 0xff, 1, 2, 3]), None);
        assert_eq!(PolarBroadcast::decode(&[0x33, 0x00]), None);
    }

    #[test]
    fn captured_h7_blocks() {
        for (bytes, bpm) in [("3b1b5452", 82), ("3b164446", 70), ("2f166b68", 104)] {
            let read = decode(POLAR, &hex::decode(bytes).unwrap()).unwrap();
            assert_eq!(read.bpm, Some(bpm));
            assert_eq!(read.contact, Contact::Detected);
        }
    }

    #[test]
    fn xoss_x2() {
        let read = decode(XOSS, &[0x00, 0xe1, 0x00, 0x3f]).unwrap();
        assert_eq!((read.bpm, read.battery_percent), (Some(63), Some(97)));
        assert_eq!(decode(XOSS, &[0x00, 0xe1, 0x00]), None);
    }

    #[test]
    fn short_and_foreign_data() {
        let mut frame = [0xff; 24];
        frame[0] = 0x01;
        assert_eq!(decode(HUAMI, &frame), None, "another kind of frame");
        assert_eq!(decode(HUAMI, &[0x02, 0x02, 0x01, 0x7d]), None);
        assert_eq!(decode(0x004C, &[0x10, 0x05, 0x01]), None);
    }

    #[test]
    fn a_frame_that_is_repeated_for_ever_stays_old() {
        let mut filter = FrameFilter::default();
        assert!(filter.is_new(3, 0));
        assert!((1..600).all(|tenth| !filter.is_new(3, tenth * 1000)));
        assert!(filter.is_new(3, 599_000 + FrameFilter::MAX_AGE_MS + 1), "the counter may have gone round");
        assert!(filter.is_new(4, 605_000));
    }

    proptest! {
        #[test]
        fn arbitrary_data_never_panics(data in proptest::collection::vec(any::<u8>(), 0..64), other in any::<u16>()) {
            for company in [POLAR, HUAMI, XOSS, other] {
                let _ = decode(company, &data);
            }
        }
    }
}
