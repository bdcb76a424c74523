/// What is measured together, in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    /// One stream of bytes up.
    Bulk1,
    /// Eight of them.
    Bulk8,
    /// One stream of bytes down.
    Down,
    /// One connection with small messages.
    Echo1,
    /// 64 of them.
    Echo64,
    /// New connections, one after another.
    Connect1,
    /// New connections, 32 at a time.
    Connect32,
    /// Memory with no, 1,000 and 10,000 open connections.
    Memory,
    /// Memory of connections whose ends send and do not read.
    Slow,
    /// One stream of bytes to a pod of the same node.
    SameBulk,
    /// Small messages to it.
    SameEcho,
    /// One connection with small messages, Lark's workers spinning.
    Spin,
    /// 64 connections with small messages beside four streams of bytes.
    Fair,
    /// New connections of a pod that is not captured, on a node with Lark.
    BesideConnect,
    /// One stream of bytes of that pod.
    BesideBulk,
    /// New connections of a captured pod to a destination outside the mesh.
    OutsideConnect,
    /// What it costs to look at what passes.
    Seen,
    /// The cipher by itself.
    Aead,
}

impl Job {
    /// Whether two meshes are compared, by short turns.
    pub(crate) const fn has_twins(self) -> bool {
        matches!(self, Self::Seen | Self::BesideConnect | Self::BesideBulk | Self::OutsideConnect)
    }

    /// Whether its time in a round is cut into short turns: not where it takes turns itself, waits, or counts CPU that
    /// opening its connections would be a part of.
    pub(crate) const fn has_turns(self) -> bool {
        !matches!(self, Self::Memory | Self::Slow | Self::Fair | Self::Echo64)
    }
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// Whether more is better; else less is.
    pub(crate) more: bool,
    /// What gives its figures.
    pub(crate) job: Job,
}

const fn more(name: &'static str, unit: &'static str, job: Job) -> Row {
    Row { name, unit, more: true, job }
}

const fn less(name: &'static str, unit: &'static str, job: Job) -> Row {
    Row { name, unit, more: false, job }
}

/// All rows, in the table's order; those of a job stand together or not, it runs once a round.
pub(crate) const ROWS: [Row; 33] = [
    more("bulk1", "Gbit/s", Job::Bulk1),
    more("bulk8", "Gbit/s", Job::Bulk8),
    more("bulk1_down", "Gbit/s", Job::Down),
    less("cpu_gib1", "s/GiB", Job::Bulk1),
    less("cpu_gib8", "s/GiB", Job::Bulk8),
    less("busy_gib1", "s/GiB", Job::Bulk1),
    less("busy_gib8", "s/GiB", Job::Bulk8),
    less("busy_gib1_down", "s/GiB", Job::Down),
    less("echo1_p50", "µs", Job::Echo1),
    less("echo1_p99", "µs", Job::Echo1),
    more("echo64", "k/s", Job::Echo64),
    less("cpu_echo64", "µs", Job::Echo64),
    less("conn1_p50", "µs", Job::Connect1),
    more("conn32", "k/s", Job::Connect32),
    less("rss_idle", "MiB", Job::Memory),
    less("rss_1k", "MiB", Job::Memory),
    less("rss_10k", "MiB", Job::Memory),
    less("rss_slow", "MiB", Job::Slow),
    more("same_bulk1", "Gbit/s", Job::SameBulk),
    less("same_echo1_p50", "µs", Job::SameEcho),
    less("uncaptured_conn1_p50", "µs", Job::BesideConnect),
    more("uncaptured_bulk1", "Gbit/s", Job::BesideBulk),
    less("nonmesh_conn1_p50", "µs", Job::OutsideConnect),
    less("spin_echo1_p50", "µs", Job::Spin),
    less("fair_p99", "×", Job::Fair),
    more("seen_bulk1", "×", Job::Seen),
    less("seen_cpu_gib1", "×", Job::Seen),
    more("seen_echo64", "×", Job::Seen),
    less("seen_cpu_echo64", "×", Job::Seen),
    more("seen_http64", "×", Job::Seen),
    less("seen_cpu_http64", "×", Job::Seen),
    less("seen_rss", "KiB", Job::Seen),
    more("aead", "GB/s", Job::Aead),
];

/// All jobs, in the order in which a round does them.
pub(crate) const JOBS: [Job; 18] = [
    Job::Aead,
    Job::Bulk1,
    Job::Bulk8,
    Job::Down,
    Job::Echo1,
    Job::Echo64,
    Job::Connect1,
    Job::Connect32,
    Job::OutsideConnect,
    Job::SameBulk,
    Job::SameEcho,
    Job::Fair,
    Job::Spin,
    Job::BesideConnect,
    Job::BesideBulk,
    Job::Seen,
    Job::Memory,
    Job::Slow,
];

/// A row by its name.
pub(crate) fn named(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

#[cfg(test)]
mod tests {
    use super::{JOBS, ROWS};

    #[test]
    fn every_row_has_its_job_and_every_job_a_row() {
        assert!(ROWS.iter().all(|row| JOBS.contains(&row.job)));
        assert!(JOBS.iter().all(|job| ROWS.iter().any(|row| row.job == *job)));
        let mut names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ROWS.len());
    }
}
