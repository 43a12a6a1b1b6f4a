//! The verdict on a day: the clients' ledgers, the delivered files and the gateway's own account, held together.
//!
//! All clients go on until everything is acknowledged, so that in the end each reading is either delivered or missing,
//! and what is missing must be told: device by device where the `gap` lines say so, else in the sum. A reading that was
//! told as missing may have come again (its acknowledgement was lost, and with the stored copy the memory of it), so
//! that more may be told than is missing, but not by more than was sent more than once. Where damage took every copy of
//! a device's name, its readings come under a stand-in: each must be one that this one device has sent.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::band::Unstamped;
use super::day::Hit;
use super::summaries;
use crate::support::fleet::Account;
use crate::support::lake::{Delivered, Lake, RETIMED, epoch_ms};

/// How far a gateway's time may be off beyond what it admits: the way through the socket and the clocks' grain.
const SLACK_MS: f64 = 50.0;

/// How the stand-in for a device's lost name begins.
pub const NAMELESS: &str = "unnamed-";

/// What the clients know, and what happened.
pub struct Evidence<'a> {
    /// This uplink is not required: it loses first at the quota, and alone.
    pub optional: bool,
    pub straps: &'a Account,
    pub bands: &'a [Unstamped],
    pub hit: &'a BTreeSet<Hit>,
}

#[derive(Debug, Clone, Default)]
pub struct Verdict {
    pub acked: u64,
    /// By the uplink that has fewest.
    pub delivered: u64,
    /// Numbers told as missing, by cause, over all uplinks.
    pub told: BTreeMap<String, u64>,
    /// Readings that came under a second id.
    pub again: u64,
    /// Readings that came whole, but for their device's name.
    pub unnamed: u64,
    /// Lines that stand for thinned readings, and windows whose figures were held against the very readings.
    pub summaries: u64,
    pub compared: u64,
    /// Readings and numbers that nothing explains: must be 0.
    pub unexplained: u64,
    pub faults: Vec<String>,
}

impl Verdict {
    pub fn told(&self, cause: &str) -> u64 {
        self.told.get(cause).copied().unwrap_or(0)
    }

    pub fn add(&mut self, uplink: &str, other: Self) {
        self.delivered = if self.acked == 0 { other.delivered } else { self.delivered.min(other.delivered) };
        self.acked = other.acked;
        for (cause, count) in other.told {
            *self.told.entry(cause).or_default() += count;
        }
        self.again += other.again;
        self.unnamed += other.unnamed;
        self.summaries += other.summaries;
        self.compared += other.compared;
        self.unexplained += other.unexplained;
        self.faults.extend(other.faults.into_iter().map(|fault| format!("uplink {uplink}: {fault}")));
    }
}

/// One reading as its client knows it.
struct Known<'a> {
    device: &'a str,
    what: String,
    copies: Vec<&'a Delivered>,
}

/// Judges what one uplink delivered.
pub fn judge(evidence: &Evidence<'_>, lake: &Lake, account: &Value) -> Verdict {
    let mut verdict = Verdict { faults: lake.defects.clone(), ..Verdict::default() };
    if evidence.hit.contains(&Hit::SmallFile) && evidence.hit.contains(&Hit::Clock) {
        // Its place was lost, and with it how the times were told at first: now they are told as they are known by then.
        verdict.faults.retain(|fault| !fault.starts_with(RETIMED));
    }
    if lake.spools.len() > 1 && !evidence.hit.contains(&Hit::Manifest) {
        verdict.faults.push(format!("several spools: {:?}", lake.spools));
    }
    let unanswered =
        evidence.straps.unacknowledged + evidence.bands.iter().filter(|band| band.acked_ms.is_none()).count();
    if unanswered > 0 {
        verdict.faults.push(format!("{unanswered} publishes were never answered"));
    }
    verdict.delivered = lake.readings.len() as u64;
    let known = known(evidence, lake, &mut verdict);
    verdict.acked = known.len() as u64;
    let numbers = Numbers::of(evidence, lake, &mut verdict);
    copies(evidence, &known, &mut verdict);
    missing(evidence, lake, &known, &numbers, &mut verdict);
    let mut missing = Vec::new();
    for (reading, sent) in known.iter().zip(&evidence.straps.readings) {
        if reading.copies.is_empty() {
            missing.push(sent);
        }
    }
    summaries::judge(lake, &missing, &mut verdict);
    causes(evidence, &numbers, &mut verdict);
    accounts(evidence, lake, account, &numbers, &mut verdict);
    verdict
}

