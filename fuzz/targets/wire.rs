#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bgproxy_conf::fuzz::wire(bytes));
