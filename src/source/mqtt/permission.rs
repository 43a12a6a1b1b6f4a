//! Who may publish and subscribe to what.
//!
//! - An anonymous client (loopback only, and only if configured) may do everything.
//! - A device called NAME may publish to `hr/NAME` and below `hr/NAME/` and `NAME/`, and the readings it sends there
//!   are its own: a mapping that finds another device's name in such a publish is not believed. It may subscribe to
//!   the same.
//! - `device add NAME --publish FILTER` and `--subscribe FILTER` grant more. A publish filter is trust: readings
//!   sent there may be of any device (for a gateway that collects several).

use std::sync::Arc;

use super::topic;
use super::users::User;

/// What a connection may do.
#[derive(Debug, Clone)]
pub(crate) enum Permissions {
    Everything,
    Device(Arc<User>),
}

/// The answer for one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Readings of any device.
    Any,
    /// Readings of the user itself only.
    Own,
    Denied,
}

impl Permissions {
    pub(crate) fn publish(&self, name: &str) -> Permission {
        let Self::Device(user) = self else { return Permission::Any };
        if user.publish.iter().any(|filter| topic::matches(filter, name)) {
            return Permission::Any;
        }
        let own = below(name, &user.name).is_some_and(|rest| !rest.is_empty())
            || name.strip_prefix("hr/").is_some_and(|rest| below(rest, &user.name).is_some());
        if own { Permission::Own } else { Permission::Denied }
    }

    pub(crate) fn subscribe(&self, filter: &str) -> bool {
        let Self::Device(user) = self else { return true };
        user.subscribe.iter().any(|grant| topic::covers(grant, filter))
            || below(filter, &user.name).is_some()
            || filter.strip_prefix("hr/").is_some_and(|rest| below(rest, &user.name).is_some())
    }

    /// The name a reading must have with [`Permission::Own`].
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Everything => None,
            Self::Device(user) => Some(&user.name),
        }
    }
}

/// What follows `name` as a topic level: `""` for the level itself, `"/..."` for what is below.
fn below<'a>(topic: &'a str, name: &str) -> Option<&'a str> {
    topic.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(publish: &[&str], subscribe: &[&str]) -> Permissions {
        let own = |filters: &[&str]| filters.iter().map(|f| (*f).to_owned()).collect();
        Permissions::Device(Arc::new(User {
            name: "strap-1".to_owned(),
            publish: own(publish),
            subscribe: own(subscribe),
        }))
    }

    #[test]
    fn a_device_publishes_below_its_name() {
        let permissions = device(&[], &[]);
        for own in ["hr/strap-1", "hr/strap-1/raw", "strap-1/hr", "strap-1/"] {
            assert_eq!(permissions.publish(own), Permission::Own, "{own}");
        }
        for other in ["hr/strap-2", "hr/strap-10", "strap-10/hr", "strap-1", "hr", "x/strap-1", "hr//strap-1"]
        {
            assert_eq!(permissions.publish(other), Permission::Denied, "{other}");
        }
    }

    #[test]
    fn grants_add_to_it() {
        let permissions = device(&["home/+/BTtoMQTT/#"], &["hr/+"]);
        assert_eq!(permissions.publish("home/a/BTtoMQTT/x"), Permission::Any);
        assert_eq!(permissions.publish("home/a/b"), Permission::Denied);
        assert!(permissions.subscribe("hr/strap-2"));
        assert!(permissions.subscribe("strap-1/#"));
        assert!(!permissions.subscribe("hr/#"));
        assert!(!permissions.subscribe("#"));
        assert!(!device(&[], &[]).subscribe("+/x"));
        assert!(device(&[], &[]).subscribe("hr/strap-1"));
    }

    #[test]
    fn anonymous_may_do_everything() {
        assert_eq!(Permissions::Everything.publish("a"), Permission::Any);
        assert!(Permissions::Everything.subscribe("#"));
        assert_eq!(Permissions::Everything.name(), None);
    }
}
