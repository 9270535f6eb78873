//! Answers for people: pure functions from what the daemon said to text.

use std::fmt::Write;

use bgproxy_conf::wire::{
    AcmeStatus, Action, CertificateStatus, CloseStreamsReply, ColorStatus, DrainOutcome, Event, History, IdleReply,
    LimitsStatus, Phase, ProbeReport, Receipt, Refused, Reload, Role, ServiceStatus, Status, StreamsByKind,
    SwitchReply, What,
};
use bgproxy_conf::{Color, ServiceName};

use crate::fault::Fault;
use crate::words::{Paint, clean, clock, count, indent, seconds};

/// Cut requests that a receipt lists; the rest is counted.
const CUT_SHOWN: usize = 20;

/// Names of a certificate that are shown; the rest is counted.
const NAMES_SHOWN: usize = 3;

/// `GET /v1/status`.
pub(crate) fn status(status: &Status, paint: Paint) -> String {
    let mut page = format!(
        "bgproxy {}, pid {}, since {}, {}, {}\n",
        clean(status.version.trim_start_matches("bgproxy ")),
        status.pid,
        clock(&status.started),
        count(status.workers as u64, "worker"),
        count(status.connections, "connection"),
    );
    let config = status.config.as_deref().unwrap_or("the built-in default");
    let _ = writeln!(
        page,
        "listens on {}, admin on {}, configured by {}",
        clean(&status.listen.join(" ")),
        clean(&status.admin),
        clean(config)
    );
    if !status.limits.is_calm(status.connections) {
        page.push_str(&limits(&status.limits, status.connections, paint));
    }
    for one in &status.certificates {
        let host = status.acme.iter().find(|host| host.in_use && host.cert == one.cert);
        // Some are made for a week: whether that is bad depends on whether the next one is to be had.
        let is_bad = one.days_left < CertificateStatus::DAYS_CALM && host.is_none_or(|host| host.fault.is_some());
        page.push_str(&certificate(one, is_bad || one.days_left < 0, paint));
        if let Some(host) = host {
            page.push_str(&renewal(host, paint));
        }
    }
    for host in status.acme.iter().filter(|host| !host.in_use) {
        let _ = writeln!(page, "{} for {}", paint.bad("no certificate yet"), clean(&host.host.to_string()));
        page.push_str(&renewal(host, paint));
    }
    for (name, one) in &status.services {
        page.push('\n');
        page.push_str(&service(name, one, paint));
    }
    if let Some(reload) = &status.last_reload
        && (!reload.ok || !reload.needs_restart.is_empty())
    {
        page.push('\n');
        page.push_str(&self::reload(reload, paint));
    }
    page
}

/// What limits do to clients just now, by the reasons that metrics and logs use.
fn limits(limits: &LimitsStatus, open: u64, paint: Paint) -> String {
    let Refused { rate_limited, too_many_connections, reclaimed, address } = &limits.last_minute;
    let mut page = String::new();
    if limits.is_near(open) {
        let full = paint.bad(&format!("{open} of {} connections", limits.connections));
        let _ = writeln!(page, "limits: {full} are open");
    }
    let refused = [
        (*rate_limited, "request", "refused (rate_limited)"),
        (*too_many_connections, "connection", "refused (too_many_connections)"),
        (*reclaimed, "idle connection", "closed for others (reclaimed)"),
    ];
    let refused = refused.iter().filter(|(number, ..)| *number > 0);
    let refused: Vec<String> = refused.map(|(number, noun, what)| format!("{} {what}", count(*number, noun))).collect();
    if !refused.is_empty() {
        let last = address.as_ref().map(|address| format!("; the newest address is {}", clean(address)));
        let last = last.unwrap_or_default();
        let _ = writeln!(page, "limits: in the last minute {}{last}", paint.bad(&refused.join(", ")));
    }
    if limits.out_of_descriptors {
        let out = paint.bad("no descriptor was left for some connections");
        let _ = writeln!(page, "limits: in the last minute {out}; raise LimitNOFILE or lower `limits.connections`");
    }
    page
}

