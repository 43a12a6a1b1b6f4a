//! Which stamped readings of a device the journal already holds, so that one that is sent again is stored once.
//!
//! A reading is known by its device, the device's own stamp and a hash of what it says. Kept are the newest
//! [`MOST`] stamps of a device; beyond [`TOTAL`] over all devices each device gets its share, which for straps at one
//! reading a second is still more than ten minutes up to some 1,700 devices. Unstamped readings cannot be recognised.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};

use super::types::Ticket;
use crate::reading::{DeviceTime, Reading};

/// Stamps kept per device.
const MOST: usize = 4096;
/// However many devices there are.
const LEAST: usize = 64;
/// Stamps kept over all devices (16 bytes each).
const TOTAL: usize = 1 << 20;

/// The windows of all devices.
#[derive(Default)]
pub struct Windows {
    devices: Vec<VecDeque<Known>>,
    /// Stamps per device, with so many devices.
    most: usize,
    hasher: content::Seeded,
}

#[derive(Clone, Copy)]
struct Known {
    stamp_ms: i64,
    hash: u32,
    /// Low half of the ticket: enough to tell one of the last 2^32 groups.
    ticket: u32,
}

/// The answer for one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Not before; it is remembered now.
    New,
    /// The stored copy's ticket.
    Before(Ticket),
}

// === impl Windows ===

impl Windows {
    /// Looks a reading up and remembers it under `ticket` if it is new.
    pub fn check(&mut self, reading: &Reading, ticket: Ticket) -> Seen {
        let Some(DeviceTime::Accepted(stamp_ms) | DeviceTime::Rejected(stamp_ms)) = reading.device_time
        else {
            return Seen::New;
        };
        let index = reading.device.0 as usize;
        if index >= self.devices.len() {
            self.devices.resize_with(index + 1, VecDeque::new);
            self.share_out();
        }
        let most = self.most;
        let hash = self.hasher.hash(reading);
        let Some(window) = self.devices.get_mut(index) else {
            return Seen::New;
        };
        let entry = Known { stamp_ms, hash, ticket: ticket.0 as u32 };
        // Stamps rise in nearly every case: then there is nothing to search.
        if window.back().is_none_or(|newest| newest.stamp_ms < stamp_ms) {
            make_room(window, most);
            window.push_back(entry);
        } else {
            let at = window.partition_point(|known| known.stamp_ms < stamp_ms);
            let same = window.iter().skip(at).take_while(|known| known.stamp_ms == stamp_ms);
            for known in same {
                if known.hash == hash {
                    let behind = (ticket.0 as u32).wrapping_sub(known.ticket);
                    return Seen::Before(Ticket(ticket.0.saturating_sub(u64::from(behind))));
                }
            }
            make_room(window, most);
            let at = window.partition_point(|known| known.stamp_ms < stamp_ms);
            window.insert(at, entry);
        }
        Seen::New
    }
}

impl Windows {
    /// Each device's share when there are more of them: those who had more give it back.
    fn share_out(&mut self) {
        // A power of two, which is what a deque's buffer is anyway.
        let most = 1 << (TOTAL / self.devices.len().max(1)).clamp(LEAST, MOST).ilog2();
        if most < self.most {
            for window in &mut self.devices {
                window.drain(..window.len().saturating_sub(most));
                window.shrink_to(most);
            }
        }
        self.most = most;
    }
}

/// Forgets the oldest before something is added: a full buffer that is pushed to doubles.
fn make_room(window: &mut VecDeque<Known>, most: usize) {
    while window.len() >= most {
        window.pop_front();
    }
}

/// A small, fast hash (the multiply-rotate of FxHash) over what a reading says. Not for hostile input: a device that
/// forges a collision harms its own readings only.
mod content {
    use super::{BuildHasher, Hasher, Reading};

    #[derive(Default, Clone, Copy)]
    pub struct Seeded;

    pub struct Fx(u64);

    impl Hasher for Fx {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for &byte in bytes {
                self.write_u64(u64::from(byte));
            }
        }
        fn write_u64(&mut self, value: u64) {
            self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    impl BuildHasher for Seeded {
        type Hasher = Fx;
        fn build_hasher(&self) -> Fx {
            Fx(0)
        }
    }

    impl Seeded {
        /// The hash of everything the wearable said (not of when or how it arrived).
        pub fn hash(self, reading: &Reading) -> u32 {
            let mut fx = self.build_hasher();
            fx.write_u64(reading.bpm.map_or(0, |bpm| u64::from(bpm.get())));
            for &value in &reading.rr.values {
                fx.write_u64(u64::from(value));
            }
            let rest = reading.contact as u64
                | (reading.rr.unit as u64) << 2
                | u64::from(reading.energy_kj.map_or(0xffff, |energy| energy)) << 8
                | u64::from(reading.battery_percent.unwrap_or(0xff)) << 24;
            fx.write_u64(rest);
            (fx.finish() >> 32) as u32
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::tests::reading_at;

    #[test]
    fn the_same_reading_is_known_by_its_stored_ticket() {
        let mut windows = Windows::default();
        let reading = reading_at(3, 1_000, 72);
        assert_eq!(windows.check(&reading, Ticket(5)), Seen::New);
        assert_eq!(windows.check(&reading, Ticket(9)), Seen::Before(Ticket(5)));
    }

    #[test]
    fn another_value_or_device_under_the_same_stamp_is_new() {
        let mut windows = Windows::default();
        assert_eq!(windows.check(&reading_at(3, 1_000, 72), Ticket(1)), Seen::New);
        assert_eq!(windows.check(&reading_at(3, 1_000, 73), Ticket(1)), Seen::New);
        assert_eq!(windows.check(&reading_at(4, 1_000, 72), Ticket(1)), Seen::New);
    }

    #[test]
    fn late_readings_are_found_wherever_they_came_in() {
        let mut windows = Windows::default();
        for stamp in [5_000, 1_000, 3_000, 4_000, 2_000] {
            assert_eq!(windows.check(&reading_at(0, stamp, 60), Ticket(1)), Seen::New);
        }
        for stamp in 1..=5 {
            let seen = windows.check(&reading_at(0, stamp * 1_000, 60), Ticket(2));
            assert_eq!(seen, Seen::Before(Ticket(1)));
        }
    }

    #[test]
    fn a_device_is_remembered_for_a_bounded_number_of_stamps() {
        let mut windows = Windows::default();
        for stamp in 0..2 * MOST as i64 {
            windows.check(&reading_at(0, stamp, 60), Ticket(1));
        }
        assert_eq!(windows.devices[0].len(), MOST);
        assert!(matches!(windows.check(&reading_at(0, 2 * MOST as i64 - 1, 60), Ticket(2)), Seen::Before(_)));
    }

    #[test]
    fn all_devices_together_are_bounded_whatever_the_order_in_which_they_come() {
        let mut windows = Windows::default();
        for device in 0..1000 {
            for stamp in 0..windows.most.max(MOST) as i64 {
                windows.check(&reading_at(device, stamp, 60), Ticket(1));
            }
        }
        let capacity: usize = windows.devices.iter().map(VecDeque::capacity).sum();
        assert!(capacity <= TOTAL, "{capacity} stamps");
    }

    #[test]
    fn an_unstamped_reading_is_always_new() {
        let mut windows = Windows::default();
        let mut reading = reading_at(0, 0, 60);
        reading.device_time = None;
        assert_eq!(windows.check(&reading, Ticket(1)), Seen::New);
        assert_eq!(windows.check(&reading, Ticket(1)), Seen::New);
    }
}