/// Finds each reading's delivered copies and compares every one of them.
fn known<'a>(evidence: &'a Evidence<'_>, lake: &'a Lake, verdict: &mut Verdict) -> Vec<Known<'a>> {
    let stood_for = nameless(evidence, lake, verdict);
    let mut stamped: HashMap<(&str, i64), Vec<&Delivered>> = HashMap::new();
    let mut bare: HashMap<(&str, String), Vec<&Delivered>> = HashMap::new();
    for reading in lake.readings.values() {
        let device = stood_for.get(reading.device.as_str()).copied().unwrap_or(&reading.device);
        if device.starts_with("band-") {
            bare.entry((device, format!("{:?}", reading.rr_ms))).or_default().push(reading);
        } else {
            stamped.entry((device, reading.stamp)).or_default().push(reading);
        }
    }
    let mut known = Vec::new();
    for sent in &evidence.straps.readings {
        let copies = stamped.remove(&(sent.device.as_str(), sent.stamp)).unwrap_or_default();
        for copy in &copies {
            if copy.bpm != Some(sent.bpm) || copy.rr_ms != sent.rr_ms {
                verdict.faults.push(format!("altered: sent {sent:?}, delivered {copy:?}"));
            }
            // A clock that is wrong may take a right stamp for a wrong one; it is kept beside the gateway's own then.
            if copy.quality.as_deref() != Some("device") && !evidence.hit.contains(&Hit::Clock) {
                verdict.faults.push(format!("a plausible stamp was not believed: {copy:?}"));
            }
        }
        known.push(Known { device: &sent.device, what: format!("{} {}", sent.device, sent.stamp), copies });
    }
    for sent in evidence.bands {
        let copies = bare.remove(&(sent.device.as_str(), format!("{:?}", sent.rr_ms))).unwrap_or_default();
        for copy in &copies {
            if copy.bpm != Some(72) {
                verdict.faults.push(format!("altered: sent {sent:?}, delivered {copy:?}"));
            }
            verdict.faults.extend(untrue(evidence, lake, sent, copy));
        }
        known.push(Known { device: &sent.device, what: format!("{} {:?}", sent.device, sent.rr_ms), copies });
    }
    let strangers = stamped.values().chain(bare.values()).flatten().count() as u64;
    if strangers > 0 {
        verdict.unexplained += strangers;
        let one = stamped.values().chain(bare.values()).flatten().next();
        verdict.faults.push(format!("{strangers} delivered readings that nobody sent, one of them {one:?}"));
    }
    known
}

/// Which device each stand-in for a lost name stands for: the one that has sent every reading under it, with these very
/// values.
fn nameless<'a>(
    evidence: &'a Evidence<'_>,
    lake: &'a Lake,
    verdict: &mut Verdict,
) -> BTreeMap<&'a str, &'a str> {
    let mut under: BTreeMap<&str, Vec<&Delivered>> = BTreeMap::new();
    for reading in lake.readings.values().filter(|reading| reading.device.starts_with(NAMELESS)) {
        under.entry(&reading.device).or_default().push(reading);
    }
    if under.is_empty() {
        return BTreeMap::new();
    }
    verdict.unnamed = under.values().map(|readings| readings.len() as u64).sum();
    if !evidence.hit.contains(&Hit::Damage) {
        verdict
            .faults
            .push(format!("{} readings without a device, and nothing was damaged", verdict.unnamed));
    }
    let mut senders: HashMap<String, BTreeSet<&str>> = HashMap::new();
    let of = |stamp: Option<i64>, rr_ms: &[f64]| format!("{stamp:?} {rr_ms:?}");
    for sent in &evidence.straps.readings {
        senders.entry(of(Some(sent.stamp), &sent.rr_ms)).or_default().insert(&sent.device);
    }
    for sent in evidence.bands {
        senders.entry(of(None, &sent.rr_ms)).or_default().insert(&sent.device);
    }
    let mut stood_for = BTreeMap::new();
    for (stand_in, readings) in under {
        let mut candidates: Option<BTreeSet<&str>> = None;
        for reading in readings {
            // A band's time is the gateway's own.
            let found = senders
                .get(&of(Some(reading.stamp), &reading.rr_ms))
                .or_else(|| senders.get(&of(None, &reading.rr_ms)))
                .cloned()
                .unwrap_or_default();
            candidates = Some(match candidates {
                Some(before) => before.intersection(&found).copied().collect(),
                None => found,
            });
        }
        if let Some(device) = candidates.iter().flatten().next() {
            stood_for.insert(stand_in, *device);
        }
    }
    stood_for
}

