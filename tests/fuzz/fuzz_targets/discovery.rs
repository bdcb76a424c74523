//! The discovery file. What makes a snapshot answers every question about what it says.
#![no_main]

use std::path::Path;

use lark_discovery::file::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(snapshot) = parse(Path::new("mesh.yaml"), text, 1) else { return };
    for workload in snapshot.workloads() {
        assert!(snapshot.node(&workload.node).is_some());
        for address in workload.addresses.iter().filter(|_| !workload.host_network) {
            assert_eq!(snapshot.workload_by_address(*address), Some(workload));
        }
    }
});
