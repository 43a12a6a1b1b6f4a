//! Panics: told in the log like everything else, as loud as they deserve.
//!
//! Promise: one that is [`caught`] is its caller's to tell, by the error it becomes, and stands in the log only at
//! debug; any other one is an error there.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// Whether what this thread runs is inside [`caught`].
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// From now on panics go to the log.
pub fn tell() {
    std::panic::set_hook(Box::new(|panic| {
        if CAUGHT.get() {
            tracing::debug!("caught: {panic}");
        } else {
            tracing::error!("{panic}");
        }
    }));
}

/// Runs `call`.
///
/// # Errors
/// What it says when it panics.
pub fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let around = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    CAUGHT.set(around);
    result.map_err(|panic| what(&*panic))
}

fn what(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_caught_is_an_error_with_its_words_and_only_inside() {
        assert_eq!(caught(|| 7), Ok(7));
        assert_eq!(caught(|| panic!("at the {}", "disco")), Err::<(), _>("at the disco".to_owned()));
        assert_eq!(caught(|| std::panic::panic_any(7)), Err::<(), _>("no message".to_owned()));
        let within = caught(|| {
            let _ = caught(|| panic!("inner"));
            CAUGHT.get()
        });
        assert_eq!(within, Ok(true));
        assert!(!CAUGHT.get());
    }
}
