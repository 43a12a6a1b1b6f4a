//! Seeded randomness for the tests (splitmix64): the same seed gives the same run of decisions on every machine.

/// The generator. `Rng::from_env` prints its seed, so that a failed run can be asked for again.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Seed from `FOGBEAT_SEED`, else from the clock; printed either way.
    pub fn from_env(what: &str) -> Self {
        let seed = std::env::var("FOGBEAT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
            let now = super::wall_ms();
            now ^ (u64::from(std::process::id()) << 40)
        });
        println!("{what}: FOGBEAT_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `low..high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low).max(1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}
