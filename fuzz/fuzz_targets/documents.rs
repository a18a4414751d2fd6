//! Feeds `site_recovery_fuzz::documents::run`, which says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| site_recovery_fuzz::documents::run(input));
