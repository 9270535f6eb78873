//! Is whatever is said on the control socket or the admin listener answered, and in the form that is promised? Through
//! hyper and the routers, as in the daemon; only that nobody sits at the desk, so that nothing is carried out.

use std::convert::Infallible;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::extract::ConnectInfo;
use bgproxy_conf::{Control, wire::Problem};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::service::TowerToHyperService;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::wire::Pieces;
use crate::control::admin::{self, Readiness};
use crate::control::api::{self, Api};
use crate::control::caller::Caller;
use crate::control::desk::Desk;
use crate::control::events::Events;
use crate::family::Page;

/// No answer is as long as this.
const LONGEST: usize = 1 << 20;

/// How long all of them may take, by far.
const PATIENCE: Duration = Duration::from_secs(10);

type Router = TowerToHyperService<axum::Router>;

/// The control socket's, and the admin listener's.
static ROUTERS: LazyLock<[Router; 2]> = LazyLock::new(|| {
    let ending = CancellationToken::new();
    // Streams of events end at once.
    ending.cancel();
    let (desk, events, page) = (Desk::deserted(), Arc::new(Events::default()), Arc::new(Page::new(Vec::new())));
    let control = Arc::new(ArcSwap::from_pointee(Control::default()));
    let api = Api { desk, events, page, control, followers: None, ending };
    [api::router(api.clone()), admin::router(api, Readiness::default())].map(TowerToHyperService::new)
});

thread_local! {
    static RUNTIME: Runtime = {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().expect("a runtime")
    };
}

/// Who asks, and where.
#[derive(Clone, Copy, PartialEq)]
enum From {
    /// May do everything.
    Root,
    /// May only look.
    Stranger,
    /// Whoever reaches the admin listener.
    Admin,
}

/// Checks the answers to these bytes.
pub fn control(bytes: &[u8]) {
    let from = [From::Root, From::Stranger, From::Admin][bytes.len() % 3];
    let size = super::sizes(bytes)[0].max(bytes.len() / 8);
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let service = service_fn(|request| answered(request, from));
            let connection = http1::Builder::new().serve_connection(Pieces::new(bytes, size), service);
            // How it ends is the library's business.
            let _ended = tokio::time::timeout(PATIENCE, connection).await.expect("it stands still");
        });
    });
}

async fn answered(mut request: Request<Incoming>, from: From) -> Result<Response<Full<Bytes>>, Infallible> {
    let uid = if from == From::Root { 0 } else { u32::MAX };
    if from != From::Admin {
        request.extensions_mut().insert(ConnectInfo(Caller { uid, gid: uid, pid: None, user: None }));
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let router = &ROUTERS[usize::from(from == From::Admin)];
    let response: Response<Body> = router.call(request).await?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, LONGEST).collect().await.expect("a body that ends").to_bytes();
    let kind = head.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let status = head.status.as_u16();
    if !["GET", "HEAD"].contains(&method.as_str()) {
        match from {
            From::Root => {}
            From::Stranger => assert_eq!(status, 403, "for {method} {path}"),
            From::Admin => assert!([404, 405].contains(&status), "{status} for {method} {path}"),
        }
    }
    match kind {
        b"application/problem+json" if method != "HEAD" => {
            let problem: Problem = serde_json::from_slice(&body).expect("a problem");
            assert_eq!(problem.status, status);
        }
        b"application/json" if method != "HEAD" => {
            serde_json::from_slice::<serde_json::Value>(&body).expect("JSON");
        }
        _ if from == From::Admin => assert!(status < 500 || path == "/readyz", "{status} for {method} {path}"),
        _ => assert!(status < 400 || method == "HEAD", "{status} for {method} {path} without a reason: {body:?}"),
    }
    Ok(Response::from_parts(head, Full::new(body)))
}
