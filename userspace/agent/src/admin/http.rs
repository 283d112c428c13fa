//! `/metrics` and `/healthz/ready`, nothing else.

use std::{convert::Infallible, sync::Arc, time::Duration};

use culvert_guests::Guests;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use crate::{metrics::Metrics, snapshot::Current};

/// Connections at once: nobody can keep readiness from being asked for.
const AT_ONCE: usize = 64;
/// Of them from one address.
const FROM_ONE: usize = 16;
/// Patience for a request's header.
const HEADER: Duration = Duration::from_secs(5);

/// Answers, for ever.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, current: Arc<Current>) {
    let mut guests = Guests::new(AT_ONCE, FROM_ONE);
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let served = tokio::spawn(one(stream, metrics.clone(), current.clone()));
        guests.take_in(peer.ip(), served.abort_handle());
    }
}

async fn one(stream: TcpStream, metrics: Arc<Metrics>, current: Arc<Current>) {
    let service = service_fn(|request| {
        let answer = answer(&request, &metrics, &current);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER).keep_alive(true);
    let _ = tokio::time::timeout(HEADER * 12, server.serve_connection(TokioIo::new(stream), service)).await;
}

fn answer<B>(request: &Request<B>, metrics: &Metrics, current: &Current) -> Response<Full<Bytes>> {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics" | "/stats/prometheus") => respond(StatusCode::OK, OPEN_METRICS, metrics.text()),
        (&Method::GET, "/healthz/ready") => match current.unready() {
            None => respond(StatusCode::OK, "text/plain", "ready\n".to_owned()),
            Some(reason) => respond(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("{reason}\n")),
        },
        _ => respond(StatusCode::NOT_FOUND, "text/plain", "/metrics or /healthz/ready\n".to_owned()),
    }
}

fn respond(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