fn certificate(certificate: &CertificateStatus, is_bad: bool, paint: Paint) -> String {
    let mut names = certificate.names.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(" ");
    if let Some(more @ 1..) = certificate.names.len().checked_sub(NAMES_SHOWN) {
        let _ = write!(names, " and {more} more");
    }
    if names.is_empty() {
        names.push_str("no name");
    }
    let left = certificate.days_left;
    let expires = match u64::try_from(left) {
        Ok(left) => format!("expires in {}", count(left, "day")),
        Err(_negative) => format!("expired at {}", clock(&certificate.not_after)),
    };
    let expires = if is_bad { paint.bad(&expires) } else { expires };
    let mut page = format!("certificate {} for {}: {expires}\n", clean(&certificate.cert), clean(&names));
    if let Some(fault) = &certificate.fault {
        let _ = writeln!(page, "  {}, the one before stays: {}", paint.bad("not replaced"), clean(fault));
    }
    page
}

/// When a certificate is asked for, and why the last one was not to be had.
fn renewal(host: &AcmeStatus, paint: Paint) -> String {
    let next = host.next.as_deref().map_or_else(|| "now".to_owned(), |at| format!("at {}", clock(at)));
    match &host.fault {
        None if host.in_use => format!("  to be renewed {next}\n"),
        None => format!("  asked for {next}\n"),
        Some(fault) => {
            let what = paint.bad(if host.in_use { "not renewed" } else { "not to be had" });
            format!("  {what}, tried {}, next {next}: {}\n", count(host.failures.into(), "time"), clean(fault))
        }
    }
}

/// `GET /v1/services/{s}`.
pub(crate) fn service(name: &ServiceName, service: &ServiceStatus, paint: Paint) -> String {
    let live = &service.live;
    let mut page = format!(
        "{}: {} is live, generation {}",
        paint.strong(name.as_str()),
        paint.color(live.as_str(), live.as_str()),
        service.generation
    );
    if service.preview != *live {
        let _ = write!(page, ", preview {}", service.preview);
    }
    if let Some(previous) = &service.previous {
        let _ = write!(page, ", rollback leads to {previous}");
    }
    page.push('\n');
    page.push_str(&table(service, paint));
    if let Some(line) = phase(&service.phase) {
        let _ = writeln!(page, "  {line}");
    }
    for (color, status) in &service.colors {
        if let Some(line) = streams(color, status) {
            let _ = writeln!(page, "  {line}");
        }
        if let Some(probe) = status.ready.as_ref().filter(|probe| !probe.ready) {
            let _ = writeln!(page, "  {color} is {}, asked {}", unready(probe, paint), clock(&probe.at));
        }
    }
    if let Some(file) = &service.live_file
        && let Some(fault) = &file.fault
    {
        let _ = writeln!(page, "  {} {}: {}", paint.bad("live file"), clean(&file.path), clean(fault));
    }
    page
}

// By hand: two dozen lines for the one table there is, against a crate whose borders and wrapping would be switched
// off.
fn table(service: &ServiceStatus, paint: Paint) -> String {
    const HEAD: [&str; 8] = ["COLOR", "ROLE", "READY", "IN FLIGHT", "STREAMS", "FINISHED", "FAILED", "ADDRESS"];
    let rows: Vec<(&Color, &ColorStatus, [String; 8])> = service
        .colors
        .iter()
        .map(|(color, status)| {
            let cells = [
                color.to_string(),
                role(status.role).into(),
                match &status.ready {
                    None => "not asked".into(),
                    Some(probe) => (if probe.ready { "ready" } else { "unready" }).into(),
                },
                status.in_flight.to_string(),
                status.streams.to_string(),
                status.finished.to_string(),
                status.failed.to_string(),
                clean(&status.address),
            ];
            (color, status, cells)
        })
        .collect();
    let width: [usize; 8] = std::array::from_fn(|at| {
        rows.iter().map(|(_, _, cells)| cells[at].chars().count()).chain([HEAD[at].len()]).max().unwrap_or(0)
    });
    let line = |cells: [&str; 8], dress: &dyn Fn(usize, String) -> String| {
        let cells = std::array::from_fn::<String, 8, _>(|at| match at {
            // Numbers to the right; behind the last column no blanks.
            3..7 => dress(at, format!("{:>1$}", cells[at], width[at])),
            7 => dress(at, cells[at].to_owned()),
            _ => dress(at, format!("{:<1$}", cells[at], width[at])),
        });
        format!("  {}\n", cells.join("  "))
    };
    let mut table = line(HEAD, &|_, cell| cell);
    for (color, status, cells) in &rows {
        let live = status.role == Role::Live;
        let unready = status.ready.as_ref().is_some_and(|probe| !probe.ready);
        table.push_str(&line(cells.each_ref().map(String::as_str), &|at, cell| match at {
            0 if live => paint.strong(&paint.color(color.as_str(), &cell)),
            0 => paint.color(color.as_str(), &cell),
            1 if live => paint.strong(&cell),
            2 if unready => paint.bad(&cell),
            _ => cell,
        }));
    }
    table
}

