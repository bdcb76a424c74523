//! Whether a workload takes and makes plaintext connections: `permissive` or `strict`, by labels, with ports
//! that are something else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::constants::{ANNOTATION_MTLS_PORTS, LABEL_MTLS};
use crate::policy::PORTS_MAX;

/// Whether plaintext is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mtls {
    /// From whoever is not in the mesh, and to whoever is not known to it.
    #[default]
    Permissive,
    /// From nobody, and to nobody of the cluster whom discovery does not know.
    Strict,
}

impl Mtls {
    /// The word in labels and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Permissive => "permissive",
            Self::Strict => "strict",
        }
    }

    fn of(word: &str) -> Option<Self> {
        [Self::Permissive, Self::Strict].into_iter().find(|mtls| mtls.label() == word)
    }
}

/// What said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ModeBy {
    /// The workload's own label.
    Workload,
    /// Its namespace's label.
    Namespace,
    /// The whole mesh's setting.
    Mesh,
    /// A label or annotation that cannot be read, so strict.
    Unclear,
}

impl ModeBy {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Workload, Self::Namespace, Self::Mesh, Self::Unclear];

    /// The word in `lark explain`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Workload => "mtls_by_workload",
            Self::Namespace => "mtls_by_namespace",
            Self::Mesh => "mtls_by_mesh",
            Self::Unclear => "mtls_unclear",
        }
    }

    /// Why, in a sentence.
    pub const fn why(self) -> &'static str {
        match self {
            Self::Workload => "the workload's label lark.mesh/mtls says so",
            Self::Namespace => "the namespace's label lark.mesh/mtls says so",
            Self::Mesh => "neither workload nor namespace has the label lark.mesh/mtls, so the mesh decides",
            Self::Unclear => {
                "label lark.mesh/mtls must be strict or permissive, and annotation lark.mesh/mtls-ports a list like 9090=permissive"
            }
        }
    }
}

/// The mode of a workload, with what said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mode {
    /// What holds for all ports but those that are listed, and for what it dials.
    pub mtls: Mtls,
    /// What said so.
    pub by: ModeBy,
    /// The ports that are something else.
    pub ports: BTreeMap<u16, Mtls>,
}

impl Default for Mode {
    fn default() -> Self {
        Self { mtls: Mtls::Permissive, by: ModeBy::Mesh, ports: BTreeMap::new() }
    }
}

/// Labels and annotations of a workload or of its namespace.
#[derive(Debug, Clone, Copy)]
pub struct Marks<'a> {
    /// The labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The annotations.
    pub annotations: &'a BTreeMap<String, String>,
}

/// The mode of a workload. Its own label wins over its namespace's, and that over the mesh; so does its own
/// list of ports, as a whole. What cannot be read is strict: a slip must not open anything.
pub fn mode(mesh: Mtls, namespace: Marks<'_>, workload: Marks<'_>) -> Mode {
    let unclear = Mode { mtls: Mtls::Strict, by: ModeBy::Unclear, ports: BTreeMap::new() };
    let said = [(workload, ModeBy::Workload), (namespace, ModeBy::Namespace)];
    let (word, by) = said
        .iter()
        .find_map(|(marks, by)| Some((marks.labels.get(LABEL_MTLS)?.as_str(), *by)))
        .unwrap_or((mesh.label(), ModeBy::Mesh));
    let list = said.iter().find_map(|(marks, _)| marks.annotations.get(ANNOTATION_MTLS_PORTS));
    match (Mtls::of(word), list.map_or(Some(BTreeMap::new()), |list| ports(list))) {
        (Some(mtls), Some(ports)) => Mode { mtls, by, ports },
        _ => unclear,
    }
}

/// `9090=permissive,8080=strict`; as many ports as policies may name, for each is an entry of a kernel map that all pods
/// of a node share.
fn ports(list: &str) -> Option<BTreeMap<u16, Mtls>> {
    list.split(',')
        .map(|entry| {
            let (port, word) = entry.trim().split_once('=')?;
            let port = port.trim().parse().ok().filter(|port| *port != 0)?;
            Some((port, Mtls::of(word.trim())?))
        })
        .collect::<Option<BTreeMap<u16, Mtls>>>()
        .filter(|ports| ports.len() <= PORTS_MAX)
}

