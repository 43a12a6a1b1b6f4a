//! Who is heard: the allow-list, and which stable identity a wearable has. Pure.
//!
//! An identity is, in this order: the alias it is listed under, its Polar id, the address inside its broadcast, its
//! serial number, its address. A wearable that can be connected to waits for its serial number, one that only
//! broadcasts for its name, which comes in another packet: what has been given a name keeps it. Random addresses that
//! change are never an identity: without a serial number such a wearable has only its name, and without that none.
//!
//! Promised: somebody who is not listed is nobody here (unless everybody is welcome by choice); two wearables of one
//! name are never taken for one, the second is a [`Verdict::Rival`] until the first has been silent for [`CLAIM`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::radio::{Address, NotAnAddress};

/// How long a wearable that goes by its name keeps it after it was last heard: longer than a short loss, short enough
/// for an address that has changed.
pub const CLAIM: Duration = Duration::from_secs(6);
/// Addresses whose serial numbers and identities are remembered; beyond it all are learnt again.
const MOST_REMEMBERED: usize = 4096;
/// Names that somebody goes by; beyond it those of the silent are free.
const MOST_CLAIMS: usize = 1024;

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
    /// It will be connected to, and be asked for its serial number ([`Roster::learn_serial`]).
    pub connectable: bool,
}

/// What is to be done with what it sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not wanted, or nothing tells it from others: nothing of it is kept.
    Stranger,
    /// Goes by a name that another one, in reach, already goes by.
    Rival(Arc<str>),
    Wanted(Wanted),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `None` until its serial number is read, or its name heard.
    pub identity: Option<Arc<str>>,
    pub priority: u8,
    pub pair: bool,
    /// Where it is listed; `None`: everybody is welcome.
    pub entry: Option<Key>,
}

#[derive(Debug, Default)]
pub struct Roster {
    listed: Vec<Listed>,
    accept_unknown: bool,
    /// Who goes by a name now.
    claims: HashMap<Arc<str>, (Address, Instant)>,
    serials: HashMap<Address, Option<Arc<str>>>,
    /// Of those without an alias.
    identities: HashMap<Address, Arc<str>>,
}

/// By what a wearable is told from others.
#[derive(Debug)]
enum Identity {
    Lasting(Arc<str>),
    /// Its name, that another one may have as well.
    Name(Arc<str>),
    /// What it goes by is still to be learnt.
    Awaited,
    /// Nothing that lasts.
    Nothing,
}

/// Priority of those who are not listed.
const UNLISTED: u8 = u8::MAX;

impl Roster {
    pub fn new(listed: Vec<Listed>, accept_unknown: bool) -> Self {
        Self { listed, accept_unknown, ..Self::default() }
    }

    /// The allow-list.
    pub fn listed(&self) -> &[Listed] {
        &self.listed
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
        if let Key::Name(name) = key {
            self.claims.remove(name);
        }
    }

    pub fn judge(&mut self, sighting: &Sighting<'_>, now: Instant) -> Verdict {
        let listed = self.listed.iter().find(|listed| listed.key.fits(sighting));
        let (priority, pair) = match listed {
            Some(listed) => (listed.priority, listed.pair),
            None if self.accept_unknown && sighting.has_heart_rate => (UNLISTED, false),
            None => return Verdict::Stranger,
        };
        let alias = listed.and_then(|listed| listed.alias.clone());
        let entry = listed.map(|listed| listed.key.clone());
        let identity = match &entry {
            // Whoever is listed by name alone goes by that name, whatever address it has today.
            Some(Key::Name(name)) => Identity::Name(Arc::clone(name)),
            // Nothing more has to be known of it.
            _ if alias.is_some() => Identity::Awaited,
            _ => self.identity(sighting),
        };
        let identity = match identity {
            Identity::Lasting(identity) => {
                self.remember(sighting.address, &identity);
                Some(identity)
            }
            Identity::Name(name) if !self.claim(&name, sighting.address, now) => return Verdict::Rival(name),
            Identity::Name(name) => Some(name),
            Identity::Awaited => None,
            Identity::Nothing => return Verdict::Stranger,
        };
        Verdict::Wanted(Wanted { identity: alias.or(identity), priority, pair, entry })
    }

