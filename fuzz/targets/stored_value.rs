#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fogbeat::fuzz::stored_value(data));
