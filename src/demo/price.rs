//! What Firehose charges for a million readings. Pure.
//!
//! Direct PUT at the list price of `config/aws/prices.toml`, each *record* rounded up to the next 5 KB. Storage, requests
//! and the rest of the bill are not in it: `fogbeat cloud cost` has them.

use super::lake::Batch;
use crate::cloud;

const MILLION: f64 = 1e6;

/// Prices of a million readings in USD.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Prices {
    /// Each reading a record of its own, as a JSON line.
    pub record_per_reading: f64,
    /// Batches as they were delivered, each a record.
    pub this_way: f64,
}

impl Prices {
    /// `None` when nothing was delivered.
    #[must_use]
    pub fn of(batches: &[Batch]) -> Option<Self> {
        let readings: u64 = batches.iter().map(|batch| batch.readings).sum();
        if readings == 0 {
            return None;
        }
        let firehose = cloud::prices::Prices::list().ok()?.firehose;
        let text: u64 = batches.iter().map(|batch| batch.text_bytes).sum();
        let packed: f64 = batches.iter().map(|batch| firehose.record(batch.packed_bytes)).sum();
        Some(Self {
            record_per_reading: firehose.record(text.div_ceil(readings)) * MILLION,
            this_way: packed / readings as f64 * MILLION,
        })
    }

    /// How many times cheaper.
    #[must_use]
    pub fn factor(&self) -> f64 {
        self.record_per_reading / self.this_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_per_reading_costs_five_kilobytes_each() {
        let batch = Batch { readings: 1000, packed_bytes: 15_000, text_bytes: 150_000 };
        let prices = Prices::of(&[batch]).unwrap();
        assert!((prices.record_per_reading - 0.1383).abs() < 0.0001, "{prices:?}");
        // 15,000 bytes are three times 5 KB: 15.36 bytes a reading.
        assert!((prices.this_way - 0.000_414_8).abs() < 0.000_000_1, "{prices:?}");
        assert!((prices.factor() - 333.3).abs() < 0.1);
    }

    #[test]
    fn nothing_has_no_price() {
        assert_eq!(Prices::of(&[]), None);
    }
}
