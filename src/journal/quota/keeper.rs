//! The driver beside the policy: looks at the disk, makes room, and says whether readings are taken.
//!
//! The committer asks before every group ([`Keeper::room`], two system calls); the housekeeping of the journal looks at
//! everything every few seconds, and at once when the committer has found the data over the line ([`Keeper::turn`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, statvfs};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::metrics::Metrics;
use super::{Admission, Ballast, BallastOrder, Limits, Measured, Trouble, default_quota};
use crate::config::{self, WhenFull};
use crate::files;
use crate::journal::cursor::UplinkCursor;
use crate::journal::disk::{Disk, disk_usage};
use crate::journal::spool::{Evicted, Spool, Thinning};
use crate::journal::thin::ThinError;
use crate::journal::types::{GapCause, Seq};

/// Generations that may turn out not to be worth it in one go.
const MOST_SPARED: usize = 64;
/// Where the default quota is remembered.
const REMEMBERED: &str = "quota.json";

/// Makes one generation smaller.
type Thin<'a> = &'a dyn Fn() -> Result<Thinning, ThinError>;

/// See the module's documentation.
pub struct Keeper {
    dir: PathBuf,
    limits: Limits,
    when_full: WhenFull,
    ballast: Ballast,
    walked: Mutex<Walked>,
    troubles: Mutex<Troubles>,
    admission: watch::Sender<Admission>,
    /// The committer has found something that housekeeping should look at.
    pub wake: Notify,
    metrics: Arc<Metrics>,
}

/// What the last walk through the spool found.
#[derive(Debug, Clone, Copy, Default)]
struct Walked {
    data: u64,
    /// The head then, and its bytes: what it has grown since comes on top.
    head: Option<(u32, u64)>,
}

/// What is in the way, as each side knows it.
#[derive(Debug, Default)]
struct Troubles {
    looked: Option<Trouble>,
    commit: Option<Trouble>,
    since: Option<Instant>,
}

/// The quota at a glance, for `fogbeat status`.
#[derive(Debug, Clone, Serialize)]
pub struct QuotaStatus {
    pub when_full: WhenFull,
    /// `open`, or why readings wait or are refused.
    pub admission: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<&'static str>,
    pub quota_bytes: u64,
    pub used_bytes: u64,
    pub free_bytes: u64,
    /// 0 while it is given up.
    pub ballast_bytes: u64,
    /// Readings of this run that were dropped before every uplink had them.
    pub evicted: u64,
    pub withheld: u64,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    default_bytes: u64,
}

impl Keeper {
    /// Settles the quota of the spool in `dir`, which is there.
    ///
    /// # Errors
    /// When the filesystem does not tell its size.
    pub fn open(
        dir: &Path,
        settings: &config::Journal,
        disk: &dyn Disk,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let found = statvfs(dir)?;
        let total = found.f_blocks.saturating_mul(found.f_frsize);
        let quota = match settings.quota {
            Some(quota) => quota.as_u64(),
            None => remembered_default(dir, disk)?,
        };
        let limits = Limits::new(quota, settings.generation_size.as_u64(), total);
        let keeper = Self {
            dir: dir.to_owned(),
            limits,
            when_full: settings.when_full,
            ballast: Ballast::new(dir),
            walked: Mutex::default(),
            troubles: Mutex::default(),
            admission: watch::Sender::new(Admission::Open),
            wake: Notify::new(),
            metrics,
        };
        keeper.walked().data = disk_usage(dir).saturating_sub(keeper.ballast.bytes());
        keeper.metrics.quota(limits.quota);
        Ok(keeper)
    }

    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn admission(&self) -> watch::Receiver<Admission> {
        self.admission.subscribe()
    }

    /// Whether `need` more bytes may be written; `head` is the generation that grows. Gives the ballast up if that helps.
    ///
    /// # Errors
    /// What is in the way.
    pub fn room(&self, head: Option<(u32, u64)>, need: u64) -> Result<(), Trouble> {
        let mut measured = self.measure(head);
        let mut room = self.limits.room(&measured, need);
        if room == Err(Trouble::DiskFull) && measured.ballast > 0 && self.release_ballast() {
            measured = self.measure(head);
            room = self.limits.room(&measured, need);
        }
        let gives_way = self.when_full != WhenFull::RefuseNew && measured.data > self.limits.line();
        if room.is_err() || gives_way {
            self.wake.notify_one();
        }
        room
    }

    /// What a commit came to; `None`: it is durable.
    pub fn committed(&self, trouble: Option<Trouble>) {
        let mut troubles = self.troubles();
        if troubles.commit != trouble {
            troubles.commit = trouble;
            self.judge(&mut troubles);
        }
    }

