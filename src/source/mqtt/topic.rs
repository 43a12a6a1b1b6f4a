//! Topic names and topic filters (MQTT 5, section 4.7; the rules of 3.1.1 are the same).
//!
//! Pure. Stricter than the standard in one place: names and filters that start with `$` are not accepted from
//! clients, since this broker has no system topics and the embedded router does not survive such subscriptions.

/// Longest topic name or filter that is accepted, in bytes.
pub(crate) const MAX_TOPIC: usize = 1024;

/// Is `topic` a name that a client may publish to?
pub(crate) fn valid_name(topic: &str) -> bool {
    !topic.is_empty()
        && topic.len() <= MAX_TOPIC
        && !topic.starts_with('$')
        && !topic.bytes().any(|b| matches!(b, b'+' | b'#' | 0))
}

/// Is `filter` one that a client may subscribe to?
pub(crate) fn valid_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > MAX_TOPIC || filter.starts_with('$') || filter.contains('\0') {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let well_formed = match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            other => !other.contains(['+', '#']),
        };
        if !well_formed {
            return false;
        }
    }
    true
}

/// Does `filter` match `topic`? Both are valid already.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let mut filters = filter.split('/');
    let mut topics = topic.split('/');
    loop {
        match (filters.next(), topics.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(f), Some(t)) if f == t => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// Does `grant` match every topic that `filter` matches?
pub(crate) fn covers(grant: &str, filter: &str) -> bool {
    let mut grants = grant.split('/');
    let mut filters = filter.split('/');
    loop {
        match (grants.next(), filters.next()) {
            (Some("#"), _) => return true,
            (_, Some("#")) => return false,
            (Some("+"), Some(_)) => {}
            (Some(g), Some(f)) if g == f => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "a/b", "/", "hr/strap 1", "é/x"] {
            assert!(valid_name(good), "{good}");
        }
        for bad in ["", "a/+", "a/#", "$SYS/x", "a\0b"] {
            assert!(!valid_name(bad), "{bad:?}");
        }
        assert!(!valid_name(&"x".repeat(MAX_TOPIC + 1)));
    }

    #[test]
    fn filters() {
        for good in ["#", "+", "a/+/b", "a/#", "+/+", "/"] {
            assert!(valid_filter(good), "{good}");
        }
        for bad in ["", "a#", "#/a", "a+", "a/+b", "$SYS/#", "$share/g/a", "++", "##"] {
            assert!(!valid_filter(bad), "{bad:?}");
        }
    }

    #[test]
    fn matching() {
        assert!(matches("a/#", "a"));
        assert!(matches("a/#", "a/b/c"));
        assert!(matches("+/b", "a/b"));
        assert!(matches("+/+", "/b"));
        assert!(!matches("+", "a/b"));
        assert!(!matches("a/+", "a"));
        assert!(!matches("a", "b"));
    }

    #[test]
    fn covering() {
        assert!(covers("strap-1/#", "strap-1/#"));
        assert!(covers("strap-1/#", "strap-1/+/x"));
        assert!(covers("hr/+", "hr/a"));
        assert!(covers("hr/+", "hr/+"));
        assert!(!covers("hr/+", "hr/#"));
        assert!(!covers("hr/a", "hr/+"));
        assert!(!covers("strap-1/#", "#"));
        assert!(!covers("strap-1/#", "+/x"));
    }
}
