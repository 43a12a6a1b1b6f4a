//! Heart Rate Measurement (characteristic 0x2A37) and Body Sensor Location (0x2A38) of the Bluetooth SIG Heart Rate
//! Service 1.0.
//!
//! Layout of 0x2A37: flags; bpm (u8, or u16 LE with flag bit 0); energy in kJ (u16 LE, with bit 3); RR intervals
//! (u16 LE each, 1/1024 s, oldest first, with bit 4). Bits 1-2 are the skin contact, bits 5-7 are reserved and ignored.
//! The energy field comes and goes from packet to packet, and with it the place where RR intervals begin.
//!
//! What real sensors do and this decoder takes: the RR flag without RR bytes (no intervals), and one odd byte at the
//! end (counted, the complete intervals are kept). Values are handed over as they are; judging them is
//! [`super::validity`]'s part.

use smallvec::SmallVec;

use super::Contact;

const BPM_U16: u8 = 0b0_0001;
const CONTACT_DETECTED: u8 = 0b0_0010;
const CONTACT_SUPPORTED: u8 = 0b0_0100;
const ENERGY: u8 = 0b0_1000;
const RR: u8 = 0b1_0000;

/// One decoded 0x2A37 value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeartRateMeasurement {
    /// Beats per minute as sent; 0 means "no clean signal".
    pub bpm: u16,
    pub contact: Contact,
    /// Cumulative energy expended, kJ; stands at 65,535 once it is full.
    pub energy_kj: Option<u16>,
    /// RR intervals in 1/1024 s, oldest first. Nine fit the smallest ATT packet, a larger MTU may carry more.
    pub rr: SmallVec<[u16; 9]>,
    /// The sensor announced RR intervals, also when none followed.
    pub rr_flag: bool,
    /// Bytes behind the last complete field: 0 or 1 when RR intervals were announced.
    pub trailing_bytes: usize,
}

/// Why bytes are no 0x2A37 value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HrmError {
    #[error("the Heart Rate Measurement is empty; at least flags and a heart rate are needed")]
    Empty,
    #[error("the Heart Rate Measurement ends within its heart rate")]
    ShortBpm,
    #[error("the Heart Rate Measurement ends within its energy field")]
    ShortEnergy,
}

/// Decodes a 0x2A37 value.
///
/// # Errors
/// When the value is empty or ends within the heart rate or the announced energy.
pub fn decode(bytes: &[u8]) -> Result<HeartRateMeasurement, HrmError> {
    let (&flags, rest) = bytes.split_first().ok_or(HrmError::Empty)?;
    let (bpm, rest) = if flags & BPM_U16 != 0 {
        u16_le(rest).ok_or(HrmError::ShortBpm)?
    } else {
        let (&bpm, rest) = rest.split_first().ok_or(HrmError::ShortBpm)?;
        (u16::from(bpm), rest)
    };
    let (energy_kj, rest) = if flags & ENERGY != 0 {
        let (energy, rest) = u16_le(rest).ok_or(HrmError::ShortEnergy)?;
        (Some(energy), rest)
    } else {
        (None, rest)
    };
    let rr_flag = flags & RR != 0;
    let mut rr = SmallVec::new();
    let mut rest = rest;
    if rr_flag {
        while let Some((interval, tail)) = u16_le(rest) {
            rr.push(interval);
            rest = tail;
        }
    }
    Ok(HeartRateMeasurement {
        bpm,
        contact: contact(flags),
        energy_kj,
        rr,
        rr_flag,
        trailing_bytes: rest.len(),
    })
}

/// The status bit means something only together with the support bit.
fn contact(flags: u8) -> Contact {
    match (flags & CONTACT_SUPPORTED != 0, flags & CONTACT_DETECTED != 0) {
        (false, _) => Contact::Unsupported,
        (true, false) => Contact::NotDetected,
        (true, true) => Contact::Detected,
    }
}

fn u16_le(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (value, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_le_bytes(*value), rest))
}