    /// What somebody without an alias is told from others by.
    fn identity(&self, sighting: &Sighting<'_>) -> Identity {
        if let Some(known) = self.identities.get(&sighting.address) {
            return Identity::Lasting(Arc::clone(known));
        }
        if let Some(id) = sighting.name.and_then(polar_id) {
            return Identity::Lasting(id);
        }
        if let Some(address) = sighting.payload_address {
            return Identity::Lasting(address.to_string().into());
        }
        let serial = self.serials.get(&sighting.address);
        let lasts = !sighting.random_address || is_static(sighting.address);
        match (serial, sighting.name) {
            (Some(Some(serial)), _) => Identity::Lasting(Arc::clone(serial)),
            (None, _) if sighting.connectable => Identity::Awaited,
            (None, None) => Identity::Awaited,
            // It was asked and has none, or is never asked.
            _ if lasts => Identity::Lasting(sighting.address.to_string().into()),
            (_, Some(name)) => Identity::Name(name.into()),
            (_, None) => Identity::Nothing,
        }
    }

    fn remember(&mut self, address: Address, identity: &Arc<str>) {
        if self.identities.len() >= MOST_REMEMBERED && !self.identities.contains_key(&address) {
            self.identities.clear();
        }
        self.identities.entry(address).or_insert_with(|| Arc::clone(identity));
    }

    /// Whether the name is that of the wearable at `address`, now.
    fn claim(&mut self, name: &Arc<str>, address: Address, now: Instant) -> bool {
        let holds = |claim: &(Address, Instant)| now.saturating_duration_since(claim.1) < CLAIM;
        if self.claims.len() >= MOST_CLAIMS {
            self.claims.retain(|_, claim| holds(claim));
        }
        if self.claims.get(name).is_some_and(|claim| claim.0 != address && holds(claim)) {
            return false;
        }
        self.claims.insert(Arc::clone(name), (address, now));
        true
    }

