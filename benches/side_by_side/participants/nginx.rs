//! How is nginx configured? As its manual recommends it: reuseport, kept connections to the backend.
//!
//! Without `proxy_request_buffering off` it would write uploads to a disk before it sends them on, which costs it more.

use super::{Participant, Who, free_address};
use crate::process::Running;
use crate::site::{HOST, Site};

pub(super) fn start(who: &Who, site: &Site) -> anyhow::Result<Participant> {
    let (clear, h2c, secure) = (free_address()?, free_address()?, free_address()?);
    let (cert, key) = (site.certificate.cert.display(), site.certificate.key.display());
    let log = if who.setup.log { "access_log access.log combined buffer=64k flush=1s;" } else { "" };
    let config = format!(
        "worker_processes {};\n\
         upstream blue {{ server unix:{}; keepalive 512; keepalive_requests 1000000; }}\n\
         server {{ listen {clear} reuseport; listen {h2c} http2 reuseport; listen {secure} ssl http2 reuseport;\n\
         server_name {HOST}; {log}\n\
         ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;\n\
         ssl_session_cache shared:SSL:10m; ssl_session_timeout 10m;\n\
         client_max_body_size 100m; proxy_request_buffering off;\n\
         location / {{ proxy_pass http://blue; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;\n\
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Request-Id $request_id; }} }}",
        who.setup.workers,
        site.socket("blue").display(),
    );
    let home = site.home("nginx")?;
    let process = Running::nginx(&who.program, &home, "nginx", &config)?;
    Ok(Participant { who: who.clone(), process, clear, h2c: Some(h2c), secure: Some(secure), home, config })
}
