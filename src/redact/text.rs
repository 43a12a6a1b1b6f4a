//! Free text, word by word.

use std::net::{IpAddr, SocketAddr};

use super::token::words;
use super::{Redactor, Rule, rule};
use crate::reading::rfc3339;

/// The words that may be read, sorted, one a line. A text, not a table: it costs no memory until it is looked at.
const KNOWN: &str = include_str!(concat!(env!("OUT_DIR"), "/words.txt"));
/// Bare numbers of more digits may be a serial number or a wearable's id.
const MOST_DIGITS: usize = 6;
const UNITS: [&str; 22] = [
    "ns", "us", "\u{b5}s", "ms", "s", "m", "min", "h", "d", "day", "days", "month", "months", "year",
    "years", "%", "B", "KiB", "MiB", "GiB", "TiB", "KB",
];
/// What a URL may begin with.
const SCHEMES: [&str; 6] = ["http", "https", "mqtt", "mqtts", "socks5", "unix"];
/// Longest text that is looked through; what is longer is cut.
const LONGEST: usize = 8 << 10;

impl Redactor {
    /// `text` with a tag for each word that is not known to be harmless.
    pub fn text(&self, text: &str) -> String {
        let text = text.get(..text.floor_char_boundary(LONGEST)).unwrap_or_default();
        if self.phrases.is_empty() {
            return self.by_words(text);
        }
        let lower = text.to_lowercase();
        // Small letters may take more room than great ones (a few letters of few scripts): then places do not match.
        if lower.len() == text.len()
            && let Some((at, phrase)) =
                self.phrases.iter().find_map(|phrase| Some((standing_alone(&lower, phrase)?, phrase)))
            && let Some((before, rest)) = text.split_at_checked(at)
            && let Some((name, after)) = rest.split_at_checked(phrase.len())
        {
            return format!("{}{}{}", self.text(before), self.tag(name), self.text(after));
        }
        if lower.len() == text.len() { self.by_words(text) } else { self.by_words(&lower) }
    }

    fn by_words(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for range in words(text) {
            out.push_str(text.get(done..range.start).unwrap_or_default());
            done = range.end;
            out.push_str(&self.word(text.get(range).unwrap_or_default()));
        }
        out.push_str(text.get(done..).unwrap_or_default());
        out
    }

    /// The value of a field that holds names or addresses: what class of address it is stays readable.
    pub(super) fn named(&self, text: &str) -> String {
        // What was redacted before stays what it is.
        if text.is_empty() || is_tag(text) {
            return text.to_owned();
        }
        address(self, text).unwrap_or_else(|| self.tag(text))
    }

    fn word(&self, word: &str) -> String {
        if self.words.contains(&word.to_lowercase()) {
            return self.tag(word);
        }
        if harmless(word) {
            return word.to_owned();
        }
        if let Some(shown) = address(self, word) {
            return shown;
        }
        if let Some((field, value)) = word.split_once('=')
            && rule(field) != Rule::Withhold
        {
            let shown = if rule(field) == Rule::Show { self.word(value) } else { self.named(value) };
            return format!("{field}={shown}");
        }
        if word.contains('/') {
            let parts: Vec<String> = word
                .split('/')
                .map(|part| if part.is_empty() { String::new() } else { self.word(part) })
                .collect();
            return parts.join("/");
        }
        if word.contains("::") {
            let parts: Vec<String> = word.split("::").map(|part| self.word(part)).collect();
            return parts.join("::");
        }
        self.tag(word)
    }
}

/// Whether any of `name` would be readable in free text.
pub(super) fn would_show(name: &str) -> bool {
    words(name).any(|range| name.get(range).is_some_and(|word| word.split(['/', '=']).any(harmless)))
}

fn harmless(word: &str) -> bool {
    known(word) || number(word) || span(word) || is_tag(word) || special(word)
}

/// Whether it is a word of a message, with either a small or a great first letter.
fn known(word: &str) -> bool {
    let mut other = word.to_owned();
    if let Some(first) = other.get_mut(..1) {
        let small = first.chars().all(|c| c.is_ascii_lowercase());
        if small { first.make_ascii_uppercase() } else { first.make_ascii_lowercase() }
    }
    listed(KNOWN, word) || listed(KNOWN, &other)
}

/// Looks a line up in a sorted text.
fn listed(text: &str, wanted: &str) -> bool {
    let bytes = text.as_bytes();
    let (mut low, mut high) = (0, bytes.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let begin = bytes
            .get(..middle)
            .unwrap_or_default()
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let rest = bytes.get(begin..).unwrap_or_default();
        let length = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        match rest.get(..length).unwrap_or_default().cmp(wanted.as_bytes()) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => low = begin + length + 1,
            std::cmp::Ordering::Greater => high = begin,
        }
    }
    false
}