/// A reading without a stamp was taken after it was first sent and before it was acknowledged, whatever the gateway's
/// clock said at the time.
fn untrue(evidence: &Evidence<'_>, lake: &Lake, sent: &Unstamped, copy: &Delivered) -> Option<String> {
    let told = match told_time(lake, copy) {
        Ok(told) => told,
        Err(why) => return Some(format!("{why}: {copy:?}")),
    };
    // A clock that was never touched is right to the grain; else what is certain to 2.5 s is not said on the line.
    let least_s = if evidence.hit.contains(&Hit::Clock) { 2.5 } else { 0.0 };
    let slack = (SLACK_MS + told.1.max(least_s) * 1000.0).ceil() as i64;
    let earliest = sent.first_ms - slack;
    let latest = sent.acked_ms? + slack;
    (!(earliest..=latest).contains(&told.0)).then(|| {
        let off =
            if told.0 < earliest { told.0 - sent.first_ms } else { told.0 - sent.acked_ms.unwrap_or(0) };
        format!("a time that is not true by {off} ms, told with {} s: {copy:?}, sent as {sent:?}", told.1)
    })
}

/// The time of a reading as a consumer takes it, ms, and how far it may be off, s: a guess is corrected by the `clock`
/// line of its boot.
fn told_time(lake: &Lake, copy: &Delivered) -> Result<(i64, f64), &'static str> {
    if copy.quality.as_deref() != Some("unsynced") {
        return Ok((copy.time, copy.uncertainty_s.unwrap_or(0.0)));
    }
    let (Some(boot), Some(uptime)) = (&copy.boot, copy.uptime_ms) else {
        return Err("a guess without its place in a boot");
    };
    let clock = lake.clocks.get(boot).ok_or("a guess that was never corrected")?;
    let clock: Value = serde_json::from_str(clock).map_err(|_| "a clock line that is no JSON")?;
    let (Some(time), Some(at)) = (clock["time"].as_str().and_then(epoch_ms), clock["uptime_ms"].as_i64())
    else {
        return Err("a clock line without a time");
    };
    // It grows less certain by 100 ppm.
    let certain_s = clock["uncertainty_s"].as_f64().unwrap_or(2.5);
    Ok((time + (uptime - at), certain_s + (uptime - at).unsigned_abs() as f64 / 1e7))
}

/// Where every number of every generation went.
#[derive(Default)]
struct Numbers {
    /// Given in all, as the generations' ends say.
    given: u64,
    /// Told as missing and not delivered, by cause.
    told: BTreeMap<String, u64>,
    /// Told as missing although it had been delivered before: its confirmation was lost in a crash, and the stored copy
    /// by damage before it could be sent again.
    told_and_delivered: u64,
}

