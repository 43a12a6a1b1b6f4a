// Where a word of free text begins and ends. One text for `build.rs`, which collects the words of the program's own
// messages, and for the redaction that lets only those through: both must cut alike.

/// The words of `text`, as ranges of bytes: what stands between blanks, quotes and brackets, without the punctuation
/// around it. A compound (`strap-17`, `/etc/fogbeat`, `a=b`) is one word.
pub fn words(text: &str) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = text.get(at..)?;
            let begin = at + rest.find(|c: char| !is_between(c))?;
            let rest = text.get(begin..)?;
            let end = begin + rest.find(is_between).unwrap_or(rest.len());
            at = end;
            let word = text.get(begin..end)?;
            let start = begin + (word.len() - word.trim_start_matches(is_around).len());
            let core = word.trim_matches(is_around);
            if !core.is_empty() {
                return Some(start..start + core.len());
            }
        }
    })
}

fn is_between(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "\"'`()[]{}<>,;|\\\u{201c}\u{201d}\u{2018}\u{2019}".contains(c)
}

fn is_around(c: char) -> bool {
    ".:!?-=*&+\u{2026}".contains(c)
}
