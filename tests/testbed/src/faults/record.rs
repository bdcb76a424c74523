//! What a test of a fault has seen, for docs/failures.md.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::table::rows;
use crate::checked::Seen;

/// Names the directory that tests record into; without it they only check.
pub const RECORDS: &str = "LARK_FAULT_RECORDS";

/// What happened when a fault was injected. Made where the test begins, written where it ends: a test that
/// fails leaves none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The fault, as the table has it.
    pub fault: String,
    /// How often it was injected.
    pub injected: u64,
    /// What was seen, after it was compared with what is expected.
    pub seen: String,
    /// Connections that were open and broke.
    pub lost: u64,
    /// Bytes that were compared with what was sent.
    pub compared: u64,
    /// Of these, bytes that differed, and bytes missing before a clean end.
    pub corrupted: u64,
}

impl Record {
    /// An empty one.
    ///
    /// # Errors
    /// When the table has no such fault.
    pub fn of(fault: &str) -> Result<Self> {
        let known = rows().any(|row| row.fault == fault);
        known.then_some(()).with_context(|| {
            format!(
                "the fault \"{fault}\" has no row in the table of failures, tests/testbed/src/faults/table.rs"
            )
        })?;
        let fault = fault.to_owned();
        Ok(Self { fault, injected: 0, seen: String::new(), lost: 0, compared: 0, corrupted: 0 })
    }

    /// A fault that breaks no connection and is told in one sentence.
    ///
    /// # Errors
    /// As [`Self::of`] and [`Self::write`].
    pub fn told(fault: &str, injected: u64, seen: impl Into<String>) -> Result<()> {
        let mut record = Self::of(fault)?;
        record.injected(injected);
        record.write(seen)
    }

    /// The fault was injected that often more.
    pub fn injected(&mut self, times: u64) {
        self.injected += times;
    }

    /// Connections that were open and broke.
    pub fn lost(&mut self, connections: u64) {
        self.lost += connections;
    }

    /// Bytes that were compared and found equal.
    pub fn compared(&mut self, bytes: usize) {
        self.compared += u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    /// What a client of checked traffic has seen.
    pub fn traffic(&mut self, seen: Seen) {
        self.lost += seen.lost + seen.stalled;
        self.compared += seen.bytes;
        self.corrupted += seen.corrupted;
    }

    /// Says what was seen, and writes the record if a directory is named for it.
    ///
    /// # Errors
    /// When bytes were corrupted or nothing was injected, which no test may let pass; or it cannot be written.
    pub fn write(mut self, seen: impl Into<String>) -> Result<()> {
        anyhow::ensure!(self.injected > 0, "\"{}\" was not injected", self.fault);
        anyhow::ensure!(self.corrupted == 0, "\"{}\" corrupted {} bytes", self.fault, self.corrupted);
        self.seen = seen.into();
        let Some(directory) = std::env::var_os(RECORDS) else { return Ok(()) };
        let name: String =
            self.fault.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let file = Path::new(&directory).join(format!("{name}.json"));
        std::fs::write(&file, serde_json::to_vec_pretty(&self)?)
            .with_context(|| format!("{} cannot be written", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Record, Seen};

    #[test]
    fn only_what_is_in_the_table_is_recorded_and_only_if_it_was_injected_and_harmed_no_byte() {
        assert!(Record::of("the moon falls").is_err());
        let fault = super::rows().next().map_or("", |row| row.fault);
        let mut record = Record::of(fault).unwrap();
        assert!(record.clone().write("nothing").is_err());
        record.injected(1);
        assert!(record.clone().write("all well").is_ok());
        record.traffic(Seen { corrupted: 1, ..Seen::default() });
        assert!(record.write("all well").is_err());
    }
}