impl Numbers {
    fn of(evidence: &Evidence<'_>, lake: &Lake, verdict: &mut Verdict) -> Self {
        let mut numbers = Self::default();
        let mut gaps: Vec<(u64, u64, &str)> =
            lake.told.iter().map(|gap| (gap.first, gap.last, gap.cause.as_str())).collect();
        gaps.sort_unstable();
        gaps.dedup();
        for pair in gaps.windows(2) {
            if pair[1].0 <= pair[0].1 {
                verdict.faults.push(format!("gaps that overlap: {pair:?}"));
            }
        }
        for (first, last, cause) in &gaps {
            let there = lake.readings.range(first..=last).count() as u64;
            numbers.told_and_delivered += there;
            *numbers.told.entry((*cause).to_owned()).or_default() += last - first + 1 - there;
            // An uplink whose place was damaged is told everything once more, whatever it has.
            if there > 0 && *cause != "lost" && !evidence.hit.contains(&Hit::SmallFile) {
                verdict
                    .faults
                    .push(format!("{there} numbers of {first} to {last} were told as {cause} and delivered"));
            }
        }
        let newest = [
            lake.ends.keys().next_back().copied(),
            lake.readings.keys().next_back().map(|seq| (seq >> 32) as u32),
            gaps.last().map(|gap| (gap.1 >> 32) as u32),
        ];
        let newest = newest.into_iter().flatten().max().unwrap_or(0);
        for generation in 1..=newest {
            let base = u64::from(generation) << 32;
            let Some(&count) = lake.ends.get(&generation) else {
                verdict.faults.push(format!("generation {generation} has no end line"));
                continue;
            };
            numbers.given += count;
            let there: BTreeSet<u64> =
                lake.readings.range(base..base + (1 << 32)).map(|(seq, _)| seq - base).collect();
            if let Some(n) = there.last().filter(|n| **n >= count) {
                verdict.unexplained += 1;
                verdict
                    .faults
                    .push(format!("generation {generation} ended with {count}, but {n} was delivered"));
            }
            let explained = |n: u64| gaps.iter().any(|gap| gap.0 <= base + n && base + n <= gap.1);
            let missing: Vec<u64> = (0..count).filter(|n| !there.contains(n) && !explained(*n)).collect();
            if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
                verdict.unexplained += missing.len() as u64;
                verdict.faults.push(format!(
                    "generation {generation}, count {count}: {} numbers without explanation, {first} to {last}",
                    missing.len()
                ));
            }
        }
        verdict.told = numbers.told.clone();
        numbers
    }
}

/// A reading has one id, unless the memory of it was damaged or dropped, or it carries no stamp to be known by.
fn copies(evidence: &Evidence<'_>, known: &[Known<'_>], verdict: &mut Verdict) {
    let forgetful = [Hit::Damage, Hit::Evicts, Hit::Thins].iter().any(|hit| evidence.hit.contains(hit));
    let sends: HashMap<(&str, String), usize> = evidence
        .bands
        .iter()
        .map(|band| {
            ((band.device.as_str(), format!("{} {:?}", band.device, band.rr_ms)), band.sends as usize)
        })
        .collect();
    for reading in known.iter().filter(|reading| reading.copies.len() > 1) {
        verdict.again += reading.copies.len() as u64 - 1;
        let most = match sends.get(&(reading.device, reading.what.clone())) {
            Some(sends) => *sends,
            None if forgetful => usize::MAX,
            None => 1,
        };
        if reading.copies.len() > most {
            verdict.faults.push(format!("{} stored {} times", reading.what, reading.copies.len()));
        }
    }
}

