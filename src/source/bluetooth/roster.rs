//! Who is heard: the allow-list, and which stable identity a wearable has. Pure.
//!
//! An identity is, in this order: the alias it is listed under, its Polar id, the address inside its broadcast, its
//! serial number, its address. Random addresses that change are never one: such a wearable waits for its serial number,
//! and has only its name when it offers none.
//!
//! Promised: somebody who is not listed is nobody here (unless everybody is welcome by choice); two wearables of one
//! name are never taken for one, the second is a [`Verdict::Rival`] until the first has been silent for [`CLAIM`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::radio::{Address, NotAnAddress};

/// How long a wearable that is listed by name keeps its place after it was last heard: longer than a short loss, short
/// enough for an address that has changed.
pub const CLAIM: Duration = Duration::from_secs(6);
/// Serial numbers that are remembered; the oldest are forgotten.
const MOST_SERIALS: usize = 4096;

/// How the operator names a wearable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    Address(Address),
    /// Upper case.
    PolarId(Arc<str>),
    Name(Arc<str>),
}

/// One entry of the allow-list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: Key,
    pub alias: Option<Arc<str>>,
    /// 1 goes first.
    pub priority: u8,
    pub pair: bool,
}

/// What is known of a wearable that is on the air.
#[derive(Debug, Clone, Copy)]
pub struct Sighting<'a> {
    pub address: Address,
    pub random_address: bool,
    pub name: Option<&'a str>,
    /// From inside its broadcast.
    pub payload_address: Option<Address>,
    /// It announces the heart rate service or broadcasts a heart rate.
    pub has_heart_rate: bool,
}

/// What is to be done with what it sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not wanted: nothing of it is kept.
    Stranger,
    /// Listed by a name that another one, in reach, already goes by.
    Rival(Arc<str>),
    /// Wanted; `identity` is `None` until its serial number is read ([`Roster::learn_serial`]).
    Wanted(Wanted),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub identity: Option<Arc<str>>,
    pub priority: u8,
    pub pair: bool,
}

#[derive(Debug, Default)]
pub struct Roster {
    listed: Vec<Listed>,
    accept_unknown: bool,
    /// Who goes by a listed name now, by the entry's place.
    claims: HashMap<usize, (Address, Instant)>,
    serials: HashMap<Address, Option<Arc<str>>>,
}

/// Priority of those who are not listed.
const UNLISTED: u8 = u8::MAX;

impl Roster {
    pub fn new(listed: Vec<Listed>, accept_unknown: bool) -> Self {
        Self { listed, accept_unknown, ..Self::default() }
    }

    /// One more entry; the same key again replaces the entry before.
    pub fn allow(&mut self, listed: Listed) {
        match self.listed.iter_mut().find(|known| known.key == listed.key) {
            Some(known) => *known = listed,
            None => self.listed.push(listed),
        }
    }

    /// Takes an entry out.
    pub fn forget(&mut self, key: &Key) {
        self.listed.retain(|listed| listed.key != *key);
        // They go by the entries' places.
        self.claims.clear();
    }

    pub fn judge(&mut self, sighting: &Sighting<'_>, now: Instant) -> Verdict {
        let polar_id = sighting.name.and_then(polar_id);
        let found = self.listed.iter().position(|listed| match &listed.key {
            Key::Address(address) => {
                *address == sighting.address || sighting.payload_address == Some(*address)
            }
            Key::PolarId(id) => polar_id.as_ref() == Some(id),
            Key::Name(name) => sighting.name == Some(&**name),
        });
        let Some((place, listed)) = found.and_then(|place| Some((place, self.listed.get(place)?))) else {
            return self.unlisted(sighting, polar_id);
        };
        if let Key::Name(name) = &listed.key {
            let claim = self.claims.entry(place).or_insert((sighting.address, now));
            if claim.0 != sighting.address && now.saturating_duration_since(claim.1) < CLAIM {
                return Verdict::Rival(Arc::clone(name));
            }
            *claim = (sighting.address, now);
        }
        let identity = match (&listed.alias, &listed.key) {
            (Some(alias), _) => Some(Arc::clone(alias)),
            // Whoever is listed by name alone goes by that name, whatever address it has today.
            (None, Key::Name(name)) => Some(Arc::clone(name)),
            (None, _) => self.identity(sighting, polar_id),
        };
        Verdict::Wanted(Wanted { identity, priority: listed.priority, pair: listed.pair })
    }

