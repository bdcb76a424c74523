//! What is stored: objects by resource, namespace and name, with one revision that counts every change
//! up, and the history of changes that watches read (<https://kubernetes.io/docs/reference/using-api/api-concepts/>).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

/// Group and plural of a resource: (`discovery.k8s.io`, `endpointslices`); the core's group is empty.
pub type Resource = (String, String);

/// Changes that are kept for watches; older ones are gone as after a compaction.
const HISTORY: usize = 100_000;

/// Why a request fails: the code and the reason of a `Status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP code.
    pub code: u16,
    /// `NotFound`, `Conflict`, ...
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    /// As the API sends it.
    pub fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code
        })
    }
}

/// One change, as a watch tells it.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) resource: Resource,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(crate) kind: &'static str,
    pub(crate) object: Arc<Value>,
}

/// Namespace and name.
type Key = (String, String);

#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) revision: u64,
    objects: BTreeMap<Resource, BTreeMap<Key, Arc<Value>>>,
    history: VecDeque<Change>,
    /// The newest revision that is not in the history any more.
    pub(crate) compacted: u64,
    /// Rests of lists that were begun, by their tokens: all pages of a list are of one revision.
    pages: HashMap<String, (u64, Vec<Arc<Value>>)>,
    uids: u64,
}

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) revision: u64,
    pub(crate) items: Vec<Arc<Value>>,
    pub(crate) token: Option<String>,
    pub(crate) remaining: usize,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn key(object: &Value) -> Key {
    (text(object, "/metadata/namespace").to_owned(), text(object, "/metadata/name").to_owned())
}

fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(meta) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        meta.insert(field.to_owned(), value);
    }
}

impl Registry {
    pub(crate) fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Value, Refusal> {
        let found =
            self.objects.get(resource).and_then(|all| all.get(&(namespace.to_owned(), name.to_owned())));
        found
            .map(|object| Value::clone(object))
            .ok_or_else(|| Refusal::new(404, "NotFound", format!("{} \"{name}\" not found", resource.1)))
    }

    /// Creates an object, or replaces it. A replacement with a `resourceVersion` is refused unless that is
    /// the present one.
    pub(crate) fn put(
        &mut self,
        resource: &Resource,
        mut object: Value,
        create: bool,
    ) -> Result<Value, Refusal> {
        let key = key(&object);
        if key.1.is_empty() {
            return Err(Refusal::new(422, "Invalid", "metadata.name: Required value"));
        }
        let before = self.objects.get(resource).and_then(|all| all.get(&key));
        if create && before.is_some() {
            return Err(Refusal::new(
                409,
                "AlreadyExists",
                format!("{} \"{}\" already exists", resource.1, key.1),
            ));
        }
        let given = text(&object, "/metadata/resourceVersion");
        if let Some(before) = before {
            if !given.is_empty() && given != text(before, "/metadata/resourceVersion") {
                let message = format!(
                    "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your changes to the latest version and try again",
                    resource.1, key.1
                );
                return Err(Refusal::new(409, "Conflict", message));
            }
            let uid = before.pointer("/metadata/uid").cloned().unwrap_or_default();
            if !text(&object, "/metadata/uid").is_empty() && object.pointer("/metadata/uid") != Some(&uid) {
                // Another object of that name: in the API that is a deletion and a creation.
                self.delete(resource, &key.0, &key.1)?;
                return self.put(resource, object, true);
            }
            set(&mut object, "uid", uid);
        } else if text(&object, "/metadata/uid").is_empty() {
            self.uids += 1;
            set(&mut object, "uid", json!(format!("00000000-0000-4000-8000-{:012}", self.uids)));
        }
        let kind = if self.objects.get(resource).is_some_and(|all| all.contains_key(&key)) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        self.revision += 1;
        set(&mut object, "resourceVersion", json!(self.revision.to_string()));
        let kept = Arc::new(object.clone());
        self.objects.entry(resource.clone()).or_default().insert(key, kept.clone());
        self.note(resource, kind, kept);
        Ok(object)
    }

    pub(crate) fn delete(
        &mut self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Refusal> {
        let mut object = self.get(resource, namespace, name)?;
        if let Some(all) = self.objects.get_mut(resource) {
            all.remove(&(namespace.to_owned(), name.to_owned()));
        }
        // The deletion has a revision of its own, which the object carries in the event.
        self.revision += 1;
        set(&mut object, "resourceVersion", json!(self.revision.to_string()));
        self.note(resource, "DELETED", Arc::new(object.clone()));
        Ok(object)
    }

    fn note(&mut self, resource: &Resource, kind: &'static str, object: Arc<Value>) {
        self.history.push_back(Change { revision: self.revision, resource: resource.clone(), kind, object });
        while self.history.len() > HISTORY {
            self.compacted = self.history.pop_front().map_or(self.compacted, |c| c.revision);
        }
    }

    /// Forgets the history, and lists that were begun.
    pub(crate) fn compact(&mut self) {
        self.history.clear();
        self.pages.clear();
        self.compacted = self.revision;
    }

    pub(crate) fn list(
        &mut self,
        resource: &Resource,
        namespace: Option<&str>,
        limit: Option<usize>,
        token: Option<&str>,
    ) -> Result<Page, Refusal> {
        let (revision, mut items) = match token {
            Some(token) => self.pages.remove(token).ok_or_else(|| {
                Refusal::new(
                    410,
                    "Expired",
                    "The provided continue parameter is too old to display a consistent list result.",
                )
            })?,
            None => {
                let all = self.objects.get(resource).into_iter().flatten();
                let of = all.filter(|(key, _)| namespace.is_none_or(|n| key.0 == n));
                (self.revision, of.map(|(_, object)| object.clone()).collect())
            }
        };
        let rest = match limit.filter(|limit| *limit > 0 && *limit < items.len()) {
            Some(limit) => items.split_off(limit),
            None => Vec::new(),
        };
        let remaining = rest.len();
        let token = (!rest.is_empty()).then(|| {
            self.uids += 1;
            let token = format!("page-{}", self.uids);
            self.pages.insert(token.clone(), (revision, rest));
            token
        });
        Ok(Page { revision, items, token, remaining })
    }

    /// What changed of a resource after a revision; `None` if that is not known any more.
    pub(crate) fn since(
        &self,
        revision: u64,
        resource: &Resource,
        namespace: Option<&str>,
    ) -> Option<Vec<Change>> {
        if revision < self.compacted {
            return None;
        }
        let from = self.history.partition_point(|change| change.revision <= revision);
        let of = self.history.range(from..).filter(|change| {
            change.resource == *resource
                && namespace.is_none_or(|n| text(&change.object, "/metadata/namespace") == n)
        });
        Some(of.cloned().collect())
    }
}
