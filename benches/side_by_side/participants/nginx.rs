//! How is nginx configured? As its manual recommends it: reuseport, kept connections to the backend.
//!
//! Without `proxy_request_buffering off` it would write uploads to a disk before it sends them on, which costs it more.

use super::{Participant, Who, free_address};
use crate::process::Running;
use crate::site::{HOST, Site, host};

/// For every request.
const PASS: &str = "proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
    proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;\n\
    proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n\
    proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Request-Id $request_id;";

pub(super) fn start(who: &Who, site: &Site) -> anyhow::Result<Participant> {
    let (clear, h2c, secure) = (free_address()?, free_address()?, free_address()?);
    let (cert, key) = (site.certificate.cert.display(), site.certificate.key.display());
    let log = if who.setup.log { "access_log access.log combined buffer=64k flush=1s;" } else { "" };
    // https://nginx.org/en/docs/http/websocket.html
    let (echo, location) = match &who.setup.echo {
        Some(echo) => (
            format!("upstream echo {{ server unix:{}; }}\n", echo.display()),
            "location /echo { proxy_pass http://echo; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;\n\
             proxy_set_header Connection \"upgrade\"; proxy_set_header Host $http_host; proxy_read_timeout 1h; }\n",
        ),
        None => (String::new(), ""),
    };
    let names = if who.setup.services > 1 { "server_names_hash_max_size 65536;\n" } else { "" };
    let mut config = format!(
        "worker_processes {};\n\
         upstream blue {{ server unix:{}; keepalive 512; keepalive_requests 1000000; }}\n\
         {echo}{names}\
         server {{ listen {clear} reuseport; listen {h2c} http2 reuseport; listen {secure} ssl http2 reuseport;\n\
         server_name {HOST}; {log}\n\
         ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;\n\
         ssl_session_cache shared:SSL:10m; ssl_session_timeout 10m;\n\
         client_max_body_size 100m; proxy_request_buffering off;\n\
         {location}location / {{ proxy_pass http://blue; {PASS} }} }}\n",
        who.setup.workers,
        site.socket("blue").display(),
    );
    for service in 1..who.setup.services {
        // As many kept connections as each of so many may need: nginx has memory for all of them from the start.
        config += &format!(
            "upstream s{service} {{ server unix:{}; keepalive 4; keepalive_requests 1000000; }}\n\
             server {{ listen {clear}; server_name {}; location / {{ proxy_pass http://s{service}; {PASS} }} }}\n",
            site.socket("blue").display(),
            host(service),
        );
    }
    let home = site.home("nginx")?;
    let process = Running::nginx(&who.program, &home, "nginx", &config)?;
    Ok(Participant { who: who.clone(), process, clear, h2c: Some(h2c), secure: Some(secure), home, config })
}
