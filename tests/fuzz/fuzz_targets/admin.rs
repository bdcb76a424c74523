//! Bytes on the admin socket: through the HTTP server as the agent has it, to the question that is answered.
#![no_main]

use std::convert::Infallible;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use lark_core::question::Question;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Most bytes of one input, so that all fit on their way.
const INPUT: usize = 32 * 1024;

fuzz_target!(|input: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(2 * INPUT);
        let service = service_fn(|request: Request<Incoming>| {
            let uri = request.uri();
            let query = uri.query().unwrap_or_default();
            let question = Question::parse(request.method().as_str(), uri.path(), query);
            let answer = Response::new(Full::new(Bytes::from(format!("{question:?}"))));
            async { Ok::<_, Infallible>(answer) }
        });
        let serving = hyper::server::conn::http1::Builder::new()
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(server), service);
        let asking = async {
            // The server may have closed.
            let _ = client.write_all(input.get(..INPUT).unwrap_or(input)).await;
            let _ = client.shutdown().await;
            let _ = client.read_to_end(&mut Vec::new()).await;
        };
        let (_, ()) = tokio::join!(serving, asking);
    });
});
