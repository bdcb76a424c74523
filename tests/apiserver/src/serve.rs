//! From a connection to answers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::registry::{Refusal, Resource};
use super::watch::{Lines, Watch};
use super::{Request, Shared, locked, objects, reach, users};

/// Most bytes of a request's body.
const BODY: usize = 3 * 1024 * 1024;
/// A watch ends after this, unless it asks for less.
const WATCH: Duration = Duration::from_secs(290);

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(crate) async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, shared) = (tls.clone(), shared.clone());
        let mut cut = shared.cut.subscribe();
        tokio::spawn(async move {
            let serve = async {
                let Ok(stream) = tls.accept(socket).await else { return };
                let service = service_fn(|request| {
                    let shared = shared.clone();
                    async move { Ok::<_, Infallible>(answer(&shared, request).await) }
                });
                // How the connection ends is the client's matter.
                let _ended = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            };
            tokio::select! {
                () = serve => {}
                _ = cut.changed() => {}
            }
        });
    }
}

/// What the path and the query ask for.
struct Asked {
    resource: Resource,
    kind: &'static str,
    version: String,
    namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
    query: BTreeMap<String, String>,
}

fn parse(path: &str, query: &str) -> Option<Asked> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let group = match parts.next()? {
        "api" => "",
        "apis" => parts.next()?,
        _ => return None,
    };
    let version = parts.next()?;
    let mut namespace = None;
    let mut plural = parts.next()?;
    if plural == "namespaces"
        && let Some(name) = parts.next()
    {
        match parts.next() {
            Some(inner) => {
                namespace = Some(name.to_owned());
                plural = inner;
            }
            None => return asked(group, version, "namespaces", None, Some(name), None, query),
        }
    }
    let (name, subresource) = (parts.next(), parts.next());
    asked(group, version, plural, namespace, name, subresource, query)
}

fn asked(
    group: &str,
    version: &str,
    plural: &str,
    namespace: Option<String>,
    name: Option<&str>,
    subresource: Option<&str>,
    query: &str,
) -> Option<Asked> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    Some(Asked {
        kind: objects::kind(group, plural)?,
        resource: (group.to_owned(), plural.to_owned()),
        version: if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
        namespace,
        name: name.map(str::to_owned),
        subresource: subresource.map(str::to_owned),
        query: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    })
}

impl Asked {
    fn is_watch(&self) -> bool {
        matches!(self.query.get("watch").map(String::as_str), Some("true" | "1"))
    }

    fn verb(&self, method: &Method) -> &'static str {
        match (method.as_str(), &self.name) {
            ("GET", Some(_)) => "get",
            ("GET", None) if self.is_watch() => "watch",
            ("GET", None) => "list",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            _ => "delete",
        }
    }
}

fn json_answer(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    answer
}

async fn answer(shared: &Arc<Shared>, request: hyper::Request<Incoming>) -> Answer {
    match try_answer(shared, request).await {
        Ok(answer) => answer,
        Err(refusal) => json_answer(refusal.code, &refusal.status()),
    }
}

async fn try_answer(shared: &Arc<Shared>, request: hyper::Request<Incoming>) -> Result<Answer, Refusal> {
    let bearer = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = bearer.and_then(|b| b.strip_prefix("Bearer "));
    let token = token.ok_or_else(|| Refusal::new(401, "Unauthorized", "Unauthorized"))?.to_owned();
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    let not_found = || Refusal::new(404, "NotFound", "the server could not find the requested resource");
    let asked = parse(path, query).ok_or_else(not_found)?;
    let verb = asked.verb(request.method());
    users::authorize(shared, &token, noted(verb, &asked))?;
    refuse(shared, &asked.resource.1)?;
    match asked.subresource.as_deref() {
        Some("portforward") => {
            let (namespace, name) = place(&asked);
            locked(&shared.registry).get(&asked.resource, namespace, name)?;
            return reach::forward(
                shared,
                name,
                asked.query.get("ports").map_or("", String::as_str),
                request,
            );
        }
        Some("proxy") => {
            let (namespace, name) = place(&asked);
            let mut parts = name.splitn(3, ':').skip(1);
            let (service, port) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            locked(&shared.registry).get(&asked.resource, namespace, service)?;
            let whole = request.uri().path_and_query().map_or("", |whole| whole.as_str());
            let target = whole.split_once("/proxy").map_or("/", |(_, target)| target).to_owned();
            return reach::proxy(shared, service, port, &target, request).await;
        }
        _ => {}
    }
    match verb {
        "watch" => watch(shared, asked),
        "list" => list(shared, &asked).map(|body| json_answer(200, &body)),
        "get" => {
            let (namespace, name) = place(&asked);
            let found = locked(&shared.registry).get(&asked.resource, namespace, name)?;
            Ok(json_answer(200, &found))
        }
        "delete" => {
            let (namespace, name) = place(&asked);
            let gone = locked(&shared.registry).delete(&asked.resource, namespace, name)?;
            shared.stirred.send_modify(|n| *n += 1);
            Ok(json_answer(200, &gone))
        }
        _ => {
            let body = Limited::new(request.into_body(), BODY).collect().await;
            let bad = |said: String| Refusal::new(400, "BadRequest", said);
            let body = body.map_err(|e| bad(e.to_string()))?.to_bytes();
            let body: Value = serde_json::from_slice(&body).map_err(|e| bad(e.to_string()))?;
            write(shared, verb, &asked, body)
        }
    }
}

