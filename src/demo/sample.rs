//! What a strap measures and how it puts it on the wire. Pure.

use crate::source::replay::Frame;

/// How a strap speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `{"bpm":72,"time":1763900000000,"rr_ms":[812,811.111],"contact":true}`: with a stamp of its own, so that the
    /// gateway knows a reading that is sent twice.
    Json,
    /// The bytes of a Heart Rate Measurement (0x2A37), as a Bluetooth bridge passes them on. It has no room for a
    /// stamp: what is sent twice is stored twice.
    Packet,
}

/// One measurement of a strap, exactly as it is sent and as it must arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The strap's own stamp, ms since 1970; `None` where the encoding has no room for it.
    pub time_ms: Option<i64>,
    /// 0: no clean signal.
    pub bpm: u16,
    /// In microseconds, rounded to what the encoding can say.
    pub rr_us: Vec<u32>,
    /// `None`: the strap cannot tell.
    pub contact: Option<bool>,
}

/// 0x2A37 flags: RR intervals present.
const RR_PRESENT: u8 = 0x10;

impl Sample {
    /// What the strap makes of one second of its heart; `worn` is false while it hangs loose.
    #[must_use]
    pub fn new(frame: &Frame, encoding: Encoding, time_ms: i64, worn: bool) -> Self {
        let bpm = frame.bpm.map_or(0, |bpm| bpm.get());
        match encoding {
            Encoding::Json if !worn => {
                Self { time_ms: Some(time_ms), bpm: 0, rr_us: Vec::new(), contact: Some(false) }
            }
            Encoding::Json => {
                Self { time_ms: Some(time_ms), bpm, rr_us: frame.rr_us.to_vec(), contact: Some(true) }
            }
            Encoding::Packet => {
                let rr_us = frame.rr_us.iter().map(|us| ticks_to_us(us_to_ticks(*us))).collect();
                // A packet whose rate is one byte; the recordings stay far below 255.
                Self { time_ms: None, bpm: bpm.min(255), rr_us, contact: None }
            }
        }
    }

    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self.time_ms {
            Some(time_ms) => self.json(time_ms),
            None => self.packet(),
        }
    }

    fn json(&self, time_ms: i64) -> Vec<u8> {
        let rr: Vec<String> = self.rr_us.iter().map(|us| millis(*us)).collect();
        let mut text = format!("{{\"bpm\":{},\"time\":{time_ms}", self.bpm);
        if !rr.is_empty() {
            text.push_str(&format!(",\"rr_ms\":[{}]", rr.join(",")));
        }
        if let Some(contact) = self.contact {
            text.push_str(&format!(",\"contact\":{contact}"));
        }
        text.push('}');
        text.into_bytes()
    }

    fn packet(&self) -> Vec<u8> {
        let flags = if self.rr_us.is_empty() { 0 } else { RR_PRESENT };
        let mut bytes = vec![flags, u8::try_from(self.bpm).unwrap_or(u8::MAX)];
        for us in &self.rr_us {
            bytes.extend_from_slice(&us_to_ticks(*us).to_le_bytes());
        }
        bytes
    }
}

/// Microseconds to 1/1024 s, rounded; 64 s and more are the largest number.
fn us_to_ticks(us: u32) -> u16 {
    u16::try_from((u64::from(us) * 1024 + 500_000) / 1_000_000).unwrap_or(u16::MAX)
}

/// 1/1024 s to microseconds, rounded half up, as the delivered line shows them.
fn ticks_to_us(ticks: u16) -> u32 {
    (u32::from(ticks) * 15_625 + 8) / 16
}

fn millis(us: u32) -> String {
    match us % 1000 {
        0 => (us / 1000).to_string(),
        rest => format!("{}.{rest:03}", us / 1000).trim_end_matches('0').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use smallvec::SmallVec;

    use super::*;

    fn frame(bpm: u16, rr_us: &[u32]) -> Frame {
        Frame { offset_ms: 1000, bpm: NonZeroU16::new(bpm), rr_us: SmallVec::from_slice(rr_us) }
    }

    fn text(sample: &Sample) -> String {
        String::from_utf8(sample.encode()).unwrap()
    }

    #[test]
    fn json_carries_the_stamp_and_exact_intervals() {
        let sample = Sample::new(&frame(74, &[812_000, 811_110]), Encoding::Json, 1_763_900_000_000, true);
        assert_eq!(text(&sample), r#"{"bpm":74,"time":1763900000000,"rr_ms":[812,811.11],"contact":true}"#);
    }

    #[test]
    fn a_loose_strap_has_no_value() {
        let sample = Sample::new(&frame(74, &[812_000]), Encoding::Json, 5, false);
        assert_eq!(text(&sample), r#"{"bpm":0,"time":5,"contact":false}"#);
    }

    #[test]
    fn packets_are_those_of_a_polar_h10() {
        // `10 3c 8c 04`: 60 bpm, one interval of 1164/1024 s.
        let sample = Sample::new(&frame(60, &[1_136_719]), Encoding::Packet, 5, true);
        assert_eq!(sample.encode(), [0x10, 0x3c, 0x8c, 0x04]);
        assert_eq!(sample.rr_us, [1_136_719]);
        assert_eq!(Sample::new(&frame(64, &[]), Encoding::Packet, 5, true).encode(), [0x00, 0x40]);
    }

    #[test]
    fn the_gateway_reads_what_a_strap_sends() {
        for ticks in [1u16, 2, 64, 831, 1024, 65_535] {
            assert_eq!(us_to_ticks(ticks_to_us(ticks)), ticks);
        }
        assert_eq!(ticks_to_us(2), 1953);
        assert_eq!(ticks_to_us(882), 861_328);
    }
}