/// A small number, a version of three numbers.
fn number(word: &str) -> bool {
    let parts: Vec<&str> = word.trim_start_matches(['-', '+']).split('.').collect();
    let digits = |part: &&str| {
        !part.is_empty() && part.len() <= MOST_DIGITS && part.bytes().all(|b| b.is_ascii_digit())
    };
    matches!(parts.len(), 1..=3) && parts.iter().all(digits)
}

/// Numbers with units: `309.028009ms`, `1month13h`, `64.0MiB`, `30%`.
fn span(word: &str) -> bool {
    let mut rest = word;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let plain = number.parse::<f64>().is_ok()
            && number.split('.').next().is_some_and(|whole| whole.len() <= MOST_DIGITS);
        if !(plain && number.len() <= 16 && UNITS.contains(&unit)) {
            return false;
        }
        rest = after;
    }
    !word.is_empty()
}

fn is_tag(word: &str) -> bool {
    word.strip_prefix('~')
        .is_some_and(|rest| rest.len() == 16 && rest.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')))
}

/// A moment, an adapter's number, a short code of MQTT or a signal, a region of AWS, a generation, a block device.
fn special(word: &str) -> bool {
    let short = |rest: &str, most: usize| {
        !rest.is_empty() && rest.len() <= most && rest.bytes().all(|b| b.is_ascii_digit())
    };
    let hex = |rest: &str| !rest.is_empty() && rest.len() <= 2 && rest.bytes().all(|b| b.is_ascii_hexdigit());
    let region = || {
        let mut parts = word.split('-');
        let area = parts
            .next()
            .is_some_and(|area| ["eu", "us", "ap", "sa", "ca", "me", "af", "il", "mx"].contains(&area));
        let direction = parts.next().is_some_and(|part| {
            ["west", "east", "north", "south", "central", "northeast", "southeast", "northwest", "southwest"]
                .contains(&part)
        });
        area && direction && parts.next().is_some_and(|part| short(part, 1)) && parts.next().is_none()
    };
    let moment = || word.len() >= 20 && word.len() <= 35 && rfc3339::parse(word).is_some();
    let code = || word.split_once('/').is_some_and(|(number, name)| short(number, 3) && known(name));
    word.strip_prefix("hci").is_some_and(|rest| short(rest, 2))
        || word.strip_prefix("gen-").is_some_and(|rest| short(rest, 10))
        || word.strip_prefix("loop").is_some_and(|rest| short(rest, 3))
        || word.strip_prefix("0x").is_some_and(hex)
        || ["zlib-rs", "utf-8", "UTF-8", "MQTT5", "IPv4", "IPv6"].contains(&word)
        || region()
        || moment()
        || code()
}

/// Addresses and URLs: their class and port stay readable.
fn address(redactor: &Redactor, word: &str) -> Option<String> {
    if let Ok(socket) = word.parse::<SocketAddr>() {
        return Some(format!("{}:{}", class(redactor, socket.ip()), socket.port()));
    }
    if let Ok(ip) = word.parse::<IpAddr>() {
        return Some(class(redactor, ip));
    }
    let (scheme, rest) = word.split_once("://")?;
    if !SCHEMES.contains(&scheme) {
        return Some(redactor.tag(word));
    }
    // User and password before the host, a path behind it: gone without a trace.
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let login = authority.contains('@');
    let place = authority.rsplit('@').next().unwrap_or_default();
    let shown = address(redactor, place).unwrap_or_else(|| match place.rsplit_once(':') {
        Some((host, port)) if number(port) => format!("{}:{port}", redactor.tag(host)),
        _ => redactor.tag(place),
    });
    let login = if login { "(login)@" } else { "" };
    let path = if rest.len() > authority.len() + 1 { "/(path)" } else { "" };
    Some(format!("{scheme}://{login}{shown}{path}"))
}

fn class(redactor: &Redactor, ip: IpAddr) -> String {
    let ip = ip.to_canonical();
    let local = match ip {
        IpAddr::V4(four) => four.is_private() || four.is_link_local(),
        IpAddr::V6(six) => six.is_unique_local() || six.is_unicast_link_local(),
    };
    match () {
        () if ip.is_loopback() => "loopback".to_owned(),
        () if ip.is_unspecified() => "any".to_owned(),
        () if local => format!("local{}", redactor.tag(&ip.to_string())),
        () => format!("public{}", redactor.tag(&ip.to_string())),
    }
}

/// Where `phrase` stands in `text` with nothing of a word beside it.
fn standing_alone(text: &str, phrase: &str) -> Option<usize> {
    let beside = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    text.match_indices(phrase).map(|(at, _)| at).find(|&at| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        let after = text.get(at + phrase.len()..).and_then(|after| after.chars().next());
        beside(before) && beside(after)
    })
}
