//! Plaintext of both directions as it passes: nothing panics, memory stays below its limit.
#![no_main]

use lark_core::recognise::{MEMORY_MAX, replay};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| {
    let most = replay(script, &mut |event| drop(event));
    assert!(most <= MEMORY_MAX, "{most} bytes");
});
