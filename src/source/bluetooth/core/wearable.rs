//! One wearable: what its ways of being heard bring together into one stream of readings.

use std::num::NonZeroU16;
use std::time::Instant;

use super::super::beats::Run;
use super::super::heart::Heart;
use super::super::quality::{Echo, History};
use super::super::radio::{AdapterId, Characteristic};
use super::super::signal::Signal;
use crate::clock::Stamp;
use crate::reading::advert::Broadcast;
use crate::reading::validity::Measurement;
use crate::reading::{Contact, DeviceId, Reading, Source, hrm};

/// A connected wearable that has been silent for so long has left a gap; they send once a second.
const GATT_GAP_MS: u64 = 2_500;
/// Adverts are missed in ones and twos even by a good radio.
const ADVERT_GAP_MS: u64 = 5_000;

/// The state of one wearable's stream.
#[derive(Debug, Default)]
pub struct Wearable {
    heart: Heart,
    history: History,
    echo: Echo,
    run: Run,
    /// Beats went unheard since the last notification.
    broken: bool,
    pub signal: Signal,
    pub about: About,
    /// As it was last read, and whether a reading has told it.
    battery: Option<(u8, bool)>,
    last: Option<Last>,
    beat: Option<(u64, Beat)>,
    pub counts: Counts,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    uptime_ms: u64,
    source: Source,
}

/// What its last reading said, for whoever looks on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    pub bpm: Option<u16>,
    /// The last interval, microseconds.
    pub rr_us: Option<u64>,
}

/// What it says of itself (services 0x180A and 0x180D), as it was last read.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct About {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// Where it is worn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worn: Option<&'static str>,
}

impl About {
    /// Longest text that is kept, in characters.
    const LONGEST: usize = 64;

    /// The value of a characteristic; one that is no fact about the wearable, or no text, changes nothing.
    pub fn learn(&mut self, what: Characteristic, value: &[u8]) {
        let text = || {
            let text = std::str::from_utf8(value).ok()?.trim_matches(['\0', ' ']);
            let shown: String = text.chars().filter(|c| !c.is_control()).take(Self::LONGEST).collect();
            (!shown.is_empty()).then_some(shown)
        };
        match what {
            Characteristic::ManufacturerName => self.maker = text().or(self.maker.take()),
            Characteristic::ModelNumber => self.model = text().or(self.model.take()),
            Characteristic::FirmwareRevision => self.firmware = text().or(self.firmware.take()),
            Characteristic::BodySensorLocation => {
                let place = value.first().and_then(|place| LOCATIONS.get(usize::from(*place)));
                self.worn = place.copied().or(self.worn);
            }
            Characteristic::BatteryLevel | Characteristic::SerialNumber => {}
        }
    }
}

/// Values of 0x2A38 (Heart Rate Service 1.0).
const LOCATIONS: [&str; 7] = ["other", "chest", "wrist", "finger", "hand", "ear lobe", "foot"];

/// What became of what it sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub readings: u64,
    /// Notifications that are no 0x2A37 value.
    pub malformed: u64,
    /// The same notification heard twice.
    pub echoes: u64,
    /// Connections that were lost, or given up because they said nothing.
    pub drops: u64,
    /// Readings with something unheard right before them.
    pub gaps: u64,
    /// RR intervals no sensor means.
    pub rr_artefacts: u64,
}

impl Wearable {
    /// A value of 0x2A37. The number of its device is put in by whoever knows it.
    pub fn notified(&mut self, payload: &[u8], arrival: Stamp, rssi_dbm: Option<i8>) -> Option<Reading> {
        if self.echo.is_echo(payload, arrival.uptime_ms) {
            self.counts.echoes += 1;
            return None;
        }
        let Ok(measured) = hrm::decode(payload) else {
            self.counts.malformed += 1;
            return None;
        };
        self.heart.connected_data(arrival.uptime_ms);
        let mut measurement = Measurement::from(measured);
        measurement.rssi_dbm = rssi_dbm;
        measurement.battery_percent = self.untold_battery();
        let taken = self.beat_time(&measurement, arrival);
        Some(self.reading(measurement, Source::Gatt, taken))
    }

