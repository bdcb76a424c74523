//! Users with some rights, and who may get pods where.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::registry::Refusal;
use super::{ApiServer, Request, Shared, TOKEN, locked};

/// The group of everybody whom the server knows.
const KNOWN: &str = "system:authenticated";

/// Somebody who is not the scenario's own program.
#[derive(Debug, Default)]
struct User {
    name: String,
    /// Verb and resource.
    rights: BTreeSet<(String, String)>,
    requests: BTreeMap<Request, usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Users {
    /// By their tokens.
    all: BTreeMap<String, User>,
    /// Namespaces in which who of a name may get pods; `*` stands for all.
    pods: BTreeMap<String, BTreeSet<String>>,
}

impl ApiServer {
    /// Knows somebody by a token. He may do these, verb and resource, and nothing else.
    pub fn user(&self, token: &str, name: &str, rights: &[(&str, &str)]) {
        let rights = rights.iter().map(|(verb, resource)| ((*verb).to_owned(), (*resource).to_owned()));
        let user = User { name: name.to_owned(), rights: rights.collect(), requests: BTreeMap::new() };
        locked(&self.shared.users).all.insert(token.to_owned(), user);
        let status = json!({
            "authenticated": true, "audiences": ["https://kubernetes.default.svc"],
            "user": { "username": name, "groups": [KNOWN], "extra": { "from": ["a-test"] } }
        });
        self.know_token(token, status);
    }

    /// SubjectAccessReview says that somebody of this name may get pods in these namespaces; `*` stands for all.
    pub fn may_get_pods(&self, name: &str, namespaces: &[&str]) {
        let namespaces = namespaces.iter().map(|&namespace| namespace.to_owned()).collect();
        locked(&self.shared.users).pods.insert(name.to_owned(), namespaces);
    }

    /// What the user of a token asked for so far, whether he might or not.
    pub fn requests_of(&self, token: &str) -> BTreeMap<Request, usize> {
        let users = locked(&self.shared.users);
        users.all.get(token).map(|user| user.requests.clone()).unwrap_or_default()
    }

    /// Writes a kubeconfig that leads here with such a user: `{ "token": … }` for example.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig_with(&self, directory: &Path, name: &str, user: &Value) -> std::io::Result<PathBuf> {
        let path = self.kubeconfig(directory)?;
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        config["users"][0]["user"] = user.clone();
        let path = directory.join(name);
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }
}

/// Lets a request in, or not, and notes it.
pub(crate) fn authorize(shared: &Shared, token: &str, request: Request) -> Result<(), Refusal> {
    if token == TOKEN {
        *locked(&shared.requests).entry(request).or_default() += 1;
        return Ok(());
    }
    let mut users = locked(&shared.users);
    let user = users.all.get_mut(token).ok_or_else(|| Refusal::new(401, "Unauthorized", "Unauthorized"))?;
    let may = user.rights.contains(&(request.verb.to_owned(), request.resource.clone()));
    let message = format!(
        "{} \"{}\" is forbidden: User \"{}\" cannot {} resource \"{}\" in API group \"{}\"",
        request.resource,
        request.name.clone().unwrap_or_default(),
        user.name,
        request.verb,
        request.resource,
        request.group
    );
    *user.requests.entry(request).or_default() += 1;
    if may { Ok(()) } else { Err(Refusal::new(403, "Forbidden", message)) }
}

/// What SubjectAccessReview says.
pub(crate) fn access(shared: &Shared, spec: &Value) -> Value {
    let text = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let groups = spec["groups"].as_array().cloned().unwrap_or_default();
    let is_pods = text("/resourceAttributes/verb") == "get"
        && text("/resourceAttributes/resource") == "pods"
        && text("/resourceAttributes/group").is_empty();
    let namespace = text("/resourceAttributes/namespace");
    let users = locked(&shared.users);
    let may = users.pods.get(text("/user")).is_some_and(|namespaces| {
        namespaces.contains("*") || (!namespace.is_empty() && namespaces.contains(namespace))
    });
    // Rules may be for groups and extra: who asks must pass them on.
    let is_whole = groups.contains(&json!(KNOWN)) && spec["extra"]["from"] == json!(["a-test"]);
    json!({ "allowed": may && is_pods && is_whole, "reason": "" })
}
