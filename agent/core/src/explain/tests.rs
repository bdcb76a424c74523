use std::collections::BTreeSet;

use lark_abi::Counter;

use super::*;
use crate::capture::{PodState, Wanted};
use crate::reason::Reason;

/// That each variant has a row is the compiler's to see, for rows are made from exhaustive matches; that
/// the lists of variants are whole is seen here.
#[test]
fn every_variant_of_every_set_has_a_row_that_says_something() {
    let sets = sets();
    let rows = |name: &str| -> Vec<&'static str> {
        let set = sets.iter().find(|set| set.name == name);
        set.map(|set| set.rows.iter().map(|row| row.reason).collect()).unwrap_or_default()
    };
    assert_eq!(rows("refusal"), Reason::ALL.iter().map(|r| r.label()).collect::<Vec<_>>());
    assert_eq!(rows("kernel"), Counter::ALL.iter().map(|c| c.label()).collect::<Vec<_>>());
    assert_eq!(rows("wanted"), Wanted::ALL.iter().map(|w| w.label()).collect::<Vec<_>>());
    let why = String::new;
    let states = [
        PodState::NotCaptured { why: why() },
        PodState::Pending { why: why() },
        PodState::Waiting { why: why() },
        PodState::Captured,
        PodState::Releasing,
        PodState::Failed { why: why() },
    ];
    assert_eq!(rows("capture"), states.iter().map(PodState::label).collect::<Vec<_>>());
    for set in &sets {
        assert!(!set.rows.is_empty() && set.about.ends_with('.'), "{}", set.name);
        let words: BTreeSet<_> = set.rows.iter().map(|row| row.reason).collect();
        assert_eq!(words.len(), set.rows.len(), "a word twice in {}", set.name);
        for row in &set.rows {
            assert!(row.meaning.len() > 15, "{} {}", row.reason, row.meaning);
            assert!(row.advice.ends_with('.') || row.advice.ends_with('?'), "{} {}", row.reason, row.advice);
            assert!(row.reason.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{}", row.reason);
        }
    }
}

#[test]
fn a_word_is_found_however_it_is_written_and_a_shared_one_in_each_set() {
    assert_eq!(find("Dial-Refused ").iter().map(|row| row.set).collect::<Vec<_>>(), ["refusal"]);
    assert_eq!(find("econnrefused").iter().map(|row| row.reason).collect::<Vec<_>>(), ["ECONNREFUSED"]);
    assert_eq!(
        find("no_ready_endpoint").iter().map(|row| row.set).collect::<Vec<_>>(),
        ["kernel", "refusal"]
    );
    assert_eq!(find("nothing_of_the_kind"), []);
    assert!(near("dial_failure").contains(&"dial_failed"));
    assert!(near("e_").is_empty());
}

#[test]
fn numbers_of_system_errors_are_linux_own() {
    for error in System::ALL {
        let numbers: Vec<i32> = (1..200).filter(|n| System::of(*n) == Some(*error)).collect();
        assert_eq!(numbers.len(), 1, "{error}");
    }
    assert_eq!(System::of(111), Some(System::Econnrefused));
    assert_eq!(System::of(9999), None);
    let refused = told(&"Connection refused (os error 111)", Some(111));
    let advice = "Start what should listen there, or correct address and port";
    assert_eq!(refused, format!("Connection refused (os error 111); {advice}"));
    assert!(told(&"odd", None).contains("dmesg"));
}

#[test]
fn no_two_causes_of_tunnels_share_a_word() {
    let labels: Vec<_> = Cause::all().map(Cause::label).collect();
    assert_eq!(labels.iter().collect::<BTreeSet<_>>().len(), labels.len());
}
