#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ingle_fuzzing::manifest(data));