fn noted(verb: &'static str, asked: &Asked) -> Request {
    let resource = match &asked.subresource {
        Some(sub) => format!("{}/{sub}", asked.resource.1),
        None => asked.resource.1.clone(),
    };
    let (group, name) = (asked.resource.0.clone(), asked.name.clone());
    Request { verb, group, resource, name }
}

fn refuse(shared: &Shared, plural: &str) -> Result<(), Refusal> {
    let mut faults = locked(&shared.faults);
    match faults.refused.get_mut(plural) {
        Some((refusal, times)) if *times > 0 => {
            *times -= 1;
            Err(refusal.clone())
        }
        _ => Ok(()),
    }
}

fn place(asked: &Asked) -> (&str, &str) {
    (asked.namespace.as_deref().unwrap_or_default(), asked.name.as_deref().unwrap_or_default())
}

fn list(shared: &Shared, asked: &Asked) -> Result<Value, Refusal> {
    let limit = asked.query.get("limit").and_then(|limit| limit.parse().ok());
    let token = asked.query.get("continue").map(String::as_str);
    let namespace = asked.namespace.as_deref();
    let page = locked(&shared.registry).list(&asked.resource, namespace, limit, token)?;
    let mut metadata = json!({ "resourceVersion": page.revision.to_string() });
    if let Some(token) = page.token {
        metadata["continue"] = json!(token);
        metadata["remainingItemCount"] = json!(page.remaining);
    }
    // Items of a list do not carry their kind.
    let items: Vec<Value> = page
        .items
        .into_iter()
        .map(|item| {
            let mut item = Value::clone(&item);
            if let Some(fields) = item.as_object_mut() {
                fields.remove("kind");
                fields.remove("apiVersion");
            }
            item
        })
        .collect();
    Ok(json!({
        "kind": format!("{}List", asked.kind), "apiVersion": asked.version, "metadata": metadata, "items": items
    }))
}

fn watch(shared: &Arc<Shared>, asked: Asked) -> Result<Answer, Refusal> {
    let version = asked.query.get("resourceVersion").map(String::as_str).unwrap_or_default();
    // Without a revision a watch begins anywhere, with everything that is there; nobody here asks for that.
    let revision = version.parse().map_err(|_| {
        Refusal::new(400, "BadRequest", format!("a watch from {version:?} is not served here"))
    })?;
    let seconds = asked.query.get("timeoutSeconds").and_then(|t| t.parse().ok()).map(Duration::from_secs);
    let watch = Watch {
        bookmarks: asked.query.get("allowWatchBookmarks").is_some_and(|b| b == "true"),
        timeout: seconds.unwrap_or(WATCH),
        resource: asked.resource,
        namespace: asked.namespace,
        revision,
        kind: asked.kind.to_owned(),
        api_version: asked.version,
    };
    let (tell, told) = mpsc::channel(64);
    tokio::spawn(watch.run(shared.clone(), tell));
    let mut answer = Response::new(Lines(told).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    Ok(answer)
}

fn write(shared: &Shared, verb: &str, asked: &Asked, mut body: Value) -> Result<Answer, Refusal> {
    if asked.kind == "TokenReview" {
        let token = body.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
        let known = locked(&shared.tokens).get(token).cloned();
        // Whoever names no audience means the server's own.
        let own = json!("https://kubernetes.default.svc");
        let is_for_server =
            |status: &Value| status["audiences"].as_array().is_some_and(|all| all.contains(&own));
        let names_none = body.pointer("/spec/audiences").is_none_or(Value::is_null);
        let known = known.filter(|status| !names_none || is_for_server(status));
        body["status"] =
            known.unwrap_or_else(|| json!({ "authenticated": false, "error": "token is not known" }));
        return Ok(json_answer(201, &body));
    }
    if asked.kind == "SubjectAccessReview" {
        body["status"] = users::access(shared, &body["spec"]);
        return Ok(json_answer(201, &body));
    }
    let (namespace, name) = place(asked);
    let mut registry = locked(&shared.registry);
    let object = if verb == "patch" {
        let apply = asked.query.contains_key("fieldManager") && asked.query.contains_key("force");
        match registry.get(&asked.resource, namespace, name) {
            Ok(mut present) => {
                merge(&mut present, body);
                present
            }
            // Server-side apply creates what is not there.
            Err(_) if apply => body,
            Err(refusal) => return Err(refusal),
        }
    } else {
        body
    };
    let mut object = object;
    if let Some(fields) = object.as_object_mut() {
        fields.entry("kind").or_insert_with(|| json!(asked.kind));
        fields.entry("apiVersion").or_insert_with(|| json!(asked.version));
    }
    if let (Some(namespace), Some(meta)) = (&asked.namespace, object.pointer_mut("/metadata")) {
        meta["namespace"] = json!(namespace);
    }
    if verb == "update" {
        registry.get(&asked.resource, namespace, name)?;
    }
    let object = registry.put(&asked.resource, object, verb == "create")?;
    drop(registry);
    shared.stirred.send_modify(|n| *n += 1);
    Ok(json_answer(if verb == "create" { 201 } else { 200 }, &object))
}

/// A JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(&key);
        } else {
            merge(fields.entry(key).or_insert(Value::Null), value);
        }
    }
}