/// What is missing is told.
fn missing(
    evidence: &Evidence<'_>,
    lake: &Lake,
    known: &[Known<'_>],
    numbers: &Numbers,
    verdict: &mut Verdict,
) {
    let mut missing: BTreeMap<&str, u64> = BTreeMap::new();
    let mut first = None;
    for reading in known.iter().filter(|reading| reading.copies.is_empty()) {
        *missing.entry(reading.device).or_default() += 1;
        first.get_or_insert(&reading.what);
    }
    let total: u64 = missing.values().sum();
    let told: u64 = numbers.told.values().sum();
    if total > told {
        verdict.unexplained += total - told;
        verdict.faults.push(format!(
            "{total} acknowledged readings are missing, {told} were told; one of the missing is {}",
            first.map_or("none", |what| what.as_str())
        ));
    }
    let resent = evidence.straps.sent_again
        + evidence.straps.sent_twice
        + evidence.bands.iter().map(|band| u64::from(band.sends.saturating_sub(1))).sum::<u64>();
    if told > total + resent {
        verdict.faults.push(format!(
            "{told} numbers were told as missing, but only {total} readings are, and {resent} were sent again"
        ));
    }
    // Where the lines say how many each device gave, its missing readings are among them.
    let apart = lake.told.iter().all(|gap| gap.devices.values().sum::<u64>() == gap.last - gap.first + 1);
    if !apart {
        return;
    }
    let mut by_device: BTreeMap<&str, u64> = BTreeMap::new();
    for gap in &lake.told {
        gap.devices.iter().for_each(|(device, count)| *by_device.entry(device).or_default() += count);
    }
    // What was told of devices whose names were lost may be of any.
    let mut nameless: u64 =
        by_device.iter().filter(|(device, _)| device.starts_with(NAMELESS)).map(|(_, n)| n).sum();
    for (device, missing) in missing {
        let told = by_device.get(device).copied().unwrap_or(0);
        let short = missing.saturating_sub(told);
        if short <= nameless {
            nameless -= short;
        } else {
            verdict.unexplained += short - nameless;
            verdict.faults.push(format!("{device}: {missing} readings are missing, {told} were told"));
        }
    }
}

/// A cause is told only on a day that brought it.
fn causes(evidence: &Evidence<'_>, numbers: &Numbers, verdict: &mut Verdict) {
    for (cause, count) in numbers.told.iter().filter(|(_, count)| **count > 0) {
        let brought = match cause.as_str() {
            "lost" => evidence.hit.contains(&Hit::Damage),
            "evicted" => evidence.hit.contains(&Hit::Evicts),
            "thinned" => evidence.hit.contains(&Hit::Thins),
            // Told to the other one too when its place was damaged.
            "withheld" => {
                evidence.hit.contains(&Hit::Quota)
                    && (evidence.optional || evidence.hit.contains(&Hit::SmallFile))
            }
            _ => false,
        };
        if !brought {
            verdict
                .faults
                .push(format!("{count} numbers were told as {cause}, and nothing of the kind happened"));
        }
    }
    if numbers.told_and_delivered > 0 && !evidence.hit.contains(&Hit::Damage) {
        verdict
            .faults
            .push(format!("{} numbers were delivered and told as missing", numbers.told_and_delivered));
    }
}

/// The gateway's own account, proven by `journal verify` from disk, says what the reader found.
fn accounts(evidence: &Evidence<'_>, lake: &Lake, account: &Value, numbers: &Numbers, verdict: &mut Verdict) {
    if account["adds_up"] != true {
        verdict.faults.push(format!("the gateway's own account does not add up: {account}"));
        return;
    }
    if evidence.hit.contains(&Hit::SmallFile) {
        // The tally went with its file: what was delivered before is known to nobody but the reader.
        return;
    }
    let figure = |name: &str| account[name].as_u64().unwrap_or(u64::MAX);
    let earlier = account["delivered_earlier"].as_u64().unwrap_or(0);
    let mut compare = |what: &str, own: u64, found: u64| {
        if own != found {
            verdict.faults.push(format!("the gateway says {own} {what}, the reader finds {found}"));
        }
    };
    let told_earlier: u64 = sum(&account["told_earlier"]);
    compare("given", figure("durable") + earlier + told_earlier, numbers.given);
    compare(
        "delivered",
        figure("delivered") + earlier + numbers.told_and_delivered,
        lake.readings.len() as u64,
    );
    compare(
        "told",
        sum(&account["told"]) + told_earlier,
        numbers.told.values().sum::<u64>() + numbers.told_and_delivered,
    );
    compare("readable and not delivered", figure("readable"), 0);
}

fn sum(causes: &Value) -> u64 {
    causes.as_object().map_or(0, |causes| causes.values().filter_map(Value::as_u64).sum())
}