/// What streams a color has open, if it has any.
fn streams(color: &Color, status: &ColorStatus) -> Option<String> {
    if status.streams == 0 {
        return None;
    }
    let StreamsByKind { tunnels, events, downloads } = status.streams_by_kind;
    let kinds = [(tunnels, "tunnel"), (events, "event stream"), (downloads, "download")];
    let kinds: Vec<String> =
        kinds.into_iter().filter(|(number, _)| *number > 0).map(|(number, noun)| count(number, noun)).collect();
    // An older daemon does not tell them apart.
    let kinds = if kinds.is_empty() { count(status.streams, "stream") } else { kinds.join(", ") };
    Some(format!("{color} has {kinds} open{}", oldest(status.oldest_stream)))
}

fn oldest(age: Option<f64>) -> String {
    age.map(|age| format!(", the oldest for {}", seconds(age))).unwrap_or_default()
}

/// What is going on in a service, if anything is.
pub(crate) fn phase(phase: &Phase) -> Option<String> {
    match phase {
        Phase::Steady => None,
        Phase::Probing { to, passed, passes } => {
            Some(format!("asking {to} whether it is ready: {passed} of {passes} answers"))
        }
        Phase::Switching { to } => Some(format!("switching to {to}")),
        Phase::Draining { from, left, streams, deadline_in } => {
            Some(format!("draining {from}: {}", remains(*left, *streams, *deadline_in)))
        }
    }
}

/// The same as one line with a bar; `most` is the largest number of requests seen so far.
pub(crate) fn progress(phase: &Phase, most: u64) -> Option<String> {
    const WIDTH: u64 = 20;
    let Phase::Draining { from, left, streams, deadline_in } = phase else { return self::phase(phase) };
    let done = WIDTH - (left.saturating_mul(WIDTH)).checked_div(most).unwrap_or(0).min(WIDTH);
    let bar: String = (0..WIDTH).map(|at| if at < done { '#' } else { '.' }).collect();
    Some(format!("draining {from} [{bar}] {}", remains(*left, *streams, *deadline_in)))
}

fn remains(left: u64, streams: u64, deadline_in: f64) -> String {
    let streams = if streams > 0 { format!(", {}", count(streams, "stream")) } else { String::new() };
    format!("{} left{streams}, cut in {}", count(left, "request"), seconds(deadline_in))
}

/// The reply to a switch or a rollback.
pub(crate) fn switched(reply: &SwitchReply, paint: Paint) -> String {
    let SwitchReply { generation, from, to, .. } = reply;
    let live = paint.strong(&paint.color(to.as_str(), to.as_str()));
    if !reply.changed {
        return format!("{live} is live already (generation {generation}), nothing changed\n");
    }
    format!("{live} is live (generation {generation}, was {from}), {}\n", seconds(reply.seconds))
}

/// The reply to a preview.
pub(crate) fn previewed(reply: &SwitchReply, paint: Paint) -> String {
    let preview = paint.color(reply.preview.as_str(), reply.preview.as_str());
    let already = if reply.changed { "" } else { " already" };
    if reply.preview == reply.to {
        return format!("{preview} is live and{already} the preview (generation {})\n", reply.generation);
    }
    format!("{preview} is ready and{already} the preview (generation {}), {} stays live\n", reply.generation, reply.to)
}

/// The receipt of a drain, with every request that was cut.
pub(crate) fn receipt(receipt: &Receipt, paint: Paint) -> String {
    let mut page = format!("{}\n", receipt_line(receipt, paint));
    for cut in receipt.cut.iter().take(CUT_SHOWN) {
        let _ = writeln!(
            page,
            "  {} {} {}, {} old",
            paint.bad("cut"),
            clean(&cut.method),
            clean(&cut.path),
            seconds(cut.age)
        );
    }
    if let Some(more @ 1..) = receipt.cut_total.checked_sub(receipt.cut.len().min(CUT_SHOWN) as u64) {
        let _ = writeln!(page, "  and {more} more; `bgctl history --json` has the oldest 100");
    }
    page
}

