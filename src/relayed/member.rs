//! Whether bytes are a member: one whole gzip member of JSON lines with ids of one spool. Pure.

use std::borrow::Cow;
use std::io::{BufRead as _, BufReader, Read as _};

use flate2::bufread::GzDecoder;
use serde::Deserialize;

/// Most text of a member: a sender's batch has at most 64 MiB, packed to far more than a packet may have.
const MOST_TEXT: u64 = 32 << 20;
/// No line is longer; the longest that fogbeat writes (a gap of ten thousand devices) is not near it.
const LONGEST_LINE: u64 = 4 << 20;

/// What is known of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// First part of every id inside.
    pub spool: String,
    /// Least and largest number inside.
    pub first: u64,
    pub last: u64,
    pub readings: u32,
    pub lines: u32,
    pub text_bytes: u64,
}

/// Why bytes are not a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAMember {
    #[error("not one whole gzip member: {0}")]
    Gzip(String),
    #[error("line {0} is not one of fogbeat's: {1}")]
    Line(u32, &'static str),
    #[error("more than {MOST_TEXT} bytes of text")]
    TooLong,
    #[error("no line with a number in it")]
    Empty,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    last_seq: Option<u64>,
}

/// Reads a member through. Takes memory for one line, time for the whole.
///
/// # Errors
/// [`NotAMember`]
pub fn parse(bytes: &[u8]) -> Result<Parsed, NotAMember> {
    let gzip = |error: std::io::Error| NotAMember::Gzip(error.to_string());
    let mut rest = bytes;
    let mut text = BufReader::new(GzDecoder::new(&mut rest).take(MOST_TEXT + 1));
    let mut parsed =
        Parsed { spool: String::new(), first: u64::MAX, last: 0, readings: 0, lines: 0, text_bytes: 0 };
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut text).take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(gzip)?;
        if read == 0 {
            break;
        }
        parsed.text_bytes += read as u64;
        parsed.lines += 1;
        if parsed.text_bytes > MOST_TEXT {
            return Err(NotAMember::TooLong);
        }
        parsed.take(&line)?;
    }
    drop(text);
    if !rest.is_empty() {
        return Err(NotAMember::Gzip("something follows it".to_owned()));
    }
    if parsed.first == u64::MAX {
        return Err(NotAMember::Empty);
    }
    Ok(parsed)
}

impl Parsed {
    fn take(&mut self, line: &[u8]) -> Result<(), NotAMember> {
        let number = self.lines;
        let wrong = |what| NotAMember::Line(number, what);
        let line = line.strip_suffix(b"\n").ok_or(wrong("it does not end in a newline"))?;
        let line: Line<'_> = serde_json::from_slice(line).map_err(|_| wrong("no JSON with an id"))?;
        let mut parts = line.id.split('-');
        let spool = parts.next().unwrap_or_default();
        if spool.is_empty() || spool.len() > 64 || !spool.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(wrong("its id does not begin with a spool"));
        }
        if self.spool.is_empty() {
            spool.clone_into(&mut self.spool);
        } else if self.spool != spool {
            return Err(wrong("its spool is not that of the first line"));
        }
        if line.kind.as_deref() == Some("clock") {
            return Ok(());
        }
        let seq = parts.next().and_then(|seq| seq.parse::<u64>().ok()).ok_or(wrong("no number in its id"))?;
        self.first = self.first.min(seq);
        self.last = self.last.max(seq).max(line.last_seq.unwrap_or(0));
        self.readings += u32::from(line.kind.is_none());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn packed(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    const TEXT: &str = "{\"id\":\"ab12-7\",\"bpm\":60}\n{\"id\":\"ab12-5\",\"bpm\":61}\n\
        {\"id\":\"ab12-9-12\",\"type\":\"gap\",\"first_seq\":9,\"last_seq\":12}\n\
        {\"id\":\"ab12-clock-0-1\",\"type\":\"clock\"}\n";

    #[test]
    fn a_member_tells_whose_it_is() {
        let parsed = parse(&packed(TEXT)).unwrap();
        assert_eq!((parsed.spool.as_str(), parsed.first, parsed.last), ("ab12", 5, 12));
        assert_eq!((parsed.readings, parsed.lines, parsed.text_bytes), (2, 4, TEXT.len() as u64));
    }

    #[test]
    fn what_is_not_whole_or_not_ours_is_none() {
        let whole = packed(TEXT);
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_err(), "{length}");
        }
        assert!(matches!(parse(&[whole.clone(), whole].concat()), Err(NotAMember::Gzip(_))));
        for text in ["", "{\"id\":\"ab-1\"}", "{}\n", "x\n", "{\"id\":\"-1\"}\n", "{\"id\":\"../x-1\"}\n"] {
            assert!(parse(&packed(text)).is_err(), "{text}");
        }
        assert!(matches!(
            parse(&packed("{\"id\":\"a-1\"}\n{\"id\":\"b-1\"}\n")),
            Err(NotAMember::Line(2, _))
        ));
        assert_eq!(parse(&packed("{\"id\":\"a-clock-1\",\"type\":\"clock\"}\n")), Err(NotAMember::Empty));
        let bomb = packed(&"{\"id\":\"a-1\"}\n".repeat(3_000_000));
        assert_eq!(parse(&bomb), Err(NotAMember::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let _ = parse(&packed(&String::from_utf8_lossy(&bytes)));
        }

        #[test]
        fn a_flipped_bit_is_noticed(at in 10usize..80, bit in 0u32..8) {
            let mut bytes = packed(TEXT);
            let at = at % bytes.len();
            prop_assume!(at > 9);
            bytes[at] ^= 1 << bit;
            prop_assert!(parse(&bytes).is_err());
        }
    }
}
