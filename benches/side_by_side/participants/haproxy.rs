//! How is HAProxy configured? As its manual recommends it: one process with threads, kept connections to the backend.

use std::fs;
use std::process::Command;

use super::{Participant, Who, free_address};
use crate::process::Running;
use crate::site::{HOST, Site};

pub(super) fn start(who: &Who, site: &Site) -> anyhow::Result<Participant> {
    let (clear, h2c, secure) = (free_address()?, free_address()?, free_address()?);
    let home = site.home("haproxy")?;
    // Its standard output is a file.
    let log = if who.setup.log { " log stdout format raw local0\n option httplog\n" } else { "" };
    let config = format!(
        "global\n nbthread {}\n maxconn 8000\n\
         defaults\n mode http\n timeout connect 2s\n timeout client 60s\n timeout server 60s\n\
         frontend door\n bind {clear}\n bind {h2c} proto h2\n bind {secure} ssl crt {} alpn h2,http/1.1\n{log}\
         \x20unique-id-format %{{+X}}o%ci%cp%Ts%rt%pid\n unique-id-header X-Request-Id\n\
         \x20use_backend blue if {{ req.hdr(host),field(1,:) -i {HOST} }}\n\
         backend blue\n http-reuse always\n option forwardfor\n http-request set-header X-Real-IP %[src]\n\
         \x20http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}\n\
         \x20http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}\n\
         \x20http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
         \x20server blue unix@{}\n",
        who.setup.workers,
        site.certificate.both.display(),
        site.socket("blue").display(),
    );
    let file = home.join("haproxy.cfg");
    fs::write(&file, &config)?;
    let process = Running::start(Command::new(&who.program).arg("-db").arg("-f").arg(file), &home, "haproxy")?;
    Ok(Participant { who: who.clone(), process, clear, h2c: Some(h2c), secure: Some(secure), home, config })
}
