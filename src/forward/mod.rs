//! From the journal to the uplinks.
