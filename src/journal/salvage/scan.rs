//! Finds our values in the bytes of a database file, whatever sled thinks of it.
//!
//! Pure. A value stands in the file as one piece, behind its length, once where it was logged and again in each page
//! that was written with it; sled compresses nothing. It is taken only when its own sum is right and it says that it
//! belongs to the generation, so that what is found is what was written, or nothing.
//!
//! Not promised: that a value whose own bytes are damaged is found. Another copy of it may be.

use crate::journal::block::{self, Header};

/// Longest length that sled writes in up to three bytes; our values are far below it.
const LONGEST: usize = 67_823;
/// Bytes behind a place that are needed to judge whether a value begins there.
pub const AHEAD: usize = LONGEST;
/// Bytes before it.
pub const BEHIND: usize = 3;

/// Looks at every place in `from..to` and hands out the values that begin there, with what their headers say.
pub fn scan(bytes: &[u8], from: usize, to: usize, generation: u32, found: &mut impl FnMut(&Header, &[u8])) {
    let mut at = from;
    while let Some(ahead) = bytes.get(at..).filter(|_| at < to) {
        let Some(step) = ahead.windows(4).take(to - at).position(block::may_begin) else { return };
        at += step;
        match value_at(bytes, at, generation) {
            Some((header, value)) => {
                found(&header, value);
                at += value.len();
            }
            None => at += 1,
        }
    }
}

/// The value that begins at `at`, if one does.
fn value_at(bytes: &[u8], at: usize, generation: u32) -> Option<(Header, &[u8])> {
    let ahead = bytes.get(at..)?;
    let told = lengths(bytes.get(..at)?);
    let own = || block::stored_len(ahead.get(..AHEAD.min(ahead.len()))?);
    told.into_iter().flatten().chain(std::iter::once_with(own).flatten()).find_map(|len| {
        let value = ahead.get(..len)?;
        let header = block::header(value).ok()?;
        (header.generation == generation).then_some((header, value))
    })
}

/// What the bytes before a value may say of its length, in sled's encoding of integers.
fn lengths(before: &[u8]) -> [Option<usize>; 3] {
    let one = before.last().map(|&a| usize::from(a)).filter(|len| *len <= 240);
    let two = match before {
        [.., a @ 241..=248, b] => Some(240 + 256 * (usize::from(*a) - 241) + usize::from(*b)),
        _ => None,
    };
    let three = match before {
        [.., 249, a, b] => Some(2288 + 256 * usize::from(*a) + usize::from(*b)),
        _ => None,
    };
    [three, two, one]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::block::{Encoder, Kind, Place};
    use crate::journal::tests::reading_at;

    fn block(generation: u32, first_n: u32, count: u32) -> Vec<u8> {
        let place = Place { boot_tag: 7, clock_epoch: 0, generation, first_n };
        let readings: Vec<_> = (0..count)
            .map(|n| {
                let mut reading = reading_at(n % 3, i64::from(n * 977 % 1013), 60 + (n % 50) as u16);
                reading.rr.values = (0..3).map(|i| (n * 7919 + i * 104_729) % 2000).collect();
                reading
            })
            .collect();
        Encoder::new(None).encode(place, readings.iter()).unwrap()
    }

    /// As sled writes it.
    fn put(out: &mut Vec<u8>, value: &[u8]) {
        match value.len() {
            len @ ..=240 => out.push(len as u8),
            len @ ..=2287 => out.extend([((len - 240) / 256 + 241) as u8, ((len - 240) % 256) as u8]),
            len => out.extend([249, ((len - 2288) / 256) as u8, ((len - 2288) % 256) as u8]),
        }
        out.extend_from_slice(value);
    }

    fn found(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        scan(bytes, 0, bytes.len(), 7, &mut |_, value| all.push(value.to_vec()));
        all
    }

    fn values() -> Vec<Vec<u8>> {
        let name = Encoder::new(None).encode_plain(Kind::Name, 7, 3, b"bike-3").unwrap();
        vec![name, block(7, 0, 1), block(7, 1, 60), block(7, 61, 400), block(7, 461, 1000)]
    }

    #[test]
    fn values_of_every_length_are_found_wherever_they_stand() {
        let values = values();
        assert!(values[1].len() <= 240 && values[2].len() > 240 && values[4].len() > 2288);
        let mut bytes = vec![1, 0, 0, 0, 0, 1, 2, 3];
        for value in &values {
            bytes.extend_from_slice(b"key12345");
            put(&mut bytes, value);
        }
        assert_eq!(found(&bytes), values);
    }

    #[test]
    fn a_damaged_length_is_made_up_for_by_the_value_itself() {
        for value in values() {
            let mut bytes = vec![250, 0, 0, 17];
            bytes.extend_from_slice(&value);
            bytes.extend_from_slice(b"something behind it");
            assert_eq!(found(&bytes), [value]);
        }
    }

    #[test]
    fn a_flipped_bit_costs_the_value_it_hits_and_nothing_is_ever_altered() {
        let values = values();
        let mut bytes = Vec::new();
        let mut starts = Vec::new();
        for value in &values {
            starts.push(
                bytes.len()
                    + if value.len() <= 240 {
                        1
                    } else if value.len() <= 2287 {
                        2
                    } else {
                        3
                    },
            );
            put(&mut bytes, value);
        }
        for bit in (0..bytes.len() * 8).step_by(37) {
            let mut hurt = bytes.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            let expected: Vec<_> = std::iter::zip(&values, &starts)
                .filter(|(value, start)| !(**start..**start + value.len()).contains(&(bit / 8)))
                .map(|(value, _)| value.clone())
                .collect();
            assert_eq!(found(&hurt), expected, "bit {bit}");
        }
    }

    #[test]
    fn values_of_another_generation_are_not_ours() {
        let mut bytes = Vec::new();
        put(&mut bytes, &block(8, 0, 10));
        put(&mut bytes, &block(7, 0, 10));
        assert_eq!(found(&bytes), [block(7, 0, 10)]);
    }

    #[test]
    fn what_begins_outside_the_asked_range_is_left_to_others() {
        let value = block(7, 0, 10);
        let mut bytes = Vec::new();
        put(&mut bytes, &value);
        let mut count = 0;
        scan(&bytes, 0, 1, 7, &mut |_, _| count += 1);
        assert_eq!(count, 0);
        scan(&bytes, 1, 2, 7, &mut |_, _| count += 1);
        assert_eq!(count, 1);
    }
}
