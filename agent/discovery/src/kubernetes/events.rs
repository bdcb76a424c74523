//! Events of `events.k8s.io/v1` about pods. What lasts is a series of one Event and not many of them.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::client::{Access, ConnectError, connect};
use super::failure;

/// Who reports.
const CONTROLLER: &str = "lark.mesh/controller";
/// Bytes of a note; the API takes no more.
const NOTE_MAX: usize = 1024;
/// Bytes of an object's name; the API takes no more.
const NAME_MAX: usize = 253;
/// Names of Events that may be continued.
const NAMES_MAX: usize = 4096;
/// Whatever takes longer has failed.
const LIMIT: Duration = Duration::from_secs(5);

/// A pod that something is said about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its UID.
    pub uid: &'a str,
}

/// Posts Events.
pub struct Events {
    client: Client,
    /// Who reports, of several.
    instance: String,
    /// The last Event about a pod, by its UID.
    last: BTreeMap<String, String>,
    count: u64,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl Events {
    /// Posts as `instance`, a name of at most 128 characters.
    ///
    /// # Errors
    /// When there is no way to the API server.
    pub async fn new(access: &Access, instance: &str) -> Result<Self, ConnectError> {
        let client = connect(access).await?;
        Ok(Self { client, instance: instance.to_owned(), last: BTreeMap::new(), count: 0 })
    }

    /// A warning about a pod: what was tried, the word for what came of it, and a sentence. With `seen`, the last one
    /// about that pod is continued: it was seen so often by now.
    ///
    /// # Errors
    /// With a sentence, when the API does not take it.
    pub async fn warn(
        &mut self,
        pod: About<'_>,
        action: &str,
        reason: &str,
        note: &str,
        seen: Option<u32>,
    ) -> Result<(), String> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), pod.namespace);
        let posting = async {
            if let (Some(count), Some(name)) = (seen, self.last.get(pod.uid)) {
                let now = MicroTime(Timestamp::now());
                let series = json!({ "series": { "count": count.max(2), "lastObservedTime": now } });
                match api.patch(name, &PatchParams::default(), &Patch::Merge(&series)).await {
                    // It was forgotten by the server meanwhile.
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    result => return result.map(|_| None),
                }
            }
            self.count += 1;
            let now = Timestamp::now();
            let name = named(pod.name, &format!("{:x}{:x}", now.as_microsecond(), self.count));
            let event = Event {
                action: Some(action.to_owned()),
                event_time: Some(MicroTime(now)),
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(pod.namespace.to_owned()),
                    ..ObjectMeta::default()
                },
                note: Some(clip(note, NOTE_MAX).to_owned()),
                reason: Some(reason.to_owned()),
                regarding: Some(ObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(pod.name.to_owned()),
                    namespace: Some(pod.namespace.to_owned()),
                    uid: Some(pod.uid.to_owned()),
                    ..ObjectReference::default()
                }),
                reporting_controller: Some(CONTROLLER.to_owned()),
                reporting_instance: Some(self.instance.clone()),
                type_: Some("Warning".to_owned()),
                ..Event::default()
            };
            api.create(&PostParams::default(), &event).await.map(|_| Some(name))
        };
        let posted = tokio::time::timeout(LIMIT, posting).await;
        let posted = posted.map_err(|_| "no answer in time".to_owned())?;
        match posted.map_err(|error| failure::deepest(&error))? {
            None => {}
            Some(name) => {
                if self.last.len() >= NAMES_MAX {
                    self.last.pop_first();
                }
                self.last.insert(pod.uid.to_owned(), name);
            }
        }
        Ok(())
    }
}

/// As client-go names Events: by what they are about, and unique by the time. A pod's own name may leave no room for that.
fn named(pod: &str, time: &str) -> String {
    let pod = clip(pod, NAME_MAX.saturating_sub(time.len() + 1));
    // No label of a name may end so before the next.
    format!("{}.{time}", pod.trim_end_matches(['-', '.']))
}

/// As much of a text as fits.
fn clip(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