    /// A broadcast, as `adapter` heard it; `None` when it says nothing new.
    pub fn broadcast(
        &mut self,
        heard: &Broadcast,
        adapter: &AdapterId,
        arrival: Stamp,
        rssi_dbm: Option<i8>,
    ) -> Option<Reading> {
        if heard.bpm.is_none() || !self.heart.takes_broadcast(adapter, heard.frame, arrival.uptime_ms) {
            return None;
        }
        let measurement = Measurement {
            bpm: heard.bpm,
            contact: heard.contact,
            battery_percent: heard.battery_percent,
            rssi_dbm,
            ..Measurement::default()
        };
        Some(self.reading(measurement, Source::Advert, arrival))
    }

    fn reading(&mut self, measurement: Measurement, source: Source, taken: Stamp) -> Reading {
        let (mut reading, artefacts) = measurement.judge(DeviceId(u32::MAX), source, taken, None);
        self.history.judge(&mut reading);
        reading.gap_ms = self.gap(source, taken.uptime_ms);
        self.counts.gaps += u64::from(reading.gap_ms.is_some());
        self.counts.readings += 1;
        self.counts.rr_artefacts += artefacts as u64;
        let rr_us = reading.rr.values.last().map(|value| reading.rr.unit.to_micros(*value));
        self.beat = Some((taken.uptime_ms, Beat { bpm: reading.bpm.map(NonZeroU16::get), rr_us }));
        self.last = Some(Last { uptime_ms: taken.uptime_ms, source });
        reading
    }

    /// How long before this reading the last one was taken, if something went unheard between them.
    fn gap(&mut self, source: Source, taken_ms: u64) -> Option<u32> {
        let broken = source == Source::Gatt && std::mem::take(&mut self.broken);
        let last = self.last?;
        let passed = taken_ms.saturating_sub(last.uptime_ms);
        let most = match (last.source, source) {
            (Source::Gatt, Source::Gatt) => GATT_GAP_MS,
            _ => ADVERT_GAP_MS,
        };
        (broken || passed > most).then(|| u32::try_from(passed).unwrap_or(u32::MAX))
    }

    /// A measurement with RR intervals was taken at its last beat, which lies before its arrival.
    fn beat_time(&mut self, measurement: &Measurement, arrival: Stamp) -> Stamp {
        if measurement.contact == Contact::NotDetected {
            self.interrupted();
            return arrival;
        }
        let going = self.run.is_going();
        let rr = &measurement.rr;
        let micros = rr.values.iter().map(|value| rr.unit.to_micros(*value));
        let Some(placed) = self.run.place(arrival.uptime_ms, micros) else { return arrival };
        self.broken |= going && placed.begins_run;
        Stamp {
            uptime_ms: arrival.uptime_ms.saturating_sub(u64::from(placed.before_arrival_ms)),
            wall_ms: arrival.wall_ms.saturating_sub(i64::from(placed.before_arrival_ms)),
            quality: arrival.quality,
        }
    }

    /// Read from the battery service; the next reading tells it.
    pub fn battery_read(&mut self, percent: u8) {
        self.battery = Some((percent, false));
    }

    /// 0 to 100 %, as it was last read.
    pub fn battery_percent(&self) -> Option<u8> {
        self.battery.map(|(percent, _)| percent)
    }

    fn untold_battery(&mut self) -> Option<u8> {
        let (percent, told) = self.battery.as_mut()?;
        (!std::mem::replace(told, true)).then_some(*percent)
    }

    /// The connection is gone, or readings were: no interval is bridged over it.
    pub fn interrupted(&mut self) {
        self.broken |= self.run.is_going() || self.last.is_some_and(|last| last.source == Source::Gatt);
        self.run.end();
    }

    /// How long ago the last reading was taken, ms.
    pub fn silent_for_ms(&self, now: Stamp) -> Option<u64> {
        self.last.map(|last| now.uptime_ms.saturating_sub(last.uptime_ms))
    }

    /// What its last reading said, if it is no older than `most_ms`.
    pub fn beat(&self, now: Stamp, most_ms: u64) -> Option<Beat> {
        let (at, beat) = self.beat?;
        (now.uptime_ms.saturating_sub(at) <= most_ms).then_some(beat)
    }

    pub fn last_source(&self) -> Option<Source> {
        self.last.map(|last| last.source)
    }

    /// Notes how loud `adapter` hears it.
    pub fn heard(&mut self, adapter: &AdapterId, rssi_dbm: Option<i8>, now: Instant) {
        if let Some(rssi_dbm) = rssi_dbm {
            self.signal.heard(adapter, rssi_dbm, now);
        }
    }
}
