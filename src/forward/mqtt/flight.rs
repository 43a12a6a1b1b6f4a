//! What is on its way on one connection, and which packet id it has. Pure.
//!
//! The client library gives packet ids itself, 1 to the window's size and round again, and tells them by its events in
//! the order in which it was given things. A broker may acknowledge in any order (AWS IoT does); so that an id that is
//! still in use is never given a second time, which the library does not survive, nothing is given to it while the id
//! that comes next is in use.

use std::collections::BTreeMap;

pub(super) struct Flight<T> {
    /// Given to the library and not yet seen on its way.
    given: Option<T>,
    sent: BTreeMap<u16, T>,
    /// How many may be unacknowledged, and the largest id.
    window: u16,
    /// The id that was given last.
    last: u16,
}

impl<T> Flight<T> {
    pub(super) fn new(window: u16) -> Self {
        Self { given: None, sent: BTreeMap::new(), window: window.max(1), last: 0 }
    }

    /// Whether the library can be given one more. One at a time: what waits inside it cannot be overtaken any more.
    pub(super) fn is_open(&self) -> bool {
        self.given.is_none()
            && self.sent.len() < usize::from(self.window)
            && !self.sent.contains_key(&self.next())
    }

    /// Given to the library.
    pub(super) fn give(&mut self, load: T) {
        self.given = Some(load);
    }

    /// The library has sent what it was given.
    pub(super) fn sent(&mut self, id: u16) {
        if let Some(load) = self.given.take() {
            self.last = id;
            self.sent.insert(id, load);
        }
    }

    /// The library has used an id for something else (SUBSCRIBE).
    pub(super) fn used(&mut self, id: u16) {
        self.last = id;
    }

    /// The other side has acknowledged; `None`: nothing that was sent here.
    pub(super) fn acknowledged(&mut self, id: u16) -> Option<T> {
        self.sent.remove(&id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.given.is_none() && self.sent.is_empty()
    }

    fn next(&self) -> u16 {
        // The library starts anew once it has given the last id.
        if self.last >= self.window { 1 } else { self.last + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The library's way of giving ids (rumqttc 0.25.1, `MqttState::next_pkid`).
    struct Library {
        last: u16,
        window: u16,
    }

    impl Library {
        fn id(&mut self) -> u16 {
            let id = self.last + 1;
            self.last = if id == self.window { 0 } else { id };
            id
        }
    }

    fn send(flight: &mut Flight<u32>, library: &mut Library, load: u32) -> u16 {
        assert!(flight.is_open(), "{load}");
        flight.give(load);
        assert!(!flight.is_open(), "one at a time");
        let id = library.id();
        flight.sent(id);
        id
    }

    #[test]
    fn ids_find_their_loads_in_any_order() {
        let (mut flight, mut library) = (Flight::new(100), Library { last: 0, window: 100 });
        let ids: Vec<u16> = (0..100).map(|load| send(&mut flight, &mut library, load)).collect();
        assert!(!flight.is_open(), "100 are unacknowledged");
        for (load, id) in ids.iter().enumerate().rev() {
            assert_eq!(flight.acknowledged(*id), Some(load as u32));
            assert_eq!(flight.acknowledged(*id), None, "once");
        }
        assert!(flight.is_empty());
    }

    #[test]
    fn an_id_in_use_is_never_given_again() {
        let (mut flight, mut library) = (Flight::new(3), Library { last: 0, window: 3 });
        for load in 0..3 {
            send(&mut flight, &mut library, load);
        }
        assert_eq!(flight.acknowledged(2), Some(1));
        assert!(!flight.is_open(), "the next id is 1, which is in use");
        assert_eq!(flight.acknowledged(1), Some(0));
        assert_eq!(send(&mut flight, &mut library, 3), 1);
        assert_eq!(send(&mut flight, &mut library, 4), 2);
        assert!(!flight.is_open(), "3 is in use");
    }

    #[test]
    fn subscriptions_have_ids_too() {
        let (mut flight, mut library) = (Flight::new(2), Library { last: 0, window: 2 });
        flight.used(library.id());
        assert_eq!(send(&mut flight, &mut library, 8), 2);
        assert!(!flight.is_empty());
    }
}
