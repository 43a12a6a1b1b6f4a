//! What the straps know after the show: the side of the account that the gateway cannot touch. Pure.

use super::outbox::Sent;

/// One strap's account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrapAccount {
    pub device: String,
    pub sent: Vec<Sent>,
}

/// All straps' accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    pub straps: Vec<StrapAccount>,
}

/// The ledger's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Sums {
    /// Readings that were on the wire at least once.
    pub published: u64,
    pub acknowledged: u64,
    /// Further transmissions of readings with the strap's stamp, and without one.
    pub resent_stamped: u64,
    pub resent_unstamped: u64,
}

impl Ledger {
    #[must_use]
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for sent in self.straps.iter().flat_map(|strap| &strap.sent) {
            sums.published += u64::from(sent.transmissions > 0);
            sums.acknowledged += u64::from(sent.acknowledged);
            let again = u64::from(sent.transmissions.saturating_sub(1));
            match sent.sample.time_ms {
                Some(_) => sums.resent_stamped += again,
                None => sums.resent_unstamped += again,
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::Sample;
    use super::*;

    #[test]
    fn sums_are_counted_once() {
        let sent = |time_ms, transmissions, acknowledged| Sent {
            sample: Sample { time_ms, bpm: 60, rr_us: vec![], contact: None },
            transmissions,
            acknowledged,
        };
        let strap = |sent| StrapAccount { device: "strap".into(), sent };
        let ledger = Ledger {
            straps: vec![
                strap(vec![sent(Some(1), 1, true), sent(Some(2), 3, true), sent(Some(3), 0, false)]),
                strap(vec![sent(None, 2, false)]),
            ],
        };
        let expected = Sums { published: 3, acknowledged: 2, resent_stamped: 2, resent_unstamped: 1 };
        assert_eq!(ledger.sums(), expected);
    }
}