impl Mode {
    /// Whether what it dials in the cluster is never left alone.
    pub fn is_strict(&self) -> bool {
        self.mtls == Mtls::Strict
    }

    /// Whether there is a port that takes no plaintext.
    pub fn is_guarded(&self) -> bool {
        self.is_strict() || self.ports.values().any(|mtls| *mtls == Mtls::Strict)
    }

    /// What holds for a port.
    pub fn on(&self, port: u16) -> Mtls {
        self.ports.get(&port).copied().unwrap_or(self.mtls)
    }

    /// For tables: the mode, and what its ports are if they are something else.
    pub fn told(&self) -> String {
        let ports = self.ports.iter().filter(|(_, mtls)| **mtls != self.mtls);
        let ports: Vec<String> = ports.map(|(port, mtls)| format!("{port}={}", mtls.label())).collect();
        match ports.as_slice() {
            [] => self.mtls.label().to_owned(),
            ports => format!("{}, {}", self.mtls.label(), ports.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_nearest_label_decides_and_a_slip_is_strict() {
        let none = map(&[]);
        let strict = map(&[(LABEL_MTLS, "strict")]);
        let permissive = map(&[(LABEL_MTLS, "permissive")]);
        let slip = map(&[(LABEL_MTLS, "Strict")]);
        for (mesh, outer, inner, mtls, by) in [
            (Mtls::Permissive, &none, &none, Mtls::Permissive, ModeBy::Mesh),
            (Mtls::Strict, &none, &none, Mtls::Strict, ModeBy::Mesh),
            (Mtls::Strict, &permissive, &none, Mtls::Permissive, ModeBy::Namespace),
            (Mtls::Permissive, &strict, &none, Mtls::Strict, ModeBy::Namespace),
            (Mtls::Permissive, &strict, &permissive, Mtls::Permissive, ModeBy::Workload),
            (Mtls::Permissive, &none, &strict, Mtls::Strict, ModeBy::Workload),
            (Mtls::Permissive, &none, &slip, Mtls::Strict, ModeBy::Unclear),
            (Mtls::Permissive, &slip, &permissive, Mtls::Permissive, ModeBy::Workload),
        ] {
            let found = mode(
                mesh,
                Marks { labels: outer, annotations: &none },
                Marks { labels: inner, annotations: &none },
            );
            assert_eq!((found.mtls, found.by), (mtls, by), "{mesh:?} {outer:?} {inner:?}");
        }
    }

    #[test]
    fn ports_are_exempt_by_the_nearest_list_and_one_that_cannot_be_read_exempts_none() {
        let none = map(&[]);
        let labels = map(&[(LABEL_MTLS, "strict")]);
        let of = |outer: Option<&str>, inner: Option<&str>| {
            let list =
                |text: Option<&str>| text.map_or(map(&[]), |text| map(&[(ANNOTATION_MTLS_PORTS, text)]));
            let (outer, inner) = (list(outer), list(inner));
            mode(
                Mtls::Permissive,
                Marks { labels: &none, annotations: &outer },
                Marks { labels: &labels, annotations: &inner },
            )
        };
        let found = of(Some("1=permissive"), Some("9090=permissive, 8080 = strict"));
        assert_eq!(
            [1, 9090, 8080].map(|port| found.on(port)),
            [Mtls::Strict, Mtls::Permissive, Mtls::Strict]
        );
        assert_eq!(found.told(), "strict, 9090=permissive");
        assert_eq!(of(Some("1=permissive"), None).on(1), Mtls::Permissive);
        let many = |count: u16| -> String {
            (0..count).map(|port| format!("{}=permissive", 9090 + port)).collect::<Vec<_>>().join(",")
        };
        assert_eq!(of(None, Some(&many(64))).on(9090), Mtls::Permissive);
        for list in [&*many(65), "9090", "9090=off", "0=permissive", "x=strict", "", "9090=permissive,,"] {
            let found = of(None, Some(list));
            assert_eq!((found.on(9090), found.by), (Mtls::Strict, ModeBy::Unclear), "{list}");
        }
        let one = Mode { ports: [(80, Mtls::Strict)].into(), ..Mode::default() };
        assert!(one.is_guarded() && !one.is_strict() && !Mode::default().is_guarded());
    }
}
