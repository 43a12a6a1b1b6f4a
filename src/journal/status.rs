//! The journal looked at: its status, what was damaged, the accounts.

use std::time::Duration;

use super::quota::QuotaStatus;
use super::{
    Accounts, CommitState, Encryption, Facts, GenerationStatus, Journal, ReadError, Repaired, UplinkAccount,
    UplinkCursor, Verified,
};

/// The journal at a glance, for `fogbeat status`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct JournalStatus {
    pub spool: String,
    /// `working`, or the error that keeps groups from the disk.
    pub commit: String,
    pub readings: u64,
    pub duplicates: u64,
    pub commits: u64,
    pub lost: u64,
    /// Left out when nothing was ever damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<DamageStatus>,
    /// Readings on disk that gave way to summaries, and the generations they are of.
    pub thinned: u64,
    pub thinned_generations: usize,
    pub devices: usize,
    pub generations: usize,
    pub bytes: u64,
    pub head: u64,
    pub quota: QuotaStatus,
    pub encryption: Encryption,
}

/// What was damaged and what became of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DamageStatus {
    /// Generations that wait to be salvaged.
    pub waiting: Vec<u32>,
    /// What was salvaged since the start.
    pub salvaged: Vec<Repaired>,
    /// What is kept of damaged generations, for a look.
    pub quarantine_bytes: u64,
}

impl Journal {
    pub fn status(&self) -> JournalStatus {
        let metrics = &self.inner.metrics;
        let generations = self.generations();
        JournalStatus {
            spool: self.spool().to_owned(),
            commit: match metrics.commit_state() {
                CommitState::Working => "working".into(),
                CommitState::Failing(error) => error,
            },
            readings: metrics.readings.get(),
            duplicates: metrics.duplicates.get(),
            commits: metrics.commits(),
            lost: metrics.lost.get(),
            damage: self.damage(),
            thinned: generations.iter().map(|generation| generation.thinned).sum(),
            thinned_generations: generations.iter().filter(|g| g.window_s.is_some()).count(),
            devices: self.inner.devices.len(),
            generations: generations.len(),
            bytes: generations.iter().map(|generation| generation.bytes).sum(),
            head: self.inner.watermark.borrow().0,
            quota: self.quota(),
            encryption: self.inner.spool.encryption(),
        }
    }

    /// What was damaged, if anything was.
    pub fn damage(&self) -> Option<DamageStatus> {
        let spool = &self.inner.spool;
        let (waiting, salvaged) = (spool.damaged(), spool.repaired());
        let quarantine_bytes = spool.quarantine_bytes();
        let any = !waiting.is_empty() || !salvaged.is_empty() || quarantine_bytes > 0;
        any.then_some(DamageStatus { waiting, salvaged, quarantine_bytes })
    }

    /// The generations that wait to be salvaged, oldest first.
    pub fn damaged(&self) -> Vec<u32> {
        self.inner.spool.damaged()
    }

    /// How long the oldest reading that is not durable has waited: in the open group, or in one that is being written.
    pub fn waiting(&self) -> Option<Duration> {
        self.inner.intake.waiting_from().map(|first| first.elapsed())
    }

    /// Every generation on disk, oldest first.
    pub fn generations(&self) -> Vec<GenerationStatus> {
        self.inner.spool.status(*self.inner.watermark.borrow())
    }

    /// Checks every value of one generation. Blocking.
    ///
    /// # Errors
    /// When it cannot be opened or read at all.
    pub fn verify(&self, generation: &GenerationStatus) -> Result<Verified, ReadError> {
        self.inner.spool.verify(generation.generation, generation.readings)
    }

    /// What became of every reading of this run.
    pub fn accounts(&self) -> Accounts {
        self.inner.intake.accounts(&self.inner.devices)
    }

    /// What the manifest and the cursor files say, for the proof.
    pub fn facts(&self) -> Facts {
        // The cursors first: what they have passed was durable before.
        let uplinks = self.inner.cursors.list().iter().map(UplinkCursor::place).collect();
        Facts { uplinks, ..self.inner.spool.facts(*self.inner.watermark.borrow()) }
    }

    /// What became of the numbers an uplink was to get.
    pub fn account(&self, uplink: &UplinkCursor) -> UplinkAccount {
        uplink.account(|cursor| self.inner.spool.around(cursor, *self.inner.watermark.borrow()))
    }

    /// What the journal may take of its disk, and takes.
    pub fn quota(&self) -> QuotaStatus {
        self.inner.keeper.status()
    }
}
