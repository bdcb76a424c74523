//! `lark dashboard`: the web page, and a relay from a loopback port to the socket of the agent or the controller.
//!
//! Whoever may open that socket is root of the node; whoever may connect to a loopback port is anybody on it, and any
//! web site that one of its browsers shows. So: nothing is told without the secret of this run, which is printed to
//! whoever started it and travels in a header that no other site's page can set; requests under another host's name
//! or from another origin are refused before that (`guard`); only questions of the admin API pass (`relay`); and the
//! page itself holds no data (`page`).

mod guard;
mod page;
mod relay;

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use futures_util::FutureExt;
use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue};
use tokio::net::TcpListener;

use crate::admin::{Answer, serve_http, text};
use crate::cli::DashboardArgs;
use guard::Secret;
use relay::Relay;

/// What the page may load, and who may show it: nothing but itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Serves the page until the process is told to stop.
///
/// # Errors
/// When nobody answers on the socket, or the port is taken.
#[expect(clippy::print_stdout, reason = "where the page is is what was asked for")]
pub async fn run(args: &DashboardArgs) -> anyhow::Result<ExitCode> {
    let relay = Arc::new(Relay::open(&args.asked).await?);
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let listener = TcpListener::bind(at).await.with_context(|| {
        format!(
            "port {} of 127.0.0.1 is not to be had; give another --port, or none for a free one",
            args.port
        )
    })?;
    let secret = Secret::new(random()?);
    println!("{} is shown at http://{}/#{}", relay.whom(), listener.local_addr()?, secret.told());
    println!("Whoever has this address sees all that you may see there; it ends with this command (Ctrl-C).");
    serve_http(listener, move |request| {
        let refusal = guard::refusal(request, &secret);
        let relay = relay.clone();
        let target = request.uri().path_and_query().map_or("", |target| target.as_str()).to_owned();
        async move {
            let answer = match refusal {
                Some(refusal) => text(refusal.status(), "text/plain", format!("{refusal}\n")),
                None => match page::file(&target) {
                    Some(file) => file,
                    None => relay.answer(&target).await,
                },
            };
            guarded(answer)
        }
        .boxed()
    })
    .await;
    Ok(ExitCode::SUCCESS)
}

/// With what browsers are to hold to.
fn guarded(mut answer: Answer) -> Answer {
    // One request a connection: the server ends old ones, and a browser would meet that in the middle of another.
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("cache-control", "no-store"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn random() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let opened = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    opened.context("the system gives no random bytes: /dev/urandom cannot be read")?;
    Ok(bytes)
}

fn nothing_there() -> Answer {
    text(StatusCode::NOT_FOUND, "text/plain", "not found\n".to_owned())
}