    /// Looks at the whole spool, does what it calls for, and says what holds now. Blocking.
    /// `thin` makes one generation smaller.
    pub fn turn(&self, spool: &Spool, cursors: &[UplinkCursor], thin: Thin<'_>) {
        let plan = self.plan(spool);
        match plan.ballast {
            BallastOrder::Leave => {}
            BallastOrder::Release => {
                self.release_ballast();
            }
            BallastOrder::Make => match self.ballast.make(self.limits.ballast) {
                Ok(()) => tracing::debug!(bytes = self.limits.ballast, "ballast made"),
                Err(error) => tracing::debug!(%error, "the ballast cannot be made now"),
            },
        }
        if plan.delivered_goes
            && let Err(error) = self.make_room(spool, cursors, thin, plan.over)
        {
            tracing::debug!(%error, "no room can be made now");
        }
        let plan = self.plan(spool);
        let mut troubles = self.troubles();
        troubles.looked = plan.trouble;
        self.judge(&mut troubles);
    }

    pub fn status(&self) -> QuotaStatus {
        let measured = self.measure(None);
        let admission = *self.admission.borrow();
        QuotaStatus {
            when_full: self.when_full,
            admission: admission.to_string(),
            remedy: admission.trouble().map(Trouble::remedy),
            quota_bytes: self.limits.quota,
            used_bytes: measured.data + measured.ballast,
            free_bytes: measured.free,
            ballast_bytes: measured.ballast,
            evicted: self.metrics.evicted(GapCause::Evicted),
            withheld: self.metrics.evicted(GapCause::Withheld),
        }
    }

    fn plan(&self, spool: &Spool) -> super::Plan {
        self.walk(spool);
        let measured = self.measure(spool.head_bytes());
        self.metrics.measured(&measured);
        self.limits.plan(&measured, self.when_full, self.troubles().looked)
    }