    fn unlisted(&self, sighting: &Sighting<'_>, polar_id: Option<Arc<str>>) -> Verdict {
        if !self.accept_unknown || !sighting.has_heart_rate {
            return Verdict::Stranger;
        }
        let identity = self.identity(sighting, polar_id);
        Verdict::Wanted(Wanted { identity, priority: UNLISTED, pair: false })
    }

    fn identity(&self, sighting: &Sighting<'_>, polar_id: Option<Arc<str>>) -> Option<Arc<str>> {
        if polar_id.is_some() {
            return polar_id;
        }
        if let Some(address) = sighting.payload_address {
            return Some(address.to_string().into());
        }
        match self.serials.get(&sighting.address) {
            Some(Some(serial)) => Some(Arc::clone(serial)),
            // It was asked and has none.
            Some(None) => Some(fallback(sighting)),
            None if sighting.random_address => None,
            None => Some(sighting.address.to_string().into()),
        }
    }

    /// What the wearable at `address` answered when it was asked for its serial number; `None`: it has none to give.
    /// Serial numbers that makers leave at a placeholder are none.
    pub fn learn_serial(&mut self, address: Address, serial: Option<&str>) {
        let serial = serial.map(str::trim).filter(|serial| is_serial(serial));
        if self.serials.len() >= MOST_SERIALS {
            self.serials.clear();
        }
        self.serials.insert(address, serial.map(Arc::from));
    }

    /// It has been heard (by any way): a claim on a name stays with it.
    pub fn heard(&mut self, address: Address, now: Instant) {
        if let Some(claim) = self.claims.values_mut().find(|claim| claim.0 == address) {
            claim.1 = now;
        }
    }
}

/// The two upper bits of a random address are 11 when it does not change (Bluetooth Core, Vol 6 Part B 1.3.2).
pub fn is_static(address: Address) -> bool {
    let [first, ..] = address.0;
    first >> 6 == 0b11
}

fn fallback(sighting: &Sighting<'_>) -> Arc<str> {
    match sighting.name {
        Some(name) if sighting.random_address && !is_static(sighting.address) => name.into(),
        _ => sighting.address.to_string().into(),
    }
}

/// Made of letters and digits, and not the same one throughout.
fn is_serial(serial: &str) -> bool {
    let mut characters = serial.chars();
    let first = characters.next();
    (4..=64).contains(&serial.len())
        && serial.chars().all(|c| c.is_ascii_graphic())
        && characters.any(|c| Some(c) != first)
}

/// `Polar H10 75087320`: the last word, 8 hexadecimal digits. In upper case, as it is printed on the strap.
pub fn polar_id(name: &str) -> Option<Arc<str>> {
    let id = name.strip_prefix("Polar ")?.rsplit(' ').next()?;
    let fits = id.len() == 8 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    fits.then(|| id.to_ascii_uppercase().into())
}

/// Why an entry of the allow-list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    #[error(transparent)]
    Address(#[from] NotAnAddress),
    #[error("\"{0}\" is not a Polar id; it has 8 hexadecimal digits and is printed on the strap")]
    PolarId(String),
    #[error("names no wearable, or several at once; give one of `address`, `polar_id` and `name`")]
    Key,
}

impl Listed {
    /// What it is called when nothing more is known of it.
    pub fn name(&self) -> String {
        match (&self.alias, &self.key) {
            (Some(alias), _) => alias.to_string(),
            (None, Key::Address(address)) => address.to_string(),
            (None, Key::PolarId(id)) => id.to_string(),
            (None, Key::Name(name)) => name.to_string(),
        }
    }

