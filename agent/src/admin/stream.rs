//! Answers that do not end: a line of JSON for each thing that happens.

use std::convert::Infallible;

use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Response, StatusCode};
use lark_core::tap::Filter;

use super::Source;
use super::http::{Answer, Endless, text};
use crate::observe::Tap;

/// What a tap tells, for as long as its reader stays.
pub(super) fn tap(source: &dyn Source, words: [&str; 5]) -> Answer {
    let [namespace, workload, direction, verdict, status] = words;
    let filter = match Filter::parse(namespace, workload, direction, verdict, status) {
        Ok(filter) => filter,
        Err(error) => return text(StatusCode::BAD_REQUEST, "text/plain", error.to_string()),
    };
    let Some(tap) = source.tap(filter) else {
        let why = "too many taps are open on this node; end one of the others";
        return text(StatusCode::BAD_REQUEST, "text/plain", why.to_owned());
    };
    let lines = futures_util::stream::unfold(tap, |mut tap: Tap| async {
        let mut line = serde_json::to_vec(&tap.next().await).ok()?;
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), tap))
    });
    let mut answer = Response::new(StreamBody::new(lines).boxed_unsync());
    answer.extensions_mut().insert(Endless);
    answer
}