fn receipt_line(receipt: &Receipt, paint: Paint) -> String {
    let Receipt { from, to, in_flight, finished, moved, failed, served, streams_left, .. } = receipt;
    let after = seconds(receipt.seconds);
    let mut line = match receipt.outcome {
        DrainOutcome::Drained => format!("{from} is drained after {after}"),
        DrainOutcome::Cut => paint.bad(&format!("{from} was cut after {after}")),
        DrainOutcome::Resumed => format!("{from} is live again after {after}, before it was drained"),
    };
    line.push_str("; ");
    let requests = count(*in_flight, "request");
    match receipt.cut_total {
        0 if *in_flight == 0 => line.push_str("nothing was in flight"),
        0 if finished == in_flight => {
            let _ = write!(line, "{}{requests} in flight finished", if *in_flight == 1 { "the " } else { "all " });
        }
        cut => {
            let _ = write!(line, "of {requests} in flight, {finished} finished");
            if *moved > 0 {
                let _ = write!(line, ", {moved} moved to {to}");
            }
            if *failed > 0 {
                let _ = write!(line, ", {failed} failed");
            }
            match receipt.streams_kept {
                0 => {}
                1 => line.push_str(", 1 goes on as a stream"),
                kept => {
                    let _ = write!(line, ", {kept} go on as streams");
                }
            }
            if cut > 0 {
                let _ = write!(line, ", {cut} {} cut", if cut == 1 { "was" } else { "were" });
            }
        }
    }
    let _ = write!(line, "; {} served in its term", count(*served, "request"));
    if *streams_left > 0 {
        let _ = write!(line, "; {} still open", count(*streams_left, "stream"));
    }
    line
}

/// The reply to `close-streams`.
pub(crate) fn closing(reply: &CloseStreamsReply) -> String {
    let CloseStreamsReply { color, closing, seconds: within, .. } = reply;
    if *closing == 0 {
        return format!("{color} has no stream open\n");
    }
    format!("closing {} of {color} within {}\n", count(*closing, "stream"), seconds(*within))
}

/// The answer to a probe.
pub(crate) fn probed(color: &Color, probe: &ProbeReport, paint: Paint) -> String {
    let name = paint.color(color.as_str(), color.as_str());
    format!("{name} is {}\n", answered(probe, paint))
}

fn answered(probe: &ProbeReport, paint: Paint) -> String {
    if !probe.ready {
        return unready(probe, paint);
    }
    match probe.status {
        Some(status) => format!("ready: {status} in {}", seconds(probe.seconds)),
        None => format!("ready, {}", seconds(probe.seconds)),
    }
}

fn unready(probe: &ProbeReport, paint: Paint) -> String {
    let mut why = paint.bad("unready");
    if let Some(reason) = &probe.reason {
        let _ = write!(why, " ({})", clean(reason));
    }
    match (&probe.detail, probe.status) {
        (Some(detail), _) => write!(why, ": {}", clean(detail)),
        (None, Some(status)) => write!(why, ": status {status}"),
        (None, None) => Ok(()),
    }
    // Writing to a `String` does not fail.
    .unwrap_or_default();
    why
}

/// `GET /v1/history`, one paragraph per entry, of one service if one is meant.
pub(crate) fn history(history: &History, only: Option<&ServiceName>, paint: Paint) -> String {
    let mut page = String::new();
    for entry in history.entries.iter().filter(|entry| only.is_none_or(|only| *only == entry.service)) {
        let action = match entry.action {
            Action::Switch => "switch",
            Action::Rollback => "rollback",
            Action::Preview => "preview",
        };
        let forced = if entry.forced { ", forced" } else { "" };
        let to = paint.color(entry.to.as_str(), entry.to.as_str());
        let _ = writeln!(
            page,
            "{}  {} {}  {action} {} -> {to}{forced}, by {}",
            clock(&entry.at),
            entry.service,
            entry.generation,
            entry.from,
            clean(&entry.by)
        );
        if let Some(receipt) = &entry.receipt {
            let _ = writeln!(page, "    {}", receipt_line(receipt, paint));
        }
    }
    if page.is_empty() { "nothing has been switched yet\n".into() } else { page }
}

