//! The bytes of one slot. Pure.

use super::{Entry, Lane};

/// Bytes of a slot: no disk writes less.
pub const SLOT: usize = 512;
const HEAD: usize = 16;
/// Longest payload.
pub const ROOM: usize = SLOT - HEAD;
const VERSION: u8 = 1;

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// Never written.
    Empty,
    /// Torn, damaged, or of another version.
    Damaged,
    Record {
        n: u64,
        lane: Lane,
        payload: Vec<u8>,
    },
}

/// The slot of a record; a payload that is too long is cut (it is JSON no more then: see [`fit`]).
pub fn write(n: u64, lane: Lane, payload: &[u8]) -> [u8; SLOT] {
    let payload = payload.get(..ROOM).unwrap_or(payload);
    let length = u16::try_from(payload.len()).unwrap_or(0);
    let mut head = Vec::with_capacity(SLOT);
    head.extend_from_slice(&n.to_le_bytes());
    head.extend_from_slice(&length.to_le_bytes());
    head.push(lane as u8);
    head.push(VERSION);
    head.extend_from_slice(payload);
    let mut slot = [0; SLOT];
    let bytes = crc32c::crc32c(&head).to_le_bytes().into_iter().chain(head);
    slot.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
    slot
}

/// What the bytes of a slot say.
pub fn read(bytes: &[u8]) -> Slot {
    if bytes.iter().all(|byte| *byte == 0) {
        return Slot::Empty;
    }
    checked(bytes).unwrap_or(Slot::Damaged)
}

fn checked(bytes: &[u8]) -> Option<Slot> {
    let (sum, rest) = bytes.split_first_chunk::<4>()?;
    let (n, after) = rest.split_first_chunk::<8>()?;
    let (length, after) = after.split_first_chunk::<2>()?;
    let ([lane, VERSION], payload) = after.split_first_chunk::<2>()? else { return None };
    let length = usize::from(u16::from_le_bytes(*length));
    let payload = payload.get(..length)?;
    if u32::from_le_bytes(*sum) != crc32c::crc32c(rest.get(..HEAD - 4 + length)?) {
        return None;
    }
    let lane = *Lane::ALL.get(usize::from(*lane))?;
    Some(Slot::Record { n: u64::from_le_bytes(*n), lane, payload: payload.to_vec() })
}

/// An entry as JSON that fits into a slot: its text is cut first, then its fields go, the last one first.
pub fn fit(mut entry: Entry) -> Vec<u8> {
    loop {
        // Strings, numbers and a map of them can be written.
        let payload = serde_json::to_vec(&entry).unwrap_or_default();
        let Some(over) = payload.len().checked_sub(ROOM).filter(|over| *over > 0) else { return payload };
        if entry.text.len() > 3 {
            let kept = entry.text.len().saturating_sub(over + 3);
            entry.text.truncate(entry.text.floor_char_boundary(kept));
            entry.text.push('\u{2026}');
        } else if let Some(last) = entry.fields.keys().next_back().cloned() {
            entry.fields.remove(&last);
        } else {
            entry.from.clear();
            entry.level.truncate(5);
            entry.boot.truncate(8);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;

    fn lane() -> impl Strategy<Value = Lane> {
        (0..3_usize).prop_map(|at| Lane::ALL[at])
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(n in any::<u64>(), lane in lane(), payload in proptest::collection::vec(any::<u8>(), 0..=ROOM)) {
            let slot = write(n, lane, &payload);
            prop_assert_eq!(read(&slot), Slot::Record { n, lane, payload });
        }

        #[test]
        fn a_flip_or_a_tear_is_noticed_or_changes_nothing(
            n in any::<u64>(), lane in lane(), payload in proptest::collection::vec(any::<u8>(), 1..=ROOM), bit in 0..SLOT * 8, tear in 0..=SLOT,
        ) {
            let slot = write(n, lane, &payload);
            let record = read(&slot);
            let mut hurt = slot;
            hurt[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read(&hurt) == Slot::Damaged || (read(&hurt) == record && bit / 8 >= HEAD + payload.len()));
            // The first part is new, the rest what was there before.
            let mut torn = write(!n, Lane::Life, b"before");
            torn[..tear].copy_from_slice(&slot[..tear]);
            let seen = read(&torn);
            let before = Slot::Record { n: !n, lane: Lane::Life, payload: b"before".to_vec() };
            prop_assert!(seen == Slot::Damaged || seen == record || seen == before);
        }

        #[test]
        fn any_bytes_can_be_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            read(&bytes);
        }

        #[test]
        fn every_entry_fits_and_stays_json(text in "\\PC{0,900}", field in "\\PC{0,900}", from in "\\PC{0,900}") {
            let fields: Map<_, _> = [("error".to_owned(), json!(field)), ("n".to_owned(), json!(u64::MAX))].into_iter().collect();
            let entry = Entry {
                time_ms: i64::MIN, uptime_ms: u64::MAX, boot: "01234567".into(), level: "error".into(), from, text, fields,
                again: u64::MAX, dropped: u64::MAX,
            };
            let payload = fit(entry.clone());
            prop_assert!(payload.len() <= ROOM);
            let back: Entry = serde_json::from_slice(&payload).unwrap();
            prop_assert_eq!(back.time_ms, entry.time_ms);
        }
    }
}
