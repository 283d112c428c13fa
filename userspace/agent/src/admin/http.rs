//! `/metrics` and `/healthz/ready`, nothing else.

use std::{collections::VecDeque, convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{metrics::Metrics, snapshot::Current};

/// Connections at once. Who comes when all places are taken takes that of the oldest connection, so that nobody can keep
/// readiness from being asked for by connecting and saying nothing.
const AT_ONCE: usize = 64;
/// Of them from one address; the next one takes the place of its own oldest.
const FROM_ONE: usize = 16;
/// Patience for a request's header.
const HEADER: Duration = Duration::from_secs(5);

/// The open connections, the oldest first.
#[derive(Default)]
struct Guests(VecDeque<(IpAddr, JoinHandle<()>)>);

impl Guests {
    /// Makes room for one more of this address.
    fn make_room(&mut self, address: IpAddr) {
        self.0.retain(|(_, task)| !task.is_finished());
        let of_one = self.0.iter().filter(|(other, _)| *other == address).count();
        let oldest = if of_one >= FROM_ONE {
            self.0.iter().position(|(other, _)| *other == address)
        } else {
            (self.0.len() >= AT_ONCE).then_some(0)
        };
        if let Some((_, task)) = oldest.and_then(|at| self.0.remove(at)) {
            task.abort();
        }
    }
}

/// Answers, for ever.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, current: Arc<Current>) {
    let mut guests = Guests::default();
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let address = peer.ip().to_canonical();
        guests.make_room(address);
        guests.0.push_back((address, tokio::spawn(one(stream, metrics.clone(), current.clone()))));
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