/// `POST /v1/reload`, and the last reload in a status.
pub(crate) fn reload(reload: &Reload, paint: Paint) -> String {
    let at = clock(&reload.at);
    let mut page = if reload.ok {
        format!("reloaded at {at}, the new configuration is in use\n")
    } else {
        let fault = reload.fault.as_deref().unwrap_or("no reason given");
        format!("{} at {at}, nothing changed:\n{}", paint.bad("the last reload failed"), indent(fault))
    };
    if !reload.needs_restart.is_empty() {
        let keys: Vec<String> = reload.needs_restart.iter().map(|key| format!("`{}`", clean(key))).collect();
        let _ = writeln!(page, "a restart is needed for {}", keys.join(", "));
    }
    page
}

/// One event as one line; one of a kind that this version does not know, as the JSON that came.
pub(crate) fn event(data: &str, paint: Paint) -> String {
    let Ok(event) = serde_json::from_str::<Event>(data) else { return format!("{}\n", clean(data)) };
    let what = match &event.what {
        What::Probing { to } => format!("asking {to} whether it is ready"),
        What::Refused { reason, detail, by } => {
            format!("{}: {} ({}), asked by {}", paint.bad("refused"), clean(detail), clean(reason), clean(by))
        }
        What::Switched { generation, from, to, by } => {
            let to = paint.strong(&paint.color(to.as_str(), to.as_str()));
            format!("{to} is live (generation {generation}, was {from}), by {}", clean(by))
        }
        What::Previewed { generation, color, by } => {
            format!("{color} is the preview (generation {generation}), by {}", clean(by))
        }
        What::Drained(receipt) => receipt_line(receipt, paint),
        What::ClosingStreams { color, streams, seconds: within, by } => {
            let streams = count(*streams, "stream");
            format!("closing {streams} of {color} within {}, by {}", seconds(*within), clean(by))
        }
        What::Readiness { color, probe } => format!("{color} is {}", answered(probe, paint)),
        What::Socket { color, present: true } => format!("{color} has a new socket"),
        What::Socket { color, present: false } => format!("the socket of {color} is gone"),
        What::LiveFile { fault } => format!("{}: {}", paint.bad("live file"), clean(fault)),
        What::Certificate { cert, fault: None } => format!("certificate {} was replaced", clean(cert)),
        What::Certificate { cert, fault: Some(fault) } => {
            format!("{}: {}: {}", paint.bad("certificate not replaced"), clean(cert), clean(fault))
        }
        What::Reloaded { reload } if reload.ok => "the configuration was reloaded".into(),
        What::Reloaded { reload } => {
            let fault = reload.fault.as_deref().unwrap_or("no reason given");
            // The first line says what; the rest draws the spot, for which `bgctl status` has the room.
            format!("{}: {}", paint.bad("the reload failed"), clean(fault.lines().next().unwrap_or_default()))
        }
    };
    let service = event.service.map(|name| format!("{name}: ")).unwrap_or_default();
    format!("{}  {service}{what}\n", clock(&event.at))
}

/// What went wrong, for standard error: what is wrong, what was found, what to do.
pub(crate) fn fault(fault: &Fault, hint: Option<&str>, paint: Paint) -> String {
    let mut page = format!("{} {}\n", paint.sgr("1;31", "error:"), clean(&fault.to_string()));
    match fault {
        Fault::Problem { problem, .. } => {
            let detail = problem.detail.as_deref().unwrap_or_default();
            page.push_str(&indent(detail));
            if let Some(probe) = &problem.probe
                && !probe.detail.as_deref().is_some_and(|told| detail.contains(told) || problem.title.contains(told))
            {
                let _ = writeln!(page, "  {}", answered(probe, paint));
            }
        }
        Fault::Refused { detail: Some(detail), .. } | Fault::Deadline { detail: Some(detail), .. } => {
            page.push_str(&indent(detail));
        }
        _ => {}
    }
    if let Some(hint) = hint {
        let _ = writeln!(page, "{} {}", paint.strong("hint:"), clean(hint));
    }
    page
}

/// What a color that is to become idle still has to do.
pub(crate) fn waiting(color: &Color, reply: &IdleReply) -> String {
    let left = (count(reply.in_flight, "request"), count(reply.streams, "stream"));
    format!("{color} still has {} and {}", left.0, left.1)
}

/// What a color is, in a word.
fn role(role: Role) -> &'static str {
    match role {
        Role::Live => "live",
        Role::Preview => "preview",
        Role::Draining => "draining",
        Role::Idle => "idle",
    }
}

#[cfg(test)]
mod tests;