    /// What the wearable at `address` answered when it was asked for its serial number; `None`: it has none to give.
    /// Serial numbers that makers leave at a placeholder are none.
    pub fn learn_serial(&mut self, address: Address, serial: Option<&str>) {
        let serial = serial.map(str::trim).filter(|serial| is_serial(serial));
        if self.serials.len() >= MOST_REMEMBERED {
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

impl Key {
    /// Whether it is the one who was seen.
    pub fn fits(&self, sighting: &Sighting<'_>) -> bool {
        match self {
            Self::Address(address) => {
                *address == sighting.address || sighting.payload_address == Some(*address)
            }
            Self::PolarId(id) => {
                sighting.name.and_then(polar_digits).is_some_and(|digits| digits.eq_ignore_ascii_case(id))
            }
            Self::Name(name) => sighting.name == Some(&**name),
        }
    }
}

/// The two upper bits of a random address are 11 when it does not change (Bluetooth Core, Vol 6 Part B 1.3.2).
pub fn is_static(address: Address) -> bool {
    let [first, ..] = address.0;
    first >> 6 == 0b11
}

/// Made of letters and digits, and not the same one throughout.
fn is_serial(serial: &str) -> bool {
    let mut characters = serial.chars();
    let first = characters.next();
    (4..=64).contains(&serial.len())
        && serial.chars().all(|c| c.is_ascii_graphic())
        && characters.any(|c| Some(c) != first)
}

/// The Polar id in a wearable's name, in upper case as it is printed on the strap.
pub fn polar_id(name: &str) -> Option<Arc<str>> {
    polar_digits(name).map(|digits| digits.to_ascii_uppercase().into())
}

/// `Polar H10 75087320`: the last word, 8 hexadecimal digits.
fn polar_digits(name: &str) -> Option<&str> {
    let digits = name.strip_prefix("Polar ")?.rsplit(' ').next()?;
    (digits.len() == 8 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(digits)
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
            connectable: true,
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
        open.learn_serial(address(2), None);
        assert_eq!(identity(open.judge(&sighting(2), now)).as_deref(), Some("C4:AC:05:11:22:02"));
        let phone = Sighting { has_heart_rate: false, ..sighting(3) };
        assert_eq!(open.judge(&phone, now), Verdict::Stranger, "everybody with a heart rate, not everybody");
    }

    #[test]
    fn the_order_of_identities() {
        let now = Instant::now();
        let named = |last| Sighting { name: Some("TICKR 1234"), ..sighting(last) };
        let mut roster = Roster::new(Vec::new(), true);
        for last in 1..=4 {
            roster.learn_serial(address(last), (last < 4).then_some("20182DBA0B"));
        }
        let polar =
            Sighting { name: Some("Polar H10 7508732a"), payload_address: Some(address(9)), ..sighting(1) };
        assert_eq!(identity(roster.judge(&polar, now)).as_deref(), Some("7508732A"));
        let band = Sighting { payload_address: Some(address(9)), random_address: true, ..named(2) };
        assert_eq!(identity(roster.judge(&band, now)).as_deref(), Some("C4:AC:05:11:22:09"));
        assert_eq!(identity(roster.judge(&named(3), now)).as_deref(), Some("20182DBA0B"));
        assert_eq!(identity(roster.judge(&named(4), now)).as_deref(), Some("C4:AC:05:11:22:04"));
    }

    #[test]
    fn whoever_has_a_name_keeps_it() {
        let now = Instant::now();
        let mut roster = Roster::new(vec![listed(Key::Address(address(1)), None)], true);
        assert_eq!(identity(roster.judge(&sighting(1), now)), None, "its serial number is still to come");
        roster.learn_serial(address(1), Some("20182DBA0B"));
        assert_eq!(identity(roster.judge(&sighting(1), now)).as_deref(), Some("20182DBA0B"));
        let polar = Sighting { name: Some("Polar H10 75087320"), ..sighting(1) };
        assert_eq!(identity(roster.judge(&polar, now)).as_deref(), Some("20182DBA0B"), "one strap, one name");
        let broadcaster = Sighting { connectable: false, ..sighting(2) };
        assert_eq!(identity(roster.judge(&broadcaster, now)), None, "its name comes in another packet");
        let named = Sighting { name: Some("Polar H7 7508732B"), ..broadcaster };
        assert_eq!(identity(roster.judge(&named, now)).as_deref(), Some("7508732B"));
        assert_eq!(identity(roster.judge(&broadcaster, now)).as_deref(), Some("7508732B"));
        let other = Sighting { name: Some("X2"), connectable: false, ..sighting(3) };
        assert_eq!(identity(roster.judge(&other, now)).as_deref(), Some("C4:AC:05:11:22:03"));
    }

    #[test]
    fn an_address_that_changes_never_makes_a_second_device() {
        let now = Instant::now();
        let mut roster = Roster::new(Vec::new(), true);
        for last in [1, 2] {
            let address = Address([0x44, 0, 0, 0, 0, last]);
            let strap = Sighting { random_address: true, address, ..sighting(0) };
            assert_eq!(identity(roster.judge(&strap, now)), None, "not before the serial number is known");
            roster.learn_serial(address, Some("SN-0042"));
            assert_eq!(identity(roster.judge(&strap, now)).as_deref(), Some("SN-0042"));
        }
        let shy = |last| {
            let address = Address([0x44, 1, 0, 0, 0, last]);
            Sighting { random_address: true, address, name: Some("HRM"), ..sighting(0) }
        };
        for last in [1, 2] {
            roster.learn_serial(shy(last).address, Some("00000000"));
        }
        let told = identity(roster.judge(&shy(1), now));
        assert_eq!(told.as_deref(), Some("HRM"), "a placeholder is no serial");
        assert_eq!(roster.judge(&shy(2), now), Verdict::Rival("HRM".into()), "nor is a name two wearables");
        let later = now + CLAIM;
        assert_eq!(identity(roster.judge(&shy(2), later)).as_deref(), Some("HRM"));
        let nameless = Sighting { name: None, ..shy(1) };
        assert_eq!(roster.judge(&nameless, later), Verdict::Stranger, "nothing tells it from others");
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