impl HeartRateMeasurement {
    /// Appends the value as a sensor would send it: one byte of heart rate where that is enough. `rr_flag` is set
    /// when it is set here or when there are intervals; trailing bytes are not written.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let narrow = u8::try_from(self.bpm).ok();
        let mut flags = match self.contact {
            Contact::Unsupported => 0,
            Contact::NotDetected => CONTACT_SUPPORTED,
            Contact::Detected => CONTACT_SUPPORTED | CONTACT_DETECTED,
        };
        if narrow.is_none() {
            flags |= BPM_U16;
        }
        if self.energy_kj.is_some() {
            flags |= ENERGY;
        }
        if self.rr_flag || !self.rr.is_empty() {
            flags |= RR;
        }
        out.push(flags);
        match narrow {
            Some(bpm) => out.push(bpm),
            None => out.extend_from_slice(&self.bpm.to_le_bytes()),
        }
        if let Some(energy) = self.energy_kj {
            out.extend_from_slice(&energy.to_le_bytes());
        }
        for interval in &self.rr {
            out.extend_from_slice(&interval.to_le_bytes());
        }
    }
}

/// Where a sensor is worn (0x2A38); read once per connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BodyLocation {
    Other,
    Chest,
    Wrist,
    Finger,
    Hand,
    EarLobe,
    Foot,
}

impl BodyLocation {
    /// Decodes a 0x2A38 value. `None`: empty, or one of the reserved values 7 to 255.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Some(match bytes.first()? {
            0 => Self::Other,
            1 => Self::Chest,
            2 => Self::Wrist,
            3 => Self::Finger,
            4 => Self::Hand,
            5 => Self::EarLobe,
            6 => Self::Foot,
            _ => return None,
        })
    }

    /// The name as configuration and status write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Chest => "chest",
            Self::Wrist => "wrist",
            Self::Finger => "finger",
            Self::Hand => "hand",
            Self::EarLobe => "ear_lobe",
            Self::Foot => "foot",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn truncation_is_told_by_field() {
        assert_eq!(decode(&[]), Err(HrmError::Empty));
        assert_eq!(decode(&[0x00]), Err(HrmError::ShortBpm));
        assert_eq!(decode(&[0x01, 0x12]), Err(HrmError::ShortBpm));
        assert_eq!(decode(&[0x08, 0x48, 0x96]), Err(HrmError::ShortEnergy));
    }

    #[test]
    fn the_rr_flag_without_intervals_is_taken() {
        for bytes in [&[0x10, 0x28][..], &[0x17, 0x01, 0x01]] {
            let value = decode(bytes).unwrap();
            assert!(value.rr_flag && value.rr.is_empty());
        }
    }

    #[test]
    fn more_intervals_than_the_smallest_packet_holds() {
        let mut bytes = vec![0x10, 60];
        for interval in 0..40u16 {
            bytes.extend_from_slice(&interval.to_le_bytes());
        }
        assert_eq!(decode(&bytes).unwrap().rr.len(), 40);
    }

    #[test]
    fn reserved_locations_are_none() {
        assert_eq!(BodyLocation::decode(&[7]), None);
        assert_eq!(BodyLocation::decode(&[]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
            let _ = BodyLocation::decode(&bytes);
        }

        #[test]
        fn what_is_encoded_is_decoded(
            bpm in any::<u16>(),
            contact in 0..3u8,
            energy_kj in any::<Option<u16>>(),
            rr in proptest::collection::vec(any::<u16>(), 0..20),
            rr_flag in any::<bool>(),
        ) {
            let contact = [Contact::Unsupported, Contact::NotDetected, Contact::Detected][usize::from(contact)];
            let value = HeartRateMeasurement {
                bpm, contact, energy_kj, rr_flag: rr_flag || !rr.is_empty(), rr: rr.into(), trailing_bytes: 0,
            };
            let mut bytes = Vec::new();
            value.encode(&mut bytes);
            prop_assert_eq!(decode(&bytes), Ok(value));
        }
    }
}