    /// # Errors
    /// [`ListError`]: names the value at fault.
    pub fn from_config(device: &crate::config::BleDevice) -> Result<Self, ListError> {
        let key = match (&device.address, &device.polar_id, &device.name) {
            (Some(address), None, None) => Key::Address(address.parse()?),
            (None, Some(id), None) => {
                let fits = id.len() == 8 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
                let id =
                    fits.then(|| id.to_ascii_uppercase()).ok_or_else(|| ListError::PolarId(id.clone()))?;
                Key::PolarId(id.into())
            }
            (None, None, Some(name)) => Key::Name(name.as_str().into()),
            _ => return Err(ListError::Key),
        };
        Ok(Self {
            key,
            alias: device.alias.as_deref().map(Arc::from),
            priority: device.priority,
            pair: device.pair,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Address {
        Address([0xC4, 0xAC, 5, 0x11, 0x22, last])
    }

    fn sighting(last: u8) -> Sighting<'static> {
        Sighting {
            address: address(last),
            random_address: false,
            name: None,
            payload_address: None,
            has_heart_rate: true,
        }
    }

    fn listed(key: Key, alias: Option<&str>) -> Listed {
        Listed { key, alias: alias.map(Arc::from), priority: 3, pair: false }
    }

    fn identity(verdict: Verdict) -> Option<Arc<str>> {
        match verdict {
            Verdict::Wanted(wanted) => wanted.identity,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn passers_by_are_nobody() {
        let now = Instant::now();
        let mut closed = Roster::new(vec![listed(Key::Address(address(1)), Some("bike-1"))], false);
        assert_eq!(closed.judge(&sighting(2), now), Verdict::Stranger);
        assert_eq!(identity(closed.judge(&sighting(1), now)).as_deref(), Some("bike-1"));
        let mut open = Roster::new(Vec::new(), true);
        assert_eq!(identity(open.judge(&sighting(2), now)).as_deref(), Some("C4:AC:05:11:22:02"));
        let phone = Sighting { has_heart_rate: false, ..sighting(3) };
        assert_eq!(open.judge(&phone, now), Verdict::Stranger, "everybody with a heart rate, not everybody");
    }

    #[test]
    fn the_order_of_identities() {
        let now = Instant::now();
        let mut roster = Roster::new(Vec::new(), true);
        let polar = Sighting { name: Some("Polar H10 7508732a"), ..sighting(1) };
        assert_eq!(identity(roster.judge(&polar, now)).as_deref(), Some("7508732A"));
        let band = Sighting { payload_address: Some(address(9)), random_address: true, ..sighting(1) };
        assert_eq!(identity(roster.judge(&band, now)).as_deref(), Some("C4:AC:05:11:22:09"));
        roster.learn_serial(address(1), Some("20182DBA0B"));
        assert_eq!(identity(roster.judge(&sighting(1), now)).as_deref(), Some("20182DBA0B"));
    }

    #[test]
    fn an_address_that_changes_never_makes_a_second_device() {
        let now = Instant::now();
        let mut roster = Roster::new(Vec::new(), true);
        for last in [1, 2] {
            let strap = Sighting { random_address: true, ..sighting(last) };
            assert_eq!(identity(roster.judge(&strap, now)), None, "not before the serial number is known");
            roster.learn_serial(address(last), Some("SN-0042"));
            assert_eq!(identity(roster.judge(&strap, now)).as_deref(), Some("SN-0042"));
        }
        let shy = Address([0x44, 0, 0, 0, 0, 1]);
        roster.learn_serial(shy, Some("00000000"));
        let nameless = Sighting { random_address: true, address: shy, name: Some("HRM"), ..sighting(0) };
        assert_eq!(
            identity(roster.judge(&nameless, now)).as_deref(),
            Some("HRM"),
            "a placeholder is no serial"
        );
    }

    #[test]
    fn two_of_one_name_are_never_one() {
        let now = Instant::now();
        let mut roster = Roster::new(vec![listed(Key::Name("HRM".into()), Some("bike-7"))], false);
        let first = Sighting { name: Some("HRM"), ..sighting(1) };
        let second = Sighting { name: Some("HRM"), ..sighting(2) };
        assert_eq!(identity(roster.judge(&first, now)).as_deref(), Some("bike-7"));
        assert_eq!(roster.judge(&second, now), Verdict::Rival("HRM".into()));
        roster.heard(address(1), now + CLAIM);
        assert_eq!(roster.judge(&second, now + CLAIM), Verdict::Rival("HRM".into()));
        assert_eq!(identity(roster.judge(&second, now + CLAIM * 2)).as_deref(), Some("bike-7"));
        assert_eq!(roster.judge(&first, now + CLAIM * 2), Verdict::Rival("HRM".into()));
    }

    #[test]
    fn polar_ids() {
        assert_eq!(polar_id("Polar H10 75087320").as_deref(), Some("75087320"));
        assert_eq!(polar_id("Polar Vantage V2 a1b2c3d4").as_deref(), Some("A1B2C3D4"));
        for other in ["Polar H7", "Polar H10 7508732", "H10 75087320", "Polar H10 7508732x", ""] {
            assert_eq!(polar_id(other), None, "{other}");
        }
    }
}
