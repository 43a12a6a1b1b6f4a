//! Topic filters.

/// A checked MQTT topic filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

impl Filter {
    /// `<prefix>/+`.
    pub fn device_below(prefix: &str) -> Self {
        Self(format!("{prefix}/+"))
    }

    /// Checks a filter as it is written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("a topic filter is needed");
        }
        if text.len() > 65_535 || text.contains('\0') {
            return Err("a topic filter has at most 65535 bytes and no NUL");
        }
        if text.starts_with("$share/") {
            return Err("a mapping names topics, not a shared subscription");
        }
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains(['+', '#']) && level.len() > 1 {
                return Err("`+` and `#` stand for whole levels, alone between slashes");
            }
            if level == "#" && levels.peek().is_some() {
                return Err("`#` can only be the last level");
            }
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether every topic of this filter has a level number `level` (from 0).
    pub fn reaches(&self, level: usize) -> bool {
        self.0.ends_with('#') || level < self.0.split('/').count()
    }

    /// Whether a topic belongs to the filter. Wildcards in the first level do not match `$` topics.
    pub fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = topic.split('/');
        for part in self.0.split('/') {
            match (part, levels.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (part, Some(level)) if part == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching() {
        for (filter, topic, expected) in [
            ("hr/+", "hr/strap", true),
            ("hr/+", "hr/strap/x", false),
            ("hr/+", "hr", false),
            ("hr/+", "hr/", true),
            ("hr/#", "hr", true),
            ("hr/#", "hr/a/b", true),
            ("/health/#", "/health/u-17", true),
            ("/health/#", "health/u-17", false),
            ("+/x", "/x", true),
            ("#", "$SYS/broker", false),
            ("$SYS/#", "$SYS/broker", true),
        ] {
            assert_eq!(Filter::parse(filter).unwrap().matches(topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn what_is_no_filter() {
        for filter in ["", "a/#/b", "a/b+", "a#", "$share/g/hr/+", "a\0"] {
            assert!(Filter::parse(filter).is_err(), "{filter}");
        }
    }
}