    /// Lets go what may go until the data is under the line: what everybody has, then what only uplinks without a claim
    /// lack, then by `when_full`.
    fn make_room(
        &self,
        spool: &Spool,
        cursors: &[UplinkCursor],
        thin: Thin<'_>,
        over: u64,
    ) -> io::Result<()> {
        if let Some(lowest) = cursors.iter().map(UplinkCursor::cursor).min() {
            spool.remove_delivered(lowest, Duration::ZERO, 0)?;
        }
        if over == 0 {
            return Ok(());
        }
        while self.over(spool) > 0 {
            if !self.withhold_one(spool, cursors)? && !self.give_way_one(spool, cursors, thin)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn over(&self, spool: &Spool) -> u64 {
        self.walk(spool);
        self.measure(spool.head_bytes()).data.saturating_sub(self.limits.line())
    }

    /// Drops the oldest generation that only uplinks with `required = false` lack.
    fn withhold_one(&self, spool: &Spool, cursors: &[UplinkCursor]) -> io::Result<bool> {
        let claimed = cursors.iter().filter(|cursor| cursor.is_required()).map(UplinkCursor::cursor).min();
        let claimed = match claimed {
            Some(claimed) => claimed,
            None if cursors.is_empty() => return Ok(false),
            None => Seq(u64::MAX),
        };
        for number in spool.sealed() {
            if claimed < Seq::new(number.saturating_add(1), 0) {
                return Ok(false);
            }
            if let Some(evicted) = spool.evict(number, GapCause::Withheld, cursors)? {
                self.dropped(&evicted);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn give_way_one(&self, spool: &Spool, cursors: &[UplinkCursor], thin: Thin<'_>) -> io::Result<bool> {
        match self.when_full {
            WhenFull::RefuseNew => return Ok(false),
            WhenFull::Thin if thin_some(thin) => return Ok(true),
            WhenFull::Thin | WhenFull::DropOldest => {}
        }
        for number in spool.sealed() {
            if let Some(evicted) = spool.evict(number, GapCause::Evicted, cursors)? {
                self.dropped(&evicted);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn dropped(&self, evicted: &Evicted) {
        self.metrics.dropped(evicted);
        if evicted.readings == 0 {
            let Evicted { generation, bytes, .. } = *evicted;
            tracing::info!(
                generation,
                bytes,
                "the journal's quota is reached: what every uplink has was dropped"
            );
            return;
        }
        tracing::warn!(
            generation = evicted.generation,
            readings = evicted.readings,
            bytes = evicted.bytes,
            cause = ?evicted.cause,
            "the journal's quota is reached: a generation was dropped; {}",
            Trouble::Quota.remedy()
        );
    }

    fn release_ballast(&self) -> bool {
        match self.ballast.release() {
            Ok(()) => {
                tracing::warn!("the disk is nearly full: the journal lives on its ballast; free space");
                true
            }
            Err(error) => {
                tracing::debug!(%error, "the ballast cannot be given up");
                false
            }
        }
    }

    /// Adds up what the spool takes. One at a time: what the head grows by from here on comes on top.
    pub fn walk(&self, spool: &Spool) {
        let mut walked = self.walked();
        let head = spool.head_bytes();
        let data = disk_usage(&self.dir).saturating_sub(self.ballast.bytes());
        *walked = Walked { data, head };
    }

    fn measure(&self, head: Option<(u32, u64)>) -> Measured {
        let walked = *self.walked();
        let grown = match (head, walked.head) {
            (Some((now, bytes)), Some((then, before))) if now == then => bytes.saturating_sub(before),
            (Some((_, bytes)), _) => bytes,
            (None, _) => 0,
        };
        let (free, read_only) = match statvfs(&self.dir) {
            Ok(found) => (
                found.f_bavail.saturating_mul(found.f_frsize),
                found.f_flag.contains(StatVfsMountFlags::RDONLY),
            ),
            Err(_) => (0, false),
        };
        Measured { data: walked.data + grown, ballast: self.ballast.bytes(), free, read_only }
    }

    /// Tells everybody what holds now.
    fn judge(&self, troubles: &mut Troubles) {
        let trouble = troubles.commit.or(troubles.looked);
        let since = match (trouble, troubles.since) {
            (None, _) => None,
            (Some(_), Some(since)) => Some(since),
            (Some(_), None) => Some(Instant::now()),
        };
        let lasted = troubles.since.map_or(Duration::ZERO, |since| since.elapsed());
        troubles.since = since;
        let now = Admission::of(trouble.map(|trouble| (trouble, lasted)), self.when_full);
        let before = self.admission.send_replace(now);
        self.metrics.admission(now);
        match (before.trouble(), now.trouble()) {
            (None, Some(trouble)) => {
                tracing::error!("{trouble}: nothing new is acknowledged; {}", trouble.remedy());
            }
            (Some(_), None) => {
                tracing::info!(lasted_s = lasted.as_secs(), "the journal takes readings again");
            }
            _ => {}
        }
    }

    fn walked(&self) -> MutexGuard<'_, Walked> {
        self.walked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Thins until one generation is smaller; `false` when nothing can be won by it any more.
fn thin_some(thin: Thin<'_>) -> bool {
    for _ in 0..MOST_SPARED {
        match thin() {
            Ok(Thinning::Done(_)) => return true,
            Ok(Thinning::Spared { .. }) => {}
            Ok(Thinning::Nothing) => return false,
            Err(error) => {
                tracing::warn!(%error, "a generation is not thinned");
                return false;
            }
        }
    }
    false
}

/// What an earlier start chose.
fn remembered(path: &Path) -> Option<Remembered> {
    let bytes = std::fs::read(path).ok()?;
    // Without its sum it is not what was written: a digit more would be a quota that the disk does not have.
    let text = files::without_sum(&bytes).ok().filter(|text| text.len() < bytes.len());
    let known = text.and_then(|text| serde_json::from_slice(text).ok());
    if known.is_none() {
        tracing::error!(file = %path.display(),
            "the default quota that was settled on is damaged: it is settled anew from the free space; check the disk");
    }
    known
}

/// The default quota: what was chosen at the first start. Free space changes, and a quota that follows it would drop
/// what it has allowed before.
fn remembered_default(dir: &Path, disk: &dyn Disk) -> io::Result<u64> {
    let path = dir.join(REMEMBERED);
    if let Some(Remembered { default_bytes }) = remembered(&path) {
        return Ok(default_bytes);
    }
    let found = statvfs(dir)?;
    // What the spool has already is not free, and counts.
    let free = found.f_bavail.saturating_mul(found.f_frsize).saturating_add(disk_usage(dir));
    let default_bytes = default_quota(free);
    let text = serde_json::to_vec(&Remembered { default_bytes }).map_err(io::Error::other)?;
    let bytes = files::with_sum(text);
    if let Err(error) = disk.replace(&path, &bytes) {
        tracing::debug!(%error, "the default quota is not remembered yet");
    }
    Ok(default_bytes)
}

/// Whether the spool in `dir` can be opened: sled, manifest and marks write when they are. Gives the ballast up if that
/// helps. A spool that is not there yet is no obstacle.
///
/// # Errors
/// What is in the way.
pub fn room_to_open(dir: &Path) -> Result<(), Trouble> {
    let ballast = Ballast::new(dir);
    loop {
        let Ok(found) = statvfs(dir) else { return Ok(()) };
        if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(Trouble::ReadOnly);
        }
        let total = found.f_blocks.saturating_mul(found.f_frsize);
        let floor = super::floor(total);
        if found.f_bavail.saturating_mul(found.f_frsize) >= floor {
            return Ok(());
        }
        if ballast.bytes() == 0 || ballast.release().is_err() {
            return Err(Trouble::DiskFull);
        }
    }
}
