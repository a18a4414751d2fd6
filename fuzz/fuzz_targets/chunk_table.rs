//! Feeds `site_recovery_fuzz::chunk_table::run`, which says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| site_recovery_fuzz::chunk_table::run(input));
